"""What this machine has: versions, devices, extras."""

from __future__ import annotations

import importlib.util
from typing import Any

from mmrec.cache import cache_folder
from mmrec.runs import environment

EXTRAS = {
    "recbole": ("recbole",),
    "serve": ("fastapi", "uvicorn"),
    "tune": ("optuna",),
    "plot": ("matplotlib",),
    "lance": ("lancedb",),
    "qdrant": ("qdrant_client",),
    "milvus": ("pymilvus",),
    "track": ("tensorboard",),
}


def examine() -> dict[str, Any]:
    """Versions and devices, the optional extras that are installed, and what to do about what is wrong."""
    import torch

    extras = {
        name: all(importlib.util.find_spec(module) for module in modules) for name, modules in EXTRAS.items()
    }
    advice = []
    if torch.get_num_threads() == 1 and (environment()["cpus"] or 1) > 1:
        advice.append("torch uses one thread: unset OMP_NUM_THREADS, or set it to the number of cores")
    if (environment()["cuda"] is None) and torch.version.cuda is not None:
        advice.append("this torch is built for CUDA but sees no GPU: training runs on the CPU")
    return {
        **environment(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "extras": extras,
        "cache": str(cache_folder()),
        "advice": advice,
    }
