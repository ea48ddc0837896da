"""The lazy optimiser against loops over all rows at every step."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmrec.lazy_adam import LazyAdam, clip_norm, touched_rows
from mmrec.runs import load_tensors, save_tensors
from tests.dense import assert_close

ROWS, DIM, STEPS = 12, 3, 40
BETAS, EPS = (0.9, 0.999), 1e-8


def rate(step: int) -> float:
    return 0.05 / (1 + step) + 0.01 * (step % 3)


def sparse(step: int, *, repeats: bool = True) -> Tensor:
    """A gradient that touches few rows, some more than once; row 0 only at the first step."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.randint(1, ROWS, (5,), generator=generator)
    if step == 0:
        rows[0] = 0
    if not repeats:
        rows = rows.unique()
    values = torch.randn(len(rows), DIM, generator=generator)
    return torch.sparse_coo_tensor(rows[None], values, (ROWS, DIM), check_invariants=True)


def start() -> nn.Parameter:
    return nn.Parameter(torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(9)))


def run(table: nn.Parameter, optimizer: LazyAdam, steps: range) -> None:
    for step in steps:
        optimizer.param_groups[0]["lr"] = rate(step)
        table.grad = None if step == 17 else sparse(step)
        optimizer.step()


def dense_loop(decay: float) -> Tensor:
    """All rows decay at every step; moments move where the gradient touches. In float64."""
    weights = start().detach().double()
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    for step in range(STEPS):
        lr = rate(step)
        weights *= 1 - lr * decay
        if step == 17:
            continue
        gradient = sparse(step)
        for row in set(gradient._indices()[0].tolist()):
            g = gradient.to_dense()[row].double()
            first[row] = BETAS[0] * first[row] + (1 - BETAS[0]) * g
            second[row] = BETAS[1] * second[row] + (1 - BETAS[1]) * g**2
            m = first[row] / (1 - BETAS[0] ** (step + 1))
            v = second[row] / (1 - BETAS[1] ** (step + 1))
            weights[row] -= lr * m / (v.sqrt() + EPS)
    return weights


@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_equals_a_loop_over_all_rows(decay: float) -> None:
    table = start()
    optimizer = LazyAdam([table], betas=BETAS, eps=EPS, weight_decay=decay)
    run(table, optimizer, range(STEPS))
    expected = dense_loop(decay)
    if decay:
        assert (table[0] - expected[0]).abs().max() > 0.01  # row 0 has missed the decay since the first step
    optimizer.settle()
    assert_close(table.detach(), expected, 1e-6)


def test_settling_in_between_changes_nothing() -> None:
    table, other = start(), start()
    one, two = (LazyAdam([own], weight_decay=0.7) for own in (table, other))
    run(table, one, range(STEPS))
    one.settle()
    for first in range(0, STEPS, 7):
        run(other, two, range(first, min(first + 7, STEPS)))
        two.settle()
        two.settle()
    assert_close(table.detach(), other.detach(), 1e-6)


def test_rows_that_catch_up_before_they_are_read_have_the_gradient_of_the_dense_loop() -> None:
    """The gradient here depends on the weights: 2 w of the rows that a step reads."""
    table, decay = start(), 2.0
    expected = start().detach().double()
    optimizer = LazyAdam([table], weight_decay=decay)
    first, second = torch.zeros_like(expected), torch.zeros_like(expected)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = lr = rate(step)
        rows = sparse(step)._indices()[0].unique()
        optimizer.catch_up(table, rows)
        optimizer.zero_grad()
        nn.functional.embedding(rows, table, sparse=True).pow(2).sum().backward()
        optimizer.step()
        g = 2 * expected[rows]
        first[rows] = 0.9 * first[rows] + 0.1 * g
        second[rows] = 0.999 * second[rows] + 0.001 * g**2
        expected *= 1 - lr * decay
        m, v = first[rows] / (1 - 0.9 ** (step + 1)), second[rows] / (1 - 0.999 ** (step + 1))
        expected[rows] -= lr * m / (v.sqrt() + EPS)
    optimizer.settle()
    assert_close(table.detach(), expected, 1e-5)


def test_untouched_rows_keep_their_bits() -> None:
    table, before = start(), start().detach()
    optimizer = LazyAdam([table], weight_decay=0.7)
    for step in range(1, 5):
        table.grad = sparse(step)
        optimizer.step()
    touched = torch.cat([sparse(step)._indices()[0] for step in range(1, 5)]).unique()
    rest = [row for row in range(ROWS) if row not in touched.tolist()]
    assert rest and torch.equal(table[rest], before[rest])
    assert not optimizer.state[table]["exp_avg"][rest].any()


def test_state_goes_through_a_file_of_tensors(tmp_path: Path) -> None:
    """As the training loop saves and loads it; then both go on with the same bits."""
    table = start()
    optimizer = LazyAdam([table], weight_decay=0.7)
    run(table, optimizer, range(20))
    saved = {
        f"{number}.{slot}": value
        for number, slots in optimizer.state_dict()["state"].items()
        for slot, value in slots.items()
    }
    save_tensors(tmp_path / "state.safetensors", {**saved, "table": table.detach()}, {})
    loaded, _ = load_tensors(tmp_path / "state.safetensors")
    other = nn.Parameter(loaded.pop("table"))
    resumed = LazyAdam([other], weight_decay=0.7)
    slots = {name.removeprefix("0."): value for name, value in loaded.items()}
    resumed.load_state_dict({"state": {0: slots}, "param_groups": resumed.state_dict()["param_groups"]})
    for own, its in ((table, optimizer), (other, resumed)):
        run(own, its, range(20, STEPS))
        its.settle()
    assert torch.equal(table, other)
    for slot, value in optimizer.state[table].items():
        assert (
            torch.equal(value, resumed.state[other][slot]) and value.dtype == resumed.state[other][slot].dtype
        )


def test_repeated_rows_are_summed() -> None:
    gradient = next(g for g in map(sparse, range(1, STEPS)) if len(g._indices()[0].unique()) < 5)
    rows, values = touched_rows(gradient)
    expected = gradient.coalesce()
    assert len(rows) < 5 and torch.equal(rows, expected.indices()[0])
    assert_close(values, expected.values())
    once = sparse(5, repeats=False)
    assert touched_rows(once)[1].data_ptr() == once._values().data_ptr()  # nothing to sum, nothing copied


def test_a_late_row_moves_as_far_as_documented() -> None:
    table, last = nn.Parameter(torch.zeros(2, 1)), 600
    optimizer = LazyAdam([table], lr=0.1, betas=(0.9, 0.99))
    for step in range(last + 1):
        rows = torch.tensor([[1 if step == last else 0]])
        table.grad = torch.sparse_coo_tensor(rows, torch.ones(1, 1), (2, 1), check_invariants=False)
        optimizer.step()
    assert float(table.detach()[1]) == pytest.approx(-0.1 * (1 - 0.9) / math.sqrt(1 - 0.99), rel=1e-2)


def test_dense_gradients_are_refused() -> None:
    table = start()
    table.grad = torch.ones(ROWS, DIM)
    with pytest.raises(RuntimeError, match="sparse"):
        LazyAdam([table]).step()


def test_clipping_takes_sparse_and_dense_gradients_together() -> None:
    for largest in (0.5, 1e3):
        parameters, twins = ([start(), nn.Parameter(torch.ones(4))] for _ in range(2))
        for table, other in (parameters, twins):
            table.grad, other.grad = sparse(5), torch.full((4,), 2.0)
        twins[0].grad = sparse(5).to_dense()
        norm = clip_norm(parameters, largest)
        assert_close(norm, torch.nn.utils.clip_grad_norm_(twins, largest))
        for one, two in zip(parameters, twins, strict=True):
            assert one.grad is not None and two.grad is not None
            assert_close(one.grad.to_dense(), two.grad)
