"""MENTOR: modalities encoded over the user-item graph, with alignment, feature masking and graph perturbation."""

from __future__ import annotations

from itertools import combinations
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.models.graph.dragon import ModalityEncoder, modality_shares, preference_penalty
from mmrec.nn import gather, perturb


class Config(ModelConfig):
    """Hyper-parameters of MENTOR."""

    dim: int = Field(64, ge=1, description="width of the embeddings of each modality")
    ui_layers: int = Field(2, ge=0, description="layers over the user-item graph")
    item_layers: int = Field(1, ge=0, description="layers over the item graph")
    knn_k: int = Field(10, ge=1, description="neighbours of an item in the item graph, itself included")
    image_weight: float = Field(
        0.1, ge=0, le=1, description="share of the image graph; other modalities share the rest"
    )
    reg: float = Field(1e-3, ge=0, description="weight of the penalty on user preferences and user weights")
    align_weight: float = Field(0.1, ge=0, description="weight of the alignment of the views' moments")
    mask_weight: float = Field(1.5, ge=0, description="weight of predicting masked vectors")
    mask_dropout: float = Field(0.5, ge=0, lt=1, description="share of the entries that are masked")
    contrast_weight: float = Field(1e-3, ge=0, description="weight of the contrast of two noisy passes")
    noise: float = Field(0.1, ge=0, description="length of the noise added after each layer of a noisy pass")
    temperature: float = Field(0.2, gt=0, description="temperature of the contrast")


class MENTOR(nn.Module):
    """DRAGON without its user graph, and three self-supervised terms.

    With ``x̂ = Σ_{l=0..L} Â^l x`` of each modality and of an id view (a free item table in place of features), item rows
    ``z' = z + G^L_i z`` and user rows weighted per modality, ``s(u, i)`` is the inner product of the joined
    modalities. The loss is BPR + DRAGON's penalty +

    - align: ``Σ |mean_a - mean_b| + |var_a - var_b|`` over all pairs of views (joined, id, each modality), with one
      mean and one variance of all entries of a view. Nothing else trains the id view. An item counts in the view of
      a modality only if it has it.
    - mask: ``1 - cos(f(r), dropout(r))`` of the joined rows r of the batch's users and positives, with a linear f and no
      gradient through the masked side.
    - contrast: InfoNCE of two passes with noise ``noise * sign(h) ⊙ n / |n|``, n uniform, after each layer, among the
      batch's users and among its positives.

    The published code computes mask without any gradient, and contrast on encoders of its own that are thrown away;
    here both train the model, as the paper means them, so weights found with that code need not suit. There, InfoNCE runs
    over all users and items, and BPR has log2 where it has the natural logarithm here.

    Source: Xu, Chen, Yang, Li, Wang, Ngai, "MENTOR: Multi-level Self-supervised Learning for Multimodal
    Recommendation", AAAI 2025.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True
    present: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.n_users = data.n_users
        weights = graph.modality_weights(list(data.features), config.image_weight)
        self.item_graph = graph.knn_item_graph(data.features, config.knn_k, weights, data.n_items)
        self.graph = graph.normalize_bipartite(*graph.edges(data.train), data.n_users, data.n_items)
        self.encoders = nn.ModuleDict(
            {
                modality: ModalityEncoder.of(table, data.n_users, config.dim)
                for modality, table in sorted(data.features.items())
            }
        )
        ids = nn.Parameter(nn.init.xavier_normal_(torch.empty(data.n_items, config.dim)))
        self.guide = ModalityEncoder(ids, torch.ones(data.n_items), data.n_users, config.dim)
        self.shares = modality_shares(data.n_users, len(self.encoders))
        self.predictor = nn.Linear(len(self.encoders) * config.dim, len(self.encoders) * config.dim)
        present = torch.stack([torch.tensor(table.present) for _, table in sorted(data.features.items())], 1)
        self.register_buffer("present", present.float()[:, :, None], persistent=False)

    def _encode(self) -> Tensor:
        return torch.cat([encoder() for encoder in self.encoders.values()], dim=1)

    def _join(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Joined users and items, ``(n, m dim)``, from propagated rows ``(n_users + n_items, m dim)``."""
        shares = self.shares.repeat_interleave(self.config.dim, dim=1)
        items = graph.smooth(self.item_graph, rows[self.n_users :], self.config.item_layers)
        return rows[: self.n_users] * shares, items

    def _noisy(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """A pass with noise after each layer; lengths are taken per modality."""
        total, layer = rows, rows
        for _ in range(self.config.ui_layers):
            layer = graph.propagate(self.graph, layer)
            parts = layer.reshape(-1, len(self.encoders), self.config.dim)
            layer = perturb(parts, self.config.noise).flatten(1)
            total = total + layer
        return self._join(total)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch."""
        config, encoded = self.config, self._encode()
        propagated = graph.propagate_sum(self.graph, encoded, config.ui_layers)
        all_users, items = self._join(propagated)
        users = gather(all_users, batch.users)
        positives, negatives = gather(items, torch.cat([batch.positives, batch.negatives])).chunk(2)
        masked = self._predict_masked(users) + self._predict_masked(positives)
        terms = {
            "bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": config.reg * preference_penalty(self.encoders, self.shares, batch.users),
            "align": config.align_weight * self._align(propagated[: self.n_users], all_users, items),
            "mask": config.mask_weight * masked,
        }
        if config.contrast_weight > 0:  # the dearest term: two more passes
            terms["contrast"] = config.contrast_weight * self._contrast(encoded, batch)
        return terms

    def _align(self, plain_users: Tensor, joined_users: Tensor, items: Tensor) -> Tensor:
        guide = graph.propagate_sum(self.graph, self.guide(), self.config.ui_layers)
        guide_items = graph.smooth(self.item_graph, guide[self.n_users :], self.config.item_layers)
        plain_users, joined_users, items = (
            rows.reshape(-1, len(self.encoders), self.config.dim)
            for rows in (plain_users, joined_users, items)
        )
        views = [
            _moments(joined_users, items, self.present),
            _moments(guide[: self.n_users], guide_items, self.guide.present),
        ]
        for number in range(len(self.encoders)):
            views.append(_moments(plain_users[:, number], items[:, number], self.present[:, number]))
        return torch.stack([(one - two).abs().sum() for one, two in combinations(views, 2)]).sum()

    def _predict_masked(self, rows: Tensor) -> Tensor:
        # without dropout's factor 1 / (1 - p), which a cosine does not see; and three times faster on a CPU
        target = rows.detach() * (torch.rand_like(rows) >= self.config.mask_dropout)
        return 1 - F.cosine_similarity(self.predictor(rows), target).mean()

    def _contrast(self, encoded: Tensor, batch: PairBatch) -> Tensor:
        one, two = self._noisy(encoded), self._noisy(encoded)
        total = encoded.new_zeros(())
        for first, second, ids in zip(one, two, (batch.users, batch.positives), strict=True):
            distinct = torch.unique(ids)
            total = total + losses.info_nce(
                gather(first, distinct), gather(second, distinct), self.config.temperature
            )
        return total

    def vectors(self) -> Vectors:
        """Tables ``(n, n_modalities dim)``."""
        return Vectors.from_tables(
            *self._join(graph.propagate_sum(self.graph, self._encode(), self.config.ui_layers))
        )


def _moments(users: Tensor, items: Tensor, present: Tensor) -> Tensor:
    """Mean and variance ``(2,)`` of all entries of users and of the items that are present."""
    count = users.numel() + present.sum() * items.shape[-1]
    mean = (users.sum() + (items * present).sum()) / count
    variance = ((users - mean).pow(2).sum() + ((items - mean).pow(2) * present).sum()) / count
    return torch.stack([mean, variance])
