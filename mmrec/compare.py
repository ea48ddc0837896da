"""Compare finished evaluations: mean and spread over seeds, paired significance over users.

Runs that differ in nothing but their seed form one row. A row's metric of a user is the mean over its seeds; its
difference to the baseline row is tested over users, who are the same in all rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmrec import tables
from mmrec.callable_module import make_callable
from mmrec.config import TrainConfig
from mmrec.errors import ConfigError, DataError, did_you_mean
from mmrec.files import content_hash
from mmrec.results import Result, read_result
from mmrec.significance import ALPHA, Floats, holm, paired_bootstrap

__all__ = ["Comparison", "Difference", "Result", "Row", "compare", "compare_results", "read_result"]

make_callable(__name__, "mmrec.compare:compare")

DEFAULT_METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")

# Config keys that make no other model: names, what the protocol of the evaluation states by content hash, the seed.
_NOT_MODEL = ("run", "name", "data", "split", "evaluate")
_NOT_TRAINING = ("train.seed", "train.checkpoint_seconds")
# What a run was made from, not how it was evaluated: may differ between comparable runs.
_NOT_PROTOCOL = ("features",)


@dataclass(frozen=True)
class Difference:
    """A row against the baseline in one metric.

    Attributes:
        mean: Row minus baseline, mean over users.
        low: Lower end of the 95 % interval.
        high: Its upper end.
        p: Two-sided p-value of the paired bootstrap.
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
class Row:
    """The runs of one model and config, one per seed."""

    label: str
    results: tuple[Result, ...]

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

    def cost(self, key: str) -> float | None:
        """Mean over the runs of an entry of their training's cost; None where no run has recorded it."""
        values = [result.cost[key] for result in self.results if result.cost.get(key) is not None]
        return float(np.mean(values)) if values else None

    def per_user(self, metrics: Sequence[str]) -> Floats:
        """``(n_users, len(metrics))`` mean over the seeds, by ascending user."""
        blocks = [
            result.per_user.sort_values("user")[list(metrics)].to_numpy(dtype=np.float64)
            for result in self.results
        ]
        mean: Floats = np.mean(blocks, axis=0, dtype=np.float64)
        return mean


@dataclass(frozen=True, eq=False)
class Comparison:
    """Rows side by side.

    Attributes:
        rows: In the order of the runs.
        metrics: Columns.
        slices: Slices to show below the main table.
        baseline: Label of the row that the others are tested against.
        differences: By label and metric; metrics without a value per user are not tested.
        split: ``test`` or ``valid``.
        n_users: Number of evaluated users.
        resamples: Number of bootstrap resamples.
        protocol: Common protocol of the evaluations, nested keys joined by dots.
        cost: Whether the tables show time and memory of the training.
    """

    rows: tuple[Row, ...]
    metrics: tuple[str, ...]
    slices: tuple[str, ...]
    baseline: str
    differences: Mapping[str, Mapping[str, Difference]]
    split: str
    n_users: int
    resamples: int
    protocol: Mapping[str, Any]
    cost: bool = False

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


def compare(
    runs: Sequence[str | Path],
    *,
    metrics: Sequence[str] | None = None,
    baseline: str | None = None,
    split: str = "test",
    slices: Sequence[str] = (),
    resamples: int = 10_000,
    seed: int = 0,
    cost: bool = False,
) -> Comparison:
    """Compare evaluated run folders.

    Args:
        runs: Run folders; several seeds of one config form one row.
        metrics: Columns, by default recall and ndcg at 10 and 20 where all runs have them.
        baseline: Label or run folder of the row that the others are tested against, by default the first run's.
        split: ``test`` or ``valid``.
        slices: Slices to show as well, for example ``items: cold``.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.
        cost: Show time and memory of the training as well.

    Raises:
        NotFittedError: A run is not evaluated on this split.
        DataError: The runs were evaluated under different protocols, or on different users.
        ConfigError: Unknown metric, slice or baseline, or too few resamples.
    """
    results = [read_result(run, split) for run in runs]
    return compare_results(
        results, metrics=metrics, baseline=baseline, slices=slices, resamples=resamples, seed=seed, cost=cost
    )


def compare_results(
    results: Sequence[Result],
    *,
    metrics: Sequence[str] | None = None,
    baseline: str | None = None,
    slices: Sequence[str] = (),
    resamples: int = 10_000,
    seed: int = 0,
    cost: bool = False,
) -> Comparison:
    """Compare results in memory; see :func:`compare`."""
    if not results:
        raise ConfigError("at least one evaluated run", "none", "name run folders: mmrec compare RUN RUN")
    shown = _known_metrics(results, metrics)
    _check_slices(results, slices)
    protocol = _common_protocol(results)
    _check_users(results)
    rows = _group(results)
    base = _find_row(rows, baseline)
    tested = [m for m in shown if all(m in result.per_user.columns for result in results)]
    differences = _test(rows, base, tested, resamples, np.random.default_rng(seed))
    return Comparison(
        tuple(rows), tuple(shown), tuple(slices), base.label, differences, results[0].split,
        len(results[0].per_user), resamples, protocol, cost,
    )  # fmt: skip


def _test(
    rows: Sequence[Row], base: Row, metrics: list[str], resamples: int, generator: np.random.Generator
) -> dict[str, dict[str, Difference]]:
    """Difference of every other row to ``base``; the family of Holm's correction is all of them."""
    others = [row for row in rows if row is not base]
    family = len(others) * len(metrics)
    if family == 0:
        return {}
    if resamples < 2 * family / ALPHA:
        raise ConfigError(
            f"at least {math.ceil(2 * family / ALPHA):,} resamples to find anything among {family} comparisons",
            f"{resamples:,}",
            "raise resamples, or show fewer metrics",
        )
    reference = base.per_user(metrics)
    test = paired_bootstrap(
        np.hstack([row.per_user(metrics) - reference for row in others]), resamples, generator
    )
    columns = np.stack([test.mean, test.low, test.high, test.p, holm(test.p)], axis=1).tolist()
    cells = iter(Difference(*column) for column in columns)
    return {row.label: {metric: next(cells) for metric in metrics} for row in others}


# --- rows --------------------------------------------------------------------------------------------------------


def _group(results: Sequence[Result]) -> list[Row]:
    """Results that differ in the seed alone form one row."""
    groups: dict[str, list[Result]] = {}
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
    defaults = _flatten({"train": TrainConfig().model_dump(mode="json")})  # older runs lack newer keys
    return {key: value for key, value in (defaults | _flatten(kept)).items() if key not in _NOT_TRAINING}


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        flat |= (
            _flatten(entry, f"{prefix}{key}.") if isinstance(entry, Mapping) else {f"{prefix}{key}": entry}
        )
    return flat


def _labels(firsts: Sequence[Result]) -> list[str]:
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


def _find_row(rows: Sequence[Row], baseline: str | None) -> Row:
    if baseline is None:
        return rows[0]
    for row in rows:
        if baseline == row.label or any(Path(baseline) == Path(result.run) for result in row.results):
            return row
    labels = [row.label for row in rows]
    raise ConfigError(f"a baseline among {', '.join(labels)}", repr(baseline), did_you_mean(baseline, labels))


# --- checks ------------------------------------------------------------------------------------------------------


def _known_metrics(results: Sequence[Result], metrics: Sequence[str] | None) -> list[str]:
    common = [m for m in results[0].metrics if all(m in result.metrics for result in results)]
    if metrics is None:
        shown = [metric for metric in DEFAULT_METRICS if metric in common]
        return shown or [metric for metric in common if metric in results[0].per_user.columns]
    for metric in metrics:
        for result in results:
            if metric not in result.metrics:
                known = list(result.metrics)
                raise ConfigError(
                    f"the metric {metric!r} in {result.run}", ", ".join(known), did_you_mean(metric, known)
                )
    return list(dict.fromkeys(metrics))


def _check_slices(results: Sequence[Result], slices: Sequence[str]) -> None:
    for name in slices:
        for result in results:
            if name not in result.slices:
                known = list(result.slices)
                hint = did_you_mean(name, known) if known else "compare without slices"
                raise ConfigError(
                    f"the slice {name!r} in {result.run}", ", ".join(known) or "no slices", hint
                )


def _common_protocol(results: Sequence[Result]) -> dict[str, Any]:
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


def _protocol(result: Result) -> dict[str, Any]:
    shown = {key: value for key, value in result.protocol.items() if key not in _NOT_PROTOCOL}
    if shown.get("history") == "train":  # what results from before there was a choice mean without saying
        del shown["history"]
    return _flatten(shown)


def _check_users(results: Sequence[Result]) -> None:
    first = np.sort(results[0].per_user["user"].to_numpy())
    for result in results:
        users = np.sort(result.per_user["user"].to_numpy())
        if not np.array_equal(first, users):
            others = len(np.setxor1d(first, users))
            raise DataError(
                f"the {len(first):,} evaluated users of {results[0].run} in every run",
                f"{len(users):,} in {result.run}; {others:,} are in one of the two only",
                "compare runs of the same data and split: only the same users can be paired",
            )
