"""Results of long computations, kept by a hash of everything that went in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mmrec.errors import DiskError
from mmrec.files import atomic_path, content_hash
from mmrec.progress import note

Arrays = dict[str, np.ndarray[Any, Any]]


def cache_folder() -> Path:
    """``$MMREC_CACHE``, or ``mmrec`` in the user's cache folder. It may be deleted at any time."""
    if own := os.environ.get("MMREC_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmrec"


def cached(kind: str, key: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """The arrays that ``make`` gives for this key, computed at most once per machine.

    A damaged file is made again; where nothing can be written the result is only computed, and a note says so.

    Args:
        kind: What it is, for example ``neighbours``; change it when the computation changes.
        key: Everything the result depends on, contents as hashes.
        make: Computes the arrays.
    """
    file = cache_folder() / f"{kind}-{content_hash(dict(key))}.safetensors"
    if file.is_file():
        try:
            return load_file(file)
        except (SafetensorError, OSError) as error:
            note(f"{file} is damaged ({error}) and is made again")
    arrays = {name: np.ascontiguousarray(array) for name, array in make().items()}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            save_file(arrays, temporary)
    except (OSError, DiskError) as error:
        note(f"not cached, because {file.parent} cannot be written: {error}")
    return arrays
