"""What every ranker of the name table must do; a new one is tested here without a line of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmrec.data.rows.table import RowData
from mmrec.models.contracts import ModelConfig, Ranker
from mmrec.registry import MODELS, model_class
from mmrec.runs import load_tensors, restore, save_tensors
from tests.contract.hyperparameters import Recorder, modes
from tests.dense import assert_close
from tests.rows import (
    build,
    crossed_rows,
    fit,
    planted_rows,
    replaced,
    settings,
    shaken,
    some_rows,
    whole_batch,
)

KINDS = [model_class(name) for name in MODELS if model_class(name).batches == "rows"]
each_ranker = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__.lower())
DATA = planted_rows(60, histories=("history", "likes"))
BATCH = whole_batch(DATA)


@each_ranker
class TestDeclarations:
    def test_attributes_and_methods(self, kind: Any) -> None:
        assert issubclass(kind.config_type, ModelConfig)
        assert kind.modalities in ("none", "optional", "required")
        assert isinstance(kind.cold_items, bool)
        assert (kind.__doc__ or "").strip()
        for method in [name for name in vars(Ranker) if not name.startswith("_")]:
            assert callable(getattr(kind, method))

    def test_config_has_defaults_and_says_what_each_field_means(self, kind: Any) -> None:
        for key, field in type(kind.config_type()).model_fields.items():
            assert field.description, key

    def test_no_config_field_is_left_unread(self, kind: Any) -> None:
        read: set[str] = set()
        for mode in modes(kind):
            model = kind(Recorder(settings(kind, **mode), read), DATA)
            model.loss(BATCH)
        assert read == set(kind.config_type.model_fields)

    def test_building_leaves_the_global_generator_alone(self, kind: Any) -> None:
        torch.manual_seed(7)
        before = torch.get_rng_state()
        build(kind, DATA, seed=3)
        assert torch.equal(before, torch.get_rng_state())


@each_ranker
class TestSaving:
    def test_saved_and_loaded_scores_are_the_same(self, kind: Any, tmp_path: Path) -> None:
        for mode in modes(kind):
            model = build(kind, DATA, **mode)
            fit(model, DATA, epochs=2)
            save_tensors(tmp_path / "model.safetensors", model.state_dict(), {})
            fresh = build(kind, DATA, seed=1, **mode)
            state, _ = load_tensors(tmp_path / "model.safetensors")
            restore(fresh, state, tmp_path)
            assert torch.equal(fresh.eval().score(BATCH), model.score(BATCH)), mode
            assert not any("content" in name and "vectors" in name for name in state)  # features stay outside


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
                assert gradient.isfinite().all(), name
                # what is added to every weight of a history alike cancels in a softmax
                inert = params.get("softmax") and re.fullmatch(r"units\.\d+\.rest\.3\.bias", name) is not None
                assert gradient.abs().max() < 1e-8 if inert else gradient.any(), (params, name)

    def test_what_is_missing_never_moves(self, kind: Any) -> None:
        model = build(kind, DATA)
        before = model.inputs.table.weight.detach().clone()
        fit(model, DATA, epochs=2, batch_size=59)  # the last batch has one row
        assert not torch.equal(model.inputs.table.weight, before)
        assert not model.inputs.table.weight[model.inputs.paddings].any()

    def test_loss_falls(self, kind: Any) -> None:
        careful = kind.__name__ in ("BST", "QIN", "TransformerDCN")  # larger steps can make them diverge
        losses = fit(build(kind, DATA), DATA, epochs=30, lr=0.002 if careful else 0.02)
        assert losses[-1] < 0.8 * losses[0]

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
