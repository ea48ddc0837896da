"""The model of a bundle: config and tensors of a run, rebuilt from checked bytes; strangers' classes only when trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrec.bundle.inputs import check_rows
from mmrec.bundle.reading import AGAIN, parse_json, parse_tensors
from mmrec.config import ExperimentConfig, load_config
from mmrec.data.dataset import TrainingData
from mmrec.data.rows.table import RowData
from mmrec.errors import BundleError, ConfigError, MMRecError
from mmrec.files import write_bytes, write_json
from mmrec.registry import MODELS
from mmrec.runs import Run, build_model, restore

if TYPE_CHECKING:
    from torch import Tensor


def write_config(run: Run, file: Path, **changes: Any) -> None:
    """Write the resolved config of a run, with changes; where its data lie does not leave this machine."""
    write_json(file, run.config.document() | {"data": run.manifest["dataset"]["name"]} | changes)


def write_checkpoint(run: Run, file: Path) -> None:
    """Copy the tensors of a run's best epoch.

    Raises:
        NotFittedError: They are missing or damaged.
    """
    write_bytes(file, run.checkpoint().read_bytes())


def parse_config(content: bytes, where: str, model: str, *, trust_models: bool) -> ExperimentConfig:
    """The config of a model that may be loaded.

    Args:
        content: Of the file.
        where: Its name.
        model: What the manifest says.
        trust_models: Import other classes than mmrec's own.

    Raises:
        BundleError: Another model than in the manifest, a class of somebody else, or no config.
    """
    document = parse_json(content, where)
    named = document.get("model") if isinstance(document, dict) else None
    if named != model:
        raise BundleError(f"the model {model!r} of the manifest in {where}", repr(named), AGAIN)
    if model not in MODELS and not trust_models:
        raise BundleError(
            "a model of mmrec (mmrec models)",
            f"{model!r}: to load it is to run the code of whoever wrote that class",
            "if you trust them, open the bundle with trust_models=True",
        )
    try:
        return load_config(document)
    except ConfigError as error:
        raise BundleError(error.expected, f"{error.found} in {where}", AGAIN) from None


def rebuild(config: ExperimentConfig, data: TrainingData | RowData, tensors: bytes, where: str) -> Any:
    """The trained model in evaluation mode.

    Raises:
        BundleError: Config, data and tensors do not belong together.
    """
    state = parse_tensors(tensors, where)
    try:
        model = build_model(config, data)
        restore(model, state, Path(where))
    except MMRecError as error:
        raise BundleError(error.expected, error.found, AGAIN) from None
    if model.batches is None and isinstance(data, TrainingData):
        _check_tables(model, state, data, where)
    return model.eval()


def _check_tables(model: Any, state: dict[str, Tensor], data: TrainingData, where: str) -> None:
    """Tables of closed forms take their size from what was saved: they must be of these users and items.

    Raises:
        BundleError: They are not.
    """
    from mmrec.models.baseline.item_weights import ItemWeights

    if isinstance(model, ItemWeights):
        offsets, columns, values = (
            np.asarray(part) for part in (model.offsets, model.neighbours, model.similarities)
        )
        if len(offsets) != data.n_items + 1 or len(columns) != len(values):
            raise BundleError(f"weights of {data.n_items:,} items in {where}", f"{len(offsets) - 1:,}", AGAIN)
        check_rows(offsets, columns, data.n_items, where)
        return
    for name, tensor in state.items():
        if tensor.dim() == 0 or len(tensor) not in (data.n_items, data.n_users):
            raise BundleError(
                f"{name} of {data.n_items:,} items or {data.n_users:,} users in {where}",
                f"shape {tuple(tensor.shape)}",
                AGAIN,
            )
