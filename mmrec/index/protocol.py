"""What every index does, and what a search returns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import pandas as pd

    from mmrec.index.items import Items
    from mmrec.where import Filter

Ids = NDArray[np.int64]
Vectors = NDArray[np.float32]
Deny = Ids | Sequence[Ids]


class IndexOptions(BaseModel):
    """Base of the options of an index: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, eq=False)
class Found:
    """The best items of each query.

    Attributes:
        ids: ``(b, k)`` item ids by score descending, then id ascending; -1 where fewer than k items are permitted.
        scores: ``(b, k)`` float32 inner products; -inf where there is no item.
    """

    ids: Ids
    scores: Vectors


class Index(Protocol):
    """Items that can be found by inner product with a query.

    Several threads may search at a time; while one changes the items, none may.

    Attributes:
        backend: Name under which :func:`mmrec.index.build_index` makes it.
        counts: How often a search had to be helped out to give k items, by reason.
        recall: Result of the last :func:`mmrec.index.measure_recall`, with k, number of queries and seed; None
            where there is none since the items changed.
    """

    backend: ClassVar[str]
    counts: Counter[str]
    recall: dict[str, Any] | None

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        ...

    @property
    def kinds(self) -> dict[str, str]:
        """Attribute name to kind, for filters."""
        ...

    def __len__(self) -> int: ...

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        where: str | Filter | None = None,
        allow: Ids | None = None,
        deny: Deny | None = None,
    ) -> Found:
        """Find the k best items of each query ``(b, dim)``.

        Lists are never shorter than k while enough items are permitted, however selective the filter.

        Args:
            queries: ``(b, dim)``.
            k: Length of the lists.
            where: A filter over the attributes; see :mod:`mmrec.where`.
            allow: Ids that may appear, those that the index does not hold being ignored; all if None.
            deny: Ids that may not appear: one array for all queries, or one per query.

        Raises:
            ConfigError: k is below 1, or a filter that does not fit.
            DataError: Queries of another length, or not finite.
        """
        ...

    def add(self, ids: Ids, vectors: Vectors, attributes: pd.DataFrame | None = None) -> None:
        """Add items ``(m,)`` with vectors ``(m, dim)``; those whose id is there already are replaced.

        Raises:
            DataError: Vectors of another length or not finite, an id twice, or other attributes than the index has.
        """
        ...

    def delete(self, ids: Ids) -> None:
        """Remove items; ids that are not there are ignored."""
        ...

    def read(self) -> Items:
        """All items, by ascending id."""
        ...

    def save(self, folder: Path) -> None:
        """Write the index so that :func:`mmrec.index.load_index` opens it.

        The manifest comes last and at once: killed at any moment, the folder holds the old index or the new one.
        """
        ...
