"""DCNv2: explicit crosses of bounded degree beside a network."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from mmrec.data.rows.table import RowBatch, RowData
from mmrec.losses import click_loss
from mmrec.models.ctr.crosses import CrossConfig, DeepCross
from mmrec.models.ctr.inputs import RowInputs


class Config(CrossConfig):
    """Hyper-parameters of DCNv2."""


class DCNv2(nn.Module):
    """``s = w · [x_L ; MLP(x_0)] + b`` with crosses ``x_{l+1} = x_0 ⊙ (W_l x_l + b_l) + x_l``.

    x_0 is all fields side by side; tags and histories are fields of their mean vector. L layers hold all crosses of the
    entries of x_0 up to degree L + 1. ``cross: low-rank`` has ``W_l = U_l V_lᵀ``; ``mixture`` sums such over experts,
    with tanh inside and a gate for each (:class:`mmrec.models.ctr.crosses.Mixture`); ``structure`` places the network
    (:class:`mmrec.models.ctr.crosses.DeepCross`).

    Source: Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank
    Systems", WWW 2021.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "rows"
    modalities: ClassVar = "optional"
    cold_items: ClassVar = True

    def __init__(self, config: Config, data: RowData) -> None:
        super().__init__()
        self.config = config
        self.inputs = RowInputs(data, config.dim, config.init_std)
        self.body = DeepCross(self.inputs.n_fields * config.dim, config)
        self.out = nn.Linear(self.body.width, 1)

    def loss(self, batch: RowBatch) -> dict[str, Tensor]:
        """Binary cross-entropy."""
        return {"bce": click_loss(self.score(batch), batch.labels)}

    def score(self, batch: RowBatch) -> Tensor:
        """Logits ``(b,)``."""
        logits: Tensor = self.out(self.body(self.inputs(batch).flat()))[:, 0]
        return logits
