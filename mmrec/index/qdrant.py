"""Qdrant: a collection on a server or cluster, or in the memory of this process.

The client's own files on disk are pickles, so a local index is never saved in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from mmrec.index.database import BLOCK, DatabaseIndex, as_items, pad_lists, require, table_error
from mmrec.index.items import Items
from mmrec.index.protocol import Ids, IndexOptions, Vectors
from mmrec.index.request import Request
from mmrec.where.translate import column_name, to_qdrant

QUERIES = 100  # in one message


class Options(IndexOptions):
    """Where the collection is, and how it is searched."""

    uri: str | None = Field(
        None, pattern="://", description="http://host:port; this process's memory if not given"
    )
    api_key: str | None = Field(None, repr=False, description="of the server; never saved")
    collection: str = Field("items", min_length=1, description="name of the collection")
    m: int = Field(16, ge=2, description="links of an item in the graph")
    ef_construction: int = Field(100, ge=4, description="candidates while linking")
    ef_search: int = Field(128, ge=1, description="candidates while searching")
    exact: bool = Field(False, description="search all vectors instead of the graph")


class QdrantStore:
    """One point per item, with its attributes as payload; missing ones are left out."""

    def __init__(self, options: Options, dim: int, kinds: Mapping[str, str], *, new: bool) -> None:
        client = require("qdrant_client", "qdrant")
        self.models = client.models
        self.options, self.dim, self.kinds = options, dim, dict(kinds)
        self.client = (
            client.QdrantClient(":memory:")
            if options.uri is None
            else client.QdrantClient(url=options.uri, api_key=options.api_key)
        )
        if self.client.collection_exists(options.collection) == new:
            raise table_error(options.uri or "memory", options.collection, exists=new)
        if new:
            self._create()

    def _create(self) -> None:
        models, name = self.models, self.options.collection
        graph = models.HnswConfigDiff(m=self.options.m, ef_construct=self.options.ef_construction)
        shape = models.VectorParams(size=self.dim, distance=models.Distance.DOT, hnsw_config=graph)
        self.client.create_collection(name, vectors_config=shape)
        types = models.PayloadSchemaType
        schemas = {"number": types.FLOAT, "string": types.KEYWORD, "boolean": types.BOOL}
        for attribute, kind in self.kinds.items() if self.options.uri is not None else ():
            self.client.create_payload_index(name, column_name(attribute), schemas[kind.removesuffix("s")])

    def put(self, items: Items) -> None:
        """Add items, in place of those with the same id."""
        columns = {column_name(name): column.to_list() for name, column in items.attributes.columns.items()}
        for start in range(0, len(items), BLOCK):
            block = range(start, min(start + BLOCK, len(items)))
            payloads = [
                {name: column[row] for name, column in columns.items() if column[row] is not None}
                for row in block
            ]
            batch = self.models.Batch(
                ids=items.ids[start : block.stop].tolist(),
                vectors=items.vectors[start : block.stop].tolist(),
                payloads=payloads,
            )
            self.client.upsert(self.options.collection, batch, wait=True)

    def remove(self, ids: Ids) -> None:
        """Remove the items that are there."""
        points = self.models.PointIdsList(points=ids.tolist())
        self.client.delete(self.options.collection, points, wait=True)

    def find(self, request: Request) -> tuple[Ids, Vectors]:
        """Ids and scores of the best."""
        condition = self._filter(request)
        params = None  # has no meaning in memory, where search is exact
        if self.options.uri is not None:
            params = self.models.SearchParams(hnsw_ef=self.options.ef_search, exact=self.options.exact)
        lists = []
        for start in range(0, len(request.queries), QUERIES):
            requests = [
                self.models.QueryRequest(query=query, filter=condition, limit=request.k, params=params)
                for query in request.queries[start : start + QUERIES].tolist()
            ]
            lists += self.client.query_batch_points(self.options.collection, requests)
        return pad_lists(
            [([point.id for point in one.points], [point.score for point in one.points]) for one in lists]
        )

    def _filter(self, request: Request | None) -> Any:
        if request is None:
            return None
        has = self.models.HasIdCondition
        must: list[Any] = [] if request.where is None else [to_qdrant(request.where)]
        if request.allow is not None:
            must.append(has(has_id=request.allow.tolist()))
        must_not = [has(has_id=request.deny.tolist())] if len(request.deny) else None
        return self.models.Filter(must=must or None, must_not=must_not)

    def count(self, request: Request | None) -> int:
        """Number of items that a request permits, or of all."""
        counted = self.client.count(self.options.collection, count_filter=self._filter(request), exact=True)
        return int(counted.count)

    def read(self, request: Request | None) -> Items:
        """The items that a request permits, or all."""
        points: list[Any] = []
        offset = None
        while True:
            some, offset = self.client.scroll(
                self.options.collection, self._filter(request), limit=BLOCK, offset=offset, with_vectors=True
            )
            points += some
            if offset is None:
                break
        columns = {
            name: [(point.payload or {}).get(column_name(name)) for point in points] for name in self.kinds
        }
        ids, vectors = [point.id for point in points], [point.vector for point in points]
        return as_items(ids, vectors, columns, self.dim, self.kinds)

    def drop(self) -> None:
        """Remove the collection."""
        self.client.delete_collection(self.options.collection)


class QdrantIndex(DatabaseIndex):
    """Items in a Qdrant collection."""

    backend: ClassVar = "qdrant"
    options_type: ClassVar = Options
    store_type: ClassVar = QdrantStore
