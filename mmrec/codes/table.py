"""A code table: one tuple of codes per item, no tuple twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.errors import FeatureError
from mmrec.files import content_hash, read_json, sha256_file, write_array, write_json

Codes = NDArray[np.int32]
FORMAT = 1


@dataclass(frozen=True, eq=False)
class CodeTable:
    """Semantic IDs of a catalogue.

    Attributes:
        name: Folder name, for example ``text-kmeans``.
        codes: ``(n_items, levels)``; no two rows are equal.
        sizes: How many codes each level has; level h holds values from 0 to ``sizes[h] - 1``.
        manifest: Method, settings and seed, hashes of what it was made from, SHA-256 of the files.
        arrays: What :meth:`array` gives of a table in memory.
        folder: Where it gives it from, of a table on disk.
    """

    name: str
    codes: Codes
    sizes: tuple[int, ...]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    folder: Path | None = None

    def __post_init__(self) -> None:
        check_codes(self.codes, self.sizes, len(self.codes), source=self.name)

    @property
    def n_items(self) -> int:
        """Items of the catalogue."""
        return len(self.codes)

    @property
    def levels(self) -> int:
        """Codes of an item."""
        return len(self.sizes)

    @property
    def hash(self) -> str:
        """Content hash of codes and sizes."""
        import hashlib

        digest = hashlib.sha256(np.ascontiguousarray(self.codes).tobytes()).hexdigest()
        return content_hash({"codes": digest, "sizes": list(self.sizes)})

    def array(self, name: str) -> NDArray[Any] | None:
        """What the tokeniser kept besides the codes; None where it kept nothing of that name.

        ``present (n_items,)`` says which items have the content that the codes are made from; ``graph-rqvae`` keeps
        ``item_vectors (n_items, d)`` and ``user_vectors (n_users, d)``. Read when asked for: most models do not ask.

        Raises:
            FeatureError: Damaged.
        """
        if name in self.arrays:
            return self.arrays[name]
        if self.folder is None or f"{name}.npy" not in self.manifest["files"]:
            return None
        return _read_array(self.folder, f"{name}.npy", self.manifest)

    @property
    def health(self) -> dict[str, Any] | None:
        """What of the health report (:mod:`mmrec.codes.health`) tells tables apart; None of a table in memory.

        ``{"in_use", "perplexity", "size", "colliding", "neighbourhood"}``: the least share of a level's codes in use,
        mean perplexity and size of the levels, share of items with the codes of another one before that was resolved, and
        of the nearest items kept.
        """
        if self.folder is None or not (self.folder / "health.json").is_file():
            return None
        report = read_json(self.folder / "health.json")
        levels = report["levels"]
        return {
            "in_use": min(level["usage"] for level in levels),
            "perplexity": sum(level["perplexity"] for level in levels) / len(levels),
            "size": sum(level["size"] for level in levels) / len(levels),
            "colliding": report["colliding"],
            "neighbourhood": report["neighbourhood"],
        }

    @classmethod
    def open(cls, folder: Path, *, n_items: int) -> CodeTable:
        """Open a folder of codes.

        Raises:
            FeatureError: Damaged, or of another catalogue.
        """
        manifest = read_json(folder / "manifest.json")
        codes = _read_array(folder, "codes.npy", manifest)
        check_codes(codes, manifest["sizes"], n_items, source=str(folder))
        return cls(folder.name, codes, tuple(manifest["sizes"]), manifest, folder=folder)


def _read_array(folder: Path, file: str, manifest: Mapping[str, Any]) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(folder / file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FeatureError(f"{file} in {folder}", f"{error}", "tokenize again") from None
    if sha256_file(folder / file) != manifest["files"][file]["sha256"]:
        raise FeatureError(f"{file} in {folder} as it was written", "another file", "tokenize again")
    return array


def check_codes(codes: NDArray[Any], sizes: Sequence[int], n_items: int, *, source: str) -> None:
    """Check that codes are semantic IDs of a catalogue.

    Raises:
        FeatureError: Not one row of integers for each item, a code outside its level, or a tuple that comes twice.
    """
    if codes.ndim != 2 or codes.shape[1] != len(sizes) or codes.dtype != np.int32:
        raise FeatureError(
            f"int32 codes (n_items, {len(sizes)})",
            f"{codes.dtype} {codes.shape} in {source}",
            "tokenize again",
        )
    if len(codes) != n_items:
        raise FeatureError(
            f"one row for each of the {n_items:,} items",
            f"{len(codes):,} in {source}",
            "tokenize this dataset: these codes belong to another catalogue",
        )
    outside = np.flatnonzero(((codes < 0) | (codes >= np.asarray(sizes))).any(1))
    if len(outside):
        raise FeatureError(
            f"codes from 0 to below {', '.join(map(str, sizes))}",
            f"{codes[outside[0]].tolist()} of item {outside[0]} in {source}",
            "tokenize again",
        )
    _, counts = np.unique(codes, axis=0, return_counts=True)
    if (counts > 1).any():
        raise FeatureError(
            "no two items with the same codes",
            f"{int((counts - 1).sum()):,} repeats in {source}",
            "tokenize again: collisions have to be resolved (mmrec tokenize --collisions)",
        )


def write_codes(folder: Path, codes: Codes, sizes: Sequence[int], manifest: Mapping[str, Any]) -> CodeTable:
    """Write a folder of codes; the manifest comes last, so a folder without one is no code table."""
    check_codes(codes, sizes, len(codes), source=str(folder))
    write_array(folder / "codes.npy", codes)
    files = {**manifest.get("files", {}), "codes.npy": {"sha256": sha256_file(folder / "codes.npy")}}
    write_json(
        folder / "manifest.json",
        {**manifest, "format": FORMAT, "sizes": [int(size) for size in sizes], "files": files},
    )
    return CodeTable.open(folder, n_items=len(codes))
