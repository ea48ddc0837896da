"""Configs: what is misspelt, mistyped or twice there is an error that says what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mmrec.config import ExperimentConfig, TrainConfig, differences, load_config, read_config, resolve
from mmrec.data.dataset import Dataset
from mmrec.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MINIMAL: dict[str, Any] = {"model": "bpr", "data": "datasets/shop"}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# --- what is accepted --------------------------------------------------------------------------------------------


def test_defaults_are_filled_in_for_the_experiment_and_the_model() -> None:
    config = load_config(MINIMAL)
    assert config.train == TrainConfig()
    assert config.params == {"dim": 64, "reg": 0.001, "penalty": "norm"}
    assert config.evaluate.ks == (10, 20)


def test_numbers_in_any_notation(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-3 for a text; nobody who writes it means one."""
    text = "model: bpr\ndata: d\nparams: {reg: 1e-3}\ntrain: {lr: 5E-4, epochs: '100', clip_norm: '2'}\n"
    config = load_config(write(tmp_path / "c.yaml", text))
    assert config.params["reg"] == 0.001
    assert (config.train.lr, config.train.epochs, config.train.clip_norm) == (0.0005, 100, 2.0)


def test_a_section_without_content_keeps_its_defaults(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "model: bpr\ndata: d\nparams:\ntrain:\nfeatures:\n")
    assert load_config(file) == load_config(MINIMAL | {"data": "d"})
    assert load_config(file, ["train.lr=0.5", "params.dim=8"]).params["dim"] == 8
    assert resolve(file, params={"dim": 4}, seed=3).train.seed == 3


def test_ks_are_sorted_and_unique() -> None:
    assert load_config(MINIMAL | {"evaluate": {"ks": [20, 5, 20]}}).evaluate.ks == (5, 20)


def test_yaml_and_back() -> None:
    config = load_config(MINIMAL | {"params": {"reg": 1e-5}, "train": {"lr": 1e-7, "clip_norm": 1e10}})
    assert load_config(yaml.safe_load(config.to_yaml(search=True))) == config
    assert ExperimentConfig.model_validate(config.document()) == config


def test_configs_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        load_config(MINIMAL).train.lr = 3.0  # type: ignore[misc]


@pytest.mark.parametrize(
    "file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_every_config_of_the_project_is_valid(file: Path) -> None:
    """Those that others extend may leave the model open."""
    document = read_config(file)
    if "model" not in document:
        names = [yaml.safe_load(path.read_text()).get("extends") for path in file.parent.rglob("*.yaml")]
        assert any(name and Path(name).name == file.name for name in names), "neither complete nor a parent"
        document["model"] = "popularity"
    config = load_config(document)
    assert load_config(yaml.safe_load(config.to_yaml(search=True))) == config


def test_models_by_import_path() -> None:
    config = load_config({"model": "tests.broken_models:NaNLoss", "data": "d", "params": {"at_step": 9}})
    assert config.params == {"dim": 64, "reg": 0.001, "penalty": "norm", "at_step": 9, "value": "nan"}


# --- overrides ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.lr=1e-2", ("train", "lr"), 0.01),
        ("params.dim=32", ("params", "dim"), 32),
        ("data=a=b", ("data",), "a=b"),
        ("evaluate.ks=[1, 3]", ("evaluate", "ks"), [1, 3]),
        ("features={text: t, image: i}", ("features",), {"text": "t", "image": "i"}),
        ("features.text=minilm", ("features", "text"), "minilm"),
        ("train.clip_norm=null", ("train", "clip_norm"), None),
        ("train.clip_norm=", ("train", "clip_norm"), None),
    ],
)
def test_overrides(override: str, path: tuple[str, ...], value: Any) -> None:
    document: Any = load_config(MINIMAL, ["train.lr=9", override]).document()
    for key in path:
        document = document[key]
    assert document == value


def test_later_overrides_win_and_the_source_is_left_alone() -> None:
    source = MINIMAL | {"train": {"lr": 0.1}}
    assert load_config(source, ["train.lr=0.2", "train.lr=0.3"]).train.lr == 0.3
    assert source["train"] == {"lr": 0.1}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "key.subkey=value"),
        ("=3", "key.subkey=value"),
        ("model.name=x", "model to hold keys"),
        ("train.lr=[", "a YAML value for train.lr"),
        ("train.lrr=3", "did you mean 'lr'"),
        ("trains.lr=3", "did you mean 'train'"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(MINIMAL, [override])


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "key", "hint"),
    [
        ({"models": "x"}, "'models'", "did you mean 'model'"),
        ({"train": {"epoch": 3}}, "'train.epoch'", "did you mean 'epochs'"),
        ({"evaluate": {"k": [3]}}, "'evaluate.k'", "did you mean|choose one of: ks, mask"),
        ({"params": {"dimm": 3}}, "'dimm'", "did you mean 'dim'"),
        ({"params": {"xyzzy": 3}}, "'xyzzy'", "choose one of: dim, penalty, reg"),
        ({"model": "popularity", "params": {"dim": 3}}, "'dim'", "params of popularity has no keys"),
    ],
)
def test_unknown_keys_get_a_suggestion(change: dict[str, Any], key: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint) as caught:
        load_config(MINIMAL | change)
    assert caught.value.found == key
    assert "a known key in" in caught.value.expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train": {"epochs": "many"}},
            r"train.epochs: .*integer.*\n.*'many' in the config\n.*correct train.epochs",
        ),
        ({"train": {"epochs": 2.5}}, r"train.epochs: .*integer"),
        ({"train": {"epochs": 0}}, r"train.epochs: .*greater than or equal to 1"),
        ({"train": {"lr": float("inf")}}, r"train.lr: .*finite"),
        ({"train": {"optimizer": "sgd"}}, r"train.optimizer: .*'adam' or 'adamw'"),
        ({"train": 3}, r"train: .*"),
        ({"params": ["dim"]}, r"params: .*dictionary"),
        ({"params": {"dim": "wide"}}, r"dim: .*integer.*\n.*'wide' in params of bpr"),
        ({"params": {"reg": float("nan")}}, r"reg: .*\n.*nan in params of bpr"),
        ({"features": {"text": 3}}, r"features.text: .*string"),
        ({"evaluate": {"ks": []}}, r"evaluate.ks: .*at least 1 item"),
        ({"evaluate": {"ks": [0]}}, r"evaluate.ks: .*every k must be at least 1"),
        ({"evaluate": {"mask": "all"}}, r"evaluate.mask: .*'train' or 'train\+valid'"),
        ({"model": None}, r"the key 'model' in the config\n.*nothing\n.*--set model=…"),
        ({"model": "lightgcm"}, r"'lightgcm'\n.*did you mean 'lightgcn'"),
        ({"model": "no.such:Model"}, r"package.module:Class\n.*no.such"),
        ({"model": "tests.broken_models:Undeclared"}, r"without config_type, batches"),
    ],
)
def test_wrong_values_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(MINIMAL | change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: bpr\nmodel: vbpr\ndata: d\n", "the key 'model' twice"),
        ("model: bpr\ndata: d\ntrain: {lr: 1, epochs: 2, lr: 3}\n", "the key 'lr' twice"),
        ("model: [bpr\n", "YAML in"),
        ("- model\n- bpr\n", r"keys and values in .*\n.*list"),
        ("", r"keys and values in .*\n.*NoneType"),
        ("model: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("model: bpr\ndata: \xff\n", None),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, message: str | None) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message or "YAML in") as caught:
        load_config(file)
    assert "c.yaml" in str(caught.value)


def test_files_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file .*c.yaml"):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match=r"the folder .*\n.*--resume"):
        load_config(tmp_path)


# --- parents -----------------------------------------------------------------------------------------------------


def test_a_child_is_laid_over_its_parent(tmp_path: Path) -> None:
    write(tmp_path / "base" / "grand.yaml", "model: bpr\ndata: d\ntrain: {lr: 0.5, epochs: 7}\n")
    write(tmp_path / "base" / "parent.yaml", "extends: grand.yaml\ntrain: {lr: 0.25}\nparams: {dim: 8}\n")
    child = write(tmp_path / "child.yaml", "extends: base/parent.yaml\nparams: {reg: 0.5}\n")
    config = load_config(child)
    assert (config.train.lr, config.train.epochs) == (0.25, 7)
    assert (config.params["dim"], config.params["reg"]) == (8, 0.5)


def test_circles_of_parents(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "extends: b.yaml\n")
    write(tmp_path / "b.yaml", "extends: sub/../a.yaml\n")
    (tmp_path / "sub").mkdir()
    with pytest.raises(ConfigError, match="extends itself"):
        load_config(tmp_path / "a.yaml")


def test_a_parent_that_is_not_there(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "extends: nowhere.yaml\nmodel: bpr\n")
    with pytest.raises(ConfigError, match=r"no file .*nowhere.yaml"):
        load_config(file)


# --- resolve -----------------------------------------------------------------------------------------------------


def test_arguments_go_over_the_config(tmp_path: Path, small_shop: Dataset) -> None:
    file = write(tmp_path / "c.yaml", "model: bpr\ndata: d\nparams: {dim: 8, reg: 0.5}\ntrain: {seed: 1}\n")
    config = resolve(
        file, small_shop, features={"text": "t"}, params={"dim": 16}, seed=5, overrides=["params.reg=0.25"]
    )
    assert config.data == str(small_shop.path)
    assert config.features == {"text": "t"}
    assert (config.params["dim"], config.params["reg"], config.train.seed) == (16, 0.25, 5)
    assert resolve(config) == config


def test_a_model_name_is_a_config_with_data() -> None:
    assert resolve("bpr", "some/folder").data == "some/folder"
    with pytest.raises(ConfigError, match="a dataset"):
        resolve("bpr")
    with pytest.raises(ConfigError, match=r"'lightgcm'\n.*did you mean 'lightgcn'"):
        resolve("lightgcm", "some/folder")
    with pytest.raises(ConfigError, match=r"no file configs/nothing.yaml"):
        resolve("configs/nothing.yaml", "some/folder")


def test_messages_name_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.yaml", "model: bpr\ndata: d\nepochs: 3\n")
    with pytest.raises(ConfigError, match=r"a known key in .*mine.yaml"):
        resolve(file)
    with pytest.raises(ConfigError, match="keys and values under params"):
        resolve(write(file, "model: bpr\ndata: d\nparams: 3\n"), params={"dim": 3})


def test_differences() -> None:
    old = {"model": "bpr", "train": {"lr": 1, "seed": 0}, "gone": 1}
    new = {"model": "bpr", "train": {"lr": 2, "seed": 0}, "new": [1]}
    assert differences(old, new) == ["train.lr: 1, now 2", "gone: 1, now None", "new: None, now [1]"]
    assert differences(old, old) == []
