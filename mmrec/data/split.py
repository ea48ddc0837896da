"""Splits: which interactions are for training, for validation and for test.

========================  ===========================================  ==========================================
protocol                  held out                                     does training know the future?
========================  ===========================================  ==========================================
``given``                 what the ``label`` column says               as the data's author made it
``leave-one-out``         each user's last two interactions            yes: of other users, not of the user itself
``random``                about a fifth of each user's interactions    yes: also of the user itself
``random-rows``           a share of all interactions                  yes: also of the user itself
``temporal``              everything after two moments in time         no
``cold-item``             every interaction of some items              yes: of the other items
========================  ===========================================  ==========================================

A model that is fitted with the future in its training part looks better than it will be in use; only ``temporal``
measures the prediction of what comes next. The others are the field's habit, needed to compare with published
numbers. :func:`mmrec.data.show.describe` reports how far a split leaks.

The functions ``split_…`` take arrays and return labels: 0 train, 1 valid, 2 test, -1 left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.data.dataset import PARTS, Dataset, Split
from mmrec.data.histories import Ids
from mmrec.data.split_files import OUT, write_split
from mmrec.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

Labels = NDArray[np.int8]
TRAIN, VALID, TEST = range(len(PARTS))

_UNUSED: dict[str, Any] = {"valid": 0.1, "test": 0.1, "ties": "shuffle", "cold_items": 0.0}
PROTOCOLS: dict[str, tuple[str, ...]] = {  # and the options that each of them reads
    "given": (),
    "leave-one-out": ("ties", "cold_items"),
    "random": ("cold_items",),
    "random-rows": ("valid", "test"),
    "temporal": ("valid", "test"),
    "cold-item": ("valid", "test"),
}


def split(
    dataset: Dataset,
    protocol: str = "random",
    *,
    name: str = "default",
    seed: int = 0,
    valid: float = 0.1,
    test: float = 0.1,
    ties: str = "shuffle",
    cold_items: float = 0.0,
    overwrite: bool = False,
) -> Split:
    """Label the interactions of ``dataset`` and write the split to its folder.

    Interactions of users who keep nothing in training are left out (except under ``given``, which is taken as it
    is): no model that learns users from training can be asked about them.

    Args:
        dataset: The dataset to split.
        protocol: ``given``, ``leave-one-out``, ``random``, ``random-rows``, ``temporal`` or ``cold-item``; see the
            module's table.
        name: Name of the split inside the dataset.
        seed: Seed of all draws.
        valid: Share for validation: of the items under ``cold-item``, else of the interactions.
        test: Share for test, likewise.
        ties: Order of a user's interactions with equal times under ``leave-one-out``: ``shuffle`` (seeded) or
            ``file`` (the order of the source, for comparison with the literature).
        cold_items: Share of the items that is withheld from training on top of ``random`` or ``leave-one-out``:
            all interactions of half of them are for validation, of the other half for test.
        overwrite: Replace an existing split of this name that has other labels.

    Raises:
        ConfigError: Unknown protocol or value, or an option that the protocol does not read.
        DataError: Labels or times that the protocol needs are missing, or a part would be empty.
    """
    options = _options(protocol, {"valid": valid, "test": test, "ties": ties, "cold_items": cold_items})
    labels = _label_interactions(dataset, protocol, np.random.default_rng(seed), options)
    if protocol == "leave-one-out":
        options["order"] = _order(dataset.interactions)[0]
    if protocol != "given":
        labels = leave_out_unknown_users(labels, dataset.interactions["user"].to_numpy(dtype=np.int64))
        _check_parts(dataset, protocol, labels)
    drawn = protocol not in ("given", "temporal")
    return write_split(
        dataset,
        name,
        labels,
        protocol=protocol,
        options=options,
        seed=seed if drawn else None,
        overwrite=overwrite,
    )


def _label_interactions(
    dataset: Dataset, protocol: str, rng: np.random.Generator, options: Mapping[str, Any]
) -> Labels:
    """Labels ``(n_interactions,)`` of a dataset under a protocol, before unknown users are left out."""
    table = dataset.interactions
    users = table["user"].to_numpy(dtype=np.int64)
    items = table["item"].to_numpy(dtype=np.int64)
    if protocol == "given":
        return _given(dataset)
    if protocol == "temporal":
        return split_temporal(_timestamps(dataset), options["valid"], options["test"])
    if protocol == "cold-item":
        return split_cold_item(items, rng, options["valid"], options["test"])
    if protocol == "random-rows":
        return split_random_rows(len(users), rng, options["valid"], options["test"])
    if protocol == "random":

        def split_warm(rows: NDArray[np.intp]) -> Labels:
            return split_random(users[rows], rng)
    else:
        order = _order(table)[1]

        def split_warm(rows: NDArray[np.intp]) -> Labels:
            return split_leave_one_out(users[rows], order[rows], rng, ties=options["ties"])

    return _with_cold_items(items, rng, options["cold_items"], split_warm)


def split_given(labels: NDArray[Any]) -> Labels:
    """Take the labels as they are.

    Args:
        labels: ``(n,)`` 0 train, 1 valid, 2 test, -1 (or missing) left out.

    Raises:
        DataError: Other values.
    """
    numbers = np.asarray(labels, dtype=np.float64)
    numbers = np.where(np.isnan(numbers), OUT, numbers)
    wrong = ~np.isin(numbers, [TRAIN, VALID, TEST, OUT])
    if wrong.any():
        raise DataError(
            "labels 0 (train), 1 (valid), 2 (test) or -1 (left out)",
            f"{numbers[wrong][0]:g} in row {np.flatnonzero(wrong)[0]} of the interactions, {wrong.sum():,} such rows in all",
            "correct the label column and import again",
        )
    return numbers.astype(np.int8)


def split_leave_one_out(
    users: Ids, order: NDArray[Any], rng: np.random.Generator, *, ties: str = "shuffle"
) -> Labels:
    """Hold out each user's last interaction for test and the one before for validation.

    A user with fewer than three interactions keeps all of them for training: with one or two there would be
    nothing to learn from, or nothing to choose a model by.

    Args:
        users: ``(n,)`` user of each interaction.
        order: ``(n,)`` time or position; a larger number is later.
        rng: Source of the order among equal times.
        ties: ``shuffle`` draws the order of a user's interactions with equal times; ``file`` keeps the order of
            the rows. Where times are days this matters: on Amazon Beauty it decides 29 % of the test targets.
    """
    tiebreak = rng.random(len(users)) if ties == "shuffle" else np.arange(len(users), dtype=np.float64)
    place, count = _places(users, order, tiebreak)
    labels = np.full(len(users), TRAIN, dtype=np.int8)
    labels[(place == count - 2) & (count >= 3)] = VALID
    labels[(place == count - 1) & (count >= 3)] = TEST
    return labels


def split_random(users: Ids, rng: np.random.Generator) -> Labels:
    """Hold out about a fifth of each user's interactions, drawn at random, by the rule of the MMRec files.

    A user with n < 10 interactions gives exactly one for validation and one for test; otherwise m = floor(n / 5)
    are held out, floor(m / 2) of them for validation and the others for test. A user with one or two
    interactions keeps them for training.

    Args:
        users: ``(n,)`` user of each interaction.
        rng: Source of the shuffle.
    """
    place, count = _places(users, rng.random(len(users)))
    held_out = np.where(count >= 10, count // 5, np.where(count >= 3, 2, 0))
    n_valid = held_out // 2
    labels = np.full(len(users), TRAIN, dtype=np.int8)
    labels[place < held_out] = TEST
    labels[place < n_valid] = VALID
    return labels


def split_random_rows(n: int, rng: np.random.Generator, valid: float = 0.1, test: float = 0.1) -> Labels:
    """Hold out exact shares of all interactions whoever they are from, as is usual for click models.

    Args:
        n: Number of interactions.
        rng: Source of the shuffle.
        valid: Share of the interactions for validation.
        test: Share of the interactions for test.
    """
    place = rng.permutation(n)
    n_test, n_held = round(n * test), round(n * (valid + test))
    return np.where(place < n_test, TEST, np.where(place < n_held, VALID, TRAIN)).astype(np.int8)


def split_temporal(timestamps: NDArray[Any], valid: float = 0.1, test: float = 0.1) -> Labels:
    """Cut the interactions of all users at the same two moments.

    The cuts lie between distinct timestamps, where the shares come closest to those asked for, so that
    interactions of one moment are never on both sides.

    Args:
        timestamps: ``(n,)`` time of each interaction, none missing.
        valid: Share of the interactions for validation.
        test: Share of the interactions for test, the newest ones.

    Raises:
        DataError: Fewer than three distinct timestamps.
    """
    first, second = temporal_cuts(*np.unique(timestamps, return_counts=True), valid, test)
    labels = np.full(len(timestamps), TRAIN, dtype=np.int8)
    labels[timestamps > first] = VALID
    labels[timestamps > second] = TEST
    return labels


def temporal_cuts(moments: NDArray[Any], counts: Ids, valid: float, test: float) -> tuple[Any, Any]:
    """The last moment of training and the last one of validation; see :func:`split_temporal`.

    Args:
        moments: Distinct timestamps, rising.
        counts: How many interactions each of them has.
        valid: Share for validation.
        test: Share for test.

    Raises:
        DataError: Fewer than three distinct timestamps.
    """
    if len(moments) < 3:
        raise DataError(
            "at least three distinct timestamps for a temporal split",
            f"{len(moments)}",
            "import the interactions with finer times, or choose another protocol",
        )
    older = np.cumsum(counts)[:-1] / counts.sum()  # share of interactions at or before moment j
    first = int(np.abs(older[:-1] - (1 - valid - test)).argmin())
    second = first + 1 + int(np.abs(older[first + 1 :] - (1 - test)).argmin())
    return moments[first], moments[second]


def split_cold_item(items: Ids, rng: np.random.Generator, valid: float = 0.1, test: float = 0.1) -> Labels:
    """Withhold whole items: all interactions of some items are for validation, of others for test.

    Args:
        items: ``(n,)`` item of each interaction.
        rng: Source of the drawn items.
        valid: Share of the items for validation, at least one item.
        test: Share of the items for test, at least one item.

    Raises:
        DataError: No item would be left for training.
    """
    known, index = np.unique(items, return_inverse=True)
    n_valid, n_test = (max(1, round(share * len(known))) for share in (valid, test))
    if n_valid + n_test >= len(known):
        raise DataError(
            "items left for training",
            f"{n_valid} + {n_test} items withheld of {len(known)}",
            "withhold a smaller share of the items",
        )
    drawn = rng.permutation(len(known))
    parts = np.full(len(known), TRAIN, dtype=np.int8)
    parts[drawn[:n_valid]] = VALID
    parts[drawn[n_valid : n_valid + n_test]] = TEST
    return np.asarray(parts[index])


def leave_out_unknown_users(labels: Labels, users: Ids) -> Labels:
    """Label -1 for the held-out interactions of users without any training interaction.

    Args:
        labels: ``(n,)`` labels.
        users: ``(n,)`` user of each interaction.
    """
    known = np.zeros(int(users.max(initial=-1)) + 1, dtype=bool)
    known[users[labels == TRAIN]] = True
    return np.where(known[users], labels, np.int8(OUT))


def _with_cold_items(
    items: Ids, rng: np.random.Generator, share: float, split_warm: Callable[[NDArray[np.intp]], Labels]
) -> Labels:
    """Withhold ``share`` of the items, half for validation and half for test; split the other rows."""
    if share == 0:
        return split_warm(np.arange(len(items)))
    labels = split_cold_item(items, rng, share / 2, share / 2)
    warm = np.flatnonzero(labels == TRAIN)
    labels[warm] = split_warm(warm)
    return labels


def _places(groups: Ids, *keys: NDArray[Any]) -> tuple[Ids, Ids]:
    """Place 0, 1, … of each row within its group when sorted by ``keys`` (first key first), and the group's size."""
    order = np.lexsort((*reversed(keys), groups))
    counts = np.bincount(groups)
    starts = np.cumsum(counts) - counts
    place = np.empty(len(groups), dtype=np.int64)
    place[order] = np.arange(len(groups)) - starts[groups[order]]
    return place, counts[groups]


def _order(table: pd.DataFrame) -> tuple[str, NDArray[Any]]:
    """What orders a user's interactions, by name, and its values: the time, else the position, else the file."""
    columns = [column for column in ("timestamp", "position") if column in table]
    for column in columns:
        if not table[column].isna().any():
            return column, table[column].to_numpy()
    if columns:  # the rows' order would silently stand in for an order that is known in part
        raise DataError(
            f"a {columns[0]} for each interaction",
            f"{int(table[columns[0]].isna().sum()):,} of {len(table):,} interactions have none",
            "complete or drop that column and import again, or choose the protocol random",
        )
    return "file", np.arange(len(table))


def _timestamps(dataset: Dataset) -> NDArray[Any]:
    table = dataset.interactions
    missing = int(table["timestamp"].isna().sum()) if "timestamp" in table else len(table)
    if missing:
        raise DataError(
            "a timestamp for each interaction",
            f"{missing:,} of {len(table):,} interactions of {dataset.path} have none",
            "import the data with its time column, or choose a protocol that needs no times: "
            f"mmrec data split {dataset.path} --protocol random",
        )
    return table["timestamp"].to_numpy()


def _given(dataset: Dataset) -> Labels:
    if "label" not in dataset.interactions:
        raise DataError(
            "a column label (0 train, 1 valid, 2 test) in the interactions",
            f"columns {', '.join(map(str, dataset.interactions.columns))} in {dataset.path}",
            f"import the data with its labels, or mmrec data split {dataset.path} --protocol random",
        )
    return split_given(dataset.interactions["label"].to_numpy())


def _options(protocol: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the protocol reads, checked; the others must not have been set."""
    if protocol not in PROTOCOLS:
        raise ConfigError("a split protocol", repr(protocol), did_you_mean(protocol, list(PROTOCOLS)))
    read = PROTOCOLS[protocol]
    for option, value in given.items():
        if option not in read and value != _UNUSED[option]:
            users = " or ".join(name for name, options in PROTOCOLS.items() if option in options)
            raise ConfigError(
                f"options that the protocol {protocol!r} reads ({', '.join(read) or 'none'})",
                f"{option} = {value!r}",
                f"leave it out, or choose the protocol {users}",
            )
    options = {name: given[name] for name in read}
    if options.get("ties", "shuffle") not in ("shuffle", "file"):
        raise ConfigError("ties 'shuffle' or 'file'", repr(options["ties"]), "choose one of the two")
    if not 0 <= options.get("cold_items", 0) < 1:
        raise ConfigError("cold_items from 0 to below 1", repr(options["cold_items"]), "try 0.05")
    if "valid" in read:
        valid, test = options["valid"], options["test"]
        if not (valid > 0 and test > 0 and valid + test < 1):
            raise ConfigError(
                "shares above 0 that leave something for training",
                f"valid = {valid}, test = {test}",
                "try valid = 0.1 and test = 0.1",
            )
    return options


def _check_parts(dataset: Dataset, protocol: str, labels: Labels) -> None:
    counts = {part: int((labels == code).sum()) for code, part in enumerate(PARTS)}
    if min(counts.values()) == 0:
        raise DataError(
            f"interactions in each part of a {protocol} split",
            ", ".join(f"{count:,} {part}" for part, count in counts.items()) + f" in {dataset.path}",
            "use more data (users with fewer than three interactions give none to hold out), or another protocol",
        )
