"""DGVAE: variational autoencoders over items and over words that share a few factors, which words explain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mmrec import graph
from mmrec.data.batches import UserBatch
from mmrec.data.dataset import TrainingData
from mmrec.mixture import mixture_cross_entropy, mixture_logits
from mmrec.models.contracts import Explanation, ModelConfig, Users
from mmrec.nn import gather


class Config(ModelConfig):
    """Hyper-parameters of DGVAE."""

    dim: int = Field(64, ge=1, description="width of the embeddings and of each factor")
    factors: int = Field(3, ge=1, description="factors K that users, items and words share")
    temperature: float = Field(0.1, gt=0, description="temperature of factors and scores")
    knn_k: int = Field(10, ge=1, description="neighbours of an item in the item graph, itself included")
    image_weight: float = Field(
        0.04, ge=0, le=1, description="share of the image graph; other modalities share the rest"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="share of the smoothed history that is left out")
    noise: float = Field(0.075, ge=0, description="standard deviation of the noise in the factors")
    words_weight: float = Field(0.2, ge=0, description="weight of the words' autoencoder")
    mutual_weight: float = Field(0.4, ge=0, description="weight that ties a factor of items to its words")
    kl_cap: float = Field(0.2, ge=0, description="largest weight of the divergence from the prior")
    anneal_steps: int = Field(20_000, ge=1, description="the weight of the divergence is step / anneal_steps")


@dataclass(frozen=True)
class _Bags:
    """Sparse rows ``(n_rows, n_columns)``: entries ``(nnz,)`` in ascending order, no place twice."""

    rows: Tensor
    columns: Tensor
    weights: Tensor
    n_rows: int


class DGVAE(nn.Module):
    """A user's items and the words of these items, each read and written by a disentangled autoencoder.

    Both autoencoders (items with the item graph G, words without) have embeddings e and K prototypes m of length one,
    and factors ``c_k(i) = softmax_k(e_i · m_k / τ)``, with Gumbel noise in training. The user's row x (ones at the
    items; or the sum of the items' word weights, scaled to length one) gives per factor ``x_k = norm(x ⊙ c_k)``,
    ``h = W dropout((x_k G G + x_k) / 2) + b``, mean ``norm(h_1)``, log-variance ``-h_2`` and a draw z of length one.
    ``att(Q, V) = (tanh(Q V^T) ⊙ σ(D - mean D)) V`` with ``D_ij = -||q_i - v_j||_1`` over a user's factors;
    ``zw = att(z_items, z_words)``, ``zi = att(z_words, z_items)``. Both decoders read their sum z:
    ``s(i) = log Σ_k c_k(i) exp(z_k · e_i / τ)``. The loss is ``CE_items + a KL_items + λ_w (CE_words + a KL_words) +
    λ_m mean_k [softplus(-zi_k · zw_k) + mean_{j≠k} softplus(zi_k · zw_j)]``; a grows with the steps up to its cap.

    The words are the columns of the features with a vocabulary (``mmrec encode --encoder words``), negative weights
    counting as zero; where no features have one, all their columns take the part of words, and nobody can read them.
    G mixes the modalities' mean graphs; an item without any has only itself. A user's words are summed over the
    items' TF-IDF rows; the paper computes TF-IDF over the joined texts of each user.

    Source: Zhou and Miao, "Disentangled Graph Variational Auto-Encoder for Multimodal Recommendation with
    Interpretability", IEEE TMM 2024.
    """

    config_type: ClassVar = Config
    batches: ClassVar = "users"
    modalities: ClassVar = "required"
    cold_items: ClassVar = False
    step: Tensor

    def __init__(self, config: Config, data: TrainingData) -> None:
        super().__init__()
        weights = graph.modality_weights(list(data.features), config.image_weight)
        self.config = config
        own_words = {m: table for m, table in sorted(data.features.items()) if table.vocabulary is not None}
        tables = list((own_words or dict(sorted(data.features.items()))).values())
        self.vocabulary = [word for table in tables for word in table.vocabulary or []]
        self.words_of_items = _sparse(torch.cat([table.tensor().clamp(min=0) for table in tables], 1))
        item_graph = graph.knn_item_graph(data.features, config.knn_k, weights, data.n_items)
        self.smoothing = _two_steps(item_graph)
        self.items = Side(data.n_items, config)
        self.words = Side(self.words_of_items.shape[1], config)
        self.register_buffer("step", torch.tensor(0))

    def _encode(self, items: _Bags, words: _Bags) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Per side: log shares ``(n, K)`` of the factors, z and log-variance ``(b, K, dim)``."""
        log_shares, drawn, log_variance = [], [], []
        for side, bags, smoothing in ((self.items, items, self.smoothing), (self.words, words, None)):
            log_shares.append(side.log_shares())
            mean, spread = side.encode(bags, log_shares[-1].exp(), smoothing)
            if self.training:
                mean = F.normalize(
                    mean + self.config.noise * torch.randn_like(mean) * (spread / 2).exp(), dim=2
                )
            drawn.append(mean)
            log_variance.append(spread)
        return log_shares, drawn, log_variance

    def loss(self, batch: UserBatch) -> dict[str, Tensor]:
        """Loss terms of a batch of users."""
        items = self._bags(batch.rows, batch.items, len(batch.users))
        bags = (items, self._words(items))
        log_shares, drawn, log_variance = self._encode(*bags)
        from_words, from_items = attend(drawn[0], drawn[1]), attend(drawn[1], drawn[0])
        divergence_weight = min(self.config.kl_cap, int(self.step) / self.config.anneal_steps)
        terms = {"mutual": self.config.mutual_weight * mutual(from_items, from_words)}
        sides = (("items", self.items, 1.0), ("words", self.words, self.config.words_weight))
        for number, (name, side, weight) in enumerate(sides):
            bag, spread = bags[number], log_variance[number]
            terms[name] = weight * mixture_cross_entropy(
                from_items + from_words,
                F.normalize(side.table, dim=1),
                log_shares[number],
                (bag.rows, bag.columns, bag.weights),
                self.config.temperature,
            )
            divergence = (spread.exp() - 1 - spread).sum((1, 2)).mean() / 2
            terms[f"divergence_{name}"] = weight * divergence_weight * divergence
        if self.training:
            self.step += 1
        return terms

    def _bags(self, rows: Tensor, columns: Tensor, n_rows: int) -> _Bags:
        order = torch.argsort(rows * self.items.n + columns)
        ones = torch.ones(len(rows), device=rows.device, dtype=self.items.table.dtype)
        return _Bags(rows[order], columns[order], ones, n_rows)

    def _words(self, items: _Bags) -> _Bags:
        """The words of each row's items, weights scaled to length one."""
        rows, columns, (weights,) = _spread(items, [items.weights], self.words_of_items)
        return _Bags(rows, columns, _unit(weights, rows, items.n_rows), items.n_rows)

    def _logits(self, users: Users) -> tuple[Tensor, Tensor]:
        """Logits ``(b, K, n)`` of items and of words."""
        rows, items = (
            torch.from_numpy(x).to(self.step.device) for x in (users.histories.users, users.histories.items)
        )
        bags = self._bags(rows, items, len(users.ids))
        log_shares, (of_items, of_words), _ = self._encode(bags, self._words(bags))
        z = attend(of_items, of_words) + attend(of_words, of_items)
        sides = (self.items, self.words)
        found = [
            mixture_logits(z, F.normalize(side.table, dim=1), shares, self.config.temperature)
            for side, shares in zip(sides, log_shares, strict=True)
        ]
        return found[0], found[1]

    def scores(self, users: Users) -> Tensor:
        """Scores ``(b, n_items)``, from the histories alone."""
        return self._logits(users)[0].logsumexp(1)

    def explain(self, users: Users) -> Explanation:
        """Which factor makes each item's score, and which words each factor stands for."""
        items, words = self._logits(users)
        return Explanation(
            shares=items.softmax(1),
            words=words.flatten(1).softmax(1).view(words.shape),
            vocabulary=self.vocabulary,
        )


class Side(nn.Module):
    """A disentangled autoencoder over n things (items or words), each of which belongs to K factors."""

    def __init__(self, n: int, config: Config) -> None:
        super().__init__()
        self.config, self.n = config, n
        self.table = nn.Parameter(nn.init.xavier_uniform_(torch.empty(n, config.dim)))
        self.prototypes = nn.Parameter(nn.init.xavier_uniform_(torch.empty(config.factors, config.dim)))
        bound = n**-0.5
        self.encoder = nn.Parameter(torch.empty(n, 2 * config.dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(2 * config.dim).uniform_(-bound, bound))

    def log_shares(self) -> Tensor:
        """``log c (n, K)``; a draw in training."""
        logits = (
            F.normalize(self.table, dim=1) @ F.normalize(self.prototypes, dim=1).T / self.config.temperature
        )
        if self.training:
            logits = logits - torch.empty_like(logits).exponential_().log()  # Gumbel noise
        return logits.log_softmax(1)

    def encode(
        self, bags: _Bags, shares: Tensor, smoothing: graph.SparseMatrix | None
    ) -> tuple[Tensor, Tensor]:
        """Mean, of length one, and log-variance, each ``(b, K, dim)``."""
        strengths = bags.weights.unsqueeze(1) * gather(shares, bags.columns)
        parts = [_unit(part, bags.rows, bags.n_rows) for part in strengths.unbind(1)]
        rows, columns = bags.rows, bags.columns
        if smoothing is not None:
            rows, columns, parts = _spread(bags, parts, smoothing)
        values = F.dropout(torch.stack(parts), self.config.dropout, self.training)
        # One bag per factor and row; all factors of a row hold the same things.
        counts = torch.bincount(rows, minlength=bags.n_rows).repeat(len(parts))
        hidden = F.embedding_bag(
            columns.repeat(len(parts)),
            self.encoder,
            counts.cumsum(0) - counts,
            mode="sum",
            per_sample_weights=values.flatten(),
        )
        hidden = (hidden + self.bias).view(len(parts), bags.n_rows, 2 * self.config.dim).transpose(0, 1)
        mean, negative_log_variance = hidden.chunk(2, dim=2)
        return F.normalize(mean, dim=2), -negative_log_variance


def attend(queries: Tensor, values: Tensor) -> Tensor:
    """``(tanh(Q V^T) ⊙ σ(D - mean D)) V`` ``(b, K, d)`` with ``D_ij = -||q_i - v_j||_1`` and its row means."""
    nearness = -(queries.unsqueeze(2) - values.unsqueeze(1)).abs().sum(3)
    gates = torch.sigmoid(nearness - nearness.mean(2, keepdim=True))
    return (torch.tanh(queries @ values.transpose(1, 2)) * gates) @ values


def mutual(from_items: Tensor, from_words: Tensor) -> Tensor:
    """``mean_k [softplus(-a_k · b_k) + mean_{j≠k} softplus(a_k · b_j)]`` of rows ``(b, K, d)``, mean over rows."""
    products = from_items @ from_words.transpose(1, 2)
    k = products.shape[1]
    own = products.diagonal(dim1=1, dim2=2)
    others = F.softplus(products).sum((1, 2)) - F.softplus(own).sum(1)
    return (F.softplus(-own).mean(1) + others / (k * max(k - 1, 1))).mean()


def _unit(values: Tensor, rows: Tensor, n_rows: int) -> Tensor:
    """Values ``(nnz,)`` of sparse rows, each row scaled to length one."""
    squares = values.new_zeros(n_rows).index_add(0, rows, values.pow(2))
    return values * squares.clamp(min=1e-24).rsqrt().index_select(0, rows)


def _spread(
    bags: _Bags, strengths: list[Tensor], matrix: graph.SparseMatrix
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Rows times a sparse matrix, differentiable: rows, columns and one value ``(nnz,)`` for each of the strengths."""
    offsets = matrix.offsets.long()
    counts = offsets.diff()[bags.columns]
    entry = torch.repeat_interleave(counts)
    place = (
        torch.arange(len(entry), device=entry.device)
        - (counts.cumsum(0) - counts - offsets[bags.columns])[entry]
    )
    width = matrix.shape[1]
    cells, cell = torch.unique(bags.rows[entry] * width + matrix.columns[place], return_inverse=True)
    values = matrix.values[place]
    sums = [
        strength.new_zeros(len(cells)).index_add(0, cell, values * strength.index_select(0, entry))
        for strength in strengths
    ]
    return cells // width, cells % width, sums


def _two_steps(item_graph: graph.SparseMatrix) -> graph.SparseMatrix:
    """``(G G + I) / 2``, in which an item with an empty row of G has itself as its only neighbour."""
    from scipy import sparse

    n = item_graph.shape[0]
    arrays = [part.numpy() for part in (item_graph.values, item_graph.columns, item_graph.offsets)]
    matrix = sparse.csr_array(tuple(arrays), shape=(n, n))
    alone = sparse.diags_array((np.diff(arrays[2]) == 0).astype(np.float32))
    matrix = matrix + alone
    both = sparse.coo_array((matrix @ matrix + sparse.eye_array(n, dtype=np.float32)) / 2)
    rows, columns, values = (torch.from_numpy(part) for part in (*both.coords, both.data))
    return graph.SparseMatrix.from_entries(rows.long(), columns.long(), values, (n, n))


def _sparse(dense: Tensor) -> graph.SparseMatrix:
    rows, columns = dense.nonzero(as_tuple=True)
    return graph.SparseMatrix.from_entries(
        rows, columns, dense[rows, columns], (dense.shape[0], dense.shape[1])
    )
