"""What every ranker does, whatever fields a row has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mmrec.data.rows.table import RowData
from mmrec.models.ctr.bst import BST
from mmrec.models.ctr.dcnv2 import DCNv2
from mmrec.models.ctr.deepfm import DeepFM
from mmrec.models.ctr.din import DIN
from mmrec.models.ctr.finalmlp import FinalMLP
from mmrec.models.ctr.fm import FM
from mmrec.models.ctr.lr import LR
from mmrec.models.ctr.qin import QIN
from mmrec.models.ctr.sim import SIM
from mmrec.models.ctr.transformer_dcn import TransformerDCN
from tests.dense import assert_close
from tests.rows import build, crossed_rows, fit, planted_rows, replaced, shaken, some_rows, whole_batch

KINDS = [LR, FM, DeepFM, DCNv2, FinalMLP, DIN, BST, SIM, QIN, TransformerDCN]
each_ranker = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.lower())
DATA = planted_rows(60, histories=("history", "likes"))
BATCH = whole_batch(DATA)


def modes(kind: Any) -> list[dict[str, Any]]:
    """The defaults, and batch normalisation where there is such a thing."""
    return [{}] + ([{"batch_norm": True}] if "batch_norm" in kind.config_type.model_fields else [])


@each_ranker
class TestEveryRanker:
    def test_rows_are_scored_one_by_one_as_together(self, kind: Any) -> None:
        for params in modes(kind):
            model = shaken(kind, DATA, by=0.05, **params)
            together = model.score(BATCH)
            assert together.shape == (60,) and together.isfinite().all() and len(together.unique()) > 30
            for row in (0, 7, 59):
                assert_close(model.score(some_rows(BATCH, [row]))[0], together[row], 1e-4)

    def test_padding_says_nothing(self, kind: Any) -> None:
        model = shaken(kind, DATA, by=0.05)
        wide = {
            name: torch.nn.functional.pad(BATCH.values[name], (0, 3))
            for name in ("history", "likes", "labels")
        }
        assert_close(model.score(replaced(BATCH, **wide)), model.score(BATCH), 1e-5)

    def test_histories_count(self, kind: Any) -> None:
        model = shaken(kind, DATA, by=0.05)
        empty = {name: torch.zeros_like(BATCH.values[name]) for name in ("history", "likes")}
        found = model.score(replaced(BATCH, **empty))
        assert found.isfinite().all() and not torch.equal(found, model.score(BATCH))

    @pytest.mark.parametrize(
        "data",
        [planted_rows(60, histories=()), planted_rows(60, with_items=False)],
        ids=["no history", "no item"],
    )
    def test_rows_without_histories_or_items(self, kind: Any, data: RowData) -> None:
        model = build(kind, data)
        losses = fit(model, data, epochs=2)
        assert np.isfinite(losses).all()
        assert model.score(some_rows(whole_batch(data), [3])).shape == (1,)

    def test_every_parameter_has_a_gradient(self, kind: Any) -> None:
        for params in modes(kind):
            model = shaken(kind, DATA, by=0.05, **params).train()
            torch.stack(list(model.loss(BATCH).values())).sum().backward()
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None, name
                gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
                assert gradient.any() and gradient.isfinite().all(), name

    def test_what_is_missing_never_moves(self, kind: Any) -> None:
        model = build(kind, DATA)
        before = model.inputs.table.weight.detach().clone()
        fit(model, DATA, epochs=2, batch_size=59)  # the last batch has one row
        assert not torch.equal(model.inputs.table.weight, before)
        assert not model.inputs.table.weight[model.inputs.paddings].any()

    def test_same_seed_same_bits(self, kind: Any) -> None:
        one, two = (build(kind, DATA, seed=3) for _ in range(2))
        assert fit(one, DATA, epochs=2) == fit(two, DATA, epochs=2)
        assert torch.equal(one.score(BATCH), two.score(BATCH))

    def test_an_unknown_item_is_known_by_its_content(self, kind: Any) -> None:
        model = shaken(kind, DATA, by=0.05)
        ids = model.inputs.item_categories
        ids[3:5, 0] = ids[-1, 0]  # two items whose own vector is that of unknown items
        scores = [model.score(replaced(BATCH, item=torch.full((60,), item))) for item in (3, 4)]
        assert not torch.equal(*scores)

    def test_computes_in_bfloat16(self, kind: Any) -> None:
        for params in modes(kind):
            model = shaken(kind, DATA, by=0.05, **params)
            exact = model.loss(BATCH)
            with torch.autocast("cpu", torch.bfloat16):
                terms = model.loss(BATCH)
            torch.stack(list(terms.values())).sum().backward()
            for name, term in terms.items():
                assert_close(term, exact[name], 0.05)
            assert model.inputs.table.weight.grad.dtype == torch.float32

    def test_extreme_logits_have_finite_losses(self, kind: Any) -> None:
        data = crossed_rows(20)
        model, batch = build(kind, data), whole_batch(crossed_rows(20))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1e3)
        assert all(term.isfinite() for term in model.loss(batch).values())
