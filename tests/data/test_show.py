from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mmrec.data.dataset import Dataset
from mmrec.data.show import describe, gini, leakage, render, summarise_counts, warn
from mmrec.data.split import split
from mmrec.encode.features import write_features
from tests.worlds import write_dataset

# Pair (0, 0) is in train and test, pair (1, 2) twice in train; item 3 is first seen in test, item 4 never;
# user 2 has no training interaction; the last row is left out.
USERS = np.array([0, 0, 1, 1, 1, 0, 2, 0, 1, 2, 0])
ITEMS = np.array([0, 1, 2, 2, 1, 2, 0, 0, 3, 3, 3])
LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 2, 2, 2, -1])
TIMES = np.array([10, 50, 20, 30, 60, 70, 80, 40, 55, 90, 5])

REPORT = {
    "duplicates_across_parts": 1,
    "test_older_than_newest_train": 2 / 3,  # 40 and 55 before 60
    "test_older_than_users_newest_train": 2 / 3,  # 40 before 50 of user 0, 55 before 60 of user 1
    "items_first_seen_in_test": 1,
    "test_share_of_unseen_items": 2 / 3,
    "items_without_training": 2,
    "users_without_training": 1,
}


def report_of(labels: np.ndarray = LABELS, timestamps: np.ndarray | None = TIMES) -> dict[str, object]:
    return leakage(labels, USERS, ITEMS, n_users=3, n_items=5, timestamps=timestamps)


class TestLeakage:
    def test_eleven_rows(self) -> None:
        assert report_of() == pytest.approx(REPORT)

    def test_without_times_the_shares_are_unknown(self) -> None:
        report = report_of(timestamps=None)
        assert report["test_older_than_newest_train"] is None
        assert report["test_older_than_users_newest_train"] is None
        assert any("cannot be told" in warning for warning in warn(report))

    def test_missing_times_do_not_count(self) -> None:
        report = report_of(timestamps=np.where(np.isin(TIMES, (60, 90)), np.nan, TIMES))
        assert report["test_older_than_newest_train"] == 0.5  # 40 before 50, 55 after it
        assert report_of(timestamps=np.full(11, np.nan))["test_older_than_newest_train"] is None

    def test_a_clean_split_has_nothing_to_say(self) -> None:
        users, items = np.repeat([0, 1], 4), np.tile(np.arange(4), 2)
        labels, times = np.tile([0, 0, 1, 2], 2), np.tile([1, 2, 3, 4], 2)
        report = leakage(labels, users, items, n_users=2, n_items=4, timestamps=times)
        assert report["items_first_seen_in_test"] == 1  # item 3 is everybody's last
        items[4:] = items[:3:-1]  # user 1 takes the items in the opposite order
        report = leakage(labels, users, items, n_users=2, n_items=4, timestamps=times)
        assert warn(report) == []

    def test_words(self) -> None:
        text = " / ".join(warn(report_of(), n_out=1))
        assert "66.7 % of the test interactions are older than the newest training one" in text
        assert "does not measure predicting the future" in text
        assert "pairs in more than one part: 1;" in text
        assert "items first seen in test: 1 (66.7 % of the test interactions)" in text
        assert "users without training interactions: 1;" in text
        assert "leaves out: 1" in text


class TestNumbers:
    def test_counts_by_hand(self) -> None:
        summary = summarise_counts(np.array([0, 1, 2, 3, 4, 7, 8, 100]))
        assert summary["min"] == 0
        assert summary["max"] == 100
        assert (summary["q25"], summary["median"], summary["q75"]) == (1.75, 3.5, 7.25)
        assert summary["mean"] == 125 / 8
        sizes = [(cell["from"], cell["to"], cell["count"]) for cell in summary["histogram"]]
        assert sizes == [
            (0, 0, 1),
            (1, 1, 1),
            (2, 3, 2),
            (4, 7, 2),
            (8, 15, 1),
            (16, 31, 0),
            (32, 63, 0),
            (64, 127, 1),
        ]

    def test_histogram_starts_at_the_smallest_count(self) -> None:
        assert summarise_counts(np.array([5, 6]))["histogram"] == [{"from": 4, "to": 7, "count": 2}]
        assert summarise_counts(np.array([], dtype=np.int64))["histogram"] == []

    def test_gini(self) -> None:
        assert gini(np.array([3, 3, 3])) == 0
        assert gini(np.array([0, 0, 0, 8])) == 0.75  # (n - 1) / n
        assert gini(np.array([1, 2, 3])) == pytest.approx(
            2 / 9
        )  # mean absolute difference 8/9 over twice the mean
        assert gini(np.zeros(3, dtype=np.int64)) == 0


@pytest.fixture
def shop(tmp_path: Path) -> Dataset:
    items = {
        "title": ["mug", None, "  ", "lamp", "rug"],
        "description": ["round", "blue", "", None, "long"],
        "image": ["0.png", None, None, "gone.png", "4.png"],  # no such files: they must not be opened
        "price": [1.0, 2.0, np.nan, 4.0, 5.0],
    }
    kinds = {"item_id": "id", "title": "text", "description": "text", "image": "image", "price": "number"}
    interactions = {"user": USERS, "item": ITEMS, "timestamp": TIMES + 1_700_000_000, "label": LABELS}
    return write_dataset(tmp_path / "shop", interactions, items, {"items": kinds})


class TestDescribe:
    def test_numbers_by_hand(self, shop: Dataset) -> None:
        document = describe(shop)
        assert (document["users"], document["items"], document["interactions"]) == (3, 5, 11)
        assert document["duplicates"] == 2
        assert document["density"] == 9 / 15
        assert document["sparsity"] == pytest.approx(6 / 15)
        assert document["time"] == {"first": 1_700_000_005, "last": 1_700_000_090, "missing": 0}
        assert {name: entry["items"] for name, entry in document["modalities"].items()} == {
            "text": 4,
            "image": 3,
            "both": 3,
            "neither": 1,
        }
        assert document["columns"]["items"]["title"] == {"kind": "text", "filled": 3}
        assert document["columns"]["items"]["price"] == {"kind": "number", "filled": 4}
        assert document["features"] == {}
        assert document["splits"] == {}

    def test_splits_and_features(self, shop: Dataset) -> None:
        split(shop, "given", name="published")
        present = np.array([True, True, False, True, True])
        write_features(shop.path / "features" / "text-toy", "text", np.ones((5, 3), np.float32), present, {})
        document = describe(shop)
        assert document["features"] == {"text-toy": {"modality": "text", "dim": 3, "present": 4}}
        entry = document["splits"]["published"]
        assert [entry[part] for part in ("train", "valid", "test", "out")] == [5, 2, 3, 1]
        assert entry["leakage"] == pytest.approx(REPORT)

    def test_is_one_json_document(self, shop: Dataset) -> None:
        split(shop, "given")
        document = describe(shop)
        assert json.loads(json.dumps(document, allow_nan=False)) == document

    def test_no_times_no_text_no_picture(self, tmp_path: Path) -> None:
        dataset = write_dataset(tmp_path / "bare", {"user": USERS, "item": ITEMS})
        document = describe(dataset)
        assert document["time"] is None
        assert document["modalities"]["neither"] == {"items": 4, "share": 1.0}
        assert "splits: none yet" in render(document)

    def test_says_when_only_the_rows_give_the_order(self, shop: Dataset, tmp_path: Path) -> None:
        bare = write_dataset(tmp_path / "bare", {"user": USERS, "item": ITEMS})
        for dataset, expected in ((shop, False), (bare, True)):
            split(dataset, "leave-one-out")
            warnings = describe(dataset)["splits"]["default"]["warnings"]
            assert any("order of the source's rows" in warning for warning in warnings) == expected


class TestRender:
    def test_text(self, shop: Dataset) -> None:
        split(shop, "given")
        split(shop, "leave-one-out", name="last", ties="file")
        text = render(describe(shop))
        assert "shop: 3 users, 5 items, 11 interactions" in text
        assert "density 60.0 % (sparsity 40.0 %)" in text
        assert "times from 2023-11-14 to 2023-11-14" in text
        assert "! 2 interactions repeat a (user, item) pair" in text
        assert "split default (given): 5 train, 2 valid, 3 test" in text
        assert "split last (leave-one-out, order timestamp, ties file, seed 0): " in text
        assert "  ! 66.7 % of the test interactions are older" in text
        assert max(len(line) for line in text.splitlines()) <= 200

    def test_columns_are_aligned(self, shop: Dataset) -> None:
        lines = render(describe(shop)).splitlines()
        start = next(row for row, line in enumerate(lines) if line.startswith("modality"))
        assert lines[start : start + 5] == [
            "modality  items   share",
            "text          4  80.0 %",
            "image         3  60.0 %",
            "both          3  60.0 %",
            "neither       1  20.0 %",
        ]

    def test_bars_are_in_proportion(self, shop: Dataset) -> None:
        # interactions per item 3, 2, 3, 3, 0: one item without, four with two or three
        lines = render(describe(shop)).splitlines()
        start = lines.index("interactions  items")
        assert lines[start + 1 : start + 4] == [
            "0                 1  ########",
            "1                 0",
            "2-3               4  ##############################",
        ]

    @pytest.mark.parametrize(
        ("share", "text"), [(0.87, "87.0 %"), (0.99999, "99.999 %"), (1.0, "100 %"), (0.00045, "0.045 %")]
    )
    def test_percentages(self, shop: Dataset, share: float, text: str) -> None:
        document = describe(shop)
        document["density"] = share
        assert f"density {text} " in render(document)
