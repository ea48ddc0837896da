"""A ranker in a bundle scores what its run scores, without rows and dataset, and is refused when it is damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
import torch

from mmrec.bundle.bundle import Bundle
from mmrec.bundle.export import export
from mmrec.bundle.manifest import (
    RANKER_CALIBRATION,
    RANKER_CHECKPOINT,
    RANKER_CONFIG,
    RANKER_HISTORIES,
    RANKER_INPUT_TENSORS,
    RANKER_INPUTS,
)
from mmrec.calibrate import Calibration
from mmrec.codes.table import write_codes
from mmrec.data.dataset import Dataset
from mmrec.data.rows.catalogue import rows_from_dataset
from mmrec.data.rows.dataset import RowDataset
from mmrec.data.rows.parts import to_rows
from mmrec.data.split import split
from mmrec.errors import BundleError, ConfigError, DataError, NotFittedError
from mmrec.models.contracts import scoring, training_histories
from mmrec.rank import rank
from mmrec.rerank import Reranker
from mmrec.runs import Run
from mmrec.train import train
from tests.bundle.test_faults import change, refused, seal
from tests.tastes import N_ITEMS, N_USERS, make_rated_tastes, make_tastes, ranker_config

# By name: the world, and the model on it. ``rated`` has ratings and attributes of users, ``plain`` drawn negatives.
RANKERS = {"din": "plain", "fm": "plain", "qin": "plain", "din-rated": "rated", "fm-codes": "bare"}
each_ranker = pytest.mark.parametrize("name", RANKERS)
EVERYBODY, EVERYTHING = np.repeat(np.arange(N_USERS), N_ITEMS), np.tile(np.arange(N_ITEMS), N_USERS)


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("shops")
    plain, rated = make_tastes(folder / "plain"), make_rated_tastes(folder / "rated")
    codes = np.stack([np.arange(N_ITEMS) % 2, np.arange(N_ITEMS) // 2], 1).astype(np.int32)
    write_codes(plain.path / "codes" / "halves", codes, (2, N_ITEMS // 2), {"method": "test"})
    return {"plain": plain, "rated": rated, "bare": plain}


@pytest.fixture(scope="module")
def rows(shops: dict[str, Dataset], tmp_path_factory: pytest.TempPathFactory) -> dict[str, RowDataset]:
    folder = tmp_path_factory.mktemp("rows")
    options: dict[str, dict[str, Any]] = {
        "plain": {"negatives": 3, "history": 8},
        "rated": {"label": "rating >= 4", "history": 4},
        "bare": {"negatives": 1, "history": 0},
    }
    return {
        name: rows_from_dataset(shops[name], folder / name, show_progress=False, **own)
        for name, own in options.items()
    }


@pytest.fixture(scope="module")
def firsts(shops: dict[str, Dataset], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("first")
    return {
        name: train({"model": "ease", "data": str(shops[name].path)}, run=folder / name, show_progress=False)
        for name in ("plain", "rated")
    } | {"bare": Run(folder / "plain")}


@pytest.fixture(scope="module")
def rankers(rows: dict[str, RowDataset], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("rankers")
    runs = {}
    for name, world in RANKERS.items():
        config = ranker_config(rows[world], name.partition("-")[0], epochs=2)
        config |= {"codes": {"items": "halves"}} if name == "fm-codes" else {}
        runs[name] = train(config, run=folder / name, show_progress=False)
    return runs


@pytest.fixture(scope="module")
def bundles(
    firsts: dict[str, Run], rankers: dict[str, Run], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        name: export(firsts[world], folder / name, ranker=rankers[name]) for name, world in RANKERS.items()
    }


@pytest.fixture(scope="module")
def twins(shops: dict[str, Dataset], rankers: dict[str, Run]) -> dict[str, Reranker]:
    """The rankers as the command ``mmrec evaluate --rerank`` has them."""
    return {
        name: Reranker(rankers[name], shops[world], shops[world].split()) for name, world in RANKERS.items()
    }


def ranker_of(folder: Path) -> Any:
    ranker = Bundle(folder).ranker()
    assert ranker is not None
    return ranker


@each_ranker
def test_logits_are_those_of_the_run(
    name: str,
    bundles: dict[str, Path],
    twins: dict[str, Reranker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    twin = twins[name]
    histories = twin.histories(twin.dataset.split().train)
    expected = twin.logits(EVERYBODY, EVERYTHING, histories).numpy()
    calibration = Calibration.load(twin.run.path)
    for kind in (Dataset, RowDataset, Run):
        monkeypatch.setattr(kind, "__init__", lambda *_, **__: pytest.fail("more than the bundle was read"))
    bundle = Bundle(bundles[name])
    ranker = bundle.ranker()
    assert ranker is not None and ranker is bundle.ranker()
    assert np.abs(ranker.logits(EVERYBODY, EVERYTHING) - expected).max() <= 1e-6
    assert expected.std() > 0.01
    assert ranker.probabilities(EVERYBODY, EVERYTHING) == pytest.approx(
        calibration.probabilities(expected), abs=1e-6
    )
    one = ranker.logits([7], np.arange(N_ITEMS))
    assert one == pytest.approx(expected.reshape(N_USERS, N_ITEMS)[7], rel=1e-6, abs=1e-6)


def test_the_histories_are_those_of_rows(
    bundles: dict[str, Path], rows: dict[str, RowDataset], shops: dict[str, Dataset]
) -> None:
    """Only what a user liked in training, in its order."""
    shop = shops["rated"]
    table = shop.interactions[shop.split_labels() == 0].sort_values("timestamp", kind="stable")
    tensors = safetensors.numpy.load_file(bundles["din-rated"] / RANKER_HISTORIES)
    assert ranker_of(bundles["din-rated"]).entry.history == "positives"
    found = np.split(tensors["items"], tensors["offsets"][1:-1])
    liked = [
        table["item"][(table["user"] == user) & (table["rating"] >= 4)].tolist() for user in range(N_USERS)
    ]
    assert [own.tolist() for own in found] == liked
    assert 0 < sum(map(len, liked)) < len(table)
    assert not (bundles["fm-codes"] / RANKER_HISTORIES).exists()


def test_strangers_are_encoded_as_rows_of_users_that_training_does_not_have(
    bundles: dict[str, Path], twins: dict[str, Reranker]
) -> None:
    twin, ranker = twins["din-rated"], ranker_of(bundles["din-rated"])
    known, encoder = [3, 5, 7, 9, 11], twin.rows.encoder
    nothing = pa.array([None] * N_ITEMS, pa.string())
    raw = {
        "user_id": pa.array(["who is this"] * N_ITEMS),
        **dict.fromkeys(("city", "likes", "age"), nothing),
        "item_id": pa.array(np.arange(N_ITEMS) + 1),
        "history": pa.array([[item + 1 for item in known]] * N_ITEMS),
    }
    encoded = encoder.encode(pa.table(raw), encoder.schema.fields, "a row")
    encoded["label"] = pa.array(np.zeros(N_ITEMS, dtype=np.int8))
    with torch.no_grad():
        expected = twin.model.score(to_rows(pa.table(encoded)).take(np.arange(N_ITEMS))).numpy()
    items = np.arange(N_ITEMS)
    assert ranker.logits(None, items, histories=[known]) == pytest.approx(expected, abs=1e-6)
    each = ranker.logits(None, [0, 1], histories=[known, [2]])
    assert each[0] == pytest.approx(expected[0], abs=1e-6)
    assert each[1] == pytest.approx(ranker.logits(None, [1], histories=[[2]])[0], abs=1e-6)
    assert np.isfinite(ranker.logits(None, items, histories=[[]])).all()
    known_to_fm = ranker_of(bundles["fm-codes"])  # reads no histories
    assert np.array_equal(*(known_to_fm.logits(None, items, histories=[one]) for one in ([], known)))


@pytest.mark.parametrize("name", ["din-rated", "qin"])
def test_lists_of_two_stages_are_those_of_the_reranker(
    name: str, bundles: dict[str, Path], twins: dict[str, Reranker], firsts: dict[str, Run]
) -> None:
    twin, first, bundle = twins[name], firsts[RANKERS[name]], Bundle(bundles[name])
    dataset, parts = twin.dataset, twin.dataset.split()
    data = first.training_data(dataset, parts)
    model = first.model(data)
    score = scoring(model, training_histories(model, data))
    both = twin.over(score, 12, histories=twin.histories(parts.train), exclude=parts.train)
    users = np.arange(N_USERS)
    expected = rank(both, users, N_ITEMS, 10, exclude=parts.train)
    names, ids = dataset.users["user_id"].tolist(), dataset.items["item_id"].tolist()
    found = bundle.recommend(names, k=10, rerank=True, candidates=12)
    assert [[entry["item"] for entry in one["items"]] for one in found] == [
        [ids[item] for item in own] for own in expected.items
    ]
    probabilities = Calibration.load(twin.run.path).probabilities(expected.scores)
    scores = np.array([[entry["score"] for entry in one["items"]] for one in found])
    assert scores == pytest.approx(probabilities, abs=1e-6)
    alone = bundle.recommend(names, k=10)
    assert found != alone

    # a stranger, and the candidates are among the permitted items
    allow, history = ids[1::3], ids[:3]  # of both tastes
    options: dict[str, Any] = {"histories": [history], "allow": allow, "deny": ids[4:6]}
    (candidates,) = bundle.recommend(k=9, **options)
    (again,) = bundle.recommend(k=5, rerank=True, candidates=9, **options)
    rows = [bundle.item(entry["item"]) for entry in candidates["items"]]
    ranker = bundle.ranker()
    assert ranker is not None
    logits = ranker.logits(None, rows, histories=[[0, 1, 2]])
    best = [ids[rows[place]] for place in np.argsort(-logits, kind="stable")[:5]]
    assert [entry["item"] for entry in again["items"]] == best


def test_what_is_asked_wrongly_is_said(
    bundles: dict[str, Path], firsts: dict[str, Run], tmp_path: Path
) -> None:
    bundle, ranker = Bundle(bundles["din"]), ranker_of(bundles["din"])
    for users, items, histories, reason in (
        ([N_USERS], [0], None, "users, numbers from 0"),
        ([0], [N_ITEMS], None, "items, numbers from 0"),
        (None, [0], [[-1]], "items, numbers from 0"),
        ([0, 1], [0, 1, 2], None, "one user or history, or one for each of 3 items"),
    ):
        with pytest.raises(DataError, match=reason):
            ranker.logits(users, items, histories=histories)
    for users, histories in ((None, None), ([0], [[0]])):
        with pytest.raises(ConfigError, match="users or histories"):
            ranker.probabilities(users, [0], histories=histories)
    with pytest.raises(ConfigError, match="at least 10 candidates"):
        bundle.recommend(bundle.users["user_id"][0], k=10, rerank=True, candidates=9)
    without = Bundle(export(firsts["plain"], tmp_path / "without"))
    assert without.ranker() is None
    with pytest.raises(ConfigError, match="a bundle with a ranker"):
        without.recommend(bundle.users["user_id"][0], rerank=True)


def test_rows_of_qin_are_merged(bundles: dict[str, Path], twins: dict[str, Reranker]) -> None:
    entry = ranker_of(bundles["qin"]).entry
    assert entry.merge_error is not None and entry.merge_error <= 1e-5
    assert twins["qin"].model.layers[0].rows.weight.shape[0] == 4
    tensors = safetensors.numpy.load_file(bundles["qin"] / RANKER_CHECKPOINT)
    assert {len(own) for name, own in tensors.items() if name.endswith("rows.weight")} == {1}
    assert "merged into one" in (bundles["qin"] / "README.md").read_text()
    assert ranker_of(bundles["din"]).entry.merge_error is None


def test_card_and_manifest_say_what_the_run_says(bundles: dict[str, Path], rankers: dict[str, Run]) -> None:
    folder, run = bundles["din-rated"], rankers["din-rated"]
    entry, card = ranker_of(folder).entry, (folder / "README.md").read_text()
    valid = json.loads((run.path / "valid.json").read_text())
    assert dict(entry.evaluations["valid"].metrics) == valid["metrics"]
    assert entry.evaluations["valid"].n_rows == valid["n_rows"]
    assert entry.calibration == Calibration.load(run.path).kind
    for told in (
        f"| auc | {valid['metrics']['auc']:.4f} |",
        "`rating >= 4`",
        "a history of positive items",
        run.manifest["dataset"]["hash"],
        "calibrated on validation rows" if entry.calibration == "platt" else "uncalibrated",
        "rerank=True",
    ):
        assert told in card
    told = "".join(file.read_text() for file in folder.rglob("*.[jm][sd]*"))
    assert str(run.path) not in told
    assert run.manifest["dataset"]["path"] not in told


# --- What is not exported


def test_only_a_finished_ranker_of_this_split_goes_along(
    shops: dict[str, Dataset],
    rows: dict[str, RowDataset],
    firsts: dict[str, Run],
    rankers: dict[str, Run],
    tmp_path: Path,
) -> None:
    shutil.copytree(shops["plain"].path, tmp_path / "shop")
    moved = Dataset(tmp_path / "shop")
    split(moved, "random-rows", seed=5, overwrite=True)
    config = {"model": "ease", "data": str(moved.path)}
    other = train(config, run=tmp_path / "other", show_progress=False)
    own = Run(shutil.copytree(rankers["din"].path, tmp_path / "din"))
    file = own.checkpoint()
    blind = train(
        {**ranker_config(rows["plain"], "lr", epochs=1), "histories": "none"},
        run=tmp_path / "blind",
        show_progress=False,
    )
    cases: list[tuple[Run, Run, type[Exception], str]] = [
        (other, rankers["din"], DataError, "made from another split"),
        (firsts["rated"], rankers["din"], DataError, "made from other data"),
        (firsts["plain"], firsts["plain"], ConfigError, "which scores no rows"),
        (firsts["plain"], blind, ConfigError, "the real histories"),
    ]
    for first, ranker, error, reason in cases:
        with pytest.raises(error, match=reason):
            export(first, tmp_path / "bundle", ranker=ranker)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(NotFittedError, match="as it was written"):
        export(firsts["plain"], tmp_path / "bundle", ranker=own)
    own.update(status="started")
    with pytest.raises(NotFittedError, match="--resume"):
        export(firsts["plain"], tmp_path / "bundle", ranker=own)
    assert not (tmp_path / "bundle").exists()


# --- Damage with true hashes


@pytest.fixture
def rated(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a bundle to alter."""
    return Path(shutil.copytree(bundles["din-rated"], tmp_path / "rated"))


def alter_json(folder: Path, name: str, alter: Callable[[Any], object]) -> None:
    document = json.loads((folder / name).read_text())
    alter(document)
    (folder / name).write_text(json.dumps(document))
    seal(folder, name)


def alter_tensors(folder: Path, name: str, alter: Callable[[dict[str, Any]], object]) -> None:
    tensors = {key: np.array(own) for key, own in safetensors.numpy.load_file(folder / name).items()}
    alter(tensors)
    (folder / name).write_bytes(safetensors.numpy.save(tensors))
    seal(folder, name)


def refuses(folder: Path, reason: str) -> None:
    bundle = Bundle(folder)  # the first stage is whole
    with pytest.raises(BundleError, match=reason):
        bundle.ranker()


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda m: m["fields"][0].update(size=20), "ids below 20 in users/values/user_id"),
        (lambda m: m["fields"][3].update(size=2), "numbers below 2 in users/values/likes"),
        (lambda m: m["item_fields"][0].update(size=4), "ids below 4 in items/values/price"),
        (lambda m: m["fields"][4].update(size=43), "ids of at most 40 items"),
        (lambda m: m["fields"][4].update(size=30), r"text/vectors: float32 \(28"),
        (lambda m: m["fields"][0].update(size=2**40), "less than"),
        (lambda m: m["fields"][0].update(kind="number"), "62 ids of the number"),
        (lambda m: m["fields"][0].update(size=90), "tensors of DIN"),
        (lambda m: m["fields"].pop(2), "tensors of DIN"),
        (lambda m: m.update(item="nothing"), "no categories"),
        (lambda m: m.update(history=None), "the history of the manifest"),
        (lambda m: m["history"].update(length=0), "greater than or equal to 1"),
        (lambda m: m["fields"][1].update(name="city"), "given twice"),
        (lambda m: m["tables"]["features"][0].update(dim=3), r"text/vectors: float32 \(40, 3\)"),
        (lambda m: m.update(extra=1), "extra"),
    ],
)
def test_a_truncated_vocabulary_and_other_fields(rated: Path, alter: Any, reason: str) -> None:
    alter_json(rated, RANKER_INPUTS, alter)
    refuses(rated, reason)


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda t: t["users/offsets/likes"].__setitem__(-1, 10**9), "rows that lead elsewhere"),
        (lambda t: t["users/offsets/likes"].__setitem__(3, 80), "rows that lead elsewhere"),
        (lambda t: t["users/values/likes"].__setitem__(0, -1), "rows that lead elsewhere"),
        (lambda t: t["users/values/city"].__setitem__(0, -1), "ids below 7 in users/values/city"),
        (lambda t: t.update({"users/values/city": t["users/values/city"][:-1]}), r"int32 \(61\)"),
        (lambda t: t.update({"users/values/city": t["users/values/city"].astype(np.int64)}), "int64"),
        (lambda t: t["items/rows"].__setitem__(5, 40), "rows below 40 in items/rows"),
        (lambda t: t["items/values/price"].__setitem__(-1, 1), "nothing in the first and the last row"),
        (lambda t: t["items/values/tags"].__setitem__((3, 0), 99), "ids below 4"),
        (lambda t: t.pop("items/values/tags"), "items/values/tags: int32"),
    ],
)
def test_columns_that_lead_out(rated: Path, alter: Any, reason: str) -> None:
    alter_tensors(rated, RANKER_INPUT_TENSORS, alter)
    refuses(rated, reason)


def test_other_files_of_a_ranker(rated: Path) -> None:
    alter_tensors(rated, RANKER_HISTORIES, lambda t: t["items"].__setitem__(0, N_ITEMS))
    refuses(rated, f"rows of numbers below {N_ITEMS} in {RANKER_HISTORIES}")
    alter_tensors(rated, RANKER_HISTORIES, lambda t: t["items"].__setitem__(0, 0))
    alter_json(rated, RANKER_CALIBRATION, lambda m: m.update(scale=-1.0))
    refuses(rated, "a scale above 0")
    (rated / RANKER_CALIBRATION).write_text('{"kind": "platt", "scale": 1' + "0" * 400 + ', "offset": 0}')
    seal(rated, RANKER_CALIBRATION)
    refuses(rated, "a scale above 0")
    alter_json(rated, RANKER_CALIBRATION, lambda m: m.update(scale=1.0))
    alter_json(rated, RANKER_CONFIG, lambda m: m.update(model="ease", params={}))
    refused(rated, "the model 'din' of the manifest")
    change(rated, lambda manifest: manifest["ranker"].update(model="ease"))
    refuses(rated, "a model that scores rows")
    alter_json(rated, RANKER_CONFIG, lambda m: m.update(model="strangers_module:Stranger"))
    change(rated, lambda manifest: manifest["ranker"].update(model="strangers_module:Stranger"))
    refused(rated, "to load it is to run the code")
    change(rated, lambda manifest: manifest["files"].pop(RANKER_HISTORIES))
    refused(rated, f"no {RANKER_HISTORIES}")
