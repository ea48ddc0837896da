"""One YAML per experiment, validated into frozen models; a key nobody knows is an error."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mmrec.errors import ConfigError, did_you_mean
from mmrec.registry import model_class

M = TypeVar("M", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainConfig(_Frozen):
    """How to train."""

    epochs: int = Field(300, ge=1, description="most epochs")
    batch_size: int = Field(2048, ge=1, description="training pairs per step")
    lr: float = Field(1e-3, gt=0, description="learning rate")
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["constant", "exponential", "cosine"] = Field(
        "constant", description="of the learning rate"
    )
    lr_decay: float = Field(0.96, gt=0, le=1, description="factor per 50 epochs of the exponential schedule")
    warmup_epochs: int = Field(0, ge=0, description="epochs of linear warm-up")
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16 runs the forward pass in autocast"
    )
    device: str = Field("auto", description="auto, cpu or cuda")
    patience: int = Field(20, ge=1, description="validations without improvement before training stops")
    eval_every: int = Field(1, ge=1, description="epochs between validations")
    monitor: str = Field("recall@20", description="validation metric that chooses the best epoch")
    seed: int = Field(0, ge=0, description="of initial values, order, negatives and pruning")
    checkpoint_seconds: float = Field(30.0, ge=0, description="most work a crash can cost")


class EvaluateConfig(_Frozen):
    """How to evaluate."""

    ks: tuple[int, ...] = Field((10, 20), min_length=1, description="list lengths")
    mask: Literal["train", "train+valid"] = Field(
        "train", description="which of a user's items may not be recommended at test"
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
    params: dict[str, Any] = Field(default_factory=dict, description="hyper-parameters of the model")
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    def document(self) -> dict[str, Any]:
        """The config as plain JSON and YAML values."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The config as YAML."""
        return yaml.safe_dump(self.document(), sort_keys=False, allow_unicode=True)


def load_config(source: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read, merge with its parent, override and validate an experiment.

    Args:
        source: A YAML file, or the same content as a mapping.
        overrides: ``key.subkey=value`` strings, later ones win; values are YAML.

    Raises:
        ConfigError: Unreadable file, unknown key, wrong type, unknown model.
    """
    document = read_config(Path(source)) if isinstance(source, str | Path) else _copy(source)
    for override in overrides:
        _apply_override(document, override)
    config = validate(
        ExperimentConfig, document, where=str(source) if isinstance(source, str | Path) else "the config"
    )
    params = validate(model_class(config.model).config_type, config.params, where=f"params of {config.model}")
    return config.model_copy(update={"params": params.model_dump(mode="json")})


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
            owner = owner.model_fields[part].annotation
        known = list(owner.model_fields)
        return ConfigError(f"a known key in {where}", f"{key!r}", did_you_mean(path[-1], known))
    if first["type"] == "missing":
        return ConfigError(f"the key {key!r} in {where}", "nothing", f"add it, or use --set {key}=…")
    return ConfigError(f"{key}: {first['msg'].lower()}", f"{first['input']!r} in {where}", f"correct {key}")


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
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
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


def _apply_override(document: dict[str, Any], override: str) -> None:
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
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{part} to hold keys", repr(inner), f"set {part} itself")
        place = inner
    place[last] = value
