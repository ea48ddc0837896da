"""Row datasets from whatever people have: one function for all formats."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mmrec.errors import ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    from mmrec.data.rows.dataset import RowDataset
    from mmrec.data.rows.source import RowSource

FORMATS = {
    "dataset": "mmrec.data.rows.catalogue:read_dataset",
    "mmctr": "mmrec.data.rows.mmctr:read_mmctr",
    "libfm": "mmrec.data.rows.libfm:read_libfm",
    "criteo": "mmrec.data.rows.criteo:read_criteo",
    "tables": "mmrec.data.rows.tables:read_tables",
}


def make_rows(
    source: str | Path,
    to: str | Path,
    *,
    format: str = "auto",
    missing_embeddings: Literal["error", "zero"] = "error",
    show_progress: bool = True,
    **options: Any,
) -> RowDataset:
    """Make a row dataset.

    Args:
        source: A folder or file.
        to: The new folder.
        format: A key of :data:`FORMATS`, or ``auto`` to tell by the files present.
        missing_embeddings: What to do with items without a vector: ``error``, or ``zero`` to mark them absent.
        show_progress: Print progress to stderr.
        **options: Those of the format's function; None counts as not given.

    Raises:
        ConfigError: Unknown format, or an option that it does not read.
        DataError: Data that cannot be used; nothing is left behind.
        DiskError: The disk is full.
    """
    from mmrec.data.rows.build import build

    raw = read_rows(source, format, **options)
    return build(raw, to, missing_embeddings=missing_embeddings, show_progress=show_progress)


def read_rows(source: str | Path, format: str = "auto", **options: Any) -> RowSource:
    """Open rows in the format they have; see :func:`make_rows`.

    Raises:
        ConfigError: Unknown format, or an option that it does not read.
        DataError: Unreadable.
    """
    path = Path(source)
    if not path.exists():
        raise DataError("a folder or file of rows", f"{path} does not exist", "check the path")
    format = detect(path) if format == "auto" else format
    if format not in FORMATS:
        known = ["auto", *FORMATS]
        raise ConfigError(f"a format: {' | '.join(known)}", repr(format), did_you_mean(format, known))
    module, _, function = FORMATS[format].partition(":")
    read: Callable[..., RowSource] = getattr(importlib.import_module(module), function)
    given = {key: value for key, value in options.items() if value is not None}
    known = [key for key in inspect.signature(read).parameters if key != "source"]
    for key in given:
        if key not in known:
            raise ConfigError(
                f"options of the format {format!r}: {', '.join(known)}",
                key,
                f"{did_you_mean(key, known)} Or choose another format",
            )
    return read(path, **given)


def detect(source: Path) -> str:
    """The format of a folder or file, told by the files present; tables are what is left."""
    from mmrec.data.rows.libfm import SUFFIXES

    if source.is_dir() and (source / "dataset.json").is_file():
        return "dataset"
    files = [source] if source.is_file() else sorted(path for path in source.glob("*") if path.is_file())
    names = {path.name for path in files}
    if source.is_dir() and ("item_info.parquet" in names or (source / "MicroLens_1M_x1").is_dir()):
        return "mmctr"
    if any(name.endswith(SUFFIXES) for name in names):
        return "libfm"
    texts = [path for path in files if path.suffix in (".csv", ".txt")]
    if texts and _looks_like_criteo(texts[0]):
        return "criteo"
    return "tables"


def _looks_like_criteo(path: Path) -> bool:
    """Whether the first line has 40 integers and no header."""
    with path.open("rb") as file:
        fields = file.readline(1 << 16).decode("utf-8", errors="replace").strip().split(",")
    return len(fields) == 40 and all(field.lstrip("-").isdecimal() for field in fields)
