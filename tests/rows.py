"""Small tables of rows with a planted structure, for tests of rankers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmrec.codes.table import CodeTable
from mmrec.data.rows.table import HistoryField, Lists, RowBatch, RowData, RowField, RowTable
from mmrec.encode.features import FeatureTable
from mmrec.lazy_adam import LazyAdam
from tests.learning import area_under_curve

N_ITEMS = 24  # beside padding and the unknown one


def planted_rows(
    n: int = 400,
    *,
    seed: int = 0,
    histories: Sequence[str] = ("history",),
    with_items: bool = True,
    length: int = 6,
) -> RowData:
    """Rows that are clicked if and only if the item's kind is the one that most of the history is of.

    Beside that there is noise: a category, tags and a number of the row, tags and a number of the item. Every kind of
    field is there, some rows have no history, some values are missing or unknown, two items lack the features.

    Args:
        n: Number of rows.
        seed: Of everything.
        histories: Names of the histories; all hold items of the same kind.
        with_items: False gives rows of ``color``, ``labels`` and ``price`` only; then the label is chance.
        length: Longest history.
    """
    rng = np.random.default_rng(seed)
    size = N_ITEMS + 2
    kinds = np.concatenate([[0], 1 + np.arange(N_ITEMS) % 2, [0]])
    items = rng.integers(1, size - 1, n)
    liked = rng.integers(1, 3, n)
    by_kind = {kind: np.flatnonzero(kinds == kind) for kind in (1, 2)}
    columns: dict[str, Any] = {
        "color": rng.integers(0, 6, n).astype(np.int32),
        "labels": Lists.of([rng.integers(1, 5, rng.integers(0, 4)).tolist() for _ in range(n)]),
        "price": rng.normal(size=n).astype(np.float32),
    }
    fields = [RowField("color", "category", 6), RowField("labels", "tags", 5), RowField("price", "number")]
    if not with_items:
        return RowData(tuple(fields), RowTable(columns, rng.integers(0, 2, n).astype(np.int8)))
    columns["item"] = items.astype(np.int32)
    for number, name in enumerate(histories):
        lengths = rng.integers(0 if number else 1, length + 1, n)
        columns[name] = Lists.of(
            [rng.choice(by_kind[kind], count).tolist() for kind, count in zip(liked, lengths, strict=True)]
        )
    tags = np.zeros((size, 3), dtype=np.int32)
    tags[1:-1] = rng.integers(1, 4, (N_ITEMS, 3)) * (np.arange(3) < rng.integers(0, 4, N_ITEMS)[:, None])
    weights = np.concatenate([[0], rng.normal(size=N_ITEMS), [0]]).astype(np.float32)
    rows = np.concatenate([[-1], rng.permutation(N_ITEMS), [-1]])
    return RowData(
        fields=(*fields, RowField("item", "category", size)),
        train=RowTable(columns, (kinds[items] == liked).astype(np.int8), np.arange(n, dtype=np.int64) % 17),
        item="item",
        histories=tuple(HistoryField(name, length) for name in histories),
        item_fields=(
            RowField("kind", "category", 4),
            RowField("topics", "tags", 4),
            RowField("weight", "number"),
        ),
        item_values={"kind": kinds.astype(np.int32), "topics": tags, "weight": weights},
        item_rows=rows,
        features={"text": _features(rng)},
        codes={"text": CodeTable("text", _codes(), (4, 6))},
    )


def _features(rng: np.random.Generator) -> FeatureTable:
    vectors = rng.normal(size=(N_ITEMS, 5)).astype(np.float32)
    present = np.ones(N_ITEMS, dtype=bool)
    present[[2, 7]] = False
    return FeatureTable("text", "text", vectors * present[:, None], present)


def _codes() -> NDArray[np.int32]:
    item = np.arange(N_ITEMS)
    return np.stack([item % 4, item // 4], 1).astype(np.int32)


def crossed_rows(n: int = 600, seed: int = 0) -> RowData:
    """Rows of two fields x1 and x2 with two values each, clicked if and only if they are the same."""
    rng = np.random.default_rng(seed)
    pairs = rng.integers(1, 3, (2, n))
    fields = (RowField("x1", "category", 4), RowField("x2", "category", 4))
    columns = {"x1": pairs[0].astype(np.int32), "x2": pairs[1].astype(np.int32)}
    return RowData(fields, RowTable(columns, (pairs[0] == pairs[1]).astype(np.int8)))


def whole_batch(data: RowData) -> RowBatch:
    """All training rows at once."""
    return next(data.train.batches(len(data.train)))


def some_rows(batch: RowBatch, rows: Sequence[int]) -> RowBatch:
    """Some rows of a batch, padded as they were."""
    chosen = torch.tensor(rows)
    return RowBatch({name: value[chosen] for name, value in batch.values.items()}, batch.labels[chosen])


def replaced(batch: RowBatch, **values: Tensor) -> RowBatch:
    """A batch with other values in some fields."""
    return RowBatch({**batch.values, **values}, batch.labels)


def settings(kind: Any, **params: Any) -> Any:
    """The config of a ranker; what reads the states of the latest items reads fewer than a history has here."""
    small = {"latest": 3} if "latest" in kind.config_type.model_fields else {}
    return kind.config_type(**{**small, **params})


def build(kind: Any, data: RowData, *, seed: int = 0, **params: Any) -> Any:
    """An untrained ranker."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(settings(kind, **params), data)


def shaken(kind: Any, data: RowData, *, by: float = 0.3, **params: Any) -> Any:
    """A ranker in evaluation mode whose parameters are far from their initial values; what is missing stays zero."""
    model = build(kind, data, **params).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            moved = by * torch.randn(parameter.shape, generator=generator)
            if name.endswith("table.weight"):
                moved[model.inputs.paddings] = 0
            parameter.add_(moved)
    return model


def fit(
    model: Any, data: RowData, *, epochs: int = 10, lr: float = 0.02, batch_size: int = 64
) -> list[float]:
    """Train in place; gives the mean loss of each epoch."""
    tables = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    dense = [own for own in model.parameters() if not any(own is table for table in tables)]
    optimizers = [LazyAdam(tables, lr=lr), torch.optim.Adam(dense, lr=lr)]
    losses = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.train()
        for epoch in range(epochs):
            own = []
            for batch in data.train.batches(batch_size, torch.Generator().manual_seed(epoch)):
                for optimizer in optimizers:
                    optimizer.zero_grad()
                loss = torch.stack(list(model.loss(batch).values())).sum()
                loss.backward()
                for optimizer in optimizers:
                    optimizer.step()
                own.append(float(loss.detach()))
            losses.append(float(np.mean(own)))
    model.eval()
    return losses


def area(model: Any, data: RowData) -> float:
    """Area under the curve of a ranker on the rows of ``data``."""
    with torch.no_grad():
        scores = model.eval().score(whole_batch(data))
    return area_under_curve(scores[None], torch.from_numpy(data.train.labels > 0)[None])
