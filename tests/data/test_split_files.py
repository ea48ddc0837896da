from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mmrec.data.dataset import Dataset
from mmrec.data.importers.frames import from_frames
from mmrec.data.split_files import write_split
from mmrec.errors import DataError


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    pairs = pd.DataFrame({"user_id": ["a", "a", "b", "b"], "item_id": ["x", "y", "x", "z"]})
    return from_frames(pairs, to=tmp_path / "shop")


def labels(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values)


def test_written_and_read_back(dataset: Dataset) -> None:
    split = write_split(dataset, "mine", labels(0, 2, 0, -1), protocol="by hand", options={"k": 1}, seed=7)
    assert split.train[0].tolist() == [0] and split.test[0].tolist() == [1]
    assert split.train[1].tolist() == [0] and split.valid[1].tolist() == []
    manifest = Dataset(dataset.path).split("mine").manifest
    assert manifest["counts"] == {"train": 2, "valid": 0, "test": 1, "out": 1}
    assert (manifest["protocol"], manifest["options"], manifest["seed"]) == ("by hand", {"k": 1}, 7)
    assert pd.read_parquet(dataset.path / "splits" / "mine.parquet")["label"].dtype == np.int8


def test_other_labels_do_not_replace_a_split_unasked(dataset: Dataset) -> None:
    first = write_split(dataset, "mine", labels(0, 2, 0, 1), protocol="a", options={}, seed=None)
    again = write_split(dataset, "mine", labels(0, 2, 0, 1), protocol="a", options={}, seed=None)
    assert again.hash == first.hash
    with pytest.raises(DataError, match="other labels"):
        write_split(dataset, "mine", labels(0, 0, 0, 1), protocol="a", options={}, seed=None)
    assert dataset.split("mine").hash == first.hash
    other = write_split(
        dataset, "mine", labels(0, 0, 0, 1), protocol="a", options={}, seed=None, overwrite=True
    )
    assert other.hash != first.hash and dataset.split("mine").train[0].tolist() == [0, 1]


def test_an_interrupted_overwrite_leaves_no_old_manifest_beside_new_labels(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(dataset, "mine", labels(0, 2, 0, 1), protocol="a", options={}, seed=None)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmrec.data.split_files.write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        write_split(dataset, "mine", labels(0, 0, 0, 1), protocol="a", options={}, seed=None, overwrite=True)
    with pytest.raises(DataError):
        dataset.split("mine")


@pytest.mark.parametrize("name", ["", "../out", "a/b", ".hidden", "a b"])
def test_names_stay_in_the_folder(dataset: Dataset, name: str) -> None:
    with pytest.raises(DataError, match="split name"):
        write_split(dataset, name, labels(0, 0, 0, 0), protocol="a", options={}, seed=None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([0, 0, 0]), "one label for each of the 4 interactions"),
        (np.array([0, 0, 0, 3]), "integer labels"),
        (np.array([0.0, 1.0, 2.0, 0.0]), "integer labels"),
        (np.array([1, 1, 2, -1]), "training interactions"),
    ],
)
def test_labels_that_do_not_fit(dataset: Dataset, values: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_split(dataset, "mine", values, protocol="a", options={}, seed=None)
    assert dataset.split_names() == []
