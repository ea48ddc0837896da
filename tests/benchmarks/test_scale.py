"""How time and memory of FREEDOM grow with the catalogue, up to 200,000 items, 1,000,000 users, 10,000,000 pairs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.bench

SIZES = (2_000, 20_000, 200_000)  # items; five users and fifty pairs for each
EPOCH = """
import json, sys, time
import numpy as np, torch
from mmrec.data.batches import PairBatches
from mmrec.data.dataset import TrainingData, unique_pairs
from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.memory import keep_freed_memory, peak_memory
from mmrec.models.graph.freedom import FREEDOM, Config

keep_freed_memory()
n_items = int(sys.argv[1])
n_users, n_pairs = 5 * n_items, 50 * n_items
rng = np.random.default_rng(0)
# Popularity falls with the rank like 1 / (rank + 20): a hundredth of the items gets about a third of the pairs.
popularity = 1 / (np.arange(n_items) + 20)
draws = int(1.3 * n_pairs)
items = rng.choice(n_items, size=draws, p=popularity / popularity.sum())
users = rng.integers(n_users, size=draws)
keep = np.flatnonzero(unique_pairs(users, items, n_items))[:n_pairs]
assert len(keep) == n_pairs
train = Histories.from_pairs(users[keep], items[keep], n_users)
del users, items, keep
vectors = rng.standard_normal((n_items, 128), dtype=np.float32)
table = FeatureTable("random", "text", vectors, np.ones(n_items, dtype=bool))
data = TrainingData(n_users, n_items, train, {"text": table})

started = time.perf_counter()
torch.manual_seed(0)
model = FREEDOM(Config(), data)
built = time.perf_counter()
optimizer = torch.optim.Adam(model.parameters(), fused=True)
batches = PairBatches(data, n_pairs // 160)  # as many steps at each size: a step costs one pass over all nodes
model.on_epoch(torch.Generator().manual_seed(0))
for batch in batches.epoch(torch.Generator().manual_seed(1)):
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(model.loss(batch).values())).sum().backward()
    optimizer.step()
epoch = time.perf_counter() - built
print(json.dumps({"items": n_items, "build": built - started, "epoch": epoch, "peak": peak_memory() / 2**30}))
"""


def test_an_epoch_with_200000_items_fits_into_24_gibibytes_and_grows_in_proportion(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path_factory.mktemp("cache")))
    results = []
    for size in SIZES:
        done = subprocess.run(
            [sys.executable, "-c", EPOCH, str(size)], capture_output=True, text=True, check=True
        )
        results.append(json.loads(done.stdout))
        print(
            "{items:>7,} items: graphs {build:.1f} s, epoch {epoch:.1f} s, peak {peak:.2f} GiB".format(
                **results[-1]
            )
        )
    _, middle, large = results
    assert large["peak"] < 24
    # tenfold items, users and pairs: memory and an epoch grow tenfold or less, the exact item graph up to hundredfold
    assert large["peak"] < 10 * middle["peak"]
    assert large["epoch"] < 15 * middle["epoch"]
