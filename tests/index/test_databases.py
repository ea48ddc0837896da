"""What the databases do beyond the contract: their filters, places that outlive the process, help when lists are short."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from mmrec.errors import ConfigError, DataError
from mmrec.index import Index, build_index, load_index
from mmrec.index.database import DatabaseIndex
from mmrec.where import Filter
from mmrec.where.tree import Node
from tests.index.backends import BACKENDS, Backend, best, check_found, make_attributes, make_vectors
from tests.where.filters import holds, make_table, nodes, nodes_without_string_order

FLAT = {backend.name: backend for backend in BACKENDS if backend.options.get("kind") != "ivfpq"}
FLAT = {name: FLAT[name] for name in ("lancedb", "qdrant", "milvus")}
ROOT = Path(__file__).resolve().parents[2]
TABLE = make_table(40)
ROWS = TABLE.to_dict("records")
QUERY = np.ones((1, 3), dtype=np.float32)


@pytest.fixture(scope="module")
def odd_items() -> dict[str, Index]:
    """Items with the attributes of the filter tests, made in each database that is asked for."""
    return {}


def matches(index: Index, node: Node) -> list[int]:
    """Ids that the database's own filter lets through."""
    found = index.search(QUERY, len(ROWS), where=Filter(node)).ids[0]
    assert not index.counts  # found by the database, not made good
    return sorted(int(item) for item in found if item >= 0)


def odd(cache: dict[str, Index], backend: Backend) -> Index:
    if backend.name not in cache:
        vectors = np.random.default_rng(0).standard_normal((len(ROWS), 3), dtype=np.float32)
        cache[backend.name] = backend.build(vectors, TABLE)
    return cache[backend.name]


WITHOUT_PAUSE = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@WITHOUT_PAUSE
@given(node=nodes)
def test_lance_filters_mean_the_same(odd_items: dict[str, Index], node: Node) -> None:
    expected = [row for row, cells in enumerate(ROWS) if holds(node, cells)]
    assert matches(odd(odd_items, FLAT["lancedb"]), node) == expected


@WITHOUT_PAUSE
@given(node=nodes)
def test_milvus_filters_mean_the_same(odd_items: dict[str, Index], node: Node) -> None:
    expected = [row for row, cells in enumerate(ROWS) if holds(node, cells)]
    assert matches(odd(odd_items, FLAT["milvus"]), node) == expected


@WITHOUT_PAUSE
@given(node=nodes_without_string_order)
def test_qdrant_filters_mean_the_same(odd_items: dict[str, Index], node: Node) -> None:
    expected = [row for row, cells in enumerate(ROWS) if holds(node, cells)]
    assert matches(odd(odd_items, FLAT["qdrant"]), node) == expected


@pytest.mark.parametrize("backend", FLAT.values(), ids=str)
def test_attributes_come_back_as_they_went_in(odd_items: dict[str, Index], backend: Backend) -> None:
    attributes = odd(odd_items, backend).read().attributes
    for name in TABLE:
        expected = [None if row[name] == [] else row[name] for row in ROWS]
        assert attributes.columns[name].to_list() == expected


@pytest.mark.parametrize("backend", FLAT.values(), ids=str)
def test_lists_that_a_database_cuts_short_are_made_good(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that forgets every other item it found, as a graph or a few cells may."""
    vectors, queries = make_vectors(100), make_vectors(6, seed=1)
    index: Any = backend.build(vectors, make_attributes(100))
    assert isinstance(index, DatabaseIndex)
    find = index.store.find

    def forget(request: Any) -> Any:
        ids, scores = find(request)
        scores[::2, ::2] = -np.inf
        return ids, scores

    monkeypatch.setattr(index.store, "find", forget)
    permitted = np.arange(100) >= 90
    permitted[::5] = False  # without a price
    found = index.search(queries, 10, where="price >= 90", deny=np.array([91]))
    permitted[91] = False
    check_found(found, best(queries, vectors, np.arange(100), 10, permitted))
    assert index.counts == {"short": 3}


def test_a_lance_table_in_the_saved_folder_moves_with_it(tmp_path: Path) -> None:
    FLAT["lancedb"].require()
    vectors = make_vectors(50)
    index = build_index("lancedb", vectors, uri=str(tmp_path / "index" / "lance"))
    index.save(tmp_path / "index")
    assert json.loads((tmp_path / "index" / "manifest.json").read_text())["options"]["uri"] == "./lance"
    shutil.move(tmp_path / "index", tmp_path / "moved")
    again = load_index(tmp_path / "moved")
    assert again.search(vectors[:1], 3).ids.shape == (1, 3)
    again.add(np.array([70]), vectors[:1] * 9)
    assert load_index(tmp_path / "moved").search(vectors[:1], 1).ids.tolist() == [
        [70]
    ]  # changes count at once
    shutil.rmtree(tmp_path / "moved" / "lance")
    with pytest.raises(ConfigError, match="no such table"):
        load_index(tmp_path / "moved")


@pytest.mark.parametrize(("name", "place"), [("lancedb", "tables"), ("milvus", "shop.db")])
def test_a_table_that_is_there_is_not_overwritten(name: str, place: str, tmp_path: Path) -> None:
    FLAT[name].require()
    vectors, uri = make_vectors(20), str(tmp_path / place)
    build_index(name, vectors, uri=uri).save(tmp_path / "saved")
    with pytest.raises(ConfigError, match=r"'items' exists"):
        build_index(name, vectors[:5], uri=uri)
    assert len(load_index(tmp_path / "saved")) == 20
    manifest = json.loads((tmp_path / "saved" / "manifest.json").read_text())
    assert (manifest["data"], manifest["options"]["uri"]) == (None, uri)


def test_nothing_temporary_is_left(tmp_path: Path) -> None:
    there = [b.name for b in FLAT.values() if all(importlib.util.find_spec(module) for module in b.needs)]
    code = (
        "import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from mmrec.index import build_index\n"
        "from tests.index.backends import make_vectors\n"
        "kept = [build_index(name, make_vectors(20)) for name in sys.argv[2:] * 2]\n"
        "del kept[: len(sys.argv[2:])]\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path), *there], cwd=ROOT, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_build_leaves_no_table(tmp_path: Path) -> None:
    FLAT["lancedb"].require()
    uri = str(tmp_path / "tables")
    with pytest.raises(ConfigError, match="at least 256 items"):
        build_index("lancedb", make_vectors(20), uri=uri, kind="ivfpq")
    assert len(build_index("lancedb", make_vectors(20), uri=uri)) == 20


def test_secrets_are_not_saved(tmp_path: Path) -> None:
    FLAT["qdrant"].require()
    index = build_index("qdrant", make_vectors(5), api_key="hunter2")
    index.save(tmp_path)
    assert "hunter2" not in (tmp_path / "manifest.json").read_text()
    assert "hunter2" not in repr(index.store.options)  # type: ignore[attr-defined]
    assert len(load_index(tmp_path, api_key="hunter2")) == 5


def test_what_milvus_cannot_hold_is_refused() -> None:
    FLAT["milvus"].require()
    attributes = make_attributes(2)
    attributes["colours"] = [["red"] * 5000, ["red"]]
    with pytest.raises(DataError, match="5,000 values"):
        build_index("milvus", make_vectors(2), attributes)
    attributes["colours"] = [["ż" * 40_000], ["red"]]
    with pytest.raises(DataError, match="80,000 bytes"):
        build_index("milvus", make_vectors(2), attributes)
    with pytest.raises(ConfigError, match="16,384"):
        build_index("milvus", make_vectors(2)).search(make_vectors(1), 16_385)
