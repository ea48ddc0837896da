"""Compare rankers: each metric by the paired test that suits it, over the same rows in all runs.

- ``auc``: DeLong's test; the components of a model are averaged over its seeds.
- ``logloss`` and ``logloss_calibrated``: t-test of the losses of the rows, averaged over the seeds. There are so many
  rows that the mean loss is normal, and a bootstrap would find the same after minutes.

  Both sum over groups first, where rows have groups: what one user does is no independent rows.
- ``gauc`` and ``avgauc``: bootstrap over the groups with both labels, whose AUCs are averaged over the seeds; groups
  are far fewer than rows, and unequal.

Groups, or rows without groups, are taken as independent of each other. The rows of one run at a time are in memory, beside the
means of the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmrec.click_metrics import grouped_auc, probability_losses, row_losses
from mmrec.comparison import (
    Comparison,
    Difference,
    Row,
    check_resamples,
    check_slices,
    common_protocol,
    correct,
    find_row,
    group_runs,
    known_metrics,
)
from mmrec.delong import auc_components, delong_interval, delong_test
from mmrec.errors import DataError
from mmrec.results import RowResult
from mmrec.significance import Floats, Ids, PairedTest, paired_bootstrap, paired_t_test

if TYPE_CHECKING:
    import pandas as pd

DEFAULT_METRICS = ("auc", "gauc", "logloss")

_OVER_GROUPS = ("gauc", "avgauc")
_TESTED = ("auc", "logloss", "logloss_calibrated", *_OVER_GROUPS)

# Between a metric of the document and that of its rows, whose logits are float32. A probability in float32 that is
# nearly 1 says little of the loss of a row that was not clicked.
_TOLERANCE, _TOLERANCE_PROBABILITY = 1e-5, 1e-3


def compare_rows(
    results: Sequence[RowResult],
    metrics: Sequence[str] | None,
    baseline: str | None,
    slices: Sequence[str],
    resamples: int,
    generator: np.random.Generator,
    *,
    cost: bool,
    codes: bool,
) -> Comparison:
    """Compare evaluated runs of rankers; see :func:`mmrec.compare.compare`.

    Raises:
        DataError: The runs were evaluated under different protocols or on different rows, or the rows of a run are
            not those its metrics were measured on.
        ConfigError: Unknown metric, slice or baseline, or too few resamples.
    """
    shown = known_metrics(results, metrics, DEFAULT_METRICS, _TESTED)
    check_slices(results, slices)
    protocol = common_protocol(results)
    rows = group_runs(results)
    base = find_row(rows, baseline)
    tested = [metric for metric in shown if metric in _TESTED]
    others = [row for row in rows if row is not base]
    if any(metric in _OVER_GROUPS for metric in tested):
        check_resamples(resamples, len(others) * len(tested))
    same = _SameRows(base.results[0], tested, grouped=all("gauc" in result.metrics for result in results))
    reference = same.measure(base)
    interval = delong_interval(same.labels, reference["auc"], same.groups) if "auc" in tested else None
    differences = _test(same, reference, others, tested, resamples, generator)
    return Comparison(
        tuple(rows), tuple(shown), tuple(slices), base.label, differences, same.describe(resamples),
        results[0].split, "rows", results[0].n_rows, resamples, protocol, cost, codes, interval,
    )  # fmt: skip


def _test(
    same: _SameRows,
    reference: Mapping[str, Floats],
    others: Sequence[Row[RowResult]],
    metrics: Sequence[str],
    resamples: int,
    generator: np.random.Generator,
) -> dict[str, dict[str, Difference]]:
    """Difference of every other row to the baseline."""
    tests: dict[tuple[str, str], PairedTest] = {}
    over_groups: dict[str, list[Floats]] = {metric: [] for metric in metrics if metric in _OVER_GROUPS}
    for row in others:
        measured = same.measure(row)
        for metric in metrics:
            difference = measured[metric] - reference[metric]
            if metric in over_groups:  # tested below for all rows together, since the draws cost most
                over_groups[metric].append(difference)
            elif metric == "auc":
                tests[row.label, metric] = delong_test(same.labels, difference[:, None], same.groups)
            else:
                tests[row.label, metric] = paired_t_test(difference[:, None], same.groups)
    if not others or not metrics:
        return {}
    for metric, columns in over_groups.items():
        together = paired_bootstrap(np.stack(columns, axis=1), resamples, generator, same.weights[metric])
        tests |= {(row.label, metric): together.column(place) for place, row in enumerate(others)}
    order = [(row.label, metric) for row in others for metric in metrics]
    found: dict[str, dict[str, Difference]] = {row.label: {} for row in others}
    for (label, metric), corrected in zip(order, correct([tests[key] for key in order]), strict=True):
        found[label][metric] = corrected
    return found


class _SameRows:
    """The rows that all runs have to be evaluated on, and the metrics' parts of these rows and groups.

    Args:
        first: The run whose rows they are.
        metrics: Metrics to test.
        grouped: The rows of all runs have groups.

    Attributes:
        labels: ``(n,)``.
        groups: ``(n,)`` numbers from 0 on; None without groups.
        weights: By metric over groups ``(g,)`` weights of the groups with both labels.
    """

    def __init__(self, first: RowResult, metrics: Sequence[str], *, grouped: bool) -> None:
        self.metrics = metrics
        self._keys = first.table(["row", "label", *(["group"] if grouped else [])])
        self._run = first.run
        self.labels = self._keys["label"].to_numpy()
        self.groups: Ids | None = None
        self.weights: dict[str, NDArray[np.int64]] = {}
        if grouped:
            groups = self._keys["group"].to_numpy()
            self.groups = np.unique(groups, return_inverse=True)[1]
            usable = grouped_auc(self.labels, np.zeros(len(groups)), groups)
            self._n_groups = usable.n_groups
            if self._n_groups < 2:
                raise DataError(
                    "rows of at least 2 groups", f"1 group in {first.file}", "make the rows without a group"
                )
            self.weights = {"gauc": usable.rows, "avgauc": np.ones_like(usable.rows)}

    def measure(self, row: Row[RowResult]) -> dict[str, Floats]:
        """By metric ``(n,)``, or one value per group with both labels: means over the seeds."""
        means: dict[str, Floats] = {}
        for result in row.results:
            table = self._read(result)
            for metric in self.metrics:
                parts = self._parts(metric, table)
                self._check_value(result, metric, parts)
                means[metric] = means.get(metric, 0.0) + parts / len(row.results)
        return means

    def describe(self, resamples: int) -> str:
        """The tests of the metrics in words."""
        rows = f"{len(self.labels):,} rows{'' if self.groups is None else f' of {self._n_groups:,} groups'}"
        names = dict.fromkeys(self.metrics, f"paired t-test over {rows}")
        names["auc"] = f"DeLong's test over {rows}"
        if self.groups is not None:
            counted = f"the {len(self.weights['gauc']):,} of {self._n_groups:,} groups with both labels"
            names["avgauc"] = f"paired bootstrap over {counted}, {resamples:,} resamples"
            names["gauc"] = f"paired bootstrap over {counted}, weighted by rows, {resamples:,} resamples"
        alike: dict[str, list[str]] = {}
        for metric in self.metrics:
            alike.setdefault(names[metric], []).append(metric)
        tests = [f"{', '.join(metrics)}: {name}" for name, metrics in alike.items()]
        return "; ".join([*tests, f"{'rows' if self.groups is None else 'groups'} taken as independent"])

    def _read(self, result: RowResult) -> pd.DataFrame:
        columns = [*self._keys, "logit", *(["probability"] if "logloss_calibrated" in self.metrics else [])]
        table = result.table(columns)
        for key in self._keys:
            if not np.array_equal(self._keys[key].to_numpy(), table[key].to_numpy()):
                raise DataError(
                    f"the {len(self._keys):,} rows of {self._run} in the same order in every run",
                    f"another {key} in {result.run} ({len(table):,} rows)",
                    "compare runs of the same row dataset: only the same rows can be paired",
                )
        return table

    def _parts(self, metric: str, table: pd.DataFrame) -> Floats:
        logits = table["logit"].to_numpy()
        if metric in _OVER_GROUPS:
            return grouped_auc(self.labels, logits, table["group"].to_numpy()).aucs
        if metric == "auc":
            return auc_components(self.labels, logits)
        if metric == "logloss":
            return row_losses(self.labels, logits)
        return probability_losses(self.labels, table["probability"].to_numpy())

    def _check_value(self, result: RowResult, metric: str, parts: Floats) -> None:
        """The rows and the document must come from the same evaluation."""
        if metric in _OVER_GROUPS:
            value = float(np.average(parts, weights=self.weights[metric]))
        else:
            value = float(parts[self.labels == 1].mean() if metric == "auc" else parts.mean())
        tolerance = _TOLERANCE_PROBABILITY if metric == "logloss_calibrated" else _TOLERANCE
        if not abs(value - result.metrics[metric]) < tolerance:
            raise DataError(
                f"{metric} of {result.metrics[metric]:.6f}, as {result.split}.json says",
                f"{value:.6f} over the {len(self.labels):,} rows in {result.file}",
                f"mmrec evaluate {result.file.parent} --split {result.split}",
            )
