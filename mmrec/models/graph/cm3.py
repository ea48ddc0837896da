"""CM3: alignment and calibrated uniformity over item vectors that come from features alone, fused on the sphere."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable
from mmrec.encode.spherical import slerp, unit
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import frozen_linear, gather, product_rows


class Config(ModelConfig):
    """Hyper-parameters of CM3."""

    dim: int = Field(64, ge=2, description="width of each block of a vector")
    hidden: int = Field(256, ge=1, description="width of the hidden layer over the features")
    ui_layers: int = Field(3, ge=0, description="layers over the user-item graph")
    item_layers: int = Field(1, ge=0, description="layers over the item graph")
    knn_k: int = Field(10, ge=1, description="neighbours of an item in the item graph, itself included")
    image_weight: float = Field(
        0.1, ge=0, le=1, description="share of the image graph; other modalities share the rest"
    )
    gamma: float = Field(0.5, ge=0, description="weight of uniformity beside alignment")
    beta: float = Field(0.5, gt=0, description="the shares of the fusion are drawn from Beta(beta, beta)")
    min_similarity: float = Field(0.0, ge=0, le=1, description="least similarity in calibrated uniformity")
    max_similarity: float = Field(1.0, ge=0, le=1, description="largest similarity in it")
    detach_similarity: bool = Field(
        True, description="no gradient through the similarity; the published code lets it flow"
    )
    uniform_items: Literal["negatives", "positives"] = Field(
        "negatives", description="items that are spread out: as in the published code, or of the pairs"
    )
    scoring: Literal["inner", "cosine"] = Field(
        "inner",
        description="cosine is what is trained; inner, the published code's, favours well connected items",
    )

    @model_validator(mode="after")
    def _check_range(self) -> Config:
        if self.min_similarity > self.max_similarity:
            raise ValueError("min_similarity must not be above max_similarity")
        return self


class Encoder(nn.Module):
    """Two maps of one modality's features: a hidden layer for its own block, an affine one for the fused block.

    Args:
        table: Features ``(n_items, d_in)``.
        hidden: Width of the hidden layer.
        dim: Width of both results.
    """

    features: Tensor
    present: Tensor

    def __init__(self, table: FeatureTable, hidden: int, dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(table.dim, hidden)
        self.second = nn.Linear(hidden, dim, bias=False)
        self.direction = nn.Linear(table.dim, dim)
        nn.init.xavier_normal_(self.direction.weight)
        self.register_buffer("features", table.tensor(), persistent=False)
        self.register_buffer("present", torch.from_numpy(np.array(table.present)), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        """Unit vectors of all items ``(n_items, dim)``: own (zero for absent items) and direction for the fusion."""
        weight = torch.cat([self.first.weight, self.direction.weight])
        bias = torch.cat([self.first.bias, self.direction.bias])
        # One pass over the wide features for both maps.
        mapped = frozen_linear(product_rows(self.features), weight, bias)
        hidden, direction = torch.split(mapped, [len(self.first.weight), len(self.direction.weight)], 1)
        own = self.second(F.leaky_relu(hidden))
        return unit(own.float()) * self.present[:, None], unit(direction.float())


class CM3(nn.Module):
    """Items are their features: one block for each modality and one for all, fused on the sphere; no item ids.

    With ``f_m = MLP_m(x_m)`` and unit directions ``a_m = normalise(W_m x_m + b_m)``, folded modality by modality to
    the fused unit vector ``m = slerp(m, a_m, λ)``, ``λ ~ Beta`` drawn anew for each item in each step and 1/2 in
    evaluation, the nodes are ``[P_m; f_m]`` and ``[P; m]``, rows normalised, blocks side by side.
    ``[U; Z] = Σ_l Â^l [P; F]``; user block j is weighted by ``softmax(Θ_u)_j``; ``Z' = Z + G^L Z``. The loss, on unit
    vectors, is ``mean |u - z'|² + γ/2 (ℓ(u) + ℓ_cal(z'))`` with calibrated uniformity by the cosine of the m
    (:func:`mmrec.losses.uniformity`; a user or item makes no pair with itself).

    An item is fused from the modalities it has. Without any its blocks are zero: it lives from its users, and its
    pairs count as in plain uniformity.

    The equations are those of the published code; the paper was only read through others, so the choices where it may
    differ (``uniform_items``, ``scoring``) default to the code's, and folding more than two modalities is a
    reconstruction. Unlike that code, the similarity has no gradient, and evaluation is recomputed, deterministic.

    Source: Zhou, Wang, Shen, "CM3: Calibrating Multimodal Recommendation", arXiv 2508.01226, 2025.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True
    content: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.n_users = data.n_users
        weights = graph.modality_weights(list(data.features), config.image_weight)
        self.encoders = nn.ModuleDict(
            {m: Encoder(table, config.hidden, config.dim) for m, table in sorted(data.features.items())}
        )
        blocks = len(data.features) + 1
        self.users = nn.Parameter(
            torch.stack(
                [nn.init.xavier_normal_(torch.empty(data.n_users, config.dim)) for _ in range(blocks)]
            )
        )
        self.mixing = nn.Parameter(nn.init.xavier_normal_(torch.empty(data.n_users, blocks)))
        self.item_graph = graph.knn_item_graph(data.features, config.knn_k, weights, data.n_items)
        self.full_graph = graph.normalize_bipartite(*graph.edges(data.train), data.n_users, data.n_items)
        anything = np.any([table.present for table in data.features.values()], axis=0)
        self.register_buffer("content", torch.from_numpy(anything), persistent=False)

    def _draw_shares(self) -> list[Tensor]:
        """``(n_items,)`` for each fold, from the global generator."""
        concentration = self.users.new_tensor(self.config.beta)
        beta = torch.distributions.Beta(concentration, concentration, validate_args=False)
        return [beta.sample((len(self.content),)) for _ in range(len(self.encoders) - 1)]

    def _encode(self, shares: list[Tensor] | None) -> list[Tensor]:
        """A block ``(n_items, dim)`` of each modality, and the fused vectors at last; the midpoint without shares."""
        blocks, directions = zip(*(encoder() for encoder in self.encoders.values()), strict=True)
        masks: list[Tensor] = [encoder.present for encoder in self.encoders.values()]  # type: ignore[misc]
        fused, known = directions[0], masks[0]
        for fold, (direction, present) in enumerate(zip(directions[1:], masks[1:], strict=True)):
            between = slerp(fused, direction, 0.5 if shares is None else shares[fold])
            fused = torch.where(present[:, None], direction, fused)
            fused = torch.where((known & present)[:, None], between, fused)
            known = known | present
        return [*blocks, fused * known[:, None]]

    def _propagate(self, items: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Users before they are weighed, ``(n_users, dim)``, and final items ``(n_items, dim)``, of each block."""
        config, users = self.config, unit(self.users)
        return graph.propagate_blocks(
            self.full_graph, self.item_graph, users, items, config.ui_layers, config.item_layers
        )

    def _weigh(self, users: list[Tensor], mixing: Tensor) -> Tensor:
        """Users' blocks ``(b, dim)`` side by side, each by its share in the softmax of ``mixing (b, blocks)``."""
        return torch.cat(
            [block * share for block, share in zip(users, torch.split(mixing.softmax(1), 1, 1), strict=True)],
            1,
        )

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch."""
        blocks = self._encode(self._draw_shares())
        user_blocks, item_blocks = self._propagate(blocks)
        own_users, places, user_counts = batch.users.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
        users = self._weigh(
            [gather(block, own_users) for block in user_blocks], gather(self.mixing, own_users)
        )
        spread = batch.positives if self.config.uniform_items == "positives" else batch.negatives
        own_items, item_counts = spread.unique(return_counts=True)  # type: ignore[no-untyped-call]
        both = torch.cat([batch.positives, own_items])
        rows = torch.cat([gather(block, both) for block in item_blocks], 1)
        positives, items = torch.split(rows, [len(batch.positives), len(own_items)])
        half, similarity = self.config.gamma / 2, self._similarity(blocks[-1], own_items)
        return {
            "alignment": losses.alignment(gather(users, places), positives),
            "uniformity_users": half * losses.uniformity(users, counts=user_counts),
            "uniformity_items": half * losses.uniformity(items, similarity, counts=item_counts),
        }

    def _similarity(self, fused: Tensor, items: Tensor) -> Tensor:
        """Clamped cosines ``(b, b)`` of fused vectors; 1, plain uniformity, where an item has no modality."""
        fused = gather(fused.detach() if self.config.detach_similarity else fused, items)
        cosines = (fused @ fused.T).clamp_(self.config.min_similarity, self.config.max_similarity)
        unknown = (~self.content[items]).nonzero().squeeze(1)
        if len(unknown):  # seldom any, and each pass over (b, b) shows in a step's time
            cosines = cosines.index_fill(0, unknown, 1.0).index_fill(1, unknown, 1.0)
        return cosines

    def vectors(self) -> Vectors:
        """Tables ``(n, blocks * dim)`` with every item's fused vector at the midpoint."""
        user_blocks, item_blocks = self._propagate(self._encode(None))
        users, items = self._weigh(user_blocks, self.mixing), torch.cat(item_blocks, 1)
        if self.config.scoring == "cosine":
            users, items = unit(users), unit(items)
        return Vectors.from_tables(users, items)
