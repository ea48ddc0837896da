"""What a comparison is made of: runs that differ in their seed as one row, their differences, the finished table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from mmrec import tables
from mmrec.config import ExperimentConfig, TrainConfig
from mmrec.errors import ConfigError, DataError, did_you_mean
from mmrec.files import content_hash
from mmrec.results import Result, RowResult
from mmrec.significance import ALPHA, PairedTest, holm

R = TypeVar("R", Result, RowResult)

# Config keys that make no other model: names, what the protocol of the evaluation states by content hash, the seed.
_NOT_MODEL = ("run", "name", "data", "split", "evaluate")
_NOT_TRAINING = ("train.seed", "train.checkpoint_seconds")
# What a run was made from, not how it was evaluated: may differ between comparable runs.
_NOT_PROTOCOL = ("features",)


@dataclass(frozen=True)
class Difference:
    """A row against the baseline in one metric.

    Attributes:
        mean: Row minus baseline, mean over users or rows.
        low: Lower end of the 95 % interval.
        high: Its upper end.
        p: Two-sided p-value of the paired test.
        p_holm: The same after Holm's correction over all comparisons of the table.
    """

    mean: float
    low: float
    high: float
    p: float
    p_holm: float

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is below 0.05."""
        return self.p_holm < ALPHA


@dataclass(frozen=True, eq=False)
class Row(Generic[R]):
    """The runs of one model and config, one per seed."""

    label: str
    results: tuple[R, ...]

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs."""
        return [result.seed for result in self.results]

    def values(self, metric: str, slice_name: str | None = None) -> list[float]:
        """The metric in each run; empty where a slice has no value."""
        sources = [
            result.metrics if slice_name is None else result.slices[slice_name]["metrics"]
            for result in self.results
        ]
        return [float(source[metric]) for source in sources if source.get(metric) is not None]

    @property
    def cost(self) -> dict[str, float | None]:
        """``epoch_seconds`` of the quickest run and ``peak_bytes`` of the largest; None where no run has recorded it.

        Whatever else a machine does only adds to the time of a run: the quickest one is the least disturbed.
        """
        recorded = {
            key: [float(result.cost[key]) for result in self.results if result.cost.get(key) is not None]
            for key in ("epoch_seconds", "peak_bytes")
        }
        return {
            "epoch_seconds": min(recorded["epoch_seconds"], default=None),
            "peak_bytes": max(recorded["peak_bytes"], default=None),
        }

    @property
    def codes(self) -> dict[str, Mapping[str, float]]:
        """Health of the semantic IDs by source, of the first run that has recorded it."""
        found = [result.codes for result in self.results if result.codes]
        entries = found[0] if found else {}
        return {name: entry["health"] for name, entry in sorted(entries.items()) if "health" in entry}


@dataclass(frozen=True, eq=False)
class Comparison:
    """Rows side by side.

    Attributes:
        rows: In the order of the runs.
        metrics: Columns.
        slices: Slices to show below the main table.
        baseline: Label of the row that the others are tested against.
        differences: By label and metric; metrics without a value per user, row or group are not tested.
        tests: Names of the tests, for the legend.
        split: ``test`` or ``valid``.
        unit: What was evaluated: ``users`` of retrievers, ``rows`` of rankers.
        n: Number of evaluated users or rows.
        resamples: Number of bootstrap resamples.
        protocol: Common protocol of the evaluations, nested keys joined by dots.
        cost: Whether the tables show time and memory of the training.
        codes: Whether they show the health of semantic IDs.
        baseline_auc: AUC of a baseline that ranks rows, and its 95 % interval ``(value, low, high)``.
    """

    rows: tuple[Row[Any], ...]
    metrics: tuple[str, ...]
    slices: tuple[str, ...]
    baseline: str
    differences: Mapping[str, Mapping[str, Difference]]
    tests: str
    split: str
    unit: Literal["users", "rows"]
    n: int
    resamples: int
    protocol: Mapping[str, Any]
    cost: bool = False
    codes: bool = False
    baseline_auc: tuple[float, float, float] | None = None

    def to_markdown(self) -> str:
        """Tables for a README or a pull request, with a legend that states the test and the protocol."""
        return tables.markdown(self)

    def to_latex(self) -> str:
        """A ``table`` environment in the style of the booktabs package."""
        return tables.latex(self)

    def to_csv(self) -> str:
        """One line per model, slice and metric, all digits."""
        return tables.csv_lines(self)

    def to_document(self) -> dict[str, Any]:
        """Everything as one JSON document."""
        return tables.document(self)


# --- tests -------------------------------------------------------------------------------------------------------


def check_resamples(resamples: int, comparisons: int) -> None:
    """Refuse a bootstrap whose smallest p-value Holm's correction would raise above the level.

    Raises:
        ConfigError: Too few resamples.
    """
    least = math.ceil(2 * comparisons / ALPHA)
    if resamples < least:
        raise ConfigError(
            f"at least {least:,} resamples to find anything among {comparisons} comparisons",
            f"{resamples:,}",
            "raise resamples, or show fewer metrics",
        )


def correct(tests: Sequence[PairedTest]) -> list[Difference]:
    """All columns of the tests in their order; the family of Holm's correction is all of them."""
    columns = [
        np.concatenate([getattr(test, name) for test in tests]) for name in ("mean", "low", "high", "p")
    ]
    return [Difference(*cells) for cells in np.stack([*columns, holm(columns[-1])], axis=1).tolist()]


# --- rows --------------------------------------------------------------------------------------------------------


def group_runs(results: Sequence[R]) -> list[Row[R]]:
    """Results that differ in the seed alone form one row.

    Raises:
        DataError: A seed twice in a row.
    """
    groups: dict[str, list[R]] = {}
    for result in results:
        groups.setdefault(content_hash([result.label, _settings(result.config)]), []).append(result)
    for group in groups.values():
        seen: dict[int, str] = {}
        for result in group:
            if result.seed in seen:
                raise DataError(
                    "runs of one config with different seeds",
                    f"seed {result.seed} in both {seen[result.seed]} and {result.run}",
                    "name each run once; the same seed twice says nothing about the spread",
                )
            seen[result.seed] = result.run
    labels = _labels([group[0] for group in groups.values()])
    return [Row(label, tuple(group)) for label, group in zip(labels, groups.values(), strict=True)]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes the model: the config, flat, without names and seed."""
    kept = {key: value for key, value in config.items() if key not in _NOT_MODEL}
    # What a config need not say, and what those of older runs could not yet.
    defaults = {"histories": ExperimentConfig.model_fields["histories"].default}
    defaults |= _flatten({"train": TrainConfig().model_dump(mode="json")})
    return {key: value for key, value in (defaults | _flatten(kept)).items() if key not in _NOT_TRAINING}


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= (
            _flatten(entry, f"{prefix}{key}.") if isinstance(entry, Mapping) else {f"{prefix}{key}": entry}
        )
    return flat


def _labels(firsts: Sequence[R]) -> list[str]:
    """Model names; where two rows share one, followed by the settings that differ between them."""
    names = []
    for result in firsts:
        alike = [_settings(other.config) for other in firsts if other.label == result.label]
        keys = sorted({key for settings in alike for key in settings})
        differing = [key for key in keys if len({_show(settings.get(key)) for settings in alike}) > 1]
        leaves = [key.rpartition(".")[2] for key in differing]
        own = _settings(result.config)
        parts = [
            f"{leaf if leaves.count(leaf) == 1 else key}={_show(own.get(key))}"
            for key, leaf in zip(differing, leaves, strict=True)
        ]
        names.append(f"{result.label} ({', '.join(parts)})" if parts else result.label)
    return names


def _show(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def find_row(rows: Sequence[Row[R]], baseline: str | None) -> Row[R]:
    """The row of a label or a run folder; the first one if None.

    Raises:
        ConfigError: There is none.
    """
    if baseline is None:
        return rows[0]
    for row in rows:
        if baseline == row.label or any(Path(baseline) == Path(result.run) for result in row.results):
            return row
    labels = [row.label for row in rows]
    raise ConfigError(f"a baseline among {', '.join(labels)}", repr(baseline), did_you_mean(baseline, labels))


# --- checks ------------------------------------------------------------------------------------------------------


def known_metrics(
    results: Sequence[R], metrics: Sequence[str] | None, default: Sequence[str], testable: Sequence[str]
) -> list[str]:
    """The columns to show: those asked for, else the default ones (else the testable ones) that all runs have.

    Raises:
        ConfigError: A run lacks a metric that was asked for.
    """
    if metrics is None:
        common = [m for m in results[0].metrics if all(m in result.metrics for result in results)]
        return [m for m in default if m in common] or [m for m in common if m in testable]
    for metric in metrics:
        for result in results:
            if metric not in result.metrics:
                known = list(result.metrics)
                raise ConfigError(
                    f"the metric {metric!r} in {result.run}", ", ".join(known), did_you_mean(metric, known)
                )
    return list(dict.fromkeys(metrics))


def check_slices(results: Sequence[R], slices: Sequence[str]) -> None:
    """Refuse slices that a run lacks.

    Raises:
        ConfigError: Unknown slice.
    """
    for name in slices:
        for result in results:
            if name not in result.slices:
                known = list(result.slices)
                hint = did_you_mean(name, known) if known else "compare without slices"
                raise ConfigError(
                    f"the slice {name!r} in {result.run}", ", ".join(known) or "no slices", hint
                )


def common_protocol(results: Sequence[R]) -> dict[str, Any]:
    """The protocol of all runs, nested keys joined by dots.

    Raises:
        DataError: The runs were evaluated under different ones.
    """
    first = results[0]
    flat = [{"evaluated on": result.split, **_protocol(result)} for result in results]
    names = {key for key in flat[0] if f"{key}_hash" in flat[0]}  # only a name: the content decides
    for result, other in zip(results, flat, strict=True):
        keys = [key for key in {**flat[0], **other} if flat[0].get(key) != other.get(key)]
        fields = [
            f"{key}: {_show(flat[0].get(key))} and {_show(other.get(key))}"
            for key in keys
            if key not in names
        ]
        if fields:
            raise DataError(
                "runs evaluated under one protocol (data, split, mask, candidates)",
                f"{first.run} and {result.run} differ in {'; '.join(fields)}",
                "compare runs of the same data and split, evaluated with the same options",
            )
    return _protocol(first)


def _protocol(result: Result | RowResult) -> dict[str, Any]:
    shown = {key: value for key, value in result.protocol.items() if key not in _NOT_PROTOCOL}
    if shown.get("history") == "train":  # what results from before there was a choice mean without saying
        del shown["history"]
    return _flatten(shown)
