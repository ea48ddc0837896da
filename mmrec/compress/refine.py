"""Queries of one retriever moved towards what a second one finds, at the time of the search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from mmrec.compress.codec import Rows, as_rows
from mmrec.compress.ranking import join_candidates, rank_blocks, rank_candidates
from mmrec.data.histories import Ids
from mmrec.errors import DataError
from mmrec.rank import Ranking

BLOCK_BYTES = 64 * 2**20  # of the candidates' vectors of a block of queries


class RefineSettings(BaseModel):
    """Settings of guided query refinement."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    depth: int = Field(100, ge=1, description="candidates that each retriever gives")
    alpha: float = Field(0.5, ge=0, le=1, description="weight of the guide in the consensus")
    temperature: float = Field(1.0, gt=0, description="of the primary retriever's scores")
    guide_temperature: float = Field(1.0, gt=0, description="of the guide's scores")
    steps: int = Field(25, ge=0)
    lr: float = Field(0.01, gt=0)


@dataclass(frozen=True, eq=False)
class Retriever:
    """Vectors whose inner products are scores.

    Attributes:
        queries: ``(b, d)``.
        items: ``(n, d)``.
    """

    queries: Rows
    items: Rows

    def best(self, k: int) -> Ids:
        """The k best items ``(b, k)`` of each query, exactly."""
        n, b = len(self.items), len(self.queries)
        return rank_blocks(lambda rows: self.queries @ self.items[rows].T, n, b, k).items

    def gather(self, rows: slice, candidates: Ids) -> tuple[Tensor, Tensor]:
        """Queries ``(b, d)`` of a block, and vectors ``(b, c, d)`` of its candidates; those of -1 mean nothing."""
        return torch.from_numpy(self.queries[rows]), torch.from_numpy(self.items[candidates])


def consensus(primary: Tensor, guide: Tensor, held: Tensor, settings: RefineSettings) -> Tensor:
    """``c = (1 - α) softmax(s_1 / T_1) + α softmax(s_2 / T_2)`` over the held candidates, each ``(b, c)``."""
    own = _shares(primary, held, settings.temperature)
    # not own + α (other - own): with α = 0 the target has to be the query's own shares to the last bit
    return (1 - settings.alpha) * own + settings.alpha * _shares(guide, held, settings.guide_temperature)


def refine_queries(
    queries: Tensor, vectors: Tensor, guide: Tensor, held: Tensor, settings: RefineSettings
) -> Tensor:
    """Queries ``(b, d)`` after ``steps`` steps of Adam down ``KL(c || softmax(<z, v> / T_1))``, begun at the queries.

    The target c, the consensus of both retrievers at the start, stays as it is. The gradient is closed:
    ``Σ_j (p_j(z) - c_j) v_j / T_1``. Each query moves for itself.

    Args:
        queries: ``(b, d)`` of the primary retriever.
        vectors: ``(b, c, d)`` of the candidates, in its space.
        guide: ``(b, c)`` the second retriever's scores of them.
        held: ``(b, c)`` True where there is a candidate, at least one in each row.
        settings: α, temperatures, steps and rate.

    Source: Uzan et al., "Guided Query Refinement: Multimodal Hybrid Retrieval with Test-Time
    Optimization", ICLR 2026. The published code lets gradients flow through the target too; here it is constant.
    """
    refined = queries.clone()
    target = consensus(_products(queries, vectors), guide, held, settings)
    optimizer = torch.optim.Adam([refined], lr=settings.lr)
    for _ in range(settings.steps):
        shares = _shares(_products(refined, vectors), held, settings.temperature)
        refined.grad = torch.bmm((shares - target).unsqueeze(1), vectors).squeeze(1) / settings.temperature
        optimizer.step()
    return refined


def _products(queries: Tensor, vectors: Tensor) -> Tensor:
    return torch.bmm(vectors, queries.unsqueeze(2)).squeeze(2)


def _shares(scores: Tensor, held: Tensor, temperature: float) -> Tensor:
    return (scores / temperature).masked_fill(~held, -torch.inf).softmax(1)


def refine_ranking(
    primary: Retriever, guide: Retriever, k: int, settings: RefineSettings | None = None
) -> Ranking:
    """The k best items of queries of the primary retriever, after the guide has moved them.

    Candidates are the best items of both; they are ranked by the primary retriever's scores of the refined queries.

    Args:
        primary: Whose queries move, and whose scores rank.
        guide: Second opinion about the same queries and items, in a space of its own.
        k: Length of the lists, at most the number of candidates.
        settings: Settings; None: the defaults.

    Raises:
        DataError: Retrievers of different queries or items.
    """
    settings = settings or RefineSettings()
    shapes = [(len(part.queries), len(part.items)) for part in (primary, guide)]
    if shapes[0] != shapes[1]:
        raise DataError(
            "two retrievers of the same queries and items",
            "{} queries, {} items and {} queries, {} items".format(*shapes[0], *shapes[1]),
            "give rows in the same order to both",
        )
    ours, theirs = (Retriever(as_rows(part.queries), as_rows(part.items)) for part in (primary, guide))
    candidates, _ = join_candidates([part.best(settings.depth) for part in (ours, theirs)])
    n, width = candidates.shape
    items = np.empty((n, min(k, width)), dtype=np.int64)
    scores = np.empty((n, min(k, width)), dtype=np.float32)
    step = max(1, BLOCK_BYTES // (4 * max(width * ours.items.shape[1], 1)))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        held = torch.from_numpy(candidates[rows] >= 0)
        queries, vectors = ours.gather(rows, candidates[rows])
        opinion = _products(*theirs.gather(rows, candidates[rows]))
        refined = refine_queries(queries, vectors, opinion, held, settings)
        found = _products(refined, vectors).masked_fill(~held, -torch.inf)
        ranking = rank_candidates(candidates[rows], found, k)
        items[rows], scores[rows] = ranking.items, ranking.scores
    return Ranking(items, scores)
