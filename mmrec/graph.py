"""Sparse graphs and the one hot product: normalised user-item graph, frozen kNN item graph, pruning, propagate."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.errors import ConfigError, FeatureError
from mmrec.neighbours import co_users, item_neighbours, neighbours_among

SUM = 0  # embedding_bag's mode


class SparseMatrix(nn.Module):
    """A sparse matrix in compressed rows together with its transpose.

    A module, so that it moves between devices with the model that holds it; it is rebuilt from data, never saved.

    Args:
        offsets: ``(n_rows + 1,)`` int32, or int64 where that is too small.
        columns: ``(nnz,)`` of the same type.
        values: ``(nnz,)`` float32.
        n_columns: Width of the matrix.
        transposed: The transpose, built once because every backward pass needs it; None for a symmetric matrix.
    """

    offsets: Tensor
    columns: Tensor
    values: Tensor

    def __init__(
        self,
        offsets: Tensor,
        columns: Tensor,
        values: Tensor,
        n_columns: int,
        transposed: SparseMatrix | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.register_buffer("values", values, persistent=False)
        self.n_columns = n_columns
        self.transposed = transposed

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.offsets) - 1, self.n_columns

    @property
    def transpose(self) -> SparseMatrix:
        """The transpose; a symmetric matrix is its own."""
        return self.transposed or self

    @classmethod
    def from_entries(
        cls, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], *, symmetric: bool = False
    ) -> SparseMatrix:
        """Build from coordinates ``(nnz,)``; an entry given twice counts twice."""
        own = cls._compress(rows, columns, values, shape)
        if symmetric:
            return own
        other = cls._compress(columns, rows, values, (shape[1], shape[0]))
        return cls(own.offsets, own.columns, own.values, shape[1], other)

    @classmethod
    def _compress(cls, rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> SparseMatrix:
        order = torch.argsort(rows.long() * shape[1] + columns)
        offsets = torch.zeros(shape[0] + 1, dtype=torch.int64, device=rows.device)
        torch.cumsum(torch.bincount(rows, minlength=shape[0]), 0, out=offsets[1:])
        small = max(len(columns), *shape) < 2**31  # half the memory to read in every product
        kind = torch.int32 if small else torch.int64
        return cls(offsets.to(kind), columns[order].to(kind), values[order].float(), shape[1])

    @property
    def rows(self) -> Tensor:
        """``(nnz,)`` the row of each entry."""
        return torch.repeat_interleave(self.offsets.diff())

    def scale_rows(self, factors: Tensor) -> SparseMatrix:
        """``diag(factors) A`` for ``factors (n_rows,)``, whose entries at empty rows do not matter."""
        return SparseMatrix.from_entries(
            self.rows, self.columns, self.values * factors[self.rows], self.shape
        )

    def to_dense(self) -> Tensor:
        """``(n_rows, n_columns)``: for tests and small graphs."""
        dense = torch.zeros(self.shape, device=self.values.device)
        return dense.index_put_((self.rows, self.columns), self.values, accumulate=True)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(context: torch.autograd.function.FunctionCtx, matrix: SparseMatrix, dense: Tensor) -> Tensor:
        context.matrix = matrix  # type: ignore[attr-defined]
        return _multiply(matrix, dense)

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[None, Tensor]:
        matrix: SparseMatrix = context.matrix  # type: ignore[attr-defined]
        return None, _multiply(matrix.transpose, gradients[0].contiguous())


def _multiply(matrix: SparseMatrix, dense: Tensor) -> Tensor:
    # embedding_bag sums weighted rows without building messages: the fastest CPU product (tests/benchmarks), and
    # deterministic on CUDA, where torch's sparse products are not.
    if len(matrix.columns) == 0:
        return dense.new_zeros(matrix.shape[0], dense.shape[1])
    # torch.embedding_bag is F.embedding_bag without its checks of shapes that are right by construction here.
    values = matrix.values if matrix.values.dtype == dense.dtype else matrix.values.to(dense.dtype)
    return torch.embedding_bag(
        dense, matrix.columns, matrix.offsets, False, SUM, False, values, include_last_offset=True
    )[0]


def propagate(matrix: SparseMatrix, dense: Tensor) -> Tensor:
    """The product of a sparse matrix ``(n, m)`` with a dense one ``(m, d)``, differentiable in the dense one.

    The gradient is the product of the transpose with the incoming gradient; the transpose is already built.
    """
    if not (dense.requires_grad and torch.is_grad_enabled()):
        return _multiply(matrix, dense)
    result: Tensor = _Product.apply(matrix, dense)  # type: ignore[no-untyped-call]
    return result


class _PropagateSum(torch.autograd.Function):
    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx, matrix: SparseMatrix, embeddings: Tensor, layers: int
    ) -> Tensor:
        context.matrix, context.layers = matrix, layers  # type: ignore[attr-defined]
        return _sum_of_powers(matrix, embeddings, layers)

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, *gradients: Tensor
    ) -> tuple[None, Tensor, None]:
        matrix: SparseMatrix = context.matrix  # type: ignore[attr-defined]
        layers: int = context.layers  # type: ignore[attr-defined]
        return None, _sum_of_powers(matrix.transpose, gradients[0].contiguous(), layers), None


def _sum_of_powers(matrix: SparseMatrix, dense: Tensor, layers: int) -> Tensor:
    """``X + AX + … + A^L X`` by Horner's rule: one product and one addition in place per layer."""
    total = dense.clone() if layers == 0 else _multiply(matrix, dense).add_(dense)
    for _ in range(layers - 1):
        total = _multiply(matrix, total).add_(dense)
    return total


def propagate_sum(graph: SparseMatrix, embeddings: Tensor, layers: int) -> Tensor:
    """The sum ``E + ÂE + … + Â^L E``, each ``(n, d)``.

    The map is linear, so its gradient is the same sum over the transpose and nothing has to be kept for it.
    """
    result: Tensor = _PropagateSum.apply(graph, embeddings, layers)  # type: ignore[no-untyped-call]
    return result


def propagate_mean(graph: SparseMatrix, embeddings: Tensor, layers: int) -> Tensor:
    """LightGCN's propagation: the mean of ``E, ÂE, …, Â^L E``, each ``(n, d)``.

    Source: He et al., "LightGCN", SIGIR 2020, with equal layer weights 1 / (L + 1).
    """
    return propagate_sum(graph, embeddings, layers) / (layers + 1)


def smooth(graph: SparseMatrix, items: Tensor, layers: int) -> Tensor:
    """``Z + G^L Z``, both ``(n, d)``: each item beside what its neighbours in an item graph are; Z for no layers."""
    smoothed = items
    for _ in range(layers):
        smoothed = propagate(graph, smoothed)
    return items + smoothed if layers else items


def propagate_blocks(
    full: SparseMatrix,
    item_graph: SparseMatrix,
    users: Tensor,
    items: Sequence[Tensor],
    ui_layers: int,
    item_layers: int,
) -> tuple[list[Tensor], list[Tensor]]:
    """Vectors made of blocks, each sent over the user-item graph and then, for items, smoothed over the item graph.

    One block after the other and not side by side: narrow rows stay in the processor's cache.

    Args:
        full: ``(n_users + n_items, n_users + n_items)``, for :func:`propagate_sum`.
        item_graph: ``(n_items, n_items)``, for :func:`smooth`.
        users: ``(n_blocks, n_users, d)``.
        items: Each ``(n_items, d)``, as many as there are blocks.
        ui_layers: Layers over the first.
        item_layers: Layers over the second.

    Returns:
        ``(n_users, d)`` and ``(n_items, d)`` for each block.
    """
    of_users, of_items = [], []
    for user_block, item_block in zip(users, items, strict=True):
        nodes = propagate_sum(full, torch.cat([user_block, item_block]), ui_layers)
        known, own = torch.split(nodes, [len(user_block), len(item_block)])
        of_users.append(known)
        of_items.append(smooth(item_graph, own, item_layers))
    return of_users, of_items


def normalize_bipartite(users: Tensor, items: Tensor, n_users: int, n_items: int) -> SparseMatrix:
    """Symmetrically normalised user-item graph ``D^-1/2 [[0, R], [R^T, 0]] D^-1/2``, ``(U + I, U + I)``.

    Degrees are those of the given edges ``(n_edges,)``; a node without edges has an empty row. No self-loops.
    """
    user_degree = torch.bincount(users, minlength=n_users).float()
    item_degree = torch.bincount(items, minlength=n_items).float()
    values = (user_degree[users] * item_degree[items]).rsqrt()
    columns = items + n_users
    n = n_users + n_items
    rows_of_both = torch.cat([users, columns])
    columns_of_both = torch.cat([columns, users])
    return SparseMatrix.from_entries(rows_of_both, columns_of_both, values.repeat(2), (n, n), symmetric=True)


def user_item_block(graph: SparseMatrix, n_users: int) -> SparseMatrix:
    """The block ``(n_users, n_items)`` of a user-item graph by which users read items."""
    rows = graph.rows
    own = rows < n_users
    shape = (n_users, graph.n_columns - n_users)
    return SparseMatrix.from_entries(rows[own], graph.columns[own] - n_users, graph.values[own], shape)


def edges(train: Histories) -> tuple[Tensor, Tensor]:
    """Users and items ``(n_edges,)`` of all training pairs."""
    return torch.from_numpy(train.users), torch.from_numpy(train.items)


def pruned_bipartite(
    edges: tuple[Tensor, Tensor], dropout: float, generator: torch.Generator, n_users: int, n_items: int
) -> SparseMatrix:
    """:func:`normalize_bipartite` of the edges that :func:`prune_edges` keeps; degrees are those of the kept edges."""
    kept = prune_edges(*edges, dropout, generator)
    return normalize_bipartite(edges[0][kept], edges[1][kept], n_users, n_items)


def prune_edges(users: Tensor, items: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Choose edges to keep, hubs' edges less often: indices ``(floor((1 - dropout) * n_edges),)``, ascending.

    Draws without replacement with weights ``1 / sqrt(d_u d_i)`` by an exponential race (the m smallest of
    ``Exp(1) / w`` are distributed as m successive weighted draws), which has no limit on the number of edges.

    Source: Zhou and Shen, "A Tale of Two Graphs", ACM MM 2023, degree-sensitive edge pruning.
    """
    keep = math.floor(len(users) * (1 - dropout) + 1e-9)
    degree_product = torch.bincount(users)[users].double() * torch.bincount(items)[items].double()
    race = (
        torch.empty(len(users), dtype=torch.float64).exponential_(generator=generator) * degree_product.sqrt()
    )
    return race.topk(keep, largest=False, sorted=False).indices.sort().values


def modality_graph(
    table: FeatureTable, k: int, weighting: Literal["mean", "cosine"] = "mean"
) -> SparseMatrix:
    """Frozen item-item graph ``(n_items, n_items)`` of one modality: each item's k nearest items, itself included.

    ``mean``: every entry is ``1 / k``, so a product is the mean over the neighbours (FREEDOM and its kin).
    ``cosine``: ``S_ij / sqrt(r_i r_j)`` with the cosines S of the kept pairs, negative ones as 0, and their row sums
    r (LATTICE, MGCN and their kin). Items without the modality have empty rows and are nobody's neighbours.

    Sources: Zhou and Shen, ACM MM 2023 (mean); Zhang et al., "Mining Latent Structures", ACM MM 2021 (cosine).
    """
    rows, columns, cosines = item_neighbours(table, k)
    n_items = len(table.present)
    count = torch.bincount(rows, minlength=n_items)
    if weighting == "mean":
        values = 1.0 / count[rows]
    else:
        values = normalize_weights(rows, columns, cosines.clamp(min=0), n_items)
    return SparseMatrix.from_entries(rows, columns, values, (n_items, n_items))


def normalize_weights(rows: Tensor, columns: Tensor, weights: Tensor, n: int) -> Tensor:
    """``w_ij / sqrt(r_i r_j)`` of the entries ``(nnz,)`` of an n x n matrix with row sums r, positive in rows i and j."""
    degree = torch.zeros(n).index_add_(0, rows, weights)
    return weights * (degree[rows] * degree[columns]).rsqrt()


def knn_item_graph(
    features: Mapping[str, FeatureTable],
    k: int,
    weights: Mapping[str, float],
    n_items: int,
    weighting: Literal["mean", "cosine"] = "mean",
) -> SparseMatrix:
    """Frozen item-item graph ``(n_items, n_items)``: the modalities' graphs, mixed.

    ``G = sum_m a_m G_m`` with the :func:`modality_graph` ``G_m`` of each modality. The weights ``a_m`` are normalised
    per item over the modalities it has, so with ``mean`` each row sums to 1 (or 0 where an item has none).

    Source: Zhou and Shen, "A Tale of Two Graphs", ACM MM 2023. With every modality present this is the published
    code's operator, whose "symmetric normalisation" is the plain mean because every row has k entries.

    Raises:
        ConfigError: A negative weight, or weights that are all zero.
    """
    chosen = {modality: weights[modality] for modality in features}
    if any(weight < 0 for weight in chosen.values()) or not any(chosen.values()):
        raise ConfigError("modality weights >= 0, not all zero", f"{chosen}", "set them in params")
    share = torch.zeros(n_items)
    for modality, weight in chosen.items():
        share += weight * torch.from_numpy(np.array(features[modality].present)).float()
    graphs = [
        modality_graph(features[modality], k, weighting).scale_rows(weight / share)
        for modality, weight in chosen.items()
        if weight > 0
    ]
    return graphs[0] if len(graphs) == 1 else add(graphs)


def links_to_known(
    new: Mapping[str, FeatureTable],
    known: Mapping[str, FeatureTable],
    k: int,
    weights: Mapping[str, float],
) -> tuple[SparseMatrix, Tensor]:
    """The rows that new items would have in :func:`knn_item_graph` with ``mean``, were they in the catalogue.

    A new item is one of its own k neighbours, as every item is; other new items are not among them.

    Args:
        new: Features of the m new items by modality.
        known: Features of the n known ones.
        k: Neighbours, itself included.
        weights: Of the modalities.

    Returns:
        Links to the known items ``(m, n)``, and to the item itself ``(m,)``.
    """
    m, n = (len(next(iter(tables.values())).present) for tables in (new, known))
    share, own = torch.zeros(m), torch.zeros(m)
    entries = [(torch.zeros(0).long(), torch.zeros(0).long(), torch.zeros(0))]
    for modality, weight in weights.items():
        share += weight * torch.from_numpy(np.array(new[modality].present)).float()
    for modality, weight in weights.items():
        table, others = new[modality], torch.from_numpy(np.flatnonzero(known[modality].present))
        rows = torch.from_numpy(np.flatnonzero(table.present))
        if weight == 0 or not len(rows):
            continue
        count = min(k, len(others) + 1)
        values = weight / share[rows] / count
        own[rows] += values
        ids, _ = neighbours_among(table.tensor()[rows], known[modality].tensor()[others], count - 1)
        entries.append(
            (rows.repeat_interleave(count - 1), others[ids].flatten(), values.repeat_interleave(count - 1))
        )
    sources, targets, values = (torch.cat(parts) for parts in zip(*entries, strict=True))
    return SparseMatrix.from_entries(sources, targets, values, (m, n)), own


def add(graphs: Sequence[SparseMatrix]) -> SparseMatrix:
    """The sum of sparse matrices of one shape."""
    return SparseMatrix.from_entries(
        torch.cat([graph.rows for graph in graphs]),
        torch.cat([graph.columns for graph in graphs]),
        torch.cat([graph.values for graph in graphs]),
        graphs[0].shape,
    )


def co_user_graph(train: Histories, n_items: int, k: int) -> SparseMatrix:
    """User-user graph ``(n_users, n_users)``: each user's k others with the most training items in common.

    Values are the softmax of the counts over a row's neighbours, so a row sums to 1 (or 0 for a user without any).

    Source: Zhou, Zhou, Zhang, Shen, "Enhancing Dyadic Relations with Homogeneous Graphs", ECAI 2023.
    """
    rows, columns, counts = co_users(train, n_items, k)
    largest = torch.zeros(train.n_users).scatter_reduce_(0, rows, counts, "amax")
    weights = (counts - largest[rows]).exp()
    total = torch.zeros(train.n_users).index_add_(0, rows, weights)
    return SparseMatrix.from_entries(rows, columns, weights / total[rows], (train.n_users, train.n_users))


def check_modalities(modalities: Collection[str]) -> None:
    """Refuse to make a model of content without any.

    Raises:
        FeatureError: No modality at all.
    """
    if not modalities:
        raise FeatureError(
            "item features of at least one modality",
            "none in the config's features",
            "make some with mmrec encode and name them, for example --set features.text=text-minilm",
        )


def modality_weights(modalities: Sequence[str], image_weight: float) -> dict[str, float]:
    """The field's mixing rule: ``image_weight`` for the image graph, the rest shared by the other modalities.

    A single modality gets weight 1.

    Raises:
        FeatureError: No modality at all.
    """
    check_modalities(modalities)
    others = [modality for modality in modalities if modality != "image"]
    if len(modalities) == 1:
        return {modalities[0]: 1.0}
    shared = {modality: (1 - image_weight) / len(others) for modality in others}
    return (
        shared | {"image": image_weight} if "image" in modalities else dict.fromkeys(others, 1 / len(others))
    )
