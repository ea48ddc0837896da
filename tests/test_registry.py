"""Names of models: complete, importable, and imported only when asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mmrec.errors import ConfigError
from mmrec.registry import DECLARED, MODELS, describe_models, load_class, model_class


@pytest.mark.parametrize("name", MODELS)
def test_every_name_leads_to_a_declared_model(name: str) -> None:
    model = model_class(name)
    assert model.__name__.lower().replace("_", "") == name.replace("-", "").replace("_", "")
    assert all(hasattr(model, attribute) for attribute in DECLARED)
    assert all(field.description for field in model.config_type.model_fields.values())
    assert model.config_type()  # every hyper-parameter has a default


def test_names_are_sorted() -> None:
    assert list(MODELS) == sorted(MODELS)


def test_descriptions_are_complete() -> None:
    entries = {entry["name"]: entry for entry in describe_models()}
    assert entries.keys() == MODELS.keys()
    freedom = entries["freedom"]
    assert (freedom["contract"], freedom["batches"], freedom["modalities"]) == (
        "retriever",
        "pairs",
        "required",
    )
    assert freedom["cold_items"] is True
    assert freedom["params"]["knn_k"] == {
        "default": 10,
        "meaning": "neighbours of an item in the item graph, itself included",
    }
    assert entries["popularity"]["batches"] is None
    assert all(entry["summary"] for entry in entries.values())


@pytest.mark.parametrize(
    "path", ["no.such.module:Class", "mmrec.registry:NoSuchClass", "mmrec.registry:", ":Class", "..x:Class"]
)
def test_wrong_import_paths(path: str) -> None:
    with pytest.raises(ConfigError, match="check the spelling and PYTHONPATH"):
        load_class(path)


def test_wrong_names() -> None:
    with pytest.raises(ConfigError, match="did you mean 'freedom'"):
        model_class("fredom")
    with pytest.raises(ConfigError, match=r"a model class with .*\n.*without config_type"):
        model_class("tests.broken_models:Undeclared")


def test_the_registry_itself_imports_no_model() -> None:
    code = (
        "import sys, mmrec.registry; print([m for m in sys.modules if 'torch' in m or 'mmrec.models' in m])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
