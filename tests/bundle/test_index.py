"""The index of a bundle: what is saved is what is measured and found again, and leads nowhere else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmrec.bundle.bundle import Bundle
from mmrec.bundle.export import export
from mmrec.bundle.index import attributes_of
from mmrec.bundle.manifest import MANIFEST
from mmrec.errors import BundleError, ConfigError
from mmrec.files import sha256_file
from mmrec.index import build_index
from mmrec.runs import Run
from tests.command_line import Command

INDEX = "index/manifest.json"


@pytest.fixture
def indexed(runs: dict[str, Run], tmp_path: Path) -> Path:
    return export(runs["lightgcn"], tmp_path / "bundle", index="faiss-hnsw", index_options={"m": 8})


def forge(folder: Path, alter: Any, manifest: Any = lambda _: None) -> None:
    """Change the index's manifest as somebody with intentions would: with a true size and hash."""
    document = json.loads((folder / INDEX).read_text())
    alter(document)
    (folder / INDEX).write_text(json.dumps(document))
    own = json.loads((folder / MANIFEST).read_text())
    own["files"][INDEX] = {
        "bytes": (folder / INDEX).stat().st_size,
        "sha256": sha256_file(folder / INDEX),
    }
    manifest(own)
    (folder / MANIFEST).write_text(json.dumps(own))


@pytest.mark.parametrize("name", ["lightgcn", "unisrec"])
def test_a_saved_index_finds_what_exact_search_finds(name: str, runs: dict[str, Run], tmp_path: Path) -> None:
    bundle = Bundle(export(runs[name], tmp_path / "bundle", index="faiss-hnsw", index_options={"m": 8}))
    entry = bundle.manifest.index
    assert entry is not None
    assert (entry.backend, entry.options["kind"], entry.options["m"]) == ("faiss", "hnsw", 8)
    assert set(entry.recall) == {"recall@10", "recall@100"}
    queries = bundle.user_vectors(range(40))
    own, exact = bundle.index(), bundle.index(exact=True)
    assert (own.backend, exact.backend, own.kinds) == ("faiss", "exact", exact.kinds)
    assert set(own.kinds) == {"category", "price", "image"}
    for where in (None, "price < 50 and category != 'mug'"):
        found, true = (index.search(queries, 10, where=where) for index in (own, exact))
        # the graph of so few items leads everywhere
        np.testing.assert_array_equal(found.ids, true.ids)
    best = np.argsort(-(queries @ bundle.item_vectors.T), axis=1, kind="stable")[:, :10]
    np.testing.assert_array_equal(exact.search(queries, 10).ids, best)
    assert entry.recall["recall@10"] == pytest.approx(1.0)
    assert "recall@10 1.000" in (bundle.path / "README.md").read_text()


def test_the_command_line_says_the_same(mmrec: Command, runs: dict[str, Run], tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    ended = mmrec(
        "export", runs["lightgcn"].path, "--to", folder, "--index", "faiss-hnsw",
        "--index-option", "m=8", "--index-option", "ef_search=64",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    entry = Bundle(folder).manifest.index
    assert entry is not None
    assert (entry.options["m"], entry.options["ef_search"]) == (8, 64)
    again = mmrec("export", runs["lightgcn"].path, "--to", tmp_path / "x", "--index", "fais")
    assert (again.code, (tmp_path / "x").exists()) == (2, False)
    assert "did you mean 'faiss'?" in again.err


def test_recall_is_that_of_the_index(runs: dict[str, Run], tmp_path: Path) -> None:
    """An index that looks at few candidates misses some, and the bundle says how many."""
    poor = {"m": 2, "ef_construction": 1, "ef_search": 1, "refine": 1}
    bundle = Bundle(export(runs["lightgcn"], tmp_path / "bundle", index="faiss-hnsw", index_options=poor))
    assert bundle.manifest.index is not None
    users = np.flatnonzero([len(bundle.seen(user)) for user in range(150)])
    queries = bundle.user_vectors(users)
    found, true = (index.search(queries, 10).ids for index in (bundle.index(), bundle.index(exact=True)))
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), true.tolist(), strict=True)])
    assert recall < 1
    assert bundle.manifest.index.recall["recall@10"] == pytest.approx(recall)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"index": "hnsw"}, "the name of an index"),
        ({"index": "faiss-tree"}, "kind"),
        ({"index": "exact", "index_options": {"m": 3}}, "'m'"),
        ({"index": "exact", "format": "npy"}, "vectors and ids alone"),
        ({"index": "lancedb", "index_options": {"uri": "/elsewhere"}}, "address of a server"),
    ],
)
def test_options_that_cannot_be(
    options: dict[str, Any], reason: str, runs: dict[str, Run], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=reason):
        export(runs["lightgcn"], tmp_path / "bundle", **options)
    assert not (tmp_path / "bundle").exists()


def test_scores_have_no_index(runs: dict[str, Run], folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vectors for --index exact"):
        export(runs["ease"], tmp_path / "bundle", index="exact")
    with pytest.raises(ConfigError, match="use recommend"):
        Bundle(folders["ease"]).index()


def test_a_damaged_index_is_found(indexed: Path) -> None:
    file = next((indexed / "index").rglob("index.faiss"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match="as it was written"):
        Bundle(indexed)
    with pytest.raises(BundleError, match="another content"):
        Bundle(indexed, check=False).index()


@pytest.mark.parametrize("data", ["../../elsewhere", "/etc", "data-2"])
def test_an_index_that_leads_elsewhere_is_refused(indexed: Path, data: str) -> None:
    forge(indexed, lambda document: document.update(data=data))
    with pytest.raises(BundleError, match=r"names of files inside|fits the bundle"):
        Bundle(indexed).index()
    assert Bundle(indexed).index(exact=True).backend == "exact"


def test_an_index_on_a_server_has_to_be_named(indexed: Path) -> None:
    uri = "http://127.0.0.1:1"
    options = {"uri": uri, "collection": "items", "m": 16, "ef_construction": 100, "ef_search": 128}
    options |= {"exact": False}
    forge(
        indexed,
        lambda document: document.update(backend="qdrant", options=options, data=None, files={}),
        lambda own: own["index"].update(backend="qdrant", options=options),
    )
    with pytest.raises(ConfigError, match="if that is your server"):
        Bundle(indexed).index()
    forge(indexed, lambda document: document["options"].update(uri="http://127.0.0.1:2"))
    with pytest.raises(BundleError, match="fits the bundle"):
        Bundle(indexed).index(uri="http://127.0.0.1:2")


def test_an_index_of_other_items_is_refused(indexed: Path) -> None:
    bundle = Bundle(indexed)
    shutil.rmtree(indexed / "index")
    fewer = build_index("exact", bundle.item_vectors[:59], bundle.attributes[:59])
    fewer.save(indexed / "index")
    own = json.loads((indexed / MANIFEST).read_text())
    own["index"].update(backend="exact", options={})
    own["files"] = {name: entry for name, entry in own["files"].items() if not name.startswith("index/")}
    for file in (path for path in (indexed / "index").rglob("*") if path.is_file()):
        entry = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        own["files"][file.relative_to(indexed).as_posix()] = entry
    (indexed / MANIFEST).write_text(json.dumps(own))
    with pytest.raises(BundleError, match="an index of the bundle's 60 items"):
        Bundle(indexed).index()


def test_columns_that_no_filter_knows_stay_out() -> None:
    items = pd.DataFrame(
        {
            "item_id": ["a", "b"],
            "title": ["A", "B"],
            "when": pd.to_datetime(["2024-01-01", "2024-01-02"]),
            "price": [1.0, None],
            "tags": [["x"], []],
        }
    )
    assert list(attributes_of(items, {"title": "text"})) == ["price", "tags"]
