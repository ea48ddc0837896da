"""AMR against autograd of the plain formula: the perturbation is a table over all items' features."""

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
from tests.learning import all_scores, new_model
from tests.small_data import data_of

N_USERS, N_ITEMS, DIM = 9, 12, 4
WIDTHS = {"text": 3, "image": 6, "audio": 2}


def random_data(*modalities: str, seed: int = 0) -> TrainingData:
    """Random likes and features; item 3 lacks its image, item 5 everything."""
    rng = np.random.default_rng(seed)
    likes = rng.random((N_USERS, N_ITEMS)) < 0.4
    features = {}
    for modality, width in WIDTHS.items():
        present = np.ones(N_ITEMS, dtype=bool)
        present[[3, 5] if modality == "image" else [5]] = False
        vectors = rng.normal(size=(N_ITEMS, width)).astype(np.float32)
        vectors[~present] = 0
        if modality in modalities:
            features[modality] = FeatureTable(f"{modality}-test", modality, vectors, present)
    return data_of(likes, features)


def random_batch(size: int = 30) -> PairBatch:
    """Triples in which items come several times, also as positive and as negative."""
    rng = np.random.default_rng(1)
    triples = [rng.integers(0, high, size) for high in (N_USERS, N_ITEMS, N_ITEMS)]
    return PairBatch(*(torch.from_numpy(ids) for ids in triples))


def large_model(data: TrainingData, **params: Any) -> Any:
    """A model whose factors are large enough for the terms to differ."""
    model = new_model("amr", data, dim=DIM, **params)
    with torch.no_grad():
        model.users.mul_(3)
    return model


class Twin:
    def __init__(self, model: Any, data: TrainingData) -> None:
        self.value = {
            name: p.detach().double().clone().requires_grad_() for name, p in model.named_parameters()
        }
        tables = [table for _, table in sorted(data.features.items())]
        self.content = torch.from_numpy(np.hstack([table.vectors for table in tables])).double()
        self.present = torch.from_numpy(
            np.hstack([np.repeat(table.present[:, None], table.dim, 1) for table in tables])
        )

    def rank(self, batch: PairBatch, shift: Tensor) -> Tensor:
        """BPR with the features ``x + shift`` of all items."""
        content = (self.content + shift) @ self.value["map.weight"].T + self.value["map.bias"]
        items, users = torch.cat([self.value["items"], content], 1), self.value["users"][batch.users]
        positive = (users * items[batch.positives]).sum(1)
        return negative_log_sigmoid(positive, (users * items[batch.negatives]).sum(1))

    def perturbation(self, batch: PairBatch, epsilon: float) -> Tensor:
        shift = torch.zeros_like(self.content, requires_grad=True)
        (gradient,) = torch.autograd.grad(self.rank(batch, shift), shift)
        gradient = torch.where(self.present, gradient, 0.0)
        length = gradient.norm(dim=1, keepdim=True)
        return torch.where(length > 0, epsilon * gradient / length, 0.0).detach()


@pytest.mark.parametrize("modalities", [("text",), ("text", "image"), ("text", "image", "audio")])
@pytest.mark.parametrize("epsilon", [0.5, 0.0])
def test_loss_and_gradients_equal_the_plain_formula(modalities: tuple[str, ...], epsilon: float) -> None:
    data, batch = random_data(*modalities), random_batch()
    model = large_model(data, epsilon=epsilon, adversarial_weight=0.7, reg=0.0)
    twin = Twin(model, data)
    expected = {
        "bpr": twin.rank(batch, torch.zeros_like(twin.content)),
        "adversarial": 0.7 * twin.rank(batch, twin.perturbation(batch, epsilon)),
    }
    terms = model.loss(batch)
    assert terms.pop("penalty").item() == 0
    assert terms.keys() == expected.keys()
    for name, term in expected.items():
        assert_close(terms[name], term)
    sum(terms.values()).backward()
    sum(expected.values()).backward()
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, twin.value[name].grad)


def test_everything_but_the_adversary_is_vbpr() -> None:
    data, batch = random_data("text", "image"), random_batch()
    model, plain = new_model("amr", data, dim=DIM), new_model("vbpr", data, dim=DIM)
    assert torch.equal(all_scores(model, data), all_scores(plain, data))
    terms, expected = model.loss(batch), plain.loss(batch)
    for name in ("bpr", "penalty"):
        assert_close(terms[name], expected[name], 1e-6)


def test_the_perturbation_hurts_more_than_one_at_random() -> None:
    data, batch = random_data("text", "image"), random_batch()
    model = large_model(data, epsilon=0.3, adversarial_weight=1.0)
    terms, twin = model.loss(batch), Twin(model, data)
    assert terms["adversarial"] > terms["bpr"]
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        shift = torch.randn(twin.content.shape, generator=generator, dtype=torch.float64)
        shift = 0.3 * shift / shift.norm(dim=1, keepdim=True)
        assert terms["adversarial"] > twin.rank(batch, shift)


def test_perturbations_have_the_length_epsilon_and_spare_absent_modalities() -> None:
    data = random_data("text", "image")
    model = large_model(data, epsilon=0.3)
    perturbation = model._perturbation(torch.randn(N_ITEMS, DIM), torch.arange(N_ITEMS))
    lengths = perturbation.norm(dim=1)
    assert not perturbation[5].any()
    assert_close(lengths[torch.arange(N_ITEMS) != 5], torch.full((N_ITEMS - 1,), 0.3))
    assert not perturbation[3, : WIDTHS["image"]].any()  # image comes before text
    assert perturbation[3, WIDTHS["image"] :].any()


def test_a_weight_of_zero_leaves_the_gradients_of_vbpr() -> None:
    data, batch = random_data("text"), random_batch()
    gradients = []
    for name, params in (("amr", {"adversarial_weight": 0.0}), ("vbpr", {})):
        model = new_model(name, data, dim=DIM, **params)
        sum(model.loss(batch).values()).backward()
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    for key, gradient in gradients[1].items():
        assert_close(gradients[0][key], gradient, 1e-6)
