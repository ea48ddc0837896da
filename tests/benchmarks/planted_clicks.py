"""Rows of the size and shape of click logs with a planted structure, as Parquet files that any toolbox can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

PARTS = ("train", "valid", "test")


def write_clicks(
    folder: Path,
    counts: Mapping[str, int],
    *,
    n_fields: int = 20,
    n_ids: int = 300_000,
    n_items: int = 0,
    longest: int = 50,
    seed: int = 0,
) -> None:
    """Write ``train``, ``valid`` and ``test.parquet``, ``shape.json``, and ``items.parquet`` where there are items.

    Fields have from 10 to a third of all ids, frequencies as 1 / rank, and every id and some pairs of ids move the
    odds. With items a row also has a target and a history, whose items have a kind and a brand: the more of the
    history is of the target's kind and brand, the likelier is a click. Lengths of histories are geometric, 20 on
    average before they are cut.

    Args:
        folder: Where to.
        counts: Rows of each part.
        n_fields: Fields of a row.
        n_ids: Ids of all fields together.
        n_items: Items; 0 for rows without item and history.
        longest: Items of a history.
        seed: Of everything.
    """
    rng = np.random.default_rng(seed)
    sizes = _sizes(n_fields, n_ids)
    effects = [rng.normal(0, 0.35, size) for size in sizes]
    shape: dict[str, Any] = {"fields": {f"c{number}": size for number, size in enumerate(sizes)}}
    items: dict[str, NDArray[np.int64]] = {}
    if n_items:
        numbers = np.arange(1, n_items + 1)
        items = {"item": numbers, "kind": 1 + numbers % 200, "brand": 1 + rng.permutation(numbers) % 2000}
        parquet.write_table(pa.table(items), folder / "items.parquet")
        shape |= {
            "items": {name: int(values.max()) + 1 for name, values in items.items()},
            "longest": longest,
        }
    for part in PARTS:
        n = counts[part]
        ids = [_ranks(size, n, rng) for size in sizes]
        odds = sum(effect[own] for effect, own in zip(effects, ids, strict=True)) - 1.5
        for left, right in zip(ids[::2], ids[1::2], strict=False):
            odds += 0.3 * (1 - 2 * ((left % 7 + right % 5) % 2))
        columns: dict[str, Any] = {f"c{number}": own for number, own in enumerate(ids)}
        if n_items:
            odds += _add_histories(columns, items, n, longest, rng)
        columns["label"] = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(np.int64)
        parquet.write_table(pa.table(columns), folder / f"{part}.parquet")
    (folder / "shape.json").write_text(json.dumps(shape), encoding="utf-8")


def _sizes(n_fields: int, n_ids: int) -> list[int]:
    """Ids of each field, 0 among them, which stands for what is missing and never comes up."""
    if n_fields < 3:
        return [n_ids // n_fields] * n_fields
    raw = np.geomspace(10, n_ids / 3, n_fields)
    raw[-8:] *= (n_ids - raw[:-8].sum()) / raw[-8:].sum()
    return [int(size) for size in raw]


def _ranks(size: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Ids from 1 to ``size - 1``, frequencies as 1 / id."""
    return np.minimum(np.floor((size - 1) ** rng.random(n)).astype(np.int64), size - 1)


def _add_histories(
    columns: dict[str, Any],
    items: Mapping[str, NDArray[np.int64]],
    n: int,
    longest: int,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Add ``item`` and ``history``; gives what they add to the log odds."""
    n_items = len(items["item"])
    lengths = np.minimum(1 + rng.geometric(1 / 20, n), longest)
    rows = np.repeat(np.arange(n), lengths)
    chosen = _ranks(n_items + 1, len(rows), rng)
    favourite = rng.integers(1, 201, n)  # two of five items of a history are of the favourite kind
    loyal = rng.random(len(rows)) < 0.4
    chosen[loyal] = (chosen[loyal] // 200 * 200 + favourite[rows[loyal]]).clip(1, n_items)
    target = _ranks(n_items + 1, n, rng)
    matching = rng.random(n) < 0.5
    target[matching] = (target[matching] // 200 * 200 + favourite[matching]).clip(1, n_items)
    same = sum(
        weight * (items[name][chosen - 1] == items[name][target[rows] - 1])
        for name, weight in (("kind", 1.0), ("brand", 2.0))
    )
    columns["item"] = target
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns["history"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(chosen))
    popular = np.random.default_rng(1).normal(0, 0.5, n_items)[target - 1]
    return 4 * np.bincount(rows, same, minlength=n) / lengths + popular - 1
