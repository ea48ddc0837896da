"""Milvus: a collection on a server or cluster, or in Milvus Lite, which runs inside this process."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from mmrec.errors import ConfigError, DataError
from mmrec.index.database import BLOCK, DatabaseIndex, as_items, pad_lists, require, table_error
from mmrec.index.items import Items
from mmrec.index.protocol import Ids, IndexOptions, Vectors
from mmrec.index.request import Request
from mmrec.where.translate import column_name, to_milvus

MAX_BYTES = 65_535  # of a string
MAX_VALUES = 4_096  # of a list
MAX_FOUND = 16_384  # items in an answer


class Options(IndexOptions):
    """Where the collection is, and how it is searched."""

    uri: str | None = Field(None, description="http://host:port, or a file NAME.db; temporary if not given")
    token: str | None = Field(None, repr=False, description="of the server; never saved")
    collection: str = Field("items", min_length=1, description="name of the collection")
    kind: Literal["flat", "hnsw"] = Field("hnsw", description="all vectors · a graph")
    m: int = Field(16, ge=2, description="hnsw: links of an item")
    ef_construction: int = Field(200, ge=1, description="hnsw: candidates while linking")
    ef_search: int = Field(128, ge=1, description="hnsw: candidates while searching")


class MilvusStore:
    """One entity per item: ``id``, ``vector`` and a nullable field per attribute."""

    def __init__(self, options: Options, dim: int, kinds: Mapping[str, str], *, new: bool) -> None:
        self.pymilvus = require("pymilvus", "milvus")
        self.options, self.dim, self.kinds = options, dim, dict(kinds)
        place = options.uri or ""
        if "://" not in place:
            lite = require("milvus_lite.server_manager", "milvus").server_manager_instance
        if not place:
            folder = tempfile.mkdtemp(prefix="mmrec-milvus-")
            place = str(Path(folder) / "items.db")
            weakref.finalize(self, _clear_away, lite, place, folder)
        self.client = self.pymilvus.MilvusClient(place, **({"token": options.token} if options.token else {}))
        if self.client.has_collection(options.collection) == new:
            raise table_error(place, options.collection, exists=new)
        if new:
            self._create()

    def _create(self) -> None:
        types = self.pymilvus.DataType
        single = {"number": types.DOUBLE, "string": types.VARCHAR, "boolean": types.BOOL}
        schema = self.client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", types.INT64, is_primary=True)
        schema.add_field("vector", types.FLOAT_VECTOR, dim=self.dim)
        for name, kind in self.kinds.items():
            lengths = {"max_length": MAX_BYTES} if kind.startswith("string") else {}
            if kind.endswith("s"):
                lengths |= {"element_type": single[kind.removesuffix("s")], "max_capacity": MAX_VALUES}
            schema.add_field(column_name(name), single.get(kind, types.ARRAY), nullable=True, **lengths)
        graph = {"M": self.options.m, "efConstruction": self.options.ef_construction}
        index = self.client.prepare_index_params()
        index.add_index(
            "vector",
            index_type=self.options.kind.upper(),
            metric_type="IP",
            params=graph if self.options.kind == "hnsw" else {},
        )
        self.client.create_collection(
            self.options.collection, schema=schema, index_params=index, consistency_level="Strong"
        )

    def put(self, items: Items) -> None:
        """Add items, in place of those with the same id.

        Raises:
            DataError: A string or list is longer than Milvus takes.
        """
        columns = {column_name(name): column.to_list() for name, column in items.attributes.columns.items()}
        for name, column in zip(self.kinds, columns.values(), strict=True):
            _check_lengths(name, column)
        for start in range(0, len(items), BLOCK):
            block = range(start, min(start + BLOCK, len(items)))
            rows = [
                {"id": int(items.ids[row]), "vector": items.vectors[row]}
                | {name: column[row] for name, column in columns.items()}
                for row in block
            ]
            self.client.upsert(self.options.collection, rows)

    def remove(self, ids: Ids) -> None:
        """Remove the items that are there."""
        self.client.delete(self.options.collection, ids=ids.tolist())

    def find(self, request: Request) -> tuple[Ids, Vectors]:
        """Ids and scores of the best.

        Raises:
            ConfigError: More items are asked for than Milvus returns.
        """
        if request.k > MAX_FOUND:
            raise ConfigError(f"k up to {MAX_FOUND:,} with Milvus", f"{request.k:,}", "ask for fewer items")
        params = {"ef": max(self.options.ef_search, request.k)} if self.options.kind == "hnsw" else {}
        lists = self.client.search(
            self.options.collection,
            data=list(request.queries),
            anns_field="vector",
            filter=_expression(request),
            limit=request.k,
            search_params={"metric_type": "IP", "params": params},
        )
        return pad_lists([([hit["id"] for hit in one], [hit["distance"] for hit in one]) for one in lists])

    def count(self, request: Request | None) -> int:
        """Number of items that a request permits, or of all."""
        counted = self.client.query(
            self.options.collection, filter=_expression(request), output_fields=["count(*)"]
        )
        return int(counted[0]["count(*)"])

    def read(self, request: Request | None) -> Items:
        """The items that a request permits, or all."""
        names = [column_name(name) for name in self.kinds]
        pages = self.client.query_iterator(
            self.options.collection,
            BLOCK,
            filter=_expression(request),
            output_fields=["id", "vector", *names],
        )
        rows: list[dict[str, Any]] = []
        while page := pages.next():
            rows += page
        pages.close()
        columns = {name: [row.get(column_name(name)) for row in rows] for name in self.kinds}
        ids, vectors = [row["id"] for row in rows], [row["vector"] for row in rows]
        return as_items(ids, vectors, columns, self.dim, self.kinds)

    def drop(self) -> None:
        """Remove the collection."""
        self.client.drop_collection(self.options.collection)


def _clear_away(lite: Any, place: str, folder: str) -> None:
    """Remove a temporary database; its server first, which would write the folder anew when it ends."""
    lite.release_server(place)
    shutil.rmtree(folder, ignore_errors=True)


def _check_lengths(name: str, column: list[Any]) -> None:
    for value in column:
        strings = value if isinstance(value, list) else [value]
        longest = max((len(one.encode()) for one in strings if isinstance(one, str)), default=0)
        if len(strings) > MAX_VALUES or longest > MAX_BYTES:
            raise DataError(
                f"lists of up to {MAX_VALUES:,} values and strings of up to {MAX_BYTES:,} bytes in {name!r} with Milvus",
                f"{len(strings):,} values, {longest:,} bytes",
                "shorten them or leave the attribute out",
            )


def _expression(request: Request | None) -> str:
    if request is None:
        return ""
    parts = [] if request.where is None else [to_milvus(request.where)]
    if request.allow is not None:
        parts.append(f"id in {request.allow.tolist()}")
    if len(request.deny):
        parts.append(f"id not in {request.deny.tolist()}")
    return " and ".join(f"({part})" for part in parts)


class MilvusIndex(DatabaseIndex):
    """Items in a Milvus collection."""

    backend: ClassVar = "milvus"
    options_type: ClassVar = Options
    store_type: ClassVar = MilvusStore
