"""What happens in a service, counted, as text that Prometheus reads (exposition format 0.0.4)."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = tuple[tuple[str, str], ...]


class Histogram:
    """Counts of values up to bounds.

    Args:
        bounds: Ascending; what is above them all is counted too.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str, labels: Labels) -> Iterator[str]:
        """Cumulative counts, sum and count."""
        total = 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            total += count
            yield f"{name}_bucket{_render((*labels, ('le', bound)))} {total}"
        yield f"{name}_sum{_render(labels)} {self.sum:.9g}"
        yield f"{name}_count{_render(labels)} {total}"


class Metrics:
    """Counters of one service; any thread may add to them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[Labels] = Counter()
        self._seconds: dict[Labels, Histogram] = {}
        self._batches = Histogram(SIZES)
        self._reloads: Counter[Labels] = Counter({(("result", "ok"),): 0, (("result", "failed"),): 0})
        self.gauges: dict[str, Callable[[], float]] = {}
        self.info: Callable[[], Mapping[str, str]] = dict

    def add_request(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        with self._lock:
            self._requests[("path", path), ("status", str(status))] += 1
            self._seconds.setdefault((("path", path),), Histogram(SECONDS)).add(seconds)

    def add_batch(self, size: int) -> None:
        """Count lists that were made by one search."""
        with self._lock:
            self._batches.add(size)

    def add_reload(self, *, ok: bool) -> None:
        """Count a change to another bundle, or a failed one."""
        with self._lock:
            self._reloads[(("result", "ok" if ok else "failed"),)] += 1

    def render(self) -> str:
        """All of it as text."""
        with self._lock:
            return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield from _header("mmrec_requests_total", "counter", "Answers by path and status.")
        yield from (
            f"mmrec_requests_total{_render(labels)} {n}" for labels, n in sorted(self._requests.items())
        )
        yield from _header("mmrec_request_seconds", "histogram", "Time to answer.")
        for labels, histogram in sorted(self._seconds.items()):
            yield from histogram.lines("mmrec_request_seconds", labels)
        yield from _header("mmrec_batch_size", "histogram", "Lists made by one search.")
        yield from self._batches.lines("mmrec_batch_size", ())
        yield from _header("mmrec_reloads_total", "counter", "Changes to another bundle.")
        yield from (
            f"mmrec_reloads_total{_render(labels)} {n}" for labels, n in sorted(self._reloads.items())
        )
        for name, value in self.gauges.items():
            yield from _header(f"mmrec_{name}", "gauge", f"{name.replace('_', ' ').capitalize()}.")
            yield f"mmrec_{name} {value():.9g}"
        yield from _header("mmrec_bundle_info", "gauge", "The bundle that is served.")
        yield f"mmrec_bundle_info{_render(tuple(self.info().items()))} 1"


def _header(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _render(labels: Labels) -> str:
    if not labels:
        return ""
    escaped = (
        (name, value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for name, value in labels
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"
