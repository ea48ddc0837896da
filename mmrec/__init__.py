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
    "encode": "mmrec.encode",
    "from_frames": "mmrec.data.importers.frames",
    "import_dataset": "mmrec.data.importers",
    "import_features": "mmrec.encode.external",
    "load": "mmrec.data.dataset",
}

__all__ = [
    "Dataset",
    "FeatureTable",
    "__version__",
    "encode",
    "from_frames",
    "import_dataset",
    "import_features",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module = importlib.import_module(_PUBLIC[name])
        # A module of the verb's own name takes the call itself: see mmrec.callable_module.
        return module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
    raise AttributeError(f"module 'mmrec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_PUBLIC | globals())
