"""Datasets written as RecBole's atomic files and read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmrec.data.dataset import Dataset
from mmrec.data.importers import import_dataset
from mmrec.errors import DataError
from mmrec.interop.atomic_files import write_atomic_files
from tests.worlds import write_dataset


def test_a_shop_comes_back_with_split_and_features(small_shop: Dataset, tmp_path: Path) -> None:
    folder = write_atomic_files(small_shop, tmp_path / "shop", features=["text-small", "image-small"])
    assert sorted(file.name for file in folder.iterdir()) == [
        "shop.item",
        "shop.test.inter",
        "shop.train.inter",
        "shop.user",
        "shop.valid.inter",
    ]
    back = import_dataset(folder, tmp_path / "back")
    pd.testing.assert_frame_equal(back.users, small_shop.users)
    pd.testing.assert_frame_equal(back.items, small_shop.items.drop(columns="image"))
    kinds = dict(small_shop.manifest["columns"]["items"])
    del kinds["image"]
    assert back.manifest["columns"]["items"] == kinds
    before, after = small_shop.split(), back.split()
    for part in ("train", "valid", "test"):
        old, new = getattr(before, part), getattr(after, part)
        assert new.counts.tolist() == old.counts.tolist()
        assert new.items.tolist() == old.items.tolist()
    for name in ("text", "image"):
        old_table, new_table = small_shop.features(f"{name}-small"), back.features(f"{name}-recbole")
        assert np.array_equal(new_table.present, old_table.present)
        assert np.array_equal(new_table.vectors, old_table.vectors)
    times = small_shop.interactions.set_index(["user", "item"])["timestamp"]
    pd.testing.assert_series_equal(
        back.interactions.set_index(["user", "item"])["timestamp"].sort_index(), times.sort_index()
    )


def test_without_a_split_there_is_one_file(small_shop: Dataset, tmp_path: Path) -> None:
    folder = write_atomic_files(small_shop, tmp_path / "shop", split=None)
    back = import_dataset(folder, tmp_path / "back")
    assert back.split_names() == []
    pd.testing.assert_frame_equal(back.interactions, small_shop.interactions)


def test_awkward_values(tmp_path: Path) -> None:
    items = {
        "title": ['"Quoted" title', "two\tcells\nand lines", None],
        "tags": ["sci fi, drama", None, "war"],
        "codes": ["a_b", "c", "d"],
        "price": [1.5, np.nan, 1e-9],
    }
    kinds = {
        "items": {"item_id": "id", "title": "text", "tags": "tokens", "codes": "tokens", "price": "number"}
    }
    source = write_dataset(
        tmp_path / "source", {"user": [0, 0, 1], "item": [2, 0, 1], "rating": [5.0, 3.5, 1.0]}, items, kinds
    )
    back = import_dataset(write_atomic_files(source, tmp_path / "w", split=None), tmp_path / "back")
    assert back.items["title"].tolist()[:2] == ['"Quoted" title', "two cells and lines"]
    assert back.items["title"].isna().tolist() == [False, False, True]
    assert back.items["tags"][0] == "sci fi, drama"
    assert back.items["codes"].tolist() == ["a_b", "c", "d"]
    assert back.items["price"].tolist()[::2] == [1.5, 1e-9] and np.isnan(back.items["price"][1])
    assert back.interactions["rating"].tolist() == [5.0, 3.5, 1.0]
    header, first = (tmp_path / "w" / "w.item").read_text().splitlines()[:2]
    assert header == "item_id:token\ttitle:token_seq\ttags:token_seq\tcodes:token\tprice:float"
    assert first == 'i0\t "Quoted" title\tsci_fi drama\ta_b\t1.5'


def test_a_folder_in_use_is_left_alone(small_shop: Dataset, tmp_path: Path) -> None:
    (tmp_path / "used").write_text("mine")
    with pytest.raises(DataError, match="new or empty folder"):
        write_atomic_files(small_shop, tmp_path / "used")
    assert (tmp_path / "used").read_text() == "mine"
