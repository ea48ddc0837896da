"""Pictures through transformers models: pooled output, or the picture tower of CLIP and SigLIP."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.devices import choose_device
from mmrec.encode.encoders import EncoderOptions, unit_rows
from mmrec.encode.pictures import PREPROCESSING
from mmrec.encode.pretrained import (
    autocast,
    choose_precision,
    find_source,
    load_model,
    load_processor,
)
from mmrec.encode.text import tower_output

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class ImageEncoder:
    """A transformers vision model (ViT, DINOv2, MobileNetV2, …) or the picture tower of CLIP or SigLIP.

    Args:
        name: Folder or hub id.
        options: Device, arithmetic, normalisation.

    Raises:
        FeatureError: No such model, or it reads no pictures.
    """

    modality = "image"

    def __init__(self, name: str, options: EncoderOptions) -> None:
        self._options = options
        self._source = find_source(name)
        self._device = choose_device(options.device)
        self._precision = choose_precision(options, self._device)
        self._processor = load_processor(self._source)
        self._is_tower = self._source.has_towers

    @cached_property
    def _model(self) -> tuple[Any, bool]:
        import torch

        model, pooler_trained = load_model(self._source, self._device)
        return model.to(memory_format=torch.channels_last), pooler_trained  # a third faster on a CPU

    def describe(self) -> dict[str, Any]:
        """Model, revision, pooling, preprocessing, arithmetic."""
        return {
            "name": self._source.name,
            "revision": self._source.revision,
            "architecture": self._source.config.model_type,
            "pooling": "picture tower"
            if self._is_tower
            else "pooled output; without trained pooler class token",
            "preprocessing": f"{PREPROCESSING}; {type(self._processor).__name__}",
            "normalize": self._options.normalize,
            "precision": self._precision,
        }

    def encode(self, inputs: list[Any]) -> NDArray[np.float32]:
        """Encode a batch of RGB pictures; see :class:`mmrec.encode.encoders.Encoder`."""
        import torch

        batch = process(self._processor, inputs).to(self._device)
        model, pooler_trained = self._model
        with torch.inference_mode(), autocast(self._device, self._precision):
            if self._is_tower:
                vectors = tower_output(model.get_image_features(**batch))
            else:
                vectors = pooled_output(model(**batch), pooler_trained=pooler_trained)
        array: NDArray[np.float32] = vectors.float().cpu().numpy()
        return unit_rows(array) if self._options.normalize else array


def process(processor: Any, pictures: list[Image]) -> Any:
    """Resize, crop and scale pictures as the model was trained, to tensors."""
    # Told where the channels are, the library does not guess it from the shape: it would guess wrong for a
    # picture one or three pixels high.
    return processor(pictures, return_tensors="pt", input_data_format="channels_last")


def pooled_output(output: Any, *, pooler_trained: bool) -> torch.Tensor:
    """One vector per picture ``(b, d)`` from a vision model's output.

    The pooled output where the model has a trained pooler; else the class token of a transformer or the mean
    over the feature map of a convolutional network.
    """
    pooled: torch.Tensor | None = getattr(output, "pooler_output", None)
    if pooled is not None and pooler_trained:
        return pooled.flatten(1)
    states: torch.Tensor = output.last_hidden_state
    return states.mean(dim=(2, 3)) if states.ndim == 4 else states[:, 0]
