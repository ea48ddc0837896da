"""What a bundle gives is what its run gives, without run and dataset."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch

import mmrec
from mmrec.bundle.bundle import Bundle
from mmrec.bundle.export import export
from mmrec.bundle.inputs import parse_inputs, parse_seen, write_inputs, write_seen
from mmrec.bundle.manifest import INPUT_TENSORS, INPUTS, ITEM_VECTORS, KINDS, SEEN
from mmrec.bundle.model import rebuild
from mmrec.codes.tokenize import tokenize
from mmrec.config import load_config
from mmrec.data.dataset import Dataset
from mmrec.errors import ConfigError, DataError
from mmrec.evaluate import evaluate
from mmrec.models.contracts import contract_of, knows_users, scoring, training_histories
from mmrec.recommend import recommend
from mmrec.registry import MODELS as NAMES
from mmrec.registry import model_class
from mmrec.runs import Run
from mmrec.train import train
from tests.bundle.conftest import MODELS
from tests.learning import SMALL, all_scores, new_model
from tests.learning import train as learn
from tests.small_shop import config_of, copy_shop
from tests.worlds import planted_blocks

ALL_MODELS = [name for name in NAMES if model_class(name).batches != "rows"]  # the others: test_ranker.py
each_model = pytest.mark.parametrize("name", MODELS)
WHO = ["user-0003", "user-0000", "user-0041"]


@each_model
def test_lists_and_scores_are_those_of_the_run(
    name: str, runs: dict[str, Run], folders: dict[str, Path], shop: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = shop.items["item_id"].tolist()[::3]
    options: list[dict[str, Any]] = [
        {"k": 7},
        {"k": 1000},
        {"k": 4, "exclude_seen": False},
        {"k": 5, "allow": some, "deny": some[:4]},
    ]
    expected = [recommend(runs[name], WHO, **chosen) for chosen in options]
    monkeypatch.setattr(Dataset, "__init__", lambda *_, **__: pytest.fail("the dataset was read"))
    monkeypatch.setattr(Run, "__init__", lambda *_, **__: pytest.fail("the run was read"))
    bundle = Bundle(folders[name])
    assert [bundle.recommend(WHO, **chosen) for chosen in options] == expected
    assert bundle.recommend(WHO[1], k=7)[0]["user"] == WHO[1]


def test_each_kind_is_there(folders: dict[str, Path]) -> None:
    assert {Bundle(folder).kind for folder in folders.values()} == set(KINDS)


@each_model
def test_strangers_with_a_users_history_get_what_the_user_gets(name: str, folders: dict[str, Path]) -> None:
    bundle = Bundle(folders[name])
    ids = bundle.items["item_id"].tolist()
    known = [bundle.seen(bundle.user(user)) for user in WHO]
    found = bundle.recommend(histories=[[ids[item] for item in history] for history in known], k=7)
    assert [result["user"] for result in found] == [None] * len(WHO)
    for result, history in zip(found, known, strict=True):
        assert not {ids[item] for item in history} & {entry["item"] for entry in result["items"]}
    if bundle.kind == "vectors":  # an approximation, but not an arbitrary one
        means = np.stack([bundle.item_vectors[history].mean(0) for history in known])
        assert bundle.history_vectors([h.tolist() for h in known]) == pytest.approx(means, rel=1e-5, abs=1e-7)
        best = (means @ bundle.item_vectors.T)[0]
        best[known[0]] = -np.inf
        assert found[0]["items"][0]["item"] == ids[int(best.argmax())]
    else:
        assert [result["items"] for result in found] == [
            result["items"] for result in bundle.recommend(WHO, k=7)
        ]


@pytest.mark.parametrize("name", ["lightgcn", "unisrec"])
def test_inner_products_are_the_scores(name: str, folders: dict[str, Path]) -> None:
    bundle = Bundle(folders[name])
    users = [bundle.user(user) for user in WHO]
    scores = bundle.user_vectors(users) @ bundle.item_vectors.T
    assert bundle.item_vectors.shape == (60, 8)
    for row, result in zip(scores, bundle.recommend(WHO, k=3), strict=True):
        for entry in result["items"]:
            assert row[bundle.item(entry["item"])] == pytest.approx(entry["score"], rel=1e-5)
    assert not bundle.history_vectors([[]]).any()


@pytest.mark.parametrize("name", ["ease", "tiger"])
def test_scores_that_do_not_factor_have_no_vectors(name: str, folders: dict[str, Path]) -> None:
    bundle = Bundle(folders[name])
    for ask in (lambda: bundle.item_vectors, lambda: bundle.user_vectors([0])):
        with pytest.raises(ConfigError, match="use recommend"):
            ask()


def test_what_is_asked_wrongly_is_said(folders: dict[str, Path]) -> None:
    bundle = Bundle(folders["lightgcn"])
    with pytest.raises(DataError, match="'nobody'"):
        bundle.recommend("nobody")
    with pytest.raises(DataError, match="'nothing'"):
        bundle.recommend(histories=[["nothing"]])
    with pytest.raises(DataError, match="history 1 is empty"):
        bundle.recommend(histories=[["item-0001"], []])
    with pytest.raises(ConfigError, match="neither"):
        bundle.recommend(k=3)
    for ask in (bundle.seen, bundle.picture):
        with pytest.raises(DataError, match="numbers from 0"):
            ask(-1)
    with pytest.raises(DataError, match="numbers from 0 to below 60"):
        bundle.history_vectors([[60]])
    with pytest.raises(ConfigError, match="vectors alone"):
        _ = bundle.model


def test_a_model_that_reads_who_the_user_is_has_no_strangers(shop: Dataset, tmp_path: Path) -> None:
    own = copy_shop(shop, tmp_path / "shop")
    graph = {"hidden": (8,), "epochs": 1, "graph_width": 8, "graph_dim": 6, "graph_epochs": 1}
    tokenize(
        own, features=["text-small"], name="graph", method="graph-rqvae", levels=2, size=4, options=graph,
        show_progress=False, allow_collapse=True,
    )  # fmt: skip
    config = config_of(own, "mmgrec", epochs=1, params=SMALL, codes={"items": "graph"})
    run = train(config, run=tmp_path / "run", show_progress=False)
    bundle = Bundle(export(run, tmp_path / "bundle"))  # the tokeniser's vectors came along
    assert bundle.recommend(WHO, k=5) == recommend(run, WHO, k=5)
    with pytest.raises(ConfigError, match="mmgrec reads who the user is"):
        bundle.recommend(histories=[["item-0001"]])


@pytest.mark.parametrize("name", ALL_MODELS)
def test_models_say_whether_they_read_who_the_user_is(name: str) -> None:
    """Else a stranger would get the list of whoever has the id that stands in."""
    data = planted_blocks(n_users=6, n_items=12, dim=4).data
    model = new_model(name, data, **({"relation": True} if name == "mmgrec" else {}))
    if contract_of(model_class(name)) == "retriever" and model.eval().vectors().table is not None:
        return
    if model.batches is None:
        learn(model, data)
    known = data.train.select(np.array([3]))
    ids = np.array([0, 1, 2, 3, 4, 5])
    with torch.no_grad():
        scores = [
            scoring(model, known.select(np.zeros(6, dtype=np.int64)))(np.array([row])).clone() for row in ids
        ]
    same = all(torch.allclose(one, scores[0]) for one in scores)
    assert same != knows_users(model), name


@pytest.mark.parametrize("name", ALL_MODELS)
def test_every_model_is_rebuilt_from_what_a_bundle_keeps(name: str, tmp_path: Path) -> None:
    data = planted_blocks(n_users=6, n_items=12, dim=4, missing=0.3).data
    words = dataclasses.replace(data.features["text"], manifest={"vocabulary": ["a", "b", "c", "d"]})
    data = dataclasses.replace(data, features={"text": words, "image": data.features["image"]})
    model = learn(new_model(name, data), data, epochs=1).model
    known = training_histories(model, data)
    write_seen(tmp_path, known)
    write_inputs(tmp_path, data)
    seen = parse_seen((tmp_path / SEEN).read_bytes(), 6, 12, len(known.items))
    inputs = parse_inputs(*((tmp_path / file).read_bytes() for file in (INPUTS, INPUT_TENSORS)), seen, 12)
    config = load_config({"model": name, "data": "unused", "params": model_params(model)})
    tensors = safetensors.torch.save({key: one.contiguous() for key, one in model.state_dict().items()})
    rebuilt = rebuild(config, inputs, tensors, name)
    assert torch.equal(all_scores(rebuilt, inputs), all_scores(model, data))


def model_params(model: Any) -> dict[str, Any]:
    config = getattr(model, "config", None)
    return {} if config is None else dict(config.model_dump(mode="json"))


def test_histories_come_in_the_order_of_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame({"user_id": np.repeat(["u", "v", "w"], 25), "item_id": [*range(25)] * 3})
    for times in (True, False):
        table = pairs.assign(timestamp=rng.permutation(75)) if times else pairs
        data = mmrec.from_frames(table, to=tmp_path / f"data-{times}")
        train_part = mmrec.split(data, "random").train
        run = train(
            "bpr", data, overrides=["train.epochs=1"], run=tmp_path / f"run-{times}", show_progress=False
        )
        bundle = Bundle(export(run, tmp_path / f"bundle-{times}"))
        assert bundle.manifest.in_time is times
        histories = [bundle.seen(user).tolist() for user in range(3)]
        expected = data.in_time(train_part) if times else train_part
        assert histories == [expected[user].tolist() for user in range(3)]
        assert (histories == [train_part[user].tolist() for user in range(3)]) is not times


def test_the_card_and_the_manifest_say_what_the_run_says(
    runs: dict[str, Run], folders: dict[str, Path], shop: Dataset
) -> None:
    run, card = runs["unisrec"], (folders["unisrec"] / "README.md").read_text()
    valid = json.loads((run.path / "valid.json").read_text())["metrics"]
    manifest = Bundle(folders["unisrec"]).manifest
    assert dict(manifest.evaluations["valid"].metrics) == valid
    assert f"| ndcg@10 | {valid['ndcg@10']:.4f} |" in card
    for told in (shop.hash, run.manifest["config_hash"], "| experts | 2 |", "test split was not opened"):
        assert told in card
    cold = 60 - len(np.unique(shop.split().train.items))
    assert cold > 0
    assert f"{cold} of 60 items have no training interaction" in card
    assert f"{(~shop.modalities()['image']).sum()} items have no image" in card
    everything = "".join(file.read_text() for file in folders["unisrec"].rglob("*.[jm][sd]*"))
    assert str(shop.path) not in everything
    assert str(run.path) not in everything


def test_a_test_that_was_opened_is_on_the_card(own_run: Run, tmp_path: Path) -> None:
    measured = evaluate(own_run)["metrics"]
    bundle = Bundle(export(own_run, tmp_path / "bundle"))
    assert dict(bundle.manifest.evaluations["test"].metrics) == measured
    card = (bundle.path / "README.md").read_text()
    assert f" {measured['recall@10']:.4f} |" in card
    assert f"opened 1 time, first on {own_run.manifest['test_opened'][0]['when']}" in card


def test_attributes_and_titles_of_items_come_along_those_of_users_do_not(
    folders: dict[str, Path], shop: Dataset
) -> None:
    bundle = Bundle(folders["ease"])
    assert bundle.items.astype(str).equals(shop.items.astype(str))
    assert dict(zip(bundle.items["item_id"], bundle.titles, strict=True)) == shop.titles()
    assert list(bundle.users) == ["user_id"]
    assert [bundle.item(name) for name in shop.items["item_id"]] == list(range(60))


@pytest.mark.parametrize("how", ["copy", "link"])
def test_pictures(how: Any, runs: dict[str, Run], shop: Dataset, tmp_path: Path) -> None:
    folder = export(runs["lightgcn"], tmp_path / "bundle", images=how)
    bundle = Bundle(folder)
    names = shop.items["image"]
    for item, name in enumerate(names):
        found = bundle.picture(item)
        if not isinstance(name, str):
            assert found is None
        else:
            assert found == ((shop.images / name).read_bytes(), "image/png")
            assert (folder / "images" / name).stat().st_nlink == (2 if how == "link" else 1)
    assert bundle.manifest.pictures is not None
    assert bundle.manifest.pictures.files == names.nunique()


def test_bundles_come_without_pictures_unless_asked(folders: dict[str, Path]) -> None:
    bundle = Bundle(folders["lightgcn"])
    assert not (bundle.path / "images").exists()
    assert bundle.picture(0) is None


def test_vectors_and_ids_alone(runs: dict[str, Run], folders: dict[str, Path], tmp_path: Path) -> None:
    import pandas as pd

    bundle, run = Bundle(folders["lightgcn"]), runs["lightgcn"]
    users = bundle.user_vectors(range(150))  # type: ignore[arg-type]
    wanted = {
        "item": (bundle.items["item_id"], bundle.item_vectors),
        "user": (bundle.users["user_id"], users),
    }
    plain = export(run, tmp_path / "npy", format="npy")
    table = export(run, tmp_path / "parquet", format="parquet")
    for name, (ids, vectors) in wanted.items():
        assert np.array_equal(np.load(plain / f"{name}_vectors.npy", allow_pickle=False), vectors)
        assert json.loads((plain / f"{name}_ids.json").read_text()) == ids.tolist()
        frame = pd.read_parquet(table / f"{name}s.parquet")
        assert frame[f"{name}_id"].tolist() == ids.tolist()
        assert np.array_equal(np.stack(frame["vector"]), vectors)
    assert json.loads((plain / "vectors.json").read_text())["metric"] == "inner product"
    of_items = export(runs["unisrec"], tmp_path / "sequence", format="npy")
    assert not (of_items / "user_ids.json").exists()
    with pytest.raises(ConfigError, match="a model with vectors"):
        export(runs["ease"], tmp_path / "ease", format="npy")


def test_lance_tables(runs: dict[str, Run], folders: dict[str, Path], tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    folder = export(runs["lightgcn"], tmp_path / "lance", format="lance")
    frame = lancedb.connect(str(folder)).open_table("items").to_pandas()
    bundle = Bundle(folders["lightgcn"])
    assert frame["item_id"].tolist() == bundle.items["item_id"].tolist()
    assert np.array_equal(np.stack(frame["vector"]), bundle.item_vectors)


def test_a_missing_extra_says_how_to_install_it(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(ConfigError, match=r"mmrec\[lance\]"):
        export(runs["lightgcn"], tmp_path / "lance", format="lance")
    assert not list(tmp_path.iterdir())


def test_the_command(mmrec: Any, runs: dict[str, Run], tmp_path: Path) -> None:
    done = mmrec("export", runs["lightgcn"].path, "--to", tmp_path / "bundle", "--json")
    assert done.code == 0, done.err
    size = sum(file.stat().st_size for file in (tmp_path / "bundle").iterdir() if file.is_file())
    config = (tmp_path / "bundle" / "model" / "config.json").stat().st_size
    assert done.document == {
        "bundle": str(tmp_path / "bundle"), "kind": "vectors", "model": "lightgcn", "users": 150, "items": 60,
        "bytes": size + config,
    }  # fmt: skip
    assert (tmp_path / "bundle" / ITEM_VECTORS).stat().st_size == pytest.approx(60 * 8 * 4, abs=200)
    again = mmrec("export", runs["lightgcn"].path, "--to", tmp_path / "bundle")
    assert again.code == 2
    assert "--overwrite" in again.err
