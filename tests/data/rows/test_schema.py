"""Schemas: what YAML may say, what is guessed from a table, and the vocabularies behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mmrec.data.rows.infer import infer_schema, render_report
from mmrec.data.rows.schema import FieldSchema, LabelRule, load_schema
from mmrec.data.rows.table import RowField
from mmrec.data.rows.values import as_groups, as_labels, as_words
from mmrec.data.rows.vocabulary import GivenIds, Moments, NumberSample, Vocabulary, WordCounter, fitter
from mmrec.errors import ConfigError, DataError
from tests.data.rows.world import SCHEMA


def test_yaml_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "label: rating >= 4\nitem: item_id\nfields:\n  item_id: category\n  price: {kind: number, treatment: log}\n"
    )
    schema = load_schema(tmp_path / "s.yaml")
    assert schema.rule == LabelRule("rating", ">=", 4.0)
    assert schema.fields["price"].encoded_kind == "category"
    assert schema.columns() == ["rating", "item_id", "price"]
    assert load_schema(schema.document()) == schema
    assert load_schema(SCHEMA).histories["seen"].length == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"feilds": {}}, "did you mean 'fields'"),
        ({"fields": {"a": {"kind": "category", "min_cuont": 2}}}, "did you mean 'min_count'"),
        ({"fields": {"a": "categorical"}}, "'category'"),
        ({"fields": {"a": {"kind": "category", "separator": "|"}}}, "reads no separator"),
        ({"fields": {"a": {"kind": "number", "buckets": 3}}}, "reads no buckets"),
        ({"fields": {"label": "category"}}, "no name for a field"),
        ({"fields": {"h": "history"}, "item": None}, "need item"),
        ({"item": "price"}, "no field of kind category"),
        ({"items": {"fields": {"user": "category"}}}, "a field of rows and of items"),
        ({"items": {"embeddings": {"v": {"file": "a.npy", "column": "b"}}}}, "either a column or a file"),
    ],
)
def test_what_a_schema_must_not_say(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_schema({**SCHEMA, **change})


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("x >= 3", [0, 1, 1]), ("x>3", [0, 0, 1]), ("x <= 3", [1, 1, 0]), ("x<3", [1, 0, 0]), ("x == 3", [0, 1, 0])],
)  # fmt: skip
def test_rules_of_labels(rule: str, expected: list[int]) -> None:
    assert as_labels(pa.array([2, 3, 4.5]), LabelRule.parse(rule), "x").tolist() == expected


def test_one_value_is_one_word_whatever_its_type() -> None:
    words = ["7", None, "8"]
    for column in (
        pa.array([7, None, 8]),
        pa.array([7.0, None, 8.0]),
        pa.array([7.0, np.nan, 8.0]),
        pa.array([" 7", "", "8 "]),
        pa.array(["7", "-", "8"]).dictionary_encode(),
        pa.array(pd.Series(["7", None, "8"], dtype="string")),
    ):
        assert as_words(column, "x", ["-"]).to_pylist() == words
    assert as_words(pa.array([0.5, 7.0]), "x").to_pylist() == ["0.5", "7"]


def test_groups_are_told_apart() -> None:
    assert as_groups(pa.array([5, -1, 5]), "x").tolist() == [5, -1, 5]
    hashed = as_groups(pa.chunked_array([["a", "b"], ["a"]]), "x")
    assert hashed[0] == hashed[2] != hashed[1]
    with pytest.raises(DataError, match="nothing in 1 rows"):
        as_groups(pa.array(["a", None]), "x")


def test_vocabulary_by_count_then_word() -> None:
    counter = WordCounter(min_count=2)
    for chunk in (["b", "a", None, "c"], ["d", "a", "b", ""], ["d", "e"]):
        counter.add(pa.array(chunk), "x")
    vocabulary = counter.finish()
    assert vocabulary.words.to_pylist() == ["a", "b", "d"] and vocabulary.counts.tolist() == [2, 2, 2]
    assert vocabulary.encode(pa.array(["d", None, "c", "a", "?"]), "x").tolist() == [3, 0, 4, 1, 4]
    assert vocabulary.size == 5 and vocabulary.encode(pa.array([], pa.string()), "x").tolist() == []


def test_given_ids() -> None:
    fit = fitter(FieldSchema(kind="category", vocabulary="index"))
    fit.add(pa.array([3, 0, 7]), "x")
    coder = fit.finish()
    assert isinstance(coder, GivenIds) and coder.size == 9
    assert coder.encode(pa.array([0, None, 7, 8, 900]), "x").tolist() == [0, 0, 7, 8, 8]
    assert coder.encode(pa.array(["7", "", "9"]), "x").tolist() == [7, 0, 8]
    with pytest.raises(DataError, match=r"-1"):
        coder.encode(pa.array([1, -1]), "x")


def test_moments_and_quantiles_do_not_depend_on_chunks() -> None:
    values = np.random.default_rng(0).lognormal(3, 1, 5000)
    values[::7] = np.nan
    moments, small, large = Moments(), NumberSample(8), NumberSample(8, size=1000)
    for chunk in np.split(values, [1, 10, 800, 801, 3000]):
        for one in (moments, small, large):
            one.add(pa.array(chunk), "x")
    scale = moments.finish()
    known = values[~np.isnan(values)]
    np.testing.assert_allclose([scale.mean, scale.deviation], [known.mean(), known.std()], rtol=1e-12)
    shares = [np.bincount(one.finish().encode(pa.array(known), "x")) / len(known) for one in (small, large)]
    np.testing.assert_allclose(shares[0][1:], 1 / 8, atol=0.001)
    np.testing.assert_allclose(shares[1][1:], 1 / 8, atol=0.05)  # a sample of 1,000: five deviations
    whole = NumberSample(8, size=1000)
    whole.add(pa.array(values), "x")
    assert np.array_equal(whole.finish().borders, large.finish().borders)


def test_constant_and_absent_numbers() -> None:
    for column in ([4.0, 4.0], [None, None]):
        for kind in ({"treatment": "raw"}, {"treatment": "quantile"}, {"treatment": "log"}):
            fit = fitter(FieldSchema(kind="number", **kind))  # type: ignore[arg-type]
            fit.add(pa.array(column, pa.float64()), "x")
            coder = fit.finish()
            assert np.isfinite(coder.encode(pa.array([4.0, 9.0, None]), "x")).all()
            assert coder.encode(pa.array([None], pa.float64()), "x").tolist() == [0]


def test_a_vocabulary_is_saved_by_its_words() -> None:
    vocabulary = Vocabulary(pa.array(["a"]), np.array([1]))
    assert vocabulary.document() == {} and RowField("x", "category", vocabulary.size).size == 3


def test_inference_says_what_and_why() -> None:
    rng = np.random.default_rng(0)
    n = 400
    rows = pa.table(
        {
            "user_id": rng.integers(0, 50, n),
            "item_id": [f"i{k}" for k in rng.integers(0, 20, n)],
            "click": rng.integers(0, 2, n),
            "click_seq": [[f"i{k}" for k in rng.integers(0, 20, 3)] for _ in range(n)],
            "words": ["a|b" if k else "c" for k in rng.integers(0, 2, n)],
            "hour": rng.integers(0, 24, n).astype(str),
            "price": rng.normal(10, 1, n).round(3).astype(str),
            "views": rng.pareto(0.8, n) * 10,
            "timestamp": rng.integers(0, 10**9, n),
            "same": ["x"] * n,
            "vector": rng.normal(size=(n, 2)).tolist(),
        }
    )
    items = pa.table({"item_id": ["i0", "i1"], "hour": ["a", "b"], "vector": [[0.5, 1.0], [1.5, 2.0]]})
    schema, report = infer_schema(rows, items)
    assert (schema.label, schema.group, schema.item) == ("click", "user_id", "item_id")
    kinds = {one.column: one.kind for one in report[: rows.num_columns]}
    assert kinds == {
        "user_id": "category", "item_id": "category", "click": "label", "click_seq": "history", "words": "tags",
        "hour": "category", "price": "raw number", "views": "log number", "timestamp": "left out",
        "same": "left out", "vector": "left out",
    }  # fmt: skip
    assert schema.fields["words"].separator == "|"
    assert schema.items is not None
    assert schema.items.fields["item_hour"].column == "hour" and list(schema.items.embeddings) == ["vector"]
    assert report[4].distinct == 3 and "separated by '|'" in render_report(report)
    with pytest.raises(DataError, match="--label 'rating >= 4'"):
        infer_schema(pa.table({"rating": [1, 2], "user": [1, 2]}))
