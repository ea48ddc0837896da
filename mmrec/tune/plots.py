"""A picture of a search: the best value so far over the trials, and one scatter of the values per key."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrec.config import ExperimentConfig
from mmrec.files import atomic_path
from mmrec.progress import note
from mmrec.tune.results import Search, Trial, shown
from mmrec.tune.space import Dimension, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"finished": "#2a6f97", "pruned": "#e07a5f", "unfinished": "#9a9a9a", "failed": "#9a9a9a"}
MARKS = {"finished": "o", "pruned": "x", "unfinished": "+", "failed": "+"}
COLUMNS, WIDTH, HEIGHT = 3, 4.0, 3.2  # panels in a row, and inches of one


def draw_search(search: Search, config: ExperimentConfig) -> list[Path]:
    """Write ``trials.png`` and ``trials.svg`` into the search's folder.

    Without matplotlib, or before a trial has a value, there is no picture; the first is said on stderr.

    Returns:
        The files.
    """
    if importlib.util.find_spec("matplotlib") is None:
        note("no picture of the trials, since matplotlib is not installed: pip install 'mmrec[plot]'")
        return []
    trials = [trial for trial in search.trials if trial.value is not None]
    if not trials:
        return []
    import matplotlib
    from matplotlib.figure import Figure

    rows = math.ceil((1 + len(search.keys)) / COLUMNS)
    columns = min(COLUMNS, 1 + len(search.keys))
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    _draw_progress(panels[0], search, trials)
    for panel, key in zip(panels[1:], search.keys, strict=False):
        _draw_key(panel, key, config.search.space[key], trials)
        panel.set_ylabel(f"validation {search.monitor}")
    for panel in panels[1 + len(search.keys) :]:
        panel.remove()
    files = [search.path / "trials.png", search.path / "trials.svg"]
    metadata: list[dict[str, Any]] = [{"Software": None}, {"Date": None, "Creator": None}]
    with matplotlib.rc_context({"svg.hashsalt": "mmrec"}):  # the same search gives the same file
        for file, entries in zip(files, metadata, strict=True):
            with atomic_path(file) as temporary:
                figure.savefig(temporary, format=file.suffix[1:], dpi=150, metadata=entries)
    return files


def _draw_progress(panel: Axes, search: Search, trials: list[Trial]) -> None:
    from matplotlib.ticker import MaxNLocator

    finished = [trial for trial in trials if trial.state == "finished"]
    if finished:
        values = np.maximum.accumulate([trial.value or 0.0 for trial in finished])
        numbers = [
            *(trial.number for trial in finished),
            trials[-1].number,
        ]  # the line goes on to the last trial
        panel.step(
            numbers, [*values, values[-1]], where="post", color="#444444", linewidth=1.2, label="best so far"
        )
    for state in MARKS:
        chosen = [trial for trial in trials if trial.state == state]
        if chosen:
            xs, ys = [trial.number for trial in chosen], [trial.value or 0.0 for trial in chosen]
            panel.scatter(xs, ys, c=COLOURS[state], marker=MARKS[state], s=28, label=state)
    panel.set_xlabel("trial")
    panel.set_ylabel(f"validation {search.monitor}")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.legend(fontsize="small", frameon=False)


def _draw_key(panel: Axes, key: str, dimension: Dimension, trials: list[Trial]) -> None:
    """Values over the settings of a key; choices stand side by side in the order of the config."""
    names: dict[str, str] = {}
    if dimension.choices is not None:  # the config's own value may be none of them
        settings = [*dimension.choices, *(trial.values[key] for trial in trials)]
        names = {label(setting): shown(setting) for setting in settings}
        panel.set_xticks(range(len(names)), list(names.values()))
        panel.set_xlim(-0.5, len(names) - 0.5)
    elif dimension.log:
        panel.set_xscale("log")
    for trial in trials:
        x = list(names).index(label(trial.values[key])) if names else trial.values[key]
        if isinstance(x, int | float):  # the config's own value may be null
            panel.scatter([x], [trial.value or 0.0], c=COLOURS[trial.state], marker=MARKS[trial.state], s=28)
    panel.set_xlabel(key)
