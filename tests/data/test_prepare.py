import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmrec.data.dataset import Dataset
from mmrec.data.prepare import RawData, prepare
from mmrec.errors import ConfigError, DataError, DiskError


def table(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(columns)


def pairs(text: str, **more: Any) -> pd.DataFrame:
    """``"ax ay bx"`` as interactions of users a, b with items x, y."""
    return pd.DataFrame(
        {"user_id": [p[0] for p in text.split()], "item_id": [p[1] for p in text.split()], **more}
    )


def read_pairs(dataset: Dataset) -> list[str]:
    users, items = dataset.users["user_id"], dataset.items["item_id"]
    rows = zip(dataset.interactions["user"], dataset.interactions["item"], strict=True)
    return [users[u] + items[i] for u, i in rows]


def nothing_left(folder: Path, *known: str) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(known)


def test_tables_are_numbered_in_the_order_of_the_item_and_user_tables(tmp_path: Path) -> None:
    raw = RawData(pairs("by ax bx"), table(item_id=["x", "y", "z"]), table(user_id=["a", "b", "c"]))
    dataset = prepare(raw, tmp_path / "shop")
    assert dataset.items["item_id"].tolist() == ["x", "y", "z"]
    assert dataset.users["user_id"].tolist() == ["a", "b", "c"]
    assert dataset.interactions[["user", "item"]].to_numpy().tolist() == [[1, 1], [0, 0], [1, 0]]
    assert dataset.interactions.dtypes.tolist() == [np.int64, np.int64]
    assert (dataset.name, dataset.n_users, dataset.n_items, dataset.n_interactions) == ("shop", 3, 3, 3)
    assert dataset.item("z") == 2 and dataset.user("c") == 2


def test_without_tables_ids_follow_the_first_appearance(tmp_path: Path) -> None:
    dataset = prepare(RawData(pairs("by ax bx")), tmp_path / "shop")
    assert dataset.items["item_id"].tolist() == ["y", "x"] and dataset.users["user_id"].tolist() == ["b", "a"]
    assert read_pairs(dataset) == ["by", "ax", "bx"]


@pytest.mark.parametrize(("keep", "ratings"), [("first", [1, 2, 4]), ("last", [2, 3, 4])])
def test_one_row_of_each_pair_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: str, ratings: list[float]
) -> None:
    raw = RawData(pairs("ax ay ax bx", rating=[1, 2, 3, 4]))
    dataset = prepare(raw, tmp_path / "shop", duplicates=keep)
    assert dataset.interactions["rating"].tolist() == ratings
    (step,) = (s for s in dataset.manifest["provenance"]["steps"] if s["step"] == "deduplicate")
    assert (step["before"]["interactions"], step["after"]["interactions"]) == (4, 3)
    captured = capsys.readouterr()
    assert "1 repeated" in captured.err and captured.out == ""


def test_duplicates_as_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="user 'a' and item 'x'"):
        prepare(RawData(pairs("ax ay ax bx")), tmp_path / "shop", duplicates="error")
    assert nothing_left(tmp_path)


def test_labels_that_differ_inside_a_duplicate_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = RawData(pairs("ax ay ax bx bx", label=[0, 1, 2, 0, 0]))
    dataset = prepare(raw, tmp_path / "shop")
    assert "labels of the given split differ in 1 pairs" in capsys.readouterr().err
    assert dataset.manifest["provenance"]["steps"][-1]["label_conflicts"] == 1
    assert dataset.split().manifest["counts"] == {"train": 2, "valid": 1, "test": 0, "out": 0}


def test_given_labels_become_the_default_split(tmp_path: Path) -> None:
    dataset = prepare(RawData(pairs("ax ay az bx", label=[0, 1, 2, -1])), tmp_path / "shop")
    split = dataset.split()
    assert [part[0].tolist() for part in (split.train, split.valid, split.test)] == [[0], [1], [2]]
    assert split.manifest["protocol"] == "given" and split.manifest["dataset"] == dataset.hash
    assert dataset.interactions["label"].dtype == np.int8


def test_core_drops_users_and_items_everywhere(tmp_path: Path) -> None:
    raw = RawData(
        pairs("cx ax ay bx by bz"),
        table(item_id=["w", "x", "y", "z"], title=["W", "X", "Y", "Z"]),
        table(user_id=["a", "b", "c"]),
        features={"text": np.arange(8, dtype=np.float32).reshape(4, 2)},
    )
    dataset = prepare(raw, tmp_path / "core", k_core=2)
    assert read_pairs(dataset) == ["ax", "ay", "bx", "by"]
    assert dataset.items["title"].tolist() == ["X", "Y"] and dataset.users["user_id"].tolist() == ["a", "b"]
    assert dataset.features("text-given").vectors.tolist() == [[2, 3], [4, 5]]
    (step,) = (s for s in dataset.manifest["provenance"]["steps"] if s["step"] == "k-core")
    assert step["before"] == {"interactions": 6, "users": 3, "items": 3}
    assert step["after"] == {"interactions": 4, "users": 2, "items": 2}
    cold = prepare(raw, tmp_path / "cold", k_core=2, keep_cold_items=True)
    assert read_pairs(cold) == ["ax", "ay", "bx", "by"] and cold.n_items == 4 and cold.n_users == 3


def test_core_of_users_alone(tmp_path: Path) -> None:
    dataset = prepare(RawData(pairs("cx ax ay bx by bz")), tmp_path / "shop", k_core_users=2)
    assert read_pairs(dataset) == ["ax", "ay", "bx", "by", "bz"]


def test_nobody_in_the_core(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such core; before filtering one user has 2") as caught:
        prepare(RawData(pairs("ax ay bx")), tmp_path / "shop", k_core=5)
    assert "--k-core" in caught.value.do and nothing_left(tmp_path)


def test_cold_items_stay_without_a_core(tmp_path: Path) -> None:
    dataset = prepare(RawData(pairs("ax"), table(item_id=["x", "new"])), tmp_path / "shop")
    assert dataset.n_items == 2 and dataset.n_users == 1


def test_low_ratings_go(tmp_path: Path) -> None:
    raw = RawData(pairs("ax ay bz bx", rating=["5", "2", "", "4"]))
    dataset = prepare(raw, tmp_path / "shop", min_rating=4)
    assert read_pairs(dataset) == ["ax", "bx"] and dataset.items["item_id"].tolist() == ["x"]
    with pytest.raises(DataError, match="5 at most"):
        prepare(raw, tmp_path / "other", min_rating=6)
    with pytest.raises(DataError, match="column 'rating'"):
        prepare(RawData(pairs("ax")), tmp_path / "other", min_rating=6)
    assert nothing_left(tmp_path, "shop")


def test_unknown_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = {"text": np.ones((2, 3), dtype=np.float32)}
    raw = RawData(pairs("ax aq bq bx"), table(item_id=["x", "y"], title=["X", "Y"]), features=features)
    with pytest.raises(DataError, match="2 interactions with 1 items") as caught:
        prepare(raw, tmp_path / "shop")
    assert "'q' in row 2" in caught.value.found and "--unknown-items drop" in caught.value.do
    assert nothing_left(tmp_path)
    dropped = prepare(raw, tmp_path / "drop", unknown_items="drop")
    assert read_pairs(dropped) == ["ax", "bx"] and dropped.n_items == 2
    assert "dropped" in capsys.readouterr().err
    added = prepare(raw, tmp_path / "add", unknown_items="add")
    assert added.items["item_id"].tolist() == ["x", "y", "q"] and added.items["title"].isna()[2]
    assert added.features("text-given").present.tolist() == [True, True, False]
    with pytest.raises(DataError, match="same ids"):
        prepare(RawData(pairs("aq"), table(item_id=["x"])), tmp_path / "none", unknown_items="drop")


def test_users_without_a_row_are_added_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = prepare(RawData(pairs("ax bx"), users=table(user_id=["b"], age=[30])), tmp_path / "shop")
    assert dataset.users["user_id"].tolist() == ["b", "a"] and dataset.users["age"].isna().tolist() == [
        False,
        True,
    ]
    assert "1 users are not in the users table" in capsys.readouterr().err


def test_features_mark_rows_of_zeros_as_absent(tmp_path: Path) -> None:
    vectors = np.array([[1, 0], [0, 0], [0, 2]], dtype=np.float64)
    raw = RawData(pairs("ax"), table(item_id=["x", "y", "z"]), features={"image": vectors})
    features = prepare(raw, tmp_path / "shop").features("image-given")
    assert features.present.tolist() == [True, False, True] and features.vectors.dtype == np.float32
    assert features.modality == "image" and features.vectors.tolist() == vectors.tolist()


@pytest.mark.parametrize("shape", [(2, 4), (4, 4), (3,)])
def test_features_of_other_items(tmp_path: Path, shape: tuple[int, ...]) -> None:
    raw = RawData(
        pairs("ax"),
        table(item_id=["x", "y", "z"]),
        features={"text": np.ones(shape)},
        names={"text": "text_feat.npy"},
    )
    with pytest.raises(DataError, match=r"each of the 3 items") as caught:
        prepare(raw, tmp_path / "shop")
    assert "text_feat.npy" in caught.value.found and nothing_left(tmp_path)


def picture_folder(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


def test_pictures_are_copied_and_named(tmp_path: Path) -> None:
    images = picture_folder(tmp_path / "pictures", "x.jpg", "z.png", "other.jpg")
    raw = RawData(pairs("ax ay"), table(item_id=["x", "y"]), images=images)
    dataset = prepare(raw, tmp_path / "shop")
    assert dataset.items["image"][0] == "x.jpg" and pd.isna(dataset.items["image"][1])
    assert sorted(path.name for path in (tmp_path / "shop" / "images").iterdir()) == ["x.jpg"]
    assert (dataset.images / "x.jpg").read_bytes() == b"x.jpg"
    step = dataset.manifest["provenance"]["steps"][-1]
    assert (step["step"], step["found"], step["items"]) == ("pictures", 1, 2)


def test_pictures_can_be_linked(tmp_path: Path) -> None:
    images = picture_folder(tmp_path / "pictures", "x.jpg")
    dataset = prepare(RawData(pairs("ax"), images=images), tmp_path / "shop", link_images=True)
    assert not (tmp_path / "shop" / "images").exists()
    assert (dataset.images / dataset.items["image"][0]).read_bytes() == b"x.jpg"


def test_a_folder_without_any_picture_of_an_item(tmp_path: Path) -> None:
    images = picture_folder(tmp_path / "pictures", "1.jpg")
    with pytest.raises(DataError, match="none for 1 items such as 'x'"):
        prepare(RawData(pairs("ax"), images=images), tmp_path / "shop")
    assert nothing_left(tmp_path, "pictures")


def test_picture_names_without_a_folder_become_an_attribute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = RawData(pairs("ax"), table(item_id=["x"], image=["x.jpg"]))
    dataset = prepare(raw, tmp_path / "shop")
    assert (
        dataset.items.columns.tolist() == ["item_id", "image_name"] and "--images" in capsys.readouterr().err
    )


def test_texts_are_cleaned_and_the_step_is_recorded(tmp_path: Path) -> None:
    items = table(item_id=["x", "y", "z"], title=["<b>Red</b> shoe", "Hat", " "], price=["3", "", "4.5"])
    dataset = prepare(RawData(pairs("ax"), items), tmp_path / "shop")
    assert dataset.items["title"].tolist()[:2] == ["Red shoe", "Hat"] and dataset.items["title"].isna()[2]
    assert dataset.items["price"].isna().tolist() == [False, True, False]
    assert dataset.manifest["provenance"]["steps"][0] == {"step": "clean text", "changed": {"items.title": 1}}
    assert dataset.manifest["columns"]["items"] == {"item_id": "id", "title": "text", "price": "number"}


def test_files_changed_after_import_are_noticed(tmp_path: Path) -> None:
    raw = RawData(pairs("ax ay bx"), table(item_id=["x", "y"]), table(user_id=["a", "b"]))
    prepare(raw, tmp_path / "shop")
    for name in ("interactions", "items", "users"):
        file = tmp_path / "shop" / f"{name}.parquet"
        whole = file.read_bytes()
        middle = len(whole) // 2
        file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])  # same length
        with pytest.raises(DataError, match=f"{name}.parquet was changed since"):
            Dataset(tmp_path / "shop")
        file.write_bytes(whole)
    file.unlink()
    with pytest.raises(DataError, match="no such file"):
        Dataset(tmp_path / "shop")


def test_a_split_of_the_dataset_before_a_change_is_refused(tmp_path: Path) -> None:
    prepare(RawData(pairs("ax ay bx", label=[0, 1, 0])), tmp_path / "one")
    other = prepare(RawData(pairs("ax ay by")), tmp_path / "two")
    (tmp_path / "one" / "splits").rename(tmp_path / "two" / "splits")
    with pytest.raises(DataError, match="other interactions"):
        other.split()


def test_the_same_tables_give_the_same_files(tmp_path: Path) -> None:
    raw = RawData(pairs("ax ay bx"), table(item_id=["x", "y"], title=["X", "Y"]))
    assert prepare(raw, tmp_path / "one").hash == prepare(raw, tmp_path / "two").hash
    other = RawData(pairs("ax ay by"), table(item_id=["x", "y"], title=["X", "Y"]))
    assert prepare(other, tmp_path / "three").hash != prepare(raw, tmp_path / "four").hash


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (RawData(table(user=["a"], item_id=["x"])), "column 'user_id'"),
        (RawData(table(user_id=["a"], sku=["x"])), "column 'item_id'"),
        (RawData(pairs("ax ay").iloc[:0]), "rows in the interactions table"),
        (RawData(pairs("ax"), table(item_id=[])), "rows in the items table"),
        (RawData(pairs("ax", item=[1])), "internal ids"),
        (RawData(pairs("ax"), table(item_id=["x", "y", "x"])), r"'x' again in row 3"),
        (RawData(pairs("ax"), users=table(user_id=["a", "a"])), r"'a' again in row 2"),
        (RawData(table(user_id=["a", None], item_id=["x", "y"])), "nothing in row 2"),
        (RawData(pairs("ax ay", timestamp=["5", "soon"])), "'soon' in row 2"),
        (RawData(pairs("ax ay", rating=["5", "good"])), "'good' in row 2"),
        (RawData(pairs("ax ay", label=["0", "7"])), "'7' in row 2"),
        (RawData(pairs("ax ay", label=["1", "2"])), "training interactions"),
        (RawData(pairs("ax"), images=Path("no-such-folder")), "no such folder"),
    ],
)
def test_bad_tables_leave_nothing(tmp_path: Path, raw: RawData, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(raw, tmp_path / "shop")
    assert nothing_left(tmp_path)


def test_missing_columns_suggest_a_renaming(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        prepare(RawData(table(UserID=["a"], item_id=["x"])), tmp_path / "shop")
    assert "'UserID'" in caught.value.do and "--column UserID=user_id" in caught.value.do


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duplicates": "frist"}, "did you mean 'first'"),
        ({"unknown_items": "ad"}, "did you mean 'add'"),
        ({"k_core": -1}, "0 or more"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prepare(RawData(pairs("ax")), tmp_path / "shop", **options)


def test_a_used_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="new or empty folder"):
        prepare(RawData(pairs("ax")), tmp_path / "shop")
    assert (tmp_path / "shop" / "mine.txt").read_text() == "keep" and nothing_left(tmp_path, "shop")


@pytest.mark.parametrize(
    "place",
    [
        "write_dataset.write_table",
        "write_dataset.write_json",
        "write_dataset.copy_pictures",
        "split_files.write_table",
        "write_dataset.write_features",
    ],
)
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(f"mmrec.data.{place}", fail)
    images = picture_folder(tmp_path / "pictures", "x.jpg")
    features = {"text": np.ones((1, 2), dtype=np.float32)}
    raw = RawData(pairs("ax", label=[0]), table(item_id=["x"]), images=images, features=features)
    with pytest.raises(DiskError, match="No space left"):
        prepare(raw, tmp_path / "shop")
    assert nothing_left(tmp_path, "pictures")


def test_a_stop_in_the_middle_leaves_nothing_and_a_second_try_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mmrec.data.write_dataset.write_json", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(RawData(pairs("ax")), tmp_path / "shop")
    assert nothing_left(tmp_path)
    assert prepare(RawData(pairs("ax")), tmp_path / "shop").n_interactions == 1


def test_the_manifest_is_plain_json_with_options(tmp_path: Path) -> None:
    prepare(
        RawData(pairs("ax ay bx by"), provenance={"importer": "x"}), tmp_path / "shop", name="mine", k_core=2
    )
    manifest = json.loads((tmp_path / "shop" / "dataset.json").read_text(encoding="utf-8"))
    assert manifest["name"] == "mine" and manifest["provenance"]["importer"] == "x"
    assert manifest["provenance"]["options"]["k_core"] == [2, 2]
    assert manifest["counts"] == {"users": 2, "items": 2, "interactions": 4}
