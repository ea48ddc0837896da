import datetime as dt

import numpy as np
import pandas as pd
import pytest

from mmrec.data.values import as_ids, as_labels, as_numbers, as_times, as_words, convert, infer_kind
from mmrec.errors import DataError


def test_ids_become_stripped_strings() -> None:
    assert as_ids(pd.Series([" a", "b ", "C"]), "item_id", "t").tolist() == ["a", "b", "C"]
    assert as_ids(pd.Series([3, 10**15]), "item_id", "t").tolist() == ["3", "1000000000000000"]
    assert as_ids(pd.Series([1.0, 2.0]), "item_id", "t").tolist() == ["1", "2"]
    assert as_ids(pd.Series(["001", "1"]), "item_id", "t").tolist() == ["001", "1"]


@pytest.mark.parametrize("bad", [[1.0, np.nan], ["a", None], ["a", ""], ["a", "  "]])
def test_missing_ids_are_refused_with_their_row(bad: list[object]) -> None:
    with pytest.raises(DataError, match=r"column 'item_id' of shop\.csv") as caught:
        as_ids(pd.Series(bad), "item_id", "shop.csv")
    assert "in row 2" in caught.value.found


def test_broken_numbers_are_no_ids() -> None:
    with pytest.raises(DataError, match=r"1\.5 in row 2"):
        as_ids(pd.Series([1.0, 1.5]), "item_id", "t")


def test_number_times_keep_their_unit() -> None:
    seconds = as_times(pd.Series(["881250949", "891717742"]), "timestamp", "t")
    assert seconds.dtype == np.int64 and seconds.tolist() == [881250949, 891717742]
    assert as_times(pd.Series([1.5e9, 1.6e9]), "timestamp", "t").dtype == np.int64
    assert as_times(pd.Series([1.25, 2.0]), "timestamp", "t").tolist() == [1.25, 2.0]
    milliseconds = 1_700_000_000_123
    assert as_times(pd.Series([milliseconds]), "timestamp", "t").tolist() == [milliseconds]


def test_dates_become_seconds_in_utc() -> None:
    noon = 1_706_702_400  # 2024-01-31T12:00:00Z
    texts = ["2024-01-31T12:00:00Z", "2024-01-31 12:00:00", "2024-01-31T13:00:00+01:00"]
    assert as_times(pd.Series(texts), "timestamp", "t").tolist() == [noon] * 3
    assert as_times(pd.Series(["1970-01-02"]), "timestamp", "t").tolist() == [86400]
    zoned = pd.Series(pd.to_datetime(texts[:1])).dt.tz_convert("Asia/Tokyo")
    assert as_times(zoned, "timestamp", "t").tolist() == [noon]
    naive = pd.Series(pd.to_datetime(["2024-01-31 12:00:00"]))
    assert as_times(naive, "timestamp", "t").tolist() == [noon]
    days = pd.Series([dt.date(1970, 1, 3)], dtype=object)
    assert as_times(days, "timestamp", "t").tolist() == [2 * 86400]


@pytest.mark.parametrize(
    ("values", "row"),
    [
        (["1", "2", "yesterday"], "'yesterday' in row 3"),
        (["2024-01-31", "31/01/2024", "2024-02-01"], "'31/01/2024' in row 2"),
        (["", "5", "6"], "'' in row 1"),
        ([1.0, np.inf, 3.0], "inf in row 2"),
        (["2024-13-01"], "'2024-13-01' in row 1"),
    ],
)
def test_times_that_cannot_be_read_are_named(values: list[object], row: str) -> None:
    with pytest.raises(DataError, match="ISO dates") as caught:
        as_times(pd.Series(values), "timestamp", "log.csv")
    assert row in caught.value.found


def test_numbers() -> None:
    assert as_numbers(pd.Series(["1", "2"]), "n", "t").tolist() == [1, 2]
    assert as_numbers(pd.Series(["1.5", " ", "2"]), "n", "t").isna().tolist() == [False, True, False]
    assert as_numbers(pd.Series([True, False]), "n", "t").tolist() == [1, 0]
    with pytest.raises(DataError, match="'three' in row 3 and 1 more rows"):
        as_numbers(pd.Series(["1", "", "three", "four"]), "n", "t")


def test_labels() -> None:
    labels = as_labels(pd.Series(["0", "2", "-1"]), "label", "t")
    assert labels.dtype == np.int8 and labels.tolist() == [0, 2, -1]
    with pytest.raises(DataError, match="'3' in row 2"):
        as_labels(pd.Series(["0", "3"]), "label", "t")
    with pytest.raises(DataError, match="'train' in row 1"):
        as_labels(pd.Series(["train", "0"]), "label", "t")


def test_lists_are_joined() -> None:
    words = as_words(pd.Series([["a", "b"], np.array(["c"]), None, " d "], dtype=object))
    assert words.tolist()[:2] == ["a, b", "c"] and words.isna()[2] and words[3] == "d"


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("movie_title", ["A", "B"], "text"),
        ("productDescription", ["A", "B"], "text"),
        ("genre", ["drama", "drama", "comedy"], "tokens"),
        ("price", ["1.50", "", "2"], "number"),
        ("price", [1.5, 2.0], "number"),
        ("zip", ["02460", "55117"], "tokens"),
        ("asin", ["B001", "B002"], "id"),
        ("supplier_id", ["7", "8"], "id"),
        ("cover", ["http://a/1.jpg", "https://a/2.jpg"], "id"),
        ("blurb", ["a long sentence about this", "and yet another one of these"], "text"),
        ("video", ["x y", "y z"], "tokens"),
        ("image", ["1.jpg"], "image"),
        ("timestamp", ["1"], "time"),
    ],
)
def test_kinds_are_told_by_name_and_content(name: str, values: list[object], kind: str) -> None:
    assert infer_kind(name, pd.Series(values)) == kind


def test_one_word_far_down_makes_a_column_of_words() -> None:
    assert infer_kind("size", pd.Series(["1"] * 20_000 + ["large"])) == "tokens"


def test_declared_kinds_win() -> None:
    frame = pd.DataFrame({"item_id": ["a"], "brand": ["Acme"]})
    table, kinds = convert(frame, {"brand": "text"}, "items")
    assert kinds == {"item_id": "id", "brand": "text"} and table["brand"].tolist() == ["Acme"]
    with pytest.raises(DataError, match="did you mean 'tokens'"):
        convert(frame, {"brand": "token"}, "items")
