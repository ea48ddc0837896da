"""LightGCN: linear propagation of id embeddings over the user-item graph."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import embedding_tables, gather_batch, seen_items


class Config(ModelConfig):
    """Hyper-parameters of LightGCN."""

    dim: int = Field(64, ge=1, description="width of the embeddings")
    layers: int = Field(2, ge=0, description="propagation layers; 0 is BPR-MF")
    reg: float = Field(1e-3, ge=0, description="weight of the penalty on the batch's layer-0 embeddings")
    penalty: Literal["norm", "squared"] = Field(
        "norm", description="unsquared norms (the field's toolboxes) or L2"
    )


class LightGCN(nn.Module):
    """``E = mean_{l=0..L} Â^l [P; Q]``, ``s(u, i) = e_u · e_i``, ``BPR + reg * penalty(p_u, q_i, q_j)``.

    The penalty sees the layer-0 rows of the batch. Items without training interactions score 0: their embeddings
    were never trained.

    Source: He, Deng, Wang, Li, Zhang, Wang, "LightGCN: Simplifying and Powering Graph Convolution Network for
    Recommendation", SIGIR 2020. The default penalty is the toolboxes' unsquared norm; the paper's is ``squared``.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "none"
    cold_items: ClassVar = False
    seen: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.n_users = data.n_users
        self.embeddings = embedding_tables(data.n_users, data.n_items, config.dim)
        self.graph = graph.normalize_bipartite(*graph.edges(data.train), data.n_users, data.n_items)
        self.register_buffer("seen", seen_items(data), persistent=False)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch."""
        propagated = graph.propagate_mean(self.graph, self.embeddings, self.config.layers)
        users, positives, negatives = gather_batch(propagated, batch, self.n_users)
        penalty = losses.PENALTIES[self.config.penalty](*gather_batch(self.embeddings, batch, self.n_users))
        return {
            "bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config.reg * penalty,
        }

    def vectors(self) -> Vectors:
        """Propagated tables ``(n, dim)``."""
        propagated = graph.propagate_mean(self.graph, self.embeddings, self.config.layers)
        return Vectors.from_tables(propagated[: self.n_users], propagated[self.n_users :] * self.seen)
