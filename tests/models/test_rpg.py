"""RPG against its formulas, written out for one user and one item at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.models.contracts import Users
from mmrec.models.generative.rpg import RPG, Config
from tests.models.test_tiger import N_ITEMS, chain, everyone


def model(data: TrainingData, **params: object) -> RPG:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RPG(Config(**{"dim": 16, "dropout": 0.0, **params}), data).eval()


def naive_scores(rpg: RPG, items: list[int]) -> torch.Tensor:
    """Scores of all items for one history."""
    table = rpg.embedding
    codes = rpg.places
    means = torch.stack([table[codes[i]].mean(0) for i in range(len(codes))])
    history = torch.tensor([items])
    state = rpg.encoder(means[history] * 16**0.5, history)[0, -1]
    start, logs = 0, []
    for code, size in enumerate(rpg.sizes):
        hidden = (
            rpg.heads.weight[code * 16 : code * 16 + 16] @ state + rpg.heads.bias[code * 16 : code * 16 + 16]
        )
        query = state + rpg.out.weight @ torch.nn.functional.silu(hidden)
        cosines = torch.nn.functional.cosine_similarity(query[None], table[start : start + size])
        logs.append((cosines / rpg.config.temperature).log_softmax(0))
        start += size
    offsets = [0, *np.cumsum(rpg.sizes)[:-1].tolist()]
    return torch.stack(
        [
            torch.stack([logs[j][codes[i, j] - offsets[j]] for j in range(len(logs))]).mean()
            for i in range(len(codes))
        ]
    )


def test_scores_are_those_of_the_formula() -> None:
    data = chain()
    rpg = model(data)
    with torch.no_grad():
        scores = rpg.scores(Users.of(data.train, np.arange(5)))
        for user in range(5):
            assert torch.allclose(scores[user], naive_scores(rpg, data.train[user].tolist()), atol=1e-5)


def test_a_graph_with_all_edges_gives_the_exact_scores() -> None:
    data = chain()
    with torch.no_grad():
        exact = model(data).scores(everyone(data))
        walked = model(data, search="graph", edges=N_ITEMS, steps=1).scores(everyone(data))
    assert torch.allclose(exact, walked, atol=1e-6)


def test_a_walk_finds_better_items_the_longer_it_goes_on_and_scores_them_exactly() -> None:
    data = chain()
    best = []
    with torch.no_grad():
        exact = model(data).scores(everyone(data))
        for steps in (1, 6):
            walked = model(data, search="graph", edges=4, beams=3, steps=steps).scores(everyone(data))
            found = walked > -torch.inf
            assert torch.allclose(walked[found], exact[found], atol=1e-6)
            best.append(walked.amax(1).mean())
    assert best[0] < best[1]
    assert not found.all()


def test_a_user_without_items_gets_finite_scores() -> None:
    data = chain()
    with torch.no_grad():
        scores = model(data).scores(
            Users(np.array([0]), Histories(np.array([0, 0]), np.empty(0, dtype=np.int64)))
        )
    assert torch.isfinite(scores).all()


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="divide"):
        Config(dim=10, heads=4)
