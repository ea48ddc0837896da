"""Requests a second of the whole service against the bare index, both in one run and one process."""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mmrec.data.histories import Histories
from mmrec.index import Index, build_index
from mmrec.models.contracts import Users, Vectors
from mmrec.serve.app import make_app
from mmrec.serve.engine import Engine
from mmrec.serve.limits import Limits
from mmrec.serve.reload import Reloader
from mmrec.serve.server import open_socket, serve
from mmrec.serve.service import Service

pytestmark = pytest.mark.bench

N_USERS, DIM, K = 10_000, 64, 10
CLIENTS, SECONDS = 16, 6.0
SIZES = [("exact", 18_000), ("faiss", 18_000), ("exact", 1_000_000), ("faiss", 1_000_000)]


class SimulatedBundle:
    """What the engine reads of a bundle of vectors, without files."""

    kind = "vectors"
    hash = "simulated-for-speed"

    def __init__(self, n_items: int, index: Index, vectors: np.ndarray[Any, Any]) -> None:
        rng = np.random.default_rng(1)
        pairs = rng.integers(0, N_USERS, N_USERS * 20), rng.integers(0, n_items, N_USERS * 20)
        users = torch.from_numpy(rng.standard_normal((N_USERS, DIM), dtype=np.float32))
        self.items = pd.DataFrame({"item_id": [f"item-{row}" for row in range(n_items)]})
        self.users = pd.DataFrame({"user_id": [f"user-{row}" for row in range(N_USERS)]})
        self.attributes, self.titles = self.items[[]], [""] * n_items
        self.item_vectors, self._index = vectors, index
        self._vectors = Vectors.from_tables(users, torch.from_numpy(vectors))
        self._seen = Histories.from_pairs(*pairs, N_USERS)
        self.data = SimpleNamespace(features={})
        self.manifest = SimpleNamespace(model="simulated", kind="vectors")

    def index(self, **_: Any) -> Index:
        return self._index

    def seen(self, user: int) -> np.ndarray[Any, Any]:
        return self._seen[user]

    def user_vectors(self, users: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self._vectors.users(Users.of(self._seen, users)).numpy()


class _Thread(threading.Thread):
    """Runs the service's loop beside the measuring thread; signals stay with the main thread."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self.socket = open_socket("127.0.0.1", 0)
        self.port, self.service = self.socket.getsockname()[1], service

    def run(self) -> None:
        reloader = Reloader(self.service, lambda: self.service.engine, None, None)  # type: ignore[arg-type]
        serve(self.service, make_app(self.service), self.socket, reloader, watch=False)


async def ask(port: int, seconds: float, clients: int) -> tuple[list[float], Counter[int]]:
    """Times and statuses of requests over kept connections, by plain sockets."""
    times: list[float] = []
    statuses: Counter[int] = Counter()
    end = time.perf_counter() + seconds

    async def client(seed: int) -> None:
        rng = np.random.default_rng(seed)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            body = json.dumps({"user": f"user-{rng.integers(N_USERS)}", "k": K}).encode()
            head = "POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            began = time.perf_counter()
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            header = await reader.readuntil(b"\r\n\r\n")
            length = int(header.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            times.append(time.perf_counter() - began)
            statuses[int(header[9:12])] += 1
        writer.close()

    await asyncio.gather(*(client(seed) for seed in range(clients)))
    return times, statuses


def bare(engine: Engine, seconds: float) -> float:
    """Searches a second of the index alone, one user at a time, what they have left out."""
    rng, count, end = np.random.default_rng(0), 0, time.perf_counter() + seconds
    bundle = engine.bundle
    assert engine.index is not None
    while time.perf_counter() < end:
        user = int(rng.integers(N_USERS))
        engine.index.search(bundle.user_vectors(np.array([user])), K, deny=[bundle.seen(user)])
        count += 1
    return count / seconds


@pytest.mark.parametrize(("backend", "n_items"), SIZES)
def test_requests_a_second(backend: str, n_items: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n_items, DIM), dtype=np.float32)
    index = build_index(backend, vectors)
    limits = Limits(in_flight=8, queue=4)
    engine = Engine(SimulatedBundle(n_items, index, vectors), limits=limits)  # type: ignore[arg-type]
    service = Service(engine)
    thread = _Thread(service)
    thread.start()
    asyncio.run(ask(thread.port, 1.0, 4))  # warm
    alone = bare(engine, SECONDS / 2)
    single, _ = asyncio.run(ask(thread.port, SECONDS / 2, 1))
    times, statuses = asyncio.run(ask(thread.port, SECONDS, 8))
    _, crowd = asyncio.run(ask(thread.port, SECONDS / 2, CLIENTS * 2))
    p50, p95, p99 = (1000 * float(np.quantile(times, q)) for q in (0.5, 0.95, 0.99))
    print(
        f"\n{backend} {n_items:,}: {statuses[200] / SECONDS:.0f} requests/s by 8 clients, "
        f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms; one client p50 "
        f"{1000 * statistics.median(single):.2f} ms, {1000 * statistics.median(single) * alone / 1000:.1f} times "
        f"the bare index ({1000 / alone:.2f} ms); {CLIENTS * 2} clients: {dict(crowd)}"
    )
    assert set(statuses) == {200}
    assert set(crowd) <= {200, 503}
    assert crowd[200] > 0
