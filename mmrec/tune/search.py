"""Hyper-parameter search: trials are ordinary runs, judged on the validation part; the test part stays closed."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmrec.config import ExperimentConfig, resolve
from mmrec.data.dataset import Dataset, load
from mmrec.data.rows.dataset import RowDataset
from mmrec.errors import ConfigError, NotFittedError
from mmrec.feasible import check_feasible
from mmrec.metrics import parse_metric
from mmrec.registry import model_class
from mmrec.runs import open_split
from mmrec.tune.folder import SearchFolder, open_folder
from mmrec.tune.plots import draw_search
from mmrec.tune.results import Search, collect


def tune(
    config: str | Path | Mapping[str, Any] | ExperimentConfig,
    data: Dataset | RowDataset | str | Path | None = None,
    *,
    features: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
    to: str | Path | None = None,
    workers: int = 1,
    resume: bool = False,
    show_progress: bool = True,
) -> Search:
    """Search the space in the config's ``search:`` section for the best value of ``train.monitor``.

    The first trial has the config's own values. The same call joins a search that is under way, and continues one
    that was interrupted: unfinished trials go on from their checkpoints.

    Args:
        config: A YAML file, a mapping or a config.
        data: A dataset or its folder, in place of the config's.
        features: Modality to feature name, in place of the config's.
        overrides: ``key.subkey=value`` strings, applied last.
        to: The search's folder; ``runs/tune/DATASET-MODEL-HASH`` if None.
        workers: Processes to share the trials and the cores.
        resume: Refuse to begin a new search.
        show_progress: Say on stderr what is under way.

    Returns:
        All trials; ``trials.csv``, ``best.yaml`` and, where matplotlib is installed, ``trials.png`` and ``trials.svg``
        are in the folder.

    Raises:
        ConfigError: Wrong config, no search section, a folder that is in use, or optuna is not installed.
        DataError: Wrong dataset or split.
        FeatureError: Features are missing or do not fit.
        NotFittedError: No trial could be trained to its end.
        KeyboardInterrupt: Interrupted; the same call goes on.
    """
    settings = resolve(config, data, features=features, overrides=overrides)
    dataset = data if isinstance(data, Dataset | RowDataset) else load(settings.data)
    _check(settings, dataset, workers)
    folder = open_folder(Path(to) if to is not None else None, settings, dataset, resume=resume)
    if workers > 1:
        _work_together(folder, workers, show_progress=show_progress)
    else:
        from mmrec.tune.worker import Worker

        Worker(folder, dataset, show="bars" if show_progress else "nothing").run()
    return _conclude(folder)


def _check(config: ExperimentConfig, dataset: Dataset | RowDataset, workers: int) -> None:
    """Refuse before anything is written what would fail later."""
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("the package optuna", "it is not installed", "pip install 'mmrec[tune]'")
    if not config.search.space:
        raise ConfigError(
            "a section search: with a space in the config",
            "none",
            "add for example  search: {trials: 20, space: {train.lr: {low: 1e-4, high: 1e-2, log: true}}}",
        )
    if workers < 1:
        raise ConfigError("workers >= 1", str(workers), "one process at least has to do the work")
    check_feasible(config, dataset, open_split(config, dataset))
    if model_class(config.model).batches is None:
        _, k = parse_metric(config.train.monitor)
        if k not in config.evaluate.ks:
            raise ConfigError(
                f"train.monitor at one of evaluate.ks ({', '.join(map(str, config.evaluate.ks))}): "
                f"{config.model} has no epochs and is judged by its final validation",
                config.train.monitor,
                f"--set evaluate.ks=[{k}], or another train.monitor",
            )


def _work_together(folder: SearchFolder, workers: int, *, show_progress: bool) -> None:
    """Let processes work on the search, each with its share of the threads this process would use."""
    import torch

    threads = str(max(1, torch.get_num_threads() // workers))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [
        sys.executable,
        "-m",
        "mmrec.tune.worker",
        str(folder.path),
        "lines" if show_progress else "nothing",
    ]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(workers):
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,  # stdout is for the result alone
                start_new_session=True,  # Ctrl-C reaches this process, which passes it on once
            )
            started.append(process)
        codes = [process.wait() for process in started]
    finally:
        for process in started:
            assert process.stdin is not None
            process.stdin.close()  # stops those that still work, after a checkpoint
        for process in started:
            process.wait()
    failed = [code for code in codes if code]
    if 130 in failed:
        raise KeyboardInterrupt
    if failed:
        raise NotFittedError(
            f"{workers} workers that end by themselves",
            f"{len(failed)} ended with status {', '.join(map(str, failed))}: see above",
            "correct it and run the same command again; it goes on where they stopped",
        )


def _conclude(folder: SearchFolder) -> Search:
    """Write table, best config and picture."""
    from mmrec.tune.journal import open_study

    with folder.locked():
        search = collect(folder, open_study(folder).get_trials(deepcopy=False))
        search.save(folder.config)
        draw_search(search, folder.config)
    if all(trial.state == "failed" for trial in search.trials):
        raise NotFittedError(
            "a trial that can be trained to its end",
            f"all {len(search.trials)} failed, the first with {search.trials[0].note}",
            f"look at {folder.path / 'trials.csv'}; narrow the space, for example the learning rate",
        )
    return search
