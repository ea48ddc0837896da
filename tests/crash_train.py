"""Run by a test: kill -9 trainings at random moments and at file operations, and after each kill resume.

Arguments: FOLDER MOMENTS NAME …
Trains each FOLDER/NAME.json in forks, and prints for each how many kills there were.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from mmrec.runs import LAST, load_tensors
from mmrec.train import train
from tests import dying
from tests.dying import NEVER, die_before, finish
from tests.test_train import results_of

CALLS = ("fsync", "replace", "unlink", "mkdir", "open")


def start(document: dict[str, Any], folder: Path, moment: int | None = None) -> int:
    """Train in a fork, perhaps one that dies before its n-th call to the file system; its process id."""

    def work() -> None:
        count = die_before(moment, CALLS) if moment is not None else None
        train(document, run=folder, resume=True, show_progress=False)
        if count is not None and moment == NEVER:
            (folder.parent / "calls").write_text(str(count()))

    return dying.start(work)


def kill_at_random(document: dict[str, Any], folder: Path, seed: int) -> int:
    """Kill four times, each a random while after one to three new checkpoints, then let it finish; kills that came."""
    moments, kills = random.Random(seed), 0
    for _ in range(4):
        child = start(document, folder)
        for _ in range(moments.randint(1, 3)):
            before = version(folder / LAST)
            while version(folder / LAST) == before and not ended(child):
                time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.01))
        os.kill(child, signal.SIGKILL)
        kills += finish(child) == -signal.SIGKILL
    assert finish(start(document, folder)) == 0
    return kills


def ended(child: int) -> bool:
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def version(file: Path) -> int:
    return file.stat().st_mtime_ns if file.exists() else 0


def kill_at_file_operations(
    document: dict[str, Any], folder: Path, n_moments: int, expected: dict[str, Any]
) -> tuple[int, int]:
    """Kill before some of the calls to the file system, evenly spread, and resume each time.

    Returns how often that was, and how often in the middle of an epoch.
    """
    shutil.rmtree(folder)
    assert finish(start(document, folder, NEVER)) == 0
    calls = int((folder.parent / "calls").read_text())
    moments, inside = range(0, calls, -(-calls // n_moments)), 0
    for moment in moments:
        shutil.rmtree(folder, ignore_errors=True)
        died = finish(start(document, folder, moment))
        assert died == -signal.SIGKILL, (moment, died)
        if (folder / LAST).exists():
            inside += load_tensors(folder / LAST)[1]["step"] > 0
        assert finish(start(document, folder)) == 0, f"not resumed after file operation {moment} of {calls}"
        assert results_of(folder) == expected, f"other results after file operation {moment} of {calls}"
    return len(moments), inside


def examine(document: dict[str, Any], folder: Path, n_moments: int) -> dict[str, int]:
    assert finish(start(document, folder)) == 0
    expected = results_of(folder)
    shutil.rmtree(folder)
    random_kills = kill_at_random(document, folder, seed=0)
    assert results_of(folder) == expected, "other results after random kills"
    kills, inside = kill_at_file_operations(document, folder, n_moments, expected)
    return {"random kills": random_kills, "kills at file operations": kills, "in mid-epoch": inside}


def main() -> None:
    os.fsync = lambda descriptor: None  # what is written survives a kill; fsync is for power cuts, and slow
    folder, n_moments, counts = Path(sys.argv[1]), int(sys.argv[2]), {}
    documents = {name: json.loads((folder / f"{name}.json").read_text()) for name in sys.argv[3:]}
    warm = next(iter(documents.values()))
    train(warm, run=folder / "warm", overrides=["train.epochs=1"], show_progress=False)  # imports, once
    for name, document in documents.items():
        counts[name] = examine(document, folder / "run", n_moments)
        shutil.rmtree(folder / "run")
    print(json.dumps(counts))
