"""Recall of items that are added after the training, beside random vectors and a model that knew them at the training.

    python -m tests.benchmarks.cold_items CONFIG [--split cold] [--part valid] [--seed 0] [--to FOLDER]

The dataset needs a split of protocol ``cold-item`` (mmrec data split DATASET --protocol cold-item --name cold). A model is
trained without the items that the split withholds and exported; they are added to its bundle; and the users who bought
them are ranked with (a) these items alone, (b) all items as candidates. ``retrained`` is the same model trained on the same
pairs with the items in its catalogue, known by their features.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mmrec.bundle.bundle import Bundle
from mmrec.bundle.export import export
from mmrec.bundle.items import add_items
from mmrec.bundle.neighbourhood import mix_neighbours
from mmrec.config import ExperimentConfig, load_config
from mmrec.data.dataset import Dataset
from mmrec.data.histories import Histories
from mmrec.evaluate import rank_and_measure
from mmrec.models.contracts import Vectors
from mmrec.runs import Run
from mmrec.train import train
from tests.benchmarks.cold_worlds import SPLIT, Before, go_back

KS, TEMPERATURES = (5, 10, 20, 50), (0.03, 0.05, 0.1, 0.2)


def prepare(config: ExperimentConfig, dataset: Path, folder: Path) -> Run:
    """The finished run in ``folder``, trained now if there is none."""
    document = config.document() | {"data": str(dataset), "split": SPLIT}
    return Run(folder) if folder.exists() else train(load_config(document), run=folder, show_progress=False)


def measure(
    name: str, users: NDArray[np.float32], items: NDArray[np.float32], before: Before, part: str
) -> dict[str, float | str]:
    """Recall@20 of the withheld items of a part, for the users who bought them.

    Args:
        name: Of the line.
        users: ``(n_users, d)``.
        items: ``(n_items, d)`` in the order of the whole dataset.
        before: The datasets.
        part: ``valid`` or ``test``; the other part's items are no candidates.
    """
    whole, cold = before.whole, before.cold[part]
    parts = whole.split(SPLIT)
    wanted = Histories.from_pairs(*before.wanted[part].T, whole.n_users)
    outside = np.ones(whole.n_items, dtype=bool)
    recalls = {}
    for candidates, inside in (("cold", cold), ("all", np.r_[before.rows, cold])):
        outside[:] = True
        outside[inside] = False
        hidden = torch.from_numpy(outside)

        def score(ids: NDArray[np.int64], hidden: torch.Tensor = hidden) -> torch.Tensor:
            return torch.from_numpy(users[ids] @ items.T).masked_fill_(hidden, -torch.inf)

        found = rank_and_measure(score, parts.train, wanted, whole.n_items, [20])
        recalls[candidates] = found.metrics["recall@20"]
    return {"vectors": name, **recalls, "length": float(np.median(np.linalg.norm(items[cold], axis=1)))}


def compare(config: ExperimentConfig, split: str, part: str, to: Path) -> list[dict[str, float | str]]:
    """One line for each way to get vectors of the withheld items of a part."""
    whole, seed = Dataset(config.data), config.train.seed
    before = go_back(whole, split, to / "dataset")
    runs = {
        name: prepare(config, data.path, to / f"{config.model}-{name}-{seed}")
        for name, data in (("before", before.dataset), ("retrained", whole))
    }
    cold = before.cold[part]
    table = whole.items.iloc[cold]
    tables = {modality: whole.features(name) for modality, name in config.features.items()}
    features = {
        modality: (np.asarray(found.vectors)[cold], np.asarray(found.present)[cold])
        for modality, found in tables.items()
    }
    lines = []
    for method in ("neighbours", "model"):
        folder = to / f"bundle-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        export(runs["before"], folder, features=True)
        add_items(folder, table, features=features, method=method)  # type: ignore[arg-type]
        bundle = Bundle(folder)
        users = bundle.user_vectors(np.arange(whole.n_users))
        items = _place(before, bundle.item_vectors, cold)
        lines.append(measure(f"added, {method}", users, items, before, part))
    known = bundle.item_vectors[: len(before.rows)]
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(len(cold), known.shape[1]))
    drawn *= np.median(np.linalg.norm(known, axis=1)) / np.linalg.norm(drawn, axis=1, keepdims=True)
    random = np.concatenate([known, drawn.astype(np.float32)])
    lines.append(measure("random", users, _place(before, random, cold), before, part))
    lines.append(_content(before, tables, part))
    lines.append(_retrained(runs["retrained"], before, part))
    return lines


def _place(before: Before, vectors: NDArray[np.float32], cold: NDArray[np.int64]) -> NDArray[np.float32]:
    """Vectors of warm and then cold items in the order of the whole dataset; zeros for the others."""
    items = np.zeros((before.whole.n_items, vectors.shape[1]), dtype=np.float32)
    items[np.r_[before.rows, cold]] = vectors
    return items


def _content(before: Before, tables: dict[str, object], part: str) -> dict[str, float | str]:
    """No model at all: a user is the mean of the features of the own items."""
    parts = before.whole.split(SPLIT)
    rows = [np.asarray(table.vectors, dtype=np.float32) for table in tables.values()]  # type: ignore[attr-defined]
    items = np.concatenate(
        [one / np.maximum(np.linalg.norm(one, axis=1, keepdims=True), 1e-9) for one in rows], 1
    )
    users = np.zeros((before.whole.n_users, items.shape[1]), dtype=np.float32)
    np.add.at(users, parts.train.users, items[parts.train.items])
    return measure("content alone", users, items, before, part)


def _retrained(run: Run, before: Before, part: str) -> dict[str, float | str]:
    data = run.training_data(before.whole, run.split(before.whole))
    with torch.no_grad():
        vectors: Vectors = run.model(data).vectors()
    assert vectors.table is not None
    users, items = vectors.table.numpy(), vectors.items.numpy()
    return measure("retrained", users, items, before, part)


def search(config: ExperimentConfig, split: str, to: Path) -> list[dict[str, float | str]]:
    """Validation of every number of neighbours and temperature."""
    whole, seed = Dataset(config.data), config.train.seed
    before = go_back(whole, split, to / "dataset")
    run = prepare(config, before.dataset.path, to / f"{config.model}-before-{seed}")
    parts = run.split(before.dataset)
    data = run.training_data(before.dataset, parts)
    with torch.no_grad():
        vectors: Vectors = run.model(data).vectors()
    assert vectors.table is not None
    users, known, cold = vectors.table.numpy(), vectors.items.numpy(), before.cold["valid"]
    usable = np.bincount(parts.train.items, minlength=len(known)) > 0
    new = {}
    for modality, name in config.features.items():
        table = whole.features(name)
        new[modality] = type(table)(name, modality, np.asarray(table.vectors)[cold], table.present[cold])
    lines = []
    for k in KS:
        for temperature in TEMPERATURES:
            made = mix_neighbours(new, data.features, known, usable, k=k, temperature=temperature)
            items = _place(before, np.concatenate([known, made]), cold)
            lines.append(measure(f"k {k}, temperature {temperature}", users, items, before, "valid"))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--split", default="cold")
    parser.add_argument("--part", choices=["valid", "test", "search"], default="valid")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to", type=Path, default=Path("runs/cold"))
    given = parser.parse_args()
    config = load_config(given.config, [f"train.seed={given.seed}"])
    lines = (
        search(config, given.split, given.to)
        if given.part == "search"
        else compare(config, given.split, given.part, given.to)
    )
    for line in lines:
        print(
            f"{line['vectors']:28}  cold {line['cold']:.4f}  all {line['all']:.4f}  length {line['length']:.2f}"
        )
    print(json.dumps({"part": given.part, "seed": given.seed, "lines": lines}))


if __name__ == "__main__":
    main()
