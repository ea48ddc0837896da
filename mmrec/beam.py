"""Beam search inside a trie: a batch of users at once, and only items that exist."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrec.codes.trie import Trie


class Speller(Protocol):
    """Says how likely each next code is, for a batch of users; remembers what their beams have spelt."""

    n_users: int

    def start(self) -> Tensor:
        """Logits ``(b, 1, size of level 0)`` of the first code."""
        ...

    def step(self, level: int, parents: Tensor, codes: Tensor) -> Tensor:
        """Logits ``(b, w, size of the level)`` of the next code.

        Args:
            level: Of the code to come, 1 or above.
            parents: ``(b, w)`` which of the beams before each beam goes on.
            codes: ``(b, w)`` the code that it went on with.
        """
        ...

    def select(self, users: Tensor) -> Speller:
        """The same for some of the users ``(n,)`` of the batch, from the start."""
        ...


@dataclass(frozen=True)
class Beams:
    """The best items found.

    Attributes:
        items: ``(b, w)`` best first, no item twice; -1 where there are no more.
        scores: ``(b, w)`` logarithm of the probability of its ID; -inf where there is no item.
    """

    items: Tensor
    scores: Tensor


def beam_search(
    speller: Speller,
    trie: Trie,
    width: int,
    *,
    forbidden: tuple[Tensor, Tensor] | None = None,
    permitted: Tensor | None = None,
    among_children: bool = False,
) -> Beams:
    """The items whose IDs are the likeliest to be spelt; exactly those, once ``width`` is the number of items.

    Every step sees the children of the beams' nodes only, so there are no IDs that no item has. The shapes depend on
    the width and the trie alone; but ``among_children`` a prefix that only one item has is sure to go on to it, and the
    speller is asked no more about it: its rows are then as many as the user with the most open prefixes has.

    Args:
        speller: The model and its users.
        trie: The catalogue.
        width: Beams of each user.
        forbidden: Rows ``(n,)`` of users in the batch and items ``(n,)`` that they may not be given. A beam is lost
            where it ends at one: ask for more beams than items.
        permitted: Mask ``(n_items,)``; prefixes that lead to no such item are not followed.
        among_children: Probabilities of a code among the codes that can follow, instead of all of its level.
    """
    alive = None if permitted is None else trie.alive(permitted)
    nodes = trie.items.new_zeros(speller.n_users, 1)
    scores = torch.zeros(nodes.shape, device=nodes.device)
    asked = torch.zeros_like(nodes)  # the beams that the rows of the logits are about
    logits = speller.start()
    for level in range(trie.levels):
        children = trie.following(level, nodes)
        exist = children.exist if alive is None else children.exist & alive[level][children.nodes]
        if forbidden is not None and level == trie.levels - 1:
            exist = exist & ~_among(forbidden, trie.items[children.nodes], len(trie.items))
        if among_children:
            rows = asked[..., None].expand(-1, -1, exist.shape[2])
            codes, follow = children.codes.gather(1, rows), children.exist.gather(1, rows)
            gains = torch.zeros(exist.shape, device=exist.device)  # what must follow has probability 1
            gains = gains.scatter(1, rows, _log_probabilities(logits.float(), codes, follow, True))
        else:
            gains = _log_probabilities(logits.float(), children.codes, children.exist, False)
        totals = torch.where(exist, scores[..., None] + gains, -torch.inf).flatten(1)
        scores, best = totals.topk(min(width, totals.shape[1]))
        nodes = children.nodes.flatten(1).gather(1, best)
        if level + 1 < trie.levels:
            row = torch.zeros_like(children.nodes[..., 0]).scatter(
                1, asked, torch.arange(asked.shape[1], device=nodes.device).expand_as(asked)
            )
            asked = _asked(trie, level + 1, nodes, scores, among_children)
            if asked.shape[1]:
                chosen = best.gather(1, asked)
                codes = children.codes.flatten(1).gather(1, chosen)
                logits = speller.step(level + 1, row.gather(1, chosen // trie.widths[level]), codes)
    return Beams(trie.items[nodes].masked_fill(scores == -torch.inf, -1), scores)


def _asked(trie: Trie, depth: int, nodes: Tensor, scores: Tensor, among_children: bool) -> Tensor:
    """Places ``(b, n)`` of the beams whose next code is not sure yet, and of as many others as make n the same for all."""
    if not among_children:
        return torch.arange(nodes.shape[1], device=nodes.device).expand_as(nodes)
    is_open = (trie.leaves(depth, nodes) > 1) & (scores > -torch.inf)
    most = max(is_open.sum(1).tolist(), default=0)
    return is_open.byte().argsort(dim=1, descending=True, stable=True)[:, :most]


def _log_probabilities(logits: Tensor, codes: Tensor, exist: Tensor, among_children: bool) -> Tensor:
    """Of the codes ``(b, w, c)`` under logits ``(b, w, size)``."""
    if among_children:
        own = logits.gather(2, codes).masked_fill(~exist, -torch.inf)
        return F.log_softmax(own, dim=2)
    return logits.gather(2, codes) - logits.logsumexp(2, keepdim=True)


def _among(pairs: tuple[Tensor, Tensor], items: Tensor, n_items: int) -> Tensor:
    """Which of the items ``(b, w, c)`` are among the pairs of row and item."""
    rows = torch.arange(len(items), device=items.device)[:, None, None]
    return torch.isin(rows * n_items + items, pairs[0] * n_items + pairs[1])


def generate(
    speller: Speller,
    trie: Trie,
    k: int,
    *,
    beams: int,
    forbidden: tuple[Tensor, Tensor] | None = None,
    permitted: Tensor | None = None,
    among_children: bool = False,
) -> Beams:
    """``k`` items for each user, or all there are: users who got fewer are asked again with twice the beams.

    Args:
        speller: The model and its users.
        trie: The catalogue.
        k: Items for each user.
        beams: Beams of the first attempt; at least k are used.
        forbidden: See :func:`beam_search`.
        permitted: See :func:`beam_search`.
        among_children: See :func:`beam_search`.
    """
    n_items = len(trie.items)
    k, width = min(k, n_items), min(max(beams, k), n_items)

    def search(some: Speller, some_forbidden: tuple[Tensor, Tensor] | None) -> Beams:
        found = beam_search(
            some, trie, width, forbidden=some_forbidden, permitted=permitted, among_children=among_children
        )
        return Beams(
            *(_padded(part, k, fill) for part, fill in ((found.items, -1), (found.scores, -torch.inf)))
        )

    best = search(speller, forbidden)
    wanting = (best.items[:, -1] < 0).nonzero().squeeze(1)
    while len(wanting) and width < n_items:
        width = min(2 * width, n_items)
        more = search(speller.select(wanting), _rows(forbidden, wanting, speller.n_users))
        best.items[wanting], best.scores[wanting] = more.items, more.scores
        wanting = wanting[more.items[:, -1] < 0]
    return best


def _padded(part: Tensor, k: int, fill: float) -> Tensor:
    return F.pad(part[:, :k], (0, max(0, k - part.shape[1])), value=fill)


def _rows(pairs: tuple[Tensor, Tensor] | None, chosen: Tensor, n_rows: int) -> tuple[Tensor, Tensor] | None:
    """The pairs of the chosen rows ``(n,)`` out of ``n_rows``, numbered anew."""
    if pairs is None:
        return None
    place = torch.full((n_rows,), -1, device=chosen.device)
    place[chosen] = torch.arange(len(chosen), device=chosen.device)
    rows = place[pairs[0]]
    return rows[rows >= 0], pairs[1][rows >= 0]


def log_likelihood(speller: Speller, trie: Trie, items: Tensor, *, among_children: bool = False) -> Tensor:
    """Logarithm ``(b, m)`` of the probability that a user's next item is each of ``items (b, m)``."""
    paths = trie.paths[items]
    total = torch.zeros(items.shape, device=items.device)
    logits = speller.start().expand(-1, items.shape[1], -1)
    parents = torch.zeros_like(items)  # all go on from the one beam at the start, then each from its own
    for level in range(trie.levels):
        children = trie.following(level, paths[..., level])
        gains = _log_probabilities(logits.float(), children.codes, children.exist, among_children)
        place = (paths[..., level + 1] - children.nodes[..., 0])[..., None]
        total = total + gains.gather(2, place).squeeze(2)
        if level + 1 < trie.levels:
            logits = speller.step(level + 1, parents, children.codes.gather(2, place).squeeze(2))
            parents = torch.arange(items.shape[1], device=items.device).expand_as(items)
    return total
