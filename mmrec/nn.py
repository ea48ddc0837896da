"""Small blocks that several models share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from mmrec import losses
from mmrec.data.batches import PairBatch
from mmrec.data.dataset import TrainingData
from mmrec.encode.features import FeatureTable


def seen_items(data: TrainingData) -> Tensor:
    """``(n_items, 1)`` float: 1 for items with a training interaction, 0 for the others."""
    return torch.from_numpy((np.bincount(data.train.items, minlength=data.n_items) > 0).astype(np.float32))[
        :, None
    ]


def gather(table: Tensor, ids: Tensor) -> Tensor:
    """Rows ``(b, d)`` of a table ``(n, d)``, with a gradient that does not depend on thread timing.

    Plain indexing adds gradients of repeated rows with atomics on several threads, in a different order each time.
    """
    return F.embedding(ids, table)


def embedding_tables(n_users: int, n_items: int, dim: int) -> nn.Parameter:
    """One table ``(n_users + n_items, dim)`` of users, then items, each Xavier-uniform as if it stood alone.

    Graph models keep both in one table because propagation reads them as one; joining two in every step costs time.
    """
    users, items = (nn.init.xavier_uniform_(torch.empty(n, dim)) for n in (n_users, n_items))
    return nn.Parameter(torch.cat([users, items]))


def batch_nodes(batch: PairBatch, n_users: int) -> Tensor:
    """``(3 b,)``: where a table of users, then items, has a batch's users, positives and negatives."""
    return torch.cat([batch.users, batch.positives + n_users, batch.negatives + n_users])


def gather_batch(table: Tensor, batch: PairBatch, n_users: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of a batch's users, positives and negatives, each ``(b, d)``, from a table of users, then items."""
    users, positives, negatives = gather(table, batch_nodes(batch, n_users)).chunk(3)
    return users, positives, negatives


_ROUNDED = WeakTensorKeyDictionary()


def product_rows(rows: Tensor) -> Tensor:
    """Rows that are not trained, in the type of autocast's products: rounded once, not in every step.

    The copy lives as long as the rows and is made again where they were written to.
    """
    device = rows.device.type
    if rows.requires_grad or not torch.is_autocast_enabled(device):
        return rows
    kept: tuple[int, Tensor] = _ROUNDED.get(rows, (-1, rows))  # type: ignore[no-untyped-call]
    version, rounded = kept
    wanted = torch.get_autocast_dtype(device)
    if version != rows._version or rounded.dtype != wanted:
        rounded = rows.to(wanted)
        _ROUNDED[rows] = rows._version, rounded
    return rounded


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx, rows: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        context.save_for_backward(rows)
        context.has_bias = bias is not None  # type: ignore[attr-defined]
        return F.linear(rows, weight, bias)

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, *gradients: Tensor
    ) -> tuple[None, Tensor, Tensor | None]:
        (rows,) = context.saved_tensors  # type: ignore[attr-defined]
        transposed = gradients[0].T
        # bfloat16 products on the CPU take half the time when both sides lie in order.
        if rows.dtype == torch.bfloat16:
            transposed = transposed.contiguous()
        bias = gradients[0].sum(0) if context.has_bias else None  # type: ignore[attr-defined]
        return None, transposed @ rows, bias


def frozen_linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Affine map ``x W^T + b`` of rows ``(n, d_in)``, often wide item features, which are seldom trained.

    Args:
        rows: Not trained, already in the type of :func:`product_rows`; where they are, this is ``F.linear``.
        weight: ``(d_out, d_in)``.
        bias: ``(d_out,)``.
    """
    if rows.requires_grad:
        return F.linear(rows, weight, bias)
    result: Tensor = _FrozenLinear.apply(  # type: ignore[no-untyped-call]
        rows, weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype)
    )
    return result


class FeatureProjection(nn.Module):
    """Affine map of item features, ``t(i) = W x_i + b``, of the rows asked for only.

    Projecting a batch's rows instead of the catalogue is what makes a training step cheap.

    Args:
        table: Features ``(n_items, d_in)``.
        dim: Width of the result.
        train_features: Treat the features as parameters (the published code of several models does); they then cost
            three times their size more (gradient and optimiser state).
        bias: Whether to have b. Ranking does not see a constant that is added to every item.
    """

    features: Tensor
    present: Tensor

    def __init__(
        self, table: FeatureTable, dim: int, *, train_features: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        self.map = nn.Linear(table.dim, dim, bias=bias)
        if train_features:
            self.features = nn.Parameter(table.tensor())
        else:
            self.register_buffer("features", table.tensor(), persistent=False)
        self.register_buffer("present", torch.from_numpy(np.array(table.present)), persistent=False)

    def forward(self, items: Tensor) -> Tensor:
        """Projected features ``(b, dim)`` of items ``(b,)``; absent items have zero features, see ``present``."""
        # What a batch asks for twice is read and multiplied once: wide rows are most of a step.
        distinct, places = items.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        return gather(self._project(gather(product_rows(self.features), distinct)), places)

    def catalogue(self) -> Tensor:
        """Projected features ``(n_items, dim)`` of all items; zero rows for absent ones."""
        return self._project(product_rows(self.features)) * self.present[:, None]

    def _project(self, rows: Tensor) -> Tensor:
        return frozen_linear(rows, self.map.weight, self.map.bias)


def feature_projections(
    data: TrainingData, dim: int, *, train_features: bool = False, bias: bool = True
) -> nn.ModuleDict:
    """A :class:`FeatureProjection` for each modality, by name in alphabetical order."""
    return nn.ModuleDict(
        {
            modality: FeatureProjection(table, dim, train_features=train_features, bias=bias)
            for modality, table in sorted(data.features.items())
        }
    )


def perturb(rows: Tensor, length: float | Tensor) -> Tensor:
    """``x + length sign(x) ⊙ n / |n|`` of rows ``(b, d)``, n uniform in [0, 1] and drawn anew; ``length`` may be ``(b, 1)``.

    Noise that keeps the signs stays in the row's own orthant.

    Source: Yu et al., "Are Graph Augmentations Necessary? Simple Graph Contrastive Learning for Recommendation",
    SIGIR 2022.
    """
    noise = F.normalize(torch.rand_like(rows), dim=-1)
    moved: Tensor = rows + length * rows.detach().sign() * noise
    return moved


def content_nodes(data: TrainingData, table: FeatureTable) -> Tensor:
    """Mask ``(n_users + n_items,)``: items with the modality, and users who have such an item in training."""
    present = torch.from_numpy(np.array(table.present))
    users, items = torch.from_numpy(data.train.users), torch.from_numpy(data.train.items)
    return torch.cat([torch.bincount(users[present[items]], minlength=data.n_users) > 0, present])


def contrast_content(
    anchors: Tensor, targets: Tensor, temperature: float, ids: Tensor, content: Tensor
) -> Tensor:
    """:func:`mmrec.losses.info_nce` over the rows ``(b, d)`` marked in ``content (b,)``; 0 where none is.

    Rows without content are zero vectors: neither anchors nor anybody's negatives.
    """
    if not content.any():
        return anchors.sum() * 0
    return losses.info_nce(anchors[content], targets[content], temperature, ids[content])


class EpochCounter(nn.Module):
    """Counts the epochs that a training has begun, in buffers, so that a resumed run goes on with the same number.

    An epoch that is resumed in its middle begins a second time: it is known by its generator's seed, and not counted.
    """

    epoch: Tensor
    seed: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("epoch", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seed", torch.full((), -1, dtype=torch.int64))
        self.number = 0

    def begin(self, generator: torch.Generator) -> None:
        """To be called by a model's ``on_epoch``."""
        seed = generator.initial_seed() & (2**63 - 1)
        if int(self.seed) != seed:
            self.epoch += 1
            self.seed.fill_(seed)
        self.number = int(self.epoch)  # read in every step, and no step should wait for a device


class BatchNorm(nn.BatchNorm1d):
    """Batch normalisation that takes a batch of one row, which has no variance, by the running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        """``(b, d)`` to the same."""
        if self.training and len(input) < 2:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


def dropout(input: Tensor, p: float, training: bool) -> Tensor:
    """:func:`torch.nn.functional.dropout`, whose mask costs a third as much on the CPU: four values share one draw of 64 bits.

    The share is rounded to 16 bits, and what is kept divided by the rounded one, so the mean stays exact.
    """
    if not training or p in (0, 1) or input.is_cuda:
        return F.dropout(input, p, training)
    kept = max(round((1 - p) * 2**16), 1)
    bits = torch.empty(-(-input.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    mask = bits.view(torch.int16)[: input.numel()].view(input.shape) <= kept - 1 - 2**15
    return input * mask.to(input.dtype).mul_(2**16 / kept)


class Dropout(nn.Dropout):
    """:func:`dropout` as a module."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same."""
        return dropout(input, self.p, self.training)


def transformer_block(dim: int, heads: int, inner: int, share: float) -> nn.TransformerEncoderLayer:
    """``x <- LN(x + Attention(x)); x <- LN(x + W_2 ReLU(W_1 x))`` over ``(b, t, dim)``, with cheap masks of dropout.

    Args:
        dim: Width of the states.
        heads: Attention heads, a divisor of ``dim``.
        inner: Width inside the position-wise network.
        share: Share of values left out in training, of attention weights, branches and inside.
    """
    block = nn.TransformerEncoderLayer(dim, heads, inner, share, batch_first=True)
    block.dropout, block.dropout1, block.dropout2 = Dropout(share), Dropout(share), Dropout(share)
    return block


class ScaledEmbedding(nn.Module):
    """Rows ``√d w`` of weights w that begin with variance 1/d: like T5's they are of variance 1, but are learned √d as fast.

    Adam's steps have one size for all weights, so rows of variance 1 would change least where most is to be learned.
    (T5 was trained by an optimizer whose steps are proportional to a weight's own size.)

    Args:
        rows: Number of rows.
        dim: Their width d.

    Source: Vaswani et al., "Attention Is All You Need", 2017, section 3.4.
    """

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(rows, dim) * dim**-0.5)

    def forward(self) -> Tensor:
        """``(rows, d)``."""
        rows: Tensor = self.weight * self.weight.shape[1] ** 0.5
        return rows


class MLP(nn.Sequential):
    """Layers ``dropout(act(norm(W x + b)))``; with ``outputs`` a last one ``W x + b``.

    Args:
        inputs: Width of the input.
        hidden: Widths of the layers.
        dropout: Share of values left out in training.
        batch_norm: Normalise before the activation.
        activation: Makes the activation of a layer from its width; ReLU if None.
        outputs: Width of the result; that of the last layer if None.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        dropout: float = 0.0,
        *,
        batch_norm: bool = False,
        activation: Callable[[int], nn.Module] | None = None,
        outputs: int | None = None,
    ) -> None:
        layers: list[nn.Module] = []
        for width in hidden:
            layers.append(nn.Linear(inputs, width))
            if batch_norm:
                layers.append(BatchNorm(width))
            layers.append(nn.ReLU() if activation is None else activation(width))
            if dropout:
                layers.append(Dropout(dropout))
            inputs = width
        if outputs is not None:
            layers.append(nn.Linear(inputs, outputs))
        super().__init__(*layers)
        self.width = inputs if outputs is None else outputs
