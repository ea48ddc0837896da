"""SLMRec: a graph encoder per modality with self-supervised tasks between and within modalities."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec import graph, losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.models.contracts import ModelConfig, Vectors
from mmrec.nn import embedding_tables, feature_projections, gather, seen_items


class Config(ModelConfig):
    """Hyper-parameters of SLMRec."""

    dim: int = Field(64, ge=1, description="width of the embeddings")
    layers: int = Field(3, ge=0, description="layers over the user-item graph")
    temperature: float = Field(0.2, gt=0, description="temperature of the main loss")
    task: Literal["fac", "fd", "fm", "all"] = Field(
        "fac", description="fine and coarse alignment, feature dropout, feature masking, or all three"
    )
    task_weight: float = Field(0.1, ge=0, description="weight of each self-supervised task")
    task_temperature: float = Field(0.2, gt=0, description="temperature of the self-supervised tasks")
    dropout: float = Field(0.3, ge=0, lt=1, description="share dropped or masked by fd and fm")


class Spaces(nn.ModuleDict):
    """Maps of the spaces of fine and coarse alignment: for each modality one from the space before and one from it."""

    def __init__(self, modalities: list[str], dim: int) -> None:
        super().__init__(
            {m: nn.ModuleDict({side: nn.Linear(dim, dim) for side in ("chain", "own")}) for m in modalities}
        )


class SLMRec(nn.Module):
    """Channels id and each modality m: ``H_c = mean_{l=0..L} Â^l [P; X_c]``, fused ``e = W [H_c]_c + b``.

    P is one user table for all channels; ``X_id`` is an item table, ``X_m = W_m x_i / |x_i| + b_m``. Users and items
    have a W each, ``s(u, i) = e_u·e_i``. Main loss: InfoNCE of the cosines of users and their positives with the batch's
    other positives as negatives. Popular items are negatives more often, which lowers their cosines; the lengths of the
    vectors, which only the scores have, make up for it. To it is added ``task_weight`` times one task, or the sum of all:

    - fac: a chain of ever coarser spaces, one per modality m: ``c_m = A_m c_{m-1}`` (``c_0`` the id channel) is
      contrasted with ``B_m h_m``, over the batch's items that have m.
    - fd: each entry of ``X_m`` is dropped with probability ``dropout``; two such views of the fused users and of the
      fused items are contrasted.
    - fm: as fd, but of each item whole modalities.

    A modality that an item lacks, and the id of an item without training interactions, are 0 in ``X_c``.

    Source: Tao, Liu, Xia, Wang, Yang, Huang, Chua, "Self-supervised Learning for Multimedia Recommendation", IEEE
    TMM 2022. A reconstruction: main loss and scores are the published code's; the order and the linear maps of the chain
    (here modalities by name), its cosines (published: inner products), dropping entries after W_m and not behind each
    layer, and the default weights are not.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "pairs"
    modalities: ClassVar = "required"
    cold_items: ClassVar = True
    seen: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        self.config = config
        self.n_users = data.n_users
        graph.check_modalities(data.features)
        self.embeddings = embedding_tables(data.n_users, data.n_items, config.dim)
        self.projections = feature_projections(data, config.dim)
        for projection in self.projections.values():
            projection.features = F.normalize(projection.features, dim=1)  # type: ignore[arg-type]
        width = (1 + len(self.projections)) * config.dim
        self.user_map, self.item_map = nn.Linear(width, config.dim), nn.Linear(width, config.dim)
        if config.task in ("fac", "all"):
            self.spaces = Spaces(list(self.projections), config.dim)
        self.graph = graph.normalize_bipartite(*graph.edges(data.train), data.n_users, data.n_items)
        self.register_buffer("seen", seen_items(data), persistent=False)

    def _content(self) -> Tensor:
        """``X_m`` of all modalities ``(n_items, m, dim)``."""
        return torch.stack([projection.catalogue() for projection in self.projections.values()], dim=1)  # type: ignore[operator]

    def _encode(self, content: Tensor) -> tuple[Tensor, Tensor]:
        """Users and items ``(n, (1 + m) dim)``: all channels, propagated side by side."""
        users, ids = self.embeddings[: self.n_users], self.embeddings[self.n_users :]
        items = torch.cat([ids * self.seen, content.flatten(1)], dim=1)
        rows = torch.cat([users.repeat(1, 1 + content.shape[1]), items])
        rows = graph.propagate_mean(self.graph, rows, self.config.layers)
        return rows[: self.n_users], rows[self.n_users :]

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Loss terms of a batch; its sampled negatives are not read."""
        content = self._content()
        users, items = self._encode(content)
        own = self.user_map(gather(users, batch.users))
        liked = self.item_map(gather(items, batch.positives))
        terms = {"softmax": losses.info_nce(own, liked, self.config.temperature, batch.positives)}
        wanted = ("fac", "fd", "fm") if self.config.task == "all" else (self.config.task,)
        for task in wanted:
            term = (
                self._fine_and_coarse(items, torch.unique(batch.positives))
                if task == "fac"
                else self._two_views(content, batch, whole=task == "fm")
            )
            terms[task] = self.config.task_weight * term
        return terms

    def _fine_and_coarse(self, items: Tensor, ids: Tensor) -> Tensor:
        chain, *channels = gather(items, ids).chunk(1 + len(self.projections), dim=1)
        total = chain.sum() * 0  # keeps the gradients defined when no item of the batch has content
        for own, (modality, projection) in zip(channels, self.projections.items(), strict=True):
            maps = self.spaces[modality]
            chain, target = maps["chain"](chain), maps["own"](own)  # type: ignore[index]
            present: Tensor = projection.present[ids]  # type: ignore[index]
            if present.any():
                total = total + losses.info_nce(chain[present], target[present], self.config.task_temperature)
        return total

    def _two_views(self, content: Tensor, batch: PairBatch, *, whole: bool) -> Tensor:
        views = [self._encode(self._drop(content, whole=whole)) for _ in range(2)]
        total = content.new_zeros(())
        for side, (ids, fuse) in enumerate(((batch.users, self.user_map), (batch.positives, self.item_map))):
            distinct = torch.unique(ids)
            one, two = (fuse(gather(view[side], distinct)) for view in views)
            total = total + losses.info_nce(one, two, self.config.task_temperature)
        return total

    def _drop(self, content: Tensor, *, whole: bool) -> Tensor:
        shape = (*content.shape[:2], 1) if whole else content.shape
        kept = torch.rand(shape, device=content.device) >= self.config.dropout
        return content * kept / (1 - self.config.dropout)

    def vectors(self) -> Vectors:
        """Tables ``(n, dim)``."""
        users, items = self._encode(self._content())
        return Vectors.from_tables(self.user_map(users), self.item_map(items))
