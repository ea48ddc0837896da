"""Run by a test: kill -9 an export before every call to the file system, and look at what is there afterwards.

Usage: python -m tests.bundle.crash_export RUN OLD_BUNDLE FOLDER
Exports in forks of one process. Prints how many kills there were, and how many found the new bundle already there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmrec.bundle.bundle import Bundle
from mmrec.bundle.export import export
from mmrec.runs import Run

CALLS = ("fsync", "replace", "unlink", "mkdir", "rename", "open", "rmdir")


def die_before(moment: int) -> None:
    """Let this process kill itself before its n-th call; of bytes that it is to write it writes half."""
    left, write = [moment], Path.write_bytes

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if left[0] == 0:
                if call is write:
                    write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            return call(*arguments, **options)

        return wrapped

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))
    Path.write_bytes = wrap(write)  # type: ignore[method-assign]


def export_and_die(run: Run, to: Path, moment: int, *, overwrite: bool) -> bool:
    """True if the export was killed before it ended."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            die_before(moment)
            export(run, to, overwrite=overwrite)
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def examine(run: Run, old: Path | None, folder: Path) -> tuple[int, int]:
    """Kills, and how many of them came after the new bundle was there."""
    before = None if old is None else (old / "manifest.json").read_text()
    moment = after = 0
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        to = folder / "bundle"
        if old is not None:
            shutil.copytree(old, to)
        killed = export_and_die(run, to, moment, overwrite=old is not None)
        if to.exists():
            found = Bundle(to).path.joinpath("manifest.json").read_text()  # whole, whichever it is
            after += killed and found != before
        else:
            assert killed, "an export that ended left nothing"
            assert old is None, f"the old bundle is gone after file operation {moment}"
        if not killed:
            break
        moment += 1
    assert [path.name for path in folder.iterdir()] == ["bundle"], "something is left after an export"
    return moment, after


def main() -> None:
    os.fsync = lambda descriptor: None  # what is written survives a kill; fsync is for power cuts, and slow
    run, old, folder = Run(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    export(run, folder / "warm")  # imports, once
    print(json.dumps([examine(run, place, folder / "work") for place in (None, old)]))


if __name__ == "__main__":
    main()
