"""Graph RQ-VAE: item vectors that a graph network makes of features and interactions, then quantised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from mmrec import losses
from mmrec.codes import rqvae
from mmrec.codes.quantiser import Fitted, Rows, Tensors, as_tensor, child_seed
from mmrec.codes.rqvae import RQVAESettings
from mmrec.data.batches import NegativeSampler
from mmrec.data.histories import Histories
from mmrec.errors import FeatureError
from mmrec.graph import SparseMatrix, propagate
from mmrec.nn import gather
from mmrec.progress import Progress


class GraphSettings(RQVAESettings):
    """Settings of Graph RQ-VAE: the graph network's, and the quantiser's."""

    size: int = Field(128, ge=2, le=65536)
    hidden: tuple[int, ...] = (16,)
    latent: int = Field(4, ge=1)
    weight_decay: float = Field(1e-4, ge=0)
    graph_width: int = Field(128, ge=1, description="of features, users and the first layer")
    graph_dim: int = Field(64, ge=1, description="of the vectors that are quantised")
    graph_epochs: int = Field(60, ge=1)
    graph_batch_size: int = Field(3000, ge=1)
    graph_lr: float = Field(1e-3, gt=0)
    graph_weight_decay: float = Field(1e-6, ge=0)
    negatives: int = Field(5, ge=1, description="items a user does not have, per pair")
    dropout: float = Field(0.5, ge=0, lt=1, description="after the first layer")
    last_dropout: float = Field(0.2, ge=0, lt=1, description="after the second layer")


class GraphEncoder(nn.Module):
    """Two GraphSAGE layers over users and items: ``h'_v = W_1 h_v + b + W_2 mean_{w ∈ N(v)} h_w``, LeakyReLU between them.

    Items enter as ``W_f x_i``, users as free vectors. A node without neighbours has the mean 0, so an item that nobody
    has yet gets a vector from its features alone.

    Args:
        dim: Width d of the features.
        settings: Widths and dropout.

    Sources: Hamilton, Ying, Leskovec, "Inductive Representation Learning on Large Graphs", NeurIPS 2017; Liu et al.,
    "MMGRec: Multimodal Generative Recommendation with Transformer Model", 2024.
    """

    kind: ClassVar[str] = "graph"

    def __init__(self, dim: int, settings: GraphSettings) -> None:
        super().__init__()
        self.dim, self.settings = dim, settings
        widths = (settings.graph_width, settings.graph_width, settings.graph_dim)
        self.features = nn.Linear(dim, settings.graph_width, bias=False)
        self.own = nn.ModuleList(nn.Linear(widths[i], widths[i + 1]) for i in range(2))
        self.near = nn.ModuleList(nn.Linear(widths[i], widths[i + 1], bias=False) for i in range(2))

    def forward(self, rows: Tensor, users: Tensor, neighbours: SparseMatrix) -> tuple[Tensor, Tensor]:
        """Vectors ``(n_users, k)`` and ``(n_items, k)``.

        Args:
            rows: Features ``(n_items, d)``.
            users: ``(n_users, width)``.
            neighbours: ``(n_users + n_items,)`` squared, rows of :func:`mean_neighbours`.
        """
        nodes = torch.cat([users, self.features(rows)])
        # the mean of mapped neighbours, not the map of their mean: the same, and narrower in the second layer
        first = self.own[0](nodes) + propagate(neighbours, self.near[0](nodes))
        nodes = F.dropout(F.leaky_relu(first), self.settings.dropout, self.training)
        second = self.own[1](nodes) + propagate(neighbours, self.near[1](nodes))
        nodes = F.dropout(second, self.settings.last_dropout, self.training)
        return nodes[: len(users)], nodes[len(users) :]

    @torch.no_grad()
    def embed(self, inputs: Rows) -> Rows:
        """Vectors ``(n, k)`` of new items with features ``(n, d)`` and no interactions."""
        nodes = F.leaky_relu(self.own[0](self.features(as_tensor(inputs))))
        return np.asarray(self.own[1](nodes).numpy())

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors, and what else :meth:`restore` needs."""
        return self.state_dict(), {"dim": self.dim, "settings": self.settings.model_dump()}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Self:
        """The encoder that gave this state."""
        with torch.random.fork_rng(devices=[]):
            model = cls(metadata["dim"], GraphSettings(**metadata["settings"]))
        model.load_state_dict(dict(tensors))
        return model.eval()


def mean_neighbours(train: Histories, n_items: int) -> SparseMatrix:
    """``(n_users + n_items,)`` squared: row v holds ``1 / |N(v)|`` at its neighbours, nothing where it has none."""
    users, items = torch.from_numpy(train.users), torch.from_numpy(train.items) + train.n_users
    rows, columns = torch.cat([users, items]), torch.cat([items, users])
    n = train.n_users + n_items
    return SparseMatrix.from_entries(rows, columns, 1.0 / torch.bincount(rows, minlength=n)[rows], (n, n))


def train_encoder(
    rows: Tensor,
    train: Histories,
    settings: GraphSettings,
    generator: torch.Generator,
    *,
    show_progress: bool = True,
) -> tuple[GraphEncoder, Tensor, Tensor, float]:
    """Train the graph network by BPR on the training pairs.

    Returns:
        The encoder, vectors of users ``(n_users, k)`` and of items ``(n_items, k)``, and the last epoch's loss.

    Raises:
        FeatureError: The loss is not finite.
        DataError: No user has both an item and a non-item.
    """
    sampler = NegativeSampler(train, len(rows))
    neighbours = mean_neighbours(train, len(rows))
    users, items = torch.from_numpy(train.users), torch.from_numpy(train.items)
    usable = sampler.has_negatives(users)
    users, items = users[usable], items[usable]
    mean = 0.0
    with torch.random.fork_rng(devices=[]):  # dropout draws from the global generator
        torch.manual_seed(child_seed(generator))
        encoder = GraphEncoder(rows.shape[1], settings)
        own = nn.Parameter(nn.init.xavier_uniform_(torch.empty(train.n_users, settings.graph_width)))
        optimizer = torch.optim.Adam(
            [*encoder.parameters(), own], lr=settings.graph_lr, weight_decay=settings.graph_weight_decay
        )
        with Progress("graph network", settings.graph_epochs, unit="epochs", show=show_progress) as progress:
            for _ in range(settings.graph_epochs):
                total = 0.0
                order = torch.randperm(len(users), generator=generator)
                for cut in torch.split(order, settings.graph_batch_size):
                    repeated = users[cut].repeat_interleave(settings.negatives)
                    negatives = sampler.sample(repeated, generator)
                    of_users, of_items = encoder(rows, own, neighbours)
                    chosen = gather(of_users, users[cut])
                    positive = (chosen * gather(of_items, items[cut])).sum(1, keepdim=True)
                    others = gather(of_items, negatives).view(len(cut), settings.negatives, -1)
                    loss = losses.bpr(positive, (chosen[:, None] * others).sum(2))
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    total += float(loss.detach()) * len(cut)
                mean = total / len(users)
                if not np.isfinite(mean):
                    raise FeatureError("a finite loss", f"{mean}", f"graph_lr={settings.graph_lr / 10:g}")
                progress.advance(detail=f"loss {mean:.4f}")
    encoder.eval()
    with torch.no_grad():
        of_users, of_items = encoder(rows, own, neighbours)
    return encoder, of_users, of_items, mean


def fit(
    vectors: Rows,
    fitted: NDArray[np.bool_],
    settings: GraphSettings,
    generator: torch.Generator,
    *,
    train: Histories,
    show_progress: bool = True,
) -> Fitted:
    """Graph RQ-VAE of features ``(n_items, d)``: the network first, then an RQ-VAE of its frozen item vectors.

    Args:
        vectors: Features.
        fitted: ``(n_items,)`` items with training interactions, which the RQ-VAE learns from.
        settings: Settings.
        generator: All draws.
        train: Training items of each user.
        show_progress: Show progress on stderr.

    Returns:
        Quantiser, encoder and ``item_vectors``, ``user_vectors`` as further arrays, which MMGRec's generator reads.

    Raises:
        FeatureError: A loss is not finite.
        DataError: No user has both an item and a non-item.
    """
    rows = as_tensor(vectors)
    encoder, of_users, of_items, loss = train_encoder(
        rows, train, settings, generator, show_progress=show_progress
    )
    items = np.asarray(of_items.numpy())
    quantised = rqvae.fit(items, fitted, settings, generator, show_progress=show_progress)
    arrays = {"item_vectors": items, "user_vectors": np.asarray(of_users.numpy())}
    return Fitted(quantised.quantiser, items, encoder, arrays, {"bpr": loss, **quantised.notes})
