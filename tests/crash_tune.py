"""Run by a test: searches that are killed with SIGKILL, and searches that workers share.

Arguments: FOLDER MOMENTS
Searches FOLDER/killed.json and FOLDER/shared.json in forks, and prints what came of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import mmrec.tune.search
import mmrec.tune.worker
from mmrec.runs import LAST, Run
from mmrec.train import train
from mmrec.tune.search import tune
from tests.crash_train import CALLS
from tests.dying import NEVER, die_before, finish
from tests.test_tune import outcome_of

FAILED = 99


def start(document: dict[str, Any], folder: Path, moment: int | None = None) -> int:
    """Search in a fork, perhaps one that dies before its n-th call to the file system; its process id.

    The fork's exit status is the number of trials that it trained, or FAILED.
    """
    child = os.fork()
    if child == 0:
        status, trained = FAILED, [0]

        def counted(*arguments: Any, **options: Any) -> Run:
            trained[0] += 1
            return train(*arguments, **options)

        mmrec.tune.worker.train = counted
        try:
            count = die_before(moment, CALLS) if moment is not None else None
            tune(document, to=folder, show_progress=False)
            if count is not None and moment == NEVER:
                (folder.parent / "calls").write_text(str(count()))
            status = trained[0]
        except BaseException:
            traceback.print_exc()  # os._exit below would swallow it
        finally:
            os._exit(status)
    return child


def kill_and_resume(document: dict[str, Any], folder: Path, n_moments: int) -> dict[str, int]:
    """Kill a search at calls to the file system, each time resume it, and compare it with one that was left alone."""
    assert finish(start(document, folder, NEVER)) == len(outcome_of(folder))
    expected, calls = outcome_of(folder), int((folder.parent / "calls").read_text())
    moments, inside = range(0, calls, -(-calls // n_moments)), 0
    for moment in moments:
        shutil.rmtree(folder, ignore_errors=True)
        died = finish(start(document, folder, moment))
        assert died == -signal.SIGKILL, (moment, died)
        begun = [run for run in folder.glob("trial-*") if (run / LAST).exists()]
        inside += any(not Run(run).finished for run in begun)
        assert finish(start(document, folder)) != FAILED, f"not resumed after call {moment} of {calls}"
        found = outcome_of(folder)
        assert found == expected, f"other trials after call {moment} of {calls}: {found}, not {expected}"
        opened = [Run(run).manifest["test_opened"] for run in folder.glob("trial-*")]
        assert opened == [[]] * len(expected)
    return {"kills": len(moments), "kills inside a trial": inside}


def share(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Two workers that begin at the same time."""
    workers = [start(document, folder) for _ in range(2)]
    counts = [finish(worker) for worker in workers]
    trials = outcome_of(folder)
    return {"trials by worker": counts, "settings": [int(trial["params.dim"]) for trial in trials]}


def main() -> None:
    os.fsync = lambda descriptor: None  # what is written survives a kill; fsync is for power cuts, and slow
    mmrec.tune.search.draw_search = lambda search, config: []  # seconds each time
    folder = Path(sys.argv[1])
    killed, shared = (json.loads((folder / f"{name}.json").read_text()) for name in ("killed", "shared"))
    tune(killed, to=folder / "warm", overrides=["search.trials=1"], show_progress=False)  # imports, once
    print(
        json.dumps(
            kill_and_resume(killed, folder / "killed", int(sys.argv[2])) | share(shared, folder / "shared")
        )
    )
