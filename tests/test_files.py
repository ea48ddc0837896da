"""Files are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import io
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mmrec.errors import DataError, DiskError
from mmrec.files import (
    atomic_folder,
    atomic_path,
    content_hash,
    read_json,
    read_table,
    sha256_file,
    write_array,
    write_json,
    write_table,
    write_text,
)


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    write_text(file, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(file) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "b.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.txt", "new"]


def test_the_content_is_on_disk_before_the_name_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("sync"), sync(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("rename"), replace(*paths)))
    write_text(tmp_path / "a.txt", "x")
    assert calls == ["sync", "rename", "sync"]  # the file, its name, the folder that holds the name


def test_folders_appear_whole(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "data") as temporary:
        (temporary / "x").write_text("1")
        assert not (tmp_path / "data").exists()
    assert (tmp_path / "data" / "x").read_text() == "1"
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "other") as temporary:
        (temporary / "x").write_text("1")
        raise ZeroDivisionError
    with pytest.raises(DataError, match="with files in it"), atomic_folder(tmp_path / "data"):
        pass
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty") as temporary:
        (temporary / "x").write_text("1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "empty"]


def test_json_and_tables_and_back(tmp_path: Path) -> None:
    value = {"b": [1, 2.5, None, "ü"], "a": {"x": True}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "nan.json", float("nan"))
    table = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
    write_table(tmp_path / "a.parquet", table)
    pd.testing.assert_frame_equal(read_table(tmp_path / "a.parquet"), table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.parquet"]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.zeros((0, 4), dtype=np.float16),
        np.array([True, False]),
        np.array(3.5),
        np.array(["a", "bü"]),
        np.arange(10)[::3],
    ],
    ids=["matrix", "fortran", "empty", "bool", "scalar", "words", "strided"],
)
def test_arrays_are_written_as_numpy_writes_them(tmp_path: Path, array: np.ndarray[Any, Any]) -> None:
    write_array(tmp_path / "a.npy", array)
    expected = io.BytesIO()
    np.save(expected, np.asarray(array, order="C"), allow_pickle=False)
    assert (tmp_path / "a.npy").read_bytes() == expected.getvalue()


def test_arrays_of_objects_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="pickle"):
        write_array(tmp_path / "a.npy", np.array([{}, None], dtype=object))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("limit", [0, 50, 3000])
@pytest.mark.parametrize(
    "write",
    [
        lambda file: write_array(file, np.zeros((100, 50))),
        lambda file: write_table(file, pd.DataFrame({"a": np.random.default_rng(0).random(5000)})),
        lambda file: write_json(file, list(range(5000))),
    ],
    ids=["array", "table", "json"],
)
def test_a_full_disk_is_said_whoever_writes(
    tmp_path: Path, write: Callable[[Path], None], limit: int
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(DiskError, match=r"a disk that takes .*file") as caught:
            write(tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "MiB free" in caught.value.found
    assert not list(tmp_path.iterdir())


def test_other_errors_of_the_system_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no device") as caught, atomic_path(tmp_path / "a"):
        raise OSError(errno.EIO, "no device")
    assert not isinstance(caught.value, DiskError)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for read in (read_json, read_table):
        with pytest.raises(DataError, match="no such file"):
            read(tmp_path / "nothing")
        (tmp_path / "damaged").write_bytes(b"\xff\xfe{")
        with pytest.raises(DataError, match="damaged"):
            read(tmp_path / "damaged")


def test_hashes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert content_hash({"b": 1, "a": [1.5, "ü"]}) == content_hash({"a": [1.5, "ü"], "b": 1})
    assert content_hash({"a": 1}) != content_hash({"a": "1"})
