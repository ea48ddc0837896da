"""Two ways of doing one thing, timed in turn: the ratio holds although the machine's speed drifts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any


def compare_times(
    ours: Callable[[], Any], other: Callable[[], Any], *, rounds: int = 9, calls: int = 1
) -> float:
    """Median over the rounds of other's time divided by ours: 4.0 says that ours takes a quarter of the time.

    With ``calls`` above 1 each way runs that often in a row: below a millisecond a single call mostly times the
    page faults and the cold caches that the other way left behind.
    """
    ours(), other()  # warm up caches and allocators
    ratios, times = [], []
    for _ in range(rounds):
        pair = []
        for way in (ours, other):
            start = time.perf_counter()
            for _ in range(calls):
                way()
            pair.append((time.perf_counter() - start) / calls)
        ratios.append(pair[1] / pair[0])
        times.append(pair)
    mine, theirs = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"ours {mine * 1e3:.2f} ms, other {theirs * 1e3:.2f} ms, ratio {min(ratios):.2f} … {max(ratios):.2f}"
    )
    return statistics.median(ratios)
