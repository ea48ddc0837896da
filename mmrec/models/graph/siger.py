"""SIGER: item graphs from features, repaired with co-occurrence, and semantics aligned with behaviour."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.models.graph import mgcn
from mmrec.neighbours import co_users
from mmrec.nn import batch_nodes, gather, perturb
from mmrec.ragged import first_places


class Config(mgcn.Config):
    """Hyper-parameters of SIGER: those of MGCN, whose contrast is the fused alignment, and its own."""

    co_share: float = Field(
        0.5, ge=0, le=1, description="share of the co-occurrence graph in each item graph"
    )
    co_k: int = Field(10, ge=1, description="neighbours of an item in the co-occurrence graph")
    noise: float = Field(
        0.1, ge=0, description="length of the perturbation, as a share of a vector's own length"
    )
    noise_weight: float = Field(1e-2, ge=0, description="weight of the contrast between perturbed views")
    anchor_weight: float = Field(
        1e-2, ge=0, description="weight of the alignment of each modality with behaviour"
    )


class SIGER(mgcn.MGCN):
    """MGCN's views over item graphs that know who was bought with whom, perturbed in step with each vector's length.

    Item graph of modality m: ``(1 - β) S_m + β C`` with the features' graph ``S_m`` and the symmetrically normalised
    graph C of the k items that share the most training users. Behaviour B, views ``M_m``, fused semantics Z and scores
    ``(b_u + z_u) · (b_i + z_i)`` are those of :class:`mmrec.models.graph.mgcn.MGCN`. Two perturbed views ``e + Δ`` of
    each final vector, ``Δ = ε ||e|| sign(e) ⊙ n / ||n||`` with n uniform in [0, 1], keep an angle that does not depend
    on the length of e. The loss is ``BPR + λ_1 InfoNCE(e + Δ', e + Δ'') + λ_2 anchor + λ_3 InfoNCE(Z, B) + L2``, each
    contrast for users and for items, with ``anchor = -log [Σ_m exp(cos(b_i, s_mi) / τ) / Σ_m Σ_j exp(cos(b_i, s_mj) / τ)]``
    over behaviour b, which gets no gradient from it, and the rows ``s_m`` of ``M_m``. The contrasts are over the distinct
    users and positives of the batch.

    A reconstruction: the four parts (repaired graphs, two encoders, perturbation by modulus, two alignments) are the
    paper's, as its abstract tells them. The encoders, the exact formulas of C, Δ and the anchor loss, the final sum and
    every default are ours; no number of this model stands for the paper's.

    Source: Zhang, Zhou, Zeng, Niyato, Shen, "Semantic Item Graph Enhancement for Multimodal Recommendation", 2025.
    """

    config_type: ClassVar = Config

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__(config, data)
        self.own: Config = config
        together = co_occurrence_graph(data.train, data.n_items, config.co_k)
        for view in self._views():
            view.graph = mix(view.graph, together, config.co_share)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch."""
        nodes = batch_nodes(batch, self.n_users)
        everything = graph.propagate_mean(self.graph, self.embeddings, self.config.ui_layers)
        behaviour, views = gather(everything, nodes), gather(self._modality_views(), nodes)
        present = self.present[nodes]
        side = self._fuse(views, behaviour, present)
        final = behaviour + side
        users, positives, negatives = final.chunk(3)
        terms = {
            "bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config.reg * losses.squared_penalty(users, positives, negatives),
        }
        for name, cut in (
            ("users", slice(0, len(batch.users))),
            ("items", slice(len(batch.users), -len(batch.users))),
        ):
            own, b = nodes[cut], behaviour[cut]
            terms[f"contrast_{name}"] = self.config.contrast_weight * self._contrast(side[cut], b, own)
            places = first_places(own)  # a node that comes twice is not its own negative
            terms[f"noise_{name}"] = self.own.noise_weight * self._between_views(gather(final[cut], places))
            parts = gather(views[cut], places).view(len(places), len(self.views), -1)
            terms[f"anchor_{name}"] = self.own.anchor_weight * anchor_loss(
                b[places].detach(), parts, present[cut][places], self.config.temperature
            )
        return terms

    def _between_views(self, rows: Tensor) -> Tensor:
        lengths = self.own.noise * rows.norm(dim=1, keepdim=True)
        return losses.info_nce(perturb(rows, lengths), perturb(rows, lengths), self.config.temperature)


def co_occurrence_graph(train: Histories, n_items: int, k: int) -> graph.SparseMatrix:
    """Item graph ``(n_items, n_items)``: each item's k others with the most training users in common.

    ``C_ij / sqrt(r_i r_j)`` with the counts C of the kept pairs and their row sums r; items that were never together
    with another have empty rows.
    """
    by_item = Histories.from_pairs(train.items, train.users, n_items)
    rows, columns, counts = co_users(by_item, train.n_users, k)
    values = graph.normalize_weights(rows, columns, counts, n_items)
    return graph.SparseMatrix.from_entries(rows, columns, values, (n_items, n_items))


def mix(semantic: graph.SparseMatrix, together: graph.SparseMatrix, share: float) -> graph.SparseMatrix:
    """``(1 - share) S + share C``; all of S where the share is 0, all of C where it is 1."""
    weighted = [(semantic, 1 - share), (together, share)]
    scaled = [
        matrix.scale_rows(torch.full((matrix.shape[0],), weight)) for matrix, weight in weighted if weight > 0
    ]
    mixed: graph.SparseMatrix = scaled[0] if len(scaled) == 1 else graph.add(scaled)
    return mixed


def anchor_loss(anchors: Tensor, views: Tensor, present: Tensor, temperature: float) -> Tensor:
    """``mean_i -log [Σ_m exp(cos(b_i, s_mi) / τ) / Σ_m Σ_j exp(cos(b_i, s_mj) / τ)]``.

    Args:
        anchors: b ``(b, d)``.
        views: s ``(b, n_modalities, d)``.
        present: ``(b, n_modalities)``: views of modalities that a node lacks are left out; so are nodes without any.
        temperature: τ.
    """
    has_content = present.any(1)
    if not has_content.any():
        return views.sum() * 0  # keeps the gradients defined
    anchors, views, present = anchors[has_content], views[has_content], present[has_content]
    anchors, views = F.normalize(anchors, dim=1), F.normalize(views, dim=2)
    anchors = anchors / temperature
    own = (anchors.unsqueeze(1) * views).sum(2)  # (b, n_modalities)
    gains = own.masked_fill(~present, -torch.inf).logsumexp(1)
    loss: Tensor = (losses.log_partition(anchors, views[present]) - gains.sum()) / len(anchors)
    return loss
