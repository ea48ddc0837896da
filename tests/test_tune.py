"""Hyper-parameter search: it finds, prunes, shares work, survives kills, and never opens the test split."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from mmrec.config import load_config
from mmrec.data.dataset import Dataset
from mmrec.data.toyshop import make_toyshop
from mmrec.errors import ConfigError, DataError, NotFittedError
from mmrec.runs import LAST, Run
from mmrec.train import train
from mmrec.tune.folder import SearchFolder, open_folder
from mmrec.tune.plots import draw_search
from mmrec.tune.results import Search
from mmrec.tune.search import tune
from mmrec.tune.worker import Worker
from tests.command_line import Command
from tests.forks import Forks
from tests.small_shop import config_of, seal_test, write_config
from tests.test_bad_input import check_refused, contents
from tests.test_train import results_of

ROOT = Path(__file__).resolve().parents[1]
SPACE: dict[str, Any] = {
    "params.dim": {"choices": [4, 8]},
    "train.lr": {"low": 1e-3, "high": 0.1, "log": True},
}
GRID: dict[str, Any] = {"params.dim": {"choices": [4, 8]}, "train.lr": {"choices": [0.05, 0.1]}}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost more than all else; one test has them back."""
    monkeypatch.setattr("mmrec.tune.search.draw_search", lambda search, config: [])


def experiment(shop: Dataset, model: str = "bpr", *, epochs: int = 2, **search: Any) -> dict[str, Any]:
    return config_of(shop, model, epochs=epochs, search={"trials": 3, "space": SPACE} | search)


def search_in(folder: Path, document: dict[str, Any], **options: Any) -> Search:
    return tune(document, to=folder, show_progress=False, **options)


def outcome_of(folder: Path) -> list[dict[str, str]]:
    """The table of the trials, without the time it took and where it lies."""
    lines = list(csv.DictReader((folder / "trials.csv").read_text().splitlines()))
    return [{key: value for key, value in line.items() if key not in ("seconds", "run")} for line in lines]


def states(search: Search) -> list[str]:
    return [trial.state for trial in search.trials]


# --- the section -------------------------------------------------------------------------------------------------

BAD_SPACES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"params.dimm": {"choices": [4]}}, "did you mean 'params.dim'"),
    "key without a section": ({"dim": {"choices": [4]}}, "did you mean 'params.dim'"),
    "key of another section": ({"evaluate.ks": {"choices": [4]}}, "choose one of|did you mean"),
    "unknown word": ({"params.dim": {"choice": [4]}}, "did you mean 'choices'"),
    "no values": ({"params.dim": {}}, "choices, or low and high"),
    "half a range": ({"train.lr": {"low": 0.1}}, "no high"),
    "no choices": ({"params.dim": {"choices": []}}, "at least one choice"),
    "choices and a range": ({"params.dim": {"choices": [4], "low": 3}}, "either choices or low and high"),
    "a choice twice": ({"train.lr": {"choices": [0.1, "1e-1"]}}, "0.1 twice"),
    "a choice of the wrong type": (
        {"params.dim": {"choices": [4, "wide"]}},
        "'wide' in search.space.params.dim",
    ),
    "a choice out of bounds": ({"params.dim": {"choices": [0]}}, "greater than or equal to 1"),
    "low above high": ({"train.lr": {"low": 0.1, "high": 0.01}}, "low below high"),
    "low equal to high": ({"train.lr": {"low": 0.1, "high": 0.1}}, "low below high"),
    "logarithm of zero": ({"params.reg": {"low": 0, "high": 1, "log": True}}, "low above 0"),
    "a range of words": ({"params.penalty": {"low": 0, "high": 1}}, "'norm' or 'squared'"),
    "a fraction of a whole number": ({"params.dim": {"low": 2.5, "high": 8}}, "valid integer"),
    "the metric": ({"train.monitor": {"choices": ["recall@5"]}}, "cannot be compared"),
    "the seed": ({"train.seed": {"choices": [0, 1]}}, "several seeds"),
}


@pytest.mark.parametrize("fault", BAD_SPACES)
def test_bad_spaces_are_refused_by_every_reader(
    mmrec: Command, small_shop: Dataset, tmp_path: Path, fault: str
) -> None:
    space, message = BAD_SPACES[fault]
    document = experiment(small_shop, space=space)
    with pytest.raises(ConfigError, match=message):
        load_config(document)
    file = write_config(tmp_path / "c.yaml", document)
    for verb in (["tune", file], ["train", file, "--run", tmp_path / "run"], ["config", "show", file]):
        check_refused(mmrec(*verb))
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"trails": 3}, "did you mean 'trials'"),
        ({"sampler": "tpa"}, "'tpe', 'random' or 'grid'"),
        ({"pruner": "mean"}, "'none', 'median' or 'halving'"),
        ({"trials": 0}, "greater than or equal to 1"),
        ({"sampler": "grid"}, "whole numbers for every key of a grid"),
        ({"sampler": "grid", "space": {"params.dim": {"low": 1, "high": 20_000}}}, "at most 10,000"),
    ],
)
def test_bad_sections_are_refused(small_shop: Dataset, search: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(experiment(small_shop, **search))


def test_numbers_in_any_notation(tmp_path: Path) -> None:
    """YAML takes 1e-3 for text."""
    text = "{trials: 2, space: {train.lr: {choices: [1e-3, 0.1]}, params.reg: {low: 1e-5, high: 1e-2, log: true}}}"
    (tmp_path / "c.yaml").write_text(f"model: bpr\ndata: d\nsearch: {text}\n")
    space = load_config(tmp_path / "c.yaml").search.space
    assert space["train.lr"].choices == (0.001, 0.1)
    assert (space["params.reg"].low, space["params.reg"].high) == (1e-5, 1e-2)


def test_training_ignores_the_section(small_shop: Dataset, small_run: Run, tmp_path: Path) -> None:
    document = experiment(small_shop, epochs=6)
    run = train(document, run=tmp_path / "run", show_progress=False)
    assert run.manifest["config_hash"] == small_run.manifest["config_hash"]
    assert (run.path / "config.yaml").read_text() == (small_run.path / "config.yaml").read_text()


def test_config_show_prints_the_section_in_a_form_that_can_be_read_again(
    mmrec: Command, small_shop: Dataset, tmp_path: Path
) -> None:
    file = write_config(tmp_path / "c.yaml", experiment(small_shop, trials=7))
    printed = yaml.safe_load(mmrec("config", "show", file).out)
    assert printed["search"]["trials"] == 7
    assert load_config(printed) == load_config(file)


# --- searching ---------------------------------------------------------------------------------------------------


def test_a_search_from_its_config_to_the_best_one(
    mmrec: Command, small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal_test(monkeypatch)
    file, folder = write_config(tmp_path / "c.yaml", experiment(small_shop)), tmp_path / "search"
    outcome = mmrec("tune", file, "--to", folder, "--json")
    assert outcome.code == 0, outcome.err
    trials = outcome.document["trials"]
    assert trials[0]["values"] == {"params.dim": 8, "train.lr": 0.05}
    assert trials[0]["note"] == "the config's own values"
    assert [trial["state"] for trial in trials] == ["finished"] * 3
    assert all(trial["values"]["params.dim"] in (4, 8) for trial in trials)
    assert all(1e-3 <= trial["values"]["train.lr"] <= 0.1 for trial in trials)
    for trial in trials:
        run = Run(trial["run"])
        valid = json.loads((run.path / "valid.json").read_text())
        assert run.finished
        assert run.manifest["test_opened"] == []
        assert valid["metrics"]["recall@5"] == trial["value"]
        assert (run.manifest["best_epoch"], trial["epochs"]) == (trial["best_epoch"], 2)
    best = max(trials, key=lambda trial: trial["value"])
    assert outcome.document["best"] == best["number"]

    text = (folder / "best.yaml").read_text()
    assert text.startswith("# The best of 3 trials (3 finished)")
    assert small_shop.hash[:12] in text
    again = mmrec("train", folder / "best.yaml", "--run", tmp_path / "again", "--json")
    assert again.document["valid"]["recall@5"] == best["value"]

    outcome = mmrec("tune", file, "--to", folder)  # once more: nothing is left to do
    assert outcome.code == 0
    assert outcome.out.splitlines()[0].split()[:3] == ["trial", "state", "recall@5"]
    assert f"mmrec train {folder / 'best.yaml'}" in outcome.out
    assert [line["trial"] for line in outcome_of(folder)] == ["0", "1", "2"]


def test_own_values_outside_the_space_come_first_too(small_shop: Dataset, tmp_path: Path) -> None:
    space = {
        "params.dim": {"choices": [4]},
        "train.lr": {"low": 0.01, "high": 0.1},
        "train.clip_norm": {"low": 1, "high": 2},
    }
    search = search_in(tmp_path / "search", experiment(small_shop, space=space, epochs=1))
    assert search.trials[0].values == {"params.dim": 8, "train.lr": 0.05, "train.clip_norm": None}
    assert all(trial.values["params.dim"] == 4 for trial in search.trials[1:])
    assert states(search) == ["finished"] * 3


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_search_makes_the_same_trials_and_another_seed_others(
    small_shop: Dataset, tmp_path: Path, sampler: str
) -> None:
    document = experiment(small_shop, sampler=sampler, trials=6, epochs=1)
    searches = [search_in(tmp_path / name, document) for name in "ab"]
    assert outcome_of(tmp_path / "a") == outcome_of(tmp_path / "b")
    other = search_in(tmp_path / "c", experiment(small_shop, sampler=sampler, seed=1, epochs=1))
    assert other.trials[0].values == searches[0].trials[0].values
    assert other.trials[1].values != searches[0].trials[1].values


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_no_setting_is_tried_twice_and_a_small_space_is_tried_whole(
    small_shop: Dataset, tmp_path: Path, sampler: str
) -> None:
    search = search_in(
        tmp_path / "search", experiment(small_shop, sampler=sampler, trials=9, space=GRID, epochs=1)
    )
    settings = sorted(tuple(trial.values.values()) for trial in search.trials)
    assert settings == [(4, 0.05), (4, 0.1), (8, 0.05), (8, 0.1)]
    assert search.trials[0].values == {"params.dim": 8, "train.lr": 0.05}


def test_a_grid_is_as_large_as_its_space_and_more_trials_go_on(small_shop: Dataset, tmp_path: Path) -> None:
    folder, whole = tmp_path / "search", {"sampler": "grid", "space": GRID | {"params.dim": {"choices": [4]}}}
    first = search_in(folder, experiment(small_shop, trials=2, epochs=1, **whole))
    assert len(first.trials) == 2
    search = search_in(folder, experiment(small_shop, trials=None, epochs=1, **whole))
    assert len(search.trials) == 3  # two points, and the config's own values beside them
    assert search.trials[:2] == first.trials


def test_models_without_epochs(small_shop: Dataset, tmp_path: Path) -> None:
    section = {"trials": 3, "space": {"params.k": {"low": 5, "high": 50}}, "pruner": "median"}
    document = config_of(small_shop, "itemknn", params={}, search=section)
    search = search_in(tmp_path / "search", document)
    assert states(search) == ["finished"] * 3
    assert search.best is not None
    assert search.best.best_epoch is None
    valid = json.loads((Path(search.best.run) / "valid.json").read_text())
    assert search.best.value == valid["metrics"]["recall@5"]
    document["train"]["monitor"] = "recall@7"
    with pytest.raises(ConfigError, match=r"evaluate.ks=\[7\]"):
        search_in(tmp_path / "other", document)


def test_a_trial_that_fails_is_noted_and_the_search_goes_on(small_shop: Dataset, tmp_path: Path) -> None:
    space = {"params.at_step": {"choices": [1, 2]}}
    document = experiment(small_shop, "tests.broken_models:NaNLoss", epochs=1, space=space)
    document["params"]["at_step"] = 1000
    search = search_in(tmp_path / "search", document)
    assert states(search) == ["finished", "failed", "failed"]
    assert "extra = nan" in search.trials[1].note
    assert search.best is search.trials[0]
    document["params"]["at_step"] = 1
    with pytest.raises(NotFittedError, match=r"all 2 failed, the first with .*extra = nan"):
        search_in(tmp_path / "other", document)
    assert not (tmp_path / "other" / "best.yaml").exists()


# --- pruning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_bad_trial_is_stopped_early(small_shop: Dataset, tmp_path: Path, pruner: str) -> None:
    space = {"train.lr": {"choices": [0.04, 1e-9]}}
    document = experiment(
        small_shop, epochs=6, sampler="grid", trials=None, space=space, pruner=pruner, startup_trials=1, warmup_epochs=2
    )  # fmt: skip
    search = search_in(tmp_path / "search", document)
    bad = next(trial for trial in search.trials if trial.values["train.lr"] == 1e-9)
    assert bad.state == "pruned"
    assert 2 < bad.epochs < 6
    assert not Run(bad.run).finished
    assert states(search).count("finished") >= 1
    assert all(trial.epochs == 6 for trial in search.trials if trial.state == "finished")
    resumed = train(
        bad.run, resume=True, show_progress=False
    )  # it is an ordinary run, and can be finished by hand
    assert resumed.finished


def test_the_configs_own_values_are_never_pruned(
    small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optuna.Trial, "should_prune", lambda self: True)
    search = search_in(tmp_path / "search", experiment(small_shop))
    assert states(search) == ["finished", "pruned", "pruned"]
    assert [trial.epochs for trial in search.trials] == [2, 1, 1]


def test_watching_the_validations_of_a_training(small_shop: Dataset, tmp_path: Path) -> None:
    """The hook that pruning uses: an exception leaves a run that ends with the same bits when it is resumed."""

    class Stop(Exception):
        pass

    seen: list[tuple[int, float]] = []

    def watch(epoch: int, value: float) -> None:
        seen.append((epoch, value))
        if len(seen) == 3:
            raise Stop

    document = config_of(small_shop, epochs=5, checkpoint_seconds=0)
    whole = train(document, run=tmp_path / "whole", show_progress=False)
    with pytest.raises(Stop):
        train(document, run=tmp_path / "run", show_progress=False, on_validation=watch)
    train(document, run=tmp_path / "run", show_progress=False, on_validation=watch, resume=True)
    logged = [json.loads(line) for line in (whole.path / "metrics.jsonl").read_text().splitlines()]
    values = [(entry["epoch"], entry["valid"]) for entry in logged]
    assert seen == [*values[:3], *values[2:]]  # the epoch of the exception was not saved, so it came again
    assert results_of(tmp_path / "run") == results_of(tmp_path / "whole")


# --- interruptions and company -----------------------------------------------------------------------------------


def test_interrupted_and_resumed_makes_the_same_trials(
    small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = experiment(small_shop, "tests.broken_models:Interrupting", trials=3)
    monkeypatch.setenv("MMREC_TEST_INTERRUPT", "0")
    search_in(tmp_path / "whole", document)
    monkeypatch.setenv("MMREC_TEST_INTERRUPT", "7")  # in the second trial
    with pytest.raises(KeyboardInterrupt):
        search_in(tmp_path / "search", document)
    assert not Run(tmp_path / "search" / "trial-001").finished
    search_in(tmp_path / "search", document, resume=True)
    assert outcome_of(tmp_path / "search") == outcome_of(tmp_path / "whole")
    for name in ("trial-000", "trial-001", "trial-002"):
        assert (
            results_of(tmp_path / "search" / name)["epochs"]
            == results_of(tmp_path / "whole" / name)["epochs"]
        )


@pytest.mark.parametrize("moments", [4, pytest.param(24, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_several_workers(
    small_shop: Dataset, tmp_path: Path, forks: Forks, moments: int
) -> None:
    """See tests/crash_tune.py."""
    documents = {
        "killed": experiment(small_shop, trials=2, pruner="median", startup_trials=1, warmup_epochs=1),
        "shared": experiment(
            small_shop, "tests.broken_models:Slow", sampler="random", trials=8, space={"params.dim": {"low": 1, "high": 12}}
        ),
    }  # fmt: skip
    documents["killed"]["train"]["checkpoint_seconds"] = 0
    for name, document in documents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    ended = forks.run("tests.crash_tune:main", tmp_path, moments, MMREC_TEST_PAUSE="0.01")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["kills"] > 0.8 * moments - 1  # evenly spread ones, rounded up
    assert found["kills inside a trial"] >= 1
    assert sum(found["trials by worker"]) == 8, ended.stderr
    assert min(found["trials by worker"]) >= 1
    assert len(set(found["settings"])) == 8


def test_a_folder_in_which_another_worker_begins_is_joined(small_shop: Dataset, tmp_path: Path) -> None:
    settings = load_config(experiment(small_shop, trials=2, epochs=1))
    (tmp_path / "search" / "locks").mkdir(parents=True)
    half = tmp_path / "search" / f".search.json.partial-{os.getppid()}"  # of another living process
    half.write_text("{")
    opened = open_folder(tmp_path / "search", settings, small_shop, resume=False)
    assert opened.manifest["dataset"]["name"] == small_shop.name
    assert half.exists()


def test_a_trial_is_left_to_its_worker_and_taken_over_when_that_is_gone(
    small_shop: Dataset, tmp_path: Path
) -> None:
    settings = load_config(experiment(small_shop, trials=2, epochs=1))
    first, second = (
        Worker(
            open_folder(tmp_path / "search", settings, small_shop, resume=False), small_shop, show="nothing"
        )
        for _ in range(2)
    )
    task = first._next()
    assert task is not None
    second.run()
    assert [trial.state.name for trial in second.study.trials] == ["RUNNING", "COMPLETE"]
    first.folder.release(task.trial.number)  # as the end of its process does
    second.run()
    assert [trial.state.name for trial in second.study.trials] == ["COMPLETE", "COMPLETE"]


@pytest.mark.slow
def test_workers_stop_at_ctrl_c_and_workers_go_on(small_shop: Dataset, tmp_path: Path) -> None:
    document = experiment(small_shop, "tests.broken_models:Slow", epochs=40, trials=2)
    document["train"]["checkpoint_seconds"] = 0
    file, folder = write_config(tmp_path / "c.yaml", document), tmp_path / "search"
    command = [sys.executable, "-m", "mmrec", "tune", str(file), "--to", str(folder), "--workers", "2"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"MMREC_TEST_PAUSE": "0.05"}, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    saved = [folder / f"trial-00{number}" / LAST for number in range(2)]
    until = time.monotonic() + 120
    while not all(file.exists() for file in saved) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "the search goes on with the same command" in errors
    there = SearchFolder(folder)
    assert [there.take(number) for number in range(2)] == [True, True]  # nobody works on them any more
    for number in range(2):
        there.release(number)
    search = search_in(folder, document, workers=2)
    assert states(search) == ["finished"] * 2
    assert [trial.epochs for trial in search.trials] == [40, 40]


def test_a_half_line_in_the_journal_is_removed_and_a_spoilt_journal_is_named(
    small_shop: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "search"
    search_in(folder, experiment(small_shop, trials=1, epochs=1))
    with (folder / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code":4,"wor')
    search = search_in(folder, experiment(small_shop, trials=2, epochs=1))
    assert states(search) == ["finished"] * 2
    journal_lines = (folder / "journal.log").read_bytes()
    (folder / "journal.log").write_bytes(b"{no json}\n" + journal_lines)
    with pytest.raises(DataError, match=r"Optuna's journal in .*journal.log"):
        search_in(folder, experiment(small_shop, trials=3, epochs=1))


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"search": {"space": GRID}}, ["search.space.train.lr"]),
        ({"search": {"seed": 5}}, ["search.seed: 0, now 5"]),
        ({"train": {"epochs": 3}}, ["train.epochs: 1, now 3"]),
        ({"split": "loo"}, ["split"]),
        ({"data": "other"}, ["dataset.hash"]),
    ],
)
def test_a_folder_with_another_search_is_refused(
    mmrec: Command, small_shop: Dataset, tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    document = experiment(small_shop, trials=1, epochs=1)
    folder = tmp_path / "search"
    search_in(folder, document)
    before = contents(folder)
    if "data" in change:
        change = {
            "data": str(
                make_toyshop(tmp_path / "other", n_items=60, n_users=150, picture_size=16, seed=2).path
            )
        }
    for section, values in change.items():
        document[section] = document[section] | values if isinstance(values, dict) else values
    file = write_config(tmp_path / "c.yaml", document)
    check_refused(mmrec("tune", file, "--to", folder), "another one:", "choose another --to", *words)
    assert contents(folder) == before


def test_what_cannot_be_searched_leaves_nothing(
    mmrec: Command, small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = experiment(small_shop, epochs=1)
    without = {key: value for key, value in document.items() if key != "search"}
    file, folder = tmp_path / "c.yaml", tmp_path / "search"
    write_config(file, without)
    check_refused(mmrec("tune", file, "--to", folder), "a section search:")
    write_config(file, document)
    check_refused(mmrec("tune", file, "--to", folder, "--resume"), "a search with search.json")
    check_refused(
        mmrec("tune", file, "--to", folder, "--set", "model=freedom", "--set", "params={}"),
        "features for freedom",
    )
    check_refused(mmrec("tune", file, "--to", folder, "--set", "split=none"), "none")
    with pytest.raises(ConfigError, match="workers >= 1"):
        search_in(folder, document, workers=0)
    monkeypatch.setitem(sys.modules, "optuna", None)
    check_refused(mmrec("tune", file, "--to", folder), "pip install 'mmrec[tune]'")
    assert not folder.exists()
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="other files"):
        search_in(folder, document)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


# --- pictures ----------------------------------------------------------------------------------------------------


def test_pictures_and_their_absence(
    mmrec: Command, small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmrec.tune.search.draw_search", draw_search)
    folder, file = tmp_path / "search", tmp_path / "c.yaml"
    space = SPACE | {"params.penalty": {"choices": ["squared"]}, "train.clip_norm": {"low": 1, "high": 2}}
    write_config(file, experiment(small_shop, epochs=1, trials=2, space=space))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "matplotlib", None)
        outcome = mmrec("tune", file, "--to", folder)
    assert outcome.code == 0
    assert "pip install 'mmrec[plot]'" in outcome.err
    assert not list(folder.glob("trials.[ps]*g"))
    pictures = []
    for _ in range(2):
        assert mmrec("tune", file, "--to", folder).code == 0
        pictures.append([(folder / name).read_bytes() for name in ("trials.png", "trials.svg")])
    assert pictures[0] == pictures[1]
    png, svg = pictures[0]
    assert png.startswith(b"\x89PNG")
    assert svg.count(b'<g id="axes_') == 5  # one panel over the trials and one per key
