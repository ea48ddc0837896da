"""Rows from own tables: CSV, TSV or Parquet files with a schema, or an inferred one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from mmrec.config import validate
from mmrec.data.importers.reading import describe_source
from mmrec.data.rows.infer import SAMPLE_ROWS, infer_schema, render_report
from mmrec.data.rows.items import read_vectors
from mmrec.data.rows.reading import TABLES, count_rows, read_table, stream_table
from mmrec.data.rows.schema import Schema, load_schema, override
from mmrec.data.rows.source import (
    Chunks,
    RowSource,
    Stream,
    at_random,
    by_column,
    files_of,
    in_time,
    labelled,
    part_streams,
)
from mmrec.errors import ConfigError, DataError
from mmrec.progress import note


def read_tables(
    source: str | Path,
    *,
    schema: Schema | str | Path | Mapping[str, Any] | None = None,
    valid: str | Path | None = None,
    test: str | Path | None = None,
    items: str | Path | None = None,
    embeddings: Mapping[str, str] | None = None,
    label: str | None = None,
    item: str | None = None,
    group: str | None = None,
    split_column: str | None = None,
    time_column: str | None = None,
    valid_share: float = 0.1,
    test_share: float | None = None,
    seed: int = 0,
    name: str | None = None,
) -> RowSource:
    """Read tables.

    The parts are files of their own, or come from one file: by ``split_column``, by the newest rows of ``time_column``,
    or at random where only ``test_share`` is given.

    Args:
        source: The training rows, or all rows, or a folder of train, valid and test.
        schema: What the columns are; None infers it and prints why.
        valid: Validation rows; None holds out ``valid_share`` of the training rows, drawn at random.
        test: Test rows.
        items: Table of the items.
        embeddings: Frozen vectors by name, ``.npy`` files with a row for each row of ``items``.
        label: In place of the schema's.
        item: In place of the schema's.
        group: In place of the schema's.
        split_column: Column that says train, valid or test.
        time_column: Column of the times to cut by.
        valid_share: Share for validation.
        test_share: Share for test; a tenth under ``time_column`` if not given.
        seed: Of the draws.
        name: Of the dataset; the name of the source if not given.

    Raises:
        ConfigError: A wrong schema, or options that contradict each other.
        DataError: Unreadable tables.
    """
    path = Path(source)
    files = files_of(path, TABLES, valid, test)
    table = None if items is None else read_table(Path(items))
    dealt = [column for column in (split_column, time_column) if column]
    _check_options(files, split_column, time_column, test_share)
    sample = _sample(stream_table(files["train"]))
    if schema is None:
        known, report = infer_schema(sample, table, label=label, item=item, group=group, leave_out=dealt)
        note(f"inferred from the first {len(sample):,} rows:\n{render_report(report)}")
    else:
        known = override(load_schema(schema), label=label, item=item, group=group)
    known = _with_embeddings(known, embeddings or {}, has_items=table is not None)
    columns = list(dict.fromkeys([*known.columns(), *dealt]))
    streams = {part: stream_table(file, columns=columns) for part, file in files.items()}
    chunks, protocol = _parts(
        streams, files["train"].name, split_column, time_column, valid_share, test_share, seed
    )
    read = [*files.values(), *([Path(items)] if items is not None else [])]
    return RowSource(
        name or path.stem,
        known,
        chunks,
        sum(count_rows(file) for file in files.values()),
        protocol,
        table,
        read_vectors(known, _base(schema, items)),
        describe_source("tables", path, read),
    )


def _base(schema: Any, items: str | Path | None) -> Path:
    """The folder that files of embeddings are relative to: the schema's, else the current one."""
    return Path(schema).parent if isinstance(schema, str | Path) and items is not None else Path()


def _check_options(
    files: Mapping[str, Path], split_column: str | None, time_column: str | None, test_share: float | None
) -> None:
    dealt = [column for column in (split_column, time_column) if column]
    if len(files) > 1 and (dealt or test_share is not None):
        raise ConfigError(
            "files for the parts, or one file that is split",
            f"the files {', '.join(path.name for path in files.values())} and a way to split",
            "leave out --split-column, --time-column and --test-share, or the files",
        )
    if len(dealt) > 1:
        raise ConfigError("one way to split", "--split-column and --time-column", "leave out one of them")
    if split_column is not None and test_share is not None:
        raise ConfigError("one way to split", "--split-column and --test-share", "leave out one of them")


def _sample(stream: Stream) -> Any:
    chunks, n = [], 0
    for chunk in stream():
        chunks.append(chunk)
        n += len(chunk)
        if n >= SAMPLE_ROWS:
            break
    if not n:
        raise DataError("rows to learn from", "an empty table", "export it again, with its rows")
    return pa.concat_tables(chunks).slice(0, SAMPLE_ROWS)


def _parts(
    streams: Mapping[str, Stream],
    where: str,
    split_column: str | None,
    time_column: str | None,
    valid_share: float,
    test_share: float | None,
    seed: int,
) -> tuple[Chunks, dict[str, Any]]:
    """A pass over all parts, and how they were made."""
    stream = streams["train"]
    if split_column is not None:
        protocol: dict[str, Any] = {"protocol": "given", "column": split_column}
        return labelled(stream, by_column(split_column, where)), protocol
    if time_column is not None:
        share = 0.1 if test_share is None else test_share
        protocol = {"protocol": "temporal", "column": time_column, "valid": valid_share, "test": share}
        return labelled(stream, in_time(stream, time_column, where, valid_share, share)), protocol
    if test_share is not None:
        protocol = {"protocol": "random-rows", "valid": valid_share, "test": test_share, "seed": seed}
        return labelled(stream, at_random(seed, valid_share, test_share)), protocol
    return part_streams(streams, valid_share=valid_share, seed=seed)


def _with_embeddings(schema: Schema, files: Mapping[str, str], *, has_items: bool) -> Schema:
    """The schema with further embeddings from files."""
    if (files or schema.items is not None) and not has_items:
        raise DataError(
            "the table of items that the schema or an embedding needs", "none", "add --items FILE"
        )
    if not files:
        return schema
    document = schema.document()
    inner = dict(document.get("items") or {})
    given = {name: {"file": str(Path(file).resolve())} for name, file in files.items()}
    inner["embeddings"] = {**inner.get("embeddings", {}), **given}
    return validate(Schema, {**document, "items": inner}, "the schema")
