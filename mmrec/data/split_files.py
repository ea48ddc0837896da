"""Split files: the labels of a split as Parquet, sealed by a manifest that is written last."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mmrec.data.dataset import FORMAT, PARTS, Dataset, Split
from mmrec.errors import DataError
from mmrec.files import read_json, write_json, write_table

OUT = -1  # label of an interaction that belongs to no part
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def write_split(
    dataset: Dataset,
    name: str,
    labels: NDArray[np.integer[Any]],
    *,
    protocol: str,
    options: Mapping[str, Any],
    seed: int | None,
    overwrite: bool = False,
) -> Split:
    """Write a split of ``dataset`` and read it back.

    Writing the labels that are there already is allowed and changes nothing but the manifest.

    Args:
        dataset: The dataset the split belongs to.
        name: File name of the split: letters, digits, ``.``, ``_`` and ``-``.
        labels: ``(n_interactions,)`` 0 train, 1 valid, 2 test, -1 left out, in the order of the interactions.
        protocol: How the labels were made, for example ``given`` or ``leave-one-out``.
        options: What the protocol was told (must be JSON-able).
        seed: Seed of the protocol's draws, None where it draws nothing.
        overwrite: Replace an existing split that has other labels.

    Raises:
        DataError: Unusable name, labels that do not fit, or an existing split with other labels.
    """
    _check_name(name)
    labels = _checked_labels(dataset, labels)
    digest = hashlib.sha256(labels.tobytes()).hexdigest()
    table = dataset.path / "splits" / f"{name}.parquet"
    manifest = table.with_suffix(".json")
    _check_replaceable(dataset, manifest, digest, name, overwrite=overwrite)
    manifest.unlink(missing_ok=True)  # an interruption must not leave the old manifest beside new labels
    write_table(table, pd.DataFrame({"label": labels}))
    counts = {part: int((labels == code).sum()) for code, part in enumerate(PARTS)}
    content = {
        "format": FORMAT,
        "name": name,
        "protocol": protocol,
        "options": dict(options),
        "seed": seed,
        "counts": {**counts, "out": int((labels == OUT).sum())},
        "dataset": dataset.hash,
        "labels_sha256": digest,
    }
    write_json(manifest, content)
    return dataset.split(name)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise DataError(
            "a split name of letters, digits, '.', '_' and '-'",
            repr(name),
            "choose another name, e.g. default",
        )


def _checked_labels(dataset: Dataset, labels: NDArray[np.integer[Any]]) -> NDArray[np.int8]:
    """The labels as int8, after checking length, type and values."""
    if labels.shape != (dataset.n_interactions,):
        raise DataError(
            f"one label for each of the {dataset.n_interactions:,} interactions",
            f"labels of shape {labels.shape}",
            "make the labels from dataset.interactions, in its row order",
        )
    values = np.unique(labels)
    known = [*range(len(PARTS)), OUT]
    if not np.issubdtype(labels.dtype, np.integer) or not np.isin(values, known).all():
        odd = [value for value in values.tolist() if value not in known] or [str(labels.dtype)]
        raise DataError(
            "integer labels 0 (train), 1 (valid), 2 (test) or -1 (left out)",
            f"{', '.join(map(str, odd[:3]))}",
            "correct the labels of the split",
        )
    if not (labels == 0).any():
        raise DataError("training interactions (label 0)", "none", "correct the labels of the split")
    return labels.astype(np.int8)


def _check_replaceable(dataset: Dataset, manifest: Path, digest: str, name: str, *, overwrite: bool) -> None:
    if overwrite or not manifest.is_file():
        return
    if read_json(manifest).get("labels_sha256") != digest:
        raise DataError(
            f"no split {name!r} yet, or one with the same labels",
            f"{manifest} with other labels",
            f"mmrec data split {dataset.path} --name ANOTHER_NAME, or ask to overwrite it",
        )
