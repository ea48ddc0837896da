"""Requests a second of the whole service against its bare index, both in one process and one run."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.simulated_service import N_USERS, K
from tests.serve.clients import Server

pytestmark = pytest.mark.bench

SECONDS = 5.0
SIZES = [("exact", 18_000), ("faiss", 18_000), ("exact", 1_000_000), ("faiss", 1_000_000)]


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


@pytest.mark.parametrize(("backend", "n_items"), SIZES)
def test_requests_a_second(backend: str, n_items: int, tmp_path: Path) -> None:
    """One client, eight (as many as may be in flight), and more than places and queue hold."""
    command = [sys.executable, "-m", "tests.benchmarks.simulated_service", backend, str(n_items)]
    with (tmp_path / "log").open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr)
    server = Server(process, "", tmp_path / "log")
    try:
        server.url = server.wait_for("listening", patience=600)["url"]
        bare = server.lines("bare")[0]
        asyncio.run(ask(server.port, 1.0, 4))  # warm
        single, _ = asyncio.run(ask(server.port, SECONDS, 1))
        times, statuses = asyncio.run(ask(server.port, SECONDS, 8))
        _, crowd = asyncio.run(ask(server.port, SECONDS, 32))
        sizes = server.get("/metrics").text
    finally:
        process.kill()
        process.wait()
    p50, p95, p99 = (1000 * float(np.quantile(times, q)) for q in (0.5, 0.95, 0.99))
    one, total, batches = 1000 * float(np.median(single)), _value(sizes, "sum"), _value(sizes, "count")
    alone = 1000 * bare["seconds"]
    print(
        f"\n{backend}, {n_items:,} items, recall@{K} {bare['recall']:.3f}: 8 clients {statuses[200] / SECONDS:.0f} "
        f"requests/s, p50 {p50:.1f} ms, p95 {p95:.1f} ms, p99 {p99:.1f} ms; one client p50 {one:.2f} ms, {one / alone:.1f} "
        f"times the bare search of {alone:.2f} ms; 32 clients {dict(crowd)}; {total / batches:.1f} lists a search"
    )
    assert set(statuses) == {200}
    assert set(crowd) <= {200, 503}
    assert crowd[200] > 0


def _value(metrics: str, name: str) -> float:
    return float(metrics.split(f"\nmmrec_batch_size_{name} ")[1].split("\n")[0])
