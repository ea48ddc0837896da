"""A feature table: one vector per item, memory-mapped, with a mask of the items that have one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.errors import FeatureError
from mmrec.files import content_hash, read_json, sha256_file, write_array, write_json

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of one modality.

    Attributes:
        name: Folder name, for example ``text-minilm``.
        modality: ``text``, ``image``, …
        vectors: ``(n_items, d)`` float16 or float32; rows of absent items are zero.
        present: ``(n_items,)`` False where an item lacks the modality.
        manifest: Encoder, revision, pooling, hash of the inputs, SHA-256 of the files.
    """

    name: str
    modality: str
    vectors: NDArray[np.floating[Any]]
    present: NDArray[np.bool_]
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dim(self) -> int:
        """Width d of a vector."""
        return int(self.vectors.shape[1])

    @property
    def vocabulary(self) -> list[str] | None:
        """The word that each column stands for; None where columns are no words."""
        return self.manifest.get("vocabulary")

    @property
    def hash(self) -> str:
        """Content hash of vectors and mask: the key of graphs made from them."""
        if "files" in self.manifest:
            return content_hash(self.manifest["files"])
        import hashlib

        return hashlib.sha256(
            np.ascontiguousarray(self.vectors).tobytes() + self.present.tobytes()
        ).hexdigest()

    def tensor(self) -> torch.Tensor:
        """``(n_items, d)`` float32 copy in memory, in which values below 1e-12 of the largest are zero.

        They are beyond the precision of any sum they enter, but their products with gradients are subnormal numbers,
        on which processors are a hundred times slower (all-MiniLM-L6-v2 has two such columns, of about 1e-33).
        """
        import torch

        values = torch.from_numpy(np.array(self.vectors, dtype=np.float32))
        magnitude = values.abs()
        return values.masked_fill_(magnitude < 1e-12 * magnitude.max(), 0.0)

    @classmethod
    def open(cls, folder: Path, *, n_items: int) -> FeatureTable:
        """Open a feature folder; the vectors stay on disk until they are read.

        Raises:
            FeatureError: Damaged, or not one row per item.
        """
        manifest = read_json(folder / "manifest.json")
        try:
            vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
            present = np.load(folder / "mask.npy", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise FeatureError(f"vectors.npy and mask.npy in {folder}", f"{error}", "encode again") from None
        if vectors.shape[:1] != (n_items,) or present.shape != (n_items,):
            raise FeatureError(
                f"one row for each of the {n_items:,} items",
                f"vectors {vectors.shape}, mask {present.shape} in {folder}",
                "encode again: these belong to other items",
            )
        return cls(folder.name, manifest["modality"], vectors, present, manifest)


def check_vectors(vectors: NDArray[Any], present: NDArray[np.bool_], n_items: int, *, source: str) -> None:
    """Check that features can be used: shape, type and finite numbers.

    Raises:
        FeatureError: Wrong shape or row count, not floating point, NaN or infinite values, nothing present.
    """
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise FeatureError(
            "a matrix (n_items, d)", f"shape {vectors.shape} in {source}", "save one row per item"
        )
    if len(vectors) != n_items:
        raise FeatureError(
            f"{n_items:,} rows, one per item in the order of items.parquet",
            f"{len(vectors):,} rows in {source}",
            "export the features again in that order, absent items as rows of zeros",
        )
    if not np.issubdtype(vectors.dtype, np.floating):
        raise FeatureError("floating point numbers", f"{vectors.dtype} in {source}", "save them as float32")
    if present.shape != (n_items,) or present.dtype != np.bool_:
        raise FeatureError(
            f"a boolean mask ({n_items},)", f"{present.dtype} {present.shape}", "save it as bool"
        )
    if not present.any():
        raise FeatureError(
            "at least one item with this modality", "none", "check the column or the picture folder"
        )
    for start in range(0, n_items, 65536):  # in blocks: the matrix may be larger than memory
        block = np.asarray(vectors[start : start + 65536])
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            raise FeatureError(
                "finite numbers",
                f"NaN or infinity in row {start + bad[0]} of {source}",
                "repair or remove that row",
            )


def write_features(
    folder: Path,
    modality: str,
    vectors: NDArray[np.floating[Any]],
    present: NDArray[np.bool_],
    manifest: Mapping[str, Any],
) -> FeatureTable:
    """Write a feature folder; the manifest comes last, so a folder without one is not a feature table.

    Rows of absent items are written as zeros.
    """
    check_vectors(vectors, present, len(present), source=str(folder))
    vectors = np.where(present[:, None], vectors, np.zeros((), dtype=vectors.dtype))
    write_array(folder / "vectors.npy", vectors)
    write_array(folder / "mask.npy", present)
    return seal_features(folder, modality, manifest)


def seal_features(folder: Path, modality: str, manifest: Mapping[str, Any]) -> FeatureTable:
    """Write the manifest of a folder whose ``vectors.npy`` and ``mask.npy`` are complete, and open it."""
    vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    present = np.load(folder / "mask.npy", allow_pickle=False)
    files = {name: {"sha256": sha256_file(folder / name)} for name in ("vectors.npy", "mask.npy")}
    shape = {
        "dim": int(vectors.shape[1]),
        "dtype": str(vectors.dtype),
        "present": int(present.sum()),
        "rows": len(present),
    }
    write_json(
        folder / "manifest.json", {"format": 1, "modality": modality, **manifest, **shape, "files": files}
    )
    return FeatureTable.open(folder, n_items=len(present))
