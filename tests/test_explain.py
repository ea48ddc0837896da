"""Explanations of a run in words, through the command line and from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import mmrec as library
from mmrec.data.dataset import Dataset
from mmrec.errors import ConfigError, DataError
from mmrec.explain import explain
from mmrec.models.contracts import Users
from mmrec.recommend import recommend
from mmrec.runs import Run
from tests.command_line import Command, make_command
from tests.small_shop import config_of, copy_shop, write_config

USERS = ["user-0003", "user-0000"]


@pytest.fixture(scope="module")
def shop(small_shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The shop with readable words."""
    copy = copy_shop(small_shop, tmp_path_factory.mktemp("explain") / "shop")
    library.encode(copy, encoder="words", name="text-words", show_progress=False)
    return copy


@pytest.fixture(scope="module")
def run(shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of DGVAE on it."""
    config = config_of(shop, "dgvae", features={"text": "text-words", "image": "image-small"}, epochs=3)
    return library.train(config, run=tmp_path_factory.mktemp("explain") / "run", show_progress=False)


def items_of(explanation: dict[str, Any], part: str) -> list[str]:
    return [entry["item"] for factor in explanation["factors"] for entry in factor[part]]


def test_every_item_stands_with_the_factor_of_its_largest_share(run: Run, shop: Dataset) -> None:
    split = shop.split()
    model = run.model(run.training_data(shop, split))
    for user, explanation in zip(USERS, explain(run, USERS, 7, words=4), strict=True):
        assert explanation["user"] == user
        internal = shop.user(user)
        with torch.no_grad():
            found = model.explain(Users.of(split.train, np.array([internal])))
            scores = model.scores(Users.of(split.train, np.array([internal])))[0]
        assert torch.allclose(found.shares.sum(1), torch.ones(1, shop.n_items))
        assert found.words.sum().item() == pytest.approx(1, abs=1e-4)
        weights = [factor["weight"] for factor in explanation["factors"]]
        assert sorted(weights, reverse=True) == weights
        assert sum(weights) == pytest.approx(1)
        for factor in explanation["factors"]:
            shares = found.shares[0, factor["factor"]]
            for entry in factor["recommended"] + factor["history"]:
                item = shop.item(entry["item"])
                assert entry["share"] == pytest.approx(shares[item].item(), abs=1e-5)
                assert found.shares[0, :, item].argmax() == factor["factor"]
            for entry in factor["recommended"]:
                assert entry["score"] == pytest.approx(scores[shop.item(entry["item"])].item(), abs=1e-4)
            weights_of_words = found.words[0, factor["factor"]]
            best = [
                c for c in weights_of_words.topk(4).indices if weights_of_words[c] > 1 / found.words.numel()
            ]
            assert [entry["word"] for entry in factor["words"]] == [found.vocabulary[c] for c in best]


def test_recommendations_and_history_are_all_there(run: Run, shop: Dataset) -> None:
    lists = recommend(run, USERS, 7)
    for user, explanation, recommended in zip(USERS, explain(run, USERS, 7), lists, strict=True):
        wanted = [entry["item"] for entry in recommended["items"]]
        assert sorted(items_of(explanation, "recommended")) == sorted(wanted)
        for factor in explanation["factors"]:  # the best ones first
            places = [wanted.index(entry["item"]) for entry in factor["recommended"]]
            assert places == sorted(places)
        history = shop.items["item_id"].to_numpy()[shop.split().train[shop.user(user)]]
        assert sorted(items_of(explanation, "history")) == sorted(history)


def test_command(mmrec: Command, shop: Dataset, run: Run, tmp_path: Path) -> None:
    document = mmrec("explain", run.path, "--user", USERS[0], "-k", 3, "--words", 2, "--json").document
    [expected] = explain(run, USERS[0], 3, words=2)
    assert document == expected
    vocabulary = set(shop.features("text-words").vocabulary or [])
    words = [entry["word"] for factor in document["factors"] for entry in factor["words"]]
    assert set(words) <= vocabulary
    text = mmrec("explain", run.path, "--user", USERS[0], "-k", 3, "--words", 2).out
    assert text.startswith(f"user {USERS[0]}\n")
    for item in items_of(document, "recommended") + items_of(document, "history"):
        assert item in text
        assert shop.titles()[item] in text
    assert all(word in text for word in words)
    several = mmrec("explain", run.path, "--user", USERS[0], "--user", USERS[1], "--json").document
    assert [explanation["user"] for explanation in several] == USERS
    moved = copy_shop(shop, tmp_path / "moved")
    again = mmrec(
        "explain", run.path, "--user", USERS[0], "-k", 3, "--words", 2, "--data", moved.path, "--json"
    )
    assert again.document == document


def test_models_that_cannot_explain_are_refused(mmrec: Command, small_run: Run) -> None:
    outcome = mmrec("explain", small_run.path, "--user", USERS[0])
    assert (outcome.code, outcome.out) == (2, "")
    assert "ConfigError" in outcome.err
    assert "bpr" in outcome.err
    assert "train one that does: dgvae" in outcome.err


def test_features_without_words_cannot_be_read(mmrec: Command, small_shop: Dataset, tmp_path: Path) -> None:
    document = config_of(small_shop, "dgvae", features={"text": "text-small"}, epochs=1)
    config = write_config(tmp_path / "config.yaml", document)
    assert mmrec("train", config, "--run", tmp_path / "run").code == 0
    outcome = mmrec("explain", tmp_path / "run", "--user", USERS[0])
    assert outcome.code == 2
    assert "text-small" in outcome.err
    assert "--encoder words --name text-words" in outcome.err


def test_wrong_users_and_numbers_are_refused(run: Run) -> None:
    with pytest.raises(DataError, match="'nobody'"):
        explain(run, "nobody")
    with pytest.raises(ConfigError, match="words >= 1"):
        explain(run, USERS, words=0)
    with pytest.raises(ConfigError, match="k >= 1"):
        explain(run, USERS, k=0)
    assert explain(run, []) == []


def test_words_tell_two_tastes_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two groups of users, two groups of items with words of their own: a user's words are those of the group."""
    rows = [(f"u{u}", f"i{i}") for u in range(40) for i in range(16) if u % 2 == i % 2 and i != u % 16]
    groups = (("apple", "pear", "plum"), ("hammer", "drill", "saw"))
    items = pd.DataFrame({"item_id": [f"i{i}" for i in range(16)]})
    items["title"] = [f"{groups[i % 2][i % 3]} {groups[i % 2][(i + 1) % 3]}" for i in range(16)]
    pairs = pd.DataFrame(rows, columns=["user_id", "item_id"])
    data = library.from_frames(pairs, items, to=tmp_path / "data", kinds={"title": "text"})
    library.split(data, "leave-one-out")
    command = make_command(monkeypatch, capsys)
    assert command("encode", data.path, "--encoder", "words", "--name", "text-words").code == 0
    trained = command(
        "train", "dgvae", "--data", data.path, "--features", "text=text-words", "--run", tmp_path / "run",
        *(f"--set={option}" for option in (
            "train.epochs=30", "train.eval_every=30", "train.lr=0.02", "train.monitor=recall@3", "evaluate.ks=[3]", "params.knn_k=3",
        )),
    )  # fmt: skip
    assert trained.code == 0, trained.err
    for user in range(4):
        explanation = command(
            "explain", tmp_path / "run", "--user", f"u{user}", "-k", 1, "--words", 2, "--json"
        )
        heaviest = explanation.document["factors"][0]
        words = {entry["word"] for entry in heaviest["words"]}
        assert words
        assert words <= set(groups[user % 2])
