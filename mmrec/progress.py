"""Progress of long work: a bar on a terminal, a line per few percent elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

LINE_EVERY = 0.05  # share of the work between two lines where there is no terminal
LINE_SECONDS = 2.0  # and no more often than this


def note(message: str) -> None:
    """Print one line to stderr, so that stdout stays free for results."""
    print(message, file=sys.stderr, flush=True)


class Progress:
    """Counts finished units and shows rate and time left.

    Args:
        title: What is being done, for example ``encode text``.
        total: Number of units of the whole work.
        done: Units that an earlier, interrupted run has already finished; they do not count for the rate.
        unit: Name of one unit.
        show: False keeps silent.
    """

    def __init__(
        self, title: str, total: int, *, done: int = 0, unit: str = "items", show: bool = True
    ) -> None:
        self.title, self.total, self.done, self.unit, self.show = title, total, done, unit, show
        self._start = self._last_time = time.monotonic()
        self._first = self._last_done = done
        self._terminal = sys.stderr.isatty()
        self._detail = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.show and self._terminal:
            print(file=sys.stderr)

    def advance(self, units: int = 1, detail: str = "") -> None:
        """Count ``units`` more as finished; ``detail`` is shown behind the bar."""
        self.done += units
        self._detail = detail or self._detail
        now = time.monotonic()
        if not self.show:
            return
        if self._terminal:
            if now - self._last_time > 0.1 or self.done >= self.total:
                self._last_time = now
                print(f"\r\x1b[2K{self._line(bar=True)}", end="", file=sys.stderr, flush=True)
        elif self.done >= self.total or (
            self.done - self._last_done >= LINE_EVERY * self.total and now - self._last_time >= LINE_SECONDS
        ):
            self._last_done, self._last_time = self.done, now
            note(self._line(bar=False))

    def _line(self, *, bar: bool) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self.done - self._first) / seconds
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        share = self.done / max(self.total, 1)
        drawing = f" [{'#' * int(24 * share):<24}]" if bar else ""
        tail = f" · {self._detail}" if self._detail else ""
        return (
            f"{self.title}{drawing} {self.done:,}/{self.total:,} {self.unit} ({share:.0%}) · "
            f"{_number(rate)} {self.unit}/s · {_duration(left)} left{tail}"
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _duration(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
