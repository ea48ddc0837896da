"""QIN against loops over histories and rows, and the property tests of its sheet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.data.rows.table import HistoryField, RowData, RowField, RowTable
from mmrec.encode.features import FeatureTable
from mmrec.models.ctr.lr import LR
from mmrec.models.ctr.qin import QIN, Config, GatedRows, QuadraticLayer, SumRows
from tests.dense import assert_close
from tests.rows import area, build, crossed_rows, fit, planted_rows, replaced, shaken, whole_batch

DATA = planted_rows(40, histories=("history", "likes"))
BATCH = whole_batch(DATA)


def rows_twin(p: dict[str, Tensor], name: str, state: Tensor, rows: str) -> Tensor:
    total = torch.zeros_like(state)
    if rows == "sum":
        for weight, bias in zip(p[f"{name}.weight"], p[f"{name}.bias"], strict=True):
            total += weight @ state + bias
        return total
    n, rank = len(p[f"{name}.bias"]), p[f"{name}.up"].shape[1]
    for row in range(n):
        gate_down = p[f"{name}.down.weight"][row * rank : (row + 1) * rank]
        value_down = p[f"{name}.down.weight"][(n + row) * rank : (n + row + 1) * rank]
        gate, value = (
            p[f"{name}.up"][at].T @ down @ state for at, down in ((row, gate_down), (n + row, value_down))
        )
        total += gate * (value + p[f"{name}.bias"][row, 0])
    return total


@pytest.mark.parametrize("rows", ["sum", "gated"])
def test_scores_against_the_formula(rows: str) -> None:
    model = shaken(QIN, DATA, dim=2, layers=2, n_rows=3, rank=2, rows=rows, by=0.1)
    p = {name: value.detach().double() for name, value in model.state_dict().items()}
    embedded, scores = model.inputs(BATCH), model.score(BATCH)
    for row in range(len(BATCH)):
        target, parts = embedded.target[row].detach().double(), []
        for number, name in enumerate(("history", "likes")):
            q, k, v, o = (p[f"attentions.{number}.{m}.weight"] for m in ("query", "key", "value", "out"))
            history, found = embedded.histories[name], target.clone()
            for item in embedded.items[history.places[row][history.present[row]]].detach().double():
                weight = ((q @ target) @ (k @ item) / (2 * len(target)) ** 0.5).clamp(min=0)
                found = found + o @ (weight * (v @ item))
            parts.append(found)
        state = torch.cat([embedded.context[row].flatten().detach().double(), target, *parts])
        for layer in range(2):
            own = f"layers.{layer}"
            inner = state * rows_twin(p, f"{own}.rows", state, rows)
            mean, variance = p[f"{own}.norm.running_mean"], p[f"{own}.norm.running_var"]
            inner = (inner - mean) / (variance + 1e-5).sqrt() * p[f"{own}.norm.weight"] + p[
                f"{own}.norm.bias"
            ]
            state = state + torch.where(inner > 0, inner, p[f"{own}.activation.weight"] * inner)
        assert_close(scores[row], (p["out.weight"] @ state + p["out.bias"])[0], 1e-3)


class TestProperties:
    def test_1_rows_are_one_matrix(self) -> None:
        model = shaken(QIN, DATA, by=0.05)
        merged = model.merged()
        assert_close(merged.score(BATCH), model.score(BATCH), 1e-5)
        assert merged.layers[0].rows.weight.shape[0] == merged.config.n_rows == 1
        assert model.layers[0].rows.weight.shape[0] == 4  # the model itself stays as it is
        rows = SumRows(5, 3, 0.0)
        states = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
        each = [states @ w.T + b for w, b in zip(rows.weight, rows.bias, strict=True)]
        assert_close(rows(states), torch.stack(each).sum(0))
        gated = shaken(QIN, DATA, rows="gated", by=0.05)
        assert_close(gated.merged().score(BATCH), gated.score(BATCH))

    def test_1_dropout_draws_in_each_row(self) -> None:
        torch.manual_seed(0)
        rows = SumRows(6, 4, 0.5).train()
        states = torch.randn(1, 6).expand(20_000, 6)
        assert_close(rows(states).mean(0), rows.eval()(states[:1])[0], 0.05)

    def test_2_padding_says_nothing_and_an_empty_history_gives_the_target(self) -> None:
        model = shaken(QIN, DATA, by=0.05)
        wide = torch.cat([BATCH.values["likes"], torch.zeros(40, 3, dtype=torch.int64)], 1)
        assert_close(model.score(replaced(BATCH, likes=wide)), model.score(BATCH))
        embedded = model.inputs(replaced(BATCH, likes=torch.zeros(40, 2, dtype=torch.int64)))
        found = model.attentions[1](embedded.target, embedded.items, embedded.histories["likes"])
        assert torch.equal(found, embedded.target)

    def test_3_weights_are_sparse_and_not_normalised(self) -> None:
        model = shaken(QIN, DATA, by=0.05)
        embedded, attention = model.inputs(BATCH), model.attentions[0]
        before = attention.weights(embedded.target, embedded.items, embedded.histories["history"])
        assert (before >= 0).all() and (before == 0).any() and (before > 0).any()
        attention.query.weight.data *= 3
        after = attention.weights(embedded.target, embedded.items, embedded.histories["history"])
        assert_close(after, 3 * before, 1e-5)

    def test_4_a_layer_is_quadratic(self) -> None:
        for rows in (SumRows(5, 3, 0.0).double(), GatedRows(5, 3, 2, 0.0).double()):
            state = torch.randn(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
            if isinstance(rows, SumRows):
                linear = state * rows.bias.sum(0)
                values = {c: c * state * rows(c * state) - c * linear for c in (1.0, 2.0, 3.0)}
            else:
                rows.bias.data.zero_()
                values = {c: rows(c * state) for c in (1.0, 2.0, 3.0)}
            assert_close(values[2.0], 4 * values[1.0], 1e-10)
            assert_close(values[3.0], 9 * values[1.0], 1e-10)

    def test_5_order_says_nothing(self) -> None:
        model = shaken(QIN, DATA, by=0.05)
        flipped = replaced(BATCH, history=BATCH.values["history"].flip(1))
        assert_close(model.score(flipped), model.score(BATCH), 1e-5)

    def test_6_one_layer_learns_a_product(self) -> None:
        data = crossed_rows()
        linear = build(LR, data)
        fit(linear, data)
        assert area(linear, data) < 0.6
        for rows in ("sum", "gated"):
            model = build(QIN, data, dim=4, layers=1, n_rows=2, rank=4, rows=rows)
            fit(model, data)
            assert area(model, data) > 0.99

    def test_7_number_of_parameters_with_the_sizes_of_microlens(self) -> None:
        n_items, tags, model = 91_718, 11_740, None
        fields = (
            RowField("likes", "category", 11),
            RowField("views", "category", 11),
            RowField("item_id", "category", n_items),
        )
        n = n_items - 2
        vectors = FeatureTable("text", "text", np.zeros((n, 128), dtype=np.float32), np.ones(n, dtype=bool))
        data = RowData(
            fields,
            RowTable({}, np.zeros(0, dtype=np.int8)),
            item="item_id",
            histories=(HistoryField("history", 64),),
            item_fields=(RowField("item_tags", "tags", tags),),
            item_values={"item_tags": np.zeros((n_items, 5), dtype=np.int32)},
            item_rows=np.concatenate([[-1], np.arange(n), [-1]]),
            features={"item": vectors},
        )
        model = build(QIN, data, dim=128, layers=4, n_rows=4)
        assert sum(parameter.numel() for parameter in model.parameters()) == 31_244_293


def test_a_layer_of_one_row_in_training() -> None:
    layer = QuadraticLayer(4, Config()).train()
    assert layer(torch.ones(1, 4)).isfinite().all()


@pytest.mark.parametrize("rows", ["sum", "gated"])
def test_learns_what_a_history_has_to_do_with_the_target(rows: Any) -> None:
    data = planted_rows(600)
    model = build(QIN, data, dim=8, layers=2, dropout=0.0, rows=rows)
    losses = fit(model, data, epochs=12, lr=0.005)  # at 0.02 the loss jumps, elsewhere on each processor
    assert losses[-1] < losses[0] / 4 and area(model, data) > 0.99
