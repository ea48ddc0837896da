"""What a search found: a table of its trials, as text, CSV and JSON, and the best config as YAML."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmrec
from mmrec.config import ExperimentConfig, load_config
from mmrec.files import write_text
from mmrec.runs import read_epochs
from mmrec.tables import plain_table
from mmrec.tune.folder import SearchFolder

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


OWN, VALUES, REPEATS, REASON = "own", "values", "repeats", "reason"  # what the journal says of a trial
OWN_NOTE = "the config's own values"
STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}


@dataclass(frozen=True)
class Trial:
    """One setting that was tried.

    Attributes:
        number: Counts from 0.
        state: ``finished``, ``pruned``, ``failed`` or ``unfinished`` (under way, or interrupted).
        value: Best validation value so far.
        best_epoch: Epoch of that value; None for models without epochs.
        epochs: Epochs trained.
        seconds: Time of these epochs.
        values: The setting: key to value.
        note: What else there is to say, for example why it failed.
        run: Its run folder.
    """

    number: int
    state: str
    value: float | None
    best_epoch: int | None
    epochs: int
    seconds: float
    values: Mapping[str, Any]
    note: str
    run: str


@dataclass(frozen=True)
class Search:
    """A search and its trials.

    Attributes:
        path: The search's folder.
        monitor: The validation metric that is maximised.
        keys: The keys of the space.
        trials: All trials so far, in order.
        provenance: Dataset, split, sampler and versions.
    """

    path: Path
    monitor: str
    keys: tuple[str, ...]
    trials: tuple[Trial, ...]
    provenance: Mapping[str, Any]

    def __repr__(self) -> str:
        best = f"best {self.best.value:.4f} in trial {self.best.number}" if self.best else "none finished"
        return f"Search({str(self.path)!r}: {len(self.trials)} trials, {self.monitor} {best})"

    @property
    def best(self) -> Trial | None:
        """The finished trial with the highest value, of equal ones the first; None while none is finished."""
        finished = [trial for trial in self.trials if trial.state == "finished"]
        return max(finished, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)

    @property
    def best_config(self) -> Path:
        """The config of the best trial, ready for ``mmrec train``."""
        return self.path / "best.yaml"

    def to_document(self) -> dict[str, Any]:
        """The search as JSON-able values."""
        return {
            "search": str(self.path),
            "monitor": self.monitor,
            **self.provenance,
            "best": self.best.number if self.best else None,
            "best_config": str(self.best_config) if self.best else None,
            "trials": [asdict(trial) for trial in self.trials],
        }

    def to_csv(self) -> str:
        """One line per trial with a column per key."""
        out = io.StringIO()
        names = ["trial", "state", self.monitor, "best_epoch", "epochs", "seconds", *self.keys, "note", "run"]
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(names)
        for trial in self.trials:
            settings = [shown(trial.values.get(key)) for key in self.keys]
            numbers = [trial.value, trial.best_epoch, trial.epochs, round(trial.seconds, 3)]
            writer.writerow([trial.number, trial.state, *numbers, *settings, trial.note, trial.run])
        return out.getvalue()

    def to_plain(self) -> str:
        """The table for a terminal, with what to do next."""
        names = ["trial", "state", self.monitor, "best epoch", "epochs", "seconds", *self.keys, "note"]
        lines = [
            [
                f"{trial.number}{'*' if trial is self.best else ''}",
                trial.state,
                "–" if trial.value is None else f"{trial.value:.4f}",
                "–" if trial.best_epoch is None else str(trial.best_epoch),
                str(trial.epochs),
                f"{trial.seconds:.1f}",
                *(shown(trial.values.get(key), digits=4) for key in self.keys),
                trial.note.partition("\n")[0],
            ]
            for trial in self.trials
        ]
        return f"{plain_table(names, lines)}\n\n{self._conclusion()}"

    def _conclusion(self) -> str:
        if self.best is None:
            return "no trial has finished yet"
        line = (
            f"* best: trial {self.best.number}, {self.monitor} {self.best.value:.4f} on the validation part"
        )
        return f"{line}\nto train it: mmrec train {self.best_config}"

    def save(self, config: ExperimentConfig) -> None:
        """Write ``trials.csv``, and ``best.yaml`` once a trial has finished.

        Args:
            config: The experiment whose settings the trials replace.
        """
        write_text(self.path / "trials.csv", self.to_csv())
        if self.best is not None:
            write_text(self.best_config, self._comment() + with_values(config, self.best.values).to_yaml())

    def _comment(self) -> str:
        assert self.best is not None
        finished = sum(trial.state == "finished" for trial in self.trials)
        dataset, split = self.provenance["dataset"], self.provenance["split"]
        own = self.trials[0].value
        lines = [
            f"The best of {len(self.trials)} trials ({finished} finished) of mmrec tune in {self.path}",
            f"trial {self.best.number}: {self.monitor} {self.best.value!r} on the validation part"
            + (f" (the config's own values: {own!r})" if own is not None else ""),
            f"dataset {dataset['name']} {dataset['hash'][:12]}, split {split['name']} {split['hash'][:12]}",
            f"sampler {self.provenance['sampler']}, pruner {self.provenance['pruner']}, seed {self.provenance['seed']}",
            "searched: " + ", ".join(f"{key} = {shown(self.best.values[key])}" for key in self.keys),
            f"mmrec {self.provenance['mmrec']}, optuna {self.provenance['optuna']}",
        ]
        return "".join(f"# {line}\n" for line in lines)


def with_values(config: ExperimentConfig, values: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment of a trial: the config with other values, and without its search section.

    Raises:
        ConfigError: Values that are refused together.
    """
    document = config.document()
    for key, value in values.items():
        section, _, name = key.partition(".")
        document[section][name] = value
    return load_config(document)


def tried(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials without those that were dropped before training, since their setting was tried already."""
    return [
        trial
        for trial in trials
        if trial.state.name != "WAITING" and not (trial.state.name == "FAIL" and REPEATS in trial.user_attrs)
    ]


def collect(folder: SearchFolder, trials: Sequence[FrozenTrial]) -> Search:
    """The search as its journal and its runs tell it."""
    settings, manifest = folder.config.search, folder.manifest
    return Search(
        folder.path,
        folder.config.train.monitor,
        tuple(settings.space),
        tuple(_collect_trial(folder, trial) for trial in tried(trials)),
        {
            "dataset": manifest["dataset"],
            "split": manifest["split"],
            "sampler": settings.sampler,
            "pruner": settings.pruner,
            "seed": settings.seed,
            "mmrec": mmrec.__version__,
            "optuna": version("optuna"),
        },
    )


def _collect_trial(folder: SearchFolder, trial: FrozenTrial) -> Trial:
    epochs, values = read_epochs(folder.trial(trial.number)), trial.intermediate_values
    best_epoch = max(sorted(values), key=lambda epoch: values[epoch], default=None)
    value = None if best_epoch is None else values[best_epoch]
    marks = [OWN_NOTE] if OWN in trial.user_attrs else []
    marks += [trial.user_attrs[REASON]] if REASON in trial.user_attrs else []
    return Trial(
        number=trial.number,
        state=STATES.get(trial.state.name, "unfinished"),
        value=trial.value if trial.state.name == "COMPLETE" else value,
        best_epoch=best_epoch,
        epochs=len(epochs),
        seconds=sum(epoch["seconds"] for epoch in epochs),
        values=trial.user_attrs.get(VALUES, {}),
        note="; ".join(marks),
        run=str(folder.trial(trial.number)),
    )


def shown(value: Any, digits: int | None = None) -> str:
    """A value of a setting as text."""
    if isinstance(value, float) and digits is not None:
        return f"{value:.{digits}g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
