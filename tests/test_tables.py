"""The four formats of a comparison, letter by letter."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd

from mmrec.compare import Comparison, compare_results
from mmrec.results import Result
from mmrec.tables import plain

PROTOCOL = {"dataset": "toys", "dataset_hash": "0123456789abcdef" * 4, "mask": "train", "ks": [10]}


def make_result(label: str, seed: int, share: float, cold: float | None = 0.0) -> Result:
    """``share`` of 1,000 users have their item found."""
    values = (np.arange(1000) < 1000 * share).astype(float)
    per_user = pd.DataFrame({"user": np.arange(1000), "recall@10": values})
    metrics = {"recall@10": float(values.mean()), "gini@10": 0.5 + share}
    slices = {"items: cold": {"n_users": 1234, "metrics": {} if cold is None else {"recall@10": cold}}}
    return Result(label, seed, f"runs/{label}-{seed}", metrics, per_user, slices, PROTOCOL)


def comparison(slices: tuple[str, ...] = ("items: cold",)) -> Comparison:
    results = [
        make_result("bpr", 0, 0.08, None),
        make_result("a_b|c", 0, 0.12, 0.01),
        make_result("a_b|c", 1, 0.14, 0.03),
        make_result("itemknn", 0, 0.05, 0.02),
    ]
    return compare_results(results, metrics=["recall@10", "gini@10"], slices=slices, resamples=2000)


def test_markdown() -> None:
    assert comparison().to_markdown() == (
        "| model | seeds | recall@10 | gini@10 |\n"
        "| :-- | --: | --: | --: |\n"
        "| bpr | 1 | 0.0800 | 0.5800 |\n"
        "| a_b\\|c | 2 | **0.1300** ± 0.0141 ▲ | 0.6300 ± 0.0141 |\n"
        "| itemknn | 1 | 0.0500 ▼ | 0.5500 |\n"
        "\n"
        "| slice | n | model | recall@10 | gini@10 |\n"
        "| :-- | --: | :-- | --: | --: |\n"
        "| items: cold | 1,234 | bpr | – | – |\n"
        "| items: cold | 1,234 | a_b\\|c | **0.0200** ± 0.0141 | – |\n"
        "| items: cold | 1,234 | itemknn | **0.0200** | – |\n"
        "\n"
        "- Values: mean ± standard deviation over seeds 0, 1; bold: best of the column.\n"
        "- ▲/▼: better/worse than bpr; paired bootstrap over 1,000 users, 2,000 resamples, "
        "Holm-corrected p < 0.05 (2 comparisons).\n"
        "- Slices: n is the number of users that a slice concerns; differences are not tested.\n"
        "- Protocol: test part; 1,000 users; dataset toys; dataset hash 0123456789ab…; mask train; ks 10.\n"
    )


def test_latex_escapes_names_and_draws_symbols() -> None:
    assert comparison(slices=()).to_latex() == (
        "% needs \\usepackage{booktabs}\n"
        "\\begin{table}\n"
        "\\centering\n"
        "\\begin{tabular}{lrrr}\n"
        "\\toprule\n"
        "model & seeds & recall@10 & gini@10 \\\\\n"
        "\\midrule\n"
        "bpr & 1 & 0.0800 & 0.5800 \\\\\n"
        "a\\_b|c & 2 & \\textbf{0.1300} $\\pm$ 0.0141 $\\uparrow$ & 0.6300 $\\pm$ 0.0141 \\\\\n"
        "itemknn & 1 & 0.0500 $\\downarrow$ & 0.5500 \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "\\caption{Values: mean $\\pm$ standard deviation over seeds 0, 1; bold: best of the column. "
        "$\\uparrow$/$\\downarrow$: better/worse than bpr; paired bootstrap over 1,000 users, 2,000 resamples, "
        "Holm-corrected p $<$ 0.05 (2 comparisons). Protocol: test part; 1,000 users; dataset toys; "
        "dataset hash 0123456789ab\\dots{}; mask train; ks 10.}\n"
        "\\end{table}\n"
    )


def test_latex_has_no_bare_special_character() -> None:
    name = r"50%_&_#1 {x} ~ ^ $ \ <y>"
    text = compare_results([make_result(name, 0, 0.1)]).to_latex()
    expected = r"50\%\_\&\_\#1 \{x\} \textasciitilde{} \textasciicircum{} \$ \textbackslash{} $<$y$>$ & 1"
    assert expected in text


def test_latex_of_slices_has_a_second_tabular() -> None:
    text = comparison().to_latex()
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 2
    assert "items: cold & 1,234 & bpr & -- & -- \\\\" in text


def test_csv_has_one_line_per_model_slice_and_metric() -> None:
    lines = list(csv.DictReader(io.StringIO(comparison().to_csv())))
    assert len(lines) == 3 * 2 * 2
    best = next(line for line in lines if line["model"] == "a_b|c" and line["slice"] == "")
    assert (best["n"], best["metric"], best["seeds"]) == ("1000", "recall@10", "2")
    assert float(best["mean"]) == 0.13
    assert abs(float(best["difference"]) - 0.05) < 1e-12
    assert 0 < float(best["p"]) <= float(best["p_holm"]) < 0.05
    base = next(line for line in lines if line["model"] == "bpr")
    assert (base["sd"], base["difference"], base["p"]) == ("", "", "")
    cold = next(line for line in lines if line["model"] == "itemknn" and line["slice"] == "items: cold")
    assert (cold["n"], cold["mean"]) == ("1234", "0.02")


def test_document_is_json() -> None:
    document = comparison().to_document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["comparisons"] == 2
    assert document["rows"][1]["runs"] == ["runs/a_b|c-0", "runs/a_b|c-1"]
    assert set(document["rows"][1]["metrics"]["recall@10"]["difference"]) == {
        "mean",
        "low",
        "high",
        "p",
        "p_holm",
    }
    assert "difference" not in document["rows"][0]["metrics"]["recall@10"]
    assert document["rows"][0]["slices"]["items: cold"]["metrics"]["recall@10"]["mean"] is None


def test_one_run_has_neither_best_nor_marks() -> None:
    text = compare_results([make_result("bpr", 3, 0.1)]).to_markdown()
    assert "**" not in text
    assert "▲" not in text
    assert "Values: seed 3;" in text


def test_plain_text_has_aligned_columns() -> None:
    text = plain(comparison())
    head, rule, *rows = text.split("\n\n")[0].splitlines()
    assert head == "model    seeds  recall@10           gini@10"
    assert set(rule) == {"-"}
    assert rows[1] == "a_b|c    2      0.1300* ± 0.0141 ▲  0.6300 ± 0.0141"
    assert {row.index("0.") for row in rows} == {head.index("recall@10")}
    assert "*: best of the column." in text
    assert "**" not in text


def test_plain_text_shows_slices_below() -> None:
    assert "items: cold  1,234  itemknn  0.0200*" in plain(comparison())
    assert "items: cold" not in plain(comparison(slices=()))


def test_health_of_codes_is_shown_when_asked_for() -> None:
    text = {"in_use": 0.991, "perplexity": 226.6, "size": 256, "colliding": 0.1977, "neighbourhood": 0.498}
    codes = {"text": {"name": "t", "hash": "h", "health": text}}
    behaviour = {**text, "colliding": 0.5}
    results = [
        replace(make_result("tiger", 0, 0.08), codes=codes),
        replace(make_result("mscgrec", 0, 0.08), codes={**codes, "behaviour": {"health": behaviour}}),
        make_result("sasrec", 0, 0.09),
        replace(make_result("old", 0, 0.05), codes={"text": {"name": "t", "hash": "h"}}),
    ]
    shown = compare_results(results, metrics=["recall@10"], resamples=200, codes=True)
    lines = shown.to_markdown().splitlines()
    assert lines[0].endswith("| recall@10 | codes in use | perplexity | same codes | neighbours |")
    assert lines[2].endswith("| 99% | 227 of 256 | 19.8% | 49.8% |")
    assert lines[3].endswith("| 99%, 99% | 227 of 256, 227 of 256 | 50.0%, 19.8% | 49.8%, 49.8% |")
    assert lines[4].endswith("| – | – | – | – |")
    assert lines[5].endswith("| – | – | – | – |")
    assert "the least share of a level's codes" in shown.to_markdown()
    assert shown.to_document()["rows"][0]["codes"] == {"text": text}


def test_cost_is_shown_when_asked_for() -> None:
    results = [
        replace(make_result("bpr", 0, 0.08), cost={"epoch_seconds": 1.0, "peak_bytes": 2**30}),
        replace(make_result("bpr", 1, 0.09), cost={"epoch_seconds": 2.0, "peak_bytes": 2**31}),
        make_result("itemknn", 0, 0.05),
    ]
    shown = compare_results(results, metrics=["recall@10"], resamples=200, cost=True)
    lines = shown.to_markdown().splitlines()
    assert lines[0] == "| model | seeds | recall@10 | s/epoch | GiB |"
    assert lines[2].endswith("| 1.00 | 2.00 |")  # other work only adds to the time
    assert lines[3].endswith("| – | – |")
    assert "of the quickest seed" in shown.to_markdown()
    costs = [row["cost"] for row in shown.to_document()["rows"]]
    assert costs == [
        {"epoch_seconds": 1.0, "peak_bytes": 2**31},
        {"epoch_seconds": None, "peak_bytes": None},
    ]
