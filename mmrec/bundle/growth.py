"""A model that reads what items are made of, rebuilt with more of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmrec.codes.table import Codes, CodeTable
from mmrec.config import ExperimentConfig
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from mmrec.errors import ConfigError
from mmrec.runs import build_model, restore


def put_rows(old: NDArray[Any], rows: NDArray[np.int64], new: NDArray[Any]) -> NDArray[Any]:
    """A copy of ``old (n, …)`` with ``new`` at ``rows``, which may go on beyond its end without a gap."""
    n = max(len(old), int(rows.max(initial=-1)) + 1)
    grown = np.zeros((n, *old.shape[1:]), dtype=old.dtype)
    grown[: len(old)] = old
    grown[rows] = new
    return grown


def grow_features(
    known: Mapping[str, FeatureTable], rows: NDArray[np.int64], new: Mapping[str, FeatureTable]
) -> dict[str, FeatureTable]:
    """Tables with the features of new items at ``rows (m,)``."""
    return {
        modality: _like(
            table,
            put_rows(np.asarray(table.vectors), rows, new[modality].vectors),
            put_rows(np.asarray(table.present), rows, new[modality].present),
        )
        for modality, table in known.items()
    }


def first_items(data: TrainingData, n: int) -> TrainingData:
    """Training data without the features of items beyond the first n; it has no codes."""
    features = {
        modality: _like(table, np.asarray(table.vectors)[:n], np.asarray(table.present)[:n])
        for modality, table in data.features.items()
    }
    return dataclasses.replace(data, n_items=n, features=features)


def _like(
    table: FeatureTable, vectors: NDArray[np.floating[Any]], present: NDArray[np.bool_]
) -> FeatureTable:
    """A table of other items by the same name, whose columns mean the same."""
    manifest = {} if table.vocabulary is None else {"vocabulary": table.vocabulary}
    return FeatureTable(table.name, table.modality, vectors, present, manifest)


def grow_codes(table: CodeTable, rows: NDArray[np.int64], codes: Codes) -> CodeTable:
    """A table with the codes of new items at ``rows (m,)``.

    Raises:
        ConfigError: It keeps more of each item than codes, such as the vectors of a graph network.
    """
    other = [name for name in table.arrays if name != "present"]
    if other:
        raise ConfigError(
            f"codes {table.name} and nothing else of each item",
            f"{', '.join(other)} beside them",
            "tokenize and train again with the new items",
        )
    arrays = {
        name: put_rows(array, rows, np.ones(len(rows), np.bool_)) for name, array in table.arrays.items()
    }
    return CodeTable(table.name, put_rows(table.codes, rows, codes), table.sizes, arrays=arrays)


def grow_data(data: TrainingData, **parts: Any) -> TrainingData:
    """Training data with other features or codes, whose number of rows is the size of the catalogue."""
    grown = dataclasses.replace(data, **parts)
    sizes = [len(table.present) for table in grown.features.values()]
    sizes += [table.n_items for table in grown.codes.values()]
    return dataclasses.replace(grown, n_items=max(sizes, default=data.n_items))


def grow_model(
    config: ExperimentConfig, data: TrainingData, state: Mapping[str, Tensor]
) -> tuple[Any, dict[str, Tensor]]:
    """The trained model over more items, and its tensors: those of items are longer by rows of zeros.

    Args:
        config: Of the model.
        data: With the new items.
        state: Tensors of the model without them.

    Raises:
        NotFittedError: Config, data and tensors do not belong together.
    """
    model = build_model(config, data)
    buffers = {name for name, _ in model.named_buffers()}
    grown, own = dict(state), model.state_dict()
    for name in own.keys() & state.keys():
        if name in buffers and own[name].dim() and len(own[name]) == data.n_items:
            grown[name] = own[name]  # made from the data
        elif own[name].dim() and len(more := own[name][len(state[name]) :]):
            grown[name] = torch.cat([state[name], torch.zeros_like(more)])
    restore(model, grown, Path("the bundle's checkpoint"))
    return model.eval(), grown
