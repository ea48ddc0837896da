"""BPR-MF: matrix factorisation with a pairwise ranking loss."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from mmrec import losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import embedding_tables, gather_batch, seen_items


class Config(ModelConfig):
    """Hyper-parameters of BPR-MF."""

    dim: int = Field(64, ge=1, description="width of the embeddings")
    reg: float = Field(1e-3, ge=0, description="weight of the penalty on the batch's embeddings")
    penalty: Literal["norm", "squared"] = Field(
        "norm", description="unsquared norms (the field's toolboxes) or L2"
    )


class BPR(nn.Module):
    """``s(u, i) = p_u · q_i``, trained with ``BPR + reg * penalty(p_u, q_i, q_j)``.

    Items without training interactions score 0: their embeddings were never trained.

    Source: Rendle, Freudenthaler, Gantner, Schmidt-Thieme, "BPR: Bayesian Personalized Ranking from Implicit
    Feedback", UAI 2009. The default penalty is the toolboxes' unsquared norm.
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
        self.register_buffer("seen", seen_items(data), persistent=False)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch."""
        users, positives, negatives = gather_batch(self.embeddings, batch, self.n_users)
        penalty = losses.PENALTIES[self.config.penalty](users, positives, negatives)
        return {
            "bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config.reg * penalty,
        }

    def vectors(self) -> Vectors:
        """User and item tables ``(n, dim)``."""
        return Vectors.from_tables(
            self.embeddings[: self.n_users], self.embeddings[self.n_users :] * self.seen
        )
