"""Training losses, each with its formula."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrec.encode.spherical import unit
from mmrec.ragged import find_distinct


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking: ``mean softplus(-(s_pos - s_neg))`` over score pairs ``(b,)``.

    Equal to ``-mean log sigmoid(s_pos - s_neg)`` but never saturates: very wrong pairs keep their gradient.

    Source: Rendle et al., "BPR", UAI 2009.
    """
    return F.softplus(negative - positive).mean()


def norm_penalty(*rows: Tensor) -> Tensor:
    """Sum of the Frobenius norms (not squared) of the matrices ``(b, d)``, divided by b.

    The regulariser of the field's toolboxes ("EmbLoss"). Its gradient ``E / (b ||E||)`` does not grow with E, so its
    weights cannot be compared with those of :func:`squared_penalty`.
    """
    return sum((row.norm() for row in rows), rows[0].new_zeros(())) / len(rows[0])


def squared_penalty(*rows: Tensor) -> Tensor:
    """Half the sum of squared entries of the matrices ``(b, d)``, divided by b: the papers' L2 term."""
    return sum((row.pow(2).sum() for row in rows), rows[0].new_zeros(())) / (2 * len(rows[0]))


BLOCK_BYTES = 64 * 2**20  # of one block of a matrix of logits
CACHED_BYTES = (
    4 * 2**20
)  # the same on the CPU, where a block is passed over five times and should stay in the cache


def _block_rows(like: Tensor, columns: int) -> int:
    """How many rows of a matrix with as many columns, of the type and on the device of a tensor, are made at a time."""
    size = BLOCK_BYTES if like.is_cuda else CACHED_BYTES
    return max(1, size // (like.element_size() * max(columns, 1)))


class _LogPartition(torch.autograd.Function):
    """``Σ_i log Σ_j exp(a_i·c_j)``: gradients are made with the value, so no matrix ``(b, n)`` is kept or read again."""

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx,
        anchors: Tensor,
        candidates: Tensor,
        excluded: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        wanted = context.needs_input_grad[:2]  # type: ignore[attr-defined]
        of_anchors = torch.empty_like(anchors) if wanted[0] else None
        of_candidates = torch.zeros_like(candidates) if wanted[1] else None
        total = anchors.new_zeros(())
        step = _block_rows(anchors, len(candidates))
        for start in range(0, len(anchors), step):
            rows = slice(start, start + step)
            weights = anchors[rows] @ candidates.T
            if excluded is not None:
                ends = torch.searchsorted(excluded[0], excluded[0].new_tensor([start, start + step])).tolist()
                left, out = (part[slice(*ends)] for part in excluded)
                weights[left - start, out] = -torch.inf
            largest = weights.amax(1, keepdim=True)
            sums = weights.sub_(largest).exp_().sum(1, keepdim=True)
            total += (sums.log() + largest).sum()
            if of_anchors is not None:
                torch.div(weights @ candidates, sums, out=of_anchors[rows])
            if of_candidates is not None:
                of_candidates.addmm_(weights.T, anchors[rows] / sums)
        context.save_for_backward(of_anchors, of_candidates)  # type: ignore[arg-type]
        return total

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        of_anchors, of_candidates = context.saved_tensors  # type: ignore[attr-defined]
        return (
            None if of_anchors is None else gradients[0] * of_anchors,
            None if of_candidates is None else gradients[0] * of_candidates,
            None,
        )


def log_partition(
    anchors: Tensor, candidates: Tensor, excluded: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """``Σ_i log Σ_j exp(a_i·c_j)`` over rows ``(b, d)`` and ``(n, d)``, without overflow, in blocks of rows.

    Several times faster than cross-entropy of logits, which passes about ten times over a matrix ``(b, n)``.

    Args:
        anchors: ``(b, d)``.
        candidates: ``(n, d)``.
        excluded: Pairs that are left out: anchors ``(p,)``, ascending, and a candidate ``(p,)`` of each; no anchor may
            lack all candidates.
    """
    exact = torch.promote_types(torch.promote_types(anchors.dtype, candidates.dtype), torch.float32)
    with torch.autocast(anchors.device.type, enabled=False):
        total: Tensor = _LogPartition.apply(anchors.to(exact), candidates.to(exact), excluded)  # type: ignore[no-untyped-call]
    return total


def softmax_cross_entropy(queries: Tensor, table: Tensor, targets: Tensor) -> Tensor:
    """``mean_i [-q_i·t_{y_i} + log Σ_j exp(q_i·t_j)]`` over the whole table, in blocks.

    Args:
        queries: ``(b, d)``.
        table: ``(n, d)``.
        targets: ``(b,)`` rows of the table.
    """
    own = F.embedding(targets, table)  # not by indexing: see mmrec.nn.gather
    return (log_partition(queries, table) - (queries * own).sum()) / len(queries)


def info_nce(
    anchors: Tensor,
    targets: Tensor,
    temperature: float,
    ids: Tensor | None = None,
    negatives: Tensor | None = None,
) -> Tensor:
    """InfoNCE: ``mean_i [-a_i·b_i / t + log sum_j exp(a_i·b_j / t)]`` over cosines of ``(b, d)`` rows.

    Computed by log-sum-exp, so small temperatures do not overflow.

    Args:
        anchors: ``(b, d)``.
        targets: ``(b, d)``; row i is the positive of anchor i, the others are its negatives.
        temperature: Above 0.
        ids: ``(b,)`` what each row is about. Rows of the same id are no negatives of each other; without ids a
            thing that comes twice in a batch is pushed away from itself.
        negatives: ``(n, d)`` further negatives of every anchor.

    Source: van den Oord, Li, Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018.
    """
    anchors, targets = F.normalize(anchors, dim=1), F.normalize(targets, dim=1)
    anchors = anchors / temperature  # not the logits, of which there are many more
    same = None if ids is None else find_distinct(ids)[1].pairs()
    candidates = targets if negatives is None else torch.cat([targets, F.normalize(negatives, dim=1)])
    return (log_partition(anchors, candidates, same) - (anchors * targets).sum()) / len(anchors)


def alignment(users: Tensor, items: Tensor) -> Tensor:
    """``mean_i |u_i - v_i|²`` of L2-normalised pairs ``(b, d)``.

    Source: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on
    the Hypersphere", ICML 2020.
    """
    return (unit(users) - unit(items)).pow(2).sum(1).mean()


class _LogPotential(torch.autograd.Function):
    """``log sum_{a≠b} c_a c_b exp(4 (x_a·x_b - s_ab))``; gradients are made with the value, half of the pairs are looked at.

    Only a gradient of the similarity keeps a matrix ``(b, b)``.
    """

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx, rows: Tensor, similarity: Tensor, counts: Tensor
    ) -> Tensor:
        b, doubled, weighted = len(rows), 2 * rows, counts[:, None] * rows
        similarity = similarity.expand(b, b)
        wanted = context.needs_input_grad[1]  # type: ignore[attr-defined]
        potentials = rows.new_empty(b, b) if wanted else None
        total, pull = rows.new_zeros(()), torch.zeros_like(rows)
        step = _block_rows(rows, b)
        for start in range(0, b, step):
            end = min(start + step, b)
            own, later = slice(start, end), slice(start, None)
            # exponents lie within [-8, 4], safe to exponentiate as they are
            block = torch.addmm(similarity[own, later], doubled[own], doubled[later].T, beta=-4).exp_()
            inside, beyond = block[:, : end - start], block[:, end - start :]
            inside.fill_diagonal_(0)
            pull[own].addmm_(block, weighted[later])
            pull[end:].addmm_(beyond.T, weighted[own])
            total += counts[own] @ (inside @ counts[own] + 2 * (beyond @ counts[end:]))
            if potentials is not None:
                potentials[own, later], potentials[later, own] = block, block.T
        context.save_for_backward(counts, pull, total, potentials)  # type: ignore[arg-type]
        return total.log()

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, *gradients: Tensor
    ) -> tuple[Tensor, Tensor | None, None]:
        counts, pull, total, potentials = context.saved_tensors  # type: ignore[attr-defined]
        scale = 4 * gradients[0] / total
        of_similarity = None if potentials is None else -scale * counts[:, None] * potentials * counts
        return 2 * scale * counts[:, None] * pull, of_similarity, None


def uniformity(rows: Tensor, similarity: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
    """``log mean_{a≠b} exp(-2 (|x_a - x_b|² - 2 + 2 s_ab))`` of L2-normalised rows ``(b, d)``; 0 for a single row.

    Without ``similarity`` s is 1 and this is plain uniformity. With it rows that are alike in content are pushed apart
    less than the others: calibrated uniformity.

    Args:
        rows: ``(b, d)``.
        similarity: ``(b, b)`` symmetric, in [0, 1].
        counts: ``(b,)`` how often each row counts. A thing that comes twice in a batch would make a pair of distance
            0 with itself, which nothing can push apart; given once and counted twice it does not.

    Sources: Wang and Isola, ICML 2020; Zhou, Wang, Shen, "CM3: Calibrating Multimodal Recommendation", 2025.
    """
    if len(rows) < 2:
        return rows.sum() * 0
    wide = torch.promote_types(rows.dtype, torch.float32)  # also where the model computes in bfloat16
    rows = unit(rows.to(wide))
    counts = rows.new_ones(len(rows)) if counts is None else counts.to(rows.dtype)
    similarity = rows.new_ones(1, 1) if similarity is None else similarity.to(rows.dtype)
    with torch.autocast(rows.device.type, enabled=False):
        total: Tensor = _LogPotential.apply(rows, similarity, counts)  # type: ignore[no-untyped-call]
    return total - (counts.sum() ** 2 - counts.pow(2).sum()).log()


def direct_au(users: Tensor, items: Tensor, gamma: float) -> Tensor:
    """Alignment of the pairs ``(b, d)`` plus ``gamma`` times the mean uniformity of users and of items.

    Source: Wang et al., "Towards Representation Alignment and Uniformity in Collaborative Filtering", KDD 2022.
    """
    return alignment(users, items) + gamma * (uniformity(users) + uniformity(items)) / 2


def sampled_softmax(
    positive: Tensor,
    negative: Tensor,
    log_q_positive: Tensor | None = None,
    log_q_negative: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the positive among sampled negatives, corrected for how often each item is sampled.

    ``mean_i [-z_i + log(exp z_i + sum_j exp z_ij)]`` with ``z = s - log q``; without the correction items that are
    sampled often (popular ones, in a batch) are pushed down too much.

    Args:
        positive: Scores ``(b,)``.
        negative: Scores ``(b, n)``; -inf leaves a negative out.
        log_q_positive: ``(b,)`` log probability of each positive to be sampled.
        log_q_negative: ``(b, n)`` or ``(n,)`` likewise.

    Source: Bengio and Senecal, "Adaptive Importance Sampling", 2008; Yi et al., "Sampling-Bias-Corrected Neural
    Modeling", RecSys 2019.
    """
    if log_q_positive is not None:
        positive = positive - log_q_positive
    if log_q_negative is not None:
        negative = negative - log_q_negative
    logits = torch.cat([positive[:, None], negative], 1)
    return (logits.logsumexp(1) - positive).mean()


def binary_cross_entropy(positive: Tensor, negative: Tensor) -> Tensor:
    """``mean [softplus(-s_pos) + softplus(s_neg)]`` over scores ``(b,)``: each positive beside one negative.

    Source: Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018.
    """
    return (F.softplus(-positive) + F.softplus(negative)).mean()


def click_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """``mean -[y log σ(s) + (1 - y) log(1 - σ(s))]`` over logits and labels ``(b,)``, from the logits, so that none is too large."""
    return F.binary_cross_entropy_with_logits(logits.float(), labels)


def bpr_max(positive: Tensor, negative: Tensor, reg: float) -> Tensor:
    """``mean_i [-log Σ_j p_ij σ(s_i - s_ij) + reg Σ_j p_ij s_ij²]`` with ``p_i = softmax_j(s_ij)``.

    Args:
        positive: Scores ``(b,)``.
        negative: Scores ``(b, n)``; -inf leaves a negative out.
        reg: Weight of the score regularisation.

    Source: Hidasi and Karatzoglou, "Recurrent Neural Networks with Top-k Gains", CIKM 2018.
    """
    log_shares = negative.log_softmax(1)
    gain = (log_shares + F.logsigmoid(positive[:, None] - negative)).logsumexp(1)
    there = negative > -torch.inf
    squares = torch.where(there, log_shares.exp() * negative.masked_fill(~there, 0).pow(2), 0)
    return (reg * squares.sum(1) - gain).mean()


PENALTIES = {"norm": norm_penalty, "squared": squared_penalty}
