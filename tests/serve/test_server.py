"""A process of its own: slow clients, another bundle under load, and every way to end it."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mmrec.serve.engine import Engine
from mmrec.serve.requests import RecommendRequest
from tests.serve.clients import PATIENCE, Server, start_server

ASK = {"user": "user-0003", "k": 5}


def raw_request(body: bytes, length: int | None = None) -> bytes:
    head = f"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length or len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def read_all(connection: Any) -> bytes:
    """All until the other side closes."""
    parts = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


class Load:
    """Clients that ask without end, and what they were answered."""

    def __init__(self, server: Server) -> None:
        self.answers: list[tuple[int, str]] = []
        self.lost = 0
        self._server, self._end = server, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(4)]

    def _ask(self, n: int) -> None:
        with httpx2.Client(base_url=self._server.url, timeout=PATIENCE) as client:
            while not self._end.is_set():
                try:
                    answer = client.post("/recommend", json={"user": f"user-{n:04d}"})
                    self.answers.append((answer.status_code, answer.json().get("bundle", "")))
                except httpx2.TransportError:
                    self.lost += 1
                    time.sleep(0.01)

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._end.set()
            for thread in self._threads:
                thread.join(PATIENCE)

    def wait_for(self, true: Callable[[list[tuple[int, str]]], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not true(self.answers):
            assert time.monotonic() < end
            time.sleep(0.01)

    def wait_for_bundle(self, bundle: str) -> None:
        self.wait_for(lambda answers: answers[-1][1] == bundle)

    def wait_for_more(self, n: int = 20) -> None:
        enough = len(self.answers) + n
        self.wait_for(lambda answers: len(answers) >= enough)


def test_it_answers_as_the_engine_does(server: Server, engine: Engine) -> None:
    answer = server.post("/recommend", ASK)
    assert answer.json() == engine.recommend(RecommendRequest(**ASK))
    assert "server" not in answer.headers
    assert server.lines("opened")[0]["items"] == 60


def test_slow_bodies_end(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(raw_request(b'{"user"', length=100))
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"0.5 seconds" in answer


def test_slow_headers_end(server: Server) -> None:
    for first in (b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: x\r\n"):
        with server.connect() as connection:
            connection.sendall(first)
            assert read_all(connection) == b""
    with server.connect() as connection:  # after a good request too
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        first = b""
        while not first.endswith(b'{"status":"ok"}'):
            first += connection.recv(65_536)
        connection.sendall(b"GET /health HT")
        assert read_all(connection) == b""
    with server.connect() as connection:  # one byte at a time does not renew it
        began = time.monotonic()
        with pytest.raises(OSError):  # a broken pipe or a reset, as it happens
            while time.monotonic() - began < PATIENCE:
                connection.sendall(b"x")
                time.sleep(0.05)


def test_what_is_no_http(server: Server) -> None:
    for content in (
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET /\r\n\r\n",
        b"A" * 100_000 + b"\r\n\r\n",
    ):
        with server.connect() as connection:
            connection.sendall(content)
            assert read_all(connection).startswith(b"HTTP/1.1 400 ")
    assert server.get("/health").status_code == 200


def test_bodies_that_were_never_read_leave_no_trace(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(raw_request(b"", length=10**12))
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")
    with server.connect() as connection:  # gone in the middle
        connection.sendall(raw_request(b'{"user"', length=100))
    assert server.post("/recommend", ASK).status_code == 200


def test_another_bundle_under_load(server: Server, current: Path, bundles: dict[str, Path]) -> None:
    def point_to(folder: Path) -> None:
        (current.parent / "next").symlink_to(folder)
        (current.parent / "next").replace(current)

    first = server.get("/info").json()["bundle"]
    load = Load(server)
    with load.running():
        load.wait_for_more()
        point_to(bundles["unisrec"])  # seen by watching
        second = server.wait_for("reloaded")["bundle"]
        load.wait_for_bundle(second)
        broken = current.parent / "broken"
        shutil.copytree(bundles["lightgcn"], broken)
        (broken / "items.parquet").write_bytes(b"")
        point_to(broken)
        assert "items.parquet" in server.wait_for("reload failed")["expected"]
        load.wait_for_more()
        point_to(bundles["lightgcn"])
        server.process.send_signal(signal.SIGHUP)
        load.wait_for_bundle(first)
    assert load.lost == 0
    assert {status for status, _ in load.answers} == {200}
    assert {bundle for _, bundle in load.answers} == {first, second}


def test_killed_it_serves_again_and_asked_to_stop_it_answers_what_it_took(
    bundles: dict[str, Path], tmp_path: Path, engine: Engine
) -> None:
    before = {path: path.stat().st_mtime_ns for path in bundles["lightgcn"].rglob("*")}
    for server in start_server(bundles["lightgcn"], tmp_path):
        port, load = server.port, Load(server)
        with load.running():
            load.wait_for_more()
            assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        assert {status for status, _ in load.answers} == {200}
    for server in start_server(bundles["lightgcn"], tmp_path, port=port):
        assert server.post("/recommend", ASK).json() == engine.recommend(RecommendRequest(**ASK))
        load = Load(server)
        with load.running():
            load.wait_for_more()
            assert server.stop(signal.SIGTERM) == 0
        statuses = [status for status, _ in load.answers]
        assert set(statuses) <= {200, 503}
        assert statuses.count(200) >= 20
        assert [line["signal"] for line in server.lines("stopping")] == ["SIGTERM"]
        assert len(server.lines("stopped")) == 1
        logged = [line["status"] for line in server.lines("request") if line["path"] == "/recommend"]
        assert logged.count(200) == statuses.count(200) + 1  # whatever was answered has arrived
    assert {path: path.stat().st_mtime_ns for path in bundles["lightgcn"].rglob("*")} == before


def test_health_answers_under_load(server: Server) -> None:
    async def story() -> list[float]:
        async with httpx2.AsyncClient(base_url=server.url, timeout=PATIENCE) as client:
            work = [
                asyncio.create_task(client.post("/recommend", json={"user": f"user-{n:04d}", "k": 60}))
                for n in range(100)
            ]
            times = []
            for _ in range(5):
                began = time.perf_counter()
                assert (await client.get("/health")).status_code == 200
                times.append(time.perf_counter() - began)
            assert {(await task).status_code for task in work} <= {200, 503}
            return times

    assert max(asyncio.run(story())) < 10


def test_nothing_of_the_users_is_in_the_log(server: Server) -> None:
    server.post("/recommend", {"user": "user-0003", "where": "price < 123.25"})
    server.get("/items/item-0007")
    text = server.log.read_text()
    assert not [word for word in ("user-0003", "item-0007", "123.25") if word in text]
    assert [json.loads(line)["event"] for line in text.splitlines()][:2] == ["opened", "listening"]
