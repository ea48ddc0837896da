"""Full-catalogue evaluation of a run: metrics, slices, per-user results; the one place that opens the test split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.callable_module import make_callable
from mmrec.config import EvaluateConfig, validate
from mmrec.data.dataset import Dataset, Split
from mmrec.data.histories import Histories, Ids
from mmrec.data.rows.dataset import RowDataset
from mmrec.errors import ConfigError, DataError, NotFittedError
from mmrec.files import write_json, write_table
from mmrec.metrics import catalogue_metrics, find_hits, user_metrics
from mmrec.progress import note
from mmrec.rank import rank
from mmrec.results import table_file
from mmrec.runs import Run, now

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

make_callable(__name__, "mmrec.evaluate:evaluate")

Masks = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Results of one model on one part of a split.

    Attributes:
        users: ``(n,)`` internal ids of the evaluated users.
        lists: ``(n, max k)`` ranked item ids, -1 where a list is shorter.
        per_user: Metric name to ``(n,)`` values.
        metrics: Metric name to its mean over users; catalogue metrics beside them.
        slices: Slice name to ``{"n_users", "metrics"}``.
    """

    users: Ids
    lists: Ids
    per_user: dict[str, NDArray[np.float64]]
    metrics: dict[str, float]
    slices: dict[str, dict[str, Any]]


def evaluated_users(train: Histories, held: Histories) -> Ids:
    """Users with at least one held-out and one training item; the others cannot be judged by these models."""
    return np.flatnonzero((held.counts > 0) & (train.counts > 0))


def rank_and_measure(
    score: Callable[[Ids], Tensor],
    train: Histories,
    held: Histories,
    n_items: int,
    ks: Sequence[int],
    *,
    mask: Histories | None = None,
    item_slices: Masks | None = None,
    user_slices: Masks | None = None,
) -> Evaluation:
    """Rank all items for each user with held-out items and measure the lists.

    Args:
        score: Scores ``(b, n_items)`` of a block of user ids.
        train: Training items, for popularity and to choose the users.
        held: Held-out items to find.
        n_items: Size of the catalogue.
        ks: Cut-offs.
        mask: Items that may not be recommended to each user; the training items if None.
        item_slices: Masks ``(n_items,)``: metrics over the held-out items inside only; candidates stay the catalogue.
        user_slices: Masks ``(n_users,)``: metrics over the users inside only.
    """
    users = evaluated_users(train, held)
    if not len(users):
        raise DataError(
            "users with held-out and training items", "none", "check the split with mmrec data show"
        )
    ranking = rank(score, users, n_items, max(ks), exclude=train if mask is None else mask)
    own = held.select(users)
    hits = find_hits(ranking.items, own)
    per_user = user_metrics(hits, own.counts, ks)
    train_counts = np.bincount(train.items, minlength=n_items)
    metrics = {name: float(values.mean()) for name, values in per_user.items()}
    metrics |= catalogue_metrics(ranking.items, train_counts, int((train.counts > 0).sum()), ks)
    slices = {name: _user_slice(inside[users], per_user) for name, inside in (user_slices or {}).items()}
    slices |= {
        name: _item_slice(inside, hits, ranking.items, own, ks)
        for name, inside in (item_slices or {}).items()
    }
    return Evaluation(users, ranking.items, per_user, metrics, slices)


def _user_slice(inside: NDArray[np.bool_], per_user: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    means = {name: float(values[inside].mean()) for name, values in per_user.items()} if inside.any() else {}
    return {"n_users": int(inside.sum()), "metrics": means}


def _item_slice(
    inside: NDArray[np.bool_], hits: NDArray[np.bool_], lists: Ids, held: Histories, ks: Sequence[int]
) -> dict[str, Any]:
    """Metrics when only held-out items of the slice count; users without such an item are left out."""
    users = held.users[inside[held.items]]
    counts = np.bincount(users, minlength=held.n_users)
    chosen = np.flatnonzero(counts)
    if not len(chosen):
        return {"n_users": 0, "metrics": {}}
    values = user_metrics(hits[chosen] & inside[lists[chosen]], counts[chosen], ks)
    return {"n_users": len(chosen), "metrics": {name: float(value.mean()) for name, value in values.items()}}


def evaluate(
    run: Run | str | Path, split: str = "test", *, data: str | Path | None = None, mask: str | None = None
) -> dict[str, Any]:
    """Evaluate a trained run and write ``<split>.json`` and the per-user table into its folder.

    Opening the test split is recorded in the run's manifest, with time and result.

    Args:
        run: A run or its folder.
        split: ``valid`` or ``test``.
        data: Where the dataset is now, if it has moved.
        mask: ``train`` or ``train+valid``; the run's config decides if None. At test only.

    Returns:
        ``{"run", "split", "n_users", "metrics", "slices", "protocol"}``; of a ranker ``n_rows`` in place of
        ``n_users`` and no slices.

    Raises:
        ConfigError: Unknown part of the split.
        DataError: Dataset, split or features are not those of the run.
        NotFittedError: The run has no usable checkpoint, or is to be tested before it is finished.
    """
    run = run if isinstance(run, Run) else Run(run)
    check_part(run, split)
    dataset = run.data(data)
    if isinstance(dataset, RowDataset):
        from mmrec.evaluate_rows import evaluate_rows

        if mask is not None:
            raise ConfigError("no mask for rows with labels", repr(mask), "leave out --mask")
        document, table = evaluate_rows(run, split, dataset, run.split(dataset))
        _save(run, split, document, table, "per_row")
        return document
    document, result = _evaluate_lists(run, split, dataset, run.split(dataset), settings_of(run, split, mask))
    _save(run, split, document, table_of(result, dataset), "per_user")
    return document


def check_part(run: Run, split: str) -> None:
    """Check that a run can be evaluated on a part.

    Raises:
        ConfigError: No part that is evaluated.
        NotFittedError: It is to be tested before it is finished.
    """
    if split not in ("valid", "test"):
        raise ConfigError("split valid or test", repr(split), "training items are not evaluated")
    if split == "test" and not run.finished:
        raise NotFittedError(
            f"a finished run in {run.path}: its best epoch is not known before",
            f"status {run.manifest['status']!r}",
            f"mmrec train {run.path} --resume",
        )


def _evaluate_lists(
    run: Run, split: str, dataset: Dataset, parts: Split, settings: EvaluateConfig
) -> tuple[dict[str, Any], Evaluation]:
    from mmrec.models.contracts import reads_sequences, scoring

    model = run.model(run.training_data(dataset, parts))
    known, hidden = known_and_hidden(parts, settings)
    result = rank_and_measure(
        scoring(
            model,
            dataset.in_time(known) if reads_sequences(model) else known,
            k=max(settings.ks),
            exclude=hidden,
        ),
        parts.train,
        parts.valid if split == "valid" else parts.test,
        dataset.n_items,
        settings.ks,
        mask=hidden,
        item_slices=item_slices(dataset, parts),
        user_slices=user_slices(parts),
    )
    document = {
        "run": str(run.path),
        "model": run.config.model,
        "seed": run.config.train.seed,
        "split": split,
        "n_users": len(result.users),
        "metrics": result.metrics,
        "slices": result.slices,
        "protocol": protocol(dataset, parts, settings),
    }
    return document, result


def known_and_hidden(parts: Split, settings: EvaluateConfig) -> tuple[Histories, Histories]:
    """The items by which each user is known, and those that may not be recommended."""
    both = (
        parts.train.union(parts.valid) if "train+valid" in (settings.history, settings.mask) else parts.train
    )
    return (
        both if settings.history == "train+valid" else parts.train,
        both if settings.mask == "train+valid" else parts.train,
    )


def settings_of(run: Run, split: str, mask: str | None) -> EvaluateConfig:
    """The run's settings with another mask; at validation only training items are hidden and known."""
    own = run.config.evaluate
    chosen = own.model_dump() | ({"mask": mask} if mask else {})
    settings = validate(EvaluateConfig, chosen, "the options of evaluate")
    if split == "test":
        return settings
    if mask == "train+valid":
        raise ConfigError("--mask train at validation", repr(mask), "hide the validation items at test only")
    return settings.model_copy(update={"mask": "train", "history": "train"})


def record_opening(run: Run, document: dict[str, Any], **more: str) -> None:
    """Write into the run's manifest that its test part was looked at, and what was seen."""
    opened = run.manifest["test_opened"]
    if opened:
        note(
            f"the test split was opened before, first on {opened[0]['when']}; this is recorded in the manifest"
        )
    mask = {"mask": document["protocol"]["mask"]} if "mask" in document["protocol"] else {}
    run.update(test_opened=[*opened, {"when": now(), **mask, **more, "metrics": document["metrics"]}])


def _save(run: Run, split: str, document: dict[str, Any], table: pd.DataFrame, name: str) -> None:
    """Write a result; ``name`` is what the table is about."""
    if split == "test":
        record_opening(run, document)
    write_table(run.path / table_file(name, split), table)
    write_json(run.path / f"{split}.json", document)


def table_of(result: Evaluation, dataset: Dataset) -> pd.DataFrame:
    """One row per evaluated user: ids and metrics."""
    import pandas as pd

    ids = dataset.users["user_id"].to_numpy()[result.users]
    return pd.DataFrame({"user": result.users, "user_id": ids, **result.per_user})


def protocol(dataset: Dataset, parts: Split, settings: EvaluateConfig) -> dict[str, Any]:
    """Everything that has to be equal for two results to be comparable."""
    return {
        "dataset": dataset.name,
        "dataset_hash": dataset.hash,
        "split": parts.name,
        "split_protocol": parts.manifest["protocol"],
        "split_hash": parts.hash,
        "mask": settings.mask,
        "history": settings.history,
        "ks": list(settings.ks),
        "candidates": "all items",
        "ties": "ascending item id",
        "users": "with at least one held-out and one training item",
    }


def item_slices(dataset: Dataset, parts: Split) -> dict[str, NDArray[np.bool_]]:
    """Masks ``(n_items,)``: cold items (no training interaction), items without image, items without text."""
    masks = {"items: cold": np.bincount(parts.train.items, minlength=dataset.n_items) == 0}
    masks |= {f"items: without {modality}": ~present for modality, present in dataset.modalities().items()}
    return {name: inside for name, inside in masks.items() if inside.any()}


def user_slices(parts: Split) -> dict[str, NDArray[np.bool_]]:
    """Masks ``(n_users,)`` by number of training interactions, cut near thirds of the users who have some."""
    counts = parts.train.counts
    low, high = (int(cut) for cut in np.quantile(counts[counts > 0], [1 / 3, 2 / 3]))
    masks = {
        f"users: up to {low} interactions": (counts > 0) & (counts <= low),
        f"users: {low + 1} to {high} interactions": (counts > low) & (counts <= high),
        f"users: over {high} interactions": counts > high,
    }
    return {name: inside for name, inside in masks.items() if inside.any()}
