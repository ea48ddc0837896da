"""What is between requests and the engine: places, threads, batches, the time an answer may take, and the current bundle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from mmrec.serve.batches import Batches
from mmrec.serve.engine import Answer, Engine
from mmrec.serve.errors import TooSlowError
from mmrec.serve.gate import Gate
from mmrec.serve.keys import Keys
from mmrec.serve.limits import Limits
from mmrec.serve.metrics import Metrics
from mmrec.serve.requests import RecommendRequest

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class _Current:
    """An engine, and what waits for it."""

    engine: Engine
    batches: Batches[RecommendRequest, Answer]


class Service:
    """One bundle at a time, served to many.

    A request that has begun keeps the engine it began with, whatever :meth:`switch` does meanwhile.

    Attributes:
        stopping: Whether new requests are refused.

    Args:
        engine: The first one.
        keys: Who may ask.
    """

    def __init__(self, engine: Engine, keys: Keys | None = None) -> None:
        self.limits: Limits = engine.limits
        self.keys = keys or Keys()
        self.metrics = Metrics()
        self.gate = Gate(self.limits.in_flight, self.limits.queue)
        self.stopping = False
        self._pool = ThreadPoolExecutor(self.limits.threads, thread_name_prefix="mmrec-serve")
        self.switch(engine)
        self.metrics.gauges = {
            "in_flight": lambda: self.gate.in_flight,
            "queue": lambda: self.gate.waiting,
        }
        self.metrics.info = self._describe

    def _describe(self) -> dict[str, str]:
        manifest = self.engine.bundle.manifest
        return {"bundle": self.engine.hash, "model": manifest.model, "kind": manifest.kind}

    @property
    def engine(self) -> Engine:
        """The current one."""
        return self._current.engine

    def switch(self, engine: Engine) -> None:
        """Answer what comes from now on by another engine."""

        def answer(requests: list[RecommendRequest]) -> list[Answer | Exception]:
            return [*engine.recommend_all(requests)]

        batches = Batches(self._pool, answer, self.limits.batch, self.metrics.add_batch)
        self._current = _Current(engine, batches)

    async def recommend(self, request: RecommendRequest) -> Answer:
        """A list, made together with others that wait.

        Raises:
            BusyError: No place.
            TooSlowError: It took too long.
            MMRecError: As :meth:`Engine.recommend` says.
        """
        current = self._current
        return await self._finish(lambda: current.batches.ask(current.engine.shape(request), request))

    async def ask(self, question: Callable[[Engine], T]) -> T:
        """Anything else that the engine knows, found out in a thread.

        Raises:
            BusyError: No place.
            TooSlowError: It took too long.
            MMRecError: As the engine says.
        """
        engine = self.engine
        return await self._finish(lambda: self._pool.submit(question, engine))

    async def _finish(self, start: Callable[[], Future[T]]) -> T:
        """Wait for a place and for the answer; the place is free when the work ends, not when the patience does."""
        loop, seconds = asyncio.get_running_loop(), self.limits.seconds
        deadline = loop.time() + seconds
        await self.gate.enter(seconds)
        try:
            future = start()
        except BaseException:
            self.gate.leave()
            raise
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self.gate.leave))
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            raise TooSlowError(
                f"an answer in {seconds:g} seconds", "none yet", "ask for less, or try again later"
            ) from None

    async def idle(self, seconds: float) -> bool:
        """Wait until nothing is in flight; False if something still is."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self.gate.in_flight and loop.time() < deadline:
            await asyncio.sleep(0.02)
        return not self.gate.in_flight

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
