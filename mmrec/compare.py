"""Compare finished evaluations: mean and spread over seeds, paired significance over users or rows.

Runs that differ in nothing but their seed form one row. A row's metric of a user is the mean over its seeds; its
difference to the baseline row is tested over users, who are the same in all rows. Rankers are tested over the rows
of their data instead: :mod:`mmrec.compare_rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmrec.callable_module import make_callable
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
from mmrec.errors import ConfigError, DataError
from mmrec.results import Result, RowResult, read_result
from mmrec.significance import Floats, paired_bootstrap

__all__ = [
    "Comparison",
    "Difference",
    "Result",
    "Row",
    "RowResult",
    "compare",
    "compare_results",
    "read_result",
]

make_callable(__name__, "mmrec.compare:compare")

DEFAULT_METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


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
    codes: bool = False,
) -> Comparison:
    """Compare evaluated run folders.

    Args:
        runs: Run folders; several seeds of one config form one row.
        metrics: Columns, by default recall and ndcg at 10 and 20 where all runs have them; of rankers auc, gauc and
            logloss.
        baseline: Label or run folder of the row that the others are tested against, by default the first run's.
        split: ``test`` or ``valid``.
        slices: Slices to show as well, for example ``items: cold``.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.
        cost: Show time and memory of the training as well.
        codes: Show the health of semantic IDs as well.

    Raises:
        NotFittedError: A run is not evaluated on this split.
        DataError: The runs were evaluated under different protocols, on different users or rows, or some of them are
            rankers and others are not.
        ConfigError: Unknown metric, slice or baseline, or too few resamples.
    """
    results = [read_result(run, split) for run in runs]
    return compare_results(
        results,
        metrics=metrics,
        baseline=baseline,
        slices=slices,
        resamples=resamples,
        seed=seed,
        cost=cost,
        codes=codes,
    )


def compare_results(
    results: Sequence[Result | RowResult],
    *,
    metrics: Sequence[str] | None = None,
    baseline: str | None = None,
    slices: Sequence[str] = (),
    resamples: int = 10_000,
    seed: int = 0,
    cost: bool = False,
    codes: bool = False,
) -> Comparison:
    """Compare results in memory; see :func:`compare`."""
    if not results:
        raise ConfigError("at least one evaluated run", "none", "name run folders: mmrec compare RUN RUN")
    generator = np.random.default_rng(seed)
    over_users = [result for result in results if isinstance(result, Result)]
    over_rows = [result for result in results if isinstance(result, RowResult)]
    if over_users and over_rows:
        raise DataError(
            "runs of rankers alone, or none of them",
            f"{over_rows[0].run} was evaluated on rows, {over_users[0].run} on users",
            "compare them apart: they have no metric in common",
        )
    if over_rows:
        from mmrec.compare_rows import compare_rows

        return compare_rows(
            over_rows, metrics, baseline, slices, resamples, generator, cost=cost, codes=codes
        )
    return _compare_users(over_users, metrics, baseline, slices, resamples, generator, cost=cost, codes=codes)


def _compare_users(
    results: Sequence[Result],
    metrics: Sequence[str] | None,
    baseline: str | None,
    slices: Sequence[str],
    resamples: int,
    generator: np.random.Generator,
    *,
    cost: bool,
    codes: bool,
) -> Comparison:
    per_user = [m for m in results[0].metrics if all(m in result.per_user.columns for result in results)]
    shown = known_metrics(results, metrics, DEFAULT_METRICS, per_user)
    check_slices(results, slices)
    protocol = common_protocol(results)
    _check_users(results)
    rows = group_runs(results)
    base = find_row(rows, baseline)
    tested = [metric for metric in shown if metric in per_user]
    n_users = len(results[0].per_user)
    return Comparison(
        tuple(rows), tuple(shown), tuple(slices), base.label, _test(rows, base, tested, resamples, generator),
        f"paired bootstrap over {n_users:,} users, {resamples:,} resamples", results[0].split, "users", n_users,
        resamples, protocol, cost, codes,
    )  # fmt: skip


def _test(
    rows: Sequence[Row[Result]],
    base: Row[Result],
    metrics: list[str],
    resamples: int,
    generator: np.random.Generator,
) -> dict[str, dict[str, Difference]]:
    """Difference of every other row to ``base``."""
    others = [row for row in rows if row is not base]
    if not others or not metrics:
        return {}
    check_resamples(resamples, len(others) * len(metrics))
    reference = _per_user(base, metrics)
    differences = np.hstack([_per_user(row, metrics) - reference for row in others])
    cells = iter(correct([paired_bootstrap(differences, resamples, generator)]))
    return {row.label: {metric: next(cells) for metric in metrics} for row in others}


def _per_user(row: Row[Result], metrics: Sequence[str]) -> Floats:
    """``(n_users, len(metrics))`` mean over the seeds, by ascending user."""
    blocks = [
        result.per_user.sort_values("user")[list(metrics)].to_numpy(dtype=np.float64)
        for result in row.results
    ]
    mean: Floats = np.mean(blocks, axis=0, dtype=np.float64)
    return mean


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
