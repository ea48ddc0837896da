"""A service over simulated vectors: ``python -m tests.benchmarks.simulated_service BACKEND N_ITEMS``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch

from mmrec.data.histories import Histories
from mmrec.index import Index, build_index
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


def main(backend: str, n_items: int) -> None:
    """Measure the bare index, then serve."""
    set_up("info")
    vectors = np.random.default_rng(0).standard_normal((n_items, DIM), dtype=np.float32)
    bundle = SimulatedBundle(n_items, build_index(backend, vectors), vectors)
    engine = Engine(bundle, limits=Limits(in_flight=8, queue=4))  # type: ignore[arg-type]
    log("bare", searches=bare(engine, SECONDS))
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
