"""Raw tables to a dataset folder: validated, de-duplicated, filtered, numbered and written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from mmrec.data import filters
from mmrec.data.dataset import Dataset
from mmrec.data.filters import Mask
from mmrec.data.raw import Numbered, RawData, check_and_number
from mmrec.data.write_dataset import write_dataset
from mmrec.errors import ConfigError, DataError, did_you_mean
from mmrec.progress import note

__all__ = ["PrepareOptions", "RawData", "prepare"]


class PrepareOptions(TypedDict, total=False):
    """The options of :func:`prepare`, for functions that pass them on."""

    name: str | None
    k_core: int
    k_core_users: int | None
    k_core_items: int | None
    duplicates: str
    min_rating: float | None
    unknown_items: str
    keep_cold_items: bool
    link_images: bool


def prepare(
    raw: RawData,
    to: str | Path,
    *,
    name: str | None = None,
    k_core: int = 0,
    k_core_users: int | None = None,
    k_core_items: int | None = None,
    duplicates: str = "first",
    min_rating: float | None = None,
    unknown_items: str = "error",
    keep_cold_items: bool = False,
    link_images: bool = False,
) -> Dataset:
    """Make a dataset folder of raw tables.

    The steps, each recorded in ``dataset.json``: unknown items, minimum rating, duplicates, k-core, pictures.
    Internal ids follow the item table (the user table), else the first appearance in the interactions. Items of
    the table without interactions stay, as cold items, unless a k-core is asked for. Labels that come with the
    interactions become the split ``default``.

    Args:
        raw: What an importer has read.
        to: The new folder; it appears when everything is written, or not at all.
        name: Name of the dataset; None takes the folder's.
        k_core: Least number of interactions of each user and item, enforced until stable; 0 and 1 filter nothing.
        k_core_users: Another minimum for users.
        k_core_items: Another minimum for items.
        duplicates: Which row of a repeated (user, item) pair stays, in source order, or ``error``.
        min_rating: Keep interactions with at least this rating.
        unknown_items: Interactions with items that the item table lacks: refuse, drop them, or add the items.
        keep_cold_items: With a k-core, keep the items (and users) outside it, without interactions.
        link_images: Record the picture folder instead of copying the pictures.

    Raises:
        ConfigError: An unknown option value.
        DataError: Tables that cannot be used; nothing is left behind.
        DiskError: The disk is full.
    """
    minima = (
        k_core if k_core_users is None else k_core_users,
        k_core if k_core_items is None else k_core_items,
    )
    options = {
        "k_core": list(minima),
        "duplicates": duplicates,
        "min_rating": min_rating,
        "unknown_items": unknown_items,
        "keep_cold_items": keep_cold_items,
        "link_images": link_images,
    }
    _check_options(options)
    to = Path(to)
    work = check_and_number(raw, unknown_items)
    if min_rating is not None:
        _filter_ratings(work, min_rating, raw.name("interactions"))
    _drop_duplicates(work, duplicates, raw.name("interactions"))
    _filter_core(work, *minima)
    _drop_unused(work, raw, all_unused=max(minima) > 1 and not keep_cold_items)
    return write_dataset(work, raw, to, name=name or to.resolve().name, options=options)


def _check_options(options: dict[str, Any]) -> None:
    choices = {"duplicates": ["first", "last", "error"], "unknown_items": ["error", "drop", "add"]}
    for option, known in choices.items():
        if options[option] not in known:
            hint = did_you_mean(str(options[option]), known)
            raise ConfigError(f"{option}: {' | '.join(known)}", repr(options[option]), hint)
    if min(options["k_core"]) < 0:
        raise ConfigError("a k-core of 0 or more", str(min(options["k_core"])), "--k-core 5, for example")


def _filter_ratings(work: Numbered, least: float, table: str) -> None:
    if "rating" not in work.interactions.columns:
        raise DataError(f"a column 'rating' in {table}", "none", "leave out --min-rating")
    ratings = work.interactions["rating"]
    keep = (ratings >= least).to_numpy(dtype=bool)  # a missing rating is not enough
    if not keep.any():
        raise DataError(f"ratings of at least {least:g}", f"{ratings.max():g} at most", "lower --min-rating")
    _select(work, keep, {"step": "min rating", "at_least": least})


def _drop_duplicates(work: Numbered, duplicates: str, table: str) -> None:
    n_items = len(work.items)
    keep = filters.keep_one_of_each(work.user, work.item, n_items, duplicates)
    repeated = int((~keep).sum())
    if not repeated:
        return
    if duplicates == "error":
        row = int(np.argmin(keep))
        user, item = work.users["user_id"].iloc[work.user[row]], work.items["item_id"].iloc[work.item[row]]
        raise DataError(
            f"each (user, item) pair once in {table}",
            f"{repeated:,} repeated rows, one of user {user!r} and item {item!r}",
            "--duplicates first keeps the first row of each pair, --duplicates last the last",
        )
    step: dict[str, Any] = {"step": "deduplicate", "keep": duplicates}
    message = f"{repeated:,} repeated (user, item) pairs in {table}: the {duplicates} row of each is kept"
    if "label" in work.interactions.columns:
        labels = work.interactions["label"].to_numpy(dtype=np.int8)
        step["label_conflicts"] = filters.count_label_conflicts(work.user, work.item, n_items, labels)
        message += f"; the labels of the given split differ in {step['label_conflicts']:,} pairs"
    _select(work, keep, step)
    note(message)


def _filter_core(work: Numbered, user_minimum: int, item_minimum: int) -> None:
    if max(user_minimum, item_minimum) <= 1:
        return
    keep = filters.k_core(work.user, work.item, user_minimum, item_minimum)
    if not keep.any():
        users, items = int(np.bincount(work.user).max()), int(np.bincount(work.item).max())
        raise DataError(
            f"users with {user_minimum} and items with {item_minimum} interactions at least",
            f"no such core; before filtering one user has {users:,} at most, one item {items:,}",
            "lower --k-core",
        )
    _select(work, keep, {"step": "k-core", "users_at_least": user_minimum, "items_at_least": item_minimum})


def _select(work: Numbered, keep: Mask, step: dict[str, Any]) -> None:
    """Keep some interactions and write down the counts before and after."""
    before = _count(work)
    work.select(keep)
    work.steps.append({**step, "before": before, "after": _count(work)})


def _count(work: Numbered) -> dict[str, int]:
    """Interactions, and the users and items that have any."""
    return {
        "interactions": len(work.user),
        "users": int(np.count_nonzero(np.bincount(work.user))),
        "items": int(np.count_nonzero(np.bincount(work.item))),
    }


def _drop_unused(work: Numbered, raw: RawData, *, all_unused: bool) -> None:
    """Drop users and items without interactions: all, or those that only filtered rows had named."""
    if all_unused or raw.items is None:
        used = np.bincount(work.item, minlength=len(work.items)) > 0
        work.item, rows = filters.compact(work.item, used)
        work.items = work.items.iloc[rows].reset_index(drop=True)
        work.feature_rows = work.feature_rows[rows]
    if all_unused or raw.users is None:
        used = np.bincount(work.user, minlength=len(work.users)) > 0
        work.user, rows = filters.compact(work.user, used)
        work.users = work.users.iloc[rows].reset_index(drop=True)
