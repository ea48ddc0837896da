"""One YAML per experiment, validated into frozen models; a key nobody knows is an error."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mmrec.errors import ConfigError, did_you_mean
from mmrec.registry import MODELS, model_class
from mmrec.tune.space import SearchConfig, settle

if TYPE_CHECKING:
    from mmrec.data.dataset import Dataset
    from mmrec.data.rows.dataset import RowDataset

M = TypeVar("M", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TrainConfig(_Frozen):
    """How to train."""

    epochs: int = Field(300, ge=1, description="most epochs")
    batch_size: int = Field(2048, ge=1, description="training pairs, users or rows per step")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = Field(0.0, ge=0)
    embedding_decay: float = Field(
        0.0, ge=0, description="decoupled decay of embedding tables with sparse gradients"
    )
    schedule: Literal["constant", "exponential", "cosine", "plateau"] = Field(
        "constant", description="of the learning rate"
    )
    lr_decay: float = Field(
        0.96,
        gt=0,
        le=1,
        description="factor per 50 epochs of the exponential schedule, after each validation without a new best of plateau",
    )
    warmup_epochs: int = Field(0, ge=0, description="epochs of linear warm-up")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16 runs the forward pass in autocast"
    )
    device: str = Field("auto", description="auto, cpu or cuda")
    patience: int = Field(20, ge=1, description="validations without improvement before training stops")
    eval_every: int = Field(1, ge=1, description="epochs between validations")
    monitor: str = Field(
        "recall@20",
        description="validation metric that chooses the best epoch; auc unless set where rows are ranked",
    )
    seed: int = Field(0, ge=0, description="of initial values, order, negatives and pruning")
    checkpoint_seconds: float = Field(30.0, ge=0, description="most work a crash can cost")


class EvaluateConfig(_Frozen):
    """How to evaluate."""

    ks: tuple[int, ...] = Field((10, 20), min_length=1, description="list lengths")
    mask: Literal["train", "train+valid"] = Field(
        "train", description="which of a user's items may not be recommended at test"
    )
    history: Literal["train", "train+valid"] = Field(
        "train", description="which of a user's items a model of histories reads at test"
    )

    @field_validator("ks")
    @classmethod
    def _positive(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        if any(k < 1 for k in ks):
            raise ValueError("every k must be at least 1")
        return tuple(sorted(set(ks)))


class ExperimentConfig(_Frozen):
    """One experiment: which model, on which data, how."""

    model: str = Field(description="short name (mmrec models) or package.module:Class")
    data: str = Field(description="dataset folder")
    split: str = "default"
    features: dict[str, str] = Field(default_factory=dict, description="modality: name of a feature folder")
    codes: dict[str, str] = Field(default_factory=dict, description="source: name of a folder of codes")
    histories: Literal["real", "shuffled", "none"] = Field(
        "real", description="of rows: what is lost when every row gets another one's, or none"
    )
    params: dict[str, Any] = Field(default_factory=dict, description="hyper-parameters of the model")
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    search: SearchConfig = Field(SearchConfig(), exclude=True, description="what mmrec tune tries")

    def document(self, *, search: bool = False) -> dict[str, Any]:
        """The config as plain JSON and YAML values; the search section, no part of a run, only when asked for."""
        document = self.model_dump(mode="json")
        if not self.codes:  # most models have none, and their configs should not speak of it
            del document["codes"]
        if self.histories == "real":
            del document["histories"]
        if search and self.search != SearchConfig():
            document["search"] = self.search.model_dump(mode="json", exclude_none=True)
        return document

    def to_yaml(self, *, search: bool = False) -> str:
        """The config as YAML."""
        return yaml.safe_dump(self.document(search=search), sort_keys=False, allow_unicode=True)


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read, merge with its parent, override and validate an experiment.

    Args:
        source: A YAML file, or the same content as a mapping.
        overrides: ``key.subkey=value`` strings, later ones win; values are YAML.

    Raises:
        ConfigError: Unreadable file, unknown key, wrong type, unknown model.
    """
    if isinstance(source, str | Path):
        return _build(read_config(Path(source)), overrides, where=str(source))
    return _build(_copy(source), overrides, where="the config")


def _build(document: dict[str, Any], overrides: Sequence[str], where: str) -> ExperimentConfig:
    for override in overrides:
        apply_override(document, override)
    filled = {key: value for key, value in document.items() if value is not None}  # "params:" and no more
    if _ranks_rows(filled.get("model")):
        filled["train"] = {"monitor": "auc"} | _section(filled, "train")
    config = validate(ExperimentConfig, filled, where)
    params = validate(model_class(config.model).config_type, config.params, where=f"params of {config.model}")
    search = settle(config.search, {"params": params, "train": config.train}, validate)
    return config.model_copy(update={"params": params.model_dump(mode="json"), "search": search})


def _ranks_rows(model: Any) -> bool:
    """Whether a model is trained on rows with labels; what is no model is complained about later."""
    return isinstance(model, str) and bool(model_class(model).batches == "rows")


def resolve(
    config: str | Path | Mapping[str, Any] | ExperimentConfig,
    data: Dataset | RowDataset | str | Path | None = None,
    *,
    features: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
) -> ExperimentConfig:
    """The experiment that :func:`mmrec.train.train` runs with these arguments.

    Args:
        config: A YAML file, a mapping, a config, or the name of a model (then ``data`` is needed).
        data: A dataset or its folder, in place of the config's.
        features: Modality to feature name, in place of the config's.
        params: Hyper-parameters, over the config's.
        overrides: ``key.subkey=value`` strings, applied last.
        seed: In place of ``train.seed``.

    Raises:
        ConfigError: Wrong config.
    """
    document, where = _read_source(config, has_data=data is not None)
    if data is not None:
        document["data"] = str(data if isinstance(data, str | Path) else data.path)
    if features is not None:
        document["features"] = dict(features)
    if params is not None:
        document["params"] = _section(document, "params") | dict(params)
    if seed is not None:
        document["train"] = _section(document, "train") | {"seed": seed}
    return _build(document, overrides, where)


def _read_source(
    config: str | Path | Mapping[str, Any] | ExperimentConfig, *, has_data: bool
) -> tuple[dict[str, Any], str]:
    """The document, and what to call it in messages."""
    if isinstance(config, ExperimentConfig):
        return config.document(search=True), "the config"
    if isinstance(config, Mapping):
        return _copy(config), "the config"
    name, path = str(config), Path(config)
    if name in MODELS or ":" in name:
        if not has_data:
            raise ConfigError(
                "a dataset", f"the model name {name!r} alone", "add the dataset, or name a YAML file"
            )
        return {"model": name}, "the config"
    if not path.exists() and name == path.stem:  # neither folder nor suffix: meant as a name
        hint = did_you_mean(name, list(MODELS))
        raise ConfigError("a model name, package.module:Class or a YAML file", repr(name), hint)
    return read_config(path), name


def _section(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = document.get(name)
    if section is not None and not isinstance(section, Mapping):
        raise ConfigError(f"keys and values under {name}", repr(section), f"correct {name}")
    return dict(section or {})


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two documents, one ``key: old, now new`` each."""
    changes: list[str] = []
    for key in dict(old) | dict(new):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changes += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            changes.append(f"{prefix}{key}: {before!r}, now {after!r}")
    return changes


def validate(kind: type[M], values: Mapping[str, Any], where: str) -> M:
    """Build a pydantic model, turning its errors into one that names key, value and the nearest known key.

    Raises:
        ConfigError: Unknown key, missing key or wrong type.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _explain(kind, error, where) from None


def _explain(kind: type[BaseModel], error: ValidationError, where: str) -> ConfigError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "extra_forbidden":
        owner: Any = kind
        for part in path[:-1]:
            owner = _type_of(owner, part)
        known = [field.alias or name for name, field in getattr(owner, "model_fields", {}).items()]
        hint = did_you_mean(path[-1], known) if known else f"remove it: {where} has no keys"
        return ConfigError(f"a known key in {where}", f"{key!r}", hint)
    if first["type"] == "missing":
        return ConfigError(f"the key {key!r} in {where}", "nothing", f"add it, or use --set {key}=…")
    return ConfigError(f"{key}: {first['msg'].lower()}", f"{first['input']!r} in {where}", f"correct {key}")


def _type_of(owner: Any, part: str) -> Any:
    """The type of a model's key, of the entries of a list or of the values of a mapping."""
    if isinstance(owner, type) and issubclass(owner, BaseModel):
        fields = {field.alias or name: field for name, field in owner.model_fields.items()}
        return fields[part].annotation
    inner = [one for one in get_args(owner) if one not in (type(None), Ellipsis)]
    return inner[-1] if inner else owner


class _UniqueKeys(yaml.SafeLoader):
    """YAML without the silent loss of a key that is written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} twice", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        ConfigError: Missing, no YAML, no mapping, or a key twice.
    """
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except FileNotFoundError:
        raise ConfigError(
            "a config file", f"no file {path}", "check the path; configs/ has examples"
        ) from None
    except IsADirectoryError:
        raise ConfigError(
            "a config file",
            f"the folder {path}",
            "name the YAML file in it; a run is continued with --resume",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"YAML in {path}", " ".join(str(error).split()), "correct the file") from None
    if not isinstance(document, dict):
        raise ConfigError(
            f"keys and values in {path}", type(document).__name__, "see the configs in configs/"
        )
    return document


def read_config(path: Path, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read an experiment's YAML over that of its parent (``extends:``, relative to the file).

    Raises:
        ConfigError: Unreadable, or a circle of parents.
    """
    if path.resolve() in children:
        raise ConfigError("extends without a circle", f"{path} extends itself", "remove one extends:")
    document = read_yaml(path)
    parent = document.pop("extends", None)
    if parent is None:
        return document
    return _merge(read_config(path.parent / str(parent), (*children, path.resolve())), document)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _copy(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(item) if isinstance(item, Mapping) else item for key, item in value.items()}


def apply_override(document: dict[str, Any], override: str) -> None:
    """Put ``key.subkey=value`` into a document; the value is YAML.

    Raises:
        ConfigError: No such pair, no YAML, or a key below one that holds a value.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError("key.subkey=value", repr(override), "for example --set train.lr=0.01")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"a YAML value for {path}", f"{text!r}: {error}", "quote it") from None
    *parents, last = path.split(".")
    place = document
    for part in parents:
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise ConfigError(f"{part} to hold keys", repr(place), f"set {part} itself")
    place[last] = value
