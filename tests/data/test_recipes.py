from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from mmrec.data.dataset import Dataset
from mmrec.data.download import Patience
from mmrec.data.recipe import read_recipe
from mmrec.data.recipes import get
from mmrec.errors import ConfigError, DataError, DiskError
from tests.data import published
from tests.data.test_recipe import SHIPPED, write_recipe
from tests.data.web_server import Server, serving

FAST = Patience(timeout=0.3, attempts=2, backoff=0.01)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        yield server


def tiny(server: Server, tmp_path: Path, /, **changes: object) -> Path:
    """The recipe ``tiny`` with its file on the server."""
    url = server.add("ml-1m.zip", published.movielens_1m()["ml-1m.zip"])
    changes.setdefault("files", [{"name": "ml-1m.zip", "official": url, "unpack": True}])
    return write_recipe(tmp_path / "recipes", **changes)


def fetch_tiny(recipes: Path, to: Path, **how: object) -> Dataset:
    how = {"accept_licence": True, "patience": FAST, "show": False, **how}
    return get("tiny", to, recipes=recipes, **how)  # type: ignore[arg-type]


# The shipped recipes

SMALL: dict[str, tuple[dict[str, str], Callable[[], dict[str, bytes]]]] = {
    "movielens-100k": ({}, published.movielens_100k),
    "movielens-1m": ({}, published.movielens_1m),
    "movielens-32m": ({}, published.movielens_32m),
    "amazon-2014": ({}, published.amazon_2014),
    "amazon-2018": ({}, published.amazon_2018),
    "amazon-2023": ({"category": "Baby_Products"}, published.amazon_2023),
    "microlens": ({}, published.microlens),
    "microlens 100k": ({"size": "100k"}, lambda: published.microlens("100k")),
    "microlens without pictures": ({"pictures": "no"}, published.microlens),
    "mmctr": ({}, published.mmctr),
}


@pytest.mark.parametrize("case", SMALL)
def test_shipped_recipes_from_address_to_dataset(case: str, server: Server, tmp_path: Path) -> None:
    """Each recipe, its addresses moved to our server, on small files in the published formats."""
    name = case.split()[0]
    options, make = SMALL[case]
    files = make()
    content = yaml.safe_load((SHIPPED / name / "recipe.yaml").read_text().replace("https://", server.url("")))
    content.pop("checksums", None), content.pop("counts", None)
    (tmp_path / name).mkdir()
    (tmp_path / name / "recipe.yaml").write_text(yaml.safe_dump(content))
    wanted = read_recipe(name, tmp_path).choose(options)
    for file in read_recipe(name, tmp_path).with_options(wanted).files:
        server.add(file.official.removeprefix(server.url("")), files[file.name])
    to = tmp_path / "set"
    dataset = get(name, to, accept_licence=True, options=options, recipes=tmp_path, patience=FAST, show=False)
    assert {
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": dataset.n_interactions,
    } == published.SHAPE
    kinds = dataset.manifest["columns"]
    for table, columns in content["columns"].items():
        documented = columns.keys() - ({"category"} if "100k" not in case else set())
        assert documented <= kinds[table].keys()
    log = json.loads((to / "downloads.json").read_text())
    assert all(entry["checked"] == "first use" for entry in log["files"].values())
    assert log["files"].keys() == {
        file.name for file in read_recipe(name, tmp_path).with_options(wanted).files
    }
    pictures = dataset.items["image"].notna().sum() if "image" in dataset.items else 0
    assert pictures == (published.ITEMS - 1 if name == "microlens" and not options.get("pictures") else 0)


# Getting a dataset


def test_files_of_the_dataset_folder(server: Server, tmp_path: Path) -> None:
    fetch_tiny(tiny(server, tmp_path), tmp_path / "set")
    names = {path.name for path in (tmp_path / "set").iterdir()}
    assert names == {
        "dataset.json",
        "interactions.parquet",
        "items.parquet",
        "users.parquet",
        "downloads.json",
        "raw",
        ".lock",
    }
    assert Dataset(tmp_path / "set").name == "set"


def test_a_second_call_downloads_nothing(server: Server, tmp_path: Path) -> None:
    recipes = tiny(server, tmp_path)
    first = fetch_tiny(recipes, tmp_path / "set")
    assert fetch_tiny(recipes, tmp_path / "set", accept_licence=False).hash == first.hash
    assert len(server.requests) == 1


def test_the_default_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"Part": {"default": "One", "choices": ["One", "Two"], "description": "which"}}
    recipes = tiny(server, tmp_path, folder="tiny-{Part}", options=options)
    dataset = get("tiny", accept_licence=True, options={"Part": "Two"}, recipes=recipes, show=False)
    assert dataset.path == Path("datasets/tiny-two")


def test_a_recipe_in_the_same_folder_stays(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default: recipes/tiny is datasets/tiny is the dataset."""
    monkeypatch.chdir(tmp_path)
    tiny(server, tmp_path).rename("datasets")
    assert get("tiny", accept_licence=True, show=False).path == Path("datasets/tiny")
    assert Path("datasets/tiny/recipe.yaml").is_file()


def test_an_interrupted_import_is_done_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes, to = tiny(server, tmp_path), tmp_path / "set"
    real = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if self.name == "items.parquet" and self.parent.name == ".new":
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        fetch_tiny(recipes, to)
    assert not (to / "dataset.json").exists() and (to / "interactions.parquet").exists()
    monkeypatch.undo()
    assert fetch_tiny(recipes, to).n_items == published.ITEMS
    assert not (to / ".new").exists()
    assert len(server.requests) == 1


def test_an_interrupted_download_goes_on_at_the_next_call(server: Server, tmp_path: Path) -> None:
    recipes, to = tiny(server, tmp_path), tmp_path / "set"
    server.pages["/ml-1m.zip"].faults = [("cut", 100)] * 2
    with pytest.raises(DataError, match="stopped after"):
        fetch_tiny(recipes, to, patience=Patience(timeout=0.3, attempts=1, backoff=0))
    with pytest.raises(DataError, match="stopped after"):
        fetch_tiny(recipes, to, patience=Patience(timeout=0.3, attempts=1, backoff=0))
    fetch_tiny(recipes, to)
    assert [request.range for request in server.requests] == [None, "bytes=100-", "bytes=200-"]


def test_a_hostile_archive_leaves_nothing(server: Server, tmp_path: Path) -> None:
    recipes, to = tiny(server, tmp_path), tmp_path / "set"
    server.add("ml-1m.zip", published.packed({"ml-1m/ratings.dat": "1::1::1::1\n", "../../evil": "x"}))
    with pytest.raises(DataError, match=r"a path with '\.\.'"):
        fetch_tiny(recipes, to)
    assert {path.name for path in to.rglob("*")} == {"raw", "ml-1m.zip", "downloads.json", ".lock"}
    assert not (tmp_path / "evil").exists()


def test_counts_are_compared(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right, wrong = {**published.SHAPE}, {**published.SHAPE, "users": 9}
    fetch_tiny(tiny(server, tmp_path, counts=[right]), tmp_path / "a")
    assert "publisher counts" not in capsys.readouterr().err
    fetch_tiny(tiny(server, tmp_path, counts=[wrong]), tmp_path / "b")
    assert "the publisher counts users=9" in capsys.readouterr().err


def test_files_that_an_option_makes_unnecessary(server: Server, tmp_path: Path) -> None:
    files = [
        {"name": "ml-1m.zip", "official": server.url("ml-1m.zip"), "unpack": True},
        {"name": "more.csv", "official": server.add("more.csv", b"a,b\n"), "when": {"more": True}},
    ]
    options = {"more": {"default": False, "description": "more files"}}
    recipes = tiny(server, tmp_path, files=files, options=options)
    fetch_tiny(recipes, tmp_path / "less")
    fetch_tiny(recipes, tmp_path / "more", options={"more": "yes"})
    assert not (tmp_path / "less/raw/more.csv").exists() and (tmp_path / "more/raw/more.csv").exists()


def test_options_reach_the_import(server: Server, tmp_path: Path) -> None:
    importing = {"format": "movielens", "source": "ml-1m/ml-1m", "options": {"min_rating": "{least}"}}
    options = {"least": {"default": 0.0, "description": "least rating"}}
    recipes = tiny(server, tmp_path, **{"import": importing}, options=options)
    assert fetch_tiny(recipes, tmp_path / "set", options={"least": "5"}).n_interactions < 48


# Trust on first use


def log_of(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / "downloads.json").read_text()))


def test_what_was_recorded_on_first_use_is_expected_ever_after(server: Server, tmp_path: Path) -> None:
    recipes, to = tiny(server, tmp_path), tmp_path / "set"
    fetch_tiny(recipes, to)
    entry = log_of(to)["files"]["ml-1m.zip"]  # type: ignore[index]
    assert entry["url"] == server.url("ml-1m.zip") and len(entry["sha256"]) == 64
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", entry["date"]) and entry["checked"] == "first use"
    for path in [*to.glob("*.parquet"), to / "dataset.json", to / "raw/ml-1m.zip"]:
        path.unlink()
    server.add("ml-1m.zip", published.movielens_1m()["ml-1m.zip"][:-1] + b"!")
    with pytest.raises(DataError) as caught:
        fetch_tiny(recipes, to)
    assert f"recorded on {entry['date']}" in caught.value.expected
    assert "remove ml-1m.zip from" in caught.value.do
    assert (to / "raw/ml-1m.zip.bad").is_file() and not (to / "raw/ml-1m.zip").exists()
    assert not (to / "dataset.json").exists()


def test_a_file_edited_on_disk_is_noticed(server: Server, tmp_path: Path) -> None:
    recipes, to = tiny(server, tmp_path), tmp_path / "set"
    fetch_tiny(recipes, to)
    (to / "dataset.json").unlink()
    with (to / "raw/ml-1m.zip").open("ab") as file:
        file.write(b"!")
    with pytest.raises(DataError, match="recorded on"):
        fetch_tiny(recipes, to)
    assert fetch_tiny(recipes, to).n_users == published.USERS  # downloaded anew, as the message says


def test_published_checksums_count_from_the_first_download(server: Server, tmp_path: Path) -> None:
    checksums = {"ml-1m.zip": {"md5": "0" * 32, "origin": "published by its author"}}
    with pytest.raises(DataError, match="published by its author"):
        fetch_tiny(tiny(server, tmp_path, checksums=checksums), tmp_path / "set")


def test_how_a_file_was_checked_is_recorded(server: Server, tmp_path: Path) -> None:
    import hashlib

    body = published.movielens_1m()["ml-1m.zip"]
    server.add("ml-1m.zip", body)
    files = [{"name": "ml-1m.zip", "official": server.url("ml-1m.zip"), "unpack": True}]
    checksums = {"ml-1m.zip": {"md5": hashlib.md5(body).hexdigest(), "bytes": len(body)}}
    recipes = write_recipe(tmp_path / "recipes", files=files, checksums=checksums)
    fetch_tiny(recipes, tmp_path / "set")
    entry = log_of(tmp_path / "set")["files"]["ml-1m.zip"]  # type: ignore[index]
    assert entry["checked"] == "md5 (published)"


def test_a_file_put_there_by_hand_is_taken(server: Server, tmp_path: Path) -> None:
    recipes, to = tiny(server, tmp_path), tmp_path / "set"
    (to / "raw").mkdir(parents=True)
    (to / "raw/ml-1m.zip").write_bytes(published.movielens_1m()["ml-1m.zip"])
    fetch_tiny(recipes, to)
    assert server.requests == []
    assert log_of(to)["files"]["ml-1m.zip"]["url"] is None  # type: ignore[index]


def test_a_new_archive_replaces_what_the_old_one_held(server: Server, tmp_path: Path) -> None:
    recipes, to = tiny(server, tmp_path), tmp_path / "set"
    fetch_tiny(recipes, to)
    log = log_of(to)
    log["files"] = {}
    (to / "downloads.json").write_text(json.dumps(log))
    (to / "dataset.json").unlink(), (to / "raw/ml-1m.zip").unlink()
    (to / "raw/ml-1m/ml-1m/stale").write_text("")
    fetch_tiny(recipes, to)
    assert not (to / "raw/ml-1m/ml-1m/stale").exists()


# The licence


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_a_terminal_the_licence_needs_an_option(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(ConfigError, match="--accept-licence"):
        fetch_tiny(tiny(server, tmp_path), tmp_path / "set", accept_licence=False)
    shown = capsys.readouterr()
    assert "Be kind." in shown.err and "Nobody 2020" in shown.err and shown.out == ""
    assert server.requests == []
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(("answer", "agreed"), [("y", True), ("Yes", True), ("", False), ("n", False)])
def test_at_a_terminal_the_licence_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, agreed: bool
) -> None:
    asked = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(f"{answer}\n"))
    monkeypatch.setattr(sys, "stderr", asked)
    recipes, to = tiny(server, tmp_path), tmp_path / "set"
    if not agreed:
        with pytest.raises(ConfigError, match="declined"):
            fetch_tiny(recipes, to, accept_licence=False)
        assert server.requests == [] and not to.exists()
        return
    fetch_tiny(recipes, to, accept_licence=False)
    assert "Be kind." in asked.getvalue() and "[y/N]" in asked.getvalue()
    assert log_of(to)["licence"]["how"] == "at the terminal"  # type: ignore[index]


def test_an_accepted_licence_is_not_shown_again_unless_it_changes(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes, to = tiny(server, tmp_path), tmp_path / "set"
    fetch_tiny(recipes, to)
    (to / "dataset.json").unlink()
    capsys.readouterr()
    fetch_tiny(recipes, to, accept_licence=False)
    assert "Be kind." not in capsys.readouterr().err
    (to / "dataset.json").unlink()
    tiny(server, tmp_path, licence={"name": "Free", "terms": "Be very kind.", "citation": "Nobody 2020"})
    with pytest.raises(ConfigError, match="to be accepted"):
        fetch_tiny(recipes, to, accept_licence=False)


# Wrong folders, names, options


def test_another_choice_needs_another_folder(server: Server, tmp_path: Path) -> None:
    options = {"part": {"default": "one", "choices": ["one", "two"], "description": "which"}}
    recipes = tiny(server, tmp_path, options=options)
    fetch_tiny(recipes, tmp_path / "set")
    with pytest.raises(DataError, match="part=one") as caught:
        fetch_tiny(recipes, tmp_path / "set", options={"part": "two"})
    assert "ANOTHER_FOLDER" in caught.value.do


def test_a_foreign_dataset_is_left_alone(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/dataset.json").write_text("{}")
    with pytest.raises(DataError, match="another dataset"):
        fetch_tiny(tiny(server, tmp_path), tmp_path / "set")
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["dataset.json"]


def test_two_processes_do_not_mix(server: Server, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "set").mkdir()
    with (tmp_path / "set/.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="at work"):
            fetch_tiny(tiny(server, tmp_path), tmp_path / "set")


def test_a_folder_that_cannot_be_made(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(self: Path, *args: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    recipes = tiny(server, tmp_path)
    monkeypatch.setattr(Path, "mkdir", deny)
    with pytest.raises(DiskError, match="Permission denied"):
        fetch_tiny(recipes, tmp_path / "set")


def test_a_recipe_may_not_read_local_files(tmp_path: Path) -> None:
    recipes = write_recipe(tmp_path / "r", files=[{"name": "a.txt", "official": "file:///etc/passwd"}])
    with pytest.raises(DataError, match="http or https"):
        fetch_tiny(recipes, tmp_path / "set")
