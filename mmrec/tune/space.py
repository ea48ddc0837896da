"""The ``search:`` section of an experiment's YAML: which values to try, how, and how often."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mmrec.errors import ConfigError, did_you_mean

TRIALS = 20  # where the config does not say
MOST_POINTS = 10_000  # of a grid
UNSEARCHABLE = {
    "train.monitor": "trials judged by different metrics cannot be compared",
    "train.seed": "the best of several seeds is luck: train the best config with several seeds instead",
}
Check = Callable[[type[BaseModel], Mapping[str, Any], str], BaseModel]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Dimension(_Frozen):
    """The values of one key: ``choices``, or all from ``low`` to ``high``."""

    choices: tuple[Any, ...] | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = Field(False, description="draw the logarithm evenly")

    def points(self) -> list[Any]:
        """All values in order.

        Raises:
            ValueError: There is no end to them.
        """
        if self.choices is not None:
            return list(self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return list(range(self.low, self.high + 1))
        raise ValueError("a range of real numbers has no points")

    def count(self) -> int | None:
        """Number of values, None if there is no end to them."""
        if self.choices is not None:
            return len(self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return self.high - self.low + 1
        return None

    def contains(self, value: Any) -> bool:
        """True if the search can draw the value."""
        if self.choices is not None:
            return any(same(value, choice) for choice in self.choices)
        assert self.low is not None
        assert self.high is not None
        return isinstance(value, int | float) and self.low <= value <= self.high


class SearchConfig(_Frozen):
    """How to search; ``mmrec tune`` alone reads it."""

    trials: int | None = Field(
        None, ge=1, description=f"settings to try, the config's own among them; {TRIALS}, or the whole grid"
    )
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    pruner: Literal["none", "median", "halving"] = Field("none", description="what ends a poor trial early")
    startup_trials: int = Field(4, ge=0, description="trials that end by themselves before median prunes")
    warmup_epochs: int = Field(5, ge=0, description="epochs of a trial before it can be pruned")
    seed: int = Field(0, ge=0, description="of the sampler")
    space: dict[str, Dimension] = Field(default_factory=dict, description="params.KEY or train.KEY: values")

    def size(self) -> int | None:
        """Number of settings, None if there is no end to them."""
        counts = [dimension.count() for dimension in self.space.values()]
        return None if None in counts else math.prod(count for count in counts if count is not None)


def same(first: Any, second: Any) -> bool:
    """Equal as settings: 1 and True are not."""
    return label(first) == label(second)


def label(value: Any) -> str:
    """A setting as text, which tells all values apart that YAML tells apart."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def settle(search: SearchConfig, sections: Mapping[str, BaseModel], check: Check) -> SearchConfig:
    """Check each key and value of the space against the settings it is to replace.

    Args:
        search: The section as it was read.
        sections: ``params`` and ``train`` of the experiment.
        check: :func:`mmrec.config.validate`.

    Returns:
        The section with all values as the settings hold them: ``1e-3``, which YAML takes for text, as a number.

    Raises:
        ConfigError: Unknown key, or values that are none for it.
    """
    space = {}
    for key, dimension in search.space.items():
        values = _settle_dimension(key, dimension, sections, check)
        if search.sampler == "grid" and values.count() is None:
            raise ConfigError(
                "choices or whole numbers for every key of a grid",
                f"search.space.{key} from {values.low} to {values.high}",
                "list choices, or set search.sampler to random or tpe",
            )
        space[key] = values
    settled = search.model_copy(update={"space": space})
    if search.sampler == "grid" and (settled.size() or 0) > MOST_POINTS:
        raise ConfigError(
            f"a grid of at most {MOST_POINTS:,} settings",
            f"{settled.size():,} in search.space",
            "remove choices, or set search.sampler to random or tpe",
        )
    return settled


def _settle_dimension(
    key: str, dimension: Dimension, sections: Mapping[str, BaseModel], check: Check
) -> Dimension:
    section, _, name = key.partition(".")
    known = [f"{part}.{field}" for part, model in sections.items() for field in type(model).model_fields]
    if key not in known:
        meant = next((full for full in known if full.partition(".")[2] == key), key)  # without its section
        raise ConfigError("a key of params or train in search.space", repr(key), did_you_mean(meant, known))
    if key in UNSEARCHABLE:
        raise ConfigError("a key to search in search.space", repr(key), f"remove it: {UNSEARCHABLE[key]}")
    model, where = sections[section], f"search.space.{key}"

    def settled(value: Any) -> Any:
        changed = check(type(model), model.model_dump(mode="json") | {name: value}, where)
        return changed.model_dump(mode="json")[name]

    if dimension.choices is not None:
        return _check_choices(where, dimension, [settled(value) for value in dimension.choices])
    _check_range(where, dimension)
    low, high = settled(dimension.low), settled(dimension.high)
    if isinstance(low, bool) or not isinstance(low, int | float) or not isinstance(high, int | float):
        raise ConfigError(f"choices in {where}, which is no number", f"low {low!r}", "list its choices")
    return dimension.model_copy(update={"low": low, "high": high})


def _check_choices(where: str, dimension: Dimension, values: list[Any]) -> Dimension:
    if not values:
        raise ConfigError(f"at least one choice in {where}", "none", "list the values to try")
    if dimension.low is not None or dimension.high is not None or dimension.log:
        raise ConfigError(
            f"either choices or low and high in {where}", "both", "remove the choices, or low, high and log"
        )
    twice = [value for place, value in enumerate(values) if any(same(value, old) for old in values[:place])]
    if twice:
        raise ConfigError(f"each choice once in {where}", f"{twice[0]!r} twice", "remove one")
    return dimension.model_copy(update={"choices": tuple(values)})


def _check_range(where: str, dimension: Dimension) -> None:
    low, high = dimension.low, dimension.high
    if low is None or high is None:
        lacking = "nothing" if low is None and high is None else "no low" if low is None else "no high"
        raise ConfigError(f"choices, or low and high, in {where}", lacking, "add the values to try")
    if low >= high:
        raise ConfigError(f"low below high in {where}", f"low {low}, high {high}", "correct one of them")
    if dimension.log and low <= 0:
        raise ConfigError(
            f"low above 0 in {where}, for its logarithm", f"low {low}", "raise low, or remove log: true"
        )
