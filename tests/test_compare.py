"""Rows, labels, significance and refusals of a comparison; reading run folders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import mmrec.compare
from mmrec.compare import compare_results
from mmrec.errors import ConfigError, DataError, NotFittedError
from mmrec.results import Result, read_result

N_USERS = 400
METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")
PROTOCOL = {
    "dataset": "toys",
    "dataset_hash": "d" * 64,
    "split_hash": "s" * 64,
    "mask": "train",
    "ks": [10, 20],
}


def make_result(
    label: str = "bpr",
    seed: int = 0,
    *,
    gain: float = 0.0,
    lucky: int = 0,
    protocol: dict[str, Any] | None = None,
    **config: Any,
) -> Result:
    """A run whose users have hits at random, ``gain`` more likely; ``lucky`` makes other users lucky."""
    generator = np.random.default_rng(lucky)
    easy = generator.random(N_USERS)
    noise = np.random.default_rng([lucky, seed]).random(N_USERS)
    columns = {m: ((easy < 0.3 + gain) & (noise < 0.9)) * (1.0 - 0.1 * i) for i, m in enumerate(METRICS)}
    per_user = pd.DataFrame({"user": np.arange(N_USERS) * 2, **columns})
    metrics = {m: float(per_user[m].mean()) for m in METRICS} | {"coverage@10": 0.5}
    full = {"model": label, "train": {"seed": seed, "lr": 0.001}, **config}
    slices = {"items: cold": {"n_users": 7, "metrics": {m: metrics[m] / 2 for m in METRICS}}}
    return Result(
        label, seed, f"runs/{label}-{seed}", metrics, per_user, slices, {**PROTOCOL, **(protocol or {})}, full
    )


def save(result: Result, folder: Path, split: str = "test") -> Path:
    """A run folder as training and evaluation leave it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(result.config)))
    document = {"run": str(folder), "split": split, "n_users": N_USERS, "metrics": result.metrics,
                "slices": result.slices, "protocol": result.protocol}  # fmt: skip
    (folder / f"{split}.json").write_text(json.dumps(document))
    result.per_user.to_parquet(
        folder / ("per_user.parquet" if split == "test" else f"per_user-{split}.parquet")
    )
    return folder


# --- rows --------------------------------------------------------------------------------------------------------


def test_seeds_form_one_row_with_mean_and_standard_deviation() -> None:
    runs = [make_result("bpr", seed) for seed in (0, 1, 2)] + [make_result("vbpr", 0, gain=0.2)]
    row, single = compare_results(runs).to_document()["rows"]
    values = [run.metrics["recall@20"] for run in runs[:3]]
    assert row["seeds"] == [0, 1, 2]
    assert row["metrics"]["recall@20"]["mean"] == pytest.approx(np.mean(values))
    assert row["metrics"]["recall@20"]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert single["metrics"]["recall@20"]["sd"] is None


def test_labels_append_what_differs_between_rows_of_one_model() -> None:
    runs = [
        make_result("bpr"),
        make_result("freedom", params={"dropout": 0.5, "dim": 64}, features={"text": "minilm"}),
        make_result("freedom", params={"dropout": 0.8, "dim": 64}, features={"text": "minilm"}),
        make_result("freedom", params={"dropout": 0.8, "dim": 64}, features={}),
    ]
    assert [row.label for row in compare_results(runs).rows] == [
        "bpr",
        "freedom (text=minilm, dropout=0.5)",
        "freedom (text=minilm, dropout=0.8)",
        "freedom (text=none, dropout=0.8)",
    ]


def test_histories_that_a_config_does_not_speak_of_are_real() -> None:
    runs = [make_result("din"), make_result("din", histories="none"), make_result("din", 1, histories="real")]
    rows = compare_results(runs).rows
    assert [(row.label, len(row.results)) for row in rows] == [
        ("din (histories=real)", 2),
        ("din (histories=none)", 1),
    ]


def test_names_and_places_do_not_make_another_model() -> None:
    here = make_result("bpr", 0, data="datasets/toys", run="a", evaluate={"ks": [10, 20]})
    there = make_result("bpr", 1, data="/elsewhere/toys", run="b", evaluate={"ks": [10, 20]})
    assert [row.label for row in compare_results([here, there]).rows] == ["bpr"]


def test_settings_of_one_name_keep_their_path() -> None:
    runs = [
        make_result("m", params={"a": {"dim": 1}, "b": {"dim": 1}}),
        make_result("m", params={"a": {"dim": 2}, "b": {"dim": 3}}),
    ]
    assert compare_results(runs).rows[0].label == "m (params.a.dim=1, params.b.dim=1)"


def test_a_run_named_twice_is_no_second_seed() -> None:
    with pytest.raises(DataError, match="seed 0 in both runs/bpr-0 and runs/bpr-0"):
        compare_results([make_result(), make_result()])


# --- significance ------------------------------------------------------------------------------------------------


def test_planted_differences_are_found_in_both_directions() -> None:
    runs = [
        make_result("bpr"),
        make_result("better", gain=0.15),
        make_result("worse", gain=-0.15),
        make_result("same"),
    ]
    comparison = compare_results(runs)
    assert set(comparison.differences) == {"better", "worse", "same"}
    better, worse, same = (comparison.differences[name]["recall@20"] for name in ("better", "worse", "same"))
    assert better.significant
    assert better.low > 0
    assert worse.significant
    assert worse.high < 0
    assert not same.significant
    assert same.p == 1
    assert better.mean == pytest.approx(runs[1].metrics["recall@20"] - runs[0].metrics["recall@20"])
    # 12 comparisons: the smallest possible p-value of 10,000 resamples, times 12
    assert better.p_holm == pytest.approx(12 * 2 / 10_001)


def test_pairing_matters() -> None:
    """A small gain on the same users is certain, the same gain with luck on other users is not."""
    base = make_result("bpr")
    paired = compare_results([base, make_result("paired", gain=0.05)]).differences["paired"]["recall@20"]
    other = make_result("other", lucky=3)
    moved = other.per_user.assign(
        **{m: np.roll(make_result("x", gain=0.05).per_user[m], 57) for m in METRICS}
    )
    unpaired = compare_results([base, replace(other, per_user=moved)]).differences["other"]["recall@20"]
    assert unpaired.mean == pytest.approx(paired.mean)
    assert paired.p < 0.01 < unpaired.p
    assert unpaired.high - unpaired.low > 2 * (paired.high - paired.low)


def test_rows_of_users_in_another_order_are_paired_by_user() -> None:
    base, better = make_result("bpr"), make_result("better", gain=0.1)
    shuffled = replace(better, per_user=better.per_user.sample(frac=1, random_state=0))
    expected = compare_results([base, better]).to_document()["rows"]
    assert compare_results([base, shuffled]).to_document()["rows"] == expected


def test_users_are_averaged_over_the_seeds() -> None:
    runs = [make_result("bpr", s) for s in (0, 1)] + [make_result("vbpr", s, gain=0.1) for s in (5, 6, 7)]
    comparison = compare_results(runs)
    means = [np.mean([r.metrics["ndcg@20"] for r in part]) for part in (runs[:2], runs[2:])]
    assert comparison.differences["vbpr"]["ndcg@20"].mean == pytest.approx(means[1] - means[0])


def test_baseline_by_label_by_run_and_misspelt() -> None:
    runs = [make_result("bpr"), make_result("freedom", gain=0.1)]
    assert compare_results(runs).baseline == "bpr"
    by_label = compare_results(runs, baseline="freedom")
    assert list(by_label.differences) == ["bpr"]
    assert by_label.differences["bpr"]["recall@10"].mean < 0
    assert compare_results(runs, baseline="runs/freedom-0/").baseline == "freedom"
    with pytest.raises(ConfigError, match="did you mean 'freedom'"):
        compare_results(runs, baseline="fredom")


def test_catalogue_metrics_are_shown_and_not_tested() -> None:
    comparison = compare_results([make_result("a"), make_result("b")], metrics=["coverage@10", "recall@10"])
    assert comparison.metrics == ("coverage@10", "recall@10")
    assert list(comparison.differences["b"]) == ["recall@10"]


def test_too_few_resamples_to_find_anything() -> None:
    runs = [make_result("a"), make_result("b")]
    with pytest.raises(ConfigError, match="at least 160 resamples to find anything among 4"):
        compare_results(runs, resamples=159)
    assert compare_results(runs, resamples=160).resamples == 160


def test_one_run_is_a_table_without_a_test() -> None:
    comparison = compare_results([make_result()])
    assert comparison.differences == {}
    assert "bootstrap" not in comparison.to_markdown()


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset_hash": "e" * 64}, "dataset_hash: d+ and e+"),
        ({"split_hash": "t" * 64}, "split_hash"),
        ({"mask": "train+valid"}, r"bpr-0 and runs/vbpr-0 differ in mask: train and train\+valid"),
        ({"ks": [5]}, r"ks: \[10, 20\] and \[5\]"),
        ({"candidates": "sampled"}, "candidates: none and sampled"),
    ],
)
def test_other_protocols_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        compare_results([make_result("bpr"), make_result("vbpr", protocol=change)])


def test_another_part_is_refused_and_another_name_or_features_are_not() -> None:
    base = make_result("bpr")
    with pytest.raises(DataError, match="evaluated on: test and valid"):
        compare_results([base, replace(make_result("vbpr"), split="valid")])
    renamed = make_result("vbpr", protocol={"dataset": "toys-copy", "features": {"text": "f" * 64}})
    assert len(compare_results([base, renamed]).rows) == 2


def test_other_users_are_refused() -> None:
    base, other = make_result("bpr"), make_result("vbpr")
    fewer = replace(other, per_user=other.per_user.iloc[3:])
    with pytest.raises(DataError, match="397 in runs/vbpr-0; 3 are in one of the two only"):
        compare_results([base, fewer])


def test_unknown_metric_slice_and_nothing() -> None:
    runs = [make_result("bpr")]
    with pytest.raises(ConfigError, match="did you mean 'recall@20'"):
        compare_results(runs, metrics=["recal@20"])
    with pytest.raises(ConfigError, match="did you mean 'items: cold'"):
        compare_results(runs, slices=["items: col"])
    with pytest.raises(ConfigError, match="at least one"):
        compare_results([])


# --- run folders -------------------------------------------------------------------------------------------------


def test_compare_reads_run_folders(tmp_path: Path) -> None:
    runs = [save(make_result("bpr", s), tmp_path / f"bpr-{s}") for s in (0, 1)]
    runs.append(save(make_result("vbpr", gain=0.1), tmp_path / "vbpr"))
    comparison = mmrec.compare.compare([runs[0], str(runs[1]), runs[2]], baseline=str(runs[2]))
    assert [(row.label, row.seeds) for row in comparison.rows] == [("bpr", [0, 1]), ("vbpr", [0])]
    assert comparison.baseline == "vbpr"
    assert comparison.protocol["mask"] == "train"
    assert comparison.metrics == METRICS


def test_the_module_is_the_verb(tmp_path: Path) -> None:
    run = save(make_result("bpr"), tmp_path / "bpr")
    module: Any = mmrec.compare
    assert module([run], metrics=["ndcg@10"]).to_document()["n_users"] == N_USERS


def test_another_split_has_its_own_files(tmp_path: Path) -> None:
    run = save(make_result("bpr"), tmp_path / "bpr", split="valid")
    assert mmrec.compare.compare([run], split="valid").split == "valid"
    with pytest.raises(NotFittedError, match=rf"do this: mmrec evaluate {run} --split test"):
        mmrec.compare.compare([run])


def test_missing_and_damaged_runs(tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match=r"config\.yaml"):
        read_result(tmp_path / "nowhere")
    run = save(make_result("bpr"), tmp_path / "bpr")
    (run / "config.yaml").write_text("model: bpr\n")
    with pytest.raises(DataError, match=r"train\.seed"):
        read_result(run)
    run = save(make_result("bpr"), tmp_path / "bpr")
    (run / "per_user.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="a Parquet table"):
        read_result(run)


def test_per_user_results_of_another_evaluation(tmp_path: Path) -> None:
    run = save(make_result("bpr"), tmp_path / "bpr")
    make_result("bpr", gain=0.3).per_user.to_parquet(run / "per_user.parquet")
    with pytest.raises(DataError, match=r"a mean of .* over the 400 rows per user"):
        read_result(run)
