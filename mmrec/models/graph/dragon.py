"""DRAGON: a user-item graph per modality, joined with an item-item and a user-user graph."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import gather, product_rows


class Config(ModelConfig):
    """Hyper-parameters of DRAGON."""

    dim: int = Field(64, ge=1, description="width of the embeddings of each modality")
    ui_layers: int = Field(2, ge=0, description="layers over the user-item graph")
    item_layers: int = Field(1, ge=0, description="layers over the item graph")
    knn_k: int = Field(10, ge=1, description="neighbours of an item in the item graph, itself included")
    user_k: int = Field(40, ge=1, description="neighbours of a user in the user graph")
    image_weight: float = Field(
        0.1, ge=0, le=1, description="share of the image graph; other modalities share the rest"
    )
    reg: float = Field(1e-3, ge=0, description="weight of the penalty on user preferences and user weights")


class ModalityEncoder(nn.Module):
    """Users and items in one modality: rows of length 1 of ``[P_m ; W_2 leaky(W_1 x_i + b_1) + b_2]``.

    Args:
        features: ``(n_items, d_in)``; a parameter is trained.
        present: ``(n_items,)`` False where an item lacks the modality; its row is 0.
        n_users: Rows of the preference table P_m.
        dim: Width of the result; the hidden layer is four times as wide.
    """

    features: Tensor
    present: Tensor

    def __init__(self, features: Tensor, present: Tensor, n_users: int, dim: int) -> None:
        super().__init__()
        self.users = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_users, dim)))
        self.map = nn.Sequential(
            nn.Linear(features.shape[1], 4 * dim), nn.LeakyReLU(), nn.Linear(4 * dim, dim)
        )
        if isinstance(features, nn.Parameter):
            self.features = features
        else:
            self.register_buffer("features", features, persistent=False)
        self.register_buffer("present", present.float()[:, None], persistent=False)

    @classmethod
    def of(cls, table: FeatureTable, n_users: int, dim: int) -> ModalityEncoder:
        """The encoder of a feature table, which stays as it is."""
        return cls(table.tensor(), torch.tensor(table.present), n_users, dim)

    def forward(self) -> Tensor:
        """``(n_users + n_items, dim)``."""
        items = F.normalize(self.map(product_rows(self.features)), dim=1) * self.present
        return torch.cat([F.normalize(self.users, dim=1), items])


def modality_shares(n_users: int, n_modalities: int) -> nn.Parameter:
    """How much each modality counts for each user ``(n_users, n_modalities)``: at first a row sums to 1."""
    return nn.Parameter(nn.init.xavier_normal_(torch.empty(n_users, n_modalities)).softmax(1))


class DRAGON(nn.Module):
    """Propagation in three graphs: user-item for each modality, then item-item and user-user.

    ``x_m = rows of length 1 of [P_m ; MLP_m(X_m)]``, ``x̂_m = Σ_{l=0..L} Â^l x_m``;
    items ``z = [x̂_m]_m``, ``z' = z + G^L_i z`` with FREEDOM's frozen item graph G;
    users ``u = [w_um x̂_m]_m``, ``u' = u + S u`` with S the softmax of the number of common items over each user's
    nearest users; ``s(u, i) = u'_u · z'_i``;
    loss ``BPR + reg (Σ_m mean p_m,u² + mean w²)`` with the preferences of the batch's users.

    The weights w sum to 1 per user only at first, as in the published code. Departs from that code in two points: BPR
    has the natural logarithm where the code has log2, so a published ``reg`` is larger here by 1 / ln 2; and a user with
    fewer than k neighbours has just those, where the code repeats some at random in every epoch. Rows of items
    without a modality are 0 there, so that they consist of what their users bring.

    Source: Zhou, Zhou, Zhang, Shen, "Enhancing Dyadic Relations with Homogeneous Graphs for Multimodal
    Recommendation", ECAI 2023.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.n_users = data.n_users
        weights = graph.modality_weights(list(data.features), config.image_weight)
        self.item_graph = graph.knn_item_graph(data.features, config.knn_k, weights, data.n_items)
        self.user_graph = graph.co_user_graph(data.train, data.n_items, config.user_k)
        self.graph = graph.normalize_bipartite(*graph.edges(data.train), data.n_users, data.n_items)
        self.encoders = nn.ModuleDict(
            {
                modality: ModalityEncoder.of(table, data.n_users, config.dim)
                for modality, table in sorted(data.features.items())
            }
        )
        self.shares = modality_shares(data.n_users, len(self.encoders))
        # Empty: no other tensor has a row per item, and a checkpoint of another catalogue must not fit.
        self.register_buffer("catalogue", torch.empty(data.n_items, 0))

    def _tables(self) -> tuple[Tensor, Tensor]:
        rows = torch.cat([encoder() for encoder in self.encoders.values()], dim=1)
        rows = graph.propagate_sum(self.graph, rows, self.config.ui_layers)
        users, items = rows[: self.n_users], rows[self.n_users :]
        users = users * self.shares.repeat_interleave(self.config.dim, dim=1)
        users = graph.smooth(self.user_graph, users, 1)
        return users, graph.smooth(self.item_graph, items, self.config.item_layers)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch."""
        all_users, items = self._tables()
        users = gather(all_users, batch.users)
        positives, negatives = gather(items, torch.cat([batch.positives, batch.negatives])).chunk(2)
        return {
            "bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config.reg * preference_penalty(self.encoders, self.shares, batch.users),
        }

    def vectors(self) -> Vectors:
        """Tables ``(n, n_modalities dim)``."""
        return Vectors.from_tables(*self._tables())


def preference_penalty(encoders: nn.ModuleDict, shares: Tensor, users: Tensor) -> Tensor:
    """``Σ_m mean p_m,u² + mean w²`` over the preferences of users ``(b,)`` and all weights ``(n_users, m)``."""
    tables: list[Tensor] = [encoder.users for encoder in encoders.values()]  # type: ignore[misc]
    return shares.pow(2).mean() + torch.stack([gather(table, users).pow(2).mean() for table in tables]).sum()
