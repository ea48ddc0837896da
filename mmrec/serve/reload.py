"""Another bundle in place of the served one, while requests go on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from mmrec.bundle.manifest import MANIFEST
from mmrec.errors import MMRecError
from mmrec.serve.engine import Engine
from mmrec.serve.logs import log
from mmrec.serve.service import Service

LOOK = 1.0  # seconds between two looks at the folder
AGAIN = 30.0  # seconds until a bundle that could not be opened is tried again, unless it changes before

Stamp = tuple[str, int, int, int] | None


class Reloader:
    """Opens bundles beside the one that is served.

    A bundle is read and checked in full and its index opened before any request sees it; one that cannot be opened
    changes nothing but the log.

    Args:
        service: Where it is served.
        open_engine: Opens whatever is at ``path`` now.
        path: The bundle, or a link to one.
        known: Its :func:`stamp` before it was opened.
    """

    def __init__(self, service: Service, open_engine: Callable[[], Engine], path: Path, known: Stamp) -> None:
        self._service, self._open, self._path, self._known = service, open_engine, path, known
        self._wanted = asyncio.Event()

    def ask(self) -> None:
        """Open the bundle anew, after the opening that may be under way."""
        self._wanted.set()

    async def run(self) -> None:
        """Do what :meth:`ask` asks for, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            await self.reload()

    async def watch(self, look: float = LOOK, again: float = AGAIN) -> None:
        """Open the bundle anew whenever its manifest becomes another file, until cancelled.

        Args:
            look: Seconds between two looks.
            again: Seconds until a bundle that could not be opened is tried again.
        """
        failed = -1.0
        while True:
            await asyncio.sleep(look)
            found = stamp(self._path)
            due = failed >= 0 and time.monotonic() - failed > again
            if found is not None and (found != self._known or due):
                failed = -1.0 if await self.reload() else time.monotonic()

    async def reload(self) -> bool:
        """Open the bundle and switch to it; False where it cannot be opened."""
        started, before = time.monotonic(), self._service.engine.hash
        self._known = stamp(self._path)  # what changes while it is opened is another change
        try:
            engine = await asyncio.to_thread(self._open)
        except Exception as error:
            reason = error.found if isinstance(error, MMRecError) else type(error).__name__
            wanted = error.expected if isinstance(error, MMRecError) else "a bundle"
            log(
                "reload failed", logging.ERROR, exception=error, expected=wanted, found=reason, serving=before
            )
            self._service.metrics.add_reload(ok=False)
            return False
        self._service.switch(engine)
        self._service.metrics.add_reload(ok=True)
        seconds = round(time.monotonic() - started, 3)
        log("reloaded", bundle=engine.hash, before=before, seconds=seconds)
        return True


def stamp(path: Path) -> Stamp:
    """What changes when another manifest comes to lie there; None while there is none."""
    try:
        file = (path / MANIFEST).resolve(strict=True)
        found = file.stat()
    except OSError:
        return None
    return str(file), found.st_ino, found.st_mtime_ns, found.st_size
