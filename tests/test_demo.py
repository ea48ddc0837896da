"""The demo from an empty folder to the report, on a shop small enough for a test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mmrec.demo
from mmrec.demo import MODELS, run_demo
from mmrec.errors import ConfigError
from mmrec.files import read_json, write_json

SHOP = {"n_items": 60, "n_users": 150, "cold_items": 0.1}
SETTINGS = {"epochs": 2}


def run_small(to: Path) -> Path:
    return run_demo(to, seeds=2, shop=SHOP, settings=SETTINGS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished demo, and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "runs" / "demo"
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", recorder(print, lines))
        run_small(folder)
    return folder, "\n".join(lines)


def recorder(real: Callable[..., None], lines: list[str]) -> Callable[..., None]:
    def record(*values: Any, **options: Any) -> None:
        if "file" not in options:  # progress and notes go to stderr
            lines.append(" ".join(map(str, values)))
        real(*values, **options)

    return record


@pytest.fixture
def copy(made: tuple[Path, str], tmp_path: Path) -> Path:
    shutil.copytree(made[0], tmp_path / "demo")
    return tmp_path / "demo"


def test_every_step_is_announced_in_order(made: tuple[Path, str]) -> None:
    text = made[1]
    places = [text.index(f"\n{step}/6 ") for step in range(1, 7)]
    assert places == sorted(places)
    assert "60 items (5 without image, 5 without text, 6 cold" in text


def test_the_table_has_each_model_and_the_cold_slice(made: tuple[Path, str]) -> None:
    for model in MODELS:
        assert any(line.split()[:2] == [model, "2"] for line in made[1].splitlines()), model
    cold = [line.split() for line in made[1].splitlines() if line.startswith("items: cold")]
    assert [line[3] for line in cold] == list(MODELS)
    assert "paired bootstrap" in made[1]
    assert cold[0][4] == "0.0000"  # nobody has bought a cold item, so popularity ranks them last


def test_three_users_are_printed_with_history_and_recommendations(made: tuple[Path, str]) -> None:
    text = made[1].partition("\n5/6")[2].partition("\n6/6")[0]
    assert text.count("items, the last of them") == text.count("and is recommended") == 3
    assert text.count("    5. ") == 3
    assert text.count("of the items that nobody has bought yet") == 3
    assert "[cold]" in text or ", cold]" in text


def test_the_folder_holds_data_runs_and_report(made: tuple[Path, str]) -> None:
    folder, _ = made
    assert (folder / "toyshop" / "dataset.json").is_file()
    names = {f"{model}-seed{seed}" for model in MODELS for seed in (0, 1)}
    assert {path.name for path in (folder / "runs").iterdir()} == names
    for name in names:
        assert len(read_json(folder / "runs" / name / "manifest.json")["test_opened"]) == 1
    assert 10_000 < (folder / "report.html").stat().st_size < 4 << 20


def test_a_second_call_trains_and_opens_nothing(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(*_: Any, **__: Any) -> None:
        raise AssertionError("this was done before")

    monkeypatch.setattr(mmrec.demo, "make_toyshop", forbid)
    monkeypatch.setattr(mmrec.demo, "evaluate", forbid)
    monkeypatch.setattr("mmrec.train._Training", forbid)
    before = (copy / "report.html").read_bytes()
    (copy / "report.html").unlink()
    run_small(copy)
    moved = str(copy).encode()  # the page names the folders, which are others here
    assert len((copy / "report.html").read_bytes()) > len(before) - 100 * len(moved)


def test_an_interrupted_demo_goes_on(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copy / "runs" / "freedom-seed1")
    (copy / "runs" / "lightgcn-seed0" / "test.json").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(mmrec.demo, "evaluate", stop)
        with pytest.raises(KeyboardInterrupt):
            run_small(copy)
    kept = (copy / "runs" / "freedom-seed1" / "checkpoint" / "best.safetensors").stat().st_mtime_ns
    run_small(copy)
    assert (copy / "runs" / "freedom-seed1" / "checkpoint" / "best.safetensors").stat().st_mtime_ns == kept
    assert (copy / "runs" / "freedom-seed1" / "test.json").is_file()


def stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_folders_that_a_kill_left_half_made_are_made_again(copy: Path) -> None:
    shutil.rmtree(copy / "runs")
    torn = copy / "runs" / "freedom-seed0"
    torn.mkdir(parents=True)
    (torn / "config.yaml").write_text("model: freedom\n")  # written before the manifest
    (copy / "toyshop" / "splits" / "default.json").unlink()  # written last
    run_small(copy)
    assert (torn / "test.json").is_file()


def test_a_demo_with_other_options_is_not_mixed_in(copy: Path) -> None:
    with pytest.raises(ConfigError, match="shop") as caught:
        run_demo(copy, shop={**SHOP, "seed": 1}, settings=SETTINGS)
    assert caught.value.do.startswith(f"remove it (rm -r {copy})")
    with pytest.raises(ConfigError, match="models"):
        run_demo(copy, shop=SHOP, settings={"epochs": 3})


def test_a_demo_of_another_version_is_not_mixed_in(copy: Path) -> None:
    write_json(copy / "demo.json", {**read_json(copy / "demo.json"), "mmrec": "0.0.1"})
    with pytest.raises(ConfigError, match="another entry mmrec"):
        run_small(copy)


def test_other_data_in_the_folder_is_found(copy: Path) -> None:
    write_json(copy / "demo.json", {**read_json(copy / "demo.json"), "dataset": "0" * 64})
    with pytest.raises(ConfigError, match="other tables"):
        run_small(copy)


def test_features_made_in_another_way_are_found(copy: Path) -> None:
    file = copy / "toyshop" / "features" / "text-tfidf" / "manifest.json"
    write_json(file, {**read_json(file), "key": "0" * 64})
    with pytest.raises(ConfigError, match=r"rm -r .*demo"):
        run_small(copy)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ConfigError, match="other files"):
        run_demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_wrong_options_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seeds"):
        run_demo(tmp_path / "demo", seeds=0)
    with pytest.raises(ConfigError, match="epoch"):
        run_demo(tmp_path / "demo", settings={"epoch": 3})
    assert not (tmp_path / "demo").exists()
