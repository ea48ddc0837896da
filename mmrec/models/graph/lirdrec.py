"""LIRDRec: item vectors learned directly from features, with users' attention over the blocks copied forward."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from scipy.fft import dct
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.spherical import unit
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import gather, product_rows


class Config(ModelConfig):
    """Hyper-parameters of LIRDRec."""

    dim: int = Field(64, ge=1, description="width of each block of a vector")
    hidden: int = Field(256, ge=1, description="width of the hidden layer over the features")
    attention_hidden: int = Field(16, ge=1, description="width of the hidden layer of the attention")
    ui_layers: int = Field(2, ge=0, description="layers over the user-item graph")
    item_layers: int = Field(1, ge=0, description="layers over the item graph")
    knn_k: int = Field(10, ge=1, description="neighbours of an item in the item graph, itself included")
    image_weight: float = Field(
        0.1, ge=0, le=1, description="share of the image graph; other modalities share the rest"
    )
    reg: float = Field(1e-4, ge=0, description="weight of the mean square of all users and items")
    start_weight: float = Field(
        0.9, ge=0, le=1, description="share of computed attention before the first epoch"
    )
    decay: float = Field(0.9, gt=0, le=1, description="epoch e multiplies that share by decay to the e")


class Encoder(nn.Module):
    """``normalise(W_2 LeakyReLU(W_1 x_i + b_1))`` of all items; zero for items without content.

    Args:
        features: ``(n_items, d_in)``.
        present: ``(n_items,)``.
        hidden: Width of the hidden layer.
        dim: Width of the result.
    """

    features: Tensor
    present: Tensor

    def __init__(self, features: Tensor, present: Tensor, hidden: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features.shape[1], hidden), nn.LeakyReLU(), nn.Linear(hidden, dim, bias=False)
        )
        self.register_buffer("features", features, persistent=False)
        self.register_buffer("present", present, persistent=False)

    def forward(self) -> Tensor:
        """Unit vectors ``(n_items, dim)``."""
        return unit(self.layers(product_rows(self.features)).float()) * self.present[:, None]


class LIRDRec(nn.Module):
    """One block for each modality and one for all of them, seen through a cosine transform; no item ids.

    Items are ``f_m = MLP_m(x_m)`` and ``f = MLP([DCT(x_m)]_m)`` with the orthonormal DCT-II along the features; with
    users' tables P the nodes are ``[P_m; f_m]`` and ``[P; f]``, rows normalised, blocks side by side.
    ``[U; Z] = Σ_l Â^l [P; F]``; ``Z' = Z + G^L Z``; ``s(u, i) = u'_u · z'_i`` with
    ``u'_j = a_j u_j`` for the blocks j, ``a = softmax(w [MLP_j(u_j)]_j + (1 - w) Θ_u)``.
    The loss is ``BPR + λ (mean U'² + mean Z'²)`` over all users and items.

    Progressive weight copying: before each epoch Θ, else a parameter, is overwritten by the attention of the last
    step; before epoch e = 1, 2, … the odds ``w : 1 - w`` are multiplied by ``decay^e``. All of that state is in
    buffers, so that a resumed run goes on with the same bits.

    A modality that an item lacks is a zero block, and nothing in the shared block; an item without any lives from its
    users. Unlike the published code, evaluation is recomputed from the parameters.

    Source: Zhou, Zhang, Niyato, Shen, "Learning Item Representations Directly from Multimodal Features for Effective
    Recommendation", arXiv 2505.04960, 2025.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True
    attention: Tensor
    epoch: Tensor
    epoch_seed: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.n_users = data.n_users
        weights = graph.modality_weights(list(data.features), config.image_weight)
        tables = [table for _, table in sorted(data.features.items())]
        features = [table.tensor() for table in tables]
        present = [torch.from_numpy(np.array(table.present)) for table in tables]
        features.append(torch.cat([cosine_transform(rows) for rows in features], 1))
        present.append(torch.stack(present).any(0))
        self.encoders = nn.ModuleDict(
            {
                name: Encoder(rows, mask, config.hidden, config.dim)
                for name, rows, mask in zip([*sorted(data.features), "all"], features, present, strict=True)
            }
        )
        blocks = len(features)
        self.users = nn.Parameter(
            torch.stack(
                [nn.init.xavier_normal_(torch.empty(data.n_users, config.dim)) for _ in range(blocks)]
            )
        )
        self.scorers = nn.ModuleList(
            nn.Sequential(
                nn.Linear(config.dim, config.attention_hidden),
                nn.LeakyReLU(),
                nn.Linear(config.attention_hidden, 1),
            )
            for _ in range(blocks)
        )
        self.mixing = nn.Parameter(nn.init.xavier_normal_(torch.empty(data.n_users, blocks)))
        self.item_graph = graph.knn_item_graph(data.features, config.knn_k, weights, data.n_items)
        self.full_graph = graph.normalize_bipartite(*graph.edges(data.train), data.n_users, data.n_items)
        self.beginning: int | None = None  # seed of an epoch that has not had its first step
        self.register_buffer("attention", torch.zeros(data.n_users, blocks))
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("epoch_seed", torch.full((), -1, dtype=torch.int64))

    def on_epoch(self, generator: torch.Generator) -> None:
        """Note that an epoch begins, which its first step then does.

        An epoch resumed in its middle begins a second time: it is known by its generator's seed, and nothing is done.
        """
        seed = generator.initial_seed() & (2**63 - 1)
        self.beginning = None if int(self.epoch_seed) == seed else seed

    @torch.no_grad()
    def _begin_epoch(self) -> None:
        """Copy the last step's attention into Θ and let the share of computed attention decay."""
        if self.beginning is None:
            return
        if self.epoch > 0:
            self.mixing.copy_(self.attention)
        self.epoch += 1
        self.epoch_seed.fill_(self.beginning)
        self.beginning = None

    def _computed_share(self) -> Tensor:
        """w, a scalar: its odds are the initial ones times ``decay^(1 + 2 + … + epoch)``."""
        start = torch.logit(self.epoch.new_tensor(self.config.start_weight, dtype=torch.float64))
        exponent = self.epoch * (self.epoch + 1) / 2
        return torch.sigmoid(start + float(np.log(self.config.decay)) * exponent).float()

    def _blocks(self) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Users ``(n_users, dim)`` and items ``(n_items, dim)`` of each block, and the attention ``(n_users, blocks)``."""
        users, items = graph.propagate_blocks(
            self.full_graph,
            self.item_graph,
            unit(self.users),
            [encoder() for encoder in self.encoders.values()],
            self.config.ui_layers,
            self.config.item_layers,
        )
        computed = torch.cat([scorer(block) for scorer, block in zip(self.scorers, users, strict=True)], 1)
        share = self._computed_share()
        attention = torch.softmax(share * computed + (1 - share) * self.mixing, 1)
        weighed = zip(users, torch.split(attention, 1, 1), strict=True)
        return [block * weight for block, weight in weighed], items, attention

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch."""
        self._begin_epoch()
        user_blocks, item_blocks, attention = self._blocks()
        self.attention.copy_(attention.detach())
        users = torch.cat([gather(block, batch.users) for block in user_blocks], 1)
        both = torch.cat([batch.positives, batch.negatives])
        positives, negatives = torch.cat([gather(block, both) for block in item_blocks], 1).chunk(2)
        squares = torch.stack([block.pow(2).mean() for block in [*user_blocks, *item_blocks]])
        return {
            "bpr": losses.bpr((users * positives).sum(1), (users * negatives).sum(1)),
            "penalty": self.config.reg * squares.sum() / len(user_blocks),
        }

    def vectors(self) -> Vectors:
        """Tables ``(n, blocks * dim)``."""
        users, items, _ = self._blocks()
        return Vectors.from_tables(torch.cat(users, 1), torch.cat(items, 1))


def cosine_transform(rows: Tensor) -> Tensor:
    """Orthonormal DCT-II of each row ``(n, d)``: a rotation, so norms and inner products stay."""
    return torch.from_numpy(np.asarray(dct(rows.numpy(), type=2, norm="ortho", axis=1)))
