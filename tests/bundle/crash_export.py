"""Run by a test: kill -9 an export before calls to the file system, and look at what is there afterwards.

Arguments: RUN OLD_BUNDLE FOLDER
Exports in forks. Prints how many kills there were, and how many found the new bundle already there.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from functools import partial
from pathlib import Path

from mmrec.bundle.bundle import Bundle
from mmrec.bundle.export import export
from mmrec.runs import Run
from tests.dying import NEVER, choose_moments, is_killed

CALLS = ("fsync", "replace", "unlink", "mkdir", "rename", "open", "rmdir")
SPREAD, LAST = 12, 16  # how many of the moments are tried: some evenly spread, and all at the end


def export_and_die(run: Run, to: Path, moment: int, *, overwrite: bool) -> bool:
    """True if the export was killed before it ended; one that ended writes down how many calls it made."""
    work = partial(export, run, to, overwrite=overwrite)
    return is_killed(work, moment, CALLS, to.parent.with_name("calls"))


def examine(run: Run, old: Path | None, folder: Path) -> tuple[int, int]:
    """Kills, and how many of them came after the new bundle was there."""
    to = begin(old, folder)
    before = None if old is None else (old / "manifest.json").read_text()
    assert not export_and_die(run, to, NEVER, overwrite=old is not None)
    moments, after = choose_moments(folder.with_name("calls"), SPREAD, LAST), 0
    for moment in moments:
        to = begin(old, folder)
        assert export_and_die(run, to, moment, overwrite=old is not None)
        if to.exists():
            found = Bundle(to).path.joinpath("manifest.json").read_text()  # whole, whichever it is
            after += found != before
        else:
            assert old is None, f"the old bundle is gone after file operation {moment}"
        if moment == moments[len(moments) // 2]:
            assert len(list(folder.iterdir())) > to.exists(), "the kill left nothing to clear away"
            assert not export_and_die(run, to, NEVER, overwrite=True)
            assert list(folder.iterdir()) == [to], "the next export does not clear away what a kill left"
    return len(moments), after


def begin(old: Path | None, folder: Path) -> Path:
    """Where the bundle is to be written; there is the old one, or nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if old is not None:
        shutil.copytree(old, folder / "bundle")
    return folder / "bundle"


def main() -> None:
    os.fsync = lambda descriptor: None  # what is written survives a kill; fsync is for power cuts, and slow
    run, old, folder = Run(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    export(run, folder / "warm")  # imports, once
    print(json.dumps([examine(run, place, folder / "work") for place in (None, old)]))
