"""One worker of a search: takes a trial, trains it, tells the journal, takes the next.

``python -m mmrec.tune.worker FOLDER`` is a worker of its own; it stops when its standard input ends.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import dataclass
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from mmrec.config import ExperimentConfig
from mmrec.data.dataset import Dataset, load
from mmrec.data.rows.dataset import RowDataset
from mmrec.errors import ConfigError, MMRecError, NotFittedError
from mmrec.files import read_json
from mmrec.progress import note
from mmrec.runs import Run, read_epochs
from mmrec.train import train
from mmrec.tune.folder import SearchFolder
from mmrec.tune.journal import draw, enqueue, grid, open_study, sampler
from mmrec.tune.results import (
    OWN,
    REASON,
    REPEATS,
    VALUES,
    Search,
    collect,
    shown,
    tried,
    with_values,
)
from mmrec.tune.space import TRIALS, same

MOST_REPEATS = (
    100  # draws in a row of settings that were tried already, before the search is taken to be through
)

Show = Literal["bars", "lines", "nothing"]


class Pruned(Exception):
    """Ends the training of a trial that does worse than the others."""


@dataclass(frozen=True)
class Task:
    """A trial that this worker has taken.

    Attributes:
        trial: Optuna's side of it.
        values: Its setting.
        own: These are the config's own values, which are never pruned.
        reported: The last epoch that the journal knows, -1 if none.
    """

    trial: optuna.Trial
    values: dict[str, Any]
    own: bool
    reported: int


class Worker:
    """Trains trials of a search until there are enough.

    Args:
        folder: The search.
        dataset: Its dataset.
        show: What to print on stderr.
    """

    def __init__(self, folder: SearchFolder, dataset: Dataset | RowDataset, *, show: Show) -> None:
        self.folder, self.dataset, self.show = folder, dataset, show
        self.config: ExperimentConfig = folder.config
        self.search = folder.config.search
        self.own = own_values(folder.config)
        with folder.locked():
            self.study = open_study(folder)

    def run(self) -> None:
        """Train trials until there are enough; those of workers that were killed are taken over."""
        while (task := self._next()) is not None:
            try:
                self._work(task)
            except KeyboardInterrupt:
                note("the search goes on with the same command; it finishes this trial first")
                raise
            finally:
                self.folder.release(task.trial.number)

    # --- taking a trial ----------------------------------------------------------------------------------------------

    def _next(self) -> Task | None:
        """Take an abandoned trial, or a new one; None if there are enough."""
        with self.folder.locked():
            for frozen in self._trials():
                if frozen.state == TrialState.RUNNING and self.folder.take(frozen.number):
                    self.study.sampler = sampler(self.search, frozen.number)
                    reopened = optuna.Trial(self.study, frozen._trial_id)
                    if (task := self._settle(reopened, frozen.last_step)) is not None:
                        return task
            for repeats in range(MOST_REPEATS):
                if not self._prepare(at_random=repeats > 0):
                    return None
                trial = self.study.ask()
                self.folder.take(trial.number)
                if (task := self._settle(trial, None)) is not None:
                    return task
        note(f"the last {MOST_REPEATS} draws were settings tried before: the search ends here")
        return None

    def _trials(self) -> list[FrozenTrial]:
        return tried(self.study.get_trials(deepcopy=False))

    def _prepare(self, *, at_random: bool) -> bool:
        """Decide how the next trial gets its values; False if there are enough trials.

        Args:
            at_random: What the sampler had to offer was tried already.
        """
        everything, settings = self.study.get_trials(deepcopy=False), self._trials()
        if len(settings) >= self._wanted():
            return False
        self.study.sampler = sampler(self.search, len(everything), at_random=at_random)
        if any(trial.state == TrialState.WAITING for trial in everything):
            return True  # left by a worker that was killed right here
        if not everything:
            enqueue(self.study, self.search, self.own, **{OWN: True})
        elif self.search.sampler == "grid":
            points = (point for point in grid(self.search) if not _find(point, settings))
            enqueue(self.study, self.search, next(points))
        return True

    def _wanted(self) -> int:
        """How many trials there are to be: not more than there are settings."""
        points = self.search.size()
        if points is None:
            return self.search.trials or TRIALS
        inside = all(dimension.contains(self.own[key]) for key, dimension in self.search.space.items())
        settings = points if inside else points + 1
        usual = settings if self.search.sampler == "grid" else TRIALS
        return min(self.search.trials or usual, settings)

    def _settle(self, trial: optuna.Trial, last_step: int | None) -> Task | None:
        """Give a trial that was taken its values; None, and given up, if they were tried before."""
        own = bool(trial.user_attrs.get(OWN))
        values = dict(self.own)
        for key, dimension in self.search.space.items():
            if not own or dimension.contains(self.own[key]):
                values[key] = draw(trial, key, dimension)
        earlier = _find(values, [other for other in self._trials() if other.number < trial.number])
        if earlier is not None:
            trial.set_user_attr(REPEATS, earlier.number)
            self.study.tell(trial, state=TrialState.FAIL)
            self.folder.release(trial.number)
            return None
        trial.set_user_attr(VALUES, values)
        return Task(trial, values, own, -1 if last_step is None else last_step)

    # --- training it -------------------------------------------------------------------------------------------------

    def _work(self, task: Task) -> None:
        number = task.trial.number
        if self.show != "nothing":
            note(
                f"trial {number}: " + ", ".join(f"{key} {shown(value)}" for key, value in task.values.items())
            )
        state, value = self._train(task)
        with self.folder.locked():
            self.study.tell(task.trial, value, state)
            search = self._save()
        if self.show != "nothing":
            trial = next(trial for trial in search.trials if trial.number == number)
            best = f" (best: {search.best.value:.4f} in trial {search.best.number})" if search.best else ""
            reached = "" if trial.value is None else f", {search.monitor} {trial.value:.4f}"
            note(f"trial {number} {trial.state}{reached}{best}")

    def _train(self, task: Task) -> tuple[TrialState, float | None]:
        reported = task.reported

        def watch(epoch: int, value: float) -> None:
            nonlocal reported
            if epoch > reported:
                task.trial.report(value, epoch)
                reported = epoch
            if epoch == reported and task.trial.should_prune() and not task.own:
                raise Pruned

        try:
            run = train(
                with_values(self.config, task.values),
                self.dataset,
                run=self.folder.trial(task.trial.number),
                resume=True,
                show_progress=self.show == "bars",
                on_validation=watch,
            )
        except Pruned:
            return TrialState.PRUNED, None
        except (ConfigError, NotFittedError) as error:
            if task.own and isinstance(error, ConfigError):
                raise  # no trial could do better
            task.trial.set_user_attr(REASON, error.found)
            return TrialState.FAIL, None
        return TrialState.COMPLETE, _best_value(run)

    def _save(self) -> Search:
        search = collect(self.folder, self.study.get_trials(deepcopy=False))
        search.save(self.config)
        return search


def own_values(config: ExperimentConfig) -> dict[str, Any]:
    """What the config itself says for the keys of its space."""
    document = config.document()
    return {key: document[key.partition(".")[0]][key.partition(".")[2]] for key in config.search.space}


def _find(values: dict[str, Any], trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The first of the trials with these values."""
    for trial in trials:
        others = trial.user_attrs.get(VALUES)
        if others is not None and all(same(value, others[key]) for key, value in values.items()):
            return trial
    return None


def _best_value(run: Run) -> float:
    """Best validation value of a finished run; a model without epochs has one."""
    values = [epoch["valid"] for epoch in read_epochs(run.path) if epoch["valid"] is not None]
    if values:
        return float(max(values))
    return float(read_json(run.path / "valid.json")["metrics"][run.config.train.monitor])


def _stop_with_parent() -> None:
    """Interrupt this process as Ctrl-C does when the process that started it ends, however it ends."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=wait, daemon=True).start()


def main(path: str, show: Show) -> int:
    """Work on the search in a folder; gives the exit status."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _stop_with_parent()
    try:
        folder = SearchFolder(path)
        Worker(folder, load(folder.manifest["dataset"]["path"]), show=show).run()
    except MMRecError as error:
        print(f"mmrec: {type(error).__name__}\n{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], "lines" if sys.argv[2] == "lines" else "nothing"))
