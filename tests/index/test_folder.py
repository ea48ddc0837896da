"""Saved indexes: killed saves, damage, and what is no index."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmrec.errors import ConfigError, DataError
from mmrec.index import build_index, load_index, measure_recall
from tests.forks import Forks
from tests.index.backends import make_attributes, make_vectors


def test_killed_before_every_call_to_the_file_system(tmp_path: Path, forks: Forks) -> None:
    ended = forks.run("tests.index.crash_save:main", tmp_path)
    assert ended.returncode == 0, ended.stderr[-2000:]
    for line in ended.stdout.splitlines():
        moments, replaced = map(int, line.split())
        assert moments > 10
        assert 0 < replaced < moments
    assert len(ended.stdout.splitlines()) == 2


def test_damage_is_found(tmp_path: Path) -> None:
    build_index("faiss", make_vectors(50), make_attributes(50)).save(tmp_path)
    files = sorted((tmp_path / "data-1").iterdir())
    assert [file.name for file in files] == [
        "attributes.parquet", "entries.npy", "ids.npy", "index.faiss", "vectors.npy",
    ]  # fmt: skip
    for file in files:
        whole = file.read_bytes()
        flipped = bytes([*whole[:-1], whole[-1] ^ 1])
        for content in (flipped, whole[:-1], None):
            file.unlink() if content is None else file.write_bytes(content)
            with pytest.raises(DataError, match=file.name):
                load_index(tmp_path)
        file.write_bytes(whole)
    assert len(load_index(tmp_path)) == 50


@pytest.mark.parametrize(
    "change", [{"format": 2}, {"files": None}, {"data": "../data-1"}, {"backend": "annoy"}]
)
def test_other_manifests_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    build_index("exact", make_vectors(50)).save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises((DataError, ConfigError)):
        load_index(tmp_path)


def test_what_is_no_folder_or_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json"):
        load_index(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the file"):
        build_index("exact", make_vectors(5)).save(tmp_path / "file")


def test_unknown_backends_and_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'faiss'"):
        build_index("fais", make_vectors(5))
    with pytest.raises(ConfigError, match="did you mean 'ef_search'"):
        build_index("faiss", make_vectors(5), efsearch=3)
    with pytest.raises(ConfigError, match="no keys"):
        build_index("exact", make_vectors(5), ef_search=3)
    with pytest.raises(ConfigError, match="kind"):
        build_index("faiss", make_vectors(5), kind="tree")


@pytest.mark.parametrize(
    ("backend", "module", "extra"),
    [
        ("lancedb", "lancedb", "lance"),
        ("qdrant", "qdrant_client", "qdrant"),
        ("milvus", "pymilvus", "milvus"),
    ],
)
def test_a_missing_package_names_the_command(
    monkeypatch: pytest.MonkeyPatch, backend: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"pip install 'mmrec\[{extra}\]'"):
        build_index(backend, make_vectors(5))


def test_measured_recall_counts_true_items() -> None:
    """A mutilated index that can only find even items has the share of even items as its recall."""
    vectors, queries = make_vectors(200), make_vectors(40, seed=1)
    index = build_index("exact", vectors)
    found = index.search
    monkey: Any = index
    monkey.search = lambda q, k: found(q, k, allow=np.arange(0, 200, 2))
    true = build_index("exact", vectors).search(queries, 5).ids
    assert measure_recall(index, queries, 5) == pytest.approx((true % 2 == 0).mean())
    assert index.recall is not None
    assert index.recall["n_queries"] == 40
    first = measure_recall(index, queries, 5, n_queries=10, seed=0)
    assert measure_recall(index, queries, 5, n_queries=10, seed=0) == first
    with pytest.raises(DataError, match="queries and items"):
        measure_recall(index, queries[:0], 5)
