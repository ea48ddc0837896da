"""What is the same for every database: checks, completeness, saving.

With a ``uri`` the items live in the database: changes count at once, and a saved index is a manifest that points there.
Without one they live in memory or in a temporary folder, and a saved index holds the items themselves, from which
loading fills a new database.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

from mmrec.errors import ConfigError
from mmrec.index.exact import ExactIndex
from mmrec.index.folder import save_index
from mmrec.index.items import Items, check_ids, make_items, read_items
from mmrec.index.protocol import Deny, Found, Ids, Vectors
from mmrec.index.request import Request, check_request, sort_found

if TYPE_CHECKING:
    import pandas as pd

    from mmrec.where import Filter

SECRETS = {"api_key", "token"}  # options that are never saved
BLOCK = 1000  # items in one message


class Store(Protocol):
    """A table of items in a database.

    Attributes:
        options: Its options; ``uri`` says where it is, None being a place that ends with the process.
    """

    options: Any

    def put(self, items: Items) -> None:
        """Add items, in place of those with the same id."""
        ...

    def remove(self, ids: Ids) -> None:
        """Remove the items that are there."""
        ...

    def find(self, request: Request) -> tuple[Ids, Vectors]:
        """Ids and scores ``(b, m)`` in any order, -inf where there is none; ``own_deny`` is None."""
        ...

    def count(self, request: Request | None) -> int:
        """Number of items that a request permits, or of all."""
        ...

    def read(self, request: Request | None) -> Items:
        """The items that a request permits, or all, by ascending id."""
        ...

    def drop(self) -> None:
        """Remove the table."""
        ...


class DatabaseIndex:
    """An index in a database, whose own search finds and filters.

    A list that comes back shorter than what the filter permits is made good by exact search over the
    permitted items, read from the database; ``counts["short"]`` says for how many queries.
    """

    backend: ClassVar[str]
    options_type: ClassVar[Any]
    store_type: ClassVar[Any]

    def __init__(self, store: Store, dim: int, kinds: Mapping[str, str]) -> None:
        self.store = store
        self.dim = dim
        self.kinds = dict(kinds)
        self.counts: Counter[str] = Counter()
        self.recall: dict[str, Any] | None = None

    @classmethod
    def build(cls, items: Items, options: Any) -> Self:
        """Make a new table of items.

        Raises:
            ConfigError: The database's package is not installed, or the table exists.
        """
        dim, kinds = items.vectors.shape[1], items.attributes.kinds
        options = options.model_copy(update={"uri": _absolute(options.uri)})
        store = cls.store_type(options, dim, kinds, new=True)
        try:
            store.put(items)
        except BaseException:
            store.drop()
            raise
        return cls(store, dim, kinds)

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any], options: Any) -> Self:
        """Open the table that the manifest points to, or fill a new one with the saved items.

        Raises:
            ConfigError: The database's package is not installed, or there is no such table.
        """
        kinds = manifest["kinds"]
        if manifest["data"] is not None:
            return cls.build(read_items(folder, kinds), options)
        if options.uri.startswith("./"):
            options = options.model_copy(update={"uri": str(folder.resolve() / options.uri)})
        return cls(cls.store_type(options, manifest["dim"], kinds, new=False), manifest["dim"], kinds)

    def __len__(self) -> int:
        return self.store.count(None)

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        where: str | Filter | None = None,
        allow: Ids | None = None,
        deny: Deny | None = None,
    ) -> Found:
        """Find the k best items of each query; see :class:`mmrec.index.Index`."""
        request = check_request(queries, k, where, allow, deny, dim=self.dim, kinds=self.kinds)
        if not len(request.queries) or (request.allow is not None and not len(request.allow)):
            return sort_found(*no_items(len(request.queries)), request.k)
        parts = [self._search_part(part) for part in _common(request)]
        return Found(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("ids", "scores")))

    def _search_part(self, request: Request) -> Found:
        found = sort_found(*self.store.find(request), request.k)
        lengths = (found.ids >= 0).sum(axis=1)
        if lengths.min() < request.k:
            short = np.flatnonzero(lengths < min(request.k, self.store.count(request)))
            if len(short):
                self.counts["short"] += len(short)
                better = ExactIndex(self.store.read(request)).search(request.queries[short], request.k)
                found.ids[short], found.scores[short] = better.ids, better.scores
        return found

    def add(self, ids: Ids, vectors: Vectors, attributes: pd.DataFrame | None = None) -> None:
        """Add or replace items."""
        self.store.put(make_items(vectors, attributes, ids, like=(self.dim, self.kinds)))
        self.recall = None

    def delete(self, ids: Ids) -> None:
        """Remove items; ids that are not there are ignored."""
        numbers = check_ids(ids, "ids to delete")
        for start in range(0, len(numbers), BLOCK):
            self.store.remove(numbers[start : start + BLOCK])
        self.recall = None

    def read(self) -> Items:
        """All items, by ascending id."""
        return self.store.read(None)

    def save(self, folder: Path) -> None:
        """Write a manifest that points to the database, and the items where the database will not outlive the process."""
        options = self.store.options.model_dump(exclude=SECRETS)
        options["uri"] = _relative(options["uri"], Path(folder))
        save_index(self, folder, options, None if options["uri"] else self.read().write)


def _common(request: Request) -> Iterator[Request]:
    """Requests without ids denied to single queries: the request itself, or one per query."""
    if request.own_deny is None:
        yield request
        return
    for row, denied in enumerate(request.own_deny):
        deny = np.union1d(request.deny, denied)
        yield replace(request, queries=request.queries[row : row + 1], deny=deny, own_deny=None)


def _absolute(uri: str | None) -> str | None:
    """A path made absolute; addresses (and None) as they are."""
    return str(Path(uri).resolve()) if uri and "://" not in uri else uri


def _relative(uri: str | None, folder: Path) -> str | None:
    """A path inside ``folder`` relative to it, so that both can move."""
    if uri and "://" not in uri and Path(uri).is_relative_to(folder.resolve()):
        return f"./{Path(uri).relative_to(folder.resolve())}"
    return uri


def no_items(b: int) -> tuple[Ids, Vectors]:
    """Empty lists for ``b`` queries."""
    return np.empty((b, 0), dtype=np.int64), np.empty((b, 0), dtype=np.float32)


def pad_lists(lists: list[tuple[list[int], list[float]]]) -> tuple[Ids, Vectors]:
    """Lists of ids and scores, which may differ in length, as two arrays."""
    shape = len(lists), max(len(one) for one, _ in lists)
    ids, scores = np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf, dtype=np.float32)
    for row, (own, values) in enumerate(lists):
        ids[row, : len(own)], scores[row, : len(own)] = own, values
    return ids, scores


def as_items(ids: Any, vectors: Any, columns: Mapping[str, Any], dim: int, kinds: Mapping[str, str]) -> Items:
    """Items out of what a database returned.

    Args:
        ids: ``(n,)``.
        vectors: ``(n, dim)``.
        columns: Attribute name to ``n`` values, None where missing.
        dim: Length of the vectors.
        kinds: Attribute name to kind.
    """
    import pandas as pd

    frame = pd.DataFrame({name: columns[name] for name in kinds}, index=range(len(ids)), dtype=object)
    matrix = np.asarray(vectors, dtype=np.float32).reshape(len(ids), dim)
    return make_items(matrix, frame, np.asarray(ids, dtype=np.int64), like=(dim, kinds))


def require(module: str, extra: str) -> Any:
    """Import an optional package.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"the package {module}", f"{error}", f"pip install 'mmrec[{extra}]'") from None


def table_error(place: str, table: str, *, exists: bool) -> ConfigError:
    """A table that is there and should not be, or the other way round."""
    if exists:
        return ConfigError(
            f"a new table in {place}", f"{table!r} exists", "choose another name, or drop it first"
        )
    return ConfigError(
        f"the table {table!r} in {place}", "no such table", "check uri and name, or build the index anew"
    )
