"""Top-k items for given users of a trained run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmrec.callable_module import make_callable
from mmrec.data.dataset import Dataset
from mmrec.data.histories import Ids
from mmrec.errors import ConfigError, DataError
from mmrec.models.contracts import scoring, training_histories
from mmrec.rank import Ranking, permitted_items, rank
from mmrec.runs import Run

make_callable(__name__, "mmrec.recommend:recommend")


def recommend(
    run: Run | str | Path,
    users: str | Sequence[str],
    k: int = 10,
    *,
    exclude_seen: bool = True,
    allow: Sequence[str] | None = None,
    deny: Sequence[str] | None = None,
    data: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Recommend the k best items to each user.

    Args:
        run: A run or its folder.
        users: One external user id or several.
        k: Items per user; fewer come back when fewer are permitted.
        exclude_seen: Leave out the items the user has in the training split.
        allow: External ids of the items that may appear; all if None.
        deny: External ids of items that may not appear.
        data: Where the dataset is now, if it has moved.

    Returns:
        ``{"user", "items": [{"item", "score"}, …]}`` per user, best item first.

    Raises:
        ConfigError: k is below 1.
        DataError: Unknown user or item, or a user without training items.
        NotFittedError: The run has no usable checkpoint.
    """
    check_length(k)
    run = run if isinstance(run, Run) else Run(run)
    dataset = run.dataset(data)
    split = run.split(dataset)
    names = [users] if isinstance(users, str) else list(users)
    ids = np.array([dataset.user(name) for name in names], dtype=np.int64)
    strangers = [name for name, user in zip(names, ids, strict=True) if split.train.counts[user] == 0]
    if strangers:
        raise DataError(
            "users with interactions in the training split",
            f"{', '.join(map(repr, strangers[:3]))} without any",
            "ask for other users, or train on a split that holds theirs",
        )
    training = run.training_data(dataset, split)
    model = run.model(training)
    exclude = split.train if exclude_seen else None
    permitted, denied = _internal(dataset, allow), _internal(dataset, deny)
    score = scoring(
        model,
        training_histories(model, training),
        k=k,
        exclude=exclude,
        permitted=permitted_items(dataset.n_items, permitted, denied),
    )
    ranking = rank(score, ids, dataset.n_items, k, exclude=exclude, allow=permitted, deny=denied)
    return named(ranking, names, dataset.items["item_id"].tolist())


def check_length(k: int) -> None:
    """Check the length of a list.

    Raises:
        ConfigError: k is below 1.
    """
    if k < 1:
        raise ConfigError("k >= 1", str(k), "ask for at least one item")


def named(ranking: Ranking, users: Sequence[str | None], item_ids: Sequence[str]) -> list[dict[str, Any]]:
    """A ranking with the external ids of its users and of its items.

    Returns:
        ``{"user", "items": [{"item", "score"}, …]}`` per user, best item first.
    """
    results = []
    for user, items, scores in zip(users, ranking.items, ranking.scores, strict=True):
        pairs = [
            (item_ids[item], float(score)) for item, score in zip(items, scores, strict=True) if item >= 0
        ]
        results.append({"user": user, "items": [{"item": item, "score": score} for item, score in pairs]})
    return results


def _internal(dataset: Dataset, items: Sequence[str] | None) -> Ids | None:
    return None if items is None else np.array([dataset.item(item) for item in items], dtype=np.int64)
