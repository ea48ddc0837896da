"""Run by tests: kill -9 encodings, in forks, and resume them."""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from mmrec.data.dataset import Dataset
from mmrec.encode import shards
from mmrec.encode.runner import encode as encode_any
from tests.dying import die_before, finish, start
from tests.encode.slow_encoder import NAME

CALLS = ("fsync", "rename", "replace", "rmdir", "unlink", "mkdir", "posix_fallocate")
encode = partial(encode_any, encoder=NAME, name="x")
FILES = ("vectors.npy", "mask.npy", "manifest.json")


def same_files(found: Path, expected: Path) -> bool:
    return all(filecmp.cmp(found / name, expected / name, shallow=False) for name in FILES)


def kill_at_random() -> None:
    """Arguments: DATASET EXPECTED. Three kills, each a random while after a new shard appears, then a run to the end."""
    dataset, expected = Path(sys.argv[1]), Path(sys.argv[2])
    run = partial(encode, Dataset(dataset), batch_size=4, shard_rows=8)
    partly, moments, n_done = dataset / "features" / ".partial-x", random.Random(0), 0
    os.environ["MMREC_TEST_PAUSE"] = "0.03"
    for _ in range(3):
        child = start(partial(run, show_progress=False))
        deadline = time.monotonic() + 30
        while len(list(partly.glob("shard-*.safetensors"))) <= n_done and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        assert finish(child) == -signal.SIGKILL
        assert not (dataset / "features" / "x").exists()
        assert len(list(partly.glob("shard-*.safetensors"))) > n_done
        n_done = len(list(partly.glob("shard-*.safetensors")))
    os.environ["MMREC_TEST_PAUSE"] = "0"
    assert finish(start(run)) == 0
    assert same_files(dataset / "features" / "x", expected)
    assert [path.name for path in (dataset / "features").iterdir()] == ["x"]
    print(n_done)


def kill_at_file_operations() -> None:
    """Arguments: DATASET EXPECTED STRIDE [overwrite]. Kill before every STRIDE-th call to the file system.

    Prints how many calls there are.
    """
    os.fsync = lambda descriptor: None  # what is written survives a kill; fsync is for power cuts, and slow
    dataset, expected, stride = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    overwrite = "overwrite" in sys.argv
    run = partial(encode, Dataset(dataset), batch_size=3, shard_rows=9, show_progress=False)
    run(prompt="other ")
    (dataset / "features").rename(dataset / "other")

    def encode_and_die(moment: int) -> None:
        die_before(moment, CALLS)
        run(overwrite=overwrite)

    moment = 0
    while True:
        shutil.rmtree(dataset / "features", ignore_errors=True)
        if overwrite:  # features made with another prompt are there already
            shutil.copytree(dataset / "other", dataset / "features")
        died = finish(start(partial(encode_and_die, moment)))
        if died == 0:
            break
        assert died == -signal.SIGKILL, (moment, died)
        assert finish(start(partial(run, overwrite=overwrite))) == 0, f"not resumed after moment {moment}"
        found = dataset / "features" / "x"
        assert same_files(found, expected), f"other bits after a kill at moment {moment}"
        left = sorted(path.name for path in (dataset / "features").iterdir())
        assert left == ["x"], f"moment {moment} left {left}"
        moment += stride
    print(moment)


def kill_while_fitted() -> None:
    """Argument: DATASET. An encoding with tfidf that kills itself before its third shard."""
    write = shards.Workplace.write_shard

    def write_two(self: shards.Workplace, index: int, shard: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL) if index == 2 else write(self, index, shard)

    shards.Workplace.write_shard = write_two  # type: ignore[method-assign]
    encode_any(sys.argv[1], name="killed", dim=16, shard_rows=50, dtype="float16")
