"""One vector from picture and text: both towers of CLIP or SigLIP, in their shared space."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.devices import choose_device
from mmrec.encode.encoders import EncoderOptions, unit_rows
from mmrec.encode.image import process
from mmrec.encode.pictures import PREPROCESSING
from mmrec.encode.pretrained import (
    autocast,
    choose_precision,
    find_source,
    load_model,
    load_processor,
)
from mmrec.encode.text import Tokens, tower_output
from mmrec.errors import FeatureError


class JointEncoder:
    """Mean of the unit vectors of a picture and of its text; of an item with only one of them, that one.

    Args:
        name: Folder or hub id of a model with a picture and a text tower.
        options: Prompt, longest text, device, arithmetic, normalisation.

    Raises:
        FeatureError: No such model, or it has not both towers.
    """

    modality = "joint"

    def __init__(self, name: str, options: EncoderOptions) -> None:
        self._options = options
        self._source = find_source(name)
        if not self._source.has_towers:
            raise FeatureError(
                "a model with a picture and a text tower (CLIP, SigLIP) for modality joint",
                f"{self._source.name} of type {self._source.config.model_type}",
                "encode picture and text apart, with --modality image and --modality text",
            )
        self._device = choose_device(options.device)
        self._precision = choose_precision(options, self._device)
        self._processor = load_processor(self._source)
        self._tokens = Tokens(self._source, options)

    @cached_property
    def _model(self) -> Any:
        return load_model(self._source, self._device)[0]

    def describe(self) -> dict[str, Any]:
        """Model, revision, pooling, preprocessing, prompt, arithmetic."""
        return {
            "name": self._source.name,
            "revision": self._source.revision,
            "architecture": self._source.config.model_type,
            "pooling": "mean of the unit vectors of both towers",
            "preprocessing": f"{PREPROCESSING}; {type(self._processor).__name__}",
            "prompt": self._options.prompt,
            "max_length": self._tokens.limit,
            "normalize": self._options.normalize,
            "precision": self._precision,
        }

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Length of each text in tokens ``(n,)``; ``max_length + 1`` stands for all that is longer."""
        return self._tokens.lengths(texts)

    def encode(self, inputs: list[Any]) -> NDArray[np.float32]:
        """Encode a batch of pairs (text or None, RGB picture or None)."""
        import torch

        texts = [position for position, (text, _) in enumerate(inputs) if text is not None]
        pictures = [position for position, (_, picture) in enumerate(inputs) if picture is not None]
        total: NDArray[np.float32] = np.zeros((len(inputs), 0), dtype=np.float32)
        with torch.inference_mode(), autocast(self._device, self._precision):
            if texts:
                batch = self._tokens([inputs[position][0] for position in texts]).to(self._device)
                total = _add(total, texts, tower_output(self._model.get_text_features(**batch)))
            if pictures:
                images = process(self._processor, [inputs[position][1] for position in pictures])
                features = self._model.get_image_features(**images.to(self._device))
                total = _add(total, pictures, tower_output(features))
        if self._options.normalize:
            return unit_rows(total)
        count = np.bincount(texts + pictures, minlength=len(inputs))[:, None]
        return np.asarray(total / np.maximum(count, 1), dtype=np.float32)


def _add(total: NDArray[np.float32], positions: list[int], vectors: Any) -> NDArray[np.float32]:
    """Add unit vectors to the rows at ``positions``; the first tower that is added sets the width."""
    units = unit_rows(vectors.float().cpu().numpy())
    if not total.shape[1]:
        total = np.zeros((len(total), units.shape[1]), dtype=np.float32)
    total[positions] += units
    return total
