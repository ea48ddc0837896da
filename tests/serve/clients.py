"""Clients of a service: inside this process, and of a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from starlette.testclient import TestClient

from mmrec.serve.app import make_app
from mmrec.serve.engine import Engine
from mmrec.serve.keys import Keys
from mmrec.serve.limits import Limits
from mmrec.serve.service import Service

PATIENCE = 60  # seconds, on a busy machine


def make_service(engine: Engine, *keys: str, **limits: Any) -> Service:
    """A service over a shared engine, with limits of its own."""
    made = Service(engine, Keys(keys))
    if limits:
        own = object.__new__(Engine)
        own.__dict__.update(engine.__dict__, limits=Limits(**limits))
        made = Service(own, Keys(keys))
    return made


def make_client(service: Service, page: Path | None = None) -> TestClient:
    return TestClient(make_app(service, page), base_url="http://127.0.0.1", raise_server_exceptions=False)


@dataclass
class Server:
    """A serving process.

    Attributes:
        url: Where it listens.
        log: File with what it wrote on stderr.
    """

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What it logged of one kind."""
        documents = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [document for document in documents if document["event"] == event]

    def wait_for(self, event: str, patience: float = PATIENCE) -> dict[str, Any]:
        """The first line of a kind, when it is there."""
        end = time.monotonic() + patience
        while not (found := self.lines(event)):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, f"no {event!r} in {self.log.read_text()}"
            time.sleep(0.02)
        return found[0]

    def post(self, path: str, body: Any) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, timeout=PATIENCE)

    def get(self, path: str) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=PATIENCE)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        return self.process.wait(PATIENCE)


def start_server(bundle: Path, folder: Path, *options: str, port: int = 0) -> Iterator[Server]:
    """Start ``mmrec serve`` on a free port of 127.0.0.1, and end it."""
    log = folder / "log"
    command = [sys.executable, "-m", "mmrec", "serve", str(bundle), f"--port={port}", *options]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL, env=dict(os.environ))
    server = Server(process, "", log)
    try:
        server.url = server.wait_for("listening")["url"]
        end = time.monotonic() + PATIENCE
        while True:  # the socket listens before the server takes what comes
            try:
                server.get("/health")
                break
            except httpx2.TransportError:
                assert time.monotonic() < end
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE)
