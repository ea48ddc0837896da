"""BST: a Transformer over a history and its target."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mmrec.data.rows.table import RowBatch, RowData
from mmrec.losses import click_loss
from mmrec.models.ctr.inputs import History, RankerConfig, RowInputs
from mmrec.nn import MLP, Dropout, transformer_block
from mmrec.ragged import take


class Config(RankerConfig):
    """Hyper-parameters of BST."""

    max_length: int = Field(20, ge=1, description="how many of a history's last items are read")
    blocks: int = Field(1, ge=1, description="Transformer blocks")
    heads: int = Field(2, ge=1, description="attention heads, a divisor of dim")
    hidden: tuple[int, ...] = Field((128, 64), description="widths of the network's layers")
    batch_norm: bool = Field(False, description="normalise the network's layers over the batch")

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim: {self.dim} / {self.heads}")
        return self


class BehaviourEncoder(nn.Module):
    """Transformer over the target and the last items of a history, the latest first, with learned positions.

    Nothing attends to padding, and its states are zero.

    Args:
        width: Width of the item vectors.
        length: How many items of a history are read.
        config: Hyper-parameters.
    """

    def __init__(self, width: int, length: int, config: Config) -> None:
        super().__init__()
        self.length = length
        self.positions = nn.Parameter(torch.randn(1 + length, width) * config.init_std)
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            transformer_block(width, config.heads, 4 * width, config.dropout) for _ in range(config.blocks)
        )

    def forward(self, target: Tensor, items: Tensor, history: History) -> Tensor:
        """States ``(b, (1 + length) * width)`` side by side, the target's first."""
        places, present = history.latest(self.length)
        there = torch.cat([present.new_ones(len(target), 1), present], 1)
        states = torch.cat([target[:, None], take(items, places)], 1) + self.positions
        states = self.dropout(states)
        for block in self.blocks:
            states = block(states, src_key_padding_mask=~there)
        result: Tensor = (states * there[:, :, None]).flatten(1)
        return result


class BST(nn.Module):
    """``s = MLP([context ; z_t ; z_1 ; … ; z_n])`` with z the states of target and history after Transformer blocks.

    One block: ``x <- LN(x + Attention(x)); x <- LN(x + W_2 ReLU(W_1 x))``. Positions count from the target back, in the
    place of the published buckets of time: histories carry no times. Several histories have a Transformer each; without
    one the network reads context and target.

    Source: Chen et al., "Behavior Sequence Transformer for E-commerce Recommendation in Alibaba", 2019.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "rows"
    modalities: ClassVar = "optional"
    cold_items: ClassVar = True

    def __init__(self, config: Config, data: RowData) -> None:
        super().__init__()
        self.config = config
        self.inputs = RowInputs(data, config.dim, config.init_std)
        width = self.inputs.n_item_fields * config.dim
        lengths = [min(history.length, config.max_length) for history in data.histories]
        self.encoders = nn.ModuleList(BehaviourEncoder(width, length, config) for length in lengths)
        states = sum(1 + length for length in lengths) or 1
        self.network = MLP(
            self.inputs.n_context * config.dim + states * width,
            config.hidden,
            config.dropout,
            batch_norm=config.batch_norm,
            outputs=1,
        )

    def loss(self, batch: RowBatch) -> dict[str, Tensor]:
        """Binary cross-entropy."""
        return {"bce": click_loss(self.score(batch), batch.labels)}

    def score(self, batch: RowBatch) -> Tensor:
        """Logits ``(b,)``."""
        embedded = self.inputs(batch)
        states = embedded.attended(self.encoders)
        flat = torch.cat([embedded.context.flatten(1), *(states or [embedded.target])], 1)
        logits: Tensor = self.network(flat)[:, 0]
        return logits
