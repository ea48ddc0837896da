"""Sparse graphs and the one hot product: normalised user-item graph, frozen kNN item graph, pruning, propagate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.errors import ConfigError, FeatureError
from mmrec.rank import top_items

BLOCK_BYTES = (
    64 * 2**20
)  # of one block of similarities: large enough for full speed, small beside the features


class SparseMatrix(nn.Module):
    """A sparse matrix in compressed rows together with its transpose.

    A module, so that it moves between devices with the model that holds it; it is rebuilt from data, never saved.

    Args:
        offsets: ``(n_rows + 1,)`` int64.
        columns: ``(nnz,)`` int64.
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
        order = torch.argsort(rows * shape[1] + columns)
        offsets = torch.zeros(shape[0] + 1, dtype=torch.int64, device=rows.device)
        torch.cumsum(torch.bincount(rows, minlength=shape[0]), 0, out=offsets[1:])
        return cls(offsets, columns[order].contiguous(), values[order].float().contiguous(), shape[1])

    def to_dense(self) -> Tensor:
        """``(n_rows, n_columns)``: for tests and small graphs."""
        dense = torch.zeros(self.shape, device=self.values.device)
        rows = torch.repeat_interleave(self.offsets.diff())
        return dense.index_put_((rows, self.columns), self.values, accumulate=True)


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
    return F.embedding_bag(
        matrix.columns,
        dense,
        matrix.offsets,
        mode="sum",
        per_sample_weights=matrix.values.to(dense.dtype),
        include_last_offset=True,
    )


def propagate(matrix: SparseMatrix, dense: Tensor) -> Tensor:
    """The product of a sparse matrix ``(n, m)`` with a dense one ``(m, d)``, differentiable in the dense one.

    The gradient is the product of the transpose with the incoming gradient; the transpose is already built.
    """
    result: Tensor = _Product.apply(matrix, dense)  # type: ignore[no-untyped-call]
    return result


class _PropagateMean(torch.autograd.Function):
    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx, matrix: SparseMatrix, embeddings: Tensor, layers: int
    ) -> Tensor:
        context.matrix, context.layers = matrix, layers  # type: ignore[attr-defined]
        return _sum_of_powers(matrix, embeddings, layers).div_(layers + 1)

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, *gradients: Tensor
    ) -> tuple[None, Tensor, None]:
        matrix: SparseMatrix = context.matrix  # type: ignore[attr-defined]
        layers: int = context.layers  # type: ignore[attr-defined]
        return (
            None,
            _sum_of_powers(matrix.transpose, gradients[0].contiguous(), layers).div_(layers + 1),
            None,
        )


def _sum_of_powers(matrix: SparseMatrix, dense: Tensor, layers: int) -> Tensor:
    """``X + AX + … + A^L X`` by Horner's rule: one product and one addition in place per layer."""
    total = dense.clone() if layers == 0 else _multiply(matrix, dense).add_(dense)
    for _ in range(layers - 1):
        total = _multiply(matrix, total).add_(dense)
    return total


def propagate_mean(graph: SparseMatrix, embeddings: Tensor, layers: int) -> Tensor:
    """LightGCN's propagation: the mean of ``E, ÂE, …, Â^L E``, each ``(n, d)``.

    The map is linear, so its gradient is the same sum over the transpose and nothing has to be kept for it.

    Source: He et al., "LightGCN", SIGIR 2020, with equal layer weights 1 / (L + 1).
    """
    result: Tensor = _PropagateMean.apply(graph, embeddings, layers)  # type: ignore[no-untyped-call]
    return result


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


def edges(train: Histories) -> tuple[Tensor, Tensor]:
    """Users and items ``(n_edges,)`` of all training pairs."""
    return torch.from_numpy(train.users), torch.from_numpy(train.items)


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


def nearest_neighbours(vectors: Tensor, k: int, *, block_bytes: int = BLOCK_BYTES) -> tuple[Tensor, Tensor]:
    """Exact cosine neighbours of each row in blocks: ids and cosines, each ``(n, min(k, n))``.

    The row itself is a neighbour (cosine 1). Ties go to the lower id. A zero vector has cosine 0 to everything and
    keeps only itself: its other entries are -1. Memory is ``O(n d + block_bytes)``, never ``O(n²)``.
    """
    n = len(vectors)
    k = min(k, n)
    unit = F.normalize(vectors.float(), dim=1)
    # Blocks of one shape, never a single row: else equal vectors could get cosines that round differently.
    rows_per_block = min(n, max(2, block_bytes // (4 * n)))
    similarity = torch.empty(rows_per_block, n)
    ids, cosines = torch.empty(n, k, dtype=torch.int64), torch.empty(n, k)
    for start in range(0, n, rows_per_block):
        stop = min(start + rows_per_block, n)
        rows = slice(stop - rows_per_block, stop)  # the last block begins inside the one before
        torch.mm(unit[rows], unit.T, out=similarity)
        ids[rows], cosines[rows] = top_items(similarity, k)
    empty = ~vectors.any(dim=1)
    ids[empty] = -1
    ids[empty, 0] = torch.arange(n)[empty]
    return ids, cosines


def knn_item_graph(
    features: Mapping[str, FeatureTable], k: int, weights: Mapping[str, float], n_items: int
) -> SparseMatrix:
    """Frozen item-item graph ``(n_items, n_items)``: the mean over an item's k nearest items, mixed over modalities.

    ``G = sum_m a_m G_m`` with ``G_m[i, j] = 1/k`` for the k nearest j of i by cosine, i itself included. The rows of
    items without modality m are empty in ``G_m`` and they are nobody's neighbours; the weights ``a_m`` are
    normalised per item over the modalities it has, so each row sums to 1 (or 0 where an item has none).

    Source: Zhou and Shen, "A Tale of Two Graphs", ACM MM 2023. With every modality present this is the published
    code's operator, whose "symmetric normalisation" is the plain mean because every row has k entries.

    Raises:
        ConfigError: A negative weight, or weights that are all zero.
    """
    chosen = {modality: weights[modality] for modality in features}
    if any(weight < 0 for weight in chosen.values()) or not any(chosen.values()):
        raise ConfigError("modality weights >= 0, not all zero", f"{chosen}", "set them in params")
    present = {m: torch.from_numpy(np.array(features[m].present)) for m in features}
    share = sum((chosen[m] * present[m].float() for m in features), torch.zeros(n_items))
    rows, columns, values = [], [], []
    for modality, table in features.items():
        if chosen[modality] == 0:
            continue
        own = present[modality].nonzero().squeeze(1)
        ids, _ = nearest_neighbours(table.tensor()[own], k)
        valid = ids >= 0
        value = (chosen[modality] / share[own] / valid.sum(1)).unsqueeze(1).expand_as(ids)
        rows.append(own.unsqueeze(1).expand_as(ids)[valid])
        columns.append(own[ids[valid]])
        values.append(value[valid])
    return SparseMatrix.from_entries(
        torch.cat(rows), torch.cat(columns), torch.cat(values), (n_items, n_items)
    )


def modality_weights(modalities: Sequence[str], image_weight: float) -> dict[str, float]:
    """The field's mixing rule: ``image_weight`` for the image graph, the rest shared by the other modalities.

    A single modality gets weight 1.

    Raises:
        FeatureError: No modality at all.
    """
    if not modalities:
        raise FeatureError(
            "item features of at least one modality",
            "none in the config's features",
            "make some with mmrec encode and name them, for example --set features.text=text-minilm",
        )
    others = [modality for modality in modalities if modality != "image"]
    if len(modalities) == 1:
        return {modalities[0]: 1.0}
    shared = {modality: (1 - image_weight) / len(others) for modality in others}
    return (
        shared | {"image": image_weight} if "image" in modalities else dict.fromkeys(others, 1 / len(others))
    )
