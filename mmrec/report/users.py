"""What a user bought, what was hidden from the models, and what each of them recommends: for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmrec.compare import Comparison
from mmrec.data.dataset import Dataset, Split
from mmrec.evaluate import evaluated_users
from mmrec.recommend import recommend
from mmrec.registry import model_class
from mmrec.runs import Run


@dataclass(frozen=True)
class ItemView:
    """An item beside a user.

    Attributes:
        item_id: External id.
        title: Title, or the id of an item without one.
        picture: File of its picture, None where it has none.
        hidden: The user has it, but only in the validation or test part.
        cold: Nobody has it in the training part.
    """

    item_id: str
    title: str
    picture: Path | None
    hidden: bool
    cold: bool


@dataclass(frozen=True)
class UserView:
    """A user, and what the models make of the history.

    Attributes:
        user_id: External id.
        n_history: Number of training items.
        history: The last of them, oldest first.
        hidden: Items of the validation and test parts.
        recommendations: Label of a model and its best items, in the order of the comparison.
        cold: The same among the cold items alone, of the models that can tell these apart.
    """

    user_id: str
    n_history: int
    history: tuple[ItemView, ...]
    hidden: tuple[ItemView, ...]
    recommendations: tuple[tuple[str, tuple[ItemView, ...]], ...]
    cold: tuple[tuple[str, tuple[ItemView, ...]], ...]


def choose_users(dataset: Dataset, split: Split, n: int) -> list[str]:
    """External ids of n evaluated users at even steps from the least to the most active.

    The rule knows nothing of the results, so that nobody can be picked for them.
    """
    users = evaluated_users(split.train, split.test)
    order = users[np.argsort(split.train.counts[users], kind="stable")]
    if not len(order):
        return []
    places = np.unique(((np.arange(n) + 0.5) * len(order) / n).astype(np.int64))
    found: list[str] = dataset.users["user_id"].iloc[order[places]].tolist()
    return found


def view_users(
    comparison: Comparison, users: Sequence[str], dataset: Dataset, *, k: int = 8, history: int = 8
) -> list[UserView]:
    """Look at users through the models of a comparison; of a model with several seeds, through its first run.

    Args:
        comparison: Evaluated run folders of one dataset and split.
        users: External ids of users with training items.
        dataset: The dataset of the runs.
        k: Recommendations per model.
        history: Most recent training items shown.

    Raises:
        DataError: Unknown user, a user without training items, or another dataset than that of the runs.
        NotFittedError: A run is gone, or its checkpoint damaged.
    """
    runs = {row.label: Run(row.results[0].run) for row in comparison.rows}
    split = next(iter(runs.values())).split(dataset)
    cold = np.bincount(split.train.items, minlength=dataset.n_items) == 0
    cold_ids = dataset.items["item_id"][cold].tolist()
    lists = {label: _lists(run, users, k, dataset) for label, run in runs.items()}
    cold_lists = {
        label: _lists(run, users, k, dataset, allow=cold_ids)
        for label, run in runs.items()
        if cold_ids and model_class(run.config.model).cold_items
    }
    view = _viewer(dataset)

    def show(items: Sequence[int], hidden: Sequence[int] = ()) -> tuple[ItemView, ...]:
        return tuple(view(item, item in hidden, bool(cold[item])) for item in items)

    views = []
    for place, user_id in enumerate(users):
        user = dataset.user(user_id)
        own = split.train[user].tolist()
        hidden = [*split.valid[user].tolist(), *split.test[user].tolist()]
        recommended, among_cold = (
            tuple((label, show(found[place], hidden)) for label, found in chosen.items())
            for chosen in (lists, cold_lists)
        )
        past = show(own[-history:])
        views.append(UserView(user_id, len(own), past, show(hidden, hidden), recommended, among_cold))
    return views


def _lists(
    run: Run, users: Sequence[str], k: int, dataset: Dataset, allow: Sequence[str] | None = None
) -> list[list[int]]:
    """Internal ids of the k best items of each user."""
    found = recommend(run, users, k, allow=allow, data=dataset.path)
    return [[dataset.item(entry["item"]) for entry in result["items"]] for result in found]


def _viewer(dataset: Dataset) -> Callable[[int, bool, bool], ItemView]:
    """A function that makes the view of an item: internal id, hidden, cold."""
    ids, titles, folder = dataset.items["item_id"].tolist(), dataset.titles(), dataset.images
    pictures: list[str | None] = [None] * len(ids)
    if "image" in dataset.items:
        column = dataset.items["image"].astype(object)
        pictures = column.where(column.notna(), None).tolist()

    def view(item: int, hidden: bool, cold: bool) -> ItemView:
        name = pictures[item]
        title = titles.get(ids[item], "").strip() or ids[item]
        return ItemView(ids[item], title, folder / name if name else None, hidden, cold)

    return view
