"""mmrec: recommender systems for items that have pictures and text.

The public names are imported when they are first used, so that ``import mmrec`` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmrec.bundle.bundle import Bundle
    from mmrec.bundle.export import export
    from mmrec.codes.table import CodeTable
    from mmrec.codes.tokenize import tokenize
    from mmrec.compare import compare
    from mmrec.data.dataset import Dataset, load
    from mmrec.data.importers import import_dataset
    from mmrec.data.importers.frames import from_frames
    from mmrec.data.split import split
    from mmrec.encode.external import import_features
    from mmrec.encode.features import FeatureTable
    from mmrec.encode.runner import encode
    from mmrec.errors import MMRecError
    from mmrec.evaluate import evaluate
    from mmrec.explain import explain
    from mmrec.recommend import recommend
    from mmrec.runs import Run
    from mmrec.train import train
    from mmrec.tune.search import tune

__version__ = "0.1.0"

_PUBLIC = {
    "Bundle": "mmrec.bundle.bundle",
    "CodeTable": "mmrec.codes.table",
    "Dataset": "mmrec.data.dataset",
    "FeatureTable": "mmrec.encode.features",
    "MMRecError": "mmrec.errors",
    "Run": "mmrec.runs",
    "compare": "mmrec.compare",
    "encode": "mmrec.encode",
    "evaluate": "mmrec.evaluate",
    "explain": "mmrec.explain",
    "export": "mmrec.bundle.export",
    "from_frames": "mmrec.data.importers.frames",
    "import_dataset": "mmrec.data.importers",
    "import_features": "mmrec.encode.external",
    "load": "mmrec.data.dataset",
    "recommend": "mmrec.recommend",
    "split": "mmrec.data.split",
    "tokenize": "mmrec.codes.tokenize",
    "train": "mmrec.train",
    "tune": "mmrec.tune",
}

__all__ = [
    "Bundle",
    "CodeTable",
    "Dataset",
    "FeatureTable",
    "MMRecError",
    "Run",
    "__version__",
    "compare",
    "encode",
    "evaluate",
    "explain",
    "export",
    "from_frames",
    "import_dataset",
    "import_features",
    "load",
    "recommend",
    "split",
    "tokenize",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module = importlib.import_module(_PUBLIC[name])
        # A module of the verb's own name takes the call itself: see mmrec.callable_module.
        return module if module.__name__ == f"{__name__}.{name}" else getattr(module, name)
    raise AttributeError(f"module 'mmrec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(_PUBLIC | globals())
