"""Crosses against their formulas, row by row, and the property tests of DCNv2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmrec.models.ctr.crosses import CrossConfig, CrossNetwork, LowRank, Mixture
from mmrec.models.ctr.dcnv2 import DCNv2
from mmrec.models.ctr.lr import LR
from tests.dense import assert_close
from tests.rows import area, build, crossed_rows, fit, planted_rows, shaken, whole_batch

WIDTH = 5
DATA = planted_rows(30)


def network(**params: Any) -> CrossNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CrossNetwork(WIDTH, CrossConfig(**params)).double()


def rows(n: int = 4) -> Tensor:
    return torch.randn(n, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def dense(p: dict[str, Tensor], name: str, state: Tensor) -> Tensor:
    result = p[f"{name}.weight"] @ state
    return result + p[f"{name}.bias"] if f"{name}.bias" in p else result


def cross_twin(p: dict[str, Tensor], first: Tensor, layers: int, cross: str, experts: int) -> Tensor:
    state = first
    for layer in range(layers):
        name = f"layers.{layer}"
        if cross == "full":
            state = first * dense(p, name, state) + state
            continue
        if cross == "low-rank":
            matrix = p[f"{name}.up.weight"] @ p[f"{name}.down.weight"]
            state = first * (matrix @ state + p[f"{name}.up.bias"]) + state
            continue
        gates = dense(p, f"{name}.gates", state).softmax(0)
        total = torch.zeros_like(state)
        for expert in range(experts):
            rank = p[f"{name}.core"].shape[1]
            own = slice(expert * rank, (expert + 1) * rank)
            inner = (p[f"{name}.down.weight"][own] @ state).tanh()
            inner = (p[f"{name}.core"][expert].T @ inner).tanh()
            total += gates[expert] * first * (p[f"{name}.up.weight"][:, own] @ inner + p[f"{name}.up.bias"])
        state = total + state
    return state


def mlp_twin(p: dict[str, Tensor], name: str, state: Tensor, hidden: int) -> Tensor:
    for layer in range(hidden):
        state = dense(p, f"{name}.{3 * layer}", state).clamp(min=0)
    return state


@pytest.mark.parametrize("cross", ["full", "low-rank", "mixture"])
@pytest.mark.parametrize("structure", ["parallel", "stacked", "cross", "stacked-parallel"])
def test_scores_against_the_formula(cross: str, structure: str) -> None:
    model = shaken(
        DCNv2, DATA, dim=2, cross=cross, structure=structure, layers=2, rank=3, experts=2, hidden=(6, 4)
    )
    batch = whole_batch(DATA)
    p = {name: value.detach().double() for name, value in model.state_dict().items()}
    body = {name.removeprefix("body.cross."): value for name, value in p.items()}
    scores = model.score(batch)
    for row, flat in enumerate(model.inputs(batch).flat().detach().double()):
        crossed = cross_twin(body, flat, 2, cross, 2)
        if structure.startswith("stacked"):
            crossed = mlp_twin(p, "body.behind", crossed, 2)
        if structure.endswith("parallel"):
            crossed = torch.cat([crossed, mlp_twin(p, "body.beside", flat, 2)])
        assert_close(scores[row], dense(p, "out", crossed)[0], 1e-4)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_1_degree(layers: int) -> None:
    """f(c x) is a polynomial of degree L + 1 in c: its differences of order L + 2 vanish, those of order L + 1 do not."""
    crosses = network(layers=layers)
    for layer in crosses.layers:
        layer.bias.data.zero_()
    values = torch.stack([crosses(c * rows()) for c in range(layers + 4)])
    assert values.diff(n=layers + 2, dim=0).abs().max() < 1e-9
    assert values.diff(n=layers + 1, dim=0).abs().max() > 1e-3


def test_2_identity_and_sum() -> None:
    crosses = network(layers=1)
    (layer,) = crosses.layers
    layer.weight.data.zero_()
    layer.bias.data.zero_()
    assert torch.equal(crosses(rows()), rows())
    layer.bias.data.fill_(1)
    assert_close(crosses(rows()), 2 * rows())


def test_3_low_rank_of_full_rank_is_full() -> None:
    full, low = network(layers=1), network(layers=1, cross="low-rank", rank=WIDTH)
    first, second = full.layers[0], low.layers[0]
    assert isinstance(second, LowRank)
    first.weight.data = second.up.weight.data @ second.down.weight.data
    first.bias.data = second.up.bias.data
    assert_close(full(rows()), low(rows()), 1e-12)


def test_4_mixture() -> None:
    crosses = network(layers=1, cross="mixture", experts=1, rank=3)
    layer = crosses.layers[0]
    assert isinstance(layer, Mixture)
    inner = ((rows() @ layer.down.weight.T).tanh() @ layer.core[0]).tanh()
    expected = rows() * (inner @ layer.up.weight.T + layer.up.bias) + rows()
    assert_close(crosses(rows()), expected, 1e-12)
    several = network(cross="mixture", experts=4)
    assert_close(several.layers[0].gates(rows()).softmax(1).sum(1), torch.ones(4))
    assert_close(several(rows(4)[:1]), several(rows(4))[:1], 1e-12)


def test_6_learns_a_product_where_logistic_regression_does_not() -> None:
    data = crossed_rows()
    model, linear = build(DCNv2, data, dim=4, structure="cross", layers=1), build(LR, data)
    fit(model, data)
    fit(linear, data)
    assert area(model, data) > 0.99
    assert area(linear, data) < 0.6
