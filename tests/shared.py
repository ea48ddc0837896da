"""Real data for tests that use it: public files laid beside the checkout, never part of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("MMREC_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared_data(name: str) -> Path:
    """Folder ``name`` of the real data, or skip the test."""
    return _existing(SHARED / "data" / name)


def shared_model(name: str) -> Path:
    """Folder of a real pretrained model, or skip the test."""
    return _existing(SHARED / "models" / name)


def _existing(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"real files are absent: {path} (set MMREC_SHARED to their folder)")
    return path
