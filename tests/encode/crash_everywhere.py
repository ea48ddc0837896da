"""Run by a test: kill -9 an encoding before each of its calls to the file system, and after each kill resume.

Usage: python -m tests.encode.crash_everywhere DATASET EXPECTED [overwrite]
Prints how many moments there were. Each run is a fork, so that a hundred of them take seconds.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mmrec.data.dataset import Dataset
from mmrec.encode.runner import encode as encode_any
from tests.encode.slow_encoder import NAME

CALLS = ("fsync", "rename", "replace", "rmdir", "unlink", "mkdir", "posix_fallocate")
encode = partial(encode_any, encoder=NAME, name="x", batch_size=3, shard_rows=9)
FILES = ("vectors.npy", "mask.npy", "manifest.json")


def run(dataset: Dataset, *, die_before: int | None = None, **options: Any) -> int:
    """Encode in a fork that kills itself before its n-th call; the exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if die_before is not None:
                _plant(die_before)
            encode(dataset, show_progress=False, **options)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _plant(die_before: int) -> None:
    """Wrap the calls, so that the n-th kills the process instead."""
    left = [die_before]

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*arguments, **options)

        return wrapped

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))


def main() -> None:
    os.fsync = lambda descriptor: None  # what is written survives a kill; fsync is for power cuts, and slow
    dataset, expected = Path(sys.argv[1]), Path(sys.argv[2])
    data = Dataset(dataset)
    encode(data, prompt="other ", show_progress=False)  # this reads and imports all, once, before the forks
    (dataset / "features").rename(dataset / "other")
    overwrite = "overwrite" in sys.argv
    moment = 0
    while True:
        shutil.rmtree(dataset / "features", ignore_errors=True)
        if overwrite:  # features made with another prompt are there already
            shutil.copytree(dataset / "other", dataset / "features")
        died = run(data, die_before=moment, overwrite=overwrite)
        if died == 0:
            break
        assert died == -signal.SIGKILL, (moment, died)
        assert run(data, overwrite=overwrite) == 0, f"not resumed after moment {moment}"
        for name in FILES:
            same = filecmp.cmp(dataset / "features" / "x" / name, expected / name, shallow=False)
            assert same, f"{name} differs after a kill at moment {moment}"
        left = sorted(path.name for path in (dataset / "features").iterdir())
        assert left == ["x"], f"moment {moment} left {left}"
        moment += 1
    print(moment)


if __name__ == "__main__":
    main()
