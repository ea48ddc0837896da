"""TransformerDCN: a Transformer over a history in the light of its target, then a deep and cross network."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mmrec.data.rows.table import RowBatch, RowData
from mmrec.losses import click_loss
from mmrec.models.ctr.crosses import CrossConfig, DeepCross, Kind
from mmrec.models.ctr.inputs import History, RowInputs
from mmrec.nn import MLP, transformer_block
from mmrec.ragged import take


class Config(CrossConfig):
    """Hyper-parameters of TransformerDCN."""

    cross: Kind = Field(
        "low-rank", description="matrix of a cross layer: full, of low rank, or a mixture of such"
    )
    max_length: int = Field(64, ge=1, description="how many of a history's last items are read")
    blocks: int = Field(2, ge=1, description="Transformer blocks")
    heads: int = Field(1, ge=1, description="attention heads, a divisor of twice dim")
    latest: int = Field(
        16, ge=1, description="states of the latest items that the crosses read, beside the maximum"
    )
    head_hidden: tuple[int, ...] = Field(
        (64, 32), description="widths of the layers behind crosses and network"
    )

    @model_validator(mode="after")
    def _check(self) -> Config:
        if 2 * self.dim % self.heads:
            raise ValueError(f"heads must divide twice dim: {2 * self.dim} / {self.heads}")
        return self


class TokenEncoder(nn.Module):
    """Transformer over tokens ``[s_j ; t]``; gives the states of the latest items and the maximum over all.

    Only items that are there are attended to, and only their states are read: padding is hidden as a key, left out of
    the maximum, and zero among the latest. A row without history has zeros.

    Args:
        width: Width of the item vectors.
        config: Hyper-parameters.
    """

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.max_length, self.latest = config.max_length, config.latest
        self.blocks = nn.ModuleList(
            transformer_block(2 * width, config.heads, 2 * width, config.dropout)
            for _ in range(config.blocks)
        )

    def forward(self, target: Tensor, items: Tensor, history: History) -> Tensor:
        """``(b, (latest + 1) * 2 width)``: states of the latest items, the latest first, then the maximum."""
        n = min(history.present.shape[1], self.max_length)
        places, present = history.latest(n)
        states = torch.cat([take(items, places), target[:, None].expand(-1, n, -1)], 2)
        hidden = ~present
        hidden[:, 0] = False  # an empty row has to attend to something; what comes of it is not read
        for block in self.blocks:
            states = block(states, src_key_padding_mask=hidden)
        shown = states * present[:, :, None]
        largest = states.masked_fill(~present[:, :, None], -torch.inf).amax(1)
        largest = torch.where(present.any(1, keepdim=True), largest, torch.zeros_like(largest))
        latest = nn.functional.pad(shown[:, : self.latest], (0, 0, 0, max(self.latest - n, 0)))
        return torch.cat([latest.flatten(1), largest], 1)


class TransformerDCN(nn.Module):
    """``s = MLP'(DCNv2([context ; t ; z_1 ; … ; z_k ; max_j z_j]))``, z_j the states of tokens ``[s_j ; t]``.

    z_1 … z_k belong to the k latest items. Blocks are post-norm Transformer blocks without positions; the crosses have low
    rank, as the input is wide (:mod:`mmrec.models.ctr.crosses`). The winner of the MM-CTR challenge had the same parts, but
    its published code hides the items and shows the padding; here it is the other way round. Several histories have a
    Transformer each.

    Source: first place of the EReL@MIR challenge at WWW 2025, arXiv:2505.03543; Wang et al., "DCN V2", WWW 2021.
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
        self.encoders = nn.ModuleList(TokenEncoder(width, config) for _ in self.inputs.histories)
        states = len(self.encoders) * (config.latest + 1) * 2 * width
        self.body = DeepCross(self.inputs.n_context * config.dim + width + states, config)
        self.head = MLP(
            self.body.width, config.head_hidden, config.dropout, batch_norm=config.batch_norm, outputs=1
        )

    def loss(self, batch: RowBatch) -> dict[str, Tensor]:
        """Binary cross-entropy."""
        return {"bce": click_loss(self.score(batch), batch.labels)}

    def score(self, batch: RowBatch) -> Tensor:
        """Logits ``(b,)``."""
        embedded = self.inputs(batch)
        flat = embedded.beside(embedded.attended(self.encoders))
        logits: Tensor = self.head(self.body(flat))[:, 0]
        return logits
