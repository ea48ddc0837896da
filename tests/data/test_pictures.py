from pathlib import Path

import pandas as pd
import pytest

from mmrec.data.pictures import copy_pictures, find_pictures
from mmrec.errors import DataError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def found(items: pd.DataFrame, folder: Path) -> list[str | None]:
    return [None if pd.isna(file) else file for file in find_pictures(items, folder).files]


def test_found_by_id_whatever_the_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "a.JPG", "b.png", "c.webp", "d.txt", "e", "10.jpeg", "x.y.gif", "a/f.jpg")
    items = pd.DataFrame({"item_id": ["a", "b", "c", "d", "e", "f", "10", "1", "x.y"]})
    assert found(items, tmp_path) == [
        "a.JPG",
        "b.png",
        "c.webp",
        None,
        None,
        None,
        "10.jpeg",
        None,
        "x.y.gif",
    ]


def test_of_two_pictures_jpg_wins(tmp_path: Path) -> None:
    touch(tmp_path, "a.webp", "a.jpg", "a.png")
    assert found(pd.DataFrame({"item_id": ["a"]}), tmp_path) == ["a.jpg"]


def test_found_by_the_image_column(tmp_path: Path) -> None:
    touch(tmp_path, "front/a.jpg", "b.jpg", "item1.jpg")
    items = pd.DataFrame(
        {
            "item_id": ["item1", "item2", "item3", "item4", "item5"],
            "image": ["front/a.jpg", "./b.jpg", None, "c.jpg", "front\\a.jpg"],
        }
    )
    pictures = find_pictures(items, tmp_path)
    assert found(items, tmp_path) == ["front/a.jpg", "b.jpg", None, None, "front/a.jpg"]
    assert pictures.absent == ["c.jpg"]


@pytest.mark.parametrize(
    "name",
    ["../secret.jpg", "a/../../secret.jpg", "/etc/secret.jpg", "C:\\secret.jpg", "a\\..\\..\\b.jpg", ".."],
)
def test_names_never_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "secret.jpg", "pictures/a.jpg")
    items = pd.DataFrame({"item_id": ["1", "2"], "image": ["a.jpg", name]})
    with pytest.raises(DataError, match="inside it") as caught:
        find_pictures(items, tmp_path / "pictures")
    assert "in row 2" in caught.value.found


def test_links_out_of_the_folder_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "outside.jpg", "pictures/b.jpg")
    (tmp_path / "pictures" / "a.jpg").symlink_to(tmp_path / "outside.jpg")
    (tmp_path / "pictures" / "c.jpg").symlink_to(tmp_path / "pictures" / "b.jpg")
    items = pd.DataFrame({"item_id": ["a", "b", "c"]})
    assert found(items, tmp_path / "pictures") == [None, "b.jpg", "c.jpg"]


def test_two_dots_inside_a_name_are_fine(tmp_path: Path) -> None:
    touch(tmp_path, "a..b.jpg")
    assert found(pd.DataFrame({"item_id": ["1"], "image": ["a..b.jpg"]}), tmp_path) == ["a..b.jpg"]


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_pictures(pd.DataFrame({"item_id": ["a"]}), tmp_path / "none")


def test_copies_keep_their_places(tmp_path: Path) -> None:
    touch(tmp_path / "from", "a.jpg", "sub/b.jpg", "not/c.jpg")
    copy_pictures(["a.jpg", "sub/b.jpg"], tmp_path / "from", tmp_path / "to")
    copied = sorted(path.relative_to(tmp_path / "to").as_posix() for path in (tmp_path / "to").rglob("*.jpg"))
    assert copied == ["a.jpg", "sub/b.jpg"]
    assert (tmp_path / "to" / "sub" / "b.jpg").read_bytes() == b"sub/b.jpg"
