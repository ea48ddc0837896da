"""What models of next items share: hyper-parameters, losses, and the way from a history to a user vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmrec import losses
from mmrec.attention import last_states, trim_padding
from mmrec.data.batches import HistoryBatch, last_items
from mmrec.models.contracts import ModelConfig, Users, Vectors
from mmrec.nn import gather


class SequenceConfig(ModelConfig):
    """Hyper-parameters that all models of next items share."""

    dim: int = Field(64, ge=1, description="width of the item vectors")
    max_length: int = Field(50, ge=1, description="how many of a user's last items are read")
    dropout: float = Field(0.2, ge=0, lt=1, description="share of values left out in training")
    loss: Literal["ce", "sampled", "bce"] = Field(
        "ce",
        description="softmax over the catalogue, over sampled items with logQ correction, or one negative each",
    )
    negatives: int = Field(1024, ge=1, description="items sampled for each batch by loss: sampled")
    sampler: Literal["uniform", "popularity"] = Field(
        "uniform", description="how loss: sampled draws: all items alike, or by their training interactions"
    )


def batch_kind(config: SequenceConfig) -> str:
    """Which batches the loss asks for."""
    return "history-pairs" if config.loss == "bce" else "histories"


def sequence_vectors(encode: Callable[[Tensor], Tensor], table: Tensor, max_length: int) -> Vectors:
    """Vectors of a model whose user vector is its state after the last item.

    Args:
        encode: From histories ``(b, t)`` to states ``(b, t, d)``.
        table: Item vectors ``(n_items, d)``.
        max_length: How many of a user's last items are read.
    """

    def of(users: Users) -> Tensor:
        items = trim_padding(last_items(users.histories, max_length)[0]).to(table.device)
        return last_states(encode(items), items)

    return Vectors(table, of)


class NextItemLoss(nn.Module):
    """The loss of queries whose inner products with item vectors are to rank the next item first.

    - ce: ``mean -log softmax(q·t)_y`` over the catalogue.
    - sampled: the same over y and ``negatives`` items drawn for the batch, each corrected by the logarithm of how often
      it is drawn, so that the expected gradient is near that of ce; drawn uniformly, without repeats, all items give
      ce exactly. An item that was drawn and is the target itself does not count twice.
    - bce: ``mean softplus(-q·t_y) + softplus(q·t_j)`` with an item j that the user does not have.

    Source: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018 (bce); Yi et al., RecSys 2019
    (logQ); Klenitskiy and Vasilev, "Turning Dross Into Gold Loss", RecSys 2023, for what ce does to SASRec.

    Args:
        config: Loss, number of negatives and sampler.
        counts: ``(n_items,)`` training interactions of each item.
    """

    counts: Tensor

    def __init__(self, config: SequenceConfig, counts: Tensor) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("counts", counts.float(), persistent=False)

    def forward(self, states: Tensor, table: Tensor, batch: HistoryBatch) -> Tensor:
        """The loss of states ``(b, t, d)``, one for each item of the batch, and item vectors ``(n_items, d)``."""
        if self.config.loss == "sampled":
            positive, negative, log_q = self.sampled_scores(states, table, batch)
            return losses.sampled_softmax(positive, negative, None, log_q)
        inside = batch.targets >= 0
        queries, targets = states[inside], batch.targets[inside]
        if self.config.loss == "ce":
            return losses.softmax_cross_entropy(queries, table, targets)
        assert batch.negatives is not None
        positive, negative = (gather(table, ids) for ids in (targets, batch.negatives[inside]))
        return losses.binary_cross_entropy((queries * positive).sum(1), (queries * negative).sum(1))

    def sampled_scores(
        self, states: Tensor, table: Tensor, batch: HistoryBatch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scores of the targets ``(p,)`` and of items drawn for the batch ``(p, n)``, and how often those are drawn.

        A drawn item that is the target itself has -inf. The last is a logarithm ``(n,)``.
        """
        inside = batch.targets >= 0
        queries, targets = states[inside], batch.targets[inside]
        drawn, log_q = self._draw(len(table))
        negative = queries @ gather(table, drawn).T
        negative = negative.masked_fill(drawn == targets[:, None], -torch.inf)
        return (queries * gather(table, targets)).sum(1), negative, log_q

    def _draw(self, n_items: int) -> tuple[Tensor, Tensor]:
        """Items ``(n,)`` from the global generator, and the logarithm of how often each is expected."""
        n, device = self.config.negatives, self.counts.device
        if self.config.sampler == "uniform":
            n = min(n, n_items)
            drawn = torch.randperm(n_items)[:n].to(device)
            return drawn, torch.full((n,), n / n_items, device=device).log()
        drawn = torch.multinomial(self.counts, n, replacement=True)
        return drawn, (n * self.counts[drawn] / self.counts.sum()).log()
