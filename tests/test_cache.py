from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmrec.cache import cache_folder, cached


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        return {"values": np.arange(3) * self.calls}


def test_same_key_is_computed_once_and_another_key_anew() -> None:
    make = Counter()
    first = cached("kind", {"a": 1, "b": 2}, make)
    assert cached("kind", {"b": 2, "a": 1}, make)["values"].tolist() == first["values"].tolist()
    assert make.calls == 1
    cached("kind", {"a": 1, "b": 3}, make)
    cached("other", {"a": 1, "b": 2}, make)
    assert make.calls == 3


def test_transposed_arrays_come_back_as_they_were() -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3).T
    cached("kind", {}, lambda: {"values": array})
    assert cached("kind", {}, Counter())["values"].tolist() == array.tolist()


def test_a_damaged_file_is_made_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cached("kind", {}, Counter())
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    assert cached("kind", {}, lambda: {"values": np.array([7])})["values"].tolist() == [7]
    assert "made again" in capsys.readouterr().err
    assert cached("kind", {}, Counter())["values"].tolist() == [7]


def test_a_folder_that_cannot_be_written_costs_only_time(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.write_text("a file where the folder should be")
    assert cached("kind", {}, Counter())["values"].tolist() == [0, 1, 2]
    assert "cannot be written" in capsys.readouterr().err


def test_where_it_is(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert cache_folder() == folder
    monkeypatch.delenv("MMREC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/mmrec")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "mmrec"
