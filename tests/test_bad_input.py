"""What people bring: each fault ends with exit code 2, three helpful lines, and nothing half-written."""

from __future__ import annotations

import hashlib
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmrec.data.dataset import Dataset
from mmrec.runs import BEST, LAST, Run
from tests.command_line import Command, Outcome
from tests.small_shop import config_of, copy_shop, write_config
from tests.worlds import write_dataset


def contents(folder: Path) -> dict[str, str]:
    """Every file and folder below, with the hash of what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def check_refused(outcome: Outcome, *words: str) -> None:
    lines = outcome.err.splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("mmrec: "))
    assert (outcome.code, outcome.out) == (2, ""), outcome.err
    assert [line.split(":")[0].strip() for line in lines[start + 1 : start + 4]] == [
        "expected",
        "found",
        "do this",
    ]
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err


# --- importing ---------------------------------------------------------------------------------------------------

INTERACTIONS = "user_id,item_id,timestamp\nu1,a,100\nu1,b,200\nu2,a,300\nu2,c,400\n"
ITEMS = "item_id,title\na,red apple\nb,blue berry\nc,brown bread\n"

IMPORTS: dict[str, tuple[dict[str, str], list[str], list[str]]] = {
    # what is wrong: files that differ from the good ones, more arguments, words of the message
    "missing column": ({"interactions.csv": "user_id,timestamp\nu1,1\n"}, [], ["item_id", "--column"]),
    "missing column of the items": ({"items.csv": "title\nred\n"}, [], ["item_id", "items.csv"]),
    "column given that is not there": ({}, ["--column", "asin=item_id"], ["asin"]),
    "unknown column type": ({}, ["--kind", "title=prose"], ["prose", "text"]),
    "empty file": ({"interactions.csv": ""}, [], ["interactions.csv"]),
    "only a header": ({"interactions.csv": "user_id,item_id\n"}, [], ["interactions"]),
    "unparsable timestamp": (
        {"interactions.csv": INTERACTIONS.replace("300", "last week")}, [], ["last week", "timestamp"],
    ),
    "missing user id": ({"interactions.csv": INTERACTIONS.replace("u2,c", ",c")}, [], ["user_id"]),
    "missing item id": ({"interactions.csv": INTERACTIONS.replace("u2,c", "u2,")}, [], ["item_id"]),
    "missing id of an item": ({"items.csv": ITEMS.replace("b,blue", ",blue")}, [], ["item_id"]),
    "duplicate items": ({"items.csv": ITEMS + "b,black board\n"}, [], ["'b'"]),
    "an interaction with an unknown item": (
        {"interactions.csv": INTERACTIONS + "u1,zebra,500\n"}, [], ["zebra", "--unknown-items"],
    ),
    "all below the k-core": ({}, ["--k-core", "9"], ["lower --k-core"]),
    "repeated pairs, asked to refuse": (
        {"interactions.csv": INTERACTIONS + "u1,a,500\n"}, ["--duplicates", "error"], ["'u1'", "'a'"],
    ),
    "ratings too low": (
        {"interactions.csv": "user_id,item_id,rating\nu1,a,1\n"}, ["--min-rating", "4"], ["lower --min-rating"],
    ),
    "unknown format": ({}, ["--format", "recbol"], ["did you mean 'recbole'"]),
    "no picture folder": ({}, ["--images", "no/such/folder"], ["no/such/folder"]),
    "no item table": ({}, ["--items", "no/such/items.csv"], ["items.csv", "no/such"]),
    "not a table": ({"items.csv": "\x00\x01\x02"}, [], ["items.csv"]),
    "ragged rows": ({"interactions.csv": INTERACTIONS + "u3,a,1,2,3,4\n"}, [], ["interactions.csv"]),
}  # fmt: skip


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with good tables, which is also the working directory."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "interactions.csv").write_text(INTERACTIONS)
    (folder / "items.csv").write_text(ITEMS)
    return folder


def import_into(mmrec: Command, source: Path, *more: str) -> Outcome:
    items = [] if "--items" in more else ["--items", source / "items.csv"]
    return mmrec("data", "import", source / "interactions.csv", *items, "--to", "shop", *more)


def test_the_good_tables_are_imported(mmrec: Command, source: Path) -> None:
    outcome = import_into(mmrec, source, "--json")
    assert outcome.code == 0
    assert outcome.document == {"dataset": "shop", "users": 2, "items": 3, "interactions": 4}


@pytest.mark.parametrize("fault", IMPORTS)
def test_bad_tables(mmrec: Command, source: Path, fault: str) -> None:
    files, more, words = IMPORTS[fault]
    for name, text in files.items():
        (source / name).write_text(text)
    before = contents(source.parent)
    check_refused(import_into(mmrec, source, *more), *words)
    assert contents(source.parent) == before


def test_an_unknown_type_in_a_recbole_header(mmrec: Command, source: Path) -> None:
    shutil.rmtree(source)
    source.mkdir()
    (source / "x.inter").write_text("user_id:token\titem_id:token\trating:flot\nu1\ta\t3\n")
    check_refused(mmrec("data", "import", source, "--to", "shop"), "flot", "float")
    assert not Path("shop").exists()


def test_importing_over_something_else(mmrec: Command, source: Path) -> None:
    Path("shop").mkdir()
    Path("shop/thesis.tex").write_text("years of work")
    check_refused(import_into(mmrec, source), "shop with files in it")
    assert [path.name for path in Path("shop").iterdir()] == ["thesis.tex"]


# --- splitting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--protocol", "given"], "label"),
        (["--protocol", "temporal", "--test", "1.5"], "1.5"),
        (["--protocol", "random", "--cold-items", "2"], "cold"),
        (["--protocol", "random", "--seed", "99"], "overwrite"),  # another split of that name is there
        (["--name", "../../escape"], "a split name"),
        (["--protocol", "random", "--ties", "file", "--name", "x"], "leave-one-out"),
    ],
)
def test_bad_splits(
    mmrec: Command, small_shop: Dataset, tmp_path: Path, arguments: list[str], word: str
) -> None:
    shop = copy_shop(small_shop, tmp_path / "shop")
    before = contents(tmp_path)
    check_refused(mmrec("data", "split", shop.path, *arguments), word)
    assert contents(tmp_path) == before


# --- features ----------------------------------------------------------------------------------------------------


def matrix(n_items: int = 60, place: float | None = None) -> np.ndarray[Any, Any]:
    vectors = np.random.default_rng(0).normal(size=(n_items, 4)).astype(np.float32)
    if place is not None:
        vectors[7, 2] = place
    return vectors


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (matrix(59), ["60", "59"]),
        (matrix(place=np.nan), ["row 7"]),
        (matrix(place=np.inf), ["row 7"]),
        (np.zeros((60, 4), dtype=np.float32), ["made.npy"]),
        (np.ones((60, 4), dtype=np.int64), ["int64", "float32"]),
        (np.ones(60, dtype=np.float32), ["(60,)"]),
        (np.array(["a"] * 60), ["made.npy"]),
    ],
    ids=["rows", "nan", "infinite", "nothing", "integers", "flat", "words"],
)
def test_bad_features(
    mmrec: Command, small_shop: Dataset, tmp_path: Path, vectors: np.ndarray[Any, Any], words: list[str]
) -> None:
    shop = copy_shop(small_shop, tmp_path / "shop")
    np.save(tmp_path / "made.npy", vectors)
    before = contents(tmp_path)
    check_refused(mmrec("encode", shop.path, "--from", tmp_path / "made.npy", "--name", "made"), *words)
    assert contents(tmp_path) == before


def test_features_that_are_no_numpy_file(mmrec: Command, small_shop: Dataset, tmp_path: Path) -> None:
    shop = copy_shop(small_shop, tmp_path / "shop")
    file = tmp_path / "made.npy"
    for content in (b"", b"\x80\x04\x95 a pickle", b"\x93NUMPY\x01\x00"):
        file.write_bytes(content)
        check_refused(mmrec("encode", shop.path, "--from", file), "made.npy")
    check_refused(mmrec("encode", shop.path, "--from", tmp_path / "nowhere.npy"), "nowhere.npy")
    assert shop.feature_names() == ["image-small", "text-small"]


@pytest.mark.parametrize("encoder", ["no/such/folder", "/no/such/folder", "./model", "tfid"])
def test_an_encoder_that_does_not_exist(
    mmrec: Command, small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shop = copy_shop(small_shop, tmp_path / "shop")
    before = contents(tmp_path)
    check_refused(mmrec("encode", shop.path, "--encoder", encoder), encoder)
    assert contents(tmp_path) == before


def test_unreadable_pictures_are_counted_not_fatal(
    mmrec: Command, small_shop: Dataset, tmp_path: Path
) -> None:
    shop = copy_shop(small_shop, tmp_path / "shop")
    named = np.flatnonzero(shop.items["image"].notna())
    broken = {int(named[3]): b"not a picture", int(named[5]): b"", int(named[8]): None}
    for item, content in broken.items():
        file = shop.images / str(shop.items["image"][item])
        if content is None:
            file.write_bytes(file.read_bytes()[:60])  # torn in the middle
        else:
            file.write_bytes(content)
    outcome = mmrec("encode", shop.path, "--modality", "image", "--name", "drawn", "--json")
    assert outcome.code == 0
    present = shop.features("drawn").present
    assert outcome.document["present"] == present.sum() == len(named) - 3
    assert not present[list(broken)].any()
    assert "3" in outcome.err
    assert np.isfinite(shop.features("drawn").vectors).all()


# --- training ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "fredom"}, ["did you mean 'freedom'"]),
        ({"train": {"epoch": 3}}, ["'train.epoch'", "did you mean 'epochs'"]),
        ({"param": {"dim": 3}}, ["did you mean 'params'"]),
        ({"params": {"dimm": 3}}, ["did you mean 'dim'"]),
        ({"train": {"lr": "fast"}}, ["train.lr", "'fast'"]),
        ({"evaluate": {"ks": 10}}, ["evaluate.ks", "10"]),
        ({"split": "defaults"}, ["'defaults'", "default, loo"]),
        ({"features": {"text": "text-smalls"}}, ["did you mean 'text-small'"]),
        ({"data": "no/such/folder"}, ["no/such/folder"]),
        ({"model": "vbpr"}, ["item features for vbpr"]),
        ({"model": "freedom", "features": {"image": "image-small"}, "params": {"knn_k": 0}}, ["knn_k"]),
        ({"train": {"monitor": "recall"}}, ["recall@20"]),
        ({"train": {"device": "cuda:9"}}, ["cuda:9"]),
    ],
)
def test_bad_configs(
    mmrec: Command, small_shop: Dataset, tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    config = write_config(tmp_path / "config.yaml", config_of(small_shop) | change)
    check_refused(mmrec("train", config, "--run", tmp_path / "run"), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_a_config_that_is_no_config(mmrec: Command, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    for text in ("", "- a\n- b\n", "model: bpr\n  data: x\n", "model: bpr\nmodel: vbpr\n"):
        config.write_text(text)
        check_refused(mmrec("train", config), "config.yaml")


# --- runs --------------------------------------------------------------------------------------------------------


def test_a_run_of_another_dataset(mmrec: Command, own_run: Run, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", {"user": [0, 0, 1], "item": [0, 1, 1]})
    before = contents(own_run.path)
    for command in (["evaluate", own_run.path], ["recommend", own_run.path, "--user", "u0"]):
        check_refused(mmrec(*command, "--data", other.path), "the dataset toyshop", "other", "--data")
    assert contents(own_run.path) == before


@pytest.mark.parametrize("command", ["evaluate", "recommend"])
def test_a_damaged_checkpoint(mmrec: Command, own_run: Run, command: str) -> None:
    file = own_run.path / BEST
    file.write_bytes(file.read_bytes()[:-7])
    before = contents(own_run.path)
    user = ["--user", "user-0001"] if command == "recommend" else []
    check_refused(mmrec(command, own_run.path, *user), "best.safetensors was changed or damaged")
    assert contents(own_run.path) == before


def test_a_damaged_checkpoint_to_resume_from(mmrec: Command, own_run: Run) -> None:
    own_run.update(status="started")
    file = own_run.path / LAST
    file.write_bytes(file.read_bytes()[:-7])
    before = contents(own_run.path)
    check_refused(mmrec("train", own_run.path, "--resume"), "last.safetensors", "train again")
    assert contents(own_run.path) == before


def test_comparing_what_cannot_be_compared(
    mmrec: Command, own_run: Run, small_shop: Dataset, tmp_path: Path
) -> None:
    check_refused(mmrec("compare", own_run.path), "mmrec evaluate")
    config = write_config(tmp_path / "c.yaml", config_of(small_shop, epochs=1) | {"split": "loo"})
    assert mmrec("train", config, "--run", tmp_path / "loo").code == 0
    for run in (own_run.path, tmp_path / "loo"):
        assert mmrec("evaluate", run).code == 0
    check_refused(mmrec("compare", own_run.path, tmp_path / "loo"), "split", "one protocol")
    check_refused(mmrec("compare", own_run.path, "--metric", "recal@5"), "did you mean 'recall@5'")


# --- a full disk -------------------------------------------------------------------------------------------------


@contextmanager
def files_up_to(n_bytes: int) -> Iterator[None]:
    """No file can grow beyond that: the kernel refuses the write, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


LIMITS = (0, 100, 700, 1500, 3000, 6000, 12000)


def test_importing_on_a_full_disk(mmrec: Command, source: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"user_id": rng.integers(0, 50, 3000), "item_id": rng.integers(0, 400, 3000)})
    table.drop_duplicates().to_csv(source / "interactions.csv", index=False)
    before = contents(source.parent)
    refused = 0
    for limit in LIMITS:
        with files_up_to(limit):
            outcome = mmrec("data", "import", source / "interactions.csv", "--to", "shop")
        if outcome.code == 0:
            break
        check_refused(outcome, "free space")
        assert contents(source.parent) == before
        refused += 1
    assert refused >= 4
    assert mmrec("data", "show", "shop").code == 0


@pytest.mark.parametrize(
    "options", [["--dim", 16], ["--from", "made.npy"]], ids=["encoded", "made elsewhere"]
)
def test_encoding_on_a_full_disk(
    mmrec: Command, small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    shop = copy_shop(small_shop, tmp_path / "shop")
    np.save("made.npy", np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32))
    refused = 0
    for limit in LIMITS:
        with files_up_to(limit):
            outcome = mmrec("encode", shop.path, "--name", "new", *options)
        if outcome.code == 0:
            break
        check_refused(outcome, "free space")
        assert shop.feature_names() == ["image-small", "text-small"]
        refused += 1
    assert refused >= 3
    assert shop.features("new").dim == 16
    assert {path.name for path in (shop.path / "features").iterdir()} == {"image-small", "text-small", "new"}


def test_splitting_on_a_full_disk(mmrec: Command, small_shop: Dataset, tmp_path: Path) -> None:
    shop = copy_shop(small_shop, tmp_path / "shop")
    before = contents(tmp_path)
    for limit in (0, 100):
        with files_up_to(limit):
            check_refused(mmrec("data", "split", shop.path, "--name", "new"), "free space")
        assert contents(tmp_path) == before


def test_training_on_a_full_disk(mmrec: Command, small_shop: Dataset, tmp_path: Path) -> None:
    """Whatever could be written is whole, and the run goes on from there once there is space."""
    document = config_of(small_shop, epochs=2, checkpoint_seconds=0)
    config, run = write_config(tmp_path / "config.yaml", document), tmp_path / "run"
    assert mmrec("train", config, "--run", tmp_path / "whole").code == 0
    for limit in (*LIMITS, 24000):
        with files_up_to(limit):
            outcome = mmrec("train", config, "--run", run, "--resume")
        check_refused(outcome, "free space")
        assert not list(run.rglob("*.partial-*"))
    assert mmrec("train", config, "--run", run, "--resume").code == 0
    for name in (BEST, LAST):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_evaluating_on_a_full_disk(mmrec: Command, own_run: Run) -> None:
    with files_up_to(2500):
        check_refused(mmrec("evaluate", own_run.path), "free space")
    assert not (own_run.path / "test.json").exists()
    assert not list(own_run.path.glob(".*"))
    assert mmrec("evaluate", own_run.path).code == 0
