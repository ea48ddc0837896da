"""Training: it learns, it stops, it repeats itself bit for bit, and it survives interruptions at every step."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmrec import train as train_module
from mmrec.config import TrainConfig
from mmrec.data.dataset import Dataset
from mmrec.data.split_files import write_split
from mmrec.errors import ConfigError, DataError, DiskError, NotFittedError
from mmrec.runs import BEST, LAST, Run, load_tensors, log_epochs
from mmrec.train import learning_rate, train
from tests.forks import Forks
from tests.small_shop import config_of, copy_shop, seal_test, write_config

ROOT = Path(__file__).resolve().parents[1]
FEATURES = {"features": {"text": "text-small", "image": "image-small"}}
DROPOUT_MODEL = "tests.broken_models:Dropout"


def run_training(document: dict[str, Any], folder: Path, **options: Any) -> Run:
    return train(document, run=folder, show_progress=False, **options)


def metrics_of(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def results_of(folder: Path) -> dict[str, Any]:
    """Everything of a run that has to be the same each time."""
    epochs = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for epoch in epochs:
        del epoch["seconds"], epoch["train_seconds"]
    valid = json.loads((folder / "valid.json").read_text())
    return {
        "best": (folder / BEST).read_bytes(),
        "last": (folder / LAST).read_bytes(),
        "valid": {key: value for key, value in valid.items() if key != "run"},
        "epochs": epochs,
        "files": sorted(path.name for path in folder.rglob("*")),
    }


# --- learning ----------------------------------------------------------------------------------------------------


def test_learns_and_keeps_the_best_epoch(small_run: Run) -> None:
    epochs = metrics_of(small_run)
    values = [epoch["valid"] for epoch in epochs]
    assert values[-1] > 1.5 * values[0]
    assert small_run.manifest["best_epoch"] == int(np.argmax(values))  # the first of equal ones
    assert [epoch["epoch"] for epoch in epochs] == list(range(6))
    assert epochs[0]["loss"]["bpr"] > epochs[-1]["loss"]["bpr"]
    valid = json.loads((small_run.path / "valid.json").read_text())
    assert valid["metrics"]["recall@5"] == max(values)


@pytest.mark.parametrize("model", ["freedom", DROPOUT_MODEL])
def test_same_seed_same_bits_and_another_seed_other_bits(
    small_shop: Dataset, tmp_path: Path, model: str
) -> None:
    document = config_of(small_shop, model, **(FEATURES if model == "freedom" else {}), epochs=3)
    results = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)  # what the caller has drawn before does not matter
        run = run_training(document, tmp_path / str(number), seed=seed)
        results.append(results_of(run.path))
    assert results[0] == results[1]
    assert results[0]["best"] != results[2]["best"]


@pytest.mark.parametrize("model", ["bpr", "popularity", DROPOUT_MODEL])
def test_global_generators_are_left_alone(small_shop: Dataset, tmp_path: Path, model: str) -> None:
    params = {} if model == "popularity" else {"dim": 8}
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    run_training(config_of(small_shop, model, params=params, epochs=2), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_closed_forms_are_fitted_once(small_shop: Dataset, tmp_path: Path) -> None:
    runs = [run_training(config_of(small_shop, "itemknn", params={}), tmp_path / name) for name in "ab"]
    assert runs[0].finished
    assert runs[0].manifest["best_epoch"] == 0
    assert not (runs[0].path / LAST).exists()
    assert (runs[0].path / BEST).read_bytes() == (runs[1].path / BEST).read_bytes()
    assert json.loads((runs[0].path / "valid.json").read_text())["metrics"]["recall@5"] > 0


def test_trains_outside_the_main_thread(small_shop: Dataset, tmp_path: Path) -> None:
    work = threading.Thread(target=run_training, args=(config_of(small_shop, epochs=1), tmp_path / "run"))
    work.start()
    work.join()
    assert Run(tmp_path / "run").finished


# --- options -----------------------------------------------------------------------------------------------------


def test_stops_after_patience_validations_without_improvement(small_shop: Dataset, tmp_path: Path) -> None:
    document = config_of(small_shop, "tests.broken_models:Constant", epochs=50, patience=3)
    run = run_training(document, tmp_path / "run")
    assert run.manifest["best_epoch"] == 0  # equal is no improvement
    assert run.manifest["epochs_run"] == 4


def test_improvements_count_unrounded(
    small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = [0.1, 0.100001, 0.100002, 0.1, 0.1, 0.2]
    monkeypatch.setattr(train_module._Training, "_validate", lambda self: planted[self.state.epoch])
    run = run_training(config_of(small_shop, epochs=6, patience=2), tmp_path / "run")
    assert run.manifest["best_epoch"] == 2
    assert run.manifest["epochs_run"] == 5


def test_eval_every_skips_validations_but_not_the_last(small_shop: Dataset, tmp_path: Path) -> None:
    run = run_training(config_of(small_shop, epochs=5, eval_every=3), tmp_path / "run")
    assert [epoch["valid"] is not None for epoch in metrics_of(run)] == [False, False, True, False, True]


def test_learning_rates() -> None:
    def rates(epochs: list[int], **options: Any) -> list[float]:
        return [learning_rate(TrainConfig(lr=0.1, epochs=100, **options), epoch) for epoch in epochs]

    assert rates([0, 99]) == [0.1, 0.1]
    assert rates([0, 1, 3, 4, 5], warmup_epochs=4) == pytest.approx([0.025, 0.05, 0.1, 0.1, 0.1])
    assert rates([0, 50, 75], schedule="exponential", lr_decay=0.5) == pytest.approx(
        [0.1, 0.05, 0.1 * 0.5**1.5]
    )
    assert rates([0, 50, 100], schedule="cosine") == pytest.approx([0.1, 0.05, 0.0])
    assert rates([0, 50], schedule="cosine", warmup_epochs=2) == pytest.approx([0.05, 0.05])


def watch_steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """Learning rate and gradient norm of every step."""
    seen: list[tuple[float, float]] = []
    step = train_module._Training._step

    def watched(self: Any, batch: Any) -> Any:
        terms = step(self, batch)
        gradients = torch.cat([parameter.grad.flatten() for parameter in self.model.parameters()])
        seen.append((self.optimizers._parts["optimizer"].param_groups[0]["lr"], float(gradients.norm())))
        return terms

    monkeypatch.setattr(train_module._Training, "_step", watched)
    return seen


def test_schedule_and_clipping_reach_the_optimizer(
    small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watch_steps(monkeypatch)
    run_training(config_of(small_shop, epochs=2, warmup_epochs=2, batch_size=1000), tmp_path / "free")
    assert [rate for rate, _ in seen] == pytest.approx([0.025, 0.025, 0.05, 0.05])
    smallest = min(norm for _, norm in seen)
    seen.clear()
    document = config_of(small_shop, epochs=2, clip_norm=smallest / 10, optimizer="adamw", weight_decay=0.1)
    run_training(document, tmp_path / "clipped")
    assert max(norm for _, norm in seen) <= smallest / 10 * 1.001


def test_bfloat16_learns_too_and_keeps_float32_weights(small_shop: Dataset, tmp_path: Path) -> None:
    document = config_of(small_shop, "freedom", **FEATURES, params={"dim": 8, "modality_weight": 0.1})
    exact = run_training(document, tmp_path / "exact")
    rough = run_training(document, tmp_path / "rough", overrides=["train.precision=bfloat16"])
    values = [epoch["valid"] for epoch in metrics_of(rough)]
    assert max(values) > 1.3 * values[0]
    assert metrics_of(rough)[0]["loss"] != metrics_of(exact)[0]["loss"]
    tensors, _ = load_tensors(rough.path / BEST)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_not_finite_is_named(small_shop: Dataset, tmp_path: Path, value: str) -> None:
    document = config_of(
        small_shop,
        "tests.broken_models:NaNLoss",
        params={"dim": 8, "at_step": 4, "value": value},
        checkpoint_seconds=0,
    )
    with pytest.raises(NotFittedError, match=rf"extra = {value} in epoch 1, step 1") as caught:
        run_training(document, tmp_path / "run")
    assert "bpr" not in caught.value.found
    tensors, state = load_tensors(tmp_path / "run" / LAST)  # the last good checkpoint
    assert (state["epoch"], state["step"]) == (1, 1)
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("freedom", {}, "item features for freedom.*\n.*\n.*image-small, text-small"),
        ("bpr", {"monitor": "recal@5"}, "did you mean 'recall@5'"),
        ("bpr", {"monitor": "coverage@5"}, "such as recall@20"),
        ("bpr", {"monitor": "recall@61"}, "train.monitor with lists of at most 60"),
        ("bpr", {"evaluate": {"ks": [5, 100]}}, "evaluate.ks with lists of at most 60"),
        ("bpr", {"device": "tpu"}, "auto, cpu, cuda"),
        ("bpr", {"split": {}}, "split"),
        ("bpr", {"features": {"text": "text-smalls"}}, "did you mean 'text-small'"),
    ],
)
def test_what_cannot_be_trained_leaves_no_run_folder(
    small_shop: Dataset, tmp_path: Path, model: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, DataError, Exception), match=message) as caught:
        run_training(config_of(small_shop, model, **changes), tmp_path / "run")
    assert hasattr(caught.value, "do")
    assert not (tmp_path / "run").exists()


def test_a_split_without_validation_items_is_refused(small_shop: Dataset, tmp_path: Path) -> None:
    shop = copy_shop(small_shop, tmp_path / "shop")
    labels = np.zeros(shop.n_interactions, dtype=np.int8)
    labels[-5:] = 2
    write_split(shop, "no-valid", labels, protocol="given", options={}, seed=None)
    document = config_of(shop) | {"split": "no-valid"}
    with pytest.raises(DataError, match="none in the split 'no-valid'"):
        run_training(document, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_in_use_is_refused(small_shop: Dataset, small_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds a run \(finished\)"):
        run_training(config_of(small_shop), small_run.path)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="other files"):
        run_training(config_of(small_shop), tmp_path)
    with pytest.raises(ConfigError, match="other files"):
        run_training(config_of(small_shop), tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_trainings_in_one_folder_are_refused(own_run: Run) -> None:
    own_run.update(status="started")
    before = (own_run.path / "metrics.jsonl").stat().st_mtime_ns
    with own_run.alone(), pytest.raises(ConfigError, match="another training at work"):
        train(own_run.path, resume=True, show_progress=False)
    assert (own_run.path / "metrics.jsonl").stat().st_mtime_ns == before
    assert train(own_run.path, resume=True, show_progress=False).finished


# --- test stays closed -------------------------------------------------------------------------------------------


def test_training_never_reads_the_test_split(
    small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal_test(monkeypatch)
    for model in ("freedom", "itemknn"):
        params = {"dim": 8} if model == "freedom" else {}
        document = config_of(small_shop, model, **FEATURES, params=params, epochs=1)
        run = run_training(document, tmp_path / model)
        assert run.finished
        assert run.manifest["test_opened"] == []


# --- interruptions -----------------------------------------------------------------------------------------------


class Crash(Exception):
    """Stands for anything that ends a process."""


def crash_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let training die after so many steps, before they are saved."""
    left, step = [steps], train_module._Training._step

    def dying(self: Any, batch: Any) -> Any:
        if left[0] == 0:
            raise Crash
        left[0] -= 1
        return step(self, batch)

    monkeypatch.setattr(train_module._Training, "_step", dying)


@pytest.mark.parametrize("model", ["lightgcn", "freedom", DROPOUT_MODEL])
@pytest.mark.parametrize("stride", [1, 4])
def test_resumed_after_every_step_with_the_same_bits(
    small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, stride: int
) -> None:
    """Three steps per epoch and three epochs; each life of the run lasts a few steps only."""
    features = FEATURES if model == "freedom" else {}
    document = config_of(small_shop, model, **features, epochs=3, checkpoint_seconds=0)
    expected = results_of(run_training(document, tmp_path / "whole").path)
    n_lives = -(-9 // stride)
    for life in range(1, n_lives + 1):
        with monkeypatch.context() as patched:
            crash_after(patched, stride)
            if life == n_lives:
                run = run_training(document, tmp_path / "torn", resume=True)
                break
            with pytest.raises(Crash):
                run_training(document, tmp_path / "torn", resume=True)
            state = load_tensors(tmp_path / "torn" / LAST)[1]
            assert state["epoch"] * 3 + state["step"] == life * stride
    assert results_of(run.path) == expected


def test_work_since_the_last_checkpoint_is_done_again(
    small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint after every fourth step; the crash comes two steps later."""
    document = config_of(small_shop, "lightgcn", epochs=4, checkpoint_seconds=1000)
    expected = results_of(run_training(document, tmp_path / "whole").path)
    with monkeypatch.context() as patched:
        crash_after(patched, 10)
        save = train_module._Training._checkpoint

        def rarely(self: Any, *, force: bool = False) -> None:
            if (self.state.epoch * 3 + self.state.step) % 4 == 0:
                save(self, force=True)

        patched.setattr(train_module._Training, "_checkpoint", rarely)
        with pytest.raises(Crash):
            run_training(document, tmp_path / "torn")
    assert load_tensors(tmp_path / "torn" / LAST)[1]["step"] == 2  # of epoch 2; epoch 2 is logged already
    with (tmp_path / "torn" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "lo')  # a line torn by the crash
    assert results_of(run_training(document, tmp_path / "torn", resume=True).path) == expected


def test_crashed_before_the_first_checkpoint(
    small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = config_of(small_shop, epochs=2)
    expected = results_of(run_training(document, tmp_path / "whole").path)
    with monkeypatch.context() as patched:
        crash_after(patched, 1)
        with pytest.raises(Crash):
            run_training(document, tmp_path / "torn")
    assert not (tmp_path / "torn" / LAST).exists()
    assert results_of(run_training(document, tmp_path / "torn", resume=True).path) == expected


def test_crashed_between_the_last_epoch_and_the_final_evaluation(
    small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*arguments: Any, **options: Any) -> None:
        raise Crash

    for model, params in (("bpr", {"dim": 8}), ("popularity", {})):
        document = config_of(small_shop, model, params=params, epochs=2)
        with monkeypatch.context() as patched:
            patched.setattr(train_module, "evaluate", crash)
            with pytest.raises(Crash):
                run_training(document, tmp_path / model)
        assert not Run(tmp_path / model).finished
        assert run_training(document, tmp_path / model, resume=True).finished
        assert (tmp_path / model / "valid.json").is_file()


def test_crashed_before_the_manifest_was_written(small_shop: Dataset, tmp_path: Path) -> None:
    document = config_of(small_shop, epochs=1)
    run = run_training(document, tmp_path / "run")
    text = (run.path / "config.yaml").read_text()
    shutil.rmtree(run.path)
    run.path.mkdir()
    (run.path / "config.yaml").write_text(text)
    dead = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
    (run.path / f".manifest.json.partial-{dead}").write_text('{"form')
    assert run_training(document, tmp_path / "run").finished
    assert not list(run.path.glob(".*"))


def test_each_epoch_is_logged_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"epoch": epoch, "valid": 0.5}) for epoch in range(4)]
    path.write_text("\n".join(lines) + '\n{"epoch": 4, "val')
    with log_epochs(tmp_path, 3) as log:
        log({"epoch": 3, "valid": 0.7})
    epochs = [json.loads(line) for line in path.read_text().splitlines()]
    assert epochs == [{"epoch": epoch, "valid": 0.5} for epoch in range(3)] + [{"epoch": 3, "valid": 0.7}]


@pytest.mark.parametrize("step", [2, 3, 6])  # inside an epoch, at its end, at the very end
def test_ctrl_c_saves_and_leaves_a_run_to_resume(
    small_shop: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: int,
) -> None:
    document = config_of(small_shop, "tests.broken_models:Interrupting", epochs=2)
    monkeypatch.setenv("MMREC_TEST_INTERRUPT", "0")
    expected = results_of(run_training(document, tmp_path / "whole").path)
    monkeypatch.setenv("MMREC_TEST_INTERRUPT", str(step))
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_training(document, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is handler
    assert f"mmrec train {tmp_path / 'run'} --resume" in capsys.readouterr().err
    state = load_tensors(tmp_path / "run" / LAST)[1]
    assert state["epoch"] * 3 + state["step"] == step
    assert results_of(train(tmp_path / "run", resume=True, show_progress=False).path) == expected


def test_ctrl_c_on_the_command_line_exits_with_130(small_shop: Dataset, tmp_path: Path, forks: Forks) -> None:
    document = config_of(small_shop, "tests.broken_models:Slow", epochs=4)
    config = write_config(tmp_path / "config.yaml", document)
    process = forks.start(
        "mmrec.cli:main", "train", config, "--run", tmp_path / "run", MMREC_TEST_PAUSE="0.2"
    )
    log, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 60
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    ended = process.wait()
    assert ended.returncode == 130, ended.stderr
    assert "interrupted and saved" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    resumed = results_of(train(tmp_path / "run", resume=True, show_progress=False).path)
    assert resumed == results_of(run_training(document, tmp_path / "whole").path)


@pytest.mark.parametrize("moments", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_at_file_operations(
    small_shop: Dataset, tmp_path: Path, forks: Forks, moments: int
) -> None:
    """See tests/crash_train.py."""
    documents = {
        "freedom": config_of(small_shop, "freedom", **FEATURES, epochs=5, checkpoint_seconds=0),
        "dropout": config_of(small_shop, DROPOUT_MODEL, epochs=5, checkpoint_seconds=0),
    }
    for name, document in documents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    ended = forks.run("tests.crash_train:main", tmp_path, moments, *documents)
    assert ended.returncode == 0, ended.stderr[-3000:]
    for counts in json.loads(ended.stdout).values():
        assert counts["random kills"] >= 2
        assert counts["kills at file operations"] > 0.8 * moments - 1  # evenly spread ones, rounded up
        assert counts["in mid-epoch"] >= 2


# --- resuming ----------------------------------------------------------------------------------------------------


def test_resuming_a_finished_run_returns_at_once(
    small_shop: Dataset, small_run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_module, "_Training", None)  # whatever trained now would fail
    before = {path: path.stat().st_mtime_ns for path in small_run.path.rglob("*")}
    assert train(small_run.path, resume=True).finished
    assert train(config_of(small_shop), run=small_run.path, resume=True).finished
    assert {path: path.stat().st_mtime_ns for path in small_run.path.rglob("*")} == before
    assert "finished already" in capsys.readouterr().err


def test_resuming_with_another_config_is_refused(small_shop: Dataset, small_run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.lr: 0.05, now 0.01") as caught:
        run_training(config_of(small_shop, lr=0.01), small_run.path, resume=True)
    assert "params" not in caught.value.found
    with pytest.raises(ConfigError, match=r"params.dim: 8, now 16"):
        train(small_run.path, params={"dim": 16}, resume=True)
    with pytest.raises(ConfigError, match=r"train.seed: 0, now 3"):
        train(small_run.path, seed=3, resume=True)
    with pytest.raises(ConfigError, match=r"train.epochs: 6, now 7"):
        train(small_run.path, overrides=["train.epochs=7"], resume=True)
    with pytest.raises(ConfigError, match="--run"):
        train(small_run.path, run=tmp_path / "elsewhere", resume=True)


def test_resume_without_a_run_begins_one(small_shop: Dataset, tmp_path: Path) -> None:
    assert run_training(config_of(small_shop, epochs=1), tmp_path / "run", resume=True).finished


def test_a_moved_dataset_is_named_when_resuming(
    small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = copy_shop(small_shop, tmp_path / "old")
    document = config_of(shop, epochs=2, checkpoint_seconds=0)
    with monkeypatch.context() as patched:
        crash_after(patched, 3)
        with pytest.raises(Crash):
            run_training(document, tmp_path / "run")
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(DataError, match=r"none in .*old"):
        train(tmp_path / "run", resume=True, show_progress=False)
    assert train(tmp_path / "run", tmp_path / "new", resume=True, show_progress=False).finished


def test_a_full_disk_is_said_and_the_run_can_be_resumed(
    small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = config_of(small_shop, epochs=2, checkpoint_seconds=0)
    expected = results_of(run_training(document, tmp_path / "whole").path)
    write = Path.write_bytes
    for moment in (0, 1, 4):
        left = [moment]

        def full(self: Path, content: bytes) -> int:
            if left[0] == 0:  # noqa: B023 used before the loop goes on
                write(self, content[: len(content) // 2])
                raise OSError(28, "No space left on device")
            left[0] -= 1  # noqa: B023
            return write(self, content)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "write_bytes", full)
            with pytest.raises(DiskError, match="No space left"):
                run_training(document, tmp_path / "torn", resume=True)
        assert not list((tmp_path / "torn").rglob("*.partial-*"))
    assert results_of(run_training(document, tmp_path / "torn", resume=True).path) == expected


def test_loss_means_cover_a_whole_epoch_after_a_resume(
    small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean of the epoch's loss includes the steps before the crash."""
    document = config_of(small_shop, epochs=1, checkpoint_seconds=0)
    seen: list[float] = []
    step = train_module._Training._step

    def watched(self: Any, batch: Any) -> Any:
        terms = step(self, batch)
        seen.append(terms["bpr"].item())
        return terms

    monkeypatch.setattr(train_module._Training, "_step", watched)
    with monkeypatch.context() as patched:
        crash_after(patched, 2)
        with pytest.raises(Crash):
            run_training(document, tmp_path / "run")
    run = run_training(document, tmp_path / "run", resume=True)
    assert len(seen) == 3
    assert metrics_of(run)[0]["loss"]["bpr"] == pytest.approx(math.fsum(seen) / 3, abs=1e-7)


@pytest.mark.parametrize("model", ["bpr", "popularity"])
def test_what_training_cost_is_in_the_manifest(small_shop: Dataset, model: str, tmp_path: Path) -> None:
    config = {"model": model, "data": str(small_shop.path), "train": {"epochs": 2}}
    run = train(config, run=tmp_path / "run", show_progress=False)
    cost = run.manifest["cost"]
    assert 0 < cost["epoch_seconds"] < 60
    assert 2**26 < cost["peak_bytes"] < 2**40


def test_an_epoch_that_was_interrupted_is_no_measure_of_cost(
    small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = config_of(small_shop, epochs=3, checkpoint_seconds=0)  # three steps per epoch
    with monkeypatch.context() as patched:
        crash_after(patched, 7)
        with pytest.raises(Crash):
            run_training(document, tmp_path / "run")
    run = run_training(document, tmp_path / "run", resume=True)
    first, second, resumed = (epoch["train_seconds"] for epoch in metrics_of(run))
    assert resumed is None
    assert run.manifest["cost"]["epoch_seconds"] == pytest.approx((first + second) / 2)
