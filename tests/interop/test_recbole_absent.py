"""Without RecBole everything else works, and its models say how to get it."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from mmrec.config import load_config
from mmrec.errors import ConfigError
from mmrec.interop import recbole


def test_its_models_say_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def absent(name: str, package: str | None = None) -> Any:
        return None if name == "recbole" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", absent)
    for kept in (recbole.model_names, recbole.model_class, recbole._find):
        kept.cache_clear()
    with pytest.raises(
        ConfigError, match=r"RecBole 1\.2\.1.*\n.*not installed\n.*pip install 'mmrec\[recbole\]'"
    ):
        load_config({"model": "recbole:BPR", "data": "unused"})
