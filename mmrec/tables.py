"""The formats of a comparison: Markdown, plain text, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mmrec.click_metrics import SMALLER_IS_BETTER
from mmrec.metrics import CATALOGUE_METRICS
from mmrec.significance import ALPHA

if TYPE_CHECKING:
    from mmrec.comparison import Comparison, Row

_LATEX = str.maketrans(
    {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
     "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"$<$", ">": r"$>$"}
)  # fmt: skip
_SYMBOLS = str.maketrans(
    {"±": r"$\pm$", "▲": r"$\uparrow$", "▼": r"$\downarrow$", "–": "--", "…": r"\dots{}"}
)
# Whether much novelty or little popularity is good depends on the purpose; the best bias is 1.
_WITHOUT_BEST = (*CATALOGUE_METRICS, "bias")
_CSV_NAMES = [
    "model",
    "slice",
    "n",
    "metric",
    "seeds",
    "mean",
    "sd",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
]


def markdown(comparison: Comparison) -> str:
    """Main table, slices and legend."""
    parts = [_markdown_table(*main_table(comparison, "**{}**"))]
    if comparison.slices:
        parts.append(_markdown_table(*slice_table(comparison, "**{}**")))
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in legend(comparison))]) + "\n"


def plain(comparison: Comparison) -> str:
    """The same tables and legend in aligned columns, for a terminal."""
    parts = [plain_table(*main_table(comparison, "{}*"))]
    if comparison.slices:
        parts.append(plain_table(*slice_table(comparison, "{}*")))
    return "\n\n".join([*parts, "\n".join(legend(comparison, best="*"))]) + "\n"


def latex(comparison: Comparison) -> str:
    """A table environment; the legend is its caption."""
    bold = "\\textbf{{{}}}"
    parts = [_latex_table(*main_table(comparison, bold))]
    if comparison.slices:
        parts.append(_latex_table(*slice_table(comparison, bold)))
    caption = " ".join(legend(comparison)).translate(_LATEX)
    lines = ["% needs \\usepackage{booktabs}", "\\begin{table}", "\\centering", "\n\n\\medskip\n".join(parts),
             f"\\caption{{{caption}}}", "\\end{table}"]  # fmt: skip
    return "\n".join(lines).translate(_SYMBOLS) + "\n"


def csv_lines(comparison: Comparison) -> str:
    """One line per model, slice (empty: all users or rows) and metric."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _CSV_NAMES, lineterminator="\n")
    writer.writeheader()
    for row in document(comparison)["rows"]:
        shown = [("", comparison.n, row["metrics"])]
        shown += [(name, entry["n"], entry["metrics"]) for name, entry in row["slices"].items()]
        for slice_name, n, metrics in shown:
            for metric, cell in metrics.items():
                difference = cell.get("difference") or {}
                writer.writerow(
                    {"model": row["label"], "slice": slice_name, "n": n, "metric": metric,
                     "seeds": len(row["seeds"]), "mean": cell["mean"], "sd": cell["sd"],
                     "difference": difference.get("mean"),
                     **{key: difference.get(key) for key in ("low", "high", "p", "p_holm")}}
                )  # fmt: skip
    return out.getvalue()


def document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON-able values; a single seed has no ``sd``, the baseline no ``difference``."""
    rows = []
    for row in comparison.rows:
        metrics: dict[str, Any] = {metric: _statistics(row, metric) for metric in comparison.metrics}
        for metric, difference in comparison.differences.get(row.label, {}).items():
            metrics[metric]["difference"] = asdict(difference)
        slices = {
            name: {
                "n": slice_size(row, name),
                "metrics": {metric: _statistics(row, metric, name) for metric in comparison.metrics},
            }
            for name in comparison.slices
        }
        runs = [result.run for result in row.results]
        rows.append(
            {
                "label": row.label,
                "seeds": row.seeds,
                "runs": runs,
                "metrics": metrics,
                "slices": slices,
                "codes": row.codes,
                "cost": row.cost,
            }
        )
    interval = comparison.baseline_auc
    return {
        "split": comparison.split,
        f"n_{comparison.unit}": comparison.n,
        "baseline": comparison.baseline,
        **({"baseline_auc": dict(zip(("mean", "low", "high"), interval, strict=True))} if interval else {}),
        "resamples": comparison.resamples,
        "comparisons": _family(comparison),
        "protocol": dict(comparison.protocol),
        "rows": rows,
    }


def legend(comparison: Comparison, *, best: str = "bold") -> list[str]:
    """What the numbers and marks mean (``best``: how the best value is marked), and how they were measured."""
    seeds = sorted({seed for row in comparison.rows for seed in row.seeds})
    spread = "mean ± standard deviation over seeds" if len(seeds) > 1 else "seed"
    lines = [f"Values: {spread} {', '.join(map(str, seeds))}; {best}: best of the column."]
    smaller = [metric for metric in comparison.metrics if metric in SMALLER_IS_BETTER]
    if smaller:
        lines.append(f"Smaller is better: {', '.join(smaller)}.")
    if _family(comparison):
        lines.append(
            f"▲/▼: better/worse than {comparison.baseline}; {comparison.tests}, "
            f"Holm-corrected p < {ALPHA} ({_family(comparison)} comparisons)."
        )
    if comparison.baseline_auc:
        value, low, high = comparison.baseline_auc
        lines.append(
            f"AUC of {comparison.baseline}: {value:.4f}, DeLong's 95 % interval {low:.4f} to {high:.4f} on "
            f"{comparison.n:,} {comparison.unit}: what they can resolve without pairing."
        )
    if comparison.cost:
        lines.append(
            "s/epoch: median seconds of a training epoch without validation (of the whole fit where there are no "
            "epochs), of the quickest seed; GiB: most memory of a training process."
        )
    if comparison.codes:
        lines.append(
            "codes in use: the least share of a level's codes; perplexity: how many codes it would be if all were used "
            "alike, mean of the levels; same codes: items with the codes of another one, before they were told apart; "
            "neighbours: share of an item's nearest that are so by what codes stand for."
        )
    if comparison.slices:
        lines.append(
            f"Slices: n is the number of {comparison.unit} that a slice concerns; differences are not tested."
        )
    stated = [f"{key.replace('_', ' ')} {_short(value)}" for key, value in comparison.protocol.items()]
    lines.append(
        f"Protocol: {'; '.join([f'{comparison.split} part', f'{comparison.n:,} {comparison.unit}', *stated])}."
    )
    return lines


def slice_size(row: Row[Any], name: str) -> int | None:
    """Number of users or rows, or of held-out pairs, in a slice."""
    entry = row.results[0].slices[name]
    size = entry.get("n_users", entry.get("n"))
    return None if size is None else int(size)


def main_table(comparison: Comparison, bold: str = "{}") -> tuple[list[str], list[list[str]]]:
    """Names of the columns, and the cells of each row; ``bold`` is put around the best value of a column."""
    lines = [
        [row.label, str(len(row.seeds)), *(_cell(comparison, row, m, None, bold) for m in comparison.metrics)]
        for row in comparison.rows
    ]
    names = ["model", "seeds", *comparison.metrics]
    if comparison.cost:
        names += ["s/epoch", "GiB"]
        for row, line in zip(comparison.rows, lines, strict=True):
            seconds, peak = row.cost["epoch_seconds"], row.cost["peak_bytes"]
            line += [
                "–" if seconds is None else f"{seconds:.2f}",
                "–" if peak is None else f"{peak / 2**30:.2f}",
            ]
    if comparison.codes:
        names += ["codes in use", "perplexity", "same codes", "neighbours"]
        for row, line in zip(comparison.rows, lines, strict=True):
            line += _health(row)
    return names, lines


def _health(row: Row[Any]) -> list[str]:
    """One cell for each of the columns; sources of codes in alphabetical order."""
    found = list(row.codes.values())
    cells = [
        [f"{one['in_use']:.0%}" for one in found],
        [f"{one['perplexity']:.0f} of {one['size']:.0f}" for one in found],
        [f"{one['colliding']:.1%}" for one in found],
        [f"{one['neighbourhood']:.1%}" for one in found],
    ]
    return [", ".join(cell) or "–" for cell in cells]


def slice_table(comparison: Comparison, bold: str = "{}") -> tuple[list[str], list[list[str]]]:
    """The same as :func:`main_table` for the slices."""
    lines = [
        [name, f"{slice_size(row, name) or 0:,}", row.label,
         *(_cell(comparison, row, m, name, bold) for m in comparison.metrics)]
        for name in comparison.slices
        for row in comparison.rows
    ]  # fmt: skip
    return ["slice", "n", "model", *comparison.metrics], lines


def _cell(comparison: Comparison, row: Row[Any], metric: str, slice_name: str | None, bold: str) -> str:
    values = row.values(metric, slice_name)
    if not values:
        return "–"
    text = f"{statistics.fmean(values):.4f}"
    everyone = [other.values(metric, slice_name) for other in comparison.rows]
    choose = min if metric in SMALLER_IS_BETTER else max
    best = f"{choose(statistics.fmean(other) for other in everyone if other):.4f}"
    if text == best and len(comparison.rows) > 1 and metric.partition("@")[0] not in _WITHOUT_BEST:
        text = bold.format(text)
    if len(values) > 1:
        text += f" ± {statistics.stdev(values):.4f}"
    difference = None if slice_name else comparison.differences.get(row.label, {}).get(metric)
    if difference and difference.significant:
        text += " ▲" if (difference.mean < 0) == (metric in SMALLER_IS_BETTER) else " ▼"
    return text


def _statistics(row: Row[Any], metric: str, slice_name: str | None = None) -> dict[str, Any]:
    values = row.values(metric, slice_name)
    return {
        "mean": statistics.fmean(values) if values else None,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
    }


def _family(comparison: Comparison) -> int:
    return sum(len(metrics) for metrics in comparison.differences.values())


def _short(value: Any) -> str:
    """A value of the protocol; of a content hash, enough to tell it from another."""
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return f"{text[:12]}…" if len(text) == 64 and text.isalnum() else text


def _markdown_table(names: list[str], lines: list[list[str]]) -> str:
    marks = [":--" if name in ("model", "slice") else "--:" for name in names]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
        for line in [names, marks, *lines]
    )


def plain_table(names: list[str], lines: list[list[str]]) -> str:
    """Columns padded to their widest cell; every cell is as wide as it is long."""
    rows = [names, *lines]
    widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
    padded = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(
        line.rstrip() for line in [padded[0], "-" * (sum(widths) + 2 * len(widths) - 2), *padded[1:]]
    )


def _latex_table(names: list[str], lines: list[list[str]]) -> str:
    is_text = [name in ("model", "slice") for name in names]
    columns = "".join("l" if text else "r" for text in is_text)
    body = [
        [cell.translate(_LATEX) if text else cell for text, cell in zip(is_text, line, strict=True)]
        for line in lines
    ]
    head = [name.translate(_LATEX) for name in names]
    texts = [f"{' & '.join(line)} \\\\" for line in [head, *body]]
    return "\n".join(
        [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", texts[0], "\\midrule", *texts[1:], "\\bottomrule",
         "\\end{tabular}"]
    )  # fmt: skip
