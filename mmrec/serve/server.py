"""The process: a socket, uvicorn, signals, and an end in which every request that was taken is answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from mmrec.errors import ConfigError
from mmrec.serve.logs import log
from mmrec.serve.protocol import Protocol
from mmrec.serve.reload import Reloader
from mmrec.serve.service import Service

KEEP_ALIVE = 5  # seconds that an idle connection stays open
HEADER_BYTES = 32 * 2**10


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: Host or port cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(1024)
        except BaseException:
            made.close()
            raise
    except (OSError, OverflowError) as error:
        found = f"{host}:{port}: {error}"
        raise ConfigError("a host and a free port", found, "choose another --host or --port") from None
    return made


class _Server(uvicorn.Server):
    """Stops in two steps: new requests are refused while those in flight are answered; then connections are closed."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.stopping or self._loop is None:  # asked twice, or before it began
            self.should_exit = self.force_exit = True
            return
        self._service.stopping = True
        self._loop.call_soon_threadsafe(self._stop, signal.Signals(sig).name)

    def _stop(self, name: str) -> None:
        log("stopping", signal=name, in_flight=self._service.gate.in_flight)
        self._stopping = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        if not await self._service.idle(self._service.limits.stop_seconds):
            log("requests left unanswered", logging.WARNING, n=self._service.gate.in_flight)
        self.should_exit = True


def serve(
    service: Service, app: FastAPI, listening: socket.socket, reloader: Reloader, *, watch: bool
) -> None:
    """Answer until SIGTERM or SIGINT; SIGHUP opens the bundle anew.

    Args:
        service: What answers.
        app: The application over it.
        listening: Where requests come in.
        reloader: Opens the bundle anew.
        watch: Do so too whenever the bundle changes.
    """
    limits = service.limits
    config = uvicorn.Config(
        app,
        http=type("Protocol", (Protocol,), {"header_seconds": limits.header_seconds}),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=HEADER_BYTES,
    )
    try:
        asyncio.run(_serve(_Server(config, service), listening, reloader, watch=watch))
    finally:
        service.close()
    log("stopped")


async def _serve(server: _Server, listening: socket.socket, reloader: Reloader, *, watch: bool) -> None:
    host, port = listening.getsockname()[:2]
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.ask)
    jobs = [asyncio.create_task(reloader.run())]
    if watch:
        jobs.append(asyncio.create_task(reloader.watch()))
    log("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}")
    await server.serve(sockets=[listening])
    for job in jobs:
        job.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await job
