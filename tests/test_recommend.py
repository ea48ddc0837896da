"""Recommendations of a run for single users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrec.data.dataset import Dataset
from mmrec.data.split_files import write_split
from mmrec.errors import ConfigError, DataError
from mmrec.models.contracts import scoring
from mmrec.recommend import recommend
from mmrec.runs import Run
from mmrec.train import train
from tests.small_shop import config_of, copy_shop
from tests.worlds import write_dataset

USERS = ["user-0003", "user-0000"]


def items_of(result: dict[str, Any]) -> list[str]:
    return [entry["item"] for entry in result["items"]]


def best_plainly(run: Run, shop: Dataset, user: str, k: int, closed: set[str]) -> list[tuple[str, float]]:
    parts = shop.split()
    row = shop.users["user_id"].tolist().index(user)
    scores = scoring(run.model(run.training_data(shop, parts)), parts.train)(np.array([row]))[0].tolist()
    pairs = zip(shop.items["item_id"].tolist(), scores, strict=True)
    return sorted((pair for pair in pairs if pair[0] not in closed), key=lambda pair: (-pair[1], pair[0]))[:k]


def seen_by(shop: Dataset, user: str) -> set[str]:
    row = shop.users["user_id"].tolist().index(user)
    return set(shop.items["item_id"].to_numpy()[shop.split().train[row]])


def test_equals_sorting_all_scores(small_run: Run, small_shop: Dataset) -> None:
    results = recommend(small_run, USERS, k=7)
    assert [result["user"] for result in results] == USERS
    for result in results:
        expected = best_plainly(small_run, small_shop, result["user"], 7, seen_by(small_shop, result["user"]))
        assert items_of(result) == [item for item, _ in expected]
        assert [entry["score"] for entry in result["items"]] == pytest.approx(
            [score for _, score in expected]
        )


def test_one_user_alone_gets_what_it_gets_among_others(small_run: Run) -> None:
    [alone], [_, among] = recommend(small_run.path, USERS[1]), recommend(small_run, USERS)
    assert items_of(alone) == items_of(among)
    scores = [[entry["score"] for entry in result["items"]] for result in (alone, among)]
    assert scores[0] == pytest.approx(scores[1])  # products of other shapes may differ in the last bit


def test_seen_items_come_when_asked_for(small_run: Run, small_shop: Dataset) -> None:
    user = USERS[0]
    everything = items_of(recommend(small_run, user, k=1000, exclude_seen=False)[0])
    assert sorted(everything) == sorted(small_shop.items["item_id"])
    unseen = items_of(recommend(small_run, user, k=1000)[0])
    assert set(everything) - set(unseen) == seen_by(small_shop, user)
    assert [item for item in everything if item in set(unseen)] == unseen


def test_allow_and_deny(small_run: Run) -> None:
    user = USERS[0]
    best = items_of(recommend(small_run, user, k=6)[0])
    assert items_of(recommend(small_run, user, k=2, deny=[best[0], best[2]])[0]) == [best[1], best[3]]
    assert items_of(recommend(small_run, user, k=5, allow=[best[5], best[1], best[3]])[0]) == [
        best[1], best[3], best[5],
    ]  # fmt: skip
    assert items_of(recommend(small_run, user, allow=best[:3], deny=best[:2])[0]) == [best[2]]
    assert recommend(small_run, user, allow=[]) == [{"user": user, "items": []}]


def test_no_users_no_results(small_run: Run) -> None:
    assert recommend(small_run, []) == []


def test_the_dataset_may_move(small_run: Run, small_shop: Dataset, tmp_path: Path) -> None:
    moved = copy_shop(small_shop, tmp_path / "elsewhere")
    assert recommend(small_run, USERS, data=moved.path) == recommend(small_run, USERS)


def test_unknown_names_are_refused(small_run: Run) -> None:
    with pytest.raises(DataError, match=r"'nobody'\n.*use an id such as user-"):
        recommend(small_run, [USERS[0], "nobody"])
    for option in ("allow", "deny"):
        with pytest.raises(DataError, match=r"'nothing'\n.*use an id such as item-"):
            recommend(small_run, USERS, **{option: ["nothing"]})
    with pytest.raises(ConfigError, match="k >= 1"):
        recommend(small_run, USERS, k=0)


def test_users_without_training_items_are_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", {"user": [0, 0, 0, 1], "item": [0, 1, 2, 1]})
    labels = np.array([0, 1, 2, 2], dtype=np.int8)
    write_split(dataset, "default", labels, protocol="given", options={}, seed=None)
    document = config_of(dataset, "popularity", params={}, monitor="recall@1") | {"evaluate": {"ks": [1]}}
    run = train(document, run=tmp_path / "run", show_progress=False)
    with pytest.raises(DataError, match=r"'u1' without any\n.*ask for other users"):
        recommend(run, ["u0", "u1"])
    assert items_of(recommend(run, "u0")[0]) == ["i1", "i2"]  # equal scores: ascending item
