"""Evaluation against a plain-Python twin, and the rules about what may be looked at."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import mmrec.models.contracts
from mmrec.data.dataset import Dataset, Split
from mmrec.data.histories import Histories, Ids
from mmrec.data.split_files import write_split
from mmrec.errors import ConfigError, DataError, NotFittedError
from mmrec.evaluate import evaluate, evaluated_users, rank_and_measure
from mmrec.models.contracts import scoring
from mmrec.runs import Run
from mmrec.train import train
from tests.small_shop import config_of, copy_shop, seal_test
from tests.worlds import write_dataset

Lists = dict[int, list[int]]
KS = (5, 10)


# --- the twin ----------------------------------------------------------------------------------------------------


def scores_of(run: Run, dataset: Dataset, parts: Split) -> dict[int, list[float]]:
    """All scores of all users as Python numbers."""
    score = scoring(run.model(run.training_data(dataset, parts)), parts.train)
    return dict(enumerate(score(np.arange(dataset.n_users)).tolist()))


def rank_plainly(
    scores: dict[int, list[float]], parts: Split, held: Histories, hidden: list[Histories]
) -> Lists:
    lists = {}
    for user, own in scores.items():
        if len(held[user]) and len(parts.train[user]):
            closed = {item for histories in hidden for item in histories[user].tolist()}
            allowed = [item for item in range(len(own)) if item not in closed]
            lists[user] = sorted(allowed, key=lambda item: (-own[item], item))[: max(KS)]
    return lists


def measure_plainly(ranked: list[int], held: set[int], k: int) -> dict[str, float]:
    """The formulas of the protocol, literally."""
    hits = [item in held for item in ranked[:k]]
    best = min(k, len(held))
    return {
        f"recall@{k}": sum(hits) / len(held),
        f"precision@{k}": sum(hits) / k,
        f"hit@{k}": float(any(hits)),
        f"mrr@{k}": 1 / (hits.index(True) + 1) if any(hits) else 0.0,
        f"map@{k}": sum(sum(hits[: j + 1]) / (j + 1) for j in range(len(hits)) if hits[j]) / best,
        f"ndcg@{k}": sum(1 / math.log2(j + 2) for j in range(len(hits)) if hits[j])
        / sum(1 / math.log2(j + 2) for j in range(best)),
    }


def mean_plainly(lists: Lists, held: dict[int, set[int]]) -> dict[str, float]:
    rows = [
        {name: value for k in KS for name, value in measure_plainly(lists[user], held[user], k).items()}
        for user in lists
        if held[user]
    ]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def catalogue_plainly(lists: Lists, parts: Split, n_items: int, k: int) -> dict[str, float]:
    sizes = [0] * n_items
    for item in parts.train.items.tolist():
        sizes[item] += 1
    n_users = sum(1 for user in range(parts.train.n_users) if len(parts.train[user]))
    shown = [item for ranked in lists.values() for item in ranked[:k]]
    counts = sorted(shown.count(item) for item in range(n_items))
    gini = sum((2 * i - n_items - 1) * count for i, count in enumerate(counts, 1)) / (n_items * len(shown))
    return {
        f"coverage@{k}": len(set(shown)) / n_items,
        f"gini@{k}": gini,
        f"novelty@{k}": sum(-math.log2(max(sizes[item], 1) / n_users) for item in shown) / len(shown),
        f"popularity@{k}": sum(sizes[item] for item in shown) / len(shown),
    }


def held_sets(held: Histories, inside: set[int] | None = None) -> dict[int, set[int]]:
    return {
        user: {item for item in held[user].tolist() if inside is None or item in inside}
        for user in range(held.n_users)
    }


@pytest.mark.parametrize(
    ("split", "mask"), [("valid", None), ("test", None), ("test", "train"), ("test", "train+valid")]
)
def test_equals_plain_python(own_run: Run, small_shop: Dataset, split: str, mask: str | None) -> None:
    document = evaluate(own_run, split, mask=mask)
    parts = small_shop.split()
    held = parts.valid if split == "valid" else parts.test
    hidden = [parts.train, parts.valid] if mask == "train+valid" else [parts.train]
    lists = rank_plainly(scores_of(own_run, small_shop, parts), parts, held, hidden)
    expected = mean_plainly(lists, held_sets(held))
    for k in KS:
        expected |= catalogue_plainly(lists, parts, small_shop.n_items, k)
    assert document["n_users"] == len(lists) > 100
    assert document["metrics"].keys() == expected.keys()
    assert document["metrics"] == pytest.approx(expected, abs=1e-12)
    assert document["protocol"]["mask"] == (mask or "train")

    warm = set(parts.train.items.tolist())
    slices = {"items: cold": set(range(small_shop.n_items)) - warm}
    for modality, present in small_shop.modalities().items():
        slices[f"items: without {modality}"] = set(np.flatnonzero(~present).tolist())
    for name, inside in slices.items():
        of_slice = held_sets(held, inside)
        expected_users = [user for user in lists if of_slice[user]]
        assert document["slices"][name]["n_users"] == len(expected_users) > 0, name
        assert document["slices"][name]["metrics"] == pytest.approx(mean_plainly(lists, of_slice), abs=1e-12)


def test_user_slices_part_the_users_by_history(own_run: Run, small_shop: Dataset) -> None:
    document = evaluate(own_run, "valid")
    slices = {name: part for name, part in document["slices"].items() if name.startswith("users:")}
    assert len(slices) == 3
    assert sum(part["n_users"] for part in slices.values()) == document["n_users"]
    weighted = sum(part["n_users"] * part["metrics"]["recall@5"] for part in slices.values())
    assert weighted / document["n_users"] == pytest.approx(document["metrics"]["recall@5"])
    name = next(name for name in slices if name.startswith("users: up to"))
    limit, parts = int(name.split()[3]), small_shop.split()
    short = [u for u in evaluated_users(parts.train, parts.valid) if len(parts.train[u]) <= limit]
    assert slices[name]["n_users"] == len(short)


# --- properties of the protocol ----------------------------------------------------------------------------------


def favour(histories: Histories, n_items: int) -> Callable[[Ids], Tensor]:
    """Scores +inf for the given items of each user; the others count down."""

    def score(users: Ids) -> Tensor:
        scores = torch.arange(n_items, 0, -1.0).repeat(len(users), 1)
        for row, user in enumerate(users.tolist()):
            scores[row, torch.from_numpy(histories[user])] = torch.inf
        return scores

    return score


def test_oracle_finds_everything(small_shop: Dataset) -> None:
    parts, n_items = small_shop.split(), small_shop.n_items
    result = rank_and_measure(favour(parts.test, n_items), parts.train, parts.test, n_items, [1, 2, 10])
    sizes = parts.test.counts[result.users]
    assert sizes.max() > 1
    for k in (1, 2, 10):
        assert np.allclose(result.per_user[f"recall@{k}"], np.minimum(k, sizes) / sizes)
        assert np.allclose(result.per_user[f"ndcg@{k}"], 1)


def test_training_items_never_appear_whatever_their_score(small_shop: Dataset) -> None:
    parts, n_items = small_shop.split(), small_shop.n_items
    result = rank_and_measure(favour(parts.train, n_items), parts.train, parts.test, n_items, [n_items])
    for user, ranked in zip(result.users, result.lists, strict=True):
        own = set(parts.train[user].tolist())
        assert not own & set(ranked.tolist())
        assert (ranked >= 0).sum() == n_items - len(own)


def test_validation_items_stand_first_at_test_unless_hidden(
    own_run: Run, small_shop: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, n_items = small_shop.split(), small_shop.n_items
    monkeypatch.setattr(
        mmrec.models.contracts, "scoring", lambda model, train, **_: favour(parts.valid, n_items)
    )
    seen: list[Any] = []
    monkeypatch.setattr(
        "mmrec.evaluate.table_of", lambda result, dataset: seen.append(result) or pd.DataFrame()
    )
    evaluate(own_run, "test")
    evaluate(own_run, "test", mask="train+valid")
    for result, first in zip(seen, (True, False), strict=True):
        for user, ranked in zip(result.users, result.lists, strict=True):
            valid = set(parts.valid[user].tolist())
            assert set(ranked[: len(valid)].tolist()) == valid or not first
            assert first or not valid & set(ranked.tolist())


@pytest.mark.parametrize("change", [lambda scores: scores * 7, lambda scores: scores + 1000])
def test_invariant_to_scale_and_shift(small_shop: Dataset, change: Callable[[Tensor], Tensor]) -> None:
    parts, n_items = small_shop.split(), small_shop.n_items
    table = torch.randint(0, 50, (small_shop.n_users, n_items), generator=torch.Generator().manual_seed(0))

    def lists(alter: Callable[[Tensor], Tensor]) -> Ids:
        def score(users: Ids) -> Tensor:
            return alter(table[torch.from_numpy(users)].float())

        return rank_and_measure(score, parts.train, parts.valid, n_items, [10]).lists

    assert np.array_equal(lists(lambda scores: scores + 0), lists(change))


def test_users_without_training_items_are_left_out(tmp_path: Path) -> None:
    """Users 0 and 1 train; user 2 is held out only, user 3 trains but has nothing held out."""
    rows = [(0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 1, 0), (1, 0, 1), (1, 3, 2), (2, 0, 1), (2, 1, 2), (3, 3, 0)]
    users, items, labels = (np.array(column) for column in zip(*rows, strict=True))
    dataset = write_dataset(tmp_path / "data", {"user": users, "item": items})
    write_split(dataset, "default", labels.astype(np.int8), protocol="given", options={}, seed=None)
    document = config_of(dataset, "popularity", params={}, monitor="recall@2") | {"evaluate": {"ks": [2]}}
    run = train(document, run=tmp_path / "run", show_progress=False)
    result = evaluate(run, "test")
    assert result["n_users"] == 2
    table = pd.read_parquet(run.path / "per_user.parquet")
    assert table["user"].tolist() == [0, 1]
    # Popularity among items 0, 1, 3 is equal, so ties decide: user 0 sees 1, 3 (test 2), user 1 sees 0, 3 (test 3).
    assert table["recall@2"].tolist() == [0.0, 1.0]


# --- what is written ---------------------------------------------------------------------------------------------


def test_per_user_table_holds_every_user_and_metric(own_run: Run, small_shop: Dataset) -> None:
    document = evaluate(own_run, "test")
    table = pd.read_parquet(own_run.path / "per_user.parquet")
    assert len(table) == document["n_users"]
    assert table["user_id"].tolist() == small_shop.users["user_id"].to_numpy()[table["user"]].tolist()
    means = table.drop(columns=["user", "user_id"]).mean().to_dict()
    assert means == pytest.approx({name: document["metrics"][name] for name in means}, abs=1e-12)
    assert {"recall@5", "ndcg@10", "mrr@5", "map@10", "hit@5", "precision@10"} <= means.keys()
    assert json.loads((own_run.path / "test.json").read_text()) == document
    assert {"dataset_hash", "split_hash", "mask", "ks", "ties", "candidates", "users"} <= document[
        "protocol"
    ].keys()


def test_each_opening_of_test_is_recorded(own_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(own_run, "valid")
    assert Run(own_run.path).manifest["test_opened"] == []
    assert not (own_run.path / "test.json").exists()
    first = evaluate(own_run.path, "test")
    assert "opened before" not in capsys.readouterr().err
    evaluate(own_run.path, "test", mask="train+valid")
    openings = Run(own_run.path).manifest["test_opened"]
    assert [entry["mask"] for entry in openings] == ["train", "train+valid"]
    assert openings[0]["metrics"] == first["metrics"]
    assert f"opened before, first on {openings[0]['when']}" in capsys.readouterr().err


def test_valid_does_not_read_the_test_split(own_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seal_test(monkeypatch)
    evaluate(own_run, "valid")
    with pytest.raises(AssertionError, match="test split was read"):
        evaluate(own_run, "test")


def test_the_mask_is_the_runs_unless_given(small_shop: Dataset, tmp_path: Path) -> None:
    document = config_of(small_shop, epochs=1) | {"evaluate": {"ks": [5], "mask": "train+valid"}}
    run = train(document, run=tmp_path / "run", show_progress=False)
    assert json.loads((run.path / "valid.json").read_text())["protocol"]["mask"] == "train"
    assert evaluate(run)["protocol"]["mask"] == "train+valid"
    assert evaluate(run, mask="train")["protocol"]["mask"] == "train"


def test_the_dataset_may_move(own_run: Run, small_shop: Dataset, tmp_path: Path) -> None:
    moved = copy_shop(small_shop, tmp_path / "elsewhere")
    assert evaluate(own_run, "valid", data=moved.path)["metrics"] == evaluate(own_run, "valid")["metrics"]


# --- what is refused ---------------------------------------------------------------------------------------------


def test_wrong_options_are_named(own_run: Run) -> None:
    with pytest.raises(ConfigError, match="split valid or test"):
        evaluate(own_run, "train")
    with pytest.raises(ConfigError, match=r"mask.*'train' or 'train\+valid'"):
        evaluate(own_run, mask="nothing")
    with pytest.raises(ConfigError, match="at test only"):
        evaluate(own_run, "valid", mask="train+valid")
    assert Run(own_run.path).manifest["test_opened"] == []


def test_an_unfinished_run_is_not_tested(own_run: Run) -> None:
    own_run.update(status="started")
    with pytest.raises(NotFittedError, match=rf"status 'started'\n.*mmrec train {own_run.path} --resume"):
        evaluate(own_run.path)
    evaluate(own_run.path, "valid")  # nothing is given away by that


def test_no_user_to_evaluate_is_an_error(own_run: Run, small_shop: Dataset) -> None:
    parts = small_shop.split()
    with pytest.raises(DataError, match="users with held-out and training items"):
        rank_and_measure(favour(parts.train, 60), parts.train, Histories.empty(small_shop.n_users), 60, [5])


def test_a_full_disk_leaves_no_half_result(own_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    shutil.rmtree(own_run.path / "per_user.parquet", ignore_errors=True)
    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(Exception, match="No space left") as caught:
        evaluate(own_run)
    assert hasattr(caught.value, "do")
    assert not list(own_run.path.glob(".*"))
    assert not (own_run.path / "test.json").exists()
    assert len(Run(own_run.path).manifest["test_opened"]) == 1  # the results were known: that is on record
