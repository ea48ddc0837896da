"""SLMRec against plain dense formulas in float64, as its docstring states them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from tests.dense import assert_close, history_matrix, layer_mean, normalized_adjacency
from tests.learning import all_scores, new_model, train
from tests.models.test_mentor import contrast
from tests.small_data import N_ITEMS, N_USERS, random_batch, small_data
from tests.twins import assert_same_step, unit

SMALL = {"dim": 6, "layers": 2, "temperature": 0.4, "task_temperature": 0.3, "task_weight": 0.7}
TASKS = ["fac", "fd", "fm", "all"]


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Every tensor that torch.rand gives from now on."""
    made: list[Tensor] = []
    original: Callable[..., Tensor] = torch.rand

    def record(*shape: Any, **options: Any) -> Tensor:
        made.append(original(*shape, **options))
        return made[-1]

    monkeypatch.setattr(torch, "rand", record)
    return made


class Twin:
    """The formulas on dense matrices with a copy of a model's parameters and the draws that it made."""

    def __init__(self, model: Any, data: TrainingData, task: str, draws: list[Tensor]) -> None:
        self.data, self.task, self.draws = data, task, [draw.double() for draw in draws]
        self.names = sorted(data.features)
        self.parameters = {
            key: value.detach().double().requires_grad_() for key, value in model.named_parameters()
        }
        likes = history_matrix(data.train, N_ITEMS)
        self.adjacency, self.seen = normalized_adjacency(likes), (likes.sum(0) > 0)[:, None]

    def content(self) -> list[Tensor]:
        tables = []
        for m in self.names:
            rows = []
            for vector, here in zip(
                self.data.features[m].vectors, self.data.features[m].present, strict=True
            ):
                x = torch.from_numpy(vector).double()
                weight, bias = (self.parameters[f"projections.{m}.map.{part}"] for part in ("weight", "bias"))
                rows.append(weight @ (x / x.norm()) + bias if here else 0 * bias)
            tables.append(torch.stack(rows))
        return tables

    def channels(self, content: list[Tensor]) -> list[Tensor]:
        """Propagated tables ``(n_users + n_items, dim)`` of the channels, ids first."""
        users, ids = self.parameters["embeddings"][:N_USERS], self.parameters["embeddings"][N_USERS:]
        return [layer_mean(self.adjacency, torch.cat([users, x]), 2) for x in [ids * self.seen, *content]]

    def fused(self, content: list[Tensor]) -> tuple[Tensor, Tensor]:
        rows, p = torch.cat(self.channels(content), 1), self.parameters
        return (
            rows[:N_USERS] @ p["user_map.weight"].T + p["user_map.bias"],
            rows[N_USERS:] @ p["item_map.weight"].T + p["item_map.bias"],
        )

    def scores(self) -> Tensor:
        users, items = self.fused(self.content())
        return users @ items.T

    def terms(self, batch: PairBatch) -> dict[str, Tensor]:
        terms = {"softmax": self.main(batch)}
        for task in ["fac", "fd", "fm"] if self.task == "all" else [self.task]:
            terms[task] = 0.7 * (self.fac(batch) if task == "fac" else self.views(batch))
        return terms

    def main(self, batch: PairBatch) -> Tensor:
        users, items = self.fused(self.content())
        scores, total = unit(users) @ unit(items).T / 0.4, 0.0
        pairs = list(zip(batch.users.tolist(), batch.positives.tolist(), strict=True))
        for user, item in pairs:
            others = [scores[user, j].exp() for _, j in pairs if j != item]
            total = total - (scores[user, item].exp() / (scores[user, item].exp() + sum(others))).log()
        return total / len(pairs)

    def fac(self, batch: PairBatch) -> Tensor:
        ids = sorted(set(batch.positives.tolist()))
        chain, *channels = (rows[N_USERS:] for rows in self.channels(self.content()))
        total = 0 * chain.sum()
        for m, own in zip(self.names, channels, strict=True):
            p = {key: self.parameters[f"spaces.{m}.{key}"] for key in ("chain.weight", "chain.bias")}
            q = {key: self.parameters[f"spaces.{m}.{key}"] for key in ("own.weight", "own.bias")}
            chain = chain @ p["chain.weight"].T + p["chain.bias"]
            target = own @ q["own.weight"].T + q["own.bias"]
            kept = [item for item in ids if self.data.features[m].present[item]]
            total = total + contrast(chain[kept], target[kept], 0.3)
        return total

    def views(self, batch: PairBatch) -> Tensor:
        both = []
        for _ in range(2):
            draw = self.draws.pop(0)
            kept = [x * (draw[:, number] >= 0.3) / 0.7 for number, x in enumerate(self.content())]
            both.append(self.fused(kept))
        users, items = sorted(set(batch.users.tolist())), sorted(set(batch.positives.tolist()))
        (users_1, items_1), (users_2, items_2) = both
        return contrast(users_1[users], users_2[users], 0.3) + contrast(items_1[items], items_2[items], 0.3)


MODALITIES = [(("text",), True), (("text", "image"), False), (("text", "image", "audio"), True)]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("modalities", "missing"), MODALITIES)
class TestDenseTwin:
    def test_scores(self, modalities: tuple[str, ...], missing: bool, task: str) -> None:
        data = small_data(*modalities, missing=missing)
        model = new_model("slmrec", data, **SMALL, task=task)
        assert_close(all_scores(model, data), Twin(model, data, task, []).scores())

    def test_losses_and_gradients(
        self, modalities: tuple[str, ...], missing: bool, task: str, draws: list[Tensor]
    ) -> None:
        data, batch = small_data(*modalities, missing=missing), random_batch(small_data())
        model = new_model("slmrec", data, **SMALL, task=task)
        terms = model.loss(batch)
        twin = Twin(model, data, task, draws)
        assert_same_step(model, twin.parameters, terms, twin.terms(batch))


def test_without_dropout_the_two_views_are_the_same() -> None:
    data = small_data("text", "image")
    model = new_model("slmrec", data, **SMALL, task="fm", dropout=0.0)
    content = model._content()
    assert torch.equal(model._drop(content, whole=True), content)
    assert torch.equal(model._drop(content, whole=False), content)


def test_feature_masking_takes_whole_modalities_and_feature_dropout_entries() -> None:
    model = new_model("slmrec", small_data("text", "image"), **SMALL, task="fm", dropout=0.5)
    content = torch.ones(200, 2, 6)
    gone = (model._drop(content, whole=True) == 0).sum(2)
    assert set(gone.unique().tolist()) == {0, 6}
    assert 0 < (gone[:, 0] == gone[:, 1]).sum() < 200  # each modality on its own
    gone = (model._drop(content, whole=False) == 0).sum(2)
    assert ((gone > 0) & (gone < 6)).any()
    assert model._drop(content, whole=False).mean() == pytest.approx(1, abs=0.1)


def test_a_batch_without_any_content_has_no_alignment() -> None:
    data = small_data("text", missing=True)
    model = new_model("slmrec", data, **SMALL)
    batch = PairBatch(torch.tensor([0, 1]), torch.tensor([5, 6]), torch.tensor([1, 3]))  # no text
    terms = model.loss(batch)
    assert terms["fac"].item() == 0
    torch.stack(list(terms.values())).sum().backward()
    assert torch.isfinite(model.embeddings.grad).all()


def test_the_scale_of_features_does_not_matter() -> None:
    data = small_data("text", "image", missing=True)
    scaled = {
        m: FeatureTable(t.name, m, (37 * t.vectors).astype(np.float32), t.present)
        for m, t in data.features.items()
    }
    other = TrainingData(N_USERS, N_ITEMS, data.train, scaled)
    assert_close(
        all_scores(new_model("slmrec", data, **SMALL), data),
        all_scores(new_model("slmrec", other, **SMALL), other),
        1e-6,
    )


def test_the_id_of_an_item_without_training_interactions_does_not_matter() -> None:
    data = small_data("text", "image")
    model = new_model("slmrec", data, **SMALL)
    before = all_scores(model, data)
    with torch.no_grad():
        model.embeddings[-1] += 5  # the last item is never liked
    assert torch.equal(all_scores(model, data), before)


@pytest.mark.parametrize("task", ["fac", "fd", "fm"])
def test_each_loss_term_falls(task: str) -> None:
    data = small_data("text", "image", missing=True)
    model, batch = new_model("slmrec", data, **SMALL, task=task), random_batch(data)
    torch.manual_seed(0)
    before = model.loss(batch)
    train(model, data, epochs=15, lr=0.03)
    after = model.loss(batch)
    real = torch.from_numpy(np.stack([data.train.users, data.train.items]))
    positives = PairBatch(real[0], real[1], real[1])
    assert after[task] < 0.9 * before[task]
    fresh = new_model("slmrec", data, **SMALL, task=task)
    assert model.loss(positives)["softmax"] < 0.9 * fresh.loss(positives)["softmax"]
