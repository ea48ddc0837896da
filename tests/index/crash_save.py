"""Run by a test: kill -9 a save before each of its calls to the file system; the folder always opens.

Argument: FOLDER
Prints for each backend how many moments there were, and at how many of them the new index was already in place.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from mmrec.errors import DataError
from mmrec.index import Index, build_index, load_index
from tests.dying import die_before, finish, start
from tests.index.backends import make_attributes, make_vectors

CALLS = ("fsync", "rename", "replace", "rmdir", "unlink", "mkdir")
OLD, NEW = 50, 60  # items


def save(index: Index, folder: Path, moment: int) -> int:
    """Save in a fork that kills itself before its n-th call; the exit status, negative for a signal."""

    def work() -> None:
        die_before(moment, CALLS)
        index.save(folder)

    return finish(start(work))


def main() -> None:
    os.fsync = lambda descriptor: None  # what is written survives a kill; fsync is for power cuts, and slow
    for backend in ("exact", "faiss"):
        kill_saves(backend, Path(sys.argv[1]) / backend)


def kill_saves(backend: str, folder: Path) -> None:
    old = build_index(backend, make_vectors(OLD), make_attributes(OLD))
    new = build_index(backend, make_vectors(NEW), make_attributes(NEW))
    assert save(old, folder, 3) == -signal.SIGKILL
    try:
        load_index(folder)
    except DataError:  # no index yet
        old.save(folder)
    moment = replaced = 0
    while (died := save(new, folder, moment)) != 0:
        assert died == -signal.SIGKILL, (moment, died)
        found = load_index(folder)
        n = len(found)
        assert n in (OLD, NEW), (moment, n)
        assert found.search(make_vectors(1), 3, where="price > 7 or price is null").ids.min() >= 0
        replaced += n == NEW
        moment += 1
        old.save(folder)
        assert len(load_index(folder)) == OLD, f"moment {moment}: a later save is not what is there"
        left = [path.name for path in folder.iterdir()]
        assert len(left) == 2, (moment, left)  # the manifest and one folder of files
    assert len(load_index(folder)) == NEW
    print(moment, replaced)
