"""The working folder of an encoding: finished shards, and what they belong to.

    features/.partial-NAME/
      plan.json               what is encoded and how; shards of another plan are never used
      lengths.npy             lengths that fix the order of the inputs (only where batches are sorted)
      shard-000000.safetensors …
      assembled/              becomes features/NAME in one rename

It can be killed at any moment: each file is whole or absent, each shard names its plan, and the rename of
``assembled`` comes last. The folder lies one level too deep to be taken for a feature table.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.encode.features import FeatureTable, seal_features
from mmrec.errors import FeatureError
from mmrec.files import (
    atomic_path,
    content_hash,
    disk_errors,
    read_json,
    sync_folder,
    write_array,
    write_json,
)


@dataclass(frozen=True, eq=False)
class Shard:
    """Encoded rows.

    Attributes:
        items: Item of each vector ``(m,)``.
        vectors: ``(m, d)``; ``(0, 0)`` where no input of the shard could be encoded.
        reasons: :class:`mmrec.encode.pictures.Reason` of each input of the shard.
        positions: Which inputs the shard holds, as many as ``reasons``.
    """

    items: NDArray[np.int64]
    vectors: NDArray[np.floating[Any]]
    reasons: NDArray[np.uint8]
    positions: NDArray[np.int64]


class Workplace:
    """The working folder ``features/.partial-NAME`` of one plan, held by one process at a time.

    Use :func:`open_workplace`.

    Attributes:
        folder: The working folder.
        target: The finished feature folder.
        plan: What is encoded and how.
    """

    def __init__(self, folder: Path, target: Path, plan: Mapping[str, Any]) -> None:
        self.folder, self.target, self.plan = folder, target, dict(plan)
        self._key = content_hash(self.plan)

    def holds_plan(self) -> bool:
        """Whether the folder's shards are of this plan."""
        file = self.folder / "plan.json"
        return file.is_file() and content_hash(read_json(file)) == self._key

    def holds_other_plan(self) -> bool:
        """Whether the folder's shards are of another plan."""
        return (self.folder / "plan.json").is_file() and not self.holds_plan()

    def start(self, lengths: NDArray[np.int64] | None) -> None:
        """Drop whatever is there and write the plan.

        Raises:
            DiskError: The disk is full or may not be written.
        """
        (self.folder / "plan.json").unlink(
            missing_ok=True
        )  # first: a half-emptied folder must not be resumed
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if lengths is not None:
            write_array(self.folder / "lengths.npy", lengths)
        write_json(self.folder / "plan.json", self.plan)

    def lengths(self) -> NDArray[np.int64] | None:
        """The lengths written by :meth:`start`."""
        file = self.folder / "lengths.npy"
        return np.load(file, allow_pickle=False) if file.is_file() else None

    def _file(self, index: int) -> Path:
        return self.folder / f"shard-{index:06d}.safetensors"

    def has_shard(self, index: int) -> bool:
        """Whether a shard is finished, of this plan and readable."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._file(index), framework="numpy") as file:
                return bool((file.metadata() or {}).get("plan") == self._key)
        except (FileNotFoundError, SafetensorError):
            return False

    def write_shard(self, index: int, shard: Shard) -> None:
        """Write a shard; it is there as a whole or not at all.

        Raises:
            DiskError: The disk is full.
        """
        from safetensors.numpy import save

        data = save(vars(shard), metadata={"plan": self._key})
        with atomic_path(self._file(index)) as temporary:
            temporary.write_bytes(data)

    def read_shard(self, index: int) -> Shard:
        """Read a finished shard."""
        from safetensors.numpy import load_file

        return Shard(**load_file(self._file(index)))

    def finish(
        self,
        modality: str,
        manifest: Mapping[str, Any],
        shape: tuple[int, int],
        dtype: str,
        blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.floating[Any]]]],
    ) -> FeatureTable:
        """Assemble blocks of (items, vectors) to the feature folder and give it its name.

        Args:
            modality: Modality of the table.
            manifest: Its manifest, without shape and file hashes.
            shape: ``(n_items, d)``; rows that no block names are absent.
            dtype: ``float32`` or ``float16``.
            blocks: Items and their vectors, each item once.

        Raises:
            DiskError: The disk is full.
        """
        assembled = self.folder / "assembled"
        shutil.rmtree(assembled, ignore_errors=True)
        present = np.zeros(shape[0], dtype=bool)
        with _matrix(assembled / "vectors.npy", shape, dtype) as matrix:
            for items, vectors in blocks:
                if len(items):
                    matrix[items] = vectors
                    present[items] = True
        write_array(assembled / "mask.npy", present)
        seal_features(assembled, modality, manifest)
        with disk_errors(self.target):
            if self.target.exists():
                shutil.rmtree(self.folder / "replaced", ignore_errors=True)
                self.target.rename(self.folder / "replaced")
            assembled.rename(self.target)
            sync_folder(self.target.parent)
        self.discard()
        return FeatureTable.open(self.target, n_items=shape[0])

    def discard(self) -> None:
        """Remove the working folder."""
        (self.folder / "plan.json").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def _matrix(path: Path, shape: tuple[int, int], dtype: str) -> Iterator[NDArray[np.floating[Any]]]:
    """A memory-mapped .npy file of zeros that gets its name when the block ends well."""
    with atomic_path(path) as temporary:
        matrix = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.dtype(dtype), shape=shape)
        _reserve(temporary)
        yield matrix
        matrix.flush()


def _reserve(path: Path) -> None:
    """Take a sparse file's blocks now: on a full disk, a write to mapped memory kills the process outright."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("rb+") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot reserve
                raise


@contextlib.contextmanager
def open_workplace(target: Path, plan: Mapping[str, Any]) -> Iterator[Workplace]:
    """Take the working folder of the features ``target``; shards in it stay until the work is finished.

    Raises:
        FeatureError: Another process works in it.
        DiskError: The folder may not be written.
    """
    folder = target.parent / f".partial-{target.name}"
    with disk_errors(folder):
        descriptor = _lock(folder)
    try:
        yield Workplace(folder, target, plan)
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # empty where there was nothing to do
        os.close(descriptor)


def _lock(folder: Path) -> int:
    """Make a folder and lock it; the lock ends with the process, however that ends."""
    import fcntl

    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise FeatureError(
                f"no other process at work on {folder.name.removeprefix('.partial-')}",
                f"one that holds {folder}",
                "wait for it, or choose another --name",
            ) from None
        if folder.is_dir() and os.fstat(descriptor).st_ino == folder.stat().st_ino:
            return descriptor
        os.close(descriptor)  # whoever held the lock has finished and removed the folder: take the new one
