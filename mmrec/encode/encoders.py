"""What an encoder is, and how one is chosen by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmrec.errors import ConfigError, FeatureError
from mmrec.registry import load_class

MODALITIES = ("text", "image", "joint")
POOLINGS = ("mean", "cls", "last")
PRECISIONS = ("auto", "float32", "bfloat16")

_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


class Encoder(Protocol):
    """Turns texts or pictures into vectors, a batch at a time.

    More methods are used where an encoder has them: ``fit(inputs)`` is called once with all texts before the first
    batch (it must give the same state for the same texts), ``learned()`` gives what of that state belongs into the
    manifest, as JSON, and ``lengths(texts) -> (n,)`` the lengths that batches are sorted by (characters otherwise).

    Attributes:
        modality: ``text``, ``image`` or ``joint``.
    """

    modality: str

    def describe(self) -> Mapping[str, Any]:
        """All that decides the vectors, as JSON: name, revision, pooling, …

        A ``note`` in it is shown to the user. Must not depend on what was encoded so far, and be cheap: it is
        compared with the manifest of finished features before any weights are read.
        """

    def encode(self, inputs: list[Any]) -> NDArray[np.floating[Any]]:
        """Encode one batch.

        Args:
            inputs: Texts (``str``); pictures (``PIL.Image.Image`` in mode RGB); for ``joint`` pairs of both, one of
                which may be None.

        Returns:
            ``(len(inputs), d)``; a row of zeros says that the input holds nothing to encode.
        """


@dataclass(frozen=True)
class EncoderOptions:
    """Options of an encoder.

    Attributes:
        modality: ``text``, ``image`` or ``joint``, which is one vector from picture and text.
        pooling: How a text model's token states become one vector: ``mean``, ``cls`` (the first) or ``last``.
        prompt: Instruction put before each text, as it is.
        normalize: Scale vectors to length one.
        max_length: Longest text in tokens, prompt and special tokens included; None: what the model can take.
        device: ``cpu``, ``cuda``, ``cuda:1``, …; None: the GPU where there is one.
        precision: Arithmetic of the model: ``float32``, ``bfloat16``, or ``auto``, which is bfloat16 where the
            device computes in it.
        dim: Width of vectors that are fitted to the corpus (``tfidf``), words at most (``words``); None: the
            encoder's own.
    """

    modality: str = "text"
    pooling: str = "mean"
    prompt: str = ""
    normalize: bool = True
    max_length: int | None = 256
    device: str | None = None
    precision: str = "auto"
    dim: int | None = None

    def __post_init__(self) -> None:
        check_choice("modality", self.modality, MODALITIES)
        check_choice("pooling", self.pooling, POOLINGS)
        check_choice("precision", self.precision, PRECISIONS)
        if self.dim is not None:
            check_at_least("dim", self.dim, 1)
        if self.max_length is not None:
            check_at_least("max_length", self.max_length, 2)
        if self.modality == "image" and (self.prompt or self.pooling != "mean"):
            raise ConfigError(
                "prompt and pooling with a text encoder only",
                f"prompt {self.prompt!r}, pooling {self.pooling!r} with modality 'image'",
                "leave them out: a picture is encoded to the model's pooled output",
            )

    def refuse_transformer_settings(self, encoder: str) -> None:
        """Raise ConfigError where a setting is given that only a transformers encoder has."""
        if self.prompt or self.pooling != "mean":
            raise ConfigError(
                "prompt and pooling with a transformers encoder only",
                f"prompt {self.prompt!r}, pooling {self.pooling!r} with {encoder}",
                "leave them out, or choose another --encoder",
            )


def list_encoders() -> list[dict[str, str]]:
    """The names that need no model: short name, modality and what it is, for help texts."""
    return [
        {"name": "tfidf", "modality": "text", "what": "word counts, TF-IDF and SVD; no download, weak"},
        {"name": "histogram", "modality": "image", "what": "colours and gradients; no download, weak"},
        {"name": "words", "modality": "text", "what": "weights of readable words; no download"},
        {"name": "FOLDER", "modality": "text, image, joint", "what": "a saved transformers model"},
        {
            "name": "ORGANISATION/MODEL",
            "modality": "text, image, joint",
            "what": "a model of the Hugging Face Hub",
        },
        {"name": "package.module:Class", "modality": "any", "what": "your own, called with EncoderOptions"},
    ]


def choose_encoder(name: str | Encoder, options: EncoderOptions) -> Encoder:
    """Make the encoder called ``name``; weights are read when the first batch comes.

    Args:
        name: ``tfidf``, ``words``, ``histogram``, a folder, a hub id, or ``package.module:Class`` (called with the options);
            an encoder is returned as it is.
        options: Options of the encoder.

    Raises:
        ConfigError: The import path does not exist.
        FeatureError: No such model, or one of another modality.
    """
    encoder = _make(name, options) if isinstance(name, str) else name
    if encoder.modality != options.modality:
        builtin = ", ".join(e["name"] for e in list_encoders() if options.modality in e["modality"])
        raise FeatureError(
            f"an encoder for modality {options.modality!r}",
            f"{name if isinstance(name, str) else type(name).__name__} encodes {encoder.modality!r}",
            f"choose another --encoder ({builtin}), or --modality {encoder.modality}",
        )
    return encoder


def _make(name: str, options: EncoderOptions) -> Encoder:
    if name == "tfidf":
        from mmrec.encode.simple import TfidfEncoder

        return TfidfEncoder(options)
    if name == "words":
        from mmrec.encode.words import WordsEncoder

        return WordsEncoder(options)
    if name == "histogram":
        from mmrec.encode.simple import HistogramEncoder

        return HistogramEncoder(options)
    if _IMPORT_PATH.fullmatch(name):
        encoder: Encoder = load_class(name)(options)
        return encoder
    _check_reachable(name)
    if options.modality == "text":
        from mmrec.encode.text import TextEncoder

        return TextEncoder(name, options)
    if options.modality == "image":
        from mmrec.encode.image import ImageEncoder

        return ImageEncoder(name, options)
    from mmrec.encode.joint import JointEncoder

    return JointEncoder(name, options)


def _check_reachable(name: str) -> None:
    """Tell a folder that is not there from the name of a model on the hub, before anything heavy is imported."""
    path = Path(name).expanduser()
    if name and path.is_dir():
        if not (path / "config.json").is_file():
            raise FeatureError(
                "a folder of a transformers model with config.json",
                f"none in {path}",
                "give the folder that save_pretrained wrote",
            )
    elif name and path.exists():
        raise FeatureError(
            "a folder of a transformers model", f"the file {path}", "give the folder it lies in"
        )
    elif not _HUB_ID.fullmatch(name):
        builtin = ", ".join(encoder["name"] for encoder in list_encoders()[:2])
        raise FeatureError(
            "an encoder: a model folder, a hub id (organisation/model) or a built-in name",
            f"no folder {name}" if name else "an empty name",
            f"check the path; without any model use: {builtin}",
        )


def check_choice(option: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ConfigError(f"{option}: one of {', '.join(allowed)}", repr(value), f"choose another {option}")


def check_name(name: str, example: str) -> None:
    """Raise ConfigError unless ``name`` can be a folder's; ``example`` is one that can."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(
            "a name of letters, digits, '.', '_' and '-'",
            repr(name),
            f"choose another --name, such as {example}",
        )


def check_at_least(option: str, value: int, least: int) -> None:
    """Raise ConfigError unless ``value`` is ``least`` or more."""
    if value < least:
        raise ConfigError(f"{option}: {least} or more", str(value), f"choose a larger {option}")


def unit_rows(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Scale the rows ``(n, d)`` to length one; rows of zeros stay zero."""
    vectors = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1), dtype=np.float32)
