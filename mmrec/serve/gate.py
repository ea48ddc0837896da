"""Back-pressure: so many requests in flight, so many waiting, and for all others the honest answer that it is too busy."""

from __future__ import annotations

import asyncio
from collections import deque

from mmrec.serve.errors import BusyError


class Gate:
    """Counts requests in one event loop; first come, first served.

    Attributes:
        in_flight: Requests being answered.

    Args:
        slots: How many may be in flight.
        queue: How many may wait for that.
    """

    def __init__(self, slots: int, queue: int) -> None:
        self.in_flight = 0
        self._slots, self._queue = slots, queue
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    async def enter(self, seconds: float) -> None:
        """Wait for a slot; whoever gets one has to :meth:`leave`.

        Raises:
            BusyError: The queue is full, or no slot became free in time.
        """
        if self.in_flight < self._slots:  # then nobody waits
            self.in_flight += 1
            return
        if len(self._waiting) >= self._queue:
            raise _busy(f"{self.in_flight} in flight and {self.waiting} waiting")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # the slot came together with the end of patience
                self.leave()
            else:
                self._waiting.remove(turn)
            if isinstance(error, TimeoutError):
                raise _busy(f"none free in {seconds:g} seconds") from None
            raise

    def leave(self) -> None:
        """Give the slot to whoever waits longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.in_flight -= 1


def _busy(found: str) -> BusyError:
    return BusyError("a free place for a request", found, "try again in a moment")
