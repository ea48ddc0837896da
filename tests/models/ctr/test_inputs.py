"""The rankers' inputs against look-ups written out field by field."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmrec.data.rows.table import HistoryField, Lists, RowData, RowField, RowTable
from mmrec.errors import DataError
from mmrec.models.ctr.inputs import RowInputs, trim
from tests.dense import assert_close
from tests.rows import N_ITEMS, crossed_rows, planted_rows, replaced, some_rows, whole_batch

DIM = 3
# where each field begins in the table: color 6, labels 5, item 26, kind 4, two levels of codes 4 + 1 and 6 + 1, topics 4
STARTS = {"color": 0, "labels": 6, "item": 11, "kind": 37, "level 0": 41, "level 1": 46, "topics": 53}


def inputs_of(data: RowData, dim: int = DIM) -> RowInputs:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RowInputs(data, dim, init_std=1.0)


def one(table: Tensor, field: str, value: int) -> Tensor:
    return table[STARTS[field] + value] if value else table.new_zeros(DIM)


def mean(table: Tensor, field: str, values: list[int]) -> Tensor:
    found = [one(table, field, value) for value in values if value]
    return torch.stack(found).mean(0) if found else table.new_zeros(DIM)


def item_twin(inputs: RowInputs, table: Tensor, data: RowData, item: int) -> Tensor:
    """``(7, dim)``: id, kind, two codes, topics, weight, text."""
    assert data.item_rows is not None and inputs.item_number_vectors is not None
    row, values = int(data.item_rows[item]), data.item_values
    codes = [0, 0] if row < 0 else (data.codes["text"].codes[row] + 1).tolist()
    text = data.features["text"]
    content = torch.zeros(DIM, dtype=table.dtype)
    if row >= 0 and text.present[row]:
        content = inputs.contents["text"].map.weight.to(table) @ torch.from_numpy(text.vectors[row]).to(table)
    return torch.stack(
        [
            one(table, "item", item),
            one(table, "kind", int(values["kind"][item])),
            one(table, "level 0", codes[0]),
            one(table, "level 1", codes[1]),
            mean(table, "topics", values["topics"][item].tolist()),
            float(values["weight"][item]) * inputs.item_number_vectors[0].to(table),
            content,
        ]
    )


def fields_twin(inputs: RowInputs, table: Tensor, data: RowData) -> Tensor:
    assert inputs.number_vectors is not None
    batch, found = whole_batch(data).values, []
    for row in range(len(data.train)):
        context = [
            one(table, "color", int(batch["color"][row])),
            mean(table, "labels", batch["labels"][row].tolist()),
            float(batch["price"][row]) * inputs.number_vectors[0].to(table),
        ]
        target = item_twin(inputs, table, data, int(batch["item"][row]))
        history = [item_twin(inputs, table, data, item) for item in batch["history"][row].tolist() if item]
        pooled = torch.stack(history).mean(0) if history else torch.zeros_like(target)
        found.append(torch.cat([torch.stack(context), target, pooled]))
    return torch.stack(found)


def test_every_field_and_its_gradient() -> None:
    data = planted_rows(40)
    inputs = inputs_of(data)
    fields = inputs(whole_batch(data)).fields()
    table = inputs.table.weight.detach().double().requires_grad_()
    expected = fields_twin(inputs, table, data)
    assert fields.shape == (40, inputs.n_fields, DIM) and inputs.n_context == 3 and inputs.n_item_fields == 7
    assert_close(fields, expected)
    weights = torch.randn(fields.shape, generator=torch.Generator().manual_seed(1))
    (fields * weights).sum().backward()
    found = {name: own.grad.clone() for name, own in inputs.named_parameters() if own.grad is not None}
    inputs.zero_grad()
    (expected * weights).sum().backward()
    assert table.grad is not None and found["table.weight"].is_sparse
    assert_close(found.pop("table.weight").to_dense(), table.grad)
    assert set(found) == {"number_vectors", "item_number_vectors", "contents.text.map.weight"}
    for name, gradient in found.items():
        twin = inputs.get_parameter(name).grad
        assert twin is not None
        assert_close(gradient, twin)


def test_padding_is_zero_and_has_no_gradient() -> None:
    data = planted_rows(40)
    inputs, batch = inputs_of(data), whole_batch(data)
    starts = list(STARTS.values())
    assert not inputs.table.weight[starts].any()
    empty = {name: torch.zeros_like(value) for name, value in batch.values.items()}
    embedded = inputs(replaced(batch, **empty))
    assert not embedded.fields().any() and not embedded.items.any()
    inputs(batch).fields().sum().backward()
    assert inputs.table.weight.grad is not None
    gradient = inputs.table.weight.grad
    assert not set(starts) & set(gradient._indices()[0].tolist())
    rows = gradient._indices()[0]
    assert (rows[1:] > rows[:-1]).all()  # each row once: nothing is left to sum


def test_an_item_without_the_modality_has_zeros_for_it() -> None:
    data = planted_rows(400)
    assert data.item_rows is not None
    absent = [
        1 + item for item in range(N_ITEMS) if not data.features["text"].present[data.item_rows[1 + item]]
    ]
    embedded, batch = inputs_of(data)(whole_batch(data)), whole_batch(data)
    content = embedded.target.view(400, 7, DIM)[:, -1]
    lacking = torch.isin(batch.values["item"], torch.tensor(absent))
    assert lacking.any() and not content[lacking].any() and content[~lacking].any(1).all()


def test_a_history_has_the_same_vectors_as_the_target() -> None:
    data = planted_rows(40)
    batch = whole_batch(data)
    again = torch.stack([batch.values["item"], batch.values["item"] * 0], 1)
    embedded = inputs_of(data)(replaced(batch, history=again))
    history = embedded.histories["history"]
    assert history.places.shape == (40, 1)  # the column of padding is cut off
    assert torch.equal(embedded.items[history.places[:, 0]], embedded.target)


def test_latest_items_first() -> None:
    data = planted_rows(40)
    batch = whole_batch(data)
    embedded = inputs_of(data)(batch)
    places, present = embedded.histories["history"].latest(4)
    for row, ids in enumerate(batch.values["history"].tolist()):
        last = [item for item in ids if item][::-1][:4]
        assert int(present[row].sum()) == len(last)
        for column, item in enumerate(last):
            expected = item_twin(inputs_of(data), inputs_of(data).table.weight, data, item).flatten()
            assert_close(embedded.items[places[row, column]], expected)
        assert not embedded.items[places[row, len(last) :]].any()


@pytest.mark.parametrize("histories", [(), ("history", "likes")])
def test_no_history_and_two(histories: tuple[str, ...]) -> None:
    data = planted_rows(40, histories=histories)
    inputs, batch = inputs_of(data), whole_batch(data)
    embedded = inputs(batch)
    assert list(embedded.histories) == list(histories)
    assert embedded.fields().shape[1] == inputs.n_fields == 3 + 7 * (1 + len(histories))
    alone = inputs(some_rows(batch, [5]))
    assert_close(alone.fields()[0], embedded.fields()[5])


def test_rows_about_no_item() -> None:
    data = crossed_rows(10)
    inputs = inputs_of(data)
    embedded = inputs(whole_batch(data))
    assert embedded.target.shape == (10, 0) and embedded.fields().shape == (10, 2, DIM)
    field = RowField("x", "number")
    table = RowTable({"x": np.array([2.0, -1.0], dtype=np.float32)}, np.array([0, 1], dtype=np.int8))
    numbers = inputs_of(RowData((field,), table))
    assert numbers.number_vectors is not None
    fields = numbers(whole_batch(RowData((field,), table))).fields()
    assert_close(fields[:, 0], torch.tensor([[2.0], [-1.0]]) * numbers.number_vectors)


def test_a_history_about_nothing_is_refused() -> None:
    data = crossed_rows(10)
    table = RowTable({**data.train.columns, "seen": Lists.of([[1]] * 10)}, data.train.labels)
    with pytest.raises(DataError, match="seen"):
        RowInputs(RowData(data.fields, table, histories=(HistoryField("seen", 3),)), DIM)


def test_trim() -> None:
    assert trim(torch.tensor([[3, 0, 0], [0, 4, 0]])).tolist() == [[3, 0], [0, 4]]
    assert trim(torch.zeros(2, 3)).tolist() == [[0.0], [0.0]]


def test_rows_are_announced_before_they_are_read() -> None:
    data = planted_rows(40)
    inputs, seen = inputs_of(data), []
    inputs.before_lookup = lambda rows: seen.append(rows)
    inputs.eval()(whole_batch(data))
    assert not seen
    inputs.train()(whole_batch(data)).fields().sum().backward()
    assert inputs.table.weight.grad is not None
    assert seen[0].tolist() == [0, *inputs.table.weight.grad._indices()[0].tolist()]
