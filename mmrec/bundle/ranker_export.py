"""The run of a ranker written into a bundle, to be asked without the rows that it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrec.bundle.inputs import write_seen
from mmrec.bundle.manifest import RANKER_CALIBRATION, RANKER_CHECKPOINT, RANKER_CONFIG, RANKER_HISTORIES
from mmrec.bundle.model import write_checkpoint, write_config
from mmrec.bundle.ranker_inputs import write_ranker_inputs
from mmrec.calibrate import Calibration
from mmrec.evaluate_rows import score_rows
from mmrec.files import write_bytes

if TYPE_CHECKING:
    from mmrec.data.histories import Histories
    from mmrec.rerank import Reranker

PAIRS = 1024  # drawn to see what merging a model's matrices changes


def write_ranker(folder: Path, ranker: Reranker, known: Histories) -> dict[str, Any]:
    """Write the folder ``ranker/``.

    Args:
        folder: The bundle.
        ranker: Checked to be of the dataset and the split of the bundle.
        known: Items of each user in the training split.

    Returns:
        What the manifest says of it: ``label``, ``history``, ``calibration`` and ``merge_error``.

    Raises:
        DataError: The run was not calibrated.
        NotFittedError: Its checkpoint is damaged.
    """
    histories = ranker.histories(known)
    if histories is not None:
        write_seen(folder, histories, RANKER_HISTORIES)
    write_ranker_inputs(folder, ranker.data, ranker.candidates)
    calibration = Calibration.load(ranker.run.path)
    calibration.save((folder / RANKER_CALIBRATION).parent)
    return {
        "label": ranker.label,
        "history": ranker.history_of,
        "calibration": calibration.kind,
        "merge_error": _write_model(folder, ranker, histories),
    }


def _write_model(folder: Path, ranker: Reranker, histories: Histories | None) -> float | None:
    """Config and tensors, those of QIN with one matrix in a layer; by how much that changed a logit, if it was done."""
    import safetensors.torch

    merged = ranker.model.merged() if hasattr(ranker.model, "merged") else ranker.model
    if merged is ranker.model:
        write_config(ranker.run, folder / RANKER_CONFIG)
        write_checkpoint(ranker.run, folder / RANKER_CHECKPOINT)
        return None
    write_config(ranker.run, folder / RANKER_CONFIG, params=merged.config.model_dump(mode="json"))
    state = {name: tensor.contiguous() for name, tensor in sorted(merged.state_dict().items())}
    write_bytes(folder / RANKER_CHECKPOINT, safetensors.torch.save(state))
    rng, candidates = np.random.default_rng(0), ranker.candidates
    users, items = (rng.integers(0, n, PAIRS) for n in (candidates.n_users, candidates.n_items))
    rows = candidates.rows(users, items, histories)
    return float(np.abs(score_rows(merged, rows) - score_rows(ranker.model, rows)).max())
