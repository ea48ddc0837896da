"""FinalMLP against its formula, row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmrec.models.ctr.finalmlp import Bilinear, Config, FinalMLP, Gate
from tests.dense import assert_close
from tests.rows import area, build, crossed_rows, fit, planted_rows, shaken, whole_batch

DATA = planted_rows(20)
BATCH = whole_batch(DATA)


@pytest.mark.parametrize("gates", ["learned", "fields", "none"])
def test_scores_against_the_formula(gates: Any) -> None:
    model = shaken(FinalMLP, DATA, dim=2, first=(6, 4), second=(8,), heads=2, gates=gates, gate_hidden=3)
    p = {name: value.detach() for name, value in model.state_dict().items()}
    embedded, scores = model.inputs(BATCH), model.score(BATCH)

    def dense(name: str, state: torch.Tensor) -> torch.Tensor:
        return p[f"{name}.weight"] @ state + p[f"{name}.bias"]

    for row in range(len(BATCH)):
        flat = torch.cat(list(embedded.fields()[row]))
        outputs = []
        for stream, layers in ((0, 2), (1, 1)):
            state = flat
            if gates != "none":
                condition = (embedded.context[row].flatten(), embedded.target[row])[stream]
                if gates == "learned":
                    condition = p[f"gates.{stream}.constant"][0]
                inner = dense(f"gates.{stream}.network.0", condition).clamp(min=0)
                state = state * 2 / (1 + (-dense(f"gates.{stream}.network.2", inner)).exp())
            for layer in range(layers):
                state = dense(f"streams.{stream}.{3 * layer}", state).clamp(min=0)
            outputs.append(state)
        one, two = outputs
        expected = (dense("fusion.first", one) + p["fusion.second.weight"] @ two)[0]
        for head in range(2):
            form = p["fusion.form"][head]
            for i in range(2):
                for j in range(4):
                    expected = expected + one[2 * head + i] * form[i, j] * two[4 * head + j]
        assert_close(scores[row], expected, 1e-4)


def test_a_gate_of_nothing_is_one() -> None:
    gate = Gate(3, 4, 6)
    for layer in (gate.network[0], gate.network[2]):
        layer.bias.data.zero_()
    assert torch.equal(gate(torch.zeros(2, 3)), torch.ones(2, 6))


def test_one_head_is_the_full_form() -> None:
    form = Bilinear(4, 3, 1)
    one, two = (torch.randn(5, width, generator=torch.Generator().manual_seed(width)) for width in (4, 3))
    expected = ((one @ form.form[0]) * two).sum(1) + form.first(one)[:, 0] + form.second(two)[:, 0]
    assert_close(form(one, two), expected)


def test_heads_divide_the_widths() -> None:
    with pytest.raises(ValueError, match="heads"):
        Config(first=(5,), heads=2)


def test_learns_a_product() -> None:
    data = crossed_rows()
    model = build(FinalMLP, data, dim=4, dropout=0.0)
    fit(model, data, lr=0.01)
    assert area(model, data) > 0.99
