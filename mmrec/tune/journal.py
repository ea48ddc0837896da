"""Optuna's side of a search: its journal on disk, its samplers and its pruners."""

from __future__ import annotations

import os
import random
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

from mmrec.errors import DataError
from mmrec.tune.folder import SearchFolder, lock
from mmrec.tune.space import TRIALS, Dimension, SearchConfig, label

STARTUP_SHARE, MOST_STARTUP = 3, 10  # a third of the trials, at most ten, are random before TPE models them
REDUCTION = 3  # halving lets the best third of the trials go on at each rung


class _JournalLock(JournalFileOpenLock):
    """The lock on the journal. It ends with its process: what is killed leaves nothing that others have to wait for."""

    def __init__(self, journal: Path, file: Path) -> None:
        super().__init__(str(journal))
        self.journal, self.file = journal, file
        self.descriptor = -1

    def acquire(self) -> bool:
        descriptor = lock(self.file, wait=True)
        assert descriptor is not None
        self.descriptor = descriptor
        self._cut_torn_line()
        return True

    def release(self) -> None:
        os.close(self.descriptor)

    def _cut_torn_line(self) -> None:
        """Remove the half line of a writer that was killed; the next line would continue it and spoil the journal."""
        with self.journal.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)


def open_study(folder: SearchFolder) -> optuna.Study:
    """The study in the journal of a search; call it under the folder's lock.

    Raises:
        DataError: The journal is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    backend = JournalFileBackend(
        str(folder.journal), lock_obj=_JournalLock(folder.journal, folder.path / "locks" / "journal")
    )
    try:
        storage = JournalStorage(backend)
    except (ValueError, KeyError) as error:
        raise DataError(
            f"Optuna's journal in {folder.journal}", f"a damaged one: {error}", "search again in another --to"
        ) from None
    return optuna.create_study(
        storage=storage,
        study_name="search",
        direction="maximize",
        pruner=_pruner(folder.config.search),
        load_if_exists=True,
    )


def sampler(search: SearchConfig, number: int, *, at_random: bool = False) -> optuna.samplers.BaseSampler:
    """The sampler of one trial; a random one where the config's own is out of ideas.

    Its seed depends on the number of the trial alone, so that a search which was interrupted goes on as it would
    have; a sampler with the seed of the search would begin again with the same draws.
    """
    seed = int(np.random.SeedSequence([search.seed, number]).generate_state(1)[0])
    if at_random or search.sampler != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # in Optuna 4
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=max(1, min(MOST_STARTUP, (search.trials or TRIALS) // STARTUP_SHARE)),
            multivariate=True,
            constant_liar=True,  # workers keep off what others are trying
        )


def _pruner(search: SearchConfig) -> optuna.pruners.BasePruner:
    if search.pruner == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=search.startup_trials, n_warmup_steps=search.warmup_epochs
        )
    if search.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(
            min_resource=max(1, search.warmup_epochs), reduction_factor=REDUCTION
        )
    return optuna.pruners.NopPruner()


def draw(trial: optuna.Trial, key: str, dimension: Dimension) -> Any:
    """The value of a key in a trial, drawn once and then remembered by the journal."""
    if dimension.choices is not None:  # by their text: Optuna takes 1 for True
        drawn = trial.suggest_categorical(key, [label(choice) for choice in dimension.choices])
        return next(choice for choice in dimension.choices if label(choice) == drawn)
    low, high = dimension.low, dimension.high
    assert low is not None
    assert high is not None
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(key, low, high, log=dimension.log)
    return trial.suggest_float(key, low, high, log=dimension.log)


def enqueue(study: optuna.Study, search: SearchConfig, values: dict[str, Any], **marks: Any) -> None:
    """Let the next trial have these values, as far as they lie in the space."""
    inside = {
        key: label(values[key]) if dimension.choices is not None else values[key]
        for key, dimension in search.space.items()
        if dimension.contains(values[key])
    }
    study.enqueue_trial(inside, user_attrs=marks)


def grid(search: SearchConfig) -> list[dict[str, Any]]:
    """All points of the grid, in an order that the seed decides."""
    lists = [dimension.points() for dimension in search.space.values()]
    points = [dict(zip(search.space, values, strict=True)) for values in product(*lists)]
    random.Random(search.seed).shuffle(points)
    return points
