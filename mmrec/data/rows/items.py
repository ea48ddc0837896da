"""The items' side of a row dataset: encoded attributes and frozen vectors, found by the id of the item field."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from mmrec.data.rows.encoder import TYPES, Encoder, Fitters
from mmrec.data.rows.schema import EmbeddingSchema, Schema
from mmrec.data.rows.source import RowSource
from mmrec.data.rows.table import PADDING, Lists
from mmrec.data.rows.values import as_words, find_column, is_list, whole
from mmrec.data.rows.vocabulary import Coder
from mmrec.encode.features import write_features
from mmrec.errors import DataError, FeatureError

WHERE = "the table of items"


def item_words(source: RowSource) -> Any:
    """Ids of the items as words ``(n,)``, in the order of their table.

    Raises:
        DataError: Missing or repeated ids.
    """
    schema = source.schema
    column, place = find_column(source.items, schema.item_key, WHERE)
    words = as_words(column, place, schema.fields[str(schema.item)].missing)
    if words.null_count:
        row = int(np.argmax(pc.is_null(words).to_numpy(zero_copy_only=False)))
        raise DataError(f"an id in each row of {place}", f"nothing in row {row + 1:,}", "remove that row")
    counts = pc.value_counts(words)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise DataError(
            f"each item once in {place}",
            f"{twice[0]['values'].as_py()!r} {twice[0]['counts'].as_py()} times ({len(twice):,} such items)",
            "keep one row for each",
        )
    return words


def fit_items(schema: Schema, items: Any, words: Any, trained: Any) -> dict[str, Coder]:
    """Coders of the item fields, fitted on the items that training rows are about, each once.

    Args:
        schema: Names the fields.
        items: The table.
        words: Its ids.
        trained: Ids of the items of training rows.

    Raises:
        DataError: None of them is in the table.
    """
    assert schema.items is not None
    known = pc.is_in(words, value_set=trained)
    if not pc.any(known).as_py():
        raise DataError(
            f"the items of the rows, such as {trained[0].as_py() if len(trained) else None!r}, in {WHERE}",
            f"others, such as {words[0].as_py()!r}",
            "write both tables with the same ids",
        )
    fields = schema.items.fields
    given = {name: field for name, field in fields.items() if field.vocabulary == "index"}
    fitted = {name: field for name, field in fields.items() if name not in given}
    coders = {}
    for part, table in ((given, items), (fitted, items.filter(known))):  # nothing is learned of ids as given
        fitters = Fitters(part)
        fitters.add(table, WHERE)
        coders.update(fitters.finish())
    return {name: coders[name] for name in fields}


def write_items(path: Path, encoder: Encoder, source: RowSource) -> None:
    """Write the encoded item fields; row i is item id i, row 0 and the last one hold padding.

    The column ``row`` is an item's row in feature and code tables: ids from 1 on are their rows from 0 on.
    """
    schema = encoder.schema
    if schema.item is None:
        return
    size = encoder.coders[schema.item].size
    rows = np.arange(-1, size - 1, dtype=np.int64)
    rows[-1] = -1
    columns: dict[str, Any] = {"row": pa.array(rows)}
    if schema.items is not None:
        ids = _item_ids(encoder, source)
        fields = schema.items.fields
        for field, (name, column) in zip(
            fields.values(), encoder.encode(source.items, fields, WHERE).items(), strict=True
        ):
            columns[name] = _scatter(column, ids, size, TYPES[field.encoded_kind])
    parquet.write_table(pa.table(columns), path)


def _item_ids(encoder: Encoder, source: RowSource) -> NDArray[np.int64]:
    """Id of each row of the table of items.

    Raises:
        DataError: An id beyond those declared, or 0.
    """
    item = str(encoder.schema.item)
    column, place = find_column(source.items, encoder.schema.item_key, WHERE)
    ids = encoder.coders[item].encode(column, place).astype(np.int64)
    outside = (ids == PADDING) | (ids == encoder.coders[item].size - 1)
    if outside.any():
        value = whole(column)[int(outside.argmax())].as_py()
        raise DataError(
            f"ids from 1 to {encoder.coders[item].size - 2:,} in {place}",
            f"{value!r}",
            f"leave that row out, or declare a larger index: largest, of the field {item}",
        )
    return ids


def _scatter(column: Any, ids: NDArray[np.int64], size: int, kind: Any) -> Any:
    """The values of the table's rows at their ids; padding elsewhere."""
    if not is_list(column.type):
        values = np.zeros(size, dtype=kind.to_pandas_dtype())
        values[ids] = column.to_numpy(zero_copy_only=False)
        return pa.array(values, kind)
    rows = np.full(size, len(column), dtype=np.int64)  # one row past the end: an empty list
    rows[ids] = np.arange(len(column))
    return pa.concat_arrays([column, pa.array([[]], kind)]).take(pa.array(rows))


def read_items(path: Path) -> tuple[dict[str, NDArray[np.generic]], NDArray[np.int64]]:
    """Values ``(size,)`` or ``(size, t)`` of the item fields, and rows ``(size,)`` in features and codes."""
    table = parquet.read_table(path)
    values: dict[str, NDArray[np.generic]] = {}
    for name in table.column_names:
        column = whole(table[name])
        if is_list(column.type):
            lists = Lists(column.values.to_numpy(), column.offsets.to_numpy().astype(np.int64))
            values[name] = lists.padded(np.arange(len(lists), dtype=np.int64)).astype(np.int32)
        else:
            values[name] = column.to_numpy()
    rows = values.pop("row").astype(np.int64)
    return values, rows


def write_embeddings(
    folder: Path, encoder: Encoder, source: RowSource, *, missing: Literal["error", "zero"]
) -> None:
    """Write ``features/NAME`` for each embedding, row i for item id i + 1.

    Args:
        folder: The folder ``features``.
        encoder: Knows the ids.
        source: Has the vectors. One of zeros counts as absent.
        missing: What to do with items that have none: ``error``, or ``zero`` to mark them absent.

    Raises:
        DataError: Items without a vector, or a file with another number of rows.
        FeatureError: NaN or infinite numbers.
    """
    schema = encoder.schema
    if schema.items is None:
        return
    for name, one in schema.items.embeddings.items():
        given = source.vectors[name] if one.column is None else _vectors(source.items, one.column)
        if len(given) != len(source.items):
            raise DataError(
                f"one row for each of the {len(source.items):,} rows of {WHERE} in the embedding {name!r}",
                f"{len(given):,} rows",
                "export both again, in the same order",
            )
        _write_embedding(folder / name, name, one, given, encoder, source, missing)


def _write_embedding(
    folder: Path,
    name: str,
    embedding: EmbeddingSchema,
    given: NDArray[Any],
    encoder: Encoder,
    source: RowSource,
    missing: str,
) -> None:
    words, ids = item_words(source), _item_ids(encoder, source)
    bad = np.flatnonzero(~np.isfinite(given).all(axis=1))
    if len(bad):
        raise FeatureError(
            f"finite numbers in the embedding {name!r}",
            f"NaN or infinity for item {words[int(bad[0])].as_py()!r} ({len(bad):,} such items)",
            "repair these vectors, or set them to zero where there is none",
        )
    n_items = encoder.coders[str(encoder.schema.item)].size - 2
    vectors = np.zeros((n_items, given.shape[1]), dtype=given.dtype)
    vectors[ids - 1] = given
    present = (vectors != 0).any(axis=1)
    if missing == "error" and not present.all():
        raise DataError(
            f"a vector for each of the {n_items:,} items in the embedding {name!r}",
            f"none for {int((~present).sum()):,} items, the first {_name_of(encoder, int((~present).argmax()))}",
            "add them, or mark these items absent: --missing-embeddings zero",
        )
    origin = {"column": embedding.column} if embedding.column else {"file": Path(str(embedding.file)).name}
    write_features(
        folder, embedding.modality or name, vectors, present, {"encoder": "given", "inputs": origin}
    )


def _name_of(encoder: Encoder, row: int) -> str:
    coder: Any = encoder.coders[str(encoder.schema.item)]
    return repr(coder.words[row].as_py() if hasattr(coder, "words") else row + 1)


def _vectors(items: Any, column: str) -> NDArray[Any]:
    """``(n_items, d)`` float16 or float32 from a column of lists; a row of zeros where there is none.

    Raises:
        DataError: No lists of one length.
    """
    values, place = find_column(items, column, WHERE)
    array = whole(values)
    if not is_list(array.type):
        raise DataError(f"lists of numbers in {place}", f"{array.type}", "declare the column of the vectors")
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    sizes = np.unique(lengths[lengths > 0])
    if len(sizes) != 1:
        raise DataError(
            f"lists of one length in {place}", f"lengths {', '.join(map(str, sizes[:5]))}", "export it again"
        )
    flat = array.flatten()
    dtype = np.float16 if pa.types.is_float16(flat.type) else np.float32
    vectors = np.zeros((len(array), int(sizes[0])), dtype=dtype)
    numbers = pc.cast(flat, pa.from_numpy_dtype(dtype)).to_numpy(zero_copy_only=False)
    vectors[lengths > 0] = numbers.reshape(-1, int(sizes[0]))
    return vectors


def read_vectors(schema: Schema, base: Path) -> Mapping[str, NDArray[Any]]:
    """Embeddings from .npy files, by name.

    Args:
        schema: Names the files.
        base: Folder that they are relative to.

    Raises:
        DataError: No such file, or no matrix of floating point numbers.
    """
    if schema.items is None:
        return {}
    vectors = {}
    for name, one in schema.items.embeddings.items():
        if one.file is None:
            continue
        path = base / one.file
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"a .npy file {path}", f"{error}", "save the matrix with numpy.save") from None
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
            raise DataError(
                "a matrix (n_items, d) of floating point numbers",
                f"{array.dtype} {array.shape} in {path}",
                "save it as float32",
            )
        vectors[name] = array if array.dtype == np.float16 else array.astype(np.float32, copy=False)
    return vectors
