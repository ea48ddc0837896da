"""A trained run as one folder that needs neither run nor dataset: written by ``mmrec export``, read as a stranger's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmrec.bundle.items import add_items
    from mmrec.bundle.newcomers import Newcomers

__all__ = ["Newcomers", "add_items"]

_PUBLIC = {"Newcomers": "mmrec.bundle.newcomers", "add_items": "mmrec.bundle.items"}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
