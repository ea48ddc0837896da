"""Texts through transformers models: token states pooled to one vector per text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.devices import choose_device
from mmrec.encode.encoders import EncoderOptions, unit_rows
from mmrec.encode.pretrained import (
    Source,
    autocast,
    choose_precision,
    find_source,
    load_model,
    load_tokenizer,
    published_pooling,
)
from mmrec.progress import note

if TYPE_CHECKING:
    import torch

_BLOCK = 4096  # texts that are tokenised at once to learn their lengths


class TextEncoder:
    """A transformers text model, or the text tower of a picture-and-text model (CLIP, SigLIP).

    Args:
        name: Folder or hub id.
        options: Pooling, prompt, longest text, …

    Raises:
        FeatureError: No such model, or it reads no text.
    """

    modality = "text"

    def __init__(self, name: str, options: EncoderOptions) -> None:
        self._options = options
        self._source = find_source(name)
        self._device = choose_device(options.device)
        self._precision = choose_precision(options, self._device)
        self.tokens = Tokens(self._source, options)
        self._is_tower = self._source.has_towers
        published = None if self._is_tower else published_pooling(self._source)
        if published not in (None, options.pooling):
            note(f"note: {self._source.name} was trained with --pooling {published}, not {options.pooling}")

    @cached_property
    def _model(self) -> Any:
        return load_model(self._source, self._device)[0]

    def describe(self) -> dict[str, Any]:
        """Model, revision, pooling, prompt, longest text, arithmetic."""
        return {
            "name": self._source.name,
            "revision": self._source.revision,
            "architecture": self._source.config.model_type,
            "pooling": "text tower" if self._is_tower else self._options.pooling,
            "prompt": self._options.prompt,
            "max_length": self.tokens.limit,
            "normalize": self._options.normalize,
            "precision": self._precision,
        }

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Length of each text in tokens ``(n,)``; ``max_length + 1`` stands for all that is longer."""
        return self.tokens.lengths(texts)

    def encode(self, inputs: list[Any]) -> NDArray[np.float32]:
        """Encode a batch of texts; see :class:`mmrec.encode.encoders.Encoder`."""
        import torch

        batch = self.tokens(inputs).to(self._device)
        with torch.inference_mode(), autocast(self._device, self._precision):
            if self._is_tower:
                vectors = tower_output(self._model.get_text_features(**batch))
            else:
                states = self._model(**batch).last_hidden_state
                vectors = pool(states, batch["attention_mask"], self._options.pooling)
        array: NDArray[np.float32] = vectors.float().cpu().numpy()
        return unit_rows(array) if self._options.normalize else array


class Tokens:
    """A tokenizer with the prompt and the length limit applied.

    Args:
        source: The model.
        options: Prompt and longest text.
    """

    def __init__(self, source: Source, options: EncoderOptions) -> None:
        self._tokenizer = load_tokenizer(source)
        self._prompt = options.prompt
        self.limit = _length_limit(source.config, self._tokenizer, options.max_length)
        # SigLIP's text tower was trained on texts padded to full length and reads its last position.
        self._padding = "max_length" if str(source.config.model_type).startswith("siglip") else "longest"

    def __call__(self, texts: Sequence[str]) -> Any:
        """Token ids and attention mask of a batch, padded, as tensors ``(b, length)``."""
        prompted = [self._prompt + text for text in texts]
        cut = {"truncation": True, "max_length": self.limit} if self.limit else {}
        batch = self._tokenizer(
            prompted, padding=self._padding, return_tensors="pt", return_attention_mask=True, **cut
        )
        accepted = ("input_ids", "attention_mask", "token_type_ids")
        for key in [key for key in batch if key not in accepted]:
            del batch[key]
        return batch

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Length of each text in tokens ``(n,)``, at most ``limit + 1``."""
        cut = {"truncation": True, "max_length": self.limit + 1} if self.limit else {}
        lengths: list[int] = []
        for start in range(0, len(texts), _BLOCK):
            block = [self._prompt + text for text in texts[start : start + _BLOCK]]
            ids = self._tokenizer(block, return_attention_mask=False, **cut)["input_ids"]
            lengths.extend(map(len, ids))
        return np.array(lengths, dtype=np.int64)


def _length_limit(config: Any, tokenizer: Any, asked: int | None) -> int | None:
    """Longest text in tokens: what was asked for, cut to what tokenizer and model can take."""
    text_config = getattr(config, "text_config", None) or config
    limits = [asked] if asked else []
    if 0 < tokenizer.model_max_length < 1_000_000:  # a huge number stands for "unknown"
        limits.append(tokenizer.model_max_length)
    positions = getattr(text_config, "max_position_embeddings", None)
    if positions and positions > 0:
        # RoBERTa and its kin number positions from the padding id on.
        kin = ("roberta", "camembert", "mpnet", "longformer", "data2vec-text", "esm")
        shifted = any(name in str(text_config.model_type) for name in kin)
        limits.append(positions - (text_config.pad_token_id or 0) - 1 if shifted else positions)
    return min(limits) if limits else None


def tower_output(output: Any) -> torch.Tensor:
    """The projected vector ``(b, d)``: newer libraries wrap it, older return it."""
    import torch

    if isinstance(output, torch.Tensor):
        return output
    pooled: torch.Tensor = output.pooler_output
    return pooled


def pool(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector per text from token states, in float32.

    Args:
        states: ``(b, length, d)``.
        mask: ``(b, length)``, 0 at padding, on either side.
        pooling: ``mean`` of the tokens, the first (``cls``) or the ``last`` token that is no padding.
    """
    import torch

    states = states.float()
    if pooling == "mean":
        weights = mask.unsqueeze(-1).float()
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    first, last = mask.argmax(1), mask.shape[1] - 1 - mask.flip(1).argmax(1)
    position = first if pooling == "cls" else last
    return states[torch.arange(len(states), device=states.device), position]
