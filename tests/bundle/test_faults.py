"""Bundles that are damaged, or made by somebody with intentions: each is refused with a reason, and harms nothing."""

from __future__ import annotations

import json
import os
import pickle
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from mmrec.bundle.bundle import Bundle
from mmrec.bundle.contents import Files
from mmrec.bundle.export import export
from mmrec.bundle.manifest import CHECKPOINT, CONFIG, INPUTS, ITEM_VECTORS, ITEMS, MANIFEST, SEEN
from mmrec.bundle.reading import MOST_DEPTH, open_inside, parse_json
from mmrec.errors import BundleError, DataError, DiskError, NotFittedError
from mmrec.files import atomic_folder, sha256_file
from mmrec.runs import Run
from tests.forks import Forks


def seal(folder: Path, name: str) -> None:
    """Write a file's true size and hash into the manifest: what a stranger with intentions would do."""
    entry = {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
    change(folder, lambda manifest: manifest["files"].update({name: entry}))


def change(folder: Path, alter: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    alter(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def refused(folder: Path, reason: str, **options: Any) -> None:
    with pytest.raises(BundleError, match=reason):
        Bundle(folder, **options)


# --- Damage


@pytest.mark.parametrize("name", [ITEM_VECTORS, ITEMS, SEEN, CONFIG, "README.md"])
def test_damage_is_found(lightgcn: Path, name: str) -> None:
    content = (lightgcn / name).read_bytes()
    (lightgcn / name).write_bytes(content[:-7])
    refused(lightgcn, f"{name} of {len(content):,} bytes")
    altered = bytearray(content)
    altered[-9] ^= 1
    (lightgcn / name).write_bytes(altered)
    refused(lightgcn, f"{name} as it was written")
    (lightgcn / name).unlink()
    refused(lightgcn, f"the file {name}\n.*no such file")
    (lightgcn / name).write_bytes(content)
    Bundle(lightgcn)


def test_without_check_hashes_are_not_compared_but_sizes_are(lightgcn: Path) -> None:
    change(lightgcn, lambda manifest: manifest["files"][ITEM_VECTORS].update(sha256="0" * 64))
    refused(lightgcn, f"{ITEM_VECTORS} as it was written")
    Bundle(lightgcn, check=False)
    (lightgcn / ITEM_VECTORS).write_bytes(b"short")
    refused(lightgcn, "5 bytes", check=False)


def test_a_checkpoint_changed_after_opening_is_found_when_it_is_read(ease: Path) -> None:
    bundle = Bundle(ease)
    content = bytearray((ease / CHECKPOINT).read_bytes())
    content[-1] ^= 1
    (ease / CHECKPOINT).write_bytes(content)
    with pytest.raises(BundleError, match="as it was written"):
        bundle.recommend("user-0003")


def test_no_bundle_is_said(tmp_path: Path) -> None:
    refused(tmp_path, "a bundle folder with manifest.json")
    refused(tmp_path / "nothing", "a bundle folder with manifest.json")
    (tmp_path / MANIFEST).write_text("{")
    refused(tmp_path, "JSON in manifest.json")
    (tmp_path / MANIFEST).write_text("[1]")
    refused(tmp_path, "format None")
    (tmp_path / MANIFEST).write_text('{"format": 2}')
    refused(tmp_path, "format 2")


# --- Names and places


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "model/../../secret", "a\\b", "a//b", "./a", "", "a\n"]
)
def test_names_that_lead_out_are_refused(lightgcn: Path, name: str) -> None:
    (lightgcn.parent / "secret").write_text("secret")
    entry = {"bytes": 6, "sha256": sha256_file(lightgcn.parent / "secret")}
    change(lightgcn, lambda manifest: manifest["files"].update({name: entry}))
    refused(lightgcn, "names of files inside the bundle")


@pytest.mark.parametrize("name", [ITEMS, CONFIG])
def test_links_are_refused(lightgcn: Path, name: str) -> None:
    (lightgcn / name).rename(lightgcn.parent / "outside")
    (lightgcn / name).symlink_to(lightgcn.parent / "outside")
    refused(lightgcn, "a link")


def test_linked_folders_pipes_and_folders_are_refused(lightgcn: Path) -> None:
    (lightgcn / "model").rename(lightgcn.parent / "model")
    (lightgcn / "model").symlink_to(lightgcn.parent / "model")
    refused(lightgcn, "a link")
    os.mkfifo(lightgcn / "pipe")
    for name in ("pipe", "model"):
        with pytest.raises(BundleError):
            open_inside(lightgcn, name)
    with pytest.raises(BundleError, match="something that is no file"):
        open_inside(lightgcn.parent, "model")
    assert "model" in os.listdir(lightgcn.parent)  # noqa: PTH208


def test_the_folder_itself_may_be_a_link(lightgcn: Path) -> None:
    (lightgcn.parent / "current").symlink_to(lightgcn)
    assert Bundle(lightgcn.parent / "current").items.equals(Bundle(lightgcn).items)


@pytest.mark.parametrize("name", ["../../outside.png", "/outside.png", "page.html"])
def test_pictures_that_are_none_of_the_bundle(runs: dict[str, Run], tmp_path: Path, name: str) -> None:
    folder = export(runs["lightgcn"], tmp_path / "bundle", images="copy")
    for place in (tmp_path / "outside.png", folder / "images" / "page.html"):
        place.write_bytes(b"secret")
    rows = {"image": [name], "bytes": [6], "sha256": [sha256_file(tmp_path / "outside.png")]}
    pd.DataFrame(rows).to_parquet(folder / "pictures.parquet")
    items = pd.read_parquet(folder / ITEMS)
    items.assign(image=name).to_parquet(folder / ITEMS)
    change(folder, lambda manifest: manifest["pictures"].update(files=1, bytes=6))
    for changed in ("pictures.parquet", ITEMS):
        seal(folder, changed)
    with pytest.raises(BundleError, match=r"names of files inside|pictures \("):
        Bundle(folder).picture(0)


def test_a_picture_that_was_changed_or_linked(runs: dict[str, Run], tmp_path: Path) -> None:
    folder = export(runs["lightgcn"], tmp_path / "bundle", images="copy")
    bundle = Bundle(folder)
    name = next(str(name) for name in bundle.items["image"] if isinstance(name, str))
    item = bundle.items["image"].tolist().index(name)
    file = folder / "images" / name
    file.rename(tmp_path / "elsewhere.png")
    file.symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(BundleError, match="a link"):
        bundle.picture(item)
    file.unlink()
    file.write_bytes(b"x" * (tmp_path / "elsewhere.png").stat().st_size)
    with pytest.raises(BundleError, match="as it was written"):
        bundle.picture(item)


# --- Contents with true hashes


class Boom:
    def __reduce__(self) -> Any:
        return os.mkdir, ("boom",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickle.dumps(Boom()), "a header of at most"),
        (struct.pack("<Q", 2**62) + b"{}", "a header of at most"),
        (struct.pack("<Q", 99_000_000) + b" " * 1000, "a header of at most"),
        (b"abc", "a header of at most"),
        (struct.pack("<Q", 2) + b"[]", "a safetensors file"),
        (struct.pack("<Q", 4) + b"{nan", "JSON in the header"),
        (safetensors.numpy.save({"other": np.zeros(3)}), "vectors: float32"),
        (safetensors.numpy.save({"vectors": np.zeros((59, 8), np.float32)}), r"float32 \(59, 8\)"),
        (safetensors.numpy.save({"vectors": np.zeros((60, 8))}), r"float64 \(60, 8\)"),
        (safetensors.numpy.save({"vectors": np.full((60, 8), np.nan, np.float32)}), "finite vectors"),
    ],
    ids=["pickle", "huge", "large", "short", "list", "no-json", "name", "rows", "type", "nan"],
)
def test_what_are_no_vectors(
    lightgcn: Path, content: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lightgcn)
    (lightgcn / ITEM_VECTORS).write_bytes(content)
    seal(lightgcn, ITEM_VECTORS)
    refused(lightgcn, reason)
    assert not (lightgcn / "boom").exists()


@pytest.mark.parametrize(
    ("offsets", "items"),
    [
        (lambda o: o, lambda i: np.where(i == i[0], 60, i)),
        (lambda o: o, lambda i: np.where(i == i[0], -1, i)),
        (lambda o: np.r_[o[:-1], o[-1] + 5], lambda i: i),
        (lambda o: np.r_[o[0], o[2], o[1], o[3:]], lambda i: i),
    ],
    ids=["above", "below", "beyond", "falling"],
)
def test_histories_that_lead_out_of_memory(lightgcn: Path, offsets: Any, items: Any) -> None:
    tensors = safetensors.numpy.load_file(lightgcn / SEEN)
    bad = {"offsets": offsets(tensors["offsets"]), "items": items(tensors["items"])}
    bad = {"offsets": bad["offsets"].astype(np.int64), "items": bad["items"].astype(np.int32)}
    (lightgcn / SEEN).write_bytes(safetensors.numpy.save(bad))
    seal(lightgcn, SEEN)
    refused(lightgcn, "rows of numbers below 60")


def test_tables_of_another_kind(lightgcn: Path) -> None:
    items = pd.read_parquet(lightgcn / ITEMS)
    nested = pa.table({"item_id": items["item_id"], "odd": [{"a": 1}] * 60})
    for table, reason in (
        (pa.Table.from_pandas(items.iloc[:-1]), r"60 rows in items.parquet\n.*59"),
        (pa.Table.from_pandas(items.assign(item_id=["same"] * 60)), "no id missing or twice"),
        (pa.Table.from_pandas(items.drop(columns="item_id")), "a column item_id"),
        (pa.Table.from_pandas(items.assign(item_id=range(60))), "a column item_id"),
        (nested, "the column 'odd'"),
    ):
        pq.write_table(table, lightgcn / ITEMS)
        seal(lightgcn, ITEMS)
        refused(lightgcn, reason)
    (lightgcn / ITEMS).write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    seal(lightgcn, ITEMS)
    refused(lightgcn, "a Parquet table items.parquet")


def test_a_small_file_that_fills_the_memory(lightgcn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = pd.read_parquet(lightgcn / ITEMS)
    items["title"] = "x" * 100_000  # once in the file, sixty times in memory
    items.to_parquet(lightgcn / ITEMS)
    seal(lightgcn, ITEMS)
    assert (lightgcn / ITEMS).stat().st_size < 200_000
    Bundle(lightgcn)
    monkeypatch.setattr("mmrec.bundle.reading.MOST_TABLE", 1_000_000)
    refused(lightgcn, "at most 1,000,000 bytes")


def test_json_that_parsers_should_not_meet() -> None:
    assert parse_json(b'{"a": [1, "\xc3\xbc"]}', "x") == {"a": [1, "ü"]}
    for content, reason in (
        (b'{"a": 1, "a": 2}', "a key given twice"),
        (b"[NaN]", "NaN"),
        (b"\xff", "JSON in x"),
        (b"[" * 100_000, "JSON in x"),
        (b"[" * (MOST_DEPTH + 2) + b"]" * (MOST_DEPTH + 2), "deep"),
        (b"9" * 10_000, "JSON in x"),
    ):
        with pytest.raises(BundleError, match=reason):
            parse_json(content, "x")


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda m: m.update(kind="pickle"), "kind"),
        (lambda m: m.update(extra=1), "extra"),
        (lambda m: m.update(dim="8"), "dim"),
        (lambda m: m.update(dim=None), "dim None"),
        (lambda m: m.update(dim=7), r"vectors: float32 \(60, 7\)"),
        (lambda m: m["counts"].update(items=61), "61 rows"),
        (lambda m: m["counts"].update(seen=3), r"items: int32 \(3\)"),
        (lambda m: m["files"].pop(ITEM_VECTORS), f"no {ITEM_VECTORS}"),
        (lambda m: m.update(kind="scores", metric="score", dim=None), "no model/checkpoint.safetensors"),
        (lambda m: m.update(metric="log probability"), "metric"),
        (lambda m: m["files"][ITEMS].update(bytes=-1), "bytes"),
        (lambda m: m["files"][ITEMS].update(sha256="../x"), "sha256"),
    ],
)
def test_manifests_that_do_not_hold(lightgcn: Path, alter: Any, reason: str) -> None:
    change(lightgcn, alter)
    refused(lightgcn, reason)


# --- Models of strangers

STRANGER = """
from pathlib import Path
Path("imported").touch()
from mmrec.models.baseline.ease import EASE as Stranger
"""


def test_a_class_of_a_stranger_is_imported_only_when_trusted(
    ease: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strangers_module.py").write_text(STRANGER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    expected = Bundle(ease).recommend("user-0003")
    name = "strangers_module:Stranger"
    config = json.loads((ease / CONFIG).read_text())
    (ease / CONFIG).write_text(json.dumps(config | {"model": name}))
    seal(ease, CONFIG)
    refused(ease, "the model 'ease' of the manifest")
    change(ease, lambda manifest: manifest.update(model=name))
    refused(ease, "to load it is to run the code")
    assert not (tmp_path / "imported").exists()
    assert Bundle(ease, trust_models=True).recommend("user-0003") == expected
    assert (tmp_path / "imported").exists()


def test_tables_of_closed_forms_must_be_of_these_items(ease: Path) -> None:
    (ease / CHECKPOINT).write_bytes(safetensors.numpy.save({"weights": np.zeros((10, 10), np.float32)}))
    seal(ease, CHECKPOINT)
    with pytest.raises(BundleError, match=r"weights of 60 items.*\n.*\(10, 10\)"):
        Bundle(ease).recommend("user-0003")


def test_neighbours_that_there_are_not(ease: Path) -> None:
    config = json.loads((ease / CONFIG).read_text()) | {"model": "itemknn", "params": {}}
    (ease / CONFIG).write_text(json.dumps(config))
    change(ease, lambda manifest: manifest.update(model="itemknn"))
    good = {
        "offsets": np.arange(61),
        "neighbours": (np.arange(60) + 1) % 60,
        "similarities": np.ones(60, np.float32),
    }
    for changed, reason in (
        ({}, None),
        ({"neighbours": np.full(60, 10**9)}, "rows that lead elsewhere"),
        ({"similarities": np.ones(3, np.float32)}, "weights of 60 items"),
        ({"offsets": np.arange(61) * 2}, "rows that lead elsewhere"),
    ):
        (ease / CHECKPOINT).write_bytes(safetensors.numpy.save({**good, **changed}))
        for name in (CONFIG, CHECKPOINT):
            seal(ease, name)
        if reason is None:
            assert len(Bundle(ease).recommend("user-0003")[0]["items"]) == 10
            continue
        with pytest.raises(BundleError, match=reason):
            Bundle(ease).recommend("user-0003")


def test_features_of_another_catalogue(ease: Path) -> None:
    inputs = json.loads((ease / INPUTS).read_text())
    for alter in (
        lambda m: m["features"][0].update(dim=5),
        lambda m: m["features"][0].update(modality="audio"),
        lambda m: m["features"][0].update(vocabulary=["a"]),
        lambda m: m.update(codes=[{"source": "items", "name": "x", "sizes": [4], "arrays": []}]),
        lambda m: m.update(other={}),
    ):
        changed = json.loads(json.dumps(inputs))
        alter(changed)
        (ease / INPUTS).write_text(json.dumps(changed))
        seal(ease, INPUTS)
        with pytest.raises(BundleError):
            _ = Bundle(ease).model


# --- Writing


def test_killed_at_any_moment_an_export_leaves_nothing_or_the_old_or_the_new_bundle(
    runs: dict[str, Run], folders: dict[str, Path], tmp_path: Path, forks: Forks
) -> None:
    ended = forks.run("tests.bundle.crash_export:main", runs["lightgcn"].path, folders["unisrec"], tmp_path)
    assert ended.returncode == 0, ended.stderr
    (new, _), (over, after) = json.loads(ended.stdout)
    assert new > 20
    assert over > 20
    assert after > 0  # some kills came while the old folder was being removed


def test_other_folders_are_not_overwritten(
    runs: dict[str, Run], folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    for to, overwrite in ((tmp_path / "photos", True), (folders["ease"], False), (runs["ease"].path, True)):
        before = sorted(to.rglob("*"))
        with pytest.raises(DataError):
            export(runs["lightgcn"], to, overwrite=overwrite)
        assert sorted(to.rglob("*")) == before


def test_overwriting(runs: dict[str, Run], ease: Path) -> None:
    old = Bundle(ease)
    assert export(runs["lightgcn"], ease, overwrite=True) == ease
    assert Bundle(ease).manifest.model == "lightgcn"
    assert not [path for path in ease.parent.iterdir() if path != ease]
    with pytest.raises(
        BundleError, match=r"no such file|bytes|as it was written"
    ):  # opened before, read after
        old.recommend("user-0003")


def test_overwriting_where_names_cannot_be_exchanged(
    ease: Path, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmrec.files._exchange", lambda one, other: False)
    export(runs["lightgcn"], ease, overwrite=True)
    assert Bundle(ease).manifest.model == "lightgcn"
    assert not [path for path in ease.parent.iterdir() if path != ease]


def test_a_bundle_that_is_replaced_while_it_is_opened(
    ease: Path, runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, done = Files.read, []

    def replaced(self: Files, name: str) -> bytes:
        if not done:
            done.append(export(runs["lightgcn"], ease, overwrite=True))
        return read(self, name)

    monkeypatch.setattr(Files, "read", replaced)
    assert Bundle(ease).manifest.model == "lightgcn"


def test_a_block_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").touch()
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "a", overwrite=True) as folder:
        (folder / "new").touch()
        raise ZeroDivisionError
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["a", "a/old"]


def test_a_full_disk_is_said_and_leaves_nothing(runs: dict[str, Run], tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(DiskError, match="a disk that takes"):
            export(runs["lightgcn"], tmp_path / "bundle")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_not_exported(own_run: Run, tmp_path: Path) -> None:
    file = own_run.checkpoint()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(NotFittedError, match="as it was written"):
        export(own_run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_unfinished_runs_are_not_exported(own_run: Run, tmp_path: Path) -> None:
    own_run.update(status="started")
    with pytest.raises(NotFittedError, match="--resume"):
        export(own_run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
