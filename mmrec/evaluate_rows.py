"""Score rows with labels and measure how well clicks are told apart, and how well they are foretold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmrec.calibrate import Calibration, fit_calibration
from mmrec.click_metrics import calibration_error, click_metrics, logloss
from mmrec.data.rows.dataset import RowDataset, RowSplit
from mmrec.data.rows.table import Rows
from mmrec.devices import choose_device
from mmrec.errors import ConfigError, DataError, did_you_mean
from mmrec.progress import note

if TYPE_CHECKING:
    import pandas as pd

    from mmrec.runs import Run

MONITORS = ("auc", "gauc")  # larger is better
BATCH = 8192  # rows scored at once


def check_monitor(monitor: str, split: RowSplit) -> None:
    """Refuse a metric that validation cannot give.

    Raises:
        ConfigError: Unknown metric, or one of groups where there are none.
        DataError: Nothing to validate on.
    """
    if monitor not in MONITORS:
        raise ConfigError(
            "train.monitor auc or gauc, as rows are ranked",
            repr(monitor),
            did_you_mean(monitor, list(MONITORS)),
        )
    if monitor == "gauc" and split.valid.groups is None:
        raise ConfigError(
            "groups of rows for train.monitor gauc", "rows without groups", "--set train.monitor=auc"
        )
    n_labels = len(np.unique(split.valid.labels))
    if n_labels < 2:
        raise DataError(
            "validation rows of both labels, to choose the best epoch by",
            f"{len(split.valid):,} rows of {n_labels} labels",
            "make the rows again with another split",
        )


def score_rows(model: Any, rows: Rows, device: torch.device | str = "cpu") -> NDArray[np.float32]:
    """Logits ``(n,)`` of rows in their order; puts the model into evaluation mode."""
    model.eval()
    with torch.no_grad():
        parts = [model.score(batch.to(device)).float().cpu() for batch in rows.batches(BATCH)]
    logits: NDArray[np.float32] = torch.cat(parts).numpy() if parts else np.zeros(0, dtype=np.float32)
    return logits


def measure_rows(model: Any, rows: Rows, device: torch.device | str = "cpu") -> dict[str, float]:
    """Metrics of a model on rows, without calibration."""
    return click_metrics(rows.labels, score_rows(model, rows, device), rows.groups)


def evaluate_rows(
    run: Run, split: str, dataset: RowDataset, parts: RowSplit
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Evaluate a trained ranker; :func:`mmrec.evaluate.evaluate` writes the result into its folder.

    Validation fits the calibration (Platt: ``sigmoid(a · logit + b)``) that the run keeps and the test part is read
    with. On validation itself the calibrated metrics are therefore a little too good.

    Args:
        run: A run of a ranker.
        split: ``valid`` or ``test``.
        dataset: Its rows.
        parts: Their parts.

    Returns:
        ``{"run", "model", "seed", "split", "n_rows", "metrics", "protocol"}``, and a table ``row, label, group, logit,
        probability`` (calibrated).
    """
    data = run.training_data(dataset, parts)
    rows = parts.valid if split == "valid" else parts.test
    device = choose_device(run.config.train.device)
    logits = score_rows(run.model(data).to(device), rows, device)
    if split == "valid":
        calibration = _calibrate(rows.labels, logits)
        calibration.save(run.path)
    else:
        calibration = Calibration.load(run.path)
    metrics = click_metrics(rows.labels, logits, rows.groups)
    probabilities = calibration.probabilities(logits)
    metrics |= {
        "logloss_calibrated": logloss(rows.labels, calibration.apply(logits)),
        "ece_calibrated": calibration_error(rows.labels, probabilities),
    }
    document = {
        "run": str(run.path),
        "model": run.config.model,
        "seed": run.config.train.seed,
        "split": split,
        "n_rows": len(rows),
        "metrics": metrics,
        "protocol": {
            "dataset": dataset.name,
            "dataset_hash": dataset.hash,
            "split": parts.name,
            "split_protocol": parts.manifest["protocol"],
            "split_hash": parts.hash,
            "label": dataset.manifest["label"],
        },
    }
    return document, _table(rows, logits, probabilities)


def _calibrate(labels: NDArray[Any], logits: NDArray[Any]) -> Calibration:
    """Platt's calibration; none, and said so, where there is no best one."""
    try:
        return fit_calibration(labels, logits, "platt")
    except DataError as error:
        note(f"the logits stay uncalibrated: {error.found}")
        return Calibration()


def _table(rows: Rows, logits: NDArray[np.float32], probabilities: NDArray[np.float64]) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {"row": np.arange(len(rows)), "label": rows.labels}
    if rows.groups is not None:
        columns["group"] = rows.groups
    return pd.DataFrame({**columns, "logit": logits, "probability": probabilities.astype(np.float32)})
