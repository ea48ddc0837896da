"""Every command: its help, its JSON, its exit codes, and a stdout that holds nothing but the result."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main
import yaml

from mmrec import __version__
from mmrec.cli import app
from mmrec.data.dataset import Dataset
from mmrec.registry import MODELS
from mmrec.runs import Run
from tests.command_line import Command
from tests.small_shop import config_of, copy_shop, write_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def shop(small_shop: Dataset, tmp_path: Path) -> Dataset:
    """A copy to alter."""
    return copy_shop(small_shop, tmp_path / "shop")


@pytest.fixture
def config(small_shop: Dataset, tmp_path: Path) -> Path:
    """A fast experiment."""
    return write_config(tmp_path / "config.yaml", config_of(small_shop, epochs=2))


# --- help --------------------------------------------------------------------------------------------------------


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = list(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_says_what_it_does_and_shows_an_example(mmrec: Command, path: tuple[str, ...]) -> None:
    outcome = mmrec(*path, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    words = " ".join(outcome.out.split())
    assert f"Usage: mmrec {' '.join(path)}" in words
    assert f"Example: mmrec {' '.join(path)}" in words
    options = reduce(lambda group, name: group.commands[name], path, typer.main.get_command(app)).params
    assert [option.name for option in options if not option.help] == []


def test_all_verbs_of_the_design_are_there() -> None:
    verbs = {" ".join(path) for path in COMMANDS}
    promised = {
        "data import", "data split", "data show", "encode", "train", "evaluate", "compare", "recommend", "models",
        "config show", "doctor", "demo", "tune",
    }  # fmt: skip
    assert promised <= verbs


def test_formats_in_the_help_are_those_there_are(mmrec: Command) -> None:
    from mmrec.data.importers import IMPORTERS

    words = mmrec("data", "import", "--help").out.replace(",", " ").replace(".", " ").split()
    assert set(IMPORTERS) <= set(words)


def test_version_and_bare_call(mmrec: Command) -> None:
    assert mmrec("--version").out == f"mmrec {__version__}\n"
    assert "Commands:" in mmrec().out + mmrec().err


# --- documents ---------------------------------------------------------------------------------------------------


def test_data_show(mmrec: Command, small_shop: Dataset) -> None:
    document = mmrec("data", "show", small_shop.path, "--json").document
    assert (document["users"], document["items"], document["interactions"]) == (150, 60, 1675)
    table = small_shop.features("text-small")
    assert document["features"]["text-small"]["dim"] == 6
    assert document["features"]["text-small"]["present"] == int(table.present.sum())
    counts = small_shop.split("loo").manifest["counts"]
    assert {part: document["splits"]["loo"][part] for part in ("train", "valid", "test")} == {
        part: counts[part] for part in ("train", "valid", "test")
    }
    assert "150" in mmrec("data", "show", small_shop.path).out


def test_data_split(mmrec: Command, shop: Dataset) -> None:
    outcome = mmrec(
        "data", "split", shop.path, "--protocol", "temporal", "--name", "t", "--test", 0.2, "--json"
    )
    counts = shop.split("t").manifest["counts"]
    assert outcome.document == {"split": "t", **counts}
    assert shop.split("t").manifest["options"]["test"] == 0.2
    outcome = mmrec("data", "split", shop.path, "--name", "cold", "--cold-items", 0.2)
    assert outcome.out.startswith("split cold: ")


def test_encode_text_and_pictures(mmrec: Command, shop: Dataset) -> None:
    document = mmrec(
        "encode", shop.path, "--dim", 12, "--name", "words", "--field", "title", "--json"
    ).document
    assert document["features"] == "words"
    assert (document["modality"], document["dim"]) == ("text", 12)
    assert document["present"] == int(shop.modalities()["text"].sum())
    document = mmrec("encode", shop.path, "--modality", "image", "--json").document
    assert document["modality"] == "image"
    assert document["present"] == int(shop.modalities()["image"].sum())
    assert {"words", document["features"]} <= set(shop.feature_names())


def test_train_evaluate_recommend_compare(
    mmrec: Command, small_shop: Dataset, config: Path, tmp_path: Path
) -> None:
    runs = [tmp_path / "one", tmp_path / "two"]
    for seed, run in enumerate(runs):
        document = mmrec("train", config, "--run", run, "--seed", seed, "--json").document
        assert document["run"] == str(run)
        assert document["best_epoch"] in (0, 1)
        assert {"recall@5", "ndcg@10"} <= document["valid"].keys()
        document = mmrec("evaluate", run, "--json").document
        assert (document["run"], document["split"]) == (str(run), "test")
        assert document["n_users"] > 100
        assert {"recall@10", "ndcg@10"} <= document["metrics"].keys()
        assert "items: cold" in document["slices"]
    assert (
        mmrec("evaluate", runs[0], "--mask", "train+valid", "--json").document["protocol"]["mask"]
        == "train+valid"
    )
    assert mmrec("evaluate", runs[0], "--json").code == 0

    one = mmrec("recommend", runs[0], "--user", "user-0003", "-k", 3, "--json").document
    assert one["user"] == "user-0003"
    assert [set(entry) for entry in one["items"]] == [{"item", "score"}] * 3
    both = mmrec("recommend", runs[0], "--user", "user-0003", "--user", "user-0001", "--json").document
    assert [result["user"] for result in both] == ["user-0003", "user-0001"]
    best = one["items"][0]["item"]
    others = mmrec("recommend", runs[0], "--user", "user-0003", "--deny", best, "--json").document
    assert best not in {entry["item"] for entry in others["items"]}
    text = mmrec("recommend", runs[0], "--user", "user-0003", "-k", 1).out
    assert best in text
    assert small_shop.titles()[best] in text

    document = mmrec("compare", *runs, "--metric", "recall@5", "--slice", "items: cold", "--json").document
    assert "recall@5" in json.dumps(document)
    assert mmrec("compare", *runs, "--format", "csv").out.count("\n") > 2
    assert "| bpr" in mmrec("compare", *runs).out
    assert "|" not in mmrec("compare", *runs, "--format", "plain").out


def test_models(mmrec: Command) -> None:
    entries = mmrec("models", "--json").document
    assert [entry["name"] for entry in entries] == list(MODELS)
    for entry in entries:
        assert {"name", "contract", "batches", "modalities"} <= entry.keys()
    assert all(name in mmrec("models").out for name in MODELS)


def test_config_show_and_dry_run_resolve_alike(mmrec: Command, config: Path) -> None:
    shown = mmrec("config", "show", config, "--set", "train.lr=0.5", "--set", "params.dim=4")
    document = yaml.safe_load(shown.out)
    assert (document["train"]["lr"], document["params"]["dim"]) == (0.5, 4)
    assert document["train"]["patience"] == 20
    dry = mmrec("train", config, "--set", "train.lr=0.5", "--set", "params.dim=4", "--dry-run", "--json")
    assert dry.document == document
    seeded = mmrec("train", "bpr", "--data", "d", "--seed", 7, "--features", "text=t", "--dry-run").out
    assert yaml.safe_load(seeded)["train"]["seed"] == 7
    assert yaml.safe_load(seeded)["features"] == {"text": "t"}


def test_doctor(mmrec: Command) -> None:
    document = mmrec("doctor", "--json").document
    assert {"python", "packages", "extras", "advice"} <= document.keys()
    assert "torch" in mmrec("doctor").out


def test_data_get_lists_the_recipes(mmrec: Command) -> None:
    names = [recipe["name"] for recipe in mmrec("data", "get", "--json").document]
    assert "movielens-100k" in names
    assert names == sorted(names)


def test_demo_passes_its_options_on(mmrec: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = []
    planted = SimpleNamespace(run_demo=lambda to, seeds: calls.append((to, seeds)))
    monkeypatch.setitem(sys.modules, "mmrec.demo", planted)  # type: ignore[arg-type]
    assert mmrec("demo", "--to", tmp_path / "demo", "--seeds", 3).code == 0
    assert calls == [(tmp_path / "demo", 3)]


def test_results_go_to_stdout_and_all_else_to_stderr(mmrec: Command, config: Path, tmp_path: Path) -> None:
    outcome = mmrec("train", config, "--run", tmp_path / "run", "--json")
    assert json.loads(outcome.out)["run"] == str(tmp_path / "run")
    assert "epochs" in outcome.err  # progress
    again = mmrec("train", tmp_path / "run", "--resume", "--json")
    assert again.document == outcome.document
    assert "finished already" in again.err


# --- exit codes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.yaml"], "expected: a config file"),
        (["train", "fredom", "--data", "x"], "did you mean 'freedom'"),
        (["train", "bpr"], "add the dataset"),
        (["train", "bpr", "--data", "nowhere"], "dataset.json"),
        (["train", "bpr", "--data", "x", "--features", "text"], "name=value"),
        (["train", "bpr", "--data", "x", "--seed", "-1"], "train.seed"),
        (["train", "bpr", "--data", "x", "--set", "train.epochs=x"], "train.epochs"),
        (["tune", "nowhere.yaml"], "expected: a config file"),
        (["evaluate", "nowhere"], "a run folder with manifest.json"),
        (["recommend", "nowhere", "--user", "u"], "a run folder with manifest.json"),
        (["compare", "nowhere"], "a run folder with config.yaml"),
        (["data", "show", "nowhere"], "a dataset folder with dataset.json"),
        (["data", "import", "nowhere", "--to", "x"], "nowhere does not exist"),
        (["encode", "nowhere"], "a dataset folder with dataset.json"),
        (["config", "show", "nowhere.yaml"], "configs/ has examples"),
    ],
)
def test_wrong_input_exits_2_and_says_what_to_do(
    mmrec: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = mmrec(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert message in outcome.err
    assert [line.split(":")[0].strip() for line in outcome.err.splitlines()][:4] == [
        "mmrec", "expected", "found", "do this",
    ]  # fmt: skip
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (["evaluate", "r", "--split", "train"], "'valid', 'test'"),
        (["evaluate", "r", "--mask", "all"], "'train', 'train+valid'"),
        (["compare", "r", "--format", "html"], "'markdown', 'plain', 'csv', 'latex'"),
        (["data", "split", "d", "--protocol", "kfold"], "'leave-one-out'"),
        (["data", "import", "s", "--to", "d", "--duplicates", "sum"], "'first', 'last', 'error'"),
        (["encode", "d", "--pooling", "max"], "'mean', 'cls', 'last'"),
        (["recommend", "r", "--user", "u", "-k", "0"], "'-k'"),
        (["recommend", "r"], "--user"),
        (["train", "c", "--sed", "1"], "--seed"),
        (["evaluates"], "'evaluate'"),
    ],
)
def test_wrong_options_exit_2_and_show_the_choices(
    mmrec: Command, arguments: list[str], choices: str
) -> None:
    outcome = mmrec(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert choices in outcome.err


def test_our_own_faults_exit_1_with_a_traceback(mmrec: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr("mmrec.doctor.examine", fail)
    outcome = mmrec("doctor")
    assert (outcome.code, outcome.out) == (1, "")
    assert "ZeroDivisionError: planted" in outcome.err
    assert "a fault of mmrec" in outcome.err


def test_ctrl_c_exits_130(mmrec: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmrec.doctor.examine", interrupt)
    assert mmrec("doctor").code == 130


# --- processes ---------------------------------------------------------------------------------------------------


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **options)


def test_as_a_process(config: Path, tmp_path: Path) -> None:
    shown = python("-m", "mmrec", "config", "show", str(config), "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert json.loads(shown.stdout)["model"] == "bpr"
    script = Path(sys.executable).with_name("mmrec")
    wrong = subprocess.run(
        [str(script), "config", "show", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "ConfigError" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mmrec", "data", "get", "--json"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert (process.wait(), process.stderr.read()) == (0, "")
    process.stderr.close()


def is_quicker(seconds: float, *arguments: str) -> bool:
    """Whether a process takes less CPU time, at least once in five: a loaded machine does not change that much."""
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python(*arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < seconds:
            return True
    return False


def test_import_and_help_are_quick() -> None:
    assert is_quicker(0.3, "-c", "import mmrec")
    assert is_quicker(0.6, "-m", "mmrec", "--help")


def test_heavy_packages_are_imported_when_needed() -> None:
    heavy = ("torch", "pandas", "transformers", "sklearn", "scipy", "faiss", "PIL")
    for arguments in (["-c", "import mmrec"], ["-m", "mmrec", "--help"], ["-m", "mmrec", "train", "--help"]):
        report = python("-X", "importtime", *arguments).stderr
        imported = {
            line.rsplit("|", 1)[1].strip().split(".")[0] for line in report.splitlines() if "|" in line
        }
        assert "mmrec" in imported
        assert not imported & set(heavy)


def test_runs_are_found_again_by_default_path(
    mmrec: Command, small_shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "popularity", "--data", small_shop.path, "--set", "train.monitor=recall@5"]
    first = mmrec(*arguments, "--json").document
    assert first["run"].startswith("runs/toyshop/popularity-")
    assert Run(first["run"]).finished
    assert mmrec(*arguments).code == 2
    assert mmrec(*arguments, "--resume", "--json").document == first
