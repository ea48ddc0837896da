"""MultVAE against a plain numpy forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmrec.data.batches import UserBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.baseline import multvae
from mmrec.models.baseline.multvae import reconstruction
from tests.dense import assert_close, history_matrix
from tests.learning import all_scores, new_model, train
from tests.small_data import data_of
from tests.worlds import planted_blocks

N_USERS, N_ITEMS = 9, 14
SMALL = {"dim": 4, "hidden": 6, "dropout": 0.0}


def random_data(seed: int = 0) -> TrainingData:
    """Random likes; the last user has no history."""
    rng = np.random.default_rng(seed)
    likes = rng.random((N_USERS, N_ITEMS)) < 0.35
    likes[:, 0], likes[-1] = True, False
    return data_of(likes)


def batch_of(data: TrainingData, users: list[int]) -> UserBatch:
    chosen = data.train.select(np.array(users))
    return UserBatch(torch.tensor(users), torch.from_numpy(chosen.users), torch.from_numpy(chosen.items))


def random_model(data: TrainingData, **params: Any) -> Any:
    """A model whose biases are not zero."""
    model = new_model("multvae", data, **{**SMALL, **params})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    return model


class Twin:
    """The paper's network in numpy, for one user at a time."""

    def __init__(self, model: Any) -> None:
        self.value = {name: p.detach().double().numpy() for name, p in model.named_parameters()}

    def encode(self, history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        length = np.sqrt((history**2).sum())
        inputs = history / length if length > 0 else history
        hidden = np.tanh(inputs @ self.value["items_in"] + self.value["bias_in"])
        latent = self.value["to_latent.weight"] @ hidden + self.value["to_latent.bias"]
        half = len(latent) // 2
        return latent[:half], latent[half:]

    def decode(self, latent: np.ndarray) -> np.ndarray:
        hidden = np.tanh(self.value["from_latent.weight"] @ latent + self.value["from_latent.bias"])
        return self.value["items_out.weight"] @ hidden + self.value["items_out.bias"]


def test_scores_equal_the_plain_forward_pass() -> None:
    data = random_data()
    model = random_model(data)
    twin, likes = Twin(model), history_matrix(data.train, N_ITEMS).numpy()
    expected = np.stack([twin.decode(twin.encode(history)[0]) for history in likes])
    assert_close(all_scores(model, data), torch.from_numpy(expected))


def test_loss_equals_the_plain_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    data, users = random_data(), [3, 0, 5, 6]
    model = random_model(data, kl_weight=0.4, anneal_steps=8)
    noise = np.random.default_rng(1).normal(size=(len(users), SMALL["dim"]))
    monkeypatch.setattr(
        multvae.torch, "randn_like", lambda like: torch.from_numpy(noise).to(like.dtype), raising=True
    )
    model.steps += 2
    terms = model.loss(batch_of(data, users))
    twin, likes = Twin(model), history_matrix(data.train, N_ITEMS).numpy()
    errors, divergences = [], []
    for row, user in enumerate(users):
        mean, log_variance = twin.encode(likes[user])
        logits = twin.decode(mean + noise[row] * np.sqrt(np.exp(log_variance)))
        log_probability = np.log(np.exp(logits) / np.exp(logits).sum())
        count = likes[user].sum()
        errors.append(-(likes[user] * log_probability).sum() - count * np.log(count))
        divergences.append(sum(-(1 + log_variance - mean**2 - np.exp(log_variance)) / 2))
    assert terms.keys() == {"reconstruction", "kl"}
    assert_close(terms["reconstruction"], torch.tensor(np.mean(errors)))
    assert_close(terms["kl"], torch.tensor(0.4 * 2 / 8 * np.mean(divergences)))


def test_gradient_of_the_reconstruction_is_that_of_the_log_likelihood() -> None:
    batch = batch_of(random_data(), [0, 3, 7])
    one, two = (torch.randn(3, N_ITEMS, dtype=torch.float64, requires_grad=True) for _ in range(2))
    with torch.no_grad():
        two.copy_(one)
    reconstruction(one, batch.rows, batch.items).backward()
    (-(batch.matrix(N_ITEMS) * two.log_softmax(1)).sum() / 3).backward()
    assert_close(one.grad, two.grad, 1e-9)


def test_a_perfect_reconstruction_costs_nothing() -> None:
    batch = batch_of(random_data(), [0, 3])
    logits = torch.full((2, N_ITEMS), -50.0)
    logits[batch.rows, batch.items] = 3.0
    assert reconstruction(logits, batch.rows, batch.items).item() == pytest.approx(0, abs=1e-5)


def test_kl_weight_grows_with_the_batches_up_to_its_end_and_is_saved() -> None:
    data = random_data()
    model = random_model(data, kl_weight=0.3, anneal_steps=4)
    batch, shares = batch_of(data, [0, 1]), []
    for _ in range(6):
        weight = model.eval()._next_kl_weight().item()
        model.train().loss(batch)
        shares.append(weight)
    assert shares == pytest.approx([0, 0.075, 0.15, 0.225, 0.3, 0.3])
    assert model.state_dict()["steps"].item() == 6
    model.eval().loss(batch)
    assert model.steps.item() == 6


def test_dropout_is_of_the_input_and_in_training_only() -> None:
    data = random_data()
    model = random_model(data, dropout=0.5)
    batch = batch_of(data, [0, 1, 2, 3])
    draws = [model.train()._encode(batch.rows, batch.items, 4)[0] for _ in range(2)]
    assert not torch.equal(*draws)
    still = [model.eval()._encode(batch.rows, batch.items, 4)[0] for _ in range(2)]
    assert torch.equal(*still)
    without = random_model(data)
    assert_close(still[0], without.train()._encode(batch.rows, batch.items, 4)[0], 1e-6)


def test_blocks_can_be_told_apart_by_the_latent_means() -> None:
    world = planted_blocks()
    model = train(new_model("multvae", world.data), world.data).model.eval()
    histories = world.data.train
    with torch.no_grad():
        means, _ = model._encode(torch.from_numpy(histories.users), torch.from_numpy(histories.items), 24)
    even, odd = means[::2], means[1::2]
    assert (even.mean(0) - odd.mean(0)).norm() > 3 * (even - even.mean(0)).norm(dim=1).mean()
