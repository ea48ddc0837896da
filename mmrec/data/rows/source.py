"""Where rows come from: chunks of raw rows, each of a part, as often as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmrec.data.dataset import PARTS
from mmrec.data.rows.schema import Schema
from mmrec.data.rows.values import as_words, find_column
from mmrec.data.values import as_times
from mmrec.errors import ConfigError, DataError

Stream = Callable[[], Iterator[Any]]  # chunks, Arrow tables
Chunks = Callable[[], Iterator[tuple[str, Any]]]  # part and chunk
Labeller = Callable[[Any], NDArray[np.int8]]  # chunk to labels: 0 train, 1 valid, 2 test, -1 left out
_PART_NAMES = {
    **dict.fromkeys(("train", "training", "0"), 0),
    **dict.fromkeys(("valid", "validation", "val", "dev", "1"), 1),
    **dict.fromkeys(("test", "2"), 2),
    **dict.fromkeys(("", "-1"), -1),
}


@dataclass(frozen=True, eq=False)
class RowSource:
    """Raw rows and what they mean.

    Attributes:
        name: Of the dataset.
        schema: What the columns are.
        chunks: Gives a pass over all rows.
        n_rows: About how many rows there are, for the progress bar.
        protocol: How the parts were made.
        items: The table of items, where there is one.
        vectors: Embeddings of the items from files, by name; row i is row i of ``items``.
        provenance: Importer, source, options, files.
        catalogue: Entry of that name in the manifest, for rows of a dataset.
    """

    name: str
    schema: Schema
    chunks: Chunks
    n_rows: int
    protocol: Mapping[str, Any]
    items: Any = None
    vectors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    catalogue: Mapping[str, Any] | None = None


def parted(streams: Mapping[str, Stream]) -> Chunks:
    """Rows of which each stream is a part."""

    def run() -> Iterator[tuple[str, Any]]:
        for part, stream in streams.items():
            for chunk in stream():
                yield part, chunk

    return run


def labelled(stream: Stream, start: Callable[[], Labeller]) -> Chunks:
    """Rows of one stream, dealt out to the parts.

    Args:
        stream: All rows.
        start: Gives the labeller for a pass, which may count the rows it has seen.
    """

    def run() -> Iterator[tuple[str, Any]]:
        label = start()
        for chunk in stream():
            labels = label(chunk)
            for code, part in enumerate(PARTS):
                rows = np.flatnonzero(labels == code)
                if len(rows):
                    yield part, chunk.take(pa.array(rows))

    return run


def at_random(seed: int, valid: float, test: float = 0.0) -> Callable[[], Labeller]:
    """Every row by itself, with these probabilities; the same rows whatever the size of the chunks.

    Raises:
        ConfigError: Shares that leave nothing for training.
    """
    _check_shares(valid, test, at_least=0.0)

    def start() -> Labeller:
        rng = np.random.default_rng(seed)

        def label(chunk: Any) -> NDArray[np.int8]:
            drawn = rng.random(len(chunk))
            return np.where(drawn < valid, 1, np.where(drawn < valid + test, 2, 0)).astype(np.int8)

        return label

    return start


def by_column(column: str, where: str) -> Callable[[], Labeller]:
    """What a column says: train, valid (validation, val, dev) and test, or 0, 1 and 2; nothing or -1 leaves a row out."""

    def label(chunk: Any) -> NDArray[np.int8]:
        values, place = find_column(chunk, column, where)
        distinct = as_words(values, place).fill_null("").dictionary_encode()
        names = distinct.dictionary.to_pylist()
        odd = [name for name in names if name.casefold() not in _PART_NAMES]
        if odd:
            raise DataError(
                f"train, valid, test or nothing in {place}", repr(odd[0]), "correct the column of the split"
            )
        codes = np.array([_PART_NAMES[name.casefold()] for name in names], dtype=np.int8)
        return np.asarray(codes[distinct.indices.to_numpy()])

    return lambda: label


def in_time(stream: Stream, column: str, where: str, valid: float, test: float) -> Callable[[], Labeller]:
    """Two moments that cut off the newest rows for test and the ones before for validation.

    The cuts are those of :func:`mmrec.data.split.split_temporal`. Memory grows with the number of distinct times.

    Raises:
        ConfigError: Shares that leave nothing for training.
        DataError: Missing times, or too few distinct ones.
    """
    from mmrec.data.split import temporal_cuts

    _check_shares(valid, test, at_least=np.finfo(float).tiny)
    moments, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for chunk in stream():
        new, amounts = np.unique(_times(chunk, column, where), return_counts=True)
        moments, place = np.unique(np.concatenate([moments, new]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([counts, amounts])).astype(np.int64)
    first, second = temporal_cuts(moments, counts, valid, test)

    def label(chunk: Any) -> NDArray[np.int8]:
        times = _times(chunk, column, where)
        return np.asarray((times > first) + (times > second).astype(np.int8), dtype=np.int8)

    return lambda: label


def _times(chunk: Any, column: str, where: str) -> NDArray[Any]:
    values, _ = find_column(chunk, column, where)
    return np.asarray(as_times(values.to_pandas(), column, where).to_numpy())


def _check_shares(valid: float, test: float, *, at_least: float) -> None:
    if not (valid >= at_least and test >= at_least and 0 < valid + test < 1):
        raise ConfigError(
            "shares for validation and test that leave something for training",
            f"{valid} and {test}",
            "try 0.1 and 0.1",
        )


def find_parts(folder: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Files of a folder with train, valid (validation, val, dev) or test in their name, by part.

    Raises:
        DataError: No training file, or two for a part.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.endswith(suffixes):
            continue
        words = path.name.casefold().replace("-", ".").replace("_", ".").split(".")
        codes = {_PART_NAMES[word] for word in words if word.isalpha() and word in _PART_NAMES}
        if len(codes) != 1:
            continue
        part = PARTS[codes.pop()]
        if part in found:
            raise DataError(
                f"one file for {part} in {folder}",
                f"{found[part].name} and {path.name}",
                "name the files: mmrec data rows TRAIN --valid VALID --test TEST",
            )
        found[part] = path
    if "train" not in found:
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:8])
        raise DataError(
            f"a training file ({', '.join(suffixes)}) in {folder}",
            names or "no files",
            "name the files: mmrec data rows TRAIN --valid VALID --test TEST",
        )
    return found


def files_of(
    source: Path, suffixes: tuple[str, ...], valid: str | Path | None, test: str | Path | None
) -> dict[str, Path]:
    """The files of the parts: those of a folder, or the training file and those named with it.

    Raises:
        DataError: No such files.
    """
    files = find_parts(source, suffixes) if source.is_dir() else {"train": source}
    files |= {part: Path(path) for part, path in (("valid", valid), ("test", test)) if path is not None}
    for path in files.values():
        if not path.is_file():
            raise DataError(f"the file {path.name}", f"no such file in {path.parent}", "check the path")
    return {part: files[part] for part in PARTS if part in files}


def part_streams(
    streams: Mapping[str, Stream], *, valid_share: float, seed: int
) -> tuple[Chunks, dict[str, Any]]:
    """The parts of a train, a test and perhaps a valid stream, and their protocol.

    Without a valid stream, a share of the training rows drawn at random is for validation.

    Raises:
        DataError: No test rows.
    """
    if "test" not in streams:
        raise DataError(
            "test rows",
            f"only {' and '.join(streams)}",
            "name a test file (--test), a column with the split, or ask for a random or temporal one",
        )
    if "valid" in streams:
        return parted(streams), {"protocol": "given"}
    held_out = labelled(streams["train"], at_random(seed, valid_share))
    test = parted({"test": streams["test"]})

    def run() -> Iterator[tuple[str, Any]]:
        yield from held_out()
        yield from test()

    return run, {"protocol": "given", "valid_share": valid_share, "seed": seed}
