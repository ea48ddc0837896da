"""Tokenising a dataset from end to end: what is written, found again, refused, and given to new items."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrec.codes.health import read_health
from mmrec.codes.store import Tokeniser, extend
from mmrec.codes.table import CodeTable, check_codes
from mmrec.codes.tokenize import METHODS, tokenize
from mmrec.data.dataset import Dataset
from mmrec.encode.features import write_features
from mmrec.errors import ConfigError, DataError, FeatureError
from mmrec.files import read_json
from mmrec.runs import Run
from tests.command_line import Command
from tests.small_shop import config_of, copy_shop

SHORT: dict[str, Any] = {"hidden": (16,), "latent": 6, "epochs": 4}
OPTIONS: dict[str, dict[str, Any]] = {
    "residual-kmeans": {},
    "rqvae": SHORT,
    "letter": SHORT,
    "pq": {},
    "opq": {},
    "graph-rqvae": {**SHORT, "graph_width": 8, "graph_dim": 6, "graph_epochs": 2},
    "rq-dino": {
        "picture_size": 16,
        "global_size": 16,
        "local_size": 16,
        "local_views": 1,
        "latent": 8,
        "prototypes": 8,
        "epochs": 1,
    },
}


@pytest.fixture
def shop(small_shop: Dataset, tmp_path: Path) -> Dataset:
    return copy_shop(small_shop, tmp_path / "shop")


def make(shop: Dataset, method: str = "residual-kmeans", **changes: Any) -> CodeTable:
    usual: dict[str, Any] = {
        "features": [] if method == "rq-dino" else ["text-small", "image-small"],
        "levels": 2,
        "size": 4,
        "name": method,
        "options": OPTIONS[method],
        "show_progress": False,
        "allow_collapse": method not in ("residual-kmeans", "pq", "opq"),
    }
    return tokenize(shop, method=method, **{**usual, **changes})


def bits(folder: Path) -> list[bytes]:
    names = ("codes.npy", "quantiser.safetensors", "quantiser.json", "manifest.json")
    return [(folder / name).read_bytes() for name in names]


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_from_end_to_end(shop: Dataset, small_run: Run, method: str) -> None:
    run = {"run": small_run.path} if method == "letter" else {}
    table = make(shop, method, **run)
    folder = shop.path / "codes" / method
    assert table.n_items == 60
    assert shop.code_names() == [method]
    assert shop.codes(method).hash == table.hash
    assert read_health(folder).items == 60
    first = bits(folder)
    make(shop, method, **run, overwrite=True)
    assert bits(folder) == first
    tokeniser = Tokeniser.open(folder)
    if method not in (
        "graph-rqvae",
        "rq-dino",
    ):  # the catalogue's own vectors need its neighbours or pictures
        names = ("text-small", "image-small")
        vectors = {name: np.array(shop.features(name).vectors) for name in names}
        codes = tokeniser.quantiser.encode(tokeniser.embed(vectors))
        kept = codes.shape[1] - (METHODS[method].collisions == "reassign")
        assert (codes[:, :kept] == table.codes[:, :kept]).all()


def test_called_again_it_finds_what_is_there(shop: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    table = make(shop)
    assert make(shop).hash == table.hash
    assert "already tokenised" in capsys.readouterr().err
    with pytest.raises(FeatureError, match="overwrite"):
        make(shop, seed=1)
    assert make(shop, seed=1, overwrite=True).hash != table.hash
    assert [path.name for path in (shop.path / "codes").iterdir()] == ["residual-kmeans"]


@pytest.mark.parametrize("collisions", ["index", "popularity", "reassign"])
def test_new_items_get_codes(shop: Dataset, collisions: Any) -> None:
    table = make(shop, collisions=collisions, size=16)
    folder = shop.path / "codes" / "residual-kmeans"
    new = {
        name: np.concatenate([np.array(shop.features(name).vectors[:4]), np.zeros((1, width), np.float32)])
        for name, width in (("text-small", 6), ("image-small", 4))
    }
    codes = extend(folder, new)
    assert codes.shape == (5, table.levels)
    check_codes(np.concatenate([table.codes, codes]), table.sizes, 65, source="test")
    kept = 1 if collisions == "reassign" else 2
    assert (codes[:4, :kept] == table.codes[:4, :kept]).all()
    assert (extend(folder, new) == codes).all()
    assert shop.codes("residual-kmeans").hash == table.hash


def test_new_pictures_and_new_items_of_a_graph_get_codes(shop: Dataset) -> None:
    make(shop, "rq-dino")
    pictures = np.random.default_rng(0).integers(1, 255, (3, 3, 16, 16)).astype(np.uint8)
    assert extend(shop.path / "codes" / "rq-dino", pictures).shape == (3, 3)
    with pytest.raises(FeatureError, match="array of pictures"):
        extend(shop.path / "codes" / "rq-dino", {"image": pictures})
    make(shop, "graph-rqvae", features=["text-small"], size=16)
    found = extend(shop.path / "codes" / "graph-rqvae", np.array(shop.features("text-small").vectors[:3]))
    assert found.shape == (3, 3)
    saved = np.load(shop.path / "codes" / "graph-rqvae" / "user_vectors.npy", allow_pickle=False)
    assert saved.shape == (150, 6)
    assert set(read_json(shop.path / "codes" / "graph-rqvae" / "manifest.json")["files"]) >= {
        "user_vectors.npy",
        "item_vectors.npy",
    }


def test_nothing_is_learned_from_items_outside_training(shop: Dataset) -> None:
    before = make(shop, features=["text-small"], collisions="index")
    cold = np.setdiff1d(np.arange(60), shop.split().train.items)
    assert len(cold)
    source = shop.features("text-small")
    vectors = np.array(source.vectors)
    vectors[cold] += 5
    folder = shop.path / "features" / "text-changed"
    write_features(folder, "text", vectors, np.array(source.present), {"encoder": "test"})
    after = make(shop, features=["text-changed"], collisions="index", name="changed")
    warm = np.unique(shop.split().train.items)
    assert (before.codes[warm, :2] == after.codes[warm, :2]).all()


def test_items_without_content_are_reported(shop: Dataset) -> None:
    make(shop, features=["text-small"])
    present = shop.features("text-small").present
    folder = shop.path / "codes" / "residual-kmeans"
    assert read_json(folder / "manifest.json")["absent"] == int((~present).sum()) > 0
    codes = shop.codes("residual-kmeans").codes[~present]
    assert len(np.unique(codes[:, :2], axis=0)) == 1


def test_item_vectors_of_a_run(shop: Dataset, small_run: Run, tmp_path: Path) -> None:
    table = make(shop, features=[], run=small_run.path, name="collaborative")
    content = read_json(shop.path / "codes" / "collaborative" / "manifest.json")["content"]
    assert content["run"]["checkpoint"] == small_run.manifest["checkpoint_sha256"]
    cold = np.bincount(shop.split().train.items, minlength=60) == 0
    assert len(np.unique(table.codes[cold, :2], axis=0)) == 1  # bpr knows nothing about these
    with pytest.raises(DataError, match="--split default"):
        make(shop, features=[], run=small_run.path, name="other", split="loo")


def test_a_run_that_only_scores_has_no_item_vectors(shop: Dataset, tmp_path: Path) -> None:
    from mmrec.train import train

    run = train({**config_of(shop, "popularity"), "params": {}}, run=tmp_path / "scores", show_progress=False)
    with pytest.raises(ConfigError, match="retriever"):
        make(shop, features=[], run=run)


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"method": "kmeans"}, ConfigError, "residual-kmeans"),
        ({"features": ["text-smalls"]}, FeatureError, "did you mean 'text-small'"),
        ({"features": []}, ConfigError, "--features"),
        ({"size": 64}, FeatureError, "at least 64 distinct vectors"),
        ({"size": 1}, ConfigError, "size"),
        ({"options": {"normalize": True}}, ConfigError, "did you mean 'normalise'"),
        ({"options": ["normalise"]}, ConfigError, "key.subkey=value"),
        ({"collisions": "hash"}, ConfigError, "reassign"),
        ({"name": "../codes"}, ConfigError, "name of letters"),
        ({"split": "none"}, DataError, "data split"),
        ({"method": "letter"}, ConfigError, "--run"),
        ({"method": "pq", "size": 6}, ConfigError, "power of two"),
        ({"method": "rq-dino"}, ConfigError, "pictures alone"),
    ],
)
def test_bad_input(shop: Dataset, changes: dict[str, Any], kind: type[Exception], words: str) -> None:
    method = changes.get("method", "residual-kmeans")
    options = OPTIONS.get(method, {})
    usual: dict[str, Any] = {"features": ["text-small"], "levels": 2, "size": 4, "options": options}
    with pytest.raises(kind, match=words):
        tokenize(shop, **{**usual, **changes}, show_progress=False)
    assert not shop.code_names()


def test_equal_vectors_are_refused(shop: Dataset) -> None:
    folder = shop.path / "features" / "flat"
    write_features(folder, "text", np.full((60, 5), 0.3, np.float32), np.ones(60, bool), {"encoder": "test"})
    with pytest.raises(FeatureError, match="1 among"):
        make(shop, features=["flat"])


def test_nan_is_refused(shop: Dataset) -> None:
    file = shop.path / "features" / "text-small" / "vectors.npy"
    vectors = np.load(file)
    vectors[np.flatnonzero(shop.features("text-small").present)[3], 1] = np.nan
    np.save(file, vectors)
    with pytest.raises(FeatureError, match="NaN"):
        make(shop, features=["text-small"])


def test_collapse_is_refused_unless_allowed(
    shop: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mmrec.codes.health.LEAST_USAGE", 1.1)
    with pytest.raises(FeatureError, match="collapsed"):
        make(shop)
    assert not shop.code_names()
    make(shop, allow_collapse=True)
    assert "collapsed" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["quantiser.safetensors", "quantiser.json", "codes.npy", "health.json"])
def test_damaged_files(shop: Dataset, name: str) -> None:
    make(shop, features=["text-small"])
    folder = shop.path / "codes" / "residual-kmeans"
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(bytes(content))
    new = np.array(shop.features("text-small").vectors[:1])
    if name == "health.json":  # nothing is made from it
        extend(folder, new)
        return
    with pytest.raises(FeatureError, match="tokenize again"):
        extend(folder, new)
    (folder / name).unlink()
    with pytest.raises(FeatureError, match="tokenize again"):
        extend(folder, new)


def test_codes_of_another_catalogue(shop: Dataset) -> None:
    make(shop)
    with pytest.raises(FeatureError, match="another catalogue"):
        CodeTable.open(shop.path / "codes" / "residual-kmeans", n_items=61)


def test_wrong_inputs_of_new_items(shop: Dataset) -> None:
    make(shop)
    folder = shop.path / "codes" / "residual-kmeans"
    good = {name: np.array(shop.features(name).vectors[:2]) for name in ("text-small", "image-small")}
    for bad, words in (
        ({"text-small": good["text-small"]}, "give an array for each name"),
        ({**good, "text": good["text-small"]}, "choose one of"),
        ({**good, "text-small": good["text-small"][:, :3]}, r"vectors \(2, 6\)"),
        ({**good, "text-small": good["text-small"] * np.float32(np.nan)}, "NaN"),
    ):
        with pytest.raises(FeatureError, match=words):
            extend(folder, bad)


def test_a_folder_without_manifest_is_no_table(shop: Dataset) -> None:
    make(shop)
    folder = shop.path / "codes" / "residual-kmeans"
    (folder / "manifest.json").unlink()
    assert shop.code_names() == []
    with pytest.raises(FeatureError, match="overwrite"):
        make(shop)
    make(shop, overwrite=True)
    assert shop.code_names() == ["residual-kmeans"]


def test_an_interrupted_write_leaves_the_old_codes(shop: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make(shop)
    monkeypatch.setattr(
        "mmrec.codes.tokenize.write_codes", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        make(shop, seed=1, overwrite=True)
    assert shop.codes("residual-kmeans").hash == table.hash
    assert [path.name for path in (shop.path / "codes").iterdir()] == ["residual-kmeans"]


def test_from_the_command_line(shop: Dataset, mmrec: Command) -> None:
    words = ("tokenize", shop.path, "--features", "text-small", "--levels", 2, "--size", 4)
    outcome = mmrec(*words, "--set", "normalise=false", "--name", "line", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.document["codes"] == "line"
    assert outcome.document["sizes"][:2] == [4, 4]
    assert outcome.document["health"]["items"] == 60
    assert "perplexity" in mmrec(*words).out
    assert mmrec(*words, "--seed", 1).code == 2
    assert "did you mean" in mmrec(*words, "--method", "rqvaa").err
    shutil.rmtree(shop.path / "codes")
