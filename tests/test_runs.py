"""Run folders that are damaged, changed or belong to something else are refused with a way out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmrec.data.dataset import Dataset
from mmrec.data.split import split
from mmrec.encode.features import write_features
from mmrec.errors import ConfigError, DataError, MMRecError, NotFittedError
from mmrec.evaluate import evaluate
from mmrec.files import read_json, remove_leftovers
from mmrec.recommend import recommend
from mmrec.runs import BEST, LAST, Run, default_run_path, environment, load_tensors, save_tensors
from mmrec.train import resolve, train
from tests.small_shop import config_of, copy_shop
from tests.worlds import write_dataset


def damage(file: Path, how: str) -> None:
    content = bytearray(file.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "flipped":
        content[-100] ^= 1
    elif how == "empty":
        content = bytearray()
    else:
        content = bytearray(b"PK\x03\x04 this is another format" * 20)
    file.write_bytes(content)


DAMAGES = ["truncated", "flipped", "empty", "other format"]


# --- checkpoints -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_best_checkpoint_is_never_used(own_run: Run, how: str) -> None:
    damage(own_run.path / BEST, how)
    with pytest.raises(NotFittedError, match=r"best.safetensors was changed or damaged"):
        evaluate(own_run.path, "valid")
    own_run.update(checkpoint_sha256=None)  # as before the end of training
    with pytest.raises(NotFittedError, match=r"an intact checkpoint .*best.safetensors"):
        recommend(own_run.path, "user-0000")


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_last_checkpoint_is_not_resumed(own_run: Run, how: str) -> None:
    own_run.update(status="started")
    damage(own_run.path / LAST, how)
    before = (own_run.path / BEST).read_bytes()
    with pytest.raises(NotFittedError, match=r"an intact checkpoint .*last.safetensors") as caught:
        train(own_run.path, resume=True, show_progress=False)
    assert str(own_run.path) in caught.value.do
    assert (own_run.path / BEST).read_bytes() == before


def test_any_flipped_byte_is_noticed(tmp_path: Path) -> None:
    """Names, types, shapes, numbers, metadata: nothing in the file can change unseen."""
    tensors = {"a.weight": torch.arange(4.0), "b": torch.ones(2, 2, dtype=torch.int32)}
    file = tmp_path / "x.safetensors"
    save_tensors(file, tensors, {"epoch": 7})
    content = file.read_bytes()
    harmless = 0
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            read, metadata = load_tensors(file)
        except NotFittedError:
            continue
        harmless += 1  # spaces of the padding
        assert metadata == {"epoch": 7}
        assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert harmless < 8


def test_checkpoints_are_read_back_as_written(tmp_path: Path) -> None:
    tensors = {
        "bool": torch.tensor([True, False]),
        "half": torch.tensor([1.5, -2], dtype=torch.bfloat16),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 4),
        "view": torch.arange(12.0).reshape(3, 4).T,
    }
    for name in ("x", "y"):
        save_tensors(tmp_path / name, tensors, {"best": 0.1 + 0.2, "terms": ["bpr"]})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    read, metadata = load_tensors(tmp_path / "x")
    assert metadata == {"best": 0.1 + 0.2, "terms": ["bpr"]}
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_tensors_of_another_model_are_refused(own_run: Run) -> None:
    save_tensors(own_run.path / BEST, {"embeddings": torch.zeros(3, 8)}, {"epoch": 0})
    own_run.update(checkpoint_sha256=None)
    with pytest.raises(NotFittedError, match=r"tensors of BPR in .*\n.*size mismatch for embeddings"):
        evaluate(own_run.path, "valid")


def test_a_run_without_checkpoint_says_how_to_go_on(own_run: Run) -> None:
    shutil.rmtree(own_run.path / "checkpoint")
    with pytest.raises(NotFittedError, match=rf"mmrec train {own_run.path} --resume"):
        recommend(own_run.path, "user-0000")


# --- the folder --------------------------------------------------------------------------------------------------


def test_no_run_folder(tmp_path: Path) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(NotFittedError, match=r"none in .*\n.*mmrec train CONFIG --run"):
            Run(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSON in"),
        ("[]", "one without format, status"),
        ('{"format": 1}', "one without status, config_hash"),
    ],
)
def test_a_damaged_manifest(own_run: Run, content: str, message: str) -> None:
    (own_run.path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=message):
        Run(own_run.path)


def test_a_run_of_a_later_format(own_run: Run) -> None:
    own_run.update(format=2)
    with pytest.raises(DataError, match=r"format 1.*\n.*format 2\n.*with this version"):
        Run(own_run.path)


def test_an_edited_config_is_noticed(own_run: Run) -> None:
    file = own_run.path / "config.yaml"
    file.write_text(file.read_text().replace("lr: 0.05", "lr: 0.06"))
    with pytest.raises(DataError, match="changed since"):
        Run(own_run.path)
    file.unlink()
    with pytest.raises(ConfigError, match=r"no file .*config.yaml"):
        Run(own_run.path)


def test_odd_config_values_survive_the_file(small_shop: Dataset, tmp_path: Path) -> None:
    document = config_of(small_shop, epochs=1, lr=1.0000000000000002e-7, clip_norm=1e22)
    run = train(document, run=tmp_path / "läuft: #1", show_progress=False)
    assert Run(run.path).config == resolve(document)


# --- what belongs to the run -------------------------------------------------------------------------------------


def test_a_run_of_another_dataset(own_run: Run, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "other", {"user": [0, 1], "item": [0, 1]})
    with pytest.raises(DataError, match=r"the dataset toyshop .*\n.*other .*\n.*--data"):
        evaluate(own_run.path, "valid", data=other.path)
    with pytest.raises(DataError, match="the dataset toyshop"):
        recommend(own_run.path, "u0", data=other.path)
    with pytest.raises(DataError, match="the dataset toyshop"):
        train(own_run.path, other.path, resume=True)


def test_a_dataset_that_is_gone_or_changed(own_run: Run, small_shop: Dataset, tmp_path: Path) -> None:
    shop = copy_shop(small_shop, tmp_path / "shop")
    with pytest.raises(DataError, match="none in"):
        evaluate(own_run.path, "valid", data=tmp_path / "gone")
    table = shop.path / "interactions.parquet"
    table.write_bytes(table.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"interactions\.parquet was changed since"):
        evaluate(own_run.path, "valid", data=shop.path)


def test_a_split_made_anew(own_run: Run, small_shop: Dataset, tmp_path: Path) -> None:
    shop = copy_shop(small_shop, tmp_path / "shop")
    split(shop, "random", seed=99, overwrite=True)
    with pytest.raises(DataError, match=r"the split 'default' the run was trained on"):
        evaluate(own_run.path, "valid", data=shop.path)


def test_damaged_split_files(own_run: Run, small_shop: Dataset, tmp_path: Path) -> None:
    shop = copy_shop(small_shop, tmp_path / "shop")
    labels, manifest = shop.path / "splits" / "default.parquet", shop.path / "splits" / "default.json"
    shutil.copy(shop.path / "splits" / "loo.parquet", labels)
    with pytest.raises(DataError, match=r"default.parquet was changed or damaged"):
        shop.split()
    labels.write_bytes(labels.read_bytes()[:100])
    with pytest.raises(DataError, match="a Parquet table"):
        shop.split()
    manifest.unlink()  # a split without manifest was never finished
    assert shop.split_names() == ["loo"]
    with pytest.raises(DataError, match=rf"mmrec data split {shop.path} --name default"):
        evaluate(own_run.path, "valid", data=shop.path)


def test_features_made_anew(small_shop: Dataset, tmp_path: Path) -> None:
    shop = copy_shop(small_shop, tmp_path / "shop")
    features = {"features": {"text": "text-small"}}
    run = train(config_of(shop, "vbpr", epochs=1, **features), run=tmp_path / "run", show_progress=False)
    folder = shop.path / "features" / "text-small"
    shutil.rmtree(folder)
    vectors = np.ones((shop.n_items, 3), dtype=np.float32)
    write_features(folder, "text", vectors, np.ones(shop.n_items, dtype=bool), {})
    with pytest.raises(DataError, match=r"the features 'text-small' the run was trained on"):
        evaluate(run, "valid")
    (folder / "vectors.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(MMRecError, match=r"vectors\.npy"):
        evaluate(run, "valid")
    shutil.rmtree(folder)
    with pytest.raises(MMRecError, match=r"features 'text-small' in .*\n.*image-small"):
        evaluate(run, "valid")


# --- names and records -------------------------------------------------------------------------------------------


def test_default_folders_tell_configs_and_seeds_apart(small_shop: Dataset) -> None:
    def path(document: dict[str, Any]) -> Path:
        return default_run_path(resolve(document), small_shop)

    first = path(config_of(small_shop))
    assert first.parent == Path("runs/toyshop")
    assert first.name.startswith("bpr-")
    assert first.name.endswith("-seed0")
    assert path(config_of(small_shop, seed=4)).name == first.name.replace("seed0", "seed4")
    assert path(config_of(small_shop, lr=0.01)) != first
    assert path(config_of(small_shop, "tests.broken_models:Slow")).name.startswith("slow-")


def test_the_manifest_records_where_a_result_comes_from(small_run: Run, small_shop: Dataset) -> None:
    manifest = read_json(small_run.path / "manifest.json")
    assert manifest["dataset"]["hash"] == small_shop.hash
    assert manifest["split"]["hash"] == small_shop.split().hash
    assert manifest["environment"] == json.loads(json.dumps(environment()))
    assert manifest["status"] == "finished"
    assert "bpr on toyshop, finished" in repr(small_run)


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    import os
    import subprocess

    dead = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
    gone = tmp_path / f".last.safetensors.partial-{dead}"
    kept = [tmp_path / f".x.partial-{os.getpid()}", tmp_path / ".x.partial-mine", tmp_path / "x.partial-1"]
    for path in (gone, *kept):
        path.write_text("half")
    remove_leftovers(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
