"""Encoded rows against a naive encoding of the same table, and what is refused."""

from __future__ import annotations

import copy
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmrec.data.rows import tables
from mmrec.data.rows.dataset import RowDataset, is_row_dataset
from mmrec.data.rows.formats import make_rows
from mmrec.data.rows.table import Lists, RowTable
from mmrec.errors import ConfigError, DataError, FeatureError
from tests.data.rows.world import SCHEMA, make_items
from tests.data.rows.world import make_rows as make_frame


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Training, validation and test rows, and items."""
    frame = make_frame()
    for part, rows in (("train", frame[:200]), ("valid", frame[200:250]), ("test", frame[250:])):
        rows.to_csv(tmp_path / f"{part}.csv", index=False)
    make_items().to_parquet(tmp_path / "items.parquet")
    return tmp_path


def build(folder: Path, schema: dict[str, Any] | None = None, **options: Any) -> RowDataset:
    given = {"items": folder / "items.parquet", **options}
    return make_rows(
        given.pop("source", folder),
        folder / given.pop("to", "rows"),
        format="tables",
        schema=schema or SCHEMA,
        show_progress=False,
        **given,
    )


def changed(**fields: Any) -> dict[str, Any]:
    schema = copy.deepcopy(SCHEMA)
    schema["fields"].update(fields)
    return schema


def naive_vocabulary(words: list[str], min_count: int = 1) -> dict[str, int]:
    """Most frequent first, then by the letter."""
    counts = Counter(words)
    kept = sorted((word for word in counts if counts[word] >= min_count), key=lambda w: (-counts[w], w))
    return {word: place for place, word in enumerate(kept, start=1)}


def naive_columns(part: pd.DataFrame) -> dict[str, list[Any]]:
    """One row at a time, from the formulas of the documentation."""
    train = make_frame()[:200]
    users = naive_vocabulary(train["user"].tolist(), 2)
    items = {f"i{item}": item + 1 for item in range(10)}
    words = naive_vocabulary([word for text in train["words"] for word in text.split("|") if word])
    prices = [price for price in train["price"] if not math.isnan(price)]
    mean = sum(prices) / len(prices)
    deviation = math.sqrt(sum((price - mean) ** 2 for price in prices) / len(prices))

    def bucket(views: float) -> str:
        return str(math.floor(math.log(views) ** 2) if views > 2 else math.floor(views))

    views = naive_vocabulary([bucket(value) for value in train["views"]])
    ages = sorted(age for age in train["age"] if not math.isnan(age))
    borders = [ages[math.ceil(share * (len(ages) - 1))] for share in (0.25, 0.5, 0.75)]
    return {
        "user": [users.get(user, len(users) + 1) for user in part["user"]],
        "item": [items.get(item, 11) for item in part["item"]],
        "price": [0.0 if math.isnan(price) else (price - mean) / deviation for price in part["price"]],
        "views": [views.get(bucket(value), len(views) + 1) for value in part["views"]],
        "age": [
            0 if math.isnan(age) else 1 + sum(age >= border for border in borders) for age in part["age"]
        ],
        "words": [
            [words.get(word, len(words) + 1) for word in text.split("|") if word][:2]
            for text in part["words"]
        ],
        "seen": [[items.get(item, 11) for item in text.split()][-3:] for text in part["seen"]],
    }


def lists(column: Any) -> list[Any]:
    if isinstance(column, Lists):
        return [
            column.values[a:b].tolist() for a, b in zip(column.offsets[:-1], column.offsets[1:], strict=True)
        ]
    return column.tolist()


def test_all_fields_against_a_naive_encoding(files: Path) -> None:
    rows = build(files)
    frame = make_frame()
    for part, frame_part in (("train", frame[:200]), ("valid", frame[200:250]), ("test", frame[250:])):
        table = rows.rows(part).table
        for name, expected in naive_columns(frame_part).items():
            found = lists(table.columns[name])
            if name == "price":
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
            else:
                assert found == expected, name
        assert table.labels.tolist() == frame_part["clicked"].tolist()
        assert len(set(zip(table.groups.tolist(), frame_part["user"], strict=True))) == len(
            set(frame_part["user"])
        )
    sizes = {field.name: field.size for field in rows.fields}
    assert sizes["item"] == 12 and sizes["price"] == 0 and sizes["age"] == 6
    assert list(sizes) == ["user", "item", "price", "views", "age", "words"]  # in the order of the schema
    lacking = rows.manifest["parts"]["valid"]["fields"]["seen"]
    expected = naive_columns(frame[200:250])["seen"]
    flat = [one for history in expected for one in history]
    assert lacking == {
        "missing": pytest.approx(sum(not history for history in expected) / 50),
        "unknown": pytest.approx(flat.count(11) / len(flat)),
    }


def test_small_chunks_give_the_same_folder(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = build(files)
    monkeypatch.setattr("mmrec.data.rows.reading.CHUNK_BYTES", 1500)  # about 30 rows
    monkeypatch.setattr("mmrec.data.rows.vocabulary._MERGE", 5)
    other = build(files, to="other")
    first, second = (dict(rows.manifest["files"]) for rows in (one, other))
    assert first.keys() == second.keys()
    for name in first:
        if name in ("vocabularies.parquet", "items.parquet"):
            assert first[name] == second[name]
    for part in ("train", "valid", "test"):
        a, b = one.rows(part).table, other.rows(part).table
        for name, column in a.columns.items():
            np.testing.assert_allclose(flat(column), flat(b.columns[name]), rtol=1e-6, atol=1e-6)


def flat(column: Any) -> Any:
    return column.values if isinstance(column, Lists) else column


def test_the_same_source_gives_the_same_hash(files: Path) -> None:
    assert build(files).hash == build(files, to="other").hash


def test_items_and_embeddings(files: Path) -> None:
    schema = copy.deepcopy(SCHEMA)
    schema["items"]["embeddings"] = {"text": "vector"}
    rows = build(files, schema)
    data = rows.training_data(rows.split(), {"text": "text"})
    items = make_items()
    assert np.array_equal(data.features["text"].vectors, np.stack(items["vector"].to_list()))
    assert data.item_rows is not None and data.item_rows.tolist() == [-1, *range(10), -1]
    trained = items[items["item"].isin(make_frame()["item"][:200])]
    assert len(trained) == 8
    genres = naive_vocabulary(trained["genre"].tolist())
    expected = [0, *(genres.get(genre, len(genres) + 1) for genre in items["genre"]), 0]
    assert data.item_values["genre"].tolist() == expected and expected[-2] == len(genres) + 1
    sizes = trained["size"].to_numpy()
    scaled = (items["size"].to_numpy() - sizes.mean()) / sizes.std()
    np.testing.assert_allclose(data.item_values["size"], [0, *scaled, 0], rtol=1e-5)
    counts = pd.read_parquet(files / "rows" / "vocabularies.parquet").query("field == 'item'")
    assert counts["count"].tolist() == [
        int((make_frame()["item"][:200] == item).sum()) for item in counts["value"]
    ]  # the items without training rows have an id, and count 0


def test_embeddings_from_a_file_may_lack_items_when_told(files: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    vectors[[3, 5]] = 0
    np.save(files / "image.npy", vectors)
    options: dict[str, Any] = {"embeddings": {"image": str(files / "image.npy")}}
    with pytest.raises(DataError, match="none for 2 items, the first 'i3'"):
        build(files, **options)
    assert not (files / "rows").exists()
    rows = build(files, missing_embeddings="zero", **options)
    table = rows.features("image")
    assert np.flatnonzero(~table.present).tolist() == [3, 5] and rows.feature_names() == ["image"]
    vectors[4, 1] = np.nan
    np.save(files / "image.npy", vectors)
    with pytest.raises(FeatureError, match="NaN or infinity for item 'i4'"):
        build(files, to="other", missing_embeddings="zero", **options)


def test_validation_rows_are_held_out_by_chance(files: Path) -> None:
    (files / "valid.csv").unlink()
    rows = build(files, valid_share=0.3)
    counts = rows.split().manifest["counts"]
    assert counts["train"] + counts["valid"] == 200 and counts["test"] == 50
    assert 35 <= counts["valid"] <= 85
    assert build(files, to="again", valid_share=0.3).hash == rows.hash
    assert build(files, to="other", valid_share=0.3, seed=1).hash != rows.hash


def test_one_file_is_split_by_column_time_or_chance(tmp_path: Path) -> None:
    frame = make_frame().assign(
        part=["train"] * 100 + ["valid"] * 50 + [""] * 50 + ["test"] * 100,
        when=np.random.default_rng(0).permutation(300) // 3,
    )
    frame.to_parquet(tmp_path / "all.parquet")
    make_items().to_parquet(tmp_path / "items.parquet")
    source = {"source": tmp_path / "all.parquet"}
    rows = build(tmp_path, split_column="part", **source)
    assert rows.split().manifest["counts"] == {"train": 100, "valid": 50, "test": 100}
    rows = build(tmp_path, to="time", time_column="when", valid_share=0.2, test_share=0.1, **source)
    assert rows.split().manifest["counts"] == {"train": 210, "valid": 60, "test": 30}
    newest = frame[frame["when"] >= 90]
    assert rows.rows("test").labels.tolist() == newest["clicked"].tolist()
    rows = build(tmp_path, to="chance", valid_share=0.2, test_share=0.3, **source)
    counts = rows.split().manifest["counts"]
    assert sum(counts.values()) == 300 and 60 <= counts["test"] <= 120
    with pytest.raises(DataError, match="only train"):
        build(tmp_path, to="x", **source)
    for more in ({"time_column": "when"}, {"test_share": 0.1}):
        with pytest.raises(ConfigError, match="one way to split"):
            build(tmp_path, to="x", split_column="part", **more, **source)


@pytest.mark.parametrize(
    ("fields", "label", "words"),
    [
        ({"prize": "category"}, "clicked", "did you mean 'price'"),
        ({}, "views", "labels 0 and 1 in column 'views' of the train rows"),
        ({}, "price > 50", "a label in each row in column 'price'"),
        ({"user": {"kind": "tags"}}, "clicked", "lists in column 'user' of the train rows"),
        ({"words": {"kind": "number"}}, "clicked", "numbers in column 'words' of the train rows"),
        ({"item": {"kind": "category", "vocabulary": "index"}}, "clicked", "numbers in column 'item'"),
    ],
)
def test_what_a_column_must_not_hold(files: Path, fields: dict[str, Any], label: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        build(files, {**changed(**fields), "label": label})
    assert sorted(path.name for path in files.iterdir()) == [
        "items.parquet", "test.csv", "train.csv", "valid.csv",
    ]  # fmt: skip


def test_parts_without_rows_and_foreign_items(files: Path) -> None:
    frame = make_frame()
    with pytest.raises(DataError, match="others, such as 'j0'"):
        items = make_items().assign(item=[f"j{item}" for item in range(10)])
        items.to_parquet(files / "other.parquet")
        build(files, items=files / "other.parquet")
    frame[:0].to_csv(files / "valid.csv", index=False)
    with pytest.raises(DataError, match="none for valid"):
        build(files)
    frame[:0].to_csv(files / "train.csv", index=False)
    with pytest.raises(DataError, match="an empty table"):
        build(files)
    pd.concat([make_items(), make_items()[:1]]).to_parquet(files / "items.parquet")
    frame[:9].to_csv(files / "train.csv", index=False)
    with pytest.raises(DataError, match="'i0' 2 times"):
        build(files)


def test_a_changed_folder_is_refused(files: Path) -> None:
    rows = build(files)
    assert is_row_dataset(rows.path) and not is_row_dataset(files)
    with pytest.raises(DataError, match="the split 'default'"):
        rows.split("other")
    data = bytearray((rows.path / "valid.parquet").read_bytes())
    data[10] ^= 1
    (rows.path / "valid.parquet").write_bytes(data)
    with pytest.raises(DataError, match="was changed since"):
        RowDataset(rows.path)
    with pytest.raises(DataError, match="none in"):
        RowDataset(files)


def test_a_restored_encoder_encodes_the_same(files: Path) -> None:
    rows = build(files)
    chunk = next(tables.stream_table(files / "valid.csv")())
    encoded = rows.encoder.encode(chunk, rows.schema.fields, "the rows")
    table: RowTable = rows.rows("valid").table
    for name, column in encoded.items():
        assert column.to_pylist() == lists(table.columns[name])
