"""VBPR: matrix factorisation with a content term."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmrec import losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from mmrec.graph import modality_weights
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import gather, product_rows, seen_items


class Config(ModelConfig):
    """Hyper-parameters of VBPR."""

    dim: int = Field(64, ge=1, description="width of the collaborative and of the content factors, each")
    reg: float = Field(1e-2, ge=0, description="weight of the penalty on the batch's embeddings")
    penalty: Literal["norm", "squared"] = Field(
        "norm", description="unsquared norms (the field's toolboxes) or L2"
    )
    standardize: bool = Field(
        False, description="scale each modality to unit mean square, so that none dominates"
    )


class VBPR(nn.Module):
    """``s(u, i) = p_u · [q_i ; W x_i + b]`` with all modalities side by side in x, frozen.

    Each user has ``dim`` collaborative and ``dim`` content factors; the penalty sees the composed rows of the batch.
    Departs from the paper as the field's toolboxes do: no biases, no visual bias, one joint projection, text beside
    images. Absent modalities are zeros in x. An item without training interactions keeps only its content term.

    Source: He and McAuley, "VBPR: Visual Bayesian Personalized Ranking from Implicit Feedback", AAAI 2016.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True
    features: Tensor
    seen: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        modality_weights(list(data.features), 0)  # raises where there are no features
        tables = {modality: data.features[modality].tensor() for modality in sorted(data.features)}
        self.scales = {
            modality: table.pow(2).mean().sqrt() if config.standardize else 1.0
            for modality, table in tables.items()
        }
        self.register_buffer("features", self._join(tables), persistent=False)
        self.users = nn.Parameter(nn.init.xavier_uniform_(torch.empty(data.n_users, 2 * config.dim)))
        self.items = nn.Parameter(nn.init.xavier_uniform_(torch.empty(data.n_items, config.dim)))
        self.map = nn.Linear(self.features.shape[1], config.dim)
        nn.init.xavier_normal_(self.map.weight)
        nn.init.zeros_(self.map.bias)
        self.register_buffer("seen", seen_items(data), persistent=False)

    def _join(self, tables: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([tables[modality] / scale for modality, scale in self.scales.items()], dim=1)

    def _compose(self, items: Tensor) -> Tensor:
        return torch.cat(
            [gather(self.items, items), self.map(gather(product_rows(self.features), items))], dim=1
        )

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch; only its own items are projected."""
        users, positives, negatives = (
            gather(self.users, batch.users),
            self._compose(batch.positives),
            self._compose(batch.negatives),
        )
        penalty = losses.PENALTIES[self.config.penalty](users, positives, negatives)
        return {
            "bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config.reg * penalty,
        }

    def vectors(self) -> Vectors:
        """User table and composed items, ``(n, 2 dim)``."""
        content = self.map(self.features)
        return Vectors.from_tables(self.users, torch.cat([self.items * self.seen, content], dim=1))

    def extend(self, features: Mapping[str, FeatureTable]) -> Tensor:
        """Vectors ``(m, 2 dim)`` of new items: their content term alone."""
        rows = self._join({modality: table.tensor() for modality, table in features.items()})
        content: Tensor = self.map(rows.to(self.features.device))
        return torch.cat([torch.zeros_like(content), content], dim=1)
