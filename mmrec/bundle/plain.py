"""Vectors and ids alone, for other programs: as Parquet, as NumPy arrays or as LanceDB tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmrec.errors import ConfigError
from mmrec.files import atomic_path, write_array, write_json

if TYPE_CHECKING:
    import pyarrow

Format = Literal["parquet", "npy", "lance"]
DESCRIPTION = "vectors.json"


def write_plain(
    folder: Path,
    format: Format,
    tables: Mapping[str, tuple[list[str], NDArray[np.float32]]],
    description: Mapping[str, Any],
) -> None:
    """Write vectors and ids into an empty folder.

    - parquet: ``items.parquet`` with the columns ``item_id`` and ``vector``, a list of fixed length.
    - npy: ``item_vectors.npy (n, d)`` and the ids of its rows in ``item_ids.json``.
    - lance: a LanceDB database with the table ``items``, columns as in Parquet.

    Users likewise, where they have vectors.

    Args:
        folder: Where to.
        format: As what.
        tables: ``item`` and perhaps ``user`` to ids and float32 vectors ``(n, d)``.
        description: What the vectors are, for ``vectors.json``.

    Raises:
        ConfigError: LanceDB is not installed.
    """
    for name, (ids, vectors) in tables.items():
        if format == "npy":
            write_array(folder / f"{name}_vectors.npy", vectors)
            write_json(folder / f"{name}_ids.json", ids)
        elif format == "parquet":
            import pyarrow.parquet as pq

            with atomic_path(folder / f"{name}s.parquet") as temporary:
                pq.write_table(_table(name, ids, vectors), temporary)
        else:
            _connect(folder).create_table(f"{name}s", _table(name, ids, vectors))
    write_json(folder / DESCRIPTION, dict(description))


def _table(name: str, ids: list[str], vectors: NDArray[np.float32]) -> pyarrow.Table:
    import pyarrow as pa

    flat = pa.array(vectors.reshape(-1))
    rows = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table({f"{name}_id": pa.array(ids, pa.string()), "vector": rows})


def check_installed(format: str) -> None:
    """Refuse early what cannot be written.

    Raises:
        ConfigError: LanceDB is not installed.
    """
    if format == "lance":
        _lancedb()


def _lancedb() -> Any:
    try:
        import lancedb
    except ImportError:
        raise ConfigError(
            "LanceDB for --format lance", "it is not installed", "pip install 'mmrec[lance]'"
        ) from None
    return lancedb


def _connect(folder: Path) -> Any:
    return _lancedb().connect(str(folder))
