"""SIM: what a long history has to do with the target is searched for first, then attended to."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmrec.data.rows.table import RowBatch, RowData
from mmrec.errors import ConfigError
from mmrec.losses import click_loss
from mmrec.models.ctr.din import ActivationUnit, DINConfig
from mmrec.models.ctr.inputs import Embedded, History, RowInputs
from mmrec.nn import MLP
from mmrec.ragged import Links


class Config(DINConfig):
    """Hyper-parameters of SIM."""

    search: Literal["learned", "features", "category"] = Field(
        "learned",
        description="what is searched for: the largest learned similarity, the largest cosine of the frozen features, or "
        "the latest items of the target's category",
    )
    category: str | None = Field(
        None,
        description="item field of search: category, or SOURCE:LEVEL of semantic IDs; the first of them if not given",
    )
    found: int = Field(16, ge=1, description="how many items of a history are attended to")


class SIM(nn.Module):
    """``s = MLP([context ; t ; v])`` with v DIN's attention over the ``found`` items of a history that fit the target best.

    Search (general search unit) costs one inner product for each item, so histories may be long:

    - learned: ``r_j = (W_a t) · (W_b s_j) / √d``. The choice of the largest has no gradient, so the term ``search`` trains r:
      binary cross-entropy of ``MLP'([context ; t ; Σ_j r_j s_j])`` over the whole history.
    - features: sum over modalities of the cosines of the frozen features of t and s_j, 0 where one of them has none;
      nothing is learned.
    - category: the latest items that share the target's category: an item field, or a level of a semantic ID.

    Attention (exact search unit) is that of :class:`mmrec.models.ctr.din.ActivationUnit`; the paper has attention with
    several heads and intervals of time, which histories here do not carry.

    Source: Pi et al., "Search-based User Interest Modeling with Lifelong Sequential Behavior Data for Click-Through Rate
    Prediction", CIKM 2020.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "rows"
    modalities: ClassVar = "optional"
    cold_items: ClassVar = True

    def __init__(self, config: Config, data: RowData) -> None:
        super().__init__()
        self.config = config
        self.inputs = RowInputs(data, config.dim, config.init_std)
        if config.search == "category" and self.inputs.histories:
            self.column = _category_column(config, self.inputs)
        if config.search == "features" and not data.features:
            raise ConfigError(
                "item features for search: features", "none in the config", "features: {MODALITY: NAME}"
            )
        width, names = self.inputs.n_item_fields * config.dim, self.inputs.histories
        self.units = nn.ModuleList(
            ActivationUnit(width, config.attention, config.dropout, config.activation, softmax=config.softmax)
            for _ in names
        )
        self.network = self._network(config)
        self.learns = config.search == "learned" and bool(names)
        if self.learns:
            self.targets, self.items = (
                nn.ModuleList(nn.Linear(width, width, bias=False) for _ in names) for _ in range(2)
            )
            self.searched = self._network(config)

    def _network(self, config: Config) -> MLP:
        width = self.inputs.n_fields * config.dim
        return MLP(width, config.hidden, config.dropout, batch_norm=config.batch_norm, outputs=1)

    def loss(self, batch: RowBatch) -> dict[str, Tensor]:
        """Binary cross-entropy; with a learned search, that of the search too."""
        embedded = self.inputs(batch)
        similarities = self._similarities(embedded, batch)
        terms = {"bce": click_loss(self._logits(embedded, similarities), batch.labels)}
        if self.learns:
            histories = embedded.histories.values()
            pooled = [
                history.links.pool(found, embedded.items)
                for history, found in zip(histories, similarities, strict=True)
            ]
            logits = self.searched(embedded.beside(pooled))[:, 0]
            terms["search"] = click_loss(logits, batch.labels)
        return terms

    def score(self, batch: RowBatch) -> Tensor:
        """Logits ``(b,)``."""
        embedded = self.inputs(batch)
        return self._logits(embedded, self._similarities(embedded, batch))

    def _similarities(self, embedded: Embedded, batch: RowBatch) -> list[Tensor]:
        """Of each history ``(m,)``: how well each item fits the target; -inf where it may not be found."""
        links = [history.links for history in embedded.histories.values()]
        if self.learns:
            width = embedded.target.shape[1]
            return [
                own.dots(target(embedded.target) @ item.weight / width**0.5, embedded.items)
                for own, target, item in zip(links, self.targets, self.items, strict=True)
            ]
        if not links or self.inputs.item is None:
            return []
        targets = batch.values[self.inputs.item]
        if self.config.search == "features":
            queries, vectors = (self.inputs.frozen(ids) for ids in (targets, embedded.ids))
            return [own.dots(queries, vectors) for own in links]
        wanted, kinds = (self.inputs.item_categories[ids, self.column] for ids in (targets, embedded.ids))
        same = [kinds[own.entries.index] == wanted[own.rows.index] for own in links]
        return [torch.where(one, 0.0, -torch.inf) for one in same]

    def _logits(self, embedded: Embedded, similarities: list[Tensor]) -> Tensor:
        histories = embedded.histories.values()
        pooled = [
            unit(
                embedded.target,
                embedded.items,
                find(history, own.detach(), self.config.found, len(embedded.items)),
            )
            for unit, history, own in zip(self.units, histories, similarities, strict=True)
        ]
        logits: Tensor = self.network(embedded.beside(pooled))[:, 0]
        return logits


def find(history: History, similarities: Tensor, found: int, n_items: int) -> History:
    """The most similar items of each row, the latest first among equals, in no order.

    Args:
        history: A history of items, of which the batch has ``n_items``.
        similarities: ``(m,)`` of each item; one with -inf is not found.
        found: Most items of a row.
        n_items: See ``history``.
    """
    padded = similarities.new_full(history.present.shape, -torch.inf)
    padded = padded.masked_scatter(history.present, similarities)
    from_end = padded.flip(1).sort(dim=1, descending=True, stable=True).indices[:, :found]
    columns = padded.shape[1] - 1 - from_end
    present = padded.gather(1, columns) > -torch.inf
    places = history.places.gather(1, columns) * present
    return History(places, present, Links.of(places, present, n_items))


def _category_column(config: Config, inputs: RowInputs) -> int:
    """Which of an item's columns of single ids the search compares."""
    known = inputs.item_columns[1:]  # the first is the item itself
    if not known or config.category not in (None, *known):
        raise ConfigError(
            f"category: one of {', '.join(known)}" if known else "an item field of one id, or semantic IDs",
            f"category: {config.category}" if known else "none in this data",
            "correct params.category" if known else "choose another params.search",
        )
    return 1 if config.category is None else 1 + known.index(config.category)
