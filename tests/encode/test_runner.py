from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import mmrec
from mmrec.data.dataset import Dataset
from mmrec.encode.encoders import EncoderOptions
from mmrec.encode.features import write_features
from mmrec.encode.shards import open_workplace
from mmrec.errors import ConfigError, DataError, DiskError, FeatureError
from tests.encode.conftest import write_dataset
from tests.encode.slow_encoder import NAME, SlowEncoder

Make = Callable[..., Path]


def bits(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("vectors.npy", "mask.npy", "manifest.json")]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eight items: three good pictures, one without, one missing, one broken, one text file, one more good."""
    names = ["0.png", "1.png", None, "gone.png", "broken.png", "page.png", "6.png", "7.png"]
    titles = ["red", "", "", "blue", "", "", "green", "dog"]
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(8)], "image": names, "title": titles})
    folder = write_dataset(tmp_path / "pictures", items, {"image": "image", "title": "text"})
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    for name in ("0.png", "1.png", "6.png", "7.png", "broken.png"):
        pixels = generator.integers(0, 256, (30, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name)
    whole = (folder / "images" / "broken.png").read_bytes()
    (folder / "images" / "broken.png").write_bytes(whole[:200])
    (folder / "images" / "page.png").write_text("<html>")
    return folder


def test_texts_become_a_table_with_a_mask_and_a_manifest(text_data: Make) -> None:
    dataset = text_data(50)
    table = mmrec.encode(dataset, dim=8, show_progress=False)
    empty = np.arange(50) % 10 == 3
    np.testing.assert_array_equal(table.present, ~empty)
    assert table.name == "text-tfidf"
    assert table.vectors.shape == (50, 8)
    assert not table.vectors[empty].any()
    np.testing.assert_allclose(np.linalg.norm(table.vectors[~empty], axis=1), 1, rtol=1e-5)
    manifest = table.manifest
    assert manifest["encoder"]["name"] == "tfidf"
    assert manifest["inputs"]["fields"] == ["plot"]
    assert len(manifest["inputs"]["sha256"]) == 64
    assert manifest["absent"] == {"items": 5, "no input": 5}
    np.testing.assert_array_equal(Dataset(dataset).features("text-tfidf").vectors, table.vectors)


def test_each_item_gets_its_own_vector(text_data: Make) -> None:
    """Batches are sorted by length: the order of the rows must come back."""

    class Lengths:
        modality = "text"

        def describe(self) -> dict[str, Any]:
            return {"name": "lengths"}

        def encode(self, inputs: list[str]) -> np.ndarray:
            assert max(map(len, inputs)) - min(map(len, inputs)) < 60
            return np.array([[len(text), ord(text[0])] for text in inputs], dtype=np.float64)

    dataset = text_data(50)
    table = mmrec.encode(dataset, encoder=Lengths(), batch_size=4, shard_rows=10, show_progress=False)
    texts = pd.read_parquet(dataset / "items.parquet")["plot"]
    expected = [[len(text), ord(text[0])] if text else [0, 0] for text in texts]
    np.testing.assert_array_equal(table.vectors, np.array(expected, dtype=np.float32))


def test_finished_features_are_returned_at_once_and_never_mixed(text_data: Make, capsys: Any) -> None:
    dataset = text_data(30)
    mmrec.encode(dataset, encoder=NAME, name="x", show_progress=False)
    before = bits(dataset / "features" / "x")
    mmrec.encode(
        dataset, encoder=NAME, name="x", batch_size=5, show_progress=False
    )  # another cut, same content
    assert "already encoded" in capsys.readouterr().err
    assert bits(dataset / "features" / "x") == before
    with pytest.raises(FeatureError, match="--overwrite"):
        mmrec.encode(dataset, encoder=NAME, name="x", prompt="about ", show_progress=False)
    assert bits(dataset / "features" / "x") == before
    table = mmrec.encode(
        dataset, encoder=NAME, name="x", prompt="about ", overwrite=True, show_progress=False
    )
    assert table.manifest["encoder"]["prompt"] == "about "
    assert [path.name for path in (dataset / "features").iterdir()] == ["x"]


def test_features_written_by_other_means_are_not_replaced(text_data: Make) -> None:
    dataset = text_data(10)
    folder = dataset / "features" / "x"
    present = np.ones(10, dtype=bool)
    write_features(folder, "text", np.ones((10, 2), dtype=np.float32), present, {"encoder": "by hand"})
    with pytest.raises(FeatureError, match=r"made by by hand"):
        mmrec.encode(dataset, encoder=NAME, name="x", show_progress=False)
    (folder / "manifest.json").unlink()
    with pytest.raises(FeatureError, match="an unknown encoder"):
        mmrec.encode(dataset, encoder=NAME, name="x", show_progress=False)
    assert (folder / "vectors.npy").is_file()


class Stops(SlowEncoder):
    """Raises after so many batches."""

    def __init__(self, n_batches: int, error: BaseException) -> None:
        super().__init__(EncoderOptions())
        self._left, self._error = n_batches, error

    def encode(self, inputs: list[str]) -> np.ndarray:
        if not self._left:
            raise self._error
        self._left -= 1
        return super().encode(inputs)


def interrupt(dataset: Path, *, after: int = 5, **options: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        mmrec.encode(
            dataset,
            encoder=Stops(after, KeyboardInterrupt()),
            name="x",
            batch_size=4,
            shard_rows=8,
            show_progress=False,
            **options,
        )


def test_ctrl_c_keeps_what_is_done_and_says_so(text_data: Make, capsys: Any) -> None:
    dataset = text_data(50)
    interrupt(dataset)
    assert "2 of 6 shards are kept; the same command goes on" in capsys.readouterr().err
    assert Dataset(dataset).feature_names() == []
    options: dict[str, Any] = {"batch_size": 4, "shard_rows": 8, "show_progress": False}
    mmrec.encode(dataset, encoder=NAME, name="x", **options)
    assert "resuming: 2 of 6 shards" in capsys.readouterr().err
    mmrec.encode(dataset, encoder=NAME, name="whole", **options)
    resumed, whole = (dataset / "features" / name for name in ("x", "whole"))
    assert bits(resumed)[:2] == bits(whole)[:2]


@pytest.mark.parametrize("change", ["texts", "settings", "batches"])
def test_shards_of_another_plan_are_never_used(text_data: Make, capsys: Any, change: str) -> None:
    dataset = text_data(50)
    interrupt(dataset)
    options: dict[str, Any] = {"batch_size": 4, "shard_rows": 8, "show_progress": False}
    if change == "texts":
        items = pd.read_parquet(dataset / "items.parquet")
        items.loc[0, "plot"] = "another plot"
        write_dataset(dataset, items, {"plot": "text"})
    elif change == "settings":
        options["dtype"] = "float16"
    else:
        options["batch_size"] = 3
    table = mmrec.encode(dataset, encoder=NAME, name="x", **options)
    assert "starting anew" in capsys.readouterr().err
    fresh = mmrec.encode(dataset, encoder=NAME, name="fresh", **options)
    np.testing.assert_array_equal(table.vectors, fresh.vectors)


def test_a_damaged_shard_is_made_again(text_data: Make) -> None:
    dataset = text_data(50)
    interrupt(dataset)
    (dataset / "features" / ".partial-x" / "shard-000001.safetensors").write_bytes(b"\x00" * 50)
    options: dict[str, Any] = {"batch_size": 4, "shard_rows": 8, "show_progress": False}
    resumed = mmrec.encode(dataset, encoder=NAME, name="x", **options)
    whole = mmrec.encode(dataset, encoder=NAME, name="whole", **options)
    np.testing.assert_array_equal(resumed.vectors, whole.vectors)


def test_two_processes_do_not_work_on_the_same_features(text_data: Make) -> None:
    dataset = text_data(10)
    with (
        open_workplace(dataset / "features" / "x", {}),
        pytest.raises(FeatureError, match="no other process"),
    ):
        mmrec.encode(dataset, encoder=NAME, name="x", show_progress=False)
    mmrec.encode(dataset, encoder=NAME, name="x", show_progress=False)


def test_pictures_that_cannot_be_read_are_counted_and_masked(pictures: Path, capsys: Any) -> None:
    table = mmrec.encode(pictures, modality="image", encoder="histogram", batch_size=2, shard_rows=3)
    assert table.present.tolist() == [True, True, False, False, False, False, True, True]
    assert table.manifest["absent"] == {
        "items": 4,
        "no input": 1,
        "pictures": {"file missing": 1, "unreadable": 2},
        "examples": {"file missing": ["gone.png"], "unreadable": ["broken.png", "page.png"]},
    }
    said = capsys.readouterr().err
    assert "4 of 8 items have a vector of width 192 (1 no input, 1 file missing, 2 unreadable)" in said
    assert "pretrained --encoder" in said


def test_no_readable_picture_at_all(pictures: Path) -> None:
    for file in (pictures / "images").iterdir():
        file.unlink()
    with pytest.raises(FeatureError, match="none of 7 inputs: 7 file missing"):
        mmrec.encode(pictures, modality="image", encoder="histogram", show_progress=False)
    assert list((pictures / "features").iterdir()) == []


def test_joint_items_need_one_of_both(pictures: Path, tiny: Callable[[str], Path]) -> None:
    table = mmrec.encode(
        pictures, modality="joint", encoder=str(tiny("clip")), batch_size=3, shard_rows=4, show_progress=False
    )
    assert table.present.tolist() == [True, True, False, True, False, False, True, True]
    assert table.manifest["absent"]["pictures"] == {"file missing": 1, "unreadable": 2}
    assert table.dim == 8


@pytest.mark.parametrize(("modality", "kind"), [("text", "bert"), ("image", "vit"), ("joint", "siglip")])
def test_models_resume_to_the_same_bits(
    pictures: Path, tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, modality: Any, kind: str
) -> None:
    from mmrec.encode import shards

    options = {"encoder": str(tiny(kind)), "modality": modality, "batch_size": 1, "shard_rows": 2}
    options |= {"show_progress": False}
    mmrec.encode(pictures, name="whole", **options)
    write = shards.Workplace.write_shard

    def stop(self: Any, index: int, shard: Any) -> None:
        if index == 1:
            raise KeyboardInterrupt
        write(self, index, shard)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shards.Workplace, "write_shard", stop)
        mmrec.encode(pictures, name="resumed", **options)
    mmrec.encode(pictures, name="resumed", **options)
    resumed, whole = (pictures / "features" / name for name in ("resumed", "whole"))
    assert bits(resumed)[:2] == bits(whole)[:2]


def test_a_full_disk_leaves_whole_shards_only(text_data: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = text_data(50)
    options: dict[str, Any] = {"encoder": NAME, "batch_size": 4, "shard_rows": 8, "show_progress": False}
    write, fallocate = Path.write_bytes, os.posix_fallocate

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def full_at_shard_3(path: Path, data: bytes) -> int:
        if "shard-000003" in path.name:
            write(path, data[:100])
            full()
        return write(path, data)

    with monkeypatch.context() as patch, pytest.raises(DiskError, match="No space left"):
        patch.setattr(Path, "write_bytes", full_at_shard_3)
        mmrec.encode(dataset, name="x", **options)
    partial = dataset / "features" / ".partial-x"
    assert sorted(p.name for p in partial.glob("*shard*")) == [
        f"shard-00000{i}.safetensors" for i in range(3)
    ]
    with monkeypatch.context() as patch, pytest.raises(DiskError, match="run the same command again"):
        patch.setattr(os, "posix_fallocate", full)
        mmrec.encode(dataset, name="x", **options)
    assert not list(partial.glob("assembled/*"))
    assert Dataset(dataset).feature_names() == []
    assert os.posix_fallocate is fallocate
    resumed = mmrec.encode(dataset, name="x", **options)
    whole = mmrec.encode(dataset, name="whole", **options)
    np.testing.assert_array_equal(resumed.vectors, whole.vectors)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(text_data: Make) -> None:
    dataset = text_data(10)
    dataset.chmod(0o500)
    with pytest.raises(DiskError):
        mmrec.encode(dataset, encoder=NAME, show_progress=False)


class Wrong(SlowEncoder):
    def __init__(self, vectors: Any) -> None:
        super().__init__(EncoderOptions())
        self._vectors = vectors

    def encode(self, inputs: list[str]) -> np.ndarray:
        return np.asarray(self._vectors(len(inputs)))


def test_vectors_that_cannot_be_stored(text_data: Make) -> None:
    dataset = text_data(10)
    cases: list[tuple[Callable[[int], Any], str, str]] = [
        (lambda n: np.full((n, 3), np.nan), "float32", "NaN or infinity"),
        (lambda n: np.full((n, 3), 1e5), "float16", "finite numbers in float16"),
        (lambda n: np.zeros((n + 1, 3)), "float32", "an array"),
        (lambda n: np.zeros(n), "float32", "an array"),
        (lambda n: np.zeros((n, 3)), "float32", "at least one item with a vector"),
    ]
    for vectors, dtype, message in cases:
        with pytest.raises(FeatureError, match=message):
            mmrec.encode(dataset, encoder=Wrong(vectors), name="x", dtype=dtype, show_progress=False)
        assert Dataset(dataset).feature_names() == []


def test_float16_is_the_rounded_float32(text_data: Make) -> None:
    dataset = text_data(30)
    single = mmrec.encode(dataset, encoder=NAME, name="single", show_progress=False)
    half = mmrec.encode(dataset, encoder=NAME, name="half", dtype="float16", show_progress=False)
    assert half.vectors.dtype == np.float16
    np.testing.assert_array_equal(half.vectors, single.vectors.astype(np.float16))


def test_texts_that_are_cut_are_counted(text_data: Make, tiny: Callable[[str], Path], capsys: Any) -> None:
    table = mmrec.encode(text_data(40), encoder=str(tiny("bert")), max_length=8)
    texts = pd.read_parquet(text_data(40) / "items.parquet")["plot"]
    too_long = int((texts.str.split().str.len() + 2 > 8).sum())
    assert table.manifest["cut"] == too_long > 0
    assert f"{too_long} of 36 texts are longer than 8 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": "../x"}, ConfigError),
        ({"name": ".hidden"}, ConfigError),
        ({"name": "a/b"}, ConfigError),
        ({"batch_size": 0}, ConfigError),
        ({"shard_rows": 0}, ConfigError),
        ({"dtype": "float64"}, ConfigError),
        ({"modality": "smell"}, ConfigError),
        ({"encoder": "./no/such/model"}, FeatureError),
        ({"modality": "image"}, FeatureError),
        ({"fields": ["title"]}, FeatureError),
    ],
)
def test_options_that_cannot_be(text_data: Make, options: dict[str, Any], error: type[Exception]) -> None:
    dataset = text_data(10)
    with pytest.raises(error):
        mmrec.encode(dataset, **options)
    assert not (dataset / "features").exists()


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.json"):
        mmrec.encode(tmp_path)
