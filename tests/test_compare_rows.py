"""Rankers side by side: run folders as an evaluation leaves them, the tests per metric, and refusals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from scipy.special import expit

from mmrec.click_metrics import click_metrics, grouped_auc, row_losses
from mmrec.compare import Comparison, compare
from mmrec.delong import auc_components, delong_covariance
from mmrec.errors import ConfigError, DataError, NotFittedError
from mmrec.significance import holm
from tests.test_compare import make_result, save

N = 3000
PROTOCOL = {"dataset": "clicks", "dataset_hash": "c" * 64, "split_hash": "s" * 64}

Make = Callable[..., Path]


def make_run(
    folder: Path,
    model: str,
    seed: int = 0,
    *,
    noise: float = 1.0,
    stretch: float = 1.0,
    groups: bool = True,
    protocol: dict[str, Any] | None = None,
    split: str = "test",
) -> Path:
    """A ranker's run: logits are the true ones with ``noise``, ``stretch`` times too large."""
    world = np.random.default_rng(1)
    true = world.normal(-0.5, 1.2, N)
    labels = (world.random(N) < expit(true)).astype(np.int8)
    users = np.minimum(world.integers(0, 150, N), world.integers(0, 200, N))
    own = true + noise * np.random.default_rng([seed, *model.encode()]).normal(size=N)
    logits = (stretch * own).astype(np.float32)
    table = pd.DataFrame({"row": np.arange(N), "label": labels, "group": users, "logit": logits})
    table["probability"] = expit(logits / stretch).astype(np.float32)
    metrics = click_metrics(labels, logits, users)
    calibrated = click_metrics(labels, logits / stretch)
    metrics |= {f"{name}_calibrated": calibrated[name] for name in ("logloss", "ece")}
    if not groups:
        table = table.drop(columns="group")
        del metrics["gauc"], metrics["avgauc"]
    path = folder / f"{model}-{seed}"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump({"model": model, "train": {"seed": seed}}))
    (path / "manifest.json").write_text(json.dumps({"cost": {"epoch_seconds": 2.0, "peak_bytes": 2**30}}))
    document = {"run": str(path), "model": model, "seed": seed, "split": split, "n_rows": N,
                "metrics": metrics, "protocol": {**PROTOCOL, **(protocol or {})}}  # fmt: skip
    (path / f"{split}.json").write_text(json.dumps(document))
    table.to_parquet(path / ("per_row.parquet" if split == "test" else f"per_row-{split}.parquet"))
    return path


def rows_of(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "per_row.parquet")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A baseline, a model that ranks better, one that ranks the same and predicts too boldly."""
    folder = tmp_path_factory.mktemp("rankers")
    fm = [make_run(folder, "fm", seed) for seed in (0, 1)]
    din = [make_run(folder, "din", seed, noise=0.4) for seed in (0, 1, 2)]
    return [*fm, *din, make_run(folder, "bold", noise=1.0, stretch=3.0)]


@pytest.fixture(scope="module")
def comparison(runs: list[Path]) -> Comparison:
    return compare(runs, resamples=2000)


# --- numbers -----------------------------------------------------------------------------------------------------


def test_rows_are_means_over_seeds(runs: list[Path], comparison: Comparison) -> None:
    assert comparison.metrics == ("auc", "gauc", "logloss")
    fm, din, bold = comparison.to_document()["rows"]
    assert [(row["label"], row["seeds"]) for row in (fm, din, bold)] == [
        ("fm", [0, 1]),
        ("din", [0, 1, 2]),
        ("bold", [0]),
    ]
    values = [json.loads((run / "test.json").read_text())["metrics"]["gauc"] for run in runs[2:5]]
    assert din["metrics"]["gauc"]["mean"] == pytest.approx(np.mean(values))
    assert din["metrics"]["gauc"]["sd"] == pytest.approx(np.std(values, ddof=1))


def test_differences_against_each_test_by_itself(runs: list[Path], comparison: Comparison) -> None:
    tables = [rows_of(run) for run in runs]
    labels, users = (tables[0][name].to_numpy() for name in ("label", "group"))
    found = comparison.differences

    def mean_difference(parts: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        every = [parts(table["logit"].to_numpy()) for table in tables]
        return np.mean(every[2:5], axis=0) - np.mean(every[:2], axis=0)

    components = mean_difference(lambda logits: auc_components(labels, logits))
    groups = np.unique(users, return_inverse=True)[1]
    error = math.sqrt(delong_covariance(labels, components[:, None], groups)[0, 0])
    assert found["din"]["auc"].mean == pytest.approx(components[labels == 1].mean())
    assert found["din"]["auc"].p == pytest.approx(2 * stats.norm.sf(components[labels == 1].mean() / error))

    losses = mean_difference(lambda logits: row_losses(labels, logits))
    assert found["din"]["logloss"].mean == pytest.approx(losses.mean())
    sums = pd.Series(losses - losses.mean()).groupby(users).sum()
    error = math.sqrt(len(sums) / (len(sums) - 1) * (sums**2).sum()) / N
    p = 2 * stats.t.sf(abs(losses.mean()) / error, len(sums) - 1)
    assert found["din"]["logloss"].p == pytest.approx(p)

    aucs = mean_difference(lambda logits: grouped_auc(labels, logits, users).aucs)
    sizes = grouped_auc(labels, users, users).rows
    ratio = np.average(aucs, weights=sizes)
    spread = np.sqrt(((sizes * (aucs - ratio)) ** 2).sum()) / sizes.sum()  # of a ratio, to the first order
    gauc = found["din"]["gauc"]
    assert gauc.mean == pytest.approx(ratio)
    assert (gauc.high - gauc.low) / 2 == pytest.approx(1.96 * spread, rel=0.1)

    order = [found[label][metric] for label in ("din", "bold") for metric in comparison.metrics]
    assert [d.p_holm for d in order] == pytest.approx(holm(np.array([d.p for d in order])))


def test_marks_follow_the_metric(comparison: Comparison) -> None:
    """Boldness leaves the order of the rows alone and costs likelihood."""
    differences = comparison.differences
    assert differences["din"]["auc"].significant
    assert differences["din"]["logloss"].mean < 0
    assert not differences["bold"]["auc"].significant
    assert differences["bold"]["logloss"].mean > 0
    fm, din, bold = (line.split(" | ") for line in comparison.to_markdown().splitlines()[2:5])
    assert all("**" in cell and cell.rstrip(" |").endswith("▲") for cell in din[2:])
    assert "▼" in bold[4]
    assert "▲" not in "".join(fm + bold)
    assert "**" not in "".join(fm + bold)


def test_bias_has_no_best_and_what_is_not_tested_no_mark(runs: list[Path]) -> None:
    chosen = compare(runs, metrics=["ece", "bias", "ece_calibrated", "logloss_calibrated"], resamples=100)
    assert {metric for row in chosen.differences.values() for metric in row} == {"logloss_calibrated"}
    _, din, bold = (line.split(" | ") for line in chosen.to_markdown().splitlines()[2:5])
    assert "**" in din[2]
    assert "**" not in "".join((din[3], bold[3], bold[2]))
    # calibrated, boldness costs nothing any more
    assert abs(chosen.differences["bold"]["logloss_calibrated"].mean) < 0.03
    untested = compare(runs, metrics=["ece"])
    assert untested.differences == {}
    assert "▲" not in untested.to_markdown()


# --- formats -----------------------------------------------------------------------------------------------------


def test_legend_names_tests_rows_and_resolution(runs: list[Path], comparison: Comparison) -> None:
    legend = comparison.to_markdown().split("\n\n")[1].splitlines()
    value, low, high = comparison.baseline_auc or (0, 0, 0)
    groups = grouped_auc(*(rows_of(runs[0])[name].to_numpy() for name in ("label", "logit", "group")))
    rows = f"3,000 rows of {groups.n_groups} groups"
    counted = f"the {len(groups.groups)} of {groups.n_groups} groups with both labels, weighted by rows"
    assert legend[:2] == [
        "- Values: mean ± standard deviation over seeds 0, 1, 2; bold: best of the column.",
        "- Smaller is better: logloss.",
    ]
    assert len(groups.groups) < groups.n_groups
    assert legend[2] == (
        f"- ▲/▼: better/worse than fm; auc: DeLong's test over {rows}; gauc: paired bootstrap over {counted}, "
        f"2,000 resamples; logloss: paired t-test over {rows}; groups taken as "
        "independent, Holm-corrected p < 0.05 (6 comparisons)."
    )
    assert legend[3] == (
        f"- AUC of fm: {value:.4f}, DeLong's 95 % interval {low:.4f} to {high:.4f} on 3,000 rows: "
        "what they can resolve without pairing."
    )
    assert legend[4].startswith(
        "- Protocol: test part; 3,000 rows; dataset clicks; dataset hash cccccccccccc…"
    )


def test_other_formats(comparison: Comparison) -> None:
    document = comparison.to_document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["n_rows"], document["comparisons"]) == (N, 6)
    assert "n_users" not in document
    assert (
        document["baseline_auc"]["low"] < document["baseline_auc"]["mean"] < document["baseline_auc"]["high"]
    )
    line = next(line for line in comparison.to_csv().splitlines() if line.startswith("din,,3000,logloss,3,"))
    assert float(line.split(",")[7]) == comparison.differences["din"]["logloss"].mean
    assert "\\textbf" in comparison.to_latex()
    assert "DeLong's 95 \\% interval" in comparison.to_latex()


def test_without_groups_and_on_validation(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, m, groups=m == "fm", split="valid") for m in ("fm", "din")]
    found = compare(runs, split="valid", cost=True)
    assert found.metrics == ("auc", "logloss")  # not all have gauc
    assert "rows taken as independent" in found.to_markdown()
    assert "| 2.00 | 1.00 |" in found.to_markdown()
    with pytest.raises(NotFittedError, match=r"no test\.json"):
        compare(runs)
    with pytest.raises(ConfigError, match="'gauc' in"):
        compare(runs, split="valid", metrics=["gauc"])


def test_one_run_shows_what_the_rows_can_resolve(runs: list[Path]) -> None:
    found = compare(runs[:1], resamples=100)
    assert found.differences == {}
    assert "DeLong's 95 % interval" in found.to_markdown()
    assert "▲" not in found.to_markdown()


# --- refusals ----------------------------------------------------------------------------------------------------


def test_rankers_and_retrievers_do_not_mix(runs: list[Path], tmp_path: Path) -> None:
    retriever = save(make_result("bpr"), tmp_path / "bpr")
    for pair in ([runs[0], retriever], [retriever, runs[0]]):
        with pytest.raises(DataError, match=r"fm-0 was evaluated on rows, .*bpr on users"):
            compare(pair)


def test_other_protocols_and_rows_are_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="differ in dataset_hash"):
        compare([runs[0], make_run(tmp_path, "other", protocol={"dataset_hash": "e" * 64})])
    for change, message in (
        (lambda t: t.assign(row=t["row"][::-1].to_numpy()), "another row in"),
        (lambda t: t.assign(group=t["group"] + 1), "another group in"),
        (lambda t: t.assign(label=1 - t["label"]), "another label in"),
        (lambda t: t.iloc[1:], "3,000 rows in .*\n   found: 2,999 rows"),
        (lambda t: t.drop(columns="logit"), "no logit"),
        (lambda t: t.assign(logit=-t["logit"]), r"auc of 0\.\d+, as test\.json says"),
        (lambda t: t.assign(logit=t["logit"] + 1), r"logloss of 0\.\d+, as test\.json says"),
    ):
        run = make_run(tmp_path / message[:9], "din")
        change(rows_of(run)).to_parquet(run / "per_row.parquet")
        with pytest.raises(DataError, match=message):
            compare([runs[0], run])
    (run / "per_row.parquet").unlink()
    with pytest.raises(NotFittedError, match=r"no per_row\.parquet"):
        compare([runs[0], run])


def test_one_group_is_no_sample(runs: list[Path], tmp_path: Path) -> None:
    alone = make_run(tmp_path, "fm")
    rows_of(alone).assign(group=1).to_parquet(alone / "per_row.parquet")
    with pytest.raises(DataError, match="at least 2 groups"):
        compare([alone], metrics=["logloss"])


def test_too_few_resamples_for_the_bootstrap_alone(runs: list[Path]) -> None:
    with pytest.raises(ConfigError, match="at least 240 resamples to find anything among 6"):
        compare(runs, resamples=239)
    assert compare(runs, metrics=["auc"], resamples=2).differences["din"]["auc"].significant
