"""Rows of the Criteo display advertising challenge with indexed features."""

from __future__ import annotations

from pathlib import Path

from mmrec.config import validate
from mmrec.data.importers.reading import describe_source
from mmrec.data.rows.reading import count_rows, text_chunks
from mmrec.data.rows.schema import Schema
from mmrec.data.rows.source import RowSource, files_of, part_streams

NUMBERS = [f"I{place}" for place in range(1, 14)]
CATEGORIES = [f"C{place}" for place in range(1, 27)]


def read_criteo(
    source: str | Path,
    *,
    valid: str | Path | None = None,
    test: str | Path | None = None,
    min_count: int = 1,
    valid_share: float = 0.1,
    seed: int = 0,
    name: str | None = None,
) -> RowSource:
    """Read files without header of 40 integers a row: label, 13 numbers in buckets, 26 categories as indices.

    All 39 are categories; 0 is what is rare or missing. A vocabulary of the training rows is fitted over the indices:
    those of a sample are few of many.

    Args:
        source: The training rows, or a folder with train and test (``…train….csv``).
        valid: Validation rows; None holds out ``valid_share`` of the training rows, drawn at random.
        test: Test rows.
        min_count: Training rows that an index needs for an id of its own.
        valid_share: Share for validation.
        seed: Of the draws.
        name: Of the dataset; the name of the source if not given.

    Raises:
        DataError: Unreadable files.
    """
    path = Path(source)
    files = files_of(path, (".csv", ".txt", ".csv.gz"), valid, test)
    columns = ["label", *NUMBERS, *CATEGORIES]
    category = {"kind": "category", "missing": ["0"], "min_count": min_count}
    fields = {column: dict(category) for column in columns[1:]}
    schema = validate(Schema, {"label": "label", "fields": fields}, "the options")
    streams = {part: lambda file=file: text_chunks(file, columns, ",") for part, file in files.items()}
    chunks, protocol = part_streams(streams, valid_share=valid_share, seed=seed)
    n_rows = sum(count_rows(file) for file in files.values())
    provenance = describe_source("criteo", path, files.values())
    return RowSource(name or path.stem, schema, chunks, n_rows, protocol, provenance=provenance)
