from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrec import import_features
from mmrec.data.dataset import Dataset
from mmrec.errors import ConfigError, DataError, FeatureError

Make = Callable[..., Path]


def save(path: Path, array: Any) -> Path:
    np.save(path, np.asarray(array))
    return path


def matrix(n: int = 10) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(n, 4))
    vectors[2] = 0
    return vectors


def test_rows_in_item_order(text_data: Make, tmp_path: Path) -> None:
    dataset = text_data(10)
    table = import_features(dataset, save(tmp_path / "f.npy", matrix()), name="mine", modality="audio")
    assert table.modality == "audio"
    assert table.vectors.dtype == np.float32
    np.testing.assert_array_equal(table.vectors, matrix().astype(np.float32))
    assert table.present.tolist() == [True, True, False] + [True] * 7
    assert table.manifest["encoder"]["name"] == "imported"
    assert table.manifest["encoder"]["file"] == "f.npy"
    assert Dataset(dataset).feature_names() == ["mine"]


def test_half_precision_stays(text_data: Make, tmp_path: Path) -> None:
    file = save(tmp_path / "f.npy", matrix().astype(np.float16))
    table = import_features(text_data(10), file, name="mine", modality="text")
    assert table.vectors.dtype == np.float16


@pytest.mark.parametrize("kind", ["txt", "json", "npy"])
def test_rows_by_item_id(text_data: Make, tmp_path: Path, kind: str) -> None:
    """Rows in another order, with items that are not in the dataset, without some that are."""
    ids = ["i7", "gone", "i0", "i3"]
    file, named = save(tmp_path / "f.npy", matrix(4) + 1), tmp_path / f"ids.{kind}"
    if kind == "npy":
        np.save(named, np.array(ids))
    else:
        named.write_text("\n".join(ids) + "\n" if kind == "txt" else json.dumps(ids))
    table = import_features(text_data(10), file, name="mine", modality="text", ids=named)
    expected = np.zeros((10, 4), dtype=np.float32)
    expected[[7, 0, 3]] = (matrix(4) + 1)[[0, 2, 3]]
    np.testing.assert_array_equal(table.vectors, expected)
    assert np.flatnonzero(table.present).tolist() == [0, 3, 7]
    assert table.manifest["inputs"]["rows_of_other_items"] == 1


def test_a_mask_hides_rows_and_what_is_in_them(text_data: Make, tmp_path: Path) -> None:
    vectors, mask = matrix(), np.ones(10, dtype=bool)
    vectors[5], mask[5] = np.nan, False
    file = save(tmp_path / "f.npy", vectors)
    for given in (mask, save(tmp_path / "m.npy", mask)):
        table = import_features(text_data(10), file, name="mine", modality="text", mask=given)
        assert np.flatnonzero(~table.present).tolist() == [2, 5]
        assert not table.vectors[5].any()


def test_the_same_again_and_another_under_the_name(text_data: Make, tmp_path: Path, capsys: Any) -> None:
    dataset, file = text_data(10), save(tmp_path / "f.npy", matrix())
    first = import_features(dataset, file, name="mine", modality="text")
    again = import_features(dataset, file, name="mine", modality="text")
    assert "already imported" in capsys.readouterr().err
    assert again.hash == first.hash
    save(file, matrix() * 2)
    with pytest.raises(FeatureError, match="--overwrite"):
        import_features(dataset, file, name="mine", modality="text")
    twice = import_features(dataset, file, name="mine", modality="text", overwrite=True)
    np.testing.assert_array_equal(twice.vectors, (matrix() * 2).astype(np.float32))


def bad(row: int, value: float) -> np.ndarray:
    vectors = matrix()
    vectors[row, 1] = value
    return vectors


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (matrix(9), "10 rows, one per item[\\s\\S]*9 rows"),
        (bad(4, np.nan), "NaN or infinity in row 4"),
        (bad(8, np.inf), "NaN or infinity in row 8"),
        (bad(1, 1e300), "finite numbers in float32"),
        (np.ones(10), "a matrix"),
        (np.ones((10, 0)), "a matrix"),
        (np.ones((10, 3), dtype=np.int64), "floating point"),
        (np.zeros((10, 3)), "at least one row that is not zero"),
    ],
)
def test_matrices_that_cannot_be_used(
    text_data: Make, tmp_path: Path, array: np.ndarray, message: str
) -> None:
    dataset = text_data(10)
    with pytest.raises(FeatureError, match=message):
        import_features(dataset, save(tmp_path / "f.npy", array), name="mine", modality="text")
    assert not list((dataset / "features").glob("*"))


def test_files_that_are_no_arrays(text_data: Make, tmp_path: Path) -> None:
    dataset = text_data(10)
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "many.npz", a=np.ones((10, 2)))
    (tmp_path / "text.npy").write_text("1,2,3")
    (tmp_path / "empty.npy").write_bytes(b"")
    whole = save(tmp_path / "cut.npy", matrix()).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:200])
    for name in ("pickled.npy", "many.npz", "text.npy", "empty.npy", "cut.npy", "gone.npy"):
        with pytest.raises(FeatureError, match=r"\.npy file"):
            import_features(dataset, tmp_path / name, name="mine", modality="text")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["i0", "i1"], "one id for each of the 4 rows"),
        (["i0", "i1", "i1", "i2"], "'i1' twice"),
        (["a", "b", "c", "d"], "none of them"),
    ],
)
def test_ids_that_do_not_fit(text_data: Make, tmp_path: Path, ids: list[str], message: str) -> None:
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    file = save(tmp_path / "f.npy", matrix(4))
    with pytest.raises(FeatureError, match=message):
        import_features(text_data(10), file, name="mine", modality="text", ids=tmp_path / "ids.txt")


def test_id_and_mask_files_that_cannot_be_read(text_data: Make, tmp_path: Path) -> None:
    dataset, file = text_data(10), save(tmp_path / "f.npy", matrix())
    (tmp_path / "ids.json").write_text('{"i0": 0}')
    (tmp_path / "bad.json").write_text("[")
    (tmp_path / "ids.xlsx").write_text("i0")
    (tmp_path / "latin.txt").write_bytes(b"na\xefve")
    for name, error in {
        "gone.txt": FeatureError,
        "ids.json": FeatureError,
        "bad.json": DataError,
        "ids.xlsx": ConfigError,
        "latin.txt": FeatureError,
    }.items():
        with pytest.raises(error):
            import_features(dataset, file, name="mine", modality="text", ids=tmp_path / name)
    for mask in (np.ones(9, dtype=bool), np.ones(10)):
        with pytest.raises(FeatureError, match="a boolean mask"):
            import_features(dataset, file, name="mine", modality="text", mask=mask)
