"""Forks that kill themselves before a chosen call to the file system."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NEVER = 1 << 20  # more calls than anything makes


def start(work: Callable[[], object]) -> int:
    """Do something in a fork, whose exit status is 0 if it returns; the process id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()  # os._exit below would swallow it
        finally:
            sys.stderr.flush()
            os._exit(status)
    return child


def finish(child: int) -> int:
    """Wait for a fork; its exit status, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die_before(moment: int, calls: Sequence[str]) -> Callable[[], int]:
    """Let this process kill itself before its n-th call; of bytes that it is to write it writes half.

    Args:
        moment: Which call, from 0.
        calls: Functions of :mod:`os` that count, besides ``Path.write_bytes``.

    Returns:
        How many calls there were so far.
    """
    made, write = [0], Path.write_bytes

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if made[0] == moment:
                if call is write:
                    write(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            made[0] += 1
            return call(*arguments, **options)

        return wrapped

    for name in calls:
        setattr(os, name, wrap(getattr(os, name)))
    Path.write_bytes = wrap(write)  # type: ignore[method-assign]
    return lambda: made[0]


def is_killed(work: Callable[[], object], moment: int, calls: Sequence[str], counted: Path) -> bool:
    """True if work in a fork was killed before it ended; if it ended, ``counted`` says how many calls it made."""

    def counting() -> None:
        count = die_before(moment, calls)
        work()
        n = count()
        counted.write_text(str(n))

    status = finish(start(counting))
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def choose_moments(counted: Path, spread: int, last: int) -> list[int]:
    """Some of the moments before calls, about ``spread`` of them evenly apart, and all of the ``last`` ones."""
    n = int(counted.read_text())
    return sorted({*range(0, n, -(-n // spread)), *range(n - last, n)})
