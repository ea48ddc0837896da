"""DIN against loops over the items of each history, and the property tests of its paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmrec.models.ctr.din import DIN, ActivationUnit, Dice
from mmrec.models.ctr.inputs import History
from mmrec.ragged import Links
from tests.dense import assert_close
from tests.rows import area, build, fit, planted_rows, replaced, shaken, whole_batch

DATA = planted_rows(40, histories=("history", "likes"))
BATCH = whole_batch(DATA)
WIDTH = 4
PLACES = torch.tensor([[1, 3, 2, 3], [4, 0, 0, 0], [0, 0, 0, 0], [2, 2, 5, 0]])


def history_of(places: Tensor) -> History:
    return History(places, places > 0, Links.of(places, places > 0, 6))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ITEMS = torch.cat([torch.zeros(1, WIDTH), random(5, WIDTH)])
TARGET = random(4, WIDTH, seed=1)


def unit(*, softmax: bool = False, activation: Any = "dice") -> ActivationUnit:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ActivationUnit(WIDTH, (6, 5), 0.0, activation, softmax=softmax)
        for parameter in made.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
    return made.eval()


def dice_twin(values: Tensor, p: dict[str, Tensor], name: str) -> Tensor:
    mean, variance = p[f"{name}.norm.running_mean"], p[f"{name}.norm.running_var"]
    gate = 1 / (1 + torch.exp(-(values - mean) / (variance + 1e-8).sqrt()))
    return gate * values + (1 - gate) * p[f"{name}.alpha"] * values


def unit_twin(
    p: dict[str, Tensor], target: Tensor, history: list[Tensor], activation: str, softmax: bool
) -> Tensor:
    weights = []
    for item in history:
        state = torch.cat([target, item, target - item, target * item])
        for layer, act in (("first", "start.0"), ("rest.0", "rest.1")):
            state = p[f"{layer}.weight"] @ state + p[f"{layer}.bias"]
            state = dice_twin(state, p, act) if activation == "dice" else state.clamp(min=0)
        last = max(name for name in p if name.startswith("rest.") and name.endswith("weight"))
        weights.append((p[last] @ state + p[last.replace("weight", "bias")])[0])
    if not weights:
        return torch.zeros_like(target)
    found = torch.stack(weights)
    if softmax:
        found = found.exp() / found.exp().sum()
    return sum((weight * item for weight, item in zip(found, history, strict=True)), torch.zeros_like(target))


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("activation", ["dice", "relu"])
def test_scores_against_the_formula(softmax: bool, activation: str) -> None:
    model = shaken(DIN, DATA, dim=2, attention=(6, 5), softmax=softmax, activation=activation, hidden=(7,))
    p = {name: value.detach().double() for name, value in model.state_dict().items()}
    embedded, scores = model.inputs(BATCH), model.score(BATCH)
    for row in range(len(BATCH)):
        target, parts = embedded.target[row].detach().double(), []
        for number, name in enumerate(("history", "likes")):
            own = {key.removeprefix(f"units.{number}."): value for key, value in p.items()}
            history = embedded.histories[name]
            items = embedded.items[history.places[row][history.present[row]]].detach().double()
            parts.append(unit_twin(own, target, list(items), activation, softmax))
        state = torch.cat([embedded.context[row].flatten().detach().double(), target, *parts])
        state = (p["network.0.weight"] @ state + p["network.0.bias"]).clamp(min=0)
        assert_close(scores[row], (p["network.3.weight"] @ state + p["network.3.bias"])[0], 1e-4)


@pytest.mark.parametrize("softmax", [False, True])
class TestProperties:
    def test_1_padding_says_nothing(self, softmax: bool) -> None:
        own = unit(softmax=softmax)
        found = own(TARGET, ITEMS, history_of(PLACES))
        wider = torch.cat([PLACES, torch.zeros(4, 2, dtype=torch.int64)], 1)
        assert_close(own(TARGET, ITEMS, history_of(wider)), found)
        junk = History(
            PLACES + 5 * (PLACES == 0), PLACES > 0, Links.of(PLACES + 5 * (PLACES == 0), PLACES > 0, 6)
        )
        assert_close(own(TARGET, ITEMS, junk), found)
        assert not found[2].any()

    def test_2_a_history_twice(self, softmax: bool) -> None:
        own = unit(softmax=softmax)
        found = own(TARGET, ITEMS, history_of(PLACES))
        twice = own(TARGET, ITEMS, history_of(torch.cat([PLACES, PLACES], 1)))
        assert_close(twice, found if softmax else 2 * found)

    def test_4_order_says_nothing(self, softmax: bool) -> None:
        model = shaken(DIN, DATA, softmax=softmax)
        flipped = replaced(BATCH, history=BATCH.values["history"].flip(1))
        assert not torch.equal(flipped.values["history"], BATCH.values["history"])
        assert_close(model.score(flipped), model.score(BATCH), 1e-5)

    def test_empty_histories_have_finite_gradients(self, softmax: bool) -> None:
        own, items = unit(softmax=softmax).train(), ITEMS.clone().requires_grad_()
        for places in (PLACES, PLACES[2:3], PLACES[1:2]):  # several items, none, one alone in the batch
            own(TARGET[: len(places)], items, history_of(places)).sum().backward()
            assert items.grad is not None and items.grad.isfinite().all()
            assert all(one.grad is None or one.grad.isfinite().all() for one in own.parameters())


def test_3_first_layer_is_that_of_the_four_parts_side_by_side() -> None:
    own = unit(activation="relu")
    links = history_of(PLACES).links
    target, items = TARGET[links.rows.index], ITEMS[links.entries.index]
    expected = own.first(torch.cat([target, items, target - items, target * items], 1))
    for layer in (own.start, own.rest):
        expected = layer(expected)
    assert_close(own._weights(TARGET, ITEMS, history_of(PLACES)), expected[:, 0], 1e-5)


def test_5_dice() -> None:
    values = random(2000, 3) * 2 + torch.tensor([0.0, 5.0, -3.0])
    dice = Dice(3)
    dice.alpha.data.fill_(1)
    assert_close(dice(values), values)
    dice.alpha.data.zero_()
    gates = (values - values.mean(0)) / values.std(0)
    assert_close(dice(values), values * gates.sigmoid(), 2e-3)
    sharp = Dice(3)  # a variance near 0 in evaluation: the gate is a step at the mean
    sharp.eval()
    sharp.norm.running_mean, sharp.norm.running_var = values.mean(0), torch.full((3,), 1e-12)
    far = (values - values.mean(0)).abs() > 2e-3
    assert_close(sharp(values)[far], (values * (values > values.mean(0)))[far])
    for _ in range(200):
        dice.train()(values)
    assert_close(dice(values), dice.eval()(values), 1e-2)


def test_5_statistics_leave_padding_out() -> None:
    model = build(DIN, DATA, dropout=0.0)
    model.train().score(BATCH)
    wide = torch.cat([BATCH.values["history"], torch.zeros(40, 30, dtype=torch.int64)], 1)
    other = build(DIN, DATA, dropout=0.0)
    other.train().score(replaced(BATCH, history=wide))
    for name, value in model.state_dict().items():
        if "running" in name:
            assert_close(value, other.state_dict()[name])
            assert value.any()


def test_6_rows_absent_from_a_batch_are_untouched() -> None:
    data = planted_rows(40)
    model = build(DIN, data)
    before = model.inputs.table.weight.detach().clone()
    part = next(data.train.batches(3))
    model.loss(part)["bce"].backward()
    touched = model.inputs.table.weight.grad._indices()[0].tolist()
    assert 0 < len(touched) < len(before) / 2
    only = type(data)(**{**vars(data), "train": _first(data, 3)})
    fit(model, only, epochs=2)
    rest = [row for row in range(len(before)) if row not in touched]
    assert torch.equal(model.inputs.table.weight[rest], before[rest])
    assert not torch.equal(model.inputs.table.weight[touched], before[touched])


def _first(data: Any, n: int) -> Any:
    class First:
        def batches(self, *_: Any, **__: Any) -> Any:
            yield next(data.train.batches(n))

    return First()


def test_learns_what_a_history_has_to_do_with_the_target() -> None:
    data = planted_rows(600)
    model = build(DIN, data, dim=8, dropout=0.0)
    losses = fit(model, data, epochs=8)
    assert losses[-1] < losses[0] / 2 and area(model, data) > 0.95
