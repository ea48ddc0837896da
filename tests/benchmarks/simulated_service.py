"""A service over simulated vectors: ``python -m tests.benchmarks.simulated_service BACKEND N_ITEMS``."""

from __future__ import annotations

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from mmrec.compress.codec import Rows
from mmrec.compress.measure import clustered_vectors
from mmrec.data.histories import Histories
from mmrec.index import Index, build_index, measure_recall
from mmrec.models.contracts import Users, Vectors
from mmrec.serve.app import make_app
from mmrec.serve.engine import Engine
from mmrec.serve.limits import Limits
from mmrec.serve.logs import log, set_up
from mmrec.serve.reload import Reloader
from mmrec.serve.server import open_socket, serve
from mmrec.serve.service import Service

N_USERS, DIM, K = 10_000, 64, 10
SECONDS = 3.0


class SimulatedBundle:
    """What the engine reads of a bundle of vectors, without files."""

    kind = "vectors"
    hash = "simulated-for-speed"

    def __init__(self, users: Rows, vectors: Rows, index: Index) -> None:
        rng, n_items = np.random.default_rng(1), len(vectors)
        pairs = rng.integers(0, N_USERS, N_USERS * 20), rng.integers(0, n_items, N_USERS * 20)
        self.items = pd.DataFrame({"item_id": [f"item-{row}" for row in range(n_items)]})
        self.users = pd.DataFrame({"user_id": [f"user-{row}" for row in range(N_USERS)]})
        self.attributes, self.titles = self.items[[]], [""] * n_items
        self.item_vectors, self._index = vectors, index
        self._vectors = Vectors.from_tables(torch.from_numpy(users), torch.from_numpy(vectors))
        self._seen = Histories.from_pairs(*pairs, N_USERS)
        self.data = SimpleNamespace(features={})
        self.manifest = SimpleNamespace(model="simulated", kind="vectors")

    def index(self, **_: Any) -> Index:
        return self._index

    def ranker(self) -> None:
        return None

    def seen(self, user: int) -> np.ndarray[Any, Any]:
        return self._seen[user]

    def user_vectors(self, users: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self._vectors.users(Users.of(self._seen, users)).numpy()


def bare(engine: Engine, seconds: float) -> float:
    """Median seconds of a search of the index alone, one user at a time, what they have left out."""
    rng, times, end = np.random.default_rng(0), [], time.perf_counter() + seconds
    bundle = engine.bundle
    queries = bundle.user_vectors(np.arange(N_USERS))
    assert engine.index is not None
    while (began := time.perf_counter()) < end:
        user = int(rng.integers(N_USERS))
        engine.index.search(queries[user : user + 1], K, deny=[bundle.seen(user)])
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main(backend: str, n_items: int) -> None:
    """Measure the index alone, then serve."""
    set_up("info")
    rows = clustered_vectors(n_items + N_USERS, DIM, n_items // 200, np.random.default_rng(0))
    users, vectors = rows[:N_USERS], rows[N_USERS:]
    index = build_index(backend, vectors)
    recall = measure_recall(index, users, K)
    bundle = SimulatedBundle(users, vectors, index)
    engine = Engine(bundle, limits=Limits(in_flight=8, queue=4))  # type: ignore[arg-type]
    # In a thread, as the service does: large arrays cost the main thread a third more.
    with ThreadPoolExecutor(1) as pool:
        seconds = pool.submit(bare, engine, SECONDS).result()
    log("bare", seconds=seconds, recall=recall)
    set_up("warning")
    service = Service(engine)
    with open_socket("127.0.0.1", 0) as listening:
        print(
            f'{{"event": "listening", "url": "http://127.0.0.1:{listening.getsockname()[1]}"}}',
            file=sys.stderr,
        )
        reloader = Reloader(service, lambda: engine, Path(), None)
        serve(service, make_app(service), listening, reloader, watch=False)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
