"""LightGCN against dense formulas and against torch-geometric's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from tests.dense import (
    assert_close,
    history_matrix,
    layer_mean,
    negative_log_sigmoid,
    normalized_adjacency,
)
from tests.learning import all_scores, new_model
from tests.small_data import data_of

N_USERS, N_ITEMS = 16, 14  # a graph of 30 nodes


def random_data(seed: int = 0) -> TrainingData:
    """Random likes; each item has some, so that none is untrained."""
    rng = np.random.default_rng(seed)
    likes = rng.random((N_USERS, N_ITEMS)) < 0.25
    likes[np.arange(N_ITEMS), np.arange(N_ITEMS)] = True
    return data_of(likes)


def random_batch(size: int = 50, seed: int = 0) -> PairBatch:
    rng = np.random.default_rng(seed)
    triples = [rng.integers(0, high, size) for high in (N_USERS, N_ITEMS, N_ITEMS)]
    return PairBatch(*(torch.from_numpy(ids) for ids in triples))


def backward(terms: dict[str, Tensor]) -> None:
    torch.stack(list(terms.values())).sum().backward()


def dense_tables(model: Any, data: TrainingData, layers: int) -> tuple[Tensor, Tensor, Tensor]:
    """A leaf copy of the embeddings, and the propagated users and items."""
    leaf = model.embeddings.detach().double().requires_grad_()
    propagated = layer_mean(normalized_adjacency(history_matrix(data.train, data.n_items)), leaf, layers)
    return leaf, propagated[: data.n_users], propagated[data.n_users :]


@pytest.mark.parametrize("layers", [0, 1, 2, 4])
class TestDenseTwin:
    def test_2_scores(self, layers: int) -> None:
        data = random_data()
        model = new_model("lightgcn", data, dim=8, layers=layers)
        _, users, items = dense_tables(model, data, layers)
        assert_close(all_scores(model, data), users @ items.T, 1e-6)

    @pytest.mark.parametrize("penalty", ["norm", "squared"])
    def test_losses_and_gradients(self, layers: int, penalty: str) -> None:
        data, batch, reg = random_data(), random_batch(), 0.3
        model = new_model("lightgcn", data, dim=8, layers=layers, reg=reg, penalty=penalty)
        leaf, users, items = dense_tables(model, data, layers)
        positive = (users[batch.users] * items[batch.positives]).sum(1)
        negative = (users[batch.users] * items[batch.negatives]).sum(1)
        own = [leaf[batch.users], leaf[N_USERS + batch.positives], leaf[N_USERS + batch.negatives]]
        if penalty == "norm":
            size = sum(torch.sqrt((rows * rows).sum()) for rows in own) / 50
        else:
            size = sum((rows * rows).sum() for rows in own) / (2 * 50)
        expected = {"bpr": negative_log_sigmoid(positive, negative), "penalty": reg * size}
        terms = model.loss(batch)
        assert terms.keys() == expected.keys()
        for name, term in expected.items():
            assert_close(terms[name], term)
        backward(terms)
        backward(expected)
        assert_close(model.embeddings.grad, leaf.grad)


@pytest.mark.parametrize("layers", [1, 3])
def test_6_equals_torch_geometric(layers: int) -> None:
    from torch_geometric.nn.models import LightGCN as Reference

    data, batch = random_data(), random_batch()
    model = new_model("lightgcn", data, dim=8, layers=layers, reg=0.2, penalty="squared")
    reference = Reference(N_USERS + N_ITEMS, 8, layers)
    with torch.no_grad():
        reference.embedding.weight.copy_(model.embeddings)
    users, items = torch.from_numpy(data.train.users), torch.from_numpy(data.train.items) + N_USERS
    both = torch.stack([torch.cat([users, items]), torch.cat([items, users])])
    embedding = reference.get_embedding(both)
    assert_close(all_scores(model, data), (embedding[:N_USERS] @ embedding[N_USERS:].T).detach(), 1e-6)

    nodes = [batch.users, batch.positives + N_USERS, batch.negatives + N_USERS]
    ranks = [reference(both, torch.stack([nodes[0], nodes[side]])) for side in (1, 2)]
    # its regulariser is the sum of squares; half of it is the paper's
    loss = reference.recommendation_loss(*ranks, node_id=torch.cat(nodes), lambda_reg=0.1)
    terms = model.loss(batch)
    assert_close(torch.stack(list(terms.values())).sum(), loss)
    backward(terms)
    loss.backward()
    assert_close(model.embeddings.grad, reference.embedding.weight.grad, 1e-6)


def test_6_equals_stacked_lgconv() -> None:
    from torch_geometric.nn import LGConv

    data = random_data(1)
    model = new_model("lightgcn", data, dim=8, layers=2)
    users, items = torch.from_numpy(data.train.users), torch.from_numpy(data.train.items) + N_USERS
    both = torch.stack([torch.cat([users, items]), torch.cat([items, users])])
    first = model.embeddings.detach()
    second = LGConv()(first, both)
    mean = (first + second + LGConv()(second, both)) / 3
    assert_close(all_scores(model, data), mean[:N_USERS] @ mean[N_USERS:].T, 1e-6)


@pytest.mark.parametrize("penalty", ["norm", "squared"])
def test_1_without_layers_it_is_bpr(penalty: str) -> None:
    data, batch = random_data(), random_batch()
    lightgcn = new_model("lightgcn", data, layers=0, reg=0.1, penalty=penalty)
    bpr = new_model("bpr", data, reg=0.1, penalty=penalty)
    assert torch.equal(all_scores(lightgcn, data), all_scores(bpr, data))  # same seed, same initial values
    one, two = lightgcn.loss(batch), bpr.loss(batch)
    assert {name: term.item() for name, term in one.items()} == {
        name: term.item() for name, term in two.items()
    }
    backward(one)
    backward(two)
    assert_close(lightgcn.embeddings.grad, bpr.embeddings.grad, 1e-7)


def test_3_adjacency_is_symmetric_with_spectrum_within_one() -> None:
    dense = new_model("lightgcn", random_data()).graph.to_dense().double()
    assert torch.equal(dense, dense.T)
    spectrum = torch.linalg.eigvalsh(dense)
    assert spectrum.min() >= -1 - 1e-6
    assert spectrum.max() <= 1 + 1e-6


def test_4_renaming_users_and_items_renames_scores() -> None:
    data, rng = random_data(), np.random.default_rng(0)
    users, items = rng.permutation(N_USERS), rng.permutation(N_ITEMS)
    train = Histories.from_pairs(users[data.train.users], items[data.train.items], N_USERS)
    renamed = TrainingData(N_USERS, N_ITEMS, train, {})
    model, twin = (new_model("lightgcn", part, dim=8, layers=3) for part in (data, renamed))
    with torch.no_grad():
        twin.embeddings[torch.from_numpy(np.concatenate([users, N_USERS + items]))] = model.embeddings
    expected = torch.empty(N_USERS, N_ITEMS)
    expected[torch.from_numpy(users)[:, None], torch.from_numpy(items)[None, :]] = all_scores(model, data)
    assert_close(all_scores(twin, renamed), expected, 1e-6)


def test_5_an_isolated_item_changes_no_other_score() -> None:
    data = random_data()
    larger = TrainingData(N_USERS, N_ITEMS + 1, data.train, {})
    model, twin = (new_model("lightgcn", part, dim=8, layers=2) for part in (data, larger))
    with torch.no_grad():
        twin.embeddings[:-1] = model.embeddings
    scores = all_scores(twin, larger)
    assert_close(scores[:, :-1], all_scores(model, data), 1e-6)
    assert not scores[:, -1].any()  # never trained: no noise of initial values


def test_order_of_the_interactions_does_not_matter() -> None:
    data = random_data()
    users, items = data.train.users[::-1], data.train.items[::-1]
    reverse = TrainingData(N_USERS, N_ITEMS, Histories.from_pairs(users, items, N_USERS), {})
    one, two = (all_scores(new_model("lightgcn", part), part) for part in (data, reverse))
    assert torch.equal(one, two)


def test_a_user_without_edges_keeps_a_part_of_the_own_embedding() -> None:
    data = random_data()
    offsets = np.append(data.train.offsets, data.train.offsets[-1])
    longer = TrainingData(N_USERS + 1, N_ITEMS, Histories(offsets, data.train.items), {})
    model = new_model("lightgcn", longer, dim=8, layers=3)
    _, users, items = dense_tables(model, longer, 3)
    assert_close(users[N_USERS], model.embeddings[N_USERS] / 4, 1e-6)
    assert_close(all_scores(model, longer), users @ items.T, 1e-6)
