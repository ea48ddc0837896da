"""What makes vectors small: the shape every codec has, checks of what goes in, and saving without pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mmrec.errors import ConfigError, FeatureError, did_you_mean
from mmrec.registry import load_class
from mmrec.runs import load_tensors, save_tensors

Codes = NDArray[np.uint8]
Rows = NDArray[np.float32]
Tensors = dict[str, torch.Tensor]

BLOCK_ROWS = 16384  # rows decoded at once: some megabytes, which stay in the processor's cache
CODECS = {
    "floats": "mmrec.compress.scalar:Floats",
    "int8": "mmrec.compress.scalar:Int8",
    "binary": "mmrec.compress.binary:Binary",
    "bebr": "mmrec.compress.bebr:BEBR",
}


class Codec(Protocol):
    """Vectors to codes and back. A row of codes is all that an item takes: rows may be cut, joined and saved as they are.

    Attributes:
        kind: Name under which it is saved.
    """

    kind: ClassVar[str]

    @property
    def dim(self) -> int:
        """Width d of the vectors."""
        ...

    @property
    def bytes_per_item(self) -> int:
        """Width of the codes."""
        ...

    def encode(self, vectors: NDArray[np.floating[Any]]) -> Codes:
        """Codes ``(n, bytes_per_item)`` of vectors ``(n, d)``, each for itself."""
        ...

    def decode(self, codes: Codes) -> Rows:
        """Vectors ``(n, d)`` that codes stand for."""
        ...

    def scores(self, queries: NDArray[np.floating[Any]], codes: Codes) -> Rows:
        """Scores ``(b, n)`` of codes for float queries ``(b, d)``."""
        ...

    def symmetric_scores(self, queries: Codes, codes: Codes) -> Rows:
        """Scores ``(b, n)`` of codes for queries that are codes: inner products of the decoded vectors."""
        ...

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors, and what else :meth:`restore` needs as JSON."""
        ...

    @classmethod
    def restore(cls, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> Self:
        """The codec that gave this state."""
        ...


def as_rows(vectors: NDArray[np.floating[Any]], dim: int | None = None) -> Rows:
    """The vectors ``(n, d)`` as contiguous float32.

    Raises:
        FeatureError: No matrix, another width than ``dim``, or numbers that are not finite in float32.
    """
    if np.ndim(vectors) != 2 or (dim is not None and np.shape(vectors)[1] != dim):
        raise FeatureError(
            f"vectors (n, {'d' if dim is None else dim})",
            f"shape {np.shape(vectors)}",
            "give one row per vector, as wide as those that the codec was made for",
        )
    with np.errstate(over="ignore"):  # becomes infinite, which the next line reports
        rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if not np.isfinite(rows).all():
        wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        raise FeatureError(
            "finite numbers", f"{len(wrong)} rows without, the first is {wrong[0]}", "mend or leave out those"
        )
    return rows


def check_codes(codes: Codes, width: int) -> Codes:
    """The codes themselves.

    Raises:
        FeatureError: Not what a codec of ``width`` bytes per item makes.
    """
    if codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != width:
        raise FeatureError(
            f"codes (n, {width}) of uint8",
            f"{codes.dtype} of shape {codes.shape}",
            "encode the vectors with this codec",
        )
    return codes


def encode_blocks(rows: Rows, width: int, encode: Callable[[Rows], Codes]) -> Codes:
    """Codes ``(n, width)`` of rows ``(n, d)``, made a block at a time."""
    codes = np.empty((len(rows), width), dtype=np.uint8)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        codes[block] = encode(rows[block])
    return codes


def products(queries: Rows, codes: Codes, decode: Callable[[Codes], Rows]) -> Rows:
    """Inner products ``(b, n)`` of queries ``(b, d)`` with decoded vectors, of which a block exists at a time."""
    result = np.empty((len(queries), len(codes)), dtype=np.float32)
    for start in range(0, len(codes), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        result[:, rows] = queries @ decode(codes[rows]).T
    return result


def save_codec(codec: Codec, file: Path) -> None:
    """Write a codec atomically as safetensors."""
    tensors, metadata = codec.state()
    save_tensors(file, tensors, {"kind": codec.kind, **metadata})


def load_codec(file: Path) -> Codec:
    """Read what :func:`save_codec` wrote.

    Raises:
        ConfigError: A codec that this version does not know.
        NotFittedError: Missing or damaged.
    """
    tensors, metadata = load_tensors(file)
    kind = metadata.get("kind")
    if kind not in CODECS:
        raise ConfigError(f"a codec in {file}", repr(kind), did_you_mean(str(kind), list(CODECS)))
    codec: Codec = load_class(CODECS[kind]).restore(tensors, metadata)
    return codec
