"""A reliability diagram: predicted against observed clicks, before and after calibration."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from mmrec.calibrate import Calibration
from mmrec.click_metrics import BINS, reliability
from mmrec.errors import ConfigError
from mmrec.files import atomic_path
from mmrec.progress import note
from mmrec.results import RowResult, read_result
from mmrec.significance import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"raw": "#e07a5f", "calibrated": "#2a6f97"}
MARKS = {"raw": "x", "calibrated": "o"}
METADATA: dict[str, dict[str, Any]] = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}


def reliability_plot(
    path: Path,
    labels: NDArray[Any],
    logits: NDArray[Any],
    calibration: Calibration | None = None,
    *,
    bins: int = BINS,
    title: str = "",
) -> Path | None:
    """Write a reliability diagram with 95 % intervals, and below it how many rows have which prediction.

    Without matplotlib there is no picture, which is said on stderr.

    Args:
        path: File to write; ``.png`` or ``.svg``.
        labels: ``(n,)`` 0 or 1.
        logits: ``(n,)`` of the model, not calibrated.
        calibration: Shown beside the raw predictions if given.
        bins: Bins of as many rows each.
        title: Heading.

    Returns:
        The file; None without matplotlib.

    Raises:
        ConfigError: Another kind of file.
        DataError: See :func:`mmrec.click_metrics.reliability`.
    """
    if path.suffix not in METADATA:
        raise ConfigError("a picture .png or .svg", str(path), f"name it {path.with_suffix('.png').name}")
    if importlib.util.find_spec("matplotlib") is None:
        note("no reliability diagram, since matplotlib is not installed: pip install 'mmrec[plot]'")
        return None
    import matplotlib
    from matplotlib.figure import Figure

    shown = {"raw": expit(np.asarray(logits, dtype=np.float64))}
    if calibration is not None:
        shown["calibrated"] = calibration.probabilities(logits)
    figure = Figure(figsize=(5.0, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.linspace(0.0, max(probabilities.max() for probabilities in shown.values()), 51)
    for name, probabilities in shown.items():
        _draw_bins(above, name, labels, probabilities, bins)
        below.hist(probabilities, bins=edges, histtype="step", color=COLOURS[name], label=name)
    above.axline((0, 0), slope=1, color="#9a9a9a", linewidth=1, zorder=0)
    above.set_ylabel("observed share of clicks")
    above.set_title(title)
    above.legend(fontsize="small", frameon=False)
    below.set_yscale("log")
    below.set_xlabel("predicted probability")
    below.set_ylabel(f"rows of {len(labels):,}")
    with matplotlib.rc_context({"svg.hashsalt": "mmrec"}), atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=METADATA[path.suffix])
    return path


def plot_evaluation(run: str | Path, split: str) -> Path | None:
    """Write the reliability diagram of an evaluated ranker into its run folder, as ``reliability-SPLIT.png``.

    Returns:
        The file; None without matplotlib.

    Raises:
        ConfigError: The run is of no ranker.
        NotFittedError: Not evaluated on this part.
    """
    result = read_result(run, split)
    if not isinstance(result, RowResult):
        raise ConfigError(
            "a ranker, whose probabilities can be drawn", f"{result.label}, which ranks", "no --plot"
        )
    table = result.table(["label", "logit"])
    return reliability_plot(
        Path(run) / f"reliability-{split}.png",
        table["label"].to_numpy(),
        table["logit"].to_numpy(),
        Calibration.load(Path(run)),
        title=f"{result.label}, {split}",
    )


def _draw_bins(panel: Axes, name: str, labels: NDArray[Any], probabilities: Floats, bins: int) -> None:
    table = reliability(labels, probabilities, bins)
    fewest, most = table.counts.min(), table.counts.max()
    counts = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    panel.errorbar(
        table.predicted, table.observed, np.stack([table.observed - table.low, table.high - table.observed]),
        fmt=MARKS[name], color=COLOURS[name], markersize=4, elinewidth=1,
        label=f"{name}: ECE {table.error:.4f}, {len(table.counts)} bins of {counts} rows",
    )  # fmt: skip
