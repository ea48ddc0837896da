"""The filter language: its meaning row by row, its refusals, its round trip through text."""

from __future__ import annotations

import builtins
import os
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrec.errors import ConfigError, DataError, MMRecError
from mmrec.where import Attributes, Filter, parse
from mmrec.where.parser import MAX_DEPTH, MAX_LENGTH, MAX_LIST
from mmrec.where.translate import column_name
from mmrec.where.tree import Node
from tests.where.filters import KINDS, holds, make_table, nodes, pandas_mask

ITEMS = pd.DataFrame(
    {
        "price": [1, 60, None, 20.5],
        "category": ["toys", "games", None, "it's"],
        "in_stock": [True, False, None, True],
        "colours": [["red", "blue"], [], None, ['a"b']],
        "sizes": [[1, 2], None, [], [3]],
        "Main Category": ["x", None, "z", "w"],
    }
)


FRAME = make_table(200)
TABLE = Attributes.from_frame(FRAME)
ROWS = FRAME.to_dict("records")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('price < 50 and category in ["toys", "games"] and in_stock', [0]),
        ("price != 60", [0, 3]),
        ("not price == 60", [0, 2, 3]),
        ("price not in [1]", [1, 3]),
        ("price >= 20.5 or price is null", [1, 2, 3]),
        ("NOT (price < 50 OR in_stock)", [1, 2]),
        ("50 > price", [0, 3]),
        ("-1e0 < price", [0, 1, 3]),
        ("not in_stock", [1, 2]),
        ("in_stock == false", [1]),
        ("category == 'it\\'s' or category == \"it\\u0027s\"", [3]),
        ('category < "h"', [1]),
        ('"red" in colours', [0]),
        ('"red" not in colours', [3]),
        ('not "red" in colours', [1, 2, 3]),
        ("3 in sizes or 1 in sizes", [0, 3]),
        ("colours is null", [1, 2]),
        ("`Main Category` is not null and not `Main Category` == 'x'", [2, 3]),
        ("in_stock or price > 50 and price < 10", [0, 3]),  # and binds tighter
        ("(in_stock or price > 50) and price < 10", [0]),
    ],
)
def test_meaning(text: str, rows: list[int]) -> None:
    assert np.flatnonzero(parse(text).mask(ITEMS)).tolist() == rows


@settings(max_examples=150, deadline=None, derandomize=True)
@given(nodes)
def test_masks_are_those_of_a_reading_row_by_row(node: Node) -> None:
    expected = [holds(node, row) for row in ROWS]
    assert Filter(node).mask(TABLE).tolist() == expected


@settings(max_examples=150, deadline=None, derandomize=True)
@given(nodes)
def test_masks_are_those_of_pandas(node: Node) -> None:
    assert Filter(node).mask(TABLE).tolist() == pandas_mask(node, FRAME).tolist()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(nodes)
def test_rendered_filters_parse_to_themselves(node: Node) -> None:
    again = parse(str(Filter(node)))
    assert again == Filter(node)
    assert str(again) == str(Filter(node))


def test_attributes_survive_taking_joining_and_tables() -> None:
    assert TABLE.kinds == KINDS
    again = Attributes.from_frame(TABLE.to_frame(), TABLE.kinds)
    rows = np.random.default_rng(0).permutation(len(ROWS))
    shuffled = TABLE.take(rows).join(Attributes.from_frame(make_table(50, seed=1)))
    more = make_table(50, seed=1).to_dict("records")
    for name in KINDS:
        cells = [None if row[name] == [] else row[name] for row in ROWS]
        assert TABLE.columns[name].to_list() == again.columns[name].to_list() == cells
        below = [None if row[name] == [] else row[name] for row in more]
        assert shuffled.columns[name].to_list() == [cells[row] for row in rows] + below


FRAGMENTS = st.sampled_from(
    ["price", "in_stock", "`", "``", '"red"', "'", "\\", "not", "and", "or", "in", "is", "null", "(", ")", "[", "]", ",",
     "<", "==", "=", "&&", "-", "1e999", "9" * 400, ".", "1.5", "__import__('os').system('x')", "price.__class__",
     "lambda: 0", "\0", "\ud800", "\\u0000", "é", "½", "٣", "# x", "true", "colours"]
)  # fmt: skip


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.one_of(st.text(max_size=60), st.lists(FRAGMENTS, max_size=12).map(" ".join)))
def test_any_text_is_a_filter_or_an_mmrec_error(text: str) -> None:
    try:
        mask = parse(text).mask(ITEMS)
    except MMRecError as error:
        assert all((error.expected, error.found, error.do))
    else:
        assert mask.shape == (4,)


def test_text_is_never_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    for place, name in ((builtins, "eval"), (builtins, "exec"), (builtins, "compile"), (os, "system")):
        monkeypatch.setattr(place, name, lambda *a, **k: calls.append(a))
    for text in (
        "__import__('os').system('true')",
        "price < eval('1')",
        "price < 5",
        "exec('1') or in_stock",
    ):
        try:
            parse(text).mask(ITEMS)
        except ConfigError:
            continue
    assert calls == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["an attribute or a value", "character 1", "the end"]),
        ("pric < 50", ["'pric' at character 1", "did you mean 'price'"]),
        ("in_stock and pryce < 50", ["'pryce' at character 14", "did you mean 'price'"]),
        ("price < ", ["character 9", "the end"]),
        ("price = 5", ["character 7", "write =="]),
        ("price < 5 && in_stock", ["character 11", "write and"]),
        ("price == null", ["is null"]),
        ("price < price", ["two attributes"]),
        ("1 < 2", ["two values"]),
        ("0 < price < 50", ["and, or", "character 11"]),
        ("(price < 5", ["closing parenthesis"]),
        ("price < 5)", ["the end of the filter", "character 10"]),
        ("price not 5", ["in after not"]),
        ("price is 5", ["null after is"]),
        ("price in []", ["a value"]),
        ("price in [1,", ["the end"]),
        ("category in [toys]", ["quote strings"]),
        ("category in colours", ["a list such as [1, 2]"]),
        ("true", ["a comparison"]),
        ('category == "toys', ["closing quote", "character 13"]),
        (r'category == "\q"', ["escapes", "character 14"]),
        (r'category == "\ud800"', ["surrogate"]),
        ("price < 9007199254740993", ["double precision", "strings"]),
        ("price < 1e999", ["double precision"]),
        ("price == '5'", ["price compared with a number", "character 1", "is a string"]),
        ("category == 5", ["category compared with a string", "is a number"]),
        ("category in ['a', 5]", ["category compared with a string", "5 is a number"]),
        ("in_stock == 1", ["boolean", "true or false"]),
        ("in_stock < true", ["== or !="]),
        ("price", ["price compared with a number"]),
        ("colours == 'red'", ["lists of strings", "write value in colours"]),
        ("'toys' in category", ["one string per item", "write category == value"]),
        ("2 in colours", ["colours compared with a string"]),
    ],
)  # fmt: skip
def test_refusals_name_place_and_remedy(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text).mask(ITEMS)
    for word in words:
        assert word in str(caught.value)


def test_limits() -> None:
    deepest = "(" * (MAX_DEPTH - 1) + "in_stock" + ")" * (MAX_DEPTH - 1)
    assert parse(deepest) == parse("in_stock")
    longest = f"price in [{', '.join(['1'] * MAX_LIST)}]"
    assert parse(longest).mask(ITEMS).tolist() == [True, False, False, False]
    for text in (
        f"({deepest})",
        "not " * 5000 + "in_stock",
        longest.replace("[", "[1, "),
        " " * MAX_LENGTH + "a",
    ):
        with pytest.raises(ConfigError, match="at most"):
            parse(text)
    assert parse(" or ".join(["in_stock"] * 4000)).mask(ITEMS).tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([1, "a"], "mixed"),
        ([["a"], "b"], "'b'"),
        ([["a", 1]], "mixed"),
        ([[True]], "boolean"),
        ([{"a": 1}], "beside lists"),
        ([pd.Timestamp("2024-01-01")], "dates as numbers"),
        ([float("inf")], "inf"),
        ([2**53 + 2], "strings"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_filtered_are_refused(column: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        Attributes.from_frame(pd.DataFrame({"odd": column}))
    assert "odd" in str(caught.value)


def test_pandas_types_are_understood() -> None:
    frame = pd.DataFrame(
        {
            "a": pd.array([1, None], dtype="Int64"),
            "b": pd.array([True, None], dtype="boolean"),
            "c": pd.Categorical(["x", None]),
            "d": pd.array(["x", None], dtype="string"),
            "e": [np.array(["x"], dtype=object), None],
            "f": [None, None],
            "g": np.array([1, 2], dtype=np.uint8),
        }
    )
    attributes = Attributes.from_frame(frame, {"f": "strings"})
    assert list(attributes.kinds.values()) == [
        "number", "boolean", "string", "string", "strings", "strings", "number",
    ]  # fmt: skip
    for text in ("a == 1 and b and c == 'x' and d == 'x' and 'x' in e", "a is null and f is null and g == 2"):
        assert parse(text).mask(attributes).sum() == 1


def test_column_names_need_no_quoting_and_are_different() -> None:
    names = [
        "price",
        "Price",
        "or",
        "OR",
        "a b",
        "a`b",
        "größe",
        "hex_61",
        "id",
        "x'; drop table items",
        "_a",
        "1",
    ]
    columns = [column_name(name) for name in names]
    assert len(set(columns)) == len(names)
    assert all(column.isascii() and column.isidentifier() for column in columns)
    assert columns[:2] == names[:2]
