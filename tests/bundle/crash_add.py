"""Run by a test: kill -9 an addition of items before calls to the file system, and look at what is there afterwards.

Arguments: BUNDLE FOLDER
Prints how many kills there were, and how many found the new items already there.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path

from mmrec.bundle.bundle import Bundle
from mmrec.bundle.items import add_items
from tests.bundle.crash_export import CALLS, begin
from tests.bundle.stall import NEW
from tests.dying import NEVER, choose_moments, is_killed

SPREAD, LAST = 5, 7  # how many of the moments are tried: some evenly spread, and all at the end


def add_and_die(bundle: Path, moment: int) -> bool:
    """True if the addition was killed before it ended; one that ended writes down how many calls it made."""
    return is_killed(partial(add_items, bundle, NEW), moment, CALLS, bundle.parent.with_name("calls"))


def main() -> None:
    os.fsync = lambda descriptor: None  # what is written survives a kill
    source, folder = Path(sys.argv[1]), Path(sys.argv[2]) / "work"
    n = Bundle(source).manifest.counts.items
    add_items(source, NEW, to=Path(sys.argv[2]) / "warm")  # imports, once
    assert not add_and_die(begin(source, folder), NEVER)
    moments, after = choose_moments(folder.with_name("calls"), SPREAD, LAST), 0
    for moment in moments:
        bundle = begin(source, folder)
        assert add_and_die(bundle, moment)
        found = Bundle(bundle).manifest.counts.items  # whole, whichever it is
        assert found in (n, n + len(NEW))
        after += found > n
        if moment == moments[2]:
            assert found == n
            assert len(list(folder.iterdir())) > 1, "the kill left nothing to clear away"
            assert not add_and_die(bundle, NEVER)
            assert list(folder.iterdir()) == [bundle], "what a kill left is not cleared away"
    print(json.dumps([len(moments), after]))
