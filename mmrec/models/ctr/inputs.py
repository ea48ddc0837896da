"""From a batch of rows to vectors: what all rankers have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mmrec.data.rows.table import PADDING, RowBatch, RowData
from mmrec.encode.features import FeatureTable
from mmrec.errors import DataError
from mmrec.models.contracts import ModelConfig
from mmrec.nn import gather
from mmrec.ragged import Links, find_distinct, take


class RankerConfig(ModelConfig):
    """Hyper-parameters that (nearly) all rankers share."""

    dim: int = Field(16, ge=1, description="width of the vector of a field")
    init_std: float = Field(0.01, gt=0, description="standard deviation of the embeddings at the start")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of values left out in training")


@dataclass(frozen=True, eq=False)
class History:
    """One history of each row, as places in the table :attr:`Embedded.items`.

    Attributes:
        places: ``(b, n)`` oldest first; 0, the item that is none, at padding.
        present: ``(b, n)`` False at padding.
        links: The places that are no padding, row by row.
    """

    places: Tensor
    present: Tensor
    links: Links

    def latest(self, count: int) -> tuple[Tensor, Tensor]:
        """Places ``(b, count)`` of the last items, the latest first, and which are there."""
        lengths = self.present.sum(1, keepdim=True)
        columns = lengths - 1 - torch.arange(count, device=lengths.device)
        return self.places.gather(1, columns.clamp(min=0)) * (columns >= 0), columns >= 0


@dataclass(frozen=True, eq=False)
class Embedded:
    """Vectors of a batch; d is ``dim`` times the number of fields of an item.

    Attributes:
        context: ``(b, n_context, dim)`` fields that are not the item's.
        target: ``(b, d)`` the item that each row is about; ``(b, 0)`` where there is no item field.
        items: ``(u, d)`` each item of the batch once, whether target or in a history; the first is none, and zero.
        ids: ``(u,)`` the ids of those items.
        histories: By name.
        dim: Width of a field.
    """

    context: Tensor
    target: Tensor
    items: Tensor
    ids: Tensor
    histories: Mapping[str, History]
    dim: int

    def fields(self) -> Tensor:
        """``(b, n_fields, dim)``: context, item, and the mean over each history of each of the item's fields."""
        means = [history.links.mean(self.items) for history in self.histories.values()]
        return torch.cat(
            [self.context, *(part.view(len(part), -1, self.dim) for part in (self.target, *means))], 1
        )

    def flat(self) -> Tensor:
        """``(b, n_fields * dim)``: :meth:`fields` side by side."""
        return self.fields().flatten(1)

    def attended(self, units: Iterable[nn.Module]) -> list[Tensor]:
        """What a unit for each history, called with target, items and history, makes of it."""
        histories = self.histories.values()
        return [
            unit(self.target, self.items, history) for unit, history in zip(units, histories, strict=True)
        ]

    def beside(self, found: Sequence[Tensor]) -> Tensor:
        """``[context ; t ; found]`` side by side ``(b, …)``, with something found ``(b, …)`` in each history."""
        return torch.cat([self.context.flatten(1), self.target, *found], 1)


class RowInputs(nn.Module):
    """Embeds rows, their items and their histories.

    Every id of every field has a row in one table, whose gradient is sparse; what is missing is the zero vector and
    stays so. Tags count by their mean. A number is its value times a vector. Frozen features pass a matrix without
    constant, so an item without the modality has zeros. Semantic IDs are one more categorical field for each level.

    Items in histories have the same fields and tables as the item that the row is about. Each item of a batch is
    embedded once, however often it comes up, each row of the table is read once, and its gradient comes summed up.

    Args:
        data: Fields, and the items' side of them.
        dim: Width of a field.
        init_std: Standard deviation of the vectors at the start.

    Attributes:
        before_lookup: Called in training with the rows ``(n,)``, each once, that are about to be read from the table
            (:meth:`mmrec.lazy_adam.LazyAdam.catch_up`).
    """

    starts: Tensor
    item_categories: Tensor
    item_numbers: Tensor
    item_rows: Tensor

    def __init__(self, data: RowData, dim: int, init_std: float = 0.01) -> None:
        super().__init__()
        self.dim, self.item = dim, data.item
        self.histories = [history.name for history in data.histories]
        if self.item is None and self.histories:
            raise DataError(
                "an item field for the histories to be about",
                f"none, but histories {', '.join(self.histories)}",
                "say in the schema which field is the item",
            )
        self.before_lookup: Callable[[Tensor], None] | None = None
        own = [field for field in data.fields if field.name != data.item]
        self.categories, self.tags, self.numbers = (
            [field for field in own if field.kind == kind] for kind in ("category", "tags", "number")
        )
        self.rows = 0  # of the table, so far
        self.paddings: list[int] = []
        starts = {field.name: self._reserve(field.size) for field in (*self.categories, *self.tags)}
        self.tag_starts = {field.name: starts[field.name] for field in self.tags}
        category_starts = [starts[field.name] for field in self.categories]
        self.register_buffer("starts", torch.tensor(category_starts, dtype=torch.int64), persistent=False)
        self.number_vectors = self._vectors(len(self.numbers), init_std)
        self.contents = nn.ModuleDict()
        self.n_item_fields = 0 if self.item is None else self._add_items(data, init_std)
        self.n_context = len(own)
        self.n_fields = self.n_context + self.n_item_fields * (1 + len(self.histories))
        self.table = nn.Embedding(max(self.rows, 1), dim, padding_idx=PADDING, sparse=True)
        self._reset(init_std)

    def _reserve(self, size: int) -> int:
        """Room for ``size`` more ids in the table; gives the first row."""
        self.paddings.append(self.rows)
        self.rows += size
        return self.paddings[-1]

    def _vectors(self, count: int, init_std: float) -> nn.Parameter | None:
        return nn.Parameter(torch.randn(count, self.dim) * init_std) if count else None

    @torch.no_grad()
    def _reset(self, init_std: float) -> None:
        """Draw the table. Missing ids are led to the first row; those of the other fields are never read."""
        self.table.weight.normal_(std=init_std)
        self.table.weight[self.paddings] = 0

    def _add_items(self, data: RowData, init_std: float) -> int:
        """Keep the items' side of the data; gives how many fields an item has."""
        size = next(field.size for field in data.fields if field.name == data.item)
        rows = np.full(size, -1) if data.item_rows is None else data.item_rows
        self.register_buffer("item_rows", torch.from_numpy(np.array(rows)), persistent=False)
        columns = self._add_item_categories(data, size, rows)
        self.item_tags: list[str] = []
        for field in data.item_fields:
            if field.kind == "tags":
                self.item_tags.append(f"item_tags_{len(self.item_tags)}")
                moved = self._moved(data.item_values[field.name], self._reserve(field.size))
                self.register_buffer(self.item_tags[-1], moved, persistent=False)
        numbers = [data.item_values[field.name] for field in data.item_fields if field.kind == "number"]
        self.item_number_vectors = self._vectors(len(numbers), init_std)
        if numbers:
            stacked = torch.from_numpy(np.stack(numbers, 1).astype(np.float32))
            self.register_buffer("item_numbers", stacked, persistent=False)
        for modality in sorted(data.features):
            self.contents[modality] = Content(data.features[modality], self.dim)
        return columns + len(self.item_tags) + len(numbers) + len(self.contents)

    def _add_item_categories(self, data: RowData, size: int, rows: NDArray[np.int64]) -> int:
        """Keep an item's own id, its fields of one id, and its semantic IDs; gives how many they are."""
        found = {str(data.item): self._moved(np.arange(size), self._reserve(size))}
        for field in data.item_fields:
            if field.kind == "category":
                found[field.name] = self._moved(data.item_values[field.name], self._reserve(field.size))
        for source in sorted(data.codes):
            table = data.codes[source]
            codes = np.where(rows[:, None] >= 0, table.codes[rows] + 1, PADDING)
            for level, codes_of_level in enumerate(table.sizes):
                moved = self._moved(codes[:, level], self._reserve(codes_of_level + 1))
                found[f"{source}:{level}"] = moved
        self.item_columns = list(found)
        self.register_buffer("item_categories", torch.stack(list(found.values()), 1), persistent=False)
        return len(found)

    @staticmethod
    def _moved(ids: NDArray[np.generic], start: int) -> Tensor:
        """Rows of the table for ids of a field that begins at ``start``; int32, as there may be many."""
        ids = np.asarray(ids, dtype=np.int64)
        return torch.from_numpy(np.where(ids == PADDING, PADDING, ids + start).astype(np.int32))

    def forward(self, batch: RowBatch) -> Embedded:
        """Vectors of a batch."""
        items, places, lists = self._distinct_items(batch)
        of_context = self._context_ids(batch)
        looked_up = self._look_up([*of_context, *([] if items is None else self._item_ids(items))])
        context = _join([*looked_up[: len(of_context)], *self._number_fields(batch)])
        b = len(batch)
        if self.item is None or items is None:
            nothing = context.new_zeros(b, 0)
            return Embedded(context, nothing, nothing, places, {}, self.dim)
        of_items = _join([*looked_up[len(of_context) :], *self._item_dense_fields(items)]).flatten(1)
        histories, start = {}, b
        for name, ids in lists.items():
            part, present = places[start : start + ids.numel()].view_as(ids), ids != PADDING
            histories[name] = History(part, present, Links.of(part, present, len(items)))
            start += ids.numel()
        return Embedded(context, take(of_items, places[:b]), of_items, items, histories, self.dim)

    def _distinct_items(self, batch: RowBatch) -> tuple[Tensor | None, Tensor, dict[str, Tensor]]:
        """Items ``(u,)`` of a batch, none first; where its targets, then its histories are among them; the histories."""
        if self.item is None:
            return None, batch.labels.new_zeros(0, dtype=torch.int64), {}
        lists = {name: trim(batch.values[name]) for name in self.histories}
        targets = batch.values[self.item]
        none = targets.new_full((1,), PADDING)
        items, groups = find_distinct(torch.cat([none, targets, *(ids.flatten() for ids in lists.values())]))
        return items, groups.index[1:], lists

    def _context_ids(self, batch: RowBatch) -> list[Tensor]:
        """Rows of the table: of all categories ``(b, c)``, then of each field of tags ``(b, 1, t)``."""
        ids = [batch.values[field.name] for field in self.categories]
        columns = torch.stack(ids, 1) if ids else self.starts.new_zeros(len(batch), 0)
        tags = [trim(batch.values[name])[:, None] for name in self.tag_starts]
        starts: list[Tensor | int] = [self.starts, *self.tag_starts.values()]
        return [
            (part + start) * (part != PADDING) for part, start in zip([columns, *tags], starts, strict=True)
        ]

    def _item_ids(self, items: Tensor) -> list[Tensor]:
        """Likewise for items ``(u,)``."""
        tags = [getattr(self, name)[items].long()[:, None] for name in self.item_tags]
        return [self.item_categories[items].long(), *tags]

    def _look_up(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Vectors of rows of the table: ``(n, c)`` to ``(n, c, dim)``, tags ``(n, 1, t)`` to their mean ``(n, 1, dim)``."""
        rows, groups = find_distinct(torch.cat([part.flatten() for part in parts]))
        if self.training and self.before_lookup is not None:
            self.before_lookup(rows)
        vectors = torch.split(groups.take(self.table(rows)), [part.numel() for part in parts])
        found = []
        for part, own in zip(parts, vectors, strict=True):
            block = own.view(*part.shape, self.dim)
            if part.ndim == 3:
                block = block.sum(2) / (part != PADDING).sum(2).clamp(min=1)[:, :, None]
            found.append(block)
        return found

    def _number_fields(self, batch: RowBatch) -> list[Tensor]:
        if self.number_vectors is None:
            return []
        values = torch.stack([batch.values[field.name] for field in self.numbers], 1)
        return [values[:, :, None] * self.number_vectors]

    def _item_dense_fields(self, items: Tensor) -> list[Tensor]:
        found = []
        if self.item_number_vectors is not None:
            found.append(self.item_numbers[items][:, :, None] * self.item_number_vectors)
        rows = self.item_rows[items]
        return found + [content(rows)[:, None] for content in self.contents.values()]

    def frozen(self, ids: Tensor) -> Tensor:
        """Frozen features ``(n, d)`` of items ``(n,)``, those of each modality of length 1, or zero; side by side."""
        rows = self.item_rows[ids]
        parts: list[Tensor] = [content.frozen(rows) for content in self.contents.values()]  # type: ignore[operator]
        return torch.cat([F.normalize(part) for part in parts], 1)


class Content(nn.Module):
    """``W x_i`` of frozen features x_i, zero for items without.

    Args:
        table: Features ``(n, d_in)``.
        dim: Width of the result.
    """

    vectors: Tensor

    def __init__(self, table: FeatureTable, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(table.dim, dim, bias=False)
        present = torch.from_numpy(np.array(table.present))
        vectors = F.pad(table.tensor() * present[:, None], (0, 0, 1, 0))  # a first row of zeros, for -1
        self.register_buffer("vectors", vectors, persistent=False)

    def frozen(self, rows: Tensor) -> Tensor:
        """Features ``(n, d_in)`` of rows ``(n,)``; -1 for none."""
        return gather(self.vectors, rows + 1)

    def forward(self, rows: Tensor) -> Tensor:
        """``(n, dim)`` of rows ``(n,)``; -1 for none."""
        projected: Tensor = self.map(self.frozen(rows))
        return projected


def trim(ids: Tensor) -> Tensor:
    """Lists ``(b, n)`` without the last columns in which all are padding; one column is left."""
    columns = (ids != PADDING).any(0).nonzero()
    return ids[:, : int(columns[-1]) + 1 if len(columns) else 1]


def _join(blocks: Sequence[Tensor]) -> Tensor:
    """Blocks ``(n, c, dim)`` side by side; copies only if there is more than one with anything in it."""
    filled = [block for block in blocks if block.shape[1]]
    return torch.cat(filled, 1) if len(filled) > 1 else (filled or blocks)[0]
