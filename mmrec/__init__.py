"""mmrec: recommender systems for items that have pictures and text.

The public names are imported when they are first used, so that ``import mmrec`` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Dataset": "mmrec.data.dataset",
    "FeatureTable": "mmrec.encode.features",
    "from_frames": "mmrec.data.importers.frames",
    "import_dataset": "mmrec.data.importers",
    "load": "mmrec.data.dataset",
}

__all__ = ["Dataset", "FeatureTable", "__version__", "from_frames", "import_dataset", "load"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'mmrec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_PUBLIC | globals())
