"""FAISS on one machine: flat, HNSW or IVF-PQ before, exact scores behind.

Source: Douze et al., "The Faiss library", 2024; HNSW: Malkov and Yashunin, 2018; IVF-PQ: Jégou, Douze and Schmid,
"Product Quantization for Nearest Neighbor Search", 2011.
"""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from mmrec.errors import ConfigError
from mmrec.files import atomic_path, write_array
from mmrec.index.exact import ExactIndex, Mask, score
from mmrec.index.folder import save_index
from mmrec.index.items import Items, check_ids, make_items, read_items
from mmrec.index.protocol import Deny, Found, Ids, IndexOptions, Vectors
from mmrec.index.request import Request, check_request, sort_found

if TYPE_CHECKING:
    import pandas as pd

    from mmrec.where import Filter

FEW = 50  # below one in so many items permitted, exact search over them is faster and finds all
GARBAGE = 4  # above one in so many entries dead, the index is made again
AT_LOADING = {"ef_search", "nprobe", "refine"}  # options that do not shape the index


class Options(IndexOptions):
    """What kind of index, how large and how thorough."""

    kind: Literal["flat", "hnsw", "ivfpq"] = Field("hnsw", description="all · a graph · cells and codes")
    m: int = Field(32, ge=2, le=256, description="hnsw: links of an item")
    ef_construction: int = Field(200, ge=1, description="hnsw: candidates while linking")
    ef_search: int = Field(128, ge=1, description="hnsw: candidates while searching")
    nlist: int | None = Field(None, ge=1, description="ivfpq: cells; 4 √n if not given")
    nprobe: int = Field(32, ge=1, description="ivfpq: cells to search")
    pieces: int | None = Field(None, ge=1, description="ivfpq: codes of a vector; about dim / 4 if not given")
    refine: int = Field(
        4, ge=1, description="candidates per item of the list; their scores are computed exactly"
    )
    seed: int = Field(0, ge=0, description="ivfpq: of the clusterings")


class FaissIndex:
    """FAISS chooses candidates, exact scores order them.

    Vectors and attributes lie beside the FAISS index, from a saved index mapped from the disk. Exact search over the
    permitted items takes over where a filter leaves few of them, and where FAISS gives a shorter list than it could;
    ``counts`` says how many queries were ``few permitted`` and how many ``short``. Deleted and replaced items stay
    in FAISS as entries that no search may return, until they are a quarter and the index is made again.
    """

    backend: ClassVar = "faiss"
    options_type: ClassVar = Options

    def __init__(self, exact: ExactIndex, options: Options, native: Any, entries: Ids) -> None:
        self.exact = exact
        self.options = options
        self.native = native  # the FAISS index; its entries are numbered in the order of adding
        self.entries = entries  # (native.ntotal,) the item id of each entry, -1 where it is dead
        self.counts: Counter[str] = Counter()
        self.recall: dict[str, Any] | None = None
        self._set_rows()

    @classmethod
    def build(cls, items: Items, options: Options) -> Self:
        """Train where there is something to train, and add all items.

        Raises:
            ConfigError: Too few items to train, or a number of codes that does not divide the vectors.
        """
        native = _make_native(items.vectors, options)
        native.add(items.vectors)
        return cls(ExactIndex(items), options, native, items.ids.copy())

    @classmethod
    def load(cls, folder: Path, manifest: Mapping[str, Any], options: Options) -> Self:
        """Open the files that :meth:`save` wrote.

        Raises:
            ConfigError: An option is changed that shapes the index.
        """
        shaped = options.model_dump(exclude=AT_LOADING)
        saved = Options(**manifest["options"]).model_dump(exclude=AT_LOADING)
        if shaped != saved:
            raise ConfigError(
                f"the saved index's {saved}", f"{shaped}", "build the index anew with these options"
            )
        exact = ExactIndex(read_items(folder, manifest["kinds"]))
        native = _faiss().read_index(str(folder / "index.faiss"))
        return cls(exact, options, native, np.load(folder / "entries.npy", allow_pickle=False))

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.exact.dim

    @property
    def kinds(self) -> dict[str, str]:
        """Attribute name to kind."""
        return self.exact.kinds

    def __len__(self) -> int:
        return len(self.exact)

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
        permitted = self.exact.permitted(request)
        n = len(self) if permitted is None else int(np.count_nonzero(permitted))
        if n <= max(request.k, len(self) // FEW):
            self.counts["few permitted"] += len(request.queries)
            return self.exact.search_among(request, permitted)
        found = self._search_native(request, permitted)
        return self._complete(request, permitted, found)

    def _search_native(self, request: Request, permitted: Mask | None) -> Found:
        faiss = _faiss()
        longest = max((len(one) for one in request.own_deny), default=0) if request.own_deny else 0
        width = min(request.k * self.options.refine + longest, self.native.ntotal)
        selector = None
        if permitted is not None or not self.whole:
            # a dead entry's -1 reads the last row's place, and stays closed
            may = self.alive if permitted is None else self.alive & permitted[self.rows]
            bits = np.packbits(may, bitorder="little")
            selector = faiss.IDSelectorBitmap(bits)
        parameters = self._parameters(width, selector)
        _, entries = self.native.search(request.queries, width, params=parameters)
        rows = np.where(entries >= 0, self.rows[entries], -1)
        scores = score(request.queries, self.exact.items.vectors[rows])
        scores[rows < 0] = -np.inf
        ids = self.exact.items.ids[rows]
        if request.own_deny is not None:
            for own, line, denied in zip(ids, scores, request.own_deny, strict=True):
                line[np.isin(own, denied)] = -np.inf
        return sort_found(ids, scores, request.k)

    def _parameters(self, width: int, selector: Any) -> Any:
        faiss = _faiss()
        if self.options.kind == "hnsw":
            return faiss.SearchParametersHNSW(sel=selector, efSearch=max(self.options.ef_search, width))
        if self.options.kind == "ivfpq":
            return faiss.SearchParametersIVF(sel=selector, nprobe=min(self.options.nprobe, self.native.nlist))
        return faiss.SearchParameters(sel=selector)

    def _complete(self, request: Request, permitted: Mask | None, found: Found) -> Found:
        """Exact search for the queries whose lists are shorter than they could be."""
        short = np.flatnonzero(found.ids[:, -1] < 0)
        if not len(short):
            return found
        self.counts["short"] += len(short)
        own = None if request.own_deny is None else tuple(request.own_deny[row] for row in short)
        part = Request(request.queries[short], request.k, None, None, request.deny, own)
        better = self.exact.search_among(part, permitted)
        found.ids[short], found.scores[short] = better.ids, better.scores
        return found

    def add(self, ids: Ids, vectors: Vectors, attributes: pd.DataFrame | None = None) -> None:
        """Add or replace items."""
        new = make_items(vectors, attributes, ids, like=(self.dim, self.kinds))
        self.exact.replace(new)
        self.entries[np.isin(self.entries, new.ids)] = -1
        self.native.add(new.vectors)
        self.entries = np.concatenate([self.entries, new.ids])
        self._tidy()

    def delete(self, ids: Ids) -> None:
        """Remove items; ids that are not there are ignored."""
        self.exact.delete(ids)
        self.entries[np.isin(self.entries, check_ids(ids, "ids to delete"))] = -1
        self._tidy()

    def _tidy(self) -> None:
        """Bring entries and rows together; make the FAISS index again where too much of it is dead."""
        self.recall = None
        items = self.exact.items
        dead = len(self.entries) - len(items)
        if dead * GARBAGE > len(self.entries) and len(items) >= _least(self.options):
            self.native = _make_native(items.vectors, self.options)
            self.native.add(items.vectors)
            self.entries = items.ids.copy()
        self._set_rows()

    def _set_rows(self) -> None:
        """Row of each entry in the items, -1 where it is dead; which are alive, and whether all are."""
        self.rows = self.exact.items.rows(self.entries)
        self.alive = self.rows >= 0
        self.whole = bool(self.alive.all())

    def read(self) -> Items:
        """All items, by ascending id."""
        return self.exact.items

    def save(self, folder: Path) -> None:
        """Write items, entries and FAISS's own file."""

        def write(data: Path) -> None:
            self.exact.items.write(data)
            write_array(data / "entries.npy", self.entries)
            with atomic_path(data / "index.faiss") as temporary:
                _faiss().write_index(self.native, str(temporary))

        save_index(self, folder, self.options.model_dump(), write)


def _faiss() -> Any:
    """The package, without its stubs: they do not know what its Python layer adds."""
    return importlib.import_module("faiss")


def _least(options: Options) -> int:
    """The fewest items that the index can be trained on: one per code word."""
    return 256 if options.kind == "ivfpq" else 0


def _make_native(vectors: Vectors, options: Options) -> Any:
    """A trained FAISS index without entries."""
    faiss = _faiss()
    n, dim = vectors.shape
    if options.kind == "flat":
        return faiss.IndexFlatIP(dim)
    if options.kind == "hnsw":
        native = faiss.IndexHNSWFlat(dim, options.m, faiss.METRIC_INNER_PRODUCT)
        native.hnsw.efConstruction = options.ef_construction
        return native
    if n < _least(options):
        raise ConfigError(
            f"at least {_least(options)} items for ivfpq", f"{n}", "use kind hnsw or the index exact"
        )
    pieces = options.pieces or max(p for p in range(1, max(2, dim // 4 + 1)) if dim % p == 0)
    if dim % pieces:
        raise ConfigError(f"pieces that divide the {dim} dimensions", f"{pieces}", "choose a divisor")
    nlist = min(options.nlist or int(4 * n**0.5), max(1, n // 39))  # FAISS wants 39 vectors per centroid
    # "np": no polysemous training, which takes most of the time and serves another kind of search
    native = faiss.index_factory(dim, f"IVF{nlist},PQ{pieces}np", faiss.METRIC_INNER_PRODUCT)
    for clustering in (native.cp, native.pq.cp):
        clustering.seed = options.seed
        clustering.min_points_per_centroid = 1  # else it warns on stderr where there are fewer
    native.train(vectors)
    return native
