"""What is tokenised: one or more tables of vectors of the same items, centred, brought to one scale and joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from mmrec.codes.quantiser import Rows, Tensors
from mmrec.encode.features import FeatureTable, check_vectors
from mmrec.errors import FeatureError, did_you_mean

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Views:
    """How tables of vectors become one: each is centred and divided by the root mean square of its rows' lengths.

    An item that lacks one has zeros in its place, which is then the mean of the others.

    Attributes:
        names: Of the tables.
        means: ``(d_m,)`` for each.
        lengths: Root mean square length of each table's centred rows; 1 where they are all equal.
    """

    names: tuple[str, ...]
    means: tuple[NDArray[np.float32], ...]
    lengths: tuple[float, ...]

    @classmethod
    def learn(cls, tables: Sequence[FeatureTable], fitted: Mask) -> Views:
        """Learn means and lengths from the items marked in ``fitted (n_items,)``.

        Raises:
            FeatureError: Vectors that are not finite, or none of a fitted item.
        """
        means, lengths = [], []
        for table in tables:
            present = np.array(table.present)
            check_vectors(table.vectors, present, len(fitted), source=table.name)
            known = np.asarray(table.vectors)[present & fitted].astype(np.float64)
            if not len(known):
                raise FeatureError(
                    f"items with training interactions that have {table.name}", "none", "choose another split"
                )
            mean = known.mean(0)
            length = float(np.sqrt(np.square(known - mean).sum(1).mean()))
            means.append(mean.astype(np.float32))
            lengths.append(length if length > 0 else 1.0)
        return cls(tuple(table.name for table in tables), tuple(means), tuple(lengths))

    def join(self, views: Sequence[Rows], present: Sequence[Mask]) -> Rows:
        """Joined vectors ``(n, d)`` of views ``(n, d_m)`` with masks ``(n,)``."""
        parts = [
            np.where(has[:, None], (np.asarray(view, dtype=np.float32) - mean) / np.float32(length), 0)
            for view, has, mean, length in zip(views, present, self.means, self.lengths, strict=True)
        ]
        return np.concatenate(parts, axis=1)

    def join_tables(self, tables: Sequence[FeatureTable]) -> tuple[Rows, Mask]:
        """Joined vectors ``(n_items, d)``, and the items ``(n_items,)`` that have any of them."""
        present = [np.array(table.present) for table in tables]
        return self.join([table.vectors for table in tables], present), np.any(present, axis=0)

    def join_new(self, vectors: Rows | Mapping[str, Rows]) -> Rows:
        """Joined vectors ``(n, d)`` of new items.

        Args:
            vectors: ``(n, d_m)`` by the names of the tables; one array where there is one. A row of zeros is absent.

        Raises:
            FeatureError: Another name, width or number of rows, or numbers that are not finite.
        """
        given = vectors if isinstance(vectors, Mapping) else {self.names[0]: vectors}
        if set(given) != set(self.names):
            wrong = next((name for name in given if name not in self.names), None)
            hint = did_you_mean(wrong, list(self.names)) if wrong else "give an array for each name"
            raise FeatureError(f"vectors of {', '.join(self.names)}", ", ".join(given), hint)
        views = [np.asarray(given[name]) for name in self.names]
        masks: list[Mask] = []
        for name, view, mean in zip(self.names, views, self.means, strict=True):
            if view.ndim != 2 or view.shape != (len(views[0]), len(mean)):
                raise FeatureError(
                    f"{name}: vectors ({len(views[0])}, {len(mean)})",
                    f"shape {view.shape}",
                    "encode the new items as the catalogue was",
                )
            check_vectors(view, np.ones(len(view), dtype=np.bool_), len(view), source=name)
            masks.append(np.asarray(view.any(axis=1)))
        return self.join(views, masks)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors, and what else :meth:`restore` needs."""
        tensors = {f"mean.{index}": torch.from_numpy(mean) for index, mean in enumerate(self.means)}
        return tensors, {"names": list(self.names), "lengths": list(self.lengths)}

    @classmethod
    def restore(cls, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> Self:
        """The views that gave this state."""
        names = tuple(metadata["names"])
        means = tuple(tensors[f"mean.{index}"].numpy() for index in range(len(names)))
        return cls(names, means, tuple(metadata["lengths"]))
