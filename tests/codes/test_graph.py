"""Graph RQ-VAE: the layers against the formula, isolated items, and that it learns who buys what."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.testing import assert_allclose

from mmrec.codes import graph
from mmrec.codes.graph import GraphEncoder, GraphSettings, mean_neighbours, train_encoder
from mmrec.data.histories import Histories

FAST: dict[str, Any] = {
    "size": 4,
    "levels": 2,
    "epochs": 5,
    "graph_width": 8,
    "graph_dim": 6,
    "graph_epochs": 60,
    "graph_batch_size": 200,
    "graph_lr": 0.02,
}


def blocks() -> tuple[Histories, np.ndarray]:
    """20 users of two kinds; items 0-9 are of one kind, 10-19 of the other, item 20 nobody has."""
    rng = np.random.default_rng(0)
    pairs = [(u, i) for u in range(20) for i in 10 * (u % 2) + rng.permutation(10)[:6]]
    users, items = np.array(pairs).T
    features = rng.normal(size=(21, 5)).astype(np.float32)
    return Histories.from_pairs(users, items, 20), features


def test_layers_by_dense_matrices() -> None:
    train, features = blocks()
    torch.manual_seed(0)
    encoder = GraphEncoder(5, GraphSettings(**FAST)).eval()
    users = torch.randn(20, 8)
    matrix = mean_neighbours(train, 21)
    dense = matrix.to_dense()
    sums = dense.sum(1)
    assert_allclose(sums[:-1], np.ones(40), atol=1e-6)
    assert sums[-1] == 0
    nodes = torch.cat([users, encoder.features(torch.from_numpy(features))])
    hidden = torch.nn.functional.leaky_relu(encoder.own[0](nodes) + encoder.near[0](dense @ nodes))
    expected = encoder.own[1](hidden) + encoder.near[1](dense @ hidden)
    found = torch.cat(encoder(torch.from_numpy(features), users, matrix))
    assert_allclose(found.detach(), expected.detach(), atol=1e-5)


def test_an_isolated_item_is_encoded_as_a_new_one() -> None:
    train, features = blocks()
    torch.manual_seed(0)
    encoder = GraphEncoder(5, GraphSettings(**FAST)).eval()
    _, items = encoder(torch.from_numpy(features), torch.randn(20, 8), mean_neighbours(train, 21))
    assert torch.isfinite(items).all()
    assert_allclose(encoder.embed(features[-1:]), items[-1:].detach(), atol=1e-5)


def test_learns_from_interactions_and_gives_all_items_codes() -> None:
    train, features = blocks()
    seen = np.arange(21) < 20
    made = graph.fit(
        features,
        seen,
        GraphSettings(**FAST),
        torch.Generator().manual_seed(0),
        train=train,
        show_progress=False,
    )
    users, items = made.arrays["user_vectors"], made.arrays["item_vectors"]
    assert (users.shape, items.shape) == ((20, 6), (21, 6))
    scores = users @ items[:20].T
    own = np.arange(20)[:, None] % 2 == np.arange(20)[None, :] // 10
    assert scores[own].mean() > scores[~own].mean() + 1
    codes = made.quantiser.encode(made.vectors)
    assert codes.shape == (21, 2)
    assert np.isfinite(made.vectors).all()
    first = codes[:20, 0]  # the kinds do not share a code, features say nothing about them
    assert not set(first[:10]) & set(first[10:])
    again = type(made.front).restore(*made.front.state())
    assert (again.embed(features) == made.front.embed(features)).all()


def test_same_seed_same_bits() -> None:
    train, features = blocks()
    settings = GraphSettings(**{**FAST, "graph_epochs": 2})
    one, two = (
        train_encoder(
            torch.from_numpy(features),
            train,
            settings,
            torch.Generator().manual_seed(3),
            show_progress=False,
        )
        for _ in range(2)
    )
    assert torch.equal(one[1], two[1]) and torch.equal(one[2], two[2])
