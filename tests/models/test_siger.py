"""SIGER against plain dense formulas in float64; the formulas are a reconstruction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec import losses
from mmrec.models.contracts import Users
from mmrec.models.graph import siger
from mmrec.models.graph.siger import anchor_loss, co_occurrence_graph, mix
from tests.dense import assert_close, history_matrix
from tests.learning import all_scores, new_model
from tests.small_data import N_ITEMS, random_batch, small_data

SMALL = {"dim": 6, "knn_k": 3, "co_k": 4}


def together(train: Any, k: int) -> Tensor:
    """``R^T R`` without diagonal, the k largest of a row (ties to the lower id), symmetrically normalised."""
    interactions = history_matrix(train, N_ITEMS)
    counts = (interactions.T @ interactions).fill_diagonal_(0)
    kept = torch.zeros_like(counts)
    for item in range(N_ITEMS):
        best = sorted(range(N_ITEMS), key=lambda other, item=item: (-counts[item, other].item(), other))[:k]
        kept[item, best] = counts[item, best]
    degree = kept.sum(1)
    scale = torch.where(degree > 0, degree.clamp(min=1).rsqrt(), 0.0)
    return scale[:, None] * kept * scale[None, :]


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return a @ b / (a.norm() * b.norm())


def test_co_occurrence_graph() -> None:
    data = small_data("text")
    for k in (1, 4, 50):
        assert_close(co_occurrence_graph(data.train, N_ITEMS, k).to_dense(), together(data.train, k))


def test_scores_are_those_of_mgcn_over_the_mixed_graphs() -> None:
    data = small_data("text", "image", missing=True)
    model = new_model("siger", data, co_share=0.3, **SMALL)
    mgcn = new_model("mgcn", data, dim=6, knn_k=3)
    mgcn.load_state_dict(model.state_dict())
    assert not torch.allclose(all_scores(model, data), all_scores(mgcn, data), atol=1e-6)
    for modality, view in mgcn.views.items():
        expected = 0.7 * view.graph.to_dense() + 0.3 * together(data.train, 4).float()
        assert_close(model.views[modality].graph.to_dense(), expected, 1e-6)
        view.graph = model.views[modality].graph
    assert torch.equal(all_scores(model, data), all_scores(mgcn, data))


@pytest.mark.parametrize("modalities", [("text",), ("text", "image"), ("text", "image", "audio")])
def test_loss_terms(modalities: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    data = small_data(*modalities, missing=True)
    model = new_model("siger", data, noise=0.2, noise_weight=0.3, anchor_weight=0.7, **SMALL)
    mgcn = new_model("mgcn", data, dim=6, knn_k=3)
    mgcn.load_state_dict(model.state_dict())
    for modality, view in mgcn.views.items():
        view.graph = model.views[modality].graph
    batch = random_batch(data)
    seen: dict[str, list[Any]] = {"perturb": [], "anchor_loss": []}

    def watch(name: str) -> Any:
        function = getattr(siger, name)

        def call(*arguments: Any) -> Tensor:
            result = function(*arguments)
            seen[name].append((arguments, result))
            return result

        return call

    for name in seen:
        monkeypatch.setattr(siger, name, watch(name))
    terms, expected = model.loss(batch), mgcn.loss(batch)
    for name, term in expected.items():  # BPR, penalty and the fused alignment
        assert_close(terms.pop(name), term, 1e-6)
    vectors = model.vectors()
    finals = (vectors.users(Users.of(data.train, np.arange(data.n_users))), vectors.items)
    for number, (name, ids) in enumerate((("users", batch.users), ("items", batch.positives))):
        ids = ids.unique()
        (given, lengths), one = seen["perturb"][2 * number]
        two = seen["perturb"][2 * number + 1][1]
        assert_close(lengths, 0.2 * given.norm(dim=1, keepdim=True), 1e-6)
        assert_close(given, finals[number][ids], 1e-5)
        assert not torch.equal(one, two)
        assert_close(terms.pop(f"noise_{name}"), 0.3 * losses.info_nce(one, two, 0.2))
        arguments, value = seen["anchor_loss"][number]
        assert not arguments[0].requires_grad  # behaviour is the anchor
        assert arguments[1].requires_grad
        assert_close(terms.pop(f"anchor_{name}"), 0.7 * value)
    assert not terms


def test_anchor_loss_is_its_formula_over_the_views_there_are() -> None:
    generator = torch.Generator().manual_seed(0)
    anchors = torch.rand(6, 4, generator=generator, dtype=torch.float64)
    views = torch.rand(6, 2, 4, generator=generator, dtype=torch.float64)
    present = torch.tensor([[1, 1], [1, 0], [0, 0], [0, 1], [1, 1], [1, 1]]).bool()
    terms = []
    for i in range(6):
        if not present[i].any():
            continue
        pairs = [(j, m) for j in range(6) for m in (0, 1) if present[j, m]]
        every = [torch.exp(cosine(anchors[i], views[j, m]) / 0.3) for j, m in pairs]
        own = [torch.exp(cosine(anchors[i], views[i, m]) / 0.3) for m in (0, 1) if present[i, m]]
        terms.append(-torch.log(torch.stack(own).sum() / torch.stack(every).sum()))
    assert_close(anchor_loss(anchors, views, present, 0.3), torch.stack(terms).mean(), 1e-9)


def test_anchor_loss_of_nodes_without_content_is_nothing() -> None:
    views = torch.rand(3, 2, 4, requires_grad=True)
    value = anchor_loss(torch.rand(3, 4), views, torch.zeros(3, 2, dtype=torch.bool), 0.2)
    value.backward()
    assert value == 0
    assert not views.grad.any()


class TestProperties:
    """The numbers are those of the sheet."""

    def test_1_the_share_goes_from_content_to_co_occurrence(self) -> None:
        data = small_data("text", "image")
        plain, other = new_model("mgcn", data, dim=6, knn_k=3), together(data.train, 4)
        for share in (0.0, 1.0):
            model = new_model("siger", data, co_share=share, **SMALL)
            for modality, view in model.views.items():
                expected = plain.views[modality].graph.to_dense() if share == 0 else other
                assert_close(view.graph.to_dense(), expected, 1e-6)

    def test_2_only_training_pairs_make_the_graph(self) -> None:
        data = small_data("text")
        graph = co_occurrence_graph(data.train, N_ITEMS, 50).to_dense()
        assert not graph[-1].any()  # nobody has the last item in training
        assert not graph[:, -1].any()
        users = [set(data.train[user].tolist()) for user in range(data.n_users)]
        for one, two in graph.nonzero().tolist():
            assert any({one, two} <= items for items in users)

    def test_3_the_angle_of_the_noise_does_not_depend_on_the_length(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = new_model("siger", small_data("text"), noise=0.3, **SMALL)
        rows = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))

        def views(scale: float) -> tuple[Tensor, Tensor]:
            seen: list[Tensor] = []
            monkeypatch.setattr(siger.losses, "info_nce", lambda one, two, _: seen.extend((one, two)))
            torch.manual_seed(1)
            model._between_views(scale * rows)
            return seen[0], seen[1]

        def angles(scale: float) -> Tensor:
            return torch.nn.functional.cosine_similarity(scale * rows, views(scale)[0])

        assert_close(angles(1.0), angles(50.0), 1e-6)
        assert (angles(1.0) < 1 - 1e-3).all()
        for view in views(1.0):
            assert_close((view - rows).norm(dim=1), 0.3 * rows.norm(dim=1), 1e-6)
            assert torch.equal(view.sign(), rows.sign())

    def test_4_without_noise_both_views_are_the_vector(self) -> None:
        data = small_data("text")
        model = new_model("siger", data, noise=0.0, noise_weight=1.0, **SMALL)
        batch = random_batch(data)
        items = model.vectors().items[batch.positives.unique()]
        expected = losses.info_nce(items, items, 0.2)
        assert_close(model.loss(batch)["noise_items"], expected, 1e-6)

    def test_5_one_modality_gives_plain_info_nce(self) -> None:
        anchors, views = torch.rand(5, 4), torch.rand(5, 1, 4)
        everyone = torch.ones(5, 1, dtype=torch.bool)
        expected = losses.info_nce(anchors, views[:, 0], 0.2)
        assert_close(anchor_loss(anchors, views, everyone, 0.2), expected, 1e-6)


def test_mixing_adds_weighted_entries() -> None:
    data = small_data("text")
    one, two = (co_occurrence_graph(data.train, N_ITEMS, k) for k in (2, 5))
    assert_close(mix(one, two, 0.25).to_dense(), 0.75 * one.to_dense() + 0.25 * two.to_dense(), 1e-6)
