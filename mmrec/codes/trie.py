"""The trie of a catalogue's semantic IDs: which codes can follow which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mmrec.codes.table import CodeTable


@dataclass(frozen=True)
class Children:
    """The children of some nodes, side by side; as many columns as the widest node of the depth has.

    Attributes:
        nodes: ``(…, c)`` their numbers at the next depth.
        codes: ``(…, c)`` the code that leads to each.
        exist: ``(…, c)`` False for the columns that a node does not fill.
    """

    nodes: Tensor
    codes: Tensor
    exist: Tensor


class Trie(nn.Module):
    """Prefixes of the semantic IDs in sorted order, in a few integers for each.

    A node of depth h is a prefix of h codes that some item has; the nodes of a depth are numbered in sorted order, so
    the children of a node are neighbours. Depth 0 has the empty prefix alone, depth :attr:`levels` one leaf per item.

    Args:
        table: Semantic IDs.

    Attributes:
        sizes: Codes of each level.
        widths: Most children that a node of each depth has.
        n_nodes: Nodes of each depth, 0 to ``levels``.
        items: ``(n_items,)`` item of each leaf.
        paths: ``(n_items, levels + 1)`` the nodes that an item's ID passes.
    """

    items: Tensor
    paths: Tensor

    def __init__(self, table: CodeTable) -> None:
        super().__init__()
        codes = np.asarray(table.codes)
        order = np.lexsort(codes.T[::-1])
        ordered = codes[order]
        self.levels, self.sizes = table.levels, table.sizes
        begins = self._begin(ordered)
        self.n_nodes = tuple(int(begin.sum()) for begin in begins)
        firsts = [np.flatnonzero(begin) for begin in begins]  # the first leaf below each node
        paths = np.stack([np.cumsum(begin) - 1 for begin in begins], 1)
        widths = []
        for depth in range(self.levels):
            start = paths[firsts[depth], depth + 1]
            ends = np.append(start[1:], self.n_nodes[depth + 1])
            widths.append(int((ends - start).max()))
            self._keep(f"start_{depth}", start)
            self._keep(f"count_{depth}", ends - start)
            self._keep(f"code_{depth}", ordered[firsts[depth + 1], depth].astype(np.int64))
            self._keep(f"leaf_{depth}", np.append(firsts[depth], len(ordered)))
        self.widths = tuple(widths)
        self._keep("items", order)
        by_item = np.empty_like(paths)
        by_item[order] = paths
        self._keep("paths", by_item)

    @staticmethod
    def _begin(ordered: NDArray[Any]) -> list[NDArray[np.bool_]]:
        """For each depth the leaves at which a new prefix begins."""
        differ = np.ones(ordered.shape, dtype=bool)
        differ[1:] = ordered[1:] != ordered[:-1]
        begins = [np.arange(len(ordered)) == 0]
        for level in range(ordered.shape[1]):
            begins.append(begins[-1] | differ[:, level])
        return begins

    def _keep(self, name: str, values: NDArray[Any]) -> None:
        self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(values)), persistent=False)

    def _of(self, name: str, depth: int) -> Tensor:
        part: Tensor = getattr(self, f"{name}_{depth}")
        return part

    def following(self, depth: int, nodes: Tensor) -> Children:
        """The children of nodes of a depth below ``levels``, any shape ``(…)``."""
        start, count = self._of("start", depth)[nodes], self._of("count", depth)[nodes]
        columns = torch.arange(self.widths[depth], device=nodes.device)
        exist = columns < count[..., None]
        below = torch.where(exist, start[..., None] + columns, start[..., None])
        return Children(below, self._of("code", depth)[below], exist)

    def leaves(self, depth: int, nodes: Tensor) -> Tensor:
        """How many items have each prefix, nodes of a depth below ``levels``."""
        first = self._of("leaf", depth)
        return first[nodes + 1] - first[nodes]

    def alive(self, permitted: Tensor) -> list[Tensor]:
        """For each depth from 1 on, which nodes lead to a permitted item; ``permitted`` is a mask ``(n_items,)``."""
        counts = torch.cat([permitted.new_zeros(1, dtype=torch.int64), permitted[self.items].cumsum(0)])
        inside = []
        for depth in range(1, self.levels):
            leaves = self._of("leaf", depth)
            inside.append(counts[leaves[1:]] > counts[leaves[:-1]])
        return [*inside, permitted[self.items]]
