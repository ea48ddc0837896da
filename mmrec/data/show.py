"""What is in a dataset: counts, histograms, modalities, features and splits, and how far each split leaks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrec.data.dataset import PARTS, Dataset, unique_pairs
from mmrec.data.histories import Ids
from mmrec.data.split_files import OUT
from mmrec.files import read_json, read_table

_BAR = 30  # characters of the longest bar of a histogram


def describe(dataset: Dataset) -> dict[str, Any]:
    """Describe a dataset as one JSON document; no picture is opened and no feature vector read.

    Returns:
        ``users``, ``items``, ``interactions``; ``features`` ``{name: {"modality", "dim", "present"}}``; ``splits``
        ``{name: {"train", "valid", "test", "out", "protocol", "seed", "options", "leakage", "warnings"}}``; and
        ``name``, ``hash``, ``density``, ``sparsity``, ``duplicates`` (repeated pairs), ``time``,
        ``interactions_per_user``, ``interactions_per_item``, ``popularity_gini``, ``modalities``, ``columns``.
    """
    table = dataset.interactions
    users, items = (table[column].to_numpy(dtype=np.int64) for column in ("user", "item"))
    per_user = np.bincount(users, minlength=dataset.n_users)
    per_item = np.bincount(items, minlength=dataset.n_items)
    n_pairs = int(unique_pairs(users, items, dataset.n_items).sum())
    density = n_pairs / max(dataset.n_users * dataset.n_items, 1)
    return {
        "name": dataset.name,
        "hash": dataset.hash,
        "users": dataset.n_users,
        "items": dataset.n_items,
        "interactions": dataset.n_interactions,
        "density": density,
        "sparsity": 1.0 - density,
        "duplicates": len(users) - n_pairs,
        "time": _time_range(table),
        "interactions_per_user": summarise_counts(per_user),
        "interactions_per_item": summarise_counts(per_item),
        "popularity_gini": gini(per_item),
        "modalities": _modalities(dataset),
        "columns": _columns(dataset),
        "features": {name: _feature(dataset, name) for name in dataset.feature_names()},
        "splits": {name: _split(dataset, name) for name in dataset.split_names()},
    }


def leakage(
    labels: NDArray[np.integer[Any]],
    users: Ids,
    items: Ids,
    *,
    n_users: int,
    n_items: int,
    timestamps: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """Measure what the training part of a split gives away.

    Args:
        labels: ``(n,)`` 0 train, 1 valid, 2 test, -1 left out.
        users: ``(n,)`` user of each interaction.
        items: ``(n,)`` item of each interaction.
        n_users: Number of users of the dataset.
        n_items: Number of items of the dataset.
        timestamps: ``(n,)`` times, NaN where missing; None without times.

    Returns:
        ``duplicates_across_parts``: (user, item) pairs that occur in more than one part.
        ``test_older_than_newest_train``: share of the test interactions that happened before the newest training
        one; None without times. ``test_older_than_users_newest_train``: likewise, before the newest training one
        of the same user. ``items_first_seen_in_test``: items with test interactions and none in the other two
        parts, ``test_share_of_unseen_items`` their share of the test interactions. ``items_without_training`` and
        ``users_without_training``: items and users of the dataset that have no training interaction.
    """
    used, train, test = labels != OUT, labels == 0, labels == 2
    pair_parts = np.unique((users[used] * n_items + items[used]) * len(PARTS) + labels[used])
    _, parts_of_pair = np.unique(pair_parts // len(PARTS), return_counts=True)
    known = np.bincount(items[used & ~test], minlength=n_items) > 0
    tested = np.bincount(items[test], minlength=n_items)
    older, older_than_own = _older_shares(train, test, users, n_users, timestamps)
    return {
        "duplicates_across_parts": int((parts_of_pair > 1).sum()),
        "test_older_than_newest_train": older,
        "test_older_than_users_newest_train": older_than_own,
        "items_first_seen_in_test": int(((tested > 0) & ~known).sum()),
        "test_share_of_unseen_items": float(tested[~known].sum() / max(tested.sum(), 1)),
        "items_without_training": n_items - len(np.unique(items[train])),
        "users_without_training": n_users - len(np.unique(users[train])),
    }


def _older_shares(
    train: NDArray[np.bool_],
    test: NDArray[np.bool_],
    users: Ids,
    n_users: int,
    timestamps: NDArray[Any] | None,
) -> tuple[float | None, float | None]:
    """Share of test interactions before the newest training one, of all users and of the same user."""
    if timestamps is None:
        return None, None
    timed = ~pd.isna(timestamps)
    train, test = train & timed, test & timed
    if not train.any() or not test.any():
        return None, None
    newest_own = np.full(n_users, timestamps[timed].min())  # nothing is before that
    np.maximum.at(newest_own, users[train], timestamps[train])
    older = timestamps[test] < timestamps[train].max()
    return float(older.mean()), float((timestamps[test] < newest_own[users[test]]).mean())


def warn(report: Mapping[str, Any], n_out: int = 0) -> list[str]:
    """Say in words what a :func:`leakage` report means; an empty list where there is nothing to say.

    Args:
        report: What :func:`leakage` returned.
        n_out: Number of interactions that the split leaves out.
    """
    warnings = []
    older, own = report["test_older_than_newest_train"], report["test_older_than_users_newest_train"]
    if older is None:
        warnings.append(
            "there are no times: whether training knows the future of the test part cannot be told"
        )
    elif older > 0:
        warnings.append(
            f"{_percent(older)} of the test interactions are older than the newest training one: "
            "this split does not measure predicting the future"
        )
    if own:
        warnings.append(
            f"{_percent(own)} of the test interactions are older than one of the same user in training: "
            "sequence models must not be judged by this split"
        )
    if report["duplicates_across_parts"]:
        warnings.append(
            f"(user, item) pairs in more than one part: {report['duplicates_across_parts']:,}; "
            "remembering them counts as recommending, so import again without duplicates"
        )
    if report["items_first_seen_in_test"]:
        warnings.append(
            f"items first seen in test: {report['items_first_seen_in_test']:,} "
            f"({_percent(report['test_share_of_unseen_items'])} of the test interactions); "
            "a model that knows items by their id alone cannot rank them"
        )
    if report["users_without_training"]:
        warnings.append(
            f"users without training interactions: {report['users_without_training']:,}; "
            "nothing is known of their taste"
        )
    if n_out:
        warnings.append(f"interactions that this split leaves out: {n_out:,}")
    return warnings


def summarise_counts(counts: NDArray[np.integer[Any]]) -> dict[str, Any]:
    """Extremes, quartiles and mean of counts, and a histogram whose bins double: 0, 1, 2-3, 4-7, 8-15, …"""
    if len(counts) == 0:
        return {"min": 0, "q25": 0.0, "median": 0.0, "mean": 0.0, "q75": 0.0, "max": 0, "histogram": []}
    quartiles = np.quantile(counts, (0.25, 0.5, 0.75))
    bins = np.frexp(counts.astype(np.float64))[1]  # bin b > 0 holds 2^(b-1) … 2^b - 1
    sizes = np.bincount(bins)
    first = int(bins.min())
    return {
        "min": int(counts.min()),
        "q25": float(quartiles[0]),
        "median": float(quartiles[1]),
        "mean": float(counts.mean()),
        "q75": float(quartiles[2]),
        "max": int(counts.max()),
        "histogram": [
            {"from": 2**b // 2, "to": max(2**b - 1, 0), "count": int(sizes[b])}
            for b in range(first, len(sizes))
        ],
    }


def gini(counts: NDArray[np.integer[Any]]) -> float:
    """Gini coefficient of counts: 0 where all are equal, near 1 where a few hold everything."""
    n, total = len(counts), float(counts.sum())
    if total == 0:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ np.sort(counts)) / (n * total)


def _time_range(table: pd.DataFrame) -> dict[str, Any] | None:
    if "timestamp" not in table or table["timestamp"].isna().all():
        return None
    times = table["timestamp"].dropna()
    return {"first": times.min().item(), "last": times.max().item(), "missing": len(table) - len(times)}


def _filled(column: pd.Series[Any]) -> NDArray[np.bool_]:
    """True where a cell is neither missing nor blank."""
    filled = column.notna().to_numpy(dtype=bool)
    if pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column):
        filled = filled & column.astype(str).str.strip().ne("").to_numpy(dtype=bool)
    return filled


def _columns(dataset: Dataset) -> dict[str, dict[str, dict[str, Any]]]:
    """Kind and number of filled cells of each column of each table."""
    kinds: Mapping[str, Mapping[str, str]] = dataset.manifest.get("columns", {})
    tables = {"items": dataset.items, "users": dataset.users, "interactions": dataset.interactions}
    return {
        name: {
            str(column): {
                "kind": kinds.get(name, {}).get(str(column)),
                "filled": int(_filled(table[column]).sum()),
            }
            for column in table.columns
        }
        for name, table in tables.items()
    }


def _modalities(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """How many items have a text, a picture, both or neither."""
    masks, nothing = dataset.modalities(), np.zeros(dataset.n_items, dtype=bool)
    has = {modality: masks.get(modality, nothing) for modality in ("text", "image")}
    rows = {**has, "both": has["text"] & has["image"], "neither": ~has["text"] & ~has["image"]}
    return {
        name: {"items": int(mask.sum()), "share": float(mask.sum() / max(dataset.n_items, 1))}
        for name, mask in rows.items()
    }


def _feature(dataset: Dataset, name: str) -> dict[str, Any]:
    manifest = read_json(dataset.path / "features" / name / "manifest.json")
    return {key: manifest[key] for key in ("modality", "dim", "present")}


def _split(dataset: Dataset, name: str) -> dict[str, Any]:
    manifest = dataset.split(name).manifest  # checks that the labels are this dataset's
    labels = read_table(dataset.path / "splits" / f"{name}.parquet")["label"].to_numpy()
    table = dataset.interactions
    report = leakage(
        labels,
        table["user"].to_numpy(dtype=np.int64),
        table["item"].to_numpy(dtype=np.int64),
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        timestamps=table["timestamp"].to_numpy() if "timestamp" in table else None,
    )
    warnings = warn(report, manifest["counts"]["out"])
    if manifest["options"].get("order") == "file":
        warnings.append(
            "without times and positions, the order of the source's rows decided what is a user's last"
        )
    return {
        **manifest["counts"],
        **{key: manifest[key] for key in ("protocol", "options", "seed")},
        "leakage": report,
        "warnings": warnings,
    }


def render(document: Mapping[str, Any]) -> str:
    """The document of :func:`describe` as text for a terminal."""
    blocks = [_render_head(document), _render_counts(document), _render_content(document)]
    blocks += [_render_split(name, entry) for name, entry in document["splits"].items()]
    if not document["splits"]:
        blocks.append("splits: none yet; make one with mmrec data split")
    return "\n\n".join(blocks) + "\n"


def _render_head(document: Mapping[str, Any]) -> str:
    lines = [
        f"{document['name']}: {document['users']:,} users, {document['items']:,} items, "
        f"{document['interactions']:,} interactions",
        f"density {_percent(document['density'])} (sparsity {_percent(document['sparsity'])}), "
        f"Gini of item popularity {document['popularity_gini']:.2f}",
    ]
    if document["time"]:
        lines.append(
            f"times from {_moment(document['time']['first'])} to {_moment(document['time']['last'])}"
        )
    if document["duplicates"]:
        lines.append(f"! {document['duplicates']:,} interactions repeat a (user, item) pair")
    return "\n".join(lines)


def _render_counts(document: Mapping[str, Any]) -> str:
    columns = ("min", "q25", "median", "mean", "q75", "max")
    groups = {name: document[f"interactions_per_{name}"] for name in ("user", "item")}
    rows = [["interactions", *columns]]
    rows += [[f"per {name}", *(f"{entry[c]:,.4g}" for c in columns)] for name, entry in groups.items()]
    blocks = [_align(rows)]
    for name, entry in groups.items():
        largest = max((cell["count"] for cell in entry["histogram"]), default=1)
        bars = [
            [
                f"{cell['from']:,}" if cell["from"] == cell["to"] else f"{cell['from']:,}-{cell['to']:,}",
                f"{cell['count']:,}",
                "#" * int(np.ceil(_BAR * cell["count"] / largest)),
            ]
            for cell in entry["histogram"]
        ]
        blocks.append(_align([["interactions", f"{name}s", ""], *bars], left=(0, 2)))
    return "\n\n".join(blocks)


def _render_content(document: Mapping[str, Any]) -> str:
    rows = [["modality", "items", "share"]]
    rows += [
        [name, f"{entry['items']:,}", _percent(entry["share"])]
        for name, entry in document["modalities"].items()
    ]
    blocks = [_align(rows)]
    n_rows = {
        "items": document["items"],
        "users": document["users"],
        "interactions": document["interactions"],
    }
    for table, columns in document["columns"].items():
        rows = [[f"column of {table}", "kind", "filled", "share"]]
        for column, entry in columns.items():
            share = _percent(entry["filled"] / max(n_rows[table], 1))
            rows.append([column, entry["kind"] or "-", f"{entry['filled']:,}", share])
        blocks.append(_align(rows, left=(0, 1)))
    if document["features"]:
        rows = [["features", "modality", "dim", "present"]]
        rows += [
            [name, entry["modality"], f"{entry['dim']}", f"{entry['present']:,}"]
            for name, entry in document["features"].items()
        ]
        blocks.append(_align(rows, left=(0, 1)))
    else:
        blocks.append("features: none yet; make some with mmrec encode")
    return "\n\n".join(blocks)


def _render_split(name: str, entry: Mapping[str, Any]) -> str:
    told = [f"{option.replace('_', ' ')} {value}" for option, value in entry["options"].items() if value]
    told += [] if entry["seed"] is None else [f"seed {entry['seed']}"]
    counts = ", ".join(f"{entry[part]:,} {part}" for part in PARTS)
    report = entry["leakage"]
    rows = []
    for key, value in report.items():
        share = value is None or isinstance(value, float)
        text = "unknown" if value is None else _percent(value) if share else f"{value:,}"
        rows.append([f"  {key.replace('_', ' ')}", text])
    lines = [f"split {name} ({', '.join([entry['protocol'], *told])}): {counts}", _align(rows)]
    return "\n".join([*lines, *(f"  ! {warning}" for warning in entry["warnings"])])


def _align(rows: list[list[str]], left: tuple[int, ...] = (0,)) -> str:
    """Rows as columns of equal width; those named in ``left`` start at the left, the others end at the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines)


def _percent(share: float) -> str:
    """A share in percent with about three digits; never 0 or 100 % where it is not exactly so."""
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    digits = 1 if 0.01 <= share <= 0.999 else 3
    return f"{100 * share:.{digits}f} %"


def _moment(time: float) -> str:
    """A Unix time in seconds or milliseconds as a date; any other number as it is."""
    for unit in (1, 1000):
        if 1e8 <= time / unit < 1e10:
            return datetime.fromtimestamp(time / unit, tz=UTC).strftime("%Y-%m-%d")
    return f"{time:g}"
