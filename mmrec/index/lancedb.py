"""LanceDB: a table in a folder or in object storage, opened without a server."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from mmrec.errors import ConfigError
from mmrec.index.database import DatabaseIndex, as_items, pad_lists, require, table_error
from mmrec.index.exact import score
from mmrec.index.items import Items
from mmrec.index.protocol import Ids, IndexOptions, Vectors
from mmrec.index.request import Request
from mmrec.where.translate import column_name, to_lance

TRAINABLE = 256  # items that a product quantiser needs


class Options(IndexOptions):
    """Where the table is, and how it is searched."""

    uri: str | None = Field(None, description="folder, s3://… or gs://…; a temporary folder if not given")
    table: str = Field("items", min_length=1, description="name of the table")
    kind: Literal["flat", "ivfpq"] = Field("flat", description="all vectors · cells and codes")
    nlist: int | None = Field(None, ge=1, description="ivfpq: cells; LanceDB's choice if not given")
    pieces: int | None = Field(
        None, ge=1, description="ivfpq: codes of a vector; LanceDB's choice if not given"
    )
    nprobe: int = Field(32, ge=1, description="ivfpq: cells to search")
    refine: int = Field(4, ge=1, description="ivfpq: candidates per item of the list, scored exactly")


class LanceStore:
    """One row per item: ``id``, ``vector`` and a column per attribute."""

    def __init__(self, options: Options, dim: int, kinds: Mapping[str, str], *, new: bool) -> None:
        lancedb = require("lancedb", "lance")
        self.options, self.dim, self.kinds = options, dim, dict(kinds)
        self._temporary = None
        if options.uri is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="mmrec-lance-", ignore_cleanup_errors=True)
        self.place = options.uri or str(self._temporary and self._temporary.name)
        self.database = lancedb.connect(self.place)
        try:
            self.table = (
                self.database.create_table(options.table, schema=self._schema())
                if new
                else self.database.open_table(options.table)
            )
        except ValueError as error:  # LanceDB's word for both
            exists = "exists" in str(error)
            if exists or "not found" in str(error):
                raise table_error(self.place, options.table, exists=exists) from None
            raise

    def _schema(self) -> Any:
        import pyarrow as pa

        types = {
            "number": pa.float64(), "string": pa.string(), "boolean": pa.bool_(),
            "numbers": pa.list_(pa.float64()), "strings": pa.list_(pa.string()),
        }  # fmt: skip
        columns = [(column_name(name), types[kind]) for name, kind in self.kinds.items()]
        return pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), self.dim)), *columns])

    def put(self, items: Items) -> None:
        """Add items, in place of those with the same id, and bring them into the index.

        Raises:
            ConfigError: Too few items to train an index.
        """
        import pyarrow as pa

        if not len(items):
            return
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(items.vectors.ravel()), self.dim)
        columns = [column.to_list() for column in items.attributes.columns.values()]
        schema = self._schema()
        arrays = [pa.array(column, schema.types[2 + place]) for place, column in enumerate(columns)]
        rows = pa.Table.from_arrays([pa.array(items.ids), vectors, *arrays], schema=schema)
        merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.execute(rows)
        if self.options.kind == "ivfpq":
            self._index()

    def _index(self) -> None:
        if self.table.list_indices():
            self.table.optimize()
            return
        n = self.table.count_rows()
        if n < TRAINABLE:
            raise ConfigError(f"at least {TRAINABLE} items for ivfpq", f"{n}", "use kind flat")
        from lancedb.index import IvfPq

        config = IvfPq(
            distance_type="dot", num_partitions=self.options.nlist, num_sub_vectors=self.options.pieces
        )
        self.table.create_index("vector", config=config)

    def remove(self, ids: Ids) -> None:
        """Remove the items that are there."""
        self.table.delete(_one_of(ids))

    def find(self, request: Request) -> tuple[Ids, Vectors]:
        """Ids and scores of the best; the scores are computed from the vectors, as LanceDB returns ``1 - s``."""
        lists = []
        sql = _sql(request)
        for query in request.queries:
            search = self.table.search(query).distance_type("dot").limit(request.k)
            search = search.select(["id", "vector", "_distance"])
            if self.options.kind == "ivfpq":
                search = search.nprobes(self.options.nprobe).refine_factor(self.options.refine)
            if sql is not None:
                search = search.where(sql, prefilter=True)
            rows = search.to_arrow()
            vectors = self._vectors(rows)
            lists.append((rows["id"].to_pylist(), score(query[None], vectors[None])[0].tolist()))
        return pad_lists(lists)

    def _vectors(self, rows: Any) -> Vectors:
        flat = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat, dtype=np.float32).reshape(rows.num_rows, self.dim)

    def count(self, request: Request | None) -> int:
        """Number of items that a request permits, or of all."""
        return int(self.table.count_rows(None if request is None else _sql(request)))

    def read(self, request: Request | None) -> Items:
        """The items that a request permits, or all."""
        sql = None if request is None else _sql(request)
        rows = self.table.to_arrow() if sql is None else self.table.search().where(sql).limit(None).to_arrow()
        columns = {name: rows[column_name(name)].to_pylist() for name in self.kinds}
        return as_items(rows["id"].to_numpy(), self._vectors(rows), columns, self.dim, self.kinds)

    def drop(self) -> None:
        """Remove the table."""
        self.database.drop_table(self.options.table)


def _one_of(ids: Ids) -> str:
    return f"id in ({', '.join(map(str, ids.tolist()))})" if len(ids) else "false"


def _sql(request: Request) -> str | None:
    parts = [] if request.where is None else [to_lance(request.where)]
    if request.allow is not None:
        parts.append(_one_of(request.allow))
    if len(request.deny):
        parts.append(f"not ({_one_of(request.deny)})")
    return " and ".join(f"({part})" for part in parts) or None


class LanceIndex(DatabaseIndex):
    """Items in a LanceDB table."""

    backend: ClassVar = "lancedb"
    options_type: ClassVar = Options
    store_type: ClassVar = LanceStore
