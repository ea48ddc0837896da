"""The one training loop: any model, any moment to stop, the same bits whether interrupted or not."""

from __future__ import annotations

import contextlib
import math
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrec.callable_module import make_callable
from mmrec.config import ExperimentConfig, TrainConfig, resolve
from mmrec.data.batches import make_batches
from mmrec.data.dataset import Dataset, Split, TrainingData, load
from mmrec.data.rows.dataset import RowDataset, RowSplit
from mmrec.data.rows.table import RowData
from mmrec.devices import choose_device, computes_bfloat16
from mmrec.errors import NotFittedError
from mmrec.evaluate import evaluate, rank_and_measure
from mmrec.evaluate_rows import measure_rows
from mmrec.feasible import check_feasible
from mmrec.files import remove_leftovers, sha256_file
from mmrec.memory import keep_freed_memory, peak_memory
from mmrec.metrics import USER_METRICS, parse_metric
from mmrec.models.contracts import scoring, training_histories
from mmrec.optimizers import Optimizers, learning_rate
from mmrec.progress import Progress, note
from mmrec.runs import (
    BEST,
    LAST,
    Run,
    build_model,
    check_free,
    create_run,
    default_run_path,
    load_tensors,
    log_epochs,
    open_split,
    read_epochs,
    restore,
    save_tensors,
    training_data,
)

make_callable(__name__, "mmrec.train:train")

ORDER, PRUNING, DROPOUT = range(3)  # what a derived seed is for
Watcher = Callable[[int, float], None]  # sees the epoch and its validation value
CUDA_CHECK_STEPS = 20  # a look at the loss makes the GPU wait, so it is rarer there


@dataclass
class _State:
    """Where training stands: all that a resumed run has to know beside the tensors."""

    epoch: int = 0  # the epoch under way
    step: int = 0  # steps of it that are done
    best: float = -math.inf
    best_epoch: int = -1
    stale: int = 0  # validations since the best one
    reductions: int = 0  # validations that were no better than the best one before
    terms: list[str] = field(default_factory=list)  # names of the loss terms


def train(
    config: str | Path | Mapping[str, Any] | ExperimentConfig,
    data: Dataset | RowDataset | str | Path | None = None,
    *,
    features: Mapping[str, str] | None = None,
    params: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    run: str | Path | None = None,
    resume: bool = False,
    show_progress: bool = True,
    on_validation: Watcher | None = None,
) -> Run:
    """Train a model and write a run folder.

    Args:
        config: A YAML file, a mapping, a config, the name of a model (then ``data`` is needed), or with ``resume`` a
            run folder.
        data: A dataset or its folder, in place of the config's.
        features: Modality to feature name, in place of the config's.
        params: Hyper-parameters, over the config's.
        overrides: ``key.subkey=value`` strings, applied last.
        seed: In place of ``train.seed``.
        run: The run folder; ``runs/DATASET/MODEL-HASH-seedN`` if None.
        resume: Continue an interrupted run; a finished one is returned as it is.
        show_progress: Show a progress bar on stderr.
        on_validation: Called with the epoch and the value of ``train.monitor`` after each validation. An exception
            that it raises ends the training there and leaves a run that can be resumed.

    Returns:
        The finished run.

    Raises:
        ConfigError: Wrong config, or a run folder that is in use.
        DataError: Wrong dataset or split.
        FeatureError: Features are missing or do not fit.
        NotFittedError: The loss is no longer finite, or a checkpoint is damaged.
        KeyboardInterrupt: Interrupted; the run can be resumed.
    """
    settle = partial(resolve, features=features, params=params, overrides=overrides, seed=seed)
    if resume and isinstance(config, str | Path) and (Path(config) / "manifest.json").is_file():
        opened = Run(config)
        opened.check_config(settle(opened.config), run)
        place = data.path if isinstance(data, Dataset | RowDataset) else data
        return _continue(opened, place, show_progress, on_validation)
    settings = settle(config, data)
    dataset = data if isinstance(data, Dataset | RowDataset) else load(settings.data)
    path = Path(run) if run is not None else default_run_path(settings, dataset)
    if resume and (path / "manifest.json").is_file():
        opened = Run(path)
        opened.check_config(settings)
        return _continue(opened, dataset.path, show_progress, on_validation)
    return _begin(path, settings, dataset, show_progress, on_validation)


def _begin(
    path: Path,
    config: ExperimentConfig,
    dataset: Dataset | RowDataset,
    show_progress: bool,
    watcher: Watcher | None,
) -> Run:
    """Train from the start; the run folder appears when everything that the user may have to correct was checked."""
    check_free(path, config)
    split = open_split(config, dataset)
    check_feasible(config, dataset, split)
    data = training_data(config, dataset, split)
    training = _Training(config, data, split, show_progress=show_progress, watcher=watcher)
    return _complete(training, create_run(path, config, dataset, split, data), dataset)


def _continue(run: Run, data: str | Path | None, show_progress: bool, watcher: Watcher | None) -> Run:
    dataset = run.data(data)
    if run.finished:
        note(f"{run.path} is finished already (best epoch {run.manifest['best_epoch']})")
        return run
    split = run.split(dataset)
    own_data = run.training_data(dataset, split)
    training = _Training(run.config, own_data, split, show_progress=show_progress, watcher=watcher)
    return _complete(training, run, dataset)


def _complete(training: _Training, run: Run, dataset: Dataset | RowDataset) -> Run:
    with run.alone():
        training.run_to_end(run)
        evaluate(run, "valid", data=dataset.path)
        run.update(status="finished")  # last, so that a kill before it is made good by resuming
    return run


class _Training:
    """One run from its last checkpoint to its end."""

    run: Run

    def __init__(
        self,
        config: ExperimentConfig,
        data: TrainingData | RowData,
        split: Split | RowSplit,
        *,
        show_progress: bool,
        watcher: Watcher | None,
    ) -> None:
        keep_freed_memory()
        self.data, self.split, self.show, self.watcher = data, split, show_progress, watcher
        self.settings: TrainConfig = config.train
        self.device = choose_device(self.settings.device)
        if self.settings.precision == "bfloat16" and not computes_bfloat16(self.device):
            note("this device only emulates bfloat16: train.precision float32 is faster on it")
        self.model = build_model(config, data).to(self.device)
        if self.model.batches is not None:
            self.batches = make_batches(self.model, data, self.settings.batch_size)
        self.state = _State()
        self.sums: Tensor | None = None
        self.fit_seconds: list[float] = []
        self.interrupted = False
        self.saved = time.monotonic()

    def run_to_end(self, run: Run) -> None:
        """Train what is left; the run then has its best checkpoint."""
        self.run = run
        for folder in (run.path, (run.path / BEST).parent):
            remove_leftovers(folder)
        if self.model.batches is None:
            started = time.monotonic()
            self.model.fit(self.data)
            self.fit_seconds = [time.monotonic() - started]
            self.state.best_epoch = 0
            save_tensors(self.run.path / BEST, self.model.state_dict(), {"epoch": 0})
        else:
            with torch.random.fork_rng(), self._interruptible():
                self._fit()
        self.run.update(
            best_epoch=self.state.best_epoch,
            epochs_run=self.state.epoch,
            cost=self._cost(),
            checkpoint_sha256=sha256_file(self.run.path / BEST),
        )

    def _cost(self) -> dict[str, float | None]:
        """Median time of the epochs that were not interrupted (of the fit of a closed form), without validation; memory."""
        before = self.run.manifest.get("cost", {})
        seconds = [entry.get("train_seconds") for entry in read_epochs(self.run.path)]
        whole = self.fit_seconds or [second for second in seconds if second is not None]
        cost: dict[str, float | None] = {
            "epoch_seconds": statistics.median(whole) if whole else None,
            "peak_bytes": max(peak_memory(), before.get("peak_bytes", 0)),
        }
        if self.device.type == "cuda":
            cost["peak_device_bytes"] = torch.cuda.max_memory_allocated(self.device)
        return cost

    def _fit(self) -> None:
        self.optimizers = Optimizers(self.model, self.settings)
        if (self.run.path / LAST).is_file():
            self._load()
        total = self.settings.epochs
        title = f"train {self.run.config.model}"
        with (
            Progress(title, total, done=self.state.epoch, unit="epochs", show=self.show) as progress,
            log_epochs(self.run.path, self.state.epoch) as log,
        ):
            while self.state.epoch < total and self.state.stale < self.settings.patience:
                started, whole = time.monotonic(), self.state.step == 0
                losses = self._epoch()
                train_seconds = round(time.monotonic() - started, 6) if whole else None
                value = self._validate()
                seconds = round(time.monotonic() - started, 3)
                entry = {
                    "epoch": self.state.epoch,
                    "loss": losses,
                    "valid": value,
                    "train_seconds": train_seconds,
                    "seconds": seconds,
                }
                self._judge(value)
                log(entry)
                if self.watcher is not None and value is not None:
                    self.watcher(self.state.epoch, value)  # before the checkpoint, so that it misses none
                self.state.epoch, self.state.step, self.sums = self.state.epoch + 1, 0, None
                self._checkpoint()
                self._stop_if_interrupted()
                progress.advance(detail=self._detail(losses, value))
        if self.state.best_epoch < 0:
            raise NotFittedError("a validation", "none in this run", "lower train.eval_every")
        self._checkpoint(force=True)

    def _detail(self, losses: Mapping[str, float], value: float | None) -> str:
        shown = f"loss {sum(losses.values()):.4f}"
        if value is not None:
            shown += f" · valid {self.settings.monitor} {value:.4f}"
        return f"{shown} (best {self.state.best:.4f} in epoch {self.state.best_epoch})"

    def _epoch(self) -> dict[str, float]:
        """Train from the current step to the end of the epoch; gives the mean of each loss term."""
        epoch, settings = self.state.epoch, self.settings
        self.model.train()
        if hasattr(self.model, "on_epoch"):
            self.model.on_epoch(derived_generator(settings.seed, epoch, PRUNING))
        if self.state.step == 0:  # a resumed epoch goes on with the generator's saved state
            torch.manual_seed(derived_seed(settings.seed, epoch, DROPOUT))
        self.optimizers.set_learning_rate(learning_rate(settings, epoch, self.state.reductions))
        for batch in self.batches.epoch(derived_generator(settings.seed, epoch, ORDER), self.state.step):
            terms = self._step(batch.to(self.device))
            self.state.terms = list(terms)
            values = torch.stack([term.detach().float() for term in terms.values()]).double()
            self._check_finite(values)
            self.sums = values if self.sums is None else self.sums + values
            self.state.step += 1
            self._stop_if_interrupted()
            self._checkpoint()
        assert self.sums is not None  # an epoch has at least one batch
        self._check_finite(self.sums, force=True)
        return dict(zip(self.state.terms, (self.sums / self.state.step).tolist(), strict=True))

    def _terms(self, batch: Any) -> dict[str, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            terms: dict[str, Tensor] = self.model.loss(batch)
        return terms

    def _step(self, batch: Any) -> dict[str, Tensor]:
        terms = self._terms(batch)
        self.optimizers.zero_grad()
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        if self.settings.clip_norm is not None:
            self.optimizers.clip(self.settings.clip_norm)
        self.optimizers.step()
        return terms

    def _stop_if_interrupted(self) -> None:
        if self.interrupted:
            self._checkpoint(force=True)
            note(f"\ninterrupted and saved; to continue: mmrec train {self.run.path} --resume")
            raise KeyboardInterrupt

    def _check_finite(self, values: Tensor, *, force: bool = False) -> None:
        if self.device.type == "cuda" and self.state.step % CUDA_CHECK_STEPS and not force:
            return
        if torch.isfinite(values).all():
            return
        named = zip(self.state.terms, values.tolist(), strict=True)
        broken = [f"{name} = {value}" for name, value in named if not math.isfinite(value)]
        raise NotFittedError(
            "finite losses",
            f"{', '.join(broken)} in epoch {self.state.epoch}, step {self.state.step}",
            "lower train.lr, set train.clip_norm, or look at the features of that term; the last good checkpoint is kept",
        )

    def _validate(self) -> float | None:
        last = self.state.epoch + 1 == self.settings.epochs
        if (self.state.epoch + 1) % self.settings.eval_every and not last:
            return None
        self.optimizers.settle()
        monitor, split = self.settings.monitor, self.split
        if isinstance(split, RowSplit):
            return measure_rows(self.model, split.valid, self.device)[monitor]
        assert isinstance(self.data, TrainingData)
        _, k = parse_metric(monitor, USER_METRICS)
        known = training_histories(self.model, self.data)
        score = scoring(self.model, known, k=k, exclude=split.train)
        return rank_and_measure(score, split.train, split.valid, self.data.n_items, [k]).metrics[monitor]

    def _judge(self, value: float | None) -> None:
        if value is None:
            return
        if value > self.state.best:
            self.state.best, self.state.best_epoch, self.state.stale = value, self.state.epoch, 0
            save_tensors(self.run.path / BEST, self.model.state_dict(), {"epoch": self.state.epoch})
        else:
            self.state.stale += 1
            self.state.reductions += 1

    def _checkpoint(self, *, force: bool = False) -> None:
        """Save where training stands, at most every ``checkpoint_seconds``."""
        if not force and time.monotonic() - self.saved < self.settings.checkpoint_seconds:
            return
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= self.optimizers.tensors()
        tensors["rng"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng_cuda"] = torch.cuda.get_rng_state()
        if self.sums is not None:
            tensors["sums"] = self.sums
        save_tensors(self.run.path / LAST, tensors, asdict(self.state))
        self.saved = time.monotonic()

    def _load(self) -> None:
        file = self.run.path / LAST
        tensors, state = load_tensors(file)
        own = {
            name.removeprefix("model."): tensor
            for name, tensor in tensors.items()
            if name.startswith("model.")
        }
        restore(self.model, own, file)
        self.optimizers.load(tensors)
        torch.set_rng_state(tensors["rng"])
        if "rng_cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng_cuda"])
        self.sums = tensors["sums"].to(self.device) if "sums" in tensors else None
        self.state = _State(**state)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Let Ctrl-C end the step under way, save and stop; a second Ctrl-C stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT) or signal.default_int_handler

        def request(number: int, frame: Any) -> None:
            self.interrupted = True  # no printing here: the step under way may be printing
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, request)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def derived_seed(seed: int, epoch: int, purpose: int) -> int:
    """A seed of its own for each epoch and purpose, so that no state has to be carried from epoch to epoch."""
    return int(np.random.SeedSequence([seed, epoch, purpose]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def derived_generator(seed: int, epoch: int, purpose: int) -> torch.Generator:
    """A generator with :func:`derived_seed`."""
    return torch.Generator().manual_seed(derived_seed(seed, epoch, purpose))
