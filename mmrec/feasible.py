"""What can be known to fail before a training begins, perhaps after hours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrec.config import ExperimentConfig
from mmrec.data.dataset import Dataset, Split
from mmrec.data.rows.dataset import RowDataset, RowSplit
from mmrec.errors import ConfigError, DataError
from mmrec.evaluate import evaluated_users
from mmrec.evaluate_rows import check_monitor
from mmrec.metrics import USER_METRICS, parse_metric
from mmrec.registry import model_class


def _check_codes(config: ExperimentConfig, dataset: Dataset) -> None:
    wanted = getattr(model_class(config.model), "codes", "none")
    if (wanted == "none") != (not config.codes) or (wanted == "one" and len(config.codes) != 1):
        names = ", ".join(dataset.code_names()) or f"none yet: mmrec tokenize {dataset.path}"
        expected = {
            "none": "no codes",
            "one": "one table of semantic IDs",
            "several": "one or more tables of semantic IDs",
        }
        raise ConfigError(
            f"{expected[wanted]} for {config.model}",
            f"codes: {config.codes}" if config.codes else "no codes in the config",
            "take codes out of the config"
            if wanted == "none"
            else f"codes: {{items: NAME}} with one of this dataset's ({names})",
        )


def _check_origin_of_codes(config: ExperimentConfig, dataset: Dataset, split: Split) -> None:
    for name in config.codes.values():
        made: Mapping[str, Any] = dataset.codes(name).manifest.get("content", {})
        knows_interactions = "run" in made or made.get("method") == "graph-rqvae"
        if knows_interactions and made["split"]["hash"] != split.hash:
            raise DataError(
                f"codes learned from the training interactions of the split {split.name!r}",
                f"{name}, learned from those of {made['split']['name']!r}: they may know what is held out here",
                f"mmrec tokenize {dataset.path} --split {split.name} with another --name",
            )


def check_feasible(config: ExperimentConfig, dataset: Dataset | RowDataset, split: Split | RowSplit) -> None:
    """Refuse now what would fail later.

    Raises:
        ConfigError: Data, features or list lengths that do not fit the model.
        DataError: Nothing to validate on, or codes that may know it.
    """
    ranks_rows = model_class(config.model).batches == "rows"
    if ranks_rows != isinstance(dataset, RowDataset):
        raise ConfigError(
            f"rows with labels for {config.model}"
            if ranks_rows
            else f"a dataset of users and items for {config.model}",
            f"{dataset.path}, {'a dataset of users and items' if ranks_rows else 'rows with labels'}",
            f"mmrec data rows {dataset.path} --to NEW_FOLDER, and train on that"
            if ranks_rows
            else "name the dataset that the rows were made from, or choose a ranker (mmrec models)",
        )
    if isinstance(split, RowSplit):
        check_monitor(config.train.monitor, split)
    elif isinstance(dataset, Dataset):
        _check_ranking(config, dataset, split)


def _check_ranking(config: ExperimentConfig, dataset: Dataset, split: Split) -> None:
    if model_class(config.model).modalities == "required" and not config.features:
        names = ", ".join(dataset.feature_names()) or f"none yet: mmrec encode {dataset.path} --modality text"
        raise ConfigError(
            f"item features for {config.model}, for example features: {{text: text-tfidf}}",
            "no features in the config",
            f"name one of this dataset's features ({names}), or choose a model without (mmrec models)",
        )
    _check_codes(config, dataset)
    _check_origin_of_codes(config, dataset, split)
    _, k = parse_metric(config.train.monitor, USER_METRICS)
    for key, length in (("train.monitor", k), ("evaluate.ks", max(config.evaluate.ks))):
        if length > dataset.n_items:
            raise ConfigError(
                f"{key} with lists of at most {dataset.n_items:,} items, all there are",
                f"{length:,}",
                f"--set {key}=… with a smaller number",
            )
    if not len(evaluated_users(split.train, split.valid)):
        raise DataError(
            "validation items of users in training, to choose the best epoch by",
            f"none in the split {split.name!r}",
            f"make another split: mmrec data split {dataset.path} --name ANOTHER_NAME",
        )
