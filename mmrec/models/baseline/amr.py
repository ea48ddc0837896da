"""AMR: VBPR whose content term is trained against an adversary that perturbs the features."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmrec import losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.graph import vbpr
from mmrec.nn import gather


class Config(vbpr.Config):
    """Hyper-parameters of AMR: those of VBPR and the adversary's."""

    epsilon: float = Field(
        0.1, ge=0, description="length of the perturbation of an item's features, in the features' own units"
    )
    adversarial_weight: float = Field(1.0, ge=0, description="weight of the loss on perturbed features")


class AMR(vbpr.VBPR):
    """VBPR's score, trained with ``BPR(x) + λ BPR(x + Δ) + reg * penalty``.

    ``Δ_i = ε Γ_i / |Γ_i|`` with ``Γ_i = ∂ BPR(x) / ∂ x_i`` summed over the batch: the small change of an item's
    features that hurts the ranking most. It is a constant in the second term. An absent modality has nothing to
    perturb. Scores are VBPR's, on clean features.

    Departs from the paper in training both terms from the start instead of first VBPR alone, and in having VBPR's
    separate collaborative and content factors. How large ε is depends on the scale of the features; see
    ``standardize``.

    Source: Tang et al., "Adversarial Training Towards Robust Multimedia Recommender System", TKDE 2020.
    """

    config_type: ClassVar = Config
    config: Config
    present: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__(config, data)
        tables = [data.features[modality] for modality in sorted(data.features)]
        present = torch.stack([torch.tensor(table.present) for table in tables], dim=1)
        self.register_buffer("present", present.float(), persistent=False)
        self.widths = [table.dim for table in tables]

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch; each of its items is projected once and perturbed as one."""
        both = torch.cat([batch.positives, batch.negatives])
        items, places = torch.unique(both, return_inverse=True)
        users, table = gather(self.users, batch.users), self._compose(items)
        clean, positives, negatives = _compare(users, table, places)
        (gradient,) = torch.autograd.grad(clean, table, retain_graph=True)
        perturbation = self._perturbation(gradient[:, self.config.dim :], items)
        moved = F.pad(F.linear(perturbation, self.map.weight), (self.config.dim, 0))
        perturbed, _, _ = _compare(users, table + moved, places)
        penalty = losses.PENALTIES[self.config.penalty](users, positives, negatives)
        return {
            "bpr": clean,
            "adversarial": self.config.adversarial_weight * perturbed,
            "penalty": self.config.reg * penalty,
        }

    def _perturbation(self, gradient: Tensor, items: Tensor) -> Tensor:
        """Δ ``(n, d)`` from the gradient ``(n, dim)`` at the projected features."""
        of_features = gradient @ self.map.weight.detach()
        parts = zip(
            torch.split(of_features, self.widths, 1), torch.split(self.present[items], 1, 1), strict=True
        )
        return self.config.epsilon * F.normalize(
            torch.cat([part * mask for part, mask in parts], dim=1), dim=1
        )


def _compare(users: Tensor, table: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """BPR of a batch, and its rows ``(b, 2 dim)`` of positives and negatives, from the batch's distinct items."""
    positives, negatives = gather(table, places).chunk(2)
    return losses.bpr((users * positives).sum(1), (users * negatives).sum(1)), positives, negatives
