"""Run by a test: kill -9 an addition of items before calls to the file system, and look at what is there afterwards.

Usage: python -m tests.bundle.crash_add BUNDLE FOLDER
Prints how many kills there were, and how many found the new items already there.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path

from mmrec.bundle.bundle import Bundle
from mmrec.bundle.items import add_items
from tests.bundle.crash_export import NEVER, die_before
from tests.bundle.stall import NEW

STEP = 7


def add_and_die(bundle: Path, moment: int) -> bool:
    """True if the addition was killed before it ended; one that ended writes down how many calls it made."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            left = die_before(moment)
            add_items(bundle, NEW)
            status, calls = 0, moment - left[0]
            bundle.parent.with_name("calls").write_text(str(calls))
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def main() -> None:
    os.fsync = lambda descriptor: None  # what is written survives a kill
    source, folder = Path(sys.argv[1]), Path(sys.argv[2]) / "work"
    bundle, n = folder / "bundle", Bundle(source).manifest.counts.items
    add_items(source, NEW, to=Path(sys.argv[2]) / "warm")  # imports, once
    killed = after = calls = 0
    for moment in [NEVER, *range(0, NEVER, STEP)]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copytree(source, bundle)
        if not add_and_die(bundle, moment):
            if moment != NEVER:
                break
            calls = int(folder.with_name("calls").read_text())
            continue
        found = Bundle(bundle).manifest.counts.items  # whole, whichever it is
        assert found in (n, n + len(NEW))
        killed, after = killed + 1, after + (found > n)
    assert killed >= calls // STEP, (killed, calls)
    assert not add_and_die(bundle, NEVER) or Bundle(bundle).manifest.counts.items > n
    assert list(folder.iterdir()) == [bundle], "what a kill left is not cleared away"
    print(json.dumps([killed, after]))


if __name__ == "__main__":
    main()
