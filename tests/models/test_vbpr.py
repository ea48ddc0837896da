from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from tests.dense import assert_close, negative_log_sigmoid
from tests.learning import all_scores, area_under_curve, new_model, train
from tests.small_data import data_of
from tests.worlds import planted_blocks

N_USERS, N_ITEMS, DIM = 9, 12, 4


def random_data(*modalities: str, scale: float = 1.0, seed: int = 0) -> TrainingData:
    """Random likes of all items but the last, and features; item 3 lacks its image."""
    rng = np.random.default_rng(seed)
    likes = rng.random((N_USERS, N_ITEMS)) < 0.4
    likes[0], likes[:, -1] = True, False
    features = {}
    for modality, width, size in (("text", 3, 1.0), ("image", 6, 30.0)):
        present = np.ones(N_ITEMS, dtype=bool)
        present[3] = modality != "image"
        vectors = (rng.normal(size=(N_ITEMS, width)) * size * scale).astype(np.float32)
        vectors[~present] = 0
        if modality in modalities:
            features[modality] = FeatureTable(f"{modality}-test", modality, vectors, present)
    return data_of(likes, features)


def random_batch(size: int = 30) -> PairBatch:
    rng = np.random.default_rng(1)
    triples = [rng.integers(0, high, size) for high in (N_USERS, N_ITEMS, N_ITEMS)]
    return PairBatch(*(torch.from_numpy(ids) for ids in triples))


def leaves(model: Any) -> dict[str, Tensor]:
    return {
        name: value.detach().double().clone().requires_grad_() for name, value in model.named_parameters()
    }


def dense_items(parameters: dict[str, Tensor], data: TrainingData, *, standardize: bool = False) -> Tensor:
    """``[Q ; W X + b]`` for all items, the modalities side by side in alphabetic order."""
    blocks = []
    for _, table in sorted(data.features.items()):
        vectors = table.vectors.astype(np.float64)
        blocks.append(vectors / np.sqrt(np.mean(vectors**2)) if standardize else vectors)
    content = torch.from_numpy(np.hstack(blocks))
    projected = content @ parameters["map.weight"].T + parameters["map.bias"]
    return torch.cat([parameters["items"], projected], 1)


@pytest.mark.parametrize("modalities", [("text",), ("image",), ("text", "image")])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("penalty", ["norm", "squared"])
def test_dense_twin(modalities: tuple[str, ...], standardize: bool, penalty: str) -> None:
    data, batch = random_data(*modalities, scale=0.1), random_batch()
    model = new_model("vbpr", data, dim=DIM, reg=0.3, standardize=standardize, penalty=penalty)
    with torch.no_grad():
        model.map.bias.copy_(torch.linspace(-0.2, 0.3, DIM))
    twin = leaves(model)
    items = dense_items(twin, data, standardize=standardize)
    rows = [twin["users"][batch.users], items[batch.positives], items[batch.negatives]]
    bpr = negative_log_sigmoid((rows[0] * rows[1]).sum(1), (rows[0] * rows[2]).sum(1))
    squares = [part.pow(2).sum() for part in rows]
    size = sum(square.sqrt() for square in squares) / 30 if penalty == "norm" else sum(squares) / 60
    terms = model.loss(batch)
    assert_close(terms["bpr"], bpr)
    assert_close(terms["penalty"], 0.3 * size)
    (terms["bpr"] + terms["penalty"]).backward()
    (bpr + 0.3 * size).backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, twin[name].grad)

    known = torch.ones(N_ITEMS, 1)
    known[-1] = 0  # the collaborative half of an untrained item counts nothing
    table = torch.cat([items[:, :DIM] * known, items[:, DIM:]], 1).detach()
    assert_close(all_scores(model, data), twin["users"].detach() @ table.T)


def test_initial_values() -> None:
    model = new_model("vbpr", random_data("text"), dim=DIM)
    assert model.users.shape == (N_USERS, 2 * DIM)
    assert model.items.shape == (N_ITEMS, DIM)
    assert not model.map.bias.any()
    wide = new_model("vbpr", planted_blocks(dim=200).data, dim=100)
    assert wide.map.weight.std().item() == pytest.approx(np.sqrt(2 / (400 + 100)), rel=0.02)  # xavier-normal
    assert wide.users.abs().max().item() == pytest.approx(np.sqrt(6 / (24 + 200)), rel=0.01)  # xavier-uniform


def test_1_without_content_it_is_bpr_on_the_first_half() -> None:
    data, batch = random_data("text", scale=0.0), random_batch()
    model = new_model("vbpr", data, dim=DIM, reg=0.0)
    bpr = new_model("bpr", data, dim=DIM, reg=0.0)
    with torch.no_grad():
        bpr.embeddings.copy_(torch.cat([model.users[:, :DIM], model.items]))
    assert_close(all_scores(model, data), all_scores(bpr, data), 1e-7)
    one, two = model.loss(batch)["bpr"], bpr.loss(batch)["bpr"]
    assert_close(one, two, 1e-7)
    one.backward()
    two.backward()
    assert_close(torch.cat([model.users.grad[:, :DIM], model.items.grad]), bpr.embeddings.grad, 1e-7)
    assert not model.users.grad[:, DIM:].any()
    assert not model.map.weight.grad.any()


def test_2_equal_content_without_collaborative_factors_means_equal_scores() -> None:
    data = random_data("text", "image")
    for table in data.features.values():
        table.vectors[7] = table.vectors[1]
    model = new_model("vbpr", data, dim=DIM)
    with torch.no_grad():
        model.items.zero_()
    scores = all_scores(model, data)
    assert_close(scores[:, 1], scores[:, 7], 1e-6)
    assert not torch.allclose(scores[:, 1], scores[:, 2], rtol=0.01)


def test_3_a_cold_item_gets_an_informative_score() -> None:
    world = planted_blocks(n_items=30, cold_items=10)
    model = train(new_model("vbpr", world.data), world.data).model
    wanted = torch.arange(24)[:, None] % 2 == torch.from_numpy(world.cold) % 2
    assert area_under_curve(all_scores(model, world.data)[:, world.cold], wanted) > 0.9


def test_4_projecting_a_batch_equals_projecting_the_catalogue() -> None:
    data = random_data("text", "image")
    model = new_model("vbpr", data, dim=DIM)
    items = torch.tensor([3, 0, 3, 11, 5])
    everything = dense_items(leaves(model), data)
    assert_close(model._compose(items), everything[items])
    assert_close(model.eval().vectors().items[:, DIM:], everything[:, DIM:])


def test_standardized_modalities_weigh_alike() -> None:
    data = random_data("text", "image")
    model = new_model("vbpr", data, standardize=True)
    image, text = model.features[:, :6], model.features[:, 6:]
    assert image.pow(2).mean().item() == pytest.approx(1, rel=1e-5)
    assert text.pow(2).mean().item() == pytest.approx(1, rel=1e-5)
    plain = new_model("vbpr", data).features
    assert plain[:, :6].abs().mean() > 10 * plain[:, 6:].abs().mean()


def test_features_are_frozen() -> None:
    model = new_model("vbpr", random_data("text"))
    assert {name for name, _ in model.named_parameters()} == {"users", "items", "map.weight", "map.bias"}
    assert "features" not in model.state_dict()
