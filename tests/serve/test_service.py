"""Places, batches and patience: what happens when there is more to do than can be done."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mmrec.bundle.bundle import Bundle
from mmrec.bundle.manifest import MANIFEST
from mmrec.index import Found
from mmrec.serve.app import make_app
from mmrec.serve.batches import Batches
from mmrec.serve.engine import Engine
from mmrec.serve.errors import BusyError
from mmrec.serve.gate import Gate
from mmrec.serve.limits import Limits
from mmrec.serve.reload import Reloader, stamp
from mmrec.serve.requests import RecommendRequest
from mmrec.serve.service import Service
from tests.serve.clients import make_client, make_service

USERS = [f"user-{row:04d}" for row in range(40)]


class Slow:
    """An index that answers when it is let, and can be made to fail."""

    backend = "exact"

    def __init__(self, index: Any) -> None:
        self.index, self.go, self.began = index, threading.Event(), threading.Event()
        self.sizes: list[int] = []
        self.error: Exception | None = None

    def search(self, queries: Any, *arguments: Any, **options: Any) -> Found:
        self.sizes.append(len(queries))
        self.began.set()
        assert self.go.wait(30)
        if self.error is not None:
            raise self.error
        found: Found = self.index.search(queries, *arguments, **options)
        return found


def slow_service(engine: Engine, **limits: Any) -> tuple[Service, Slow]:
    own = object.__new__(Engine)
    slow = Slow(engine.index)
    own.__dict__.update(engine.__dict__, index=slow, limits=Limits(**{"threads": 1, **limits}))
    return Service(own), slow


def with_client(service: Service, story: Callable[[httpx2.AsyncClient], Awaitable[None]]) -> None:
    async def run() -> None:
        transport = httpx2.ASGITransport(make_app(service))
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=30) as client:
            await story(client)

    asyncio.run(run())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.002)


def ask(client: httpx2.AsyncClient, user: str, **options: Any) -> asyncio.Task[httpx2.Response]:
    return asyncio.create_task(client.post("/recommend", json={"user": user, "k": 5, **options}))


def test_who_waits_is_answered_by_one_search(engine: Engine) -> None:
    service, slow = slow_service(engine, batch=16)
    expected = [engine.recommend(RecommendRequest(user=user, k=5)) for user in USERS]

    async def story(client: httpx2.AsyncClient) -> None:
        first = ask(client, USERS[0])
        await until(slow.began.is_set)
        others = [ask(client, user) for user in USERS[1:]]
        another, unknown = ask(client, USERS[0], where="price < 50"), ask(client, "nobody")
        await until(lambda: service.gate.in_flight == 42)
        slow.go.set()
        answers = await asyncio.gather(first, *others)
        assert [answer.json() for answer in answers] == expected
        assert (await unknown).status_code == 404
        filtered = RecommendRequest(user=USERS[0], k=5, where="price < 50")
        assert (await another).json() == engine.recommend(filtered)

    with_client(service, story)
    # the lone one at once; then as many as fit; a filter of its own between them; of 40 the unknown one has no list
    assert sorted(slow.sizes) == [1, 1, 7, 16, 16]
    assert slow.sizes[0] == 1
    assert service.gate.in_flight == 0


def test_batches_give_each_its_own() -> None:
    """Many threads ask in any order; some answers are errors, some askers have gone."""
    sizes: list[int] = []

    def answer(numbers: list[int]) -> list[int | Exception]:
        if numbers[0] % 3 == 2:
            raise KeyError(numbers[0] % 3)
        return [ValueError(n) if n % 5 == 0 else n * n for n in numbers]

    with ThreadPoolExecutor(4) as pool:
        batches = Batches[int, int](pool, answer, 8, sizes.append)
        with ThreadPoolExecutor(4) as askers:
            futures = list(askers.map(lambda n: batches.ask(n % 3, n), range(600)))
        for n, future in enumerate(futures):
            error = future.exception(30)
            if n % 3 == 2:
                assert isinstance(error, KeyError)
            elif n % 5 == 0:
                assert isinstance(error, ValueError)
            else:
                assert future.result() == n * n
        gate = threading.Event()
        pool_of_one = ThreadPoolExecutor(1)
        busy = pool_of_one.submit(gate.wait, 30)
        late = Batches[int, int](pool_of_one, answer, 8, sizes.append)
        gone, stays = late.ask(0, 3), late.ask(0, 6)
        assert gone.cancel()
        gate.set()
        assert (stays.result(30), busy.result()) == (36, True)
        pool_of_one.shutdown()
    assert sum(sizes) == 601
    assert max(sizes) <= 8


def test_too_many_are_told_so_while_health_answers(engine: Engine) -> None:
    service, slow = slow_service(engine, in_flight=2, queue=3)

    async def story(client: httpx2.AsyncClient) -> None:
        tasks = [ask(client, user) for user in USERS[:5]]
        await until(lambda: (service.gate.in_flight, service.gate.waiting) == (2, 3))
        refused = await ask(client, USERS[5])
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "2 in flight and 3 waiting" in refused.json()["error"]["found"]
        for path in ("/health", "/ready", "/info"):
            assert (await client.get(path)).status_code == 200
        counted = (await client.get("/metrics")).text
        assert "mmrec_in_flight 2\n" in counted
        assert "mmrec_queue 3\n" in counted
        slow.go.set()
        assert [(await task).status_code for task in tasks] == [200] * 5
        assert (await ask(client, USERS[5])).status_code == 200

    with_client(service, story)


def test_patience_ends_but_the_place_is_taken_until_the_work_is_done(engine: Engine) -> None:
    service, slow = slow_service(engine, in_flight=1, queue=1, seconds=0.2)

    async def story(client: httpx2.AsyncClient) -> None:
        late = await ask(client, USERS[0])
        assert (late.status_code, service.gate.in_flight) == (504, 1)
        waited = await ask(client, USERS[1])
        assert (waited.status_code, service.gate.waiting) == (503, 0)
        slow.go.set()
        await until(lambda: service.gate.in_flight == 0)
        assert (await ask(client, USERS[2])).status_code == 200

    with_client(service, story)


def test_a_database_that_fails_and_comes_back(engine: Engine) -> None:
    service, slow = slow_service(engine)
    slow.go.set()
    client = make_client(service)
    body = {"user": USERS[0], "k": 5}
    assert client.post("/recommend", json=body).status_code == 200
    slow.error = ConnectionError("the database has gone")
    for _ in range(2):
        failed = client.post("/recommend", json=body)
        assert (failed.status_code, failed.headers["retry-after"]) == (503, "5")
        assert "gone" not in failed.text
    assert (
        client.get("/health").status_code
        == client.post("/similar", json={"item": "item-0003"}).status_code
        == 200
    )
    slow.error = None
    assert client.post("/recommend", json=body).json() == engine.recommend(RecommendRequest(**body))


def test_places_are_never_lost() -> None:
    """Those who wait leave at any moment: served, impatient or cancelled."""

    async def story() -> None:
        gate = Gate(2, 50)

        async def visit(n: int) -> str:
            try:
                await gate.enter(0.03 if n % 3 == 0 else 5)
            except BusyError:
                return "busy"
            assert gate.in_flight <= 2
            await asyncio.sleep(0.002 * (n % 4))
            gate.leave()
            return "served"

        tasks = [asyncio.create_task(visit(n)) for n in range(40)]
        await asyncio.sleep(0.004)
        for task in tasks[1::4]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert (gate.in_flight, gate.waiting) == (0, 0)
        assert {str(one) for one in done} >= {"served"}
        await gate.enter(0)
        await gate.enter(0)
        with pytest.raises(BusyError, match="none free in 0 seconds"):
            await gate.enter(0)
        gate.leave()
        gate.leave()

    asyncio.run(story())


def test_stopping_refuses_what_is_new(engine: Engine) -> None:
    service = make_service(engine)
    client = make_client(service)
    service.stopping = True
    for response in (client.get("/ready"), client.post("/recommend", json={"user": USERS[0]})):
        assert (response.status_code, response.headers["connection"]) == (503, "close")
    assert client.get("/health").status_code == 200


# --- Another bundle


def test_a_request_keeps_the_engine_it_began_with(engines: dict[str, Engine]) -> None:
    service, slow = slow_service(engines["lightgcn"])

    async def story(client: httpx2.AsyncClient) -> None:
        before = ask(client, USERS[0])
        await until(slow.began.is_set)
        service.switch(engines["unisrec"])
        after = ask(client, USERS[0])
        slow.go.set()
        answers = [(await task).json()["bundle"] for task in (before, after)]
        assert answers == [engines["lightgcn"].hash, engines["unisrec"].hash]

    with_client(service, story)


def test_a_broken_bundle_changes_nothing(bundles: dict[str, Path], tmp_path: Path) -> None:
    current = tmp_path / "current"
    shutil.copytree(bundles["lightgcn"], current)
    service = Service(Engine(Bundle(current)))
    client = make_client(service)
    before = client.get("/info").json()
    reloader = Reloader(service, lambda: Engine(Bundle(current)), current, None)

    def damage(name: str, content: bytes) -> None:
        (current / name).write_bytes(content)

    for name in ("item_vectors.safetensors", "index/manifest.json", MANIFEST):
        whole = (current / name).read_bytes()
        damage(name, whole[:-20])
        assert not asyncio.run(reloader.reload())
        assert client.get("/info").json() == before
        assert client.post("/recommend", json={"user": USERS[0]}).status_code == 200
        damage(name, whole)
    document = json.loads((current / MANIFEST).read_text())
    (current / MANIFEST).write_text(json.dumps({**document, "created": "later"}))
    assert asyncio.run(reloader.reload())
    assert client.get("/info").json()["bundle"] != before["bundle"]
    counted = client.get("/metrics").text
    assert 'mmrec_reloads_total{result="failed"} 3\n' in counted
    assert 'mmrec_reloads_total{result="ok"} 1\n' in counted


def test_watching_sees_links_and_files_change(bundles: dict[str, Path], tmp_path: Path) -> None:
    current = tmp_path / "current"
    current.symlink_to(bundles["lightgcn"])
    service = Service(Engine(Bundle(current)))
    reloader = Reloader(service, lambda: Engine(Bundle(current)), current, stamp(current))

    def point_to(folder: Path) -> None:
        (tmp_path / "next").symlink_to(folder)
        (tmp_path / "next").replace(current)

    async def story() -> None:
        watching = asyncio.create_task(reloader.watch(look=0.01, again=0.05))
        point_to(bundles["ease"])
        await until(lambda: service.engine.bundle.kind == "scores")
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / MANIFEST).write_text("{}")
        point_to(tmp_path / "broken")
        await until(lambda: 'result="failed"} 2' in service.metrics.render())  # and again after a while
        assert service.engine.bundle.kind == "scores"
        point_to(bundles["lightgcn"])
        await until(lambda: service.engine.bundle.kind == "vectors")
        watching.cancel()

    asyncio.run(story())
