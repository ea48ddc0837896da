"""Requests of equal shape that wait at the same time are answered by one search."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Executor, Future
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Batches(Generic[Q, A]):
    """Collects what waits for a thread.

    Each request asks the pool for a thread; whichever thread comes first takes all that waits and has the same shape.
    So a lone request goes at once, there is no window to wait for, and batches grow as fast as the threads fall behind.

    Args:
        pool: Threads.
        answer: Gives an answer, or the error of that one alone, for each of some requests.
        most: Requests of a batch.
        observe: Is told the size of each batch.
    """

    def __init__(
        self,
        pool: Executor,
        answer: Callable[[list[Q]], list[A | Exception]],
        most: int,
        observe: Callable[[int], None],
    ) -> None:
        self._pool, self._answer, self._most, self._observe = pool, answer, most, observe
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, list[tuple[Q, Future[A]]]] = {}

    def ask(self, shape: Hashable, request: Q) -> Future[A]:
        """The answer to come; cancelling it before its batch starts leaves it out."""
        future: Future[A] = Future()
        with self._lock:
            self._waiting.setdefault(shape, []).append((request, future))
        self._pool.submit(self._serve)
        return future

    def _serve(self) -> None:
        batch = self._take()
        if not batch:
            return
        self._observe(len(batch))
        try:
            answers = self._answer([request for request, _ in batch])
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _take(self) -> list[tuple[Q, Future[A]]]:
        """The requests of the shape that waits longest; what is too much for one batch queues up again."""
        with self._lock:
            if not self._waiting:
                return []
            shape = next(iter(self._waiting))
            group = self._waiting.pop(shape)
            if len(group) > self._most:
                self._waiting[shape] = group[self._most :]
            batch = group[: self._most]
        return [one for one in batch if one[1].set_running_or_notify_cancel()]
