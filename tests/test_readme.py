"""The README's commands and Python, run in order as a reader would, on a small shop."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest

import mmrec.cli
from mmrec.data.toyshop import make_toyshop

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the tutorial starts from."""
    folder = tmp_path_factory.mktemp("reader")
    dataset = make_toyshop(folder / "made", n_items=60, n_users=150)
    (folder / "shop" / "pictures").mkdir(parents=True)
    for name, item in dataset.items[["image", "item_id"]].dropna().itertuples(index=False):
        (folder / "shop" / "pictures" / f"{item}.png").write_bytes((dataset.images / name).read_bytes())
    dataset.items[["item_id", "title", "description"]].to_csv(folder / "shop" / "items.csv", index=False)
    table = dataset.interactions
    interactions = pd.DataFrame(
        {
            "user_id": [f"u{user + 1}" for user in table["user"]],
            "item_id": dataset.items["item_id"].to_numpy()[table["item"]],
            "timestamp": table["timestamp"],
        }
    )
    interactions.to_csv(folder / "shop" / "interactions.csv", index=False)
    return folder


def test_the_tutorial_runs_from_tables_to_recommendations(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop)
    commands = [line for block in blocks("bash") for line in block.strip().splitlines()]
    assert [shlex.split(command)[1] for command in commands] == [
        *["data"] * 3,
        *["encode"] * 2,
        *["train"] * 3,
        *["evaluate"] * 3,
        "compare",
        "recommend",
        "export",
    ]
    for command in commands:
        monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as exit_status:
            mmrec.cli.main()
        assert exit_status.value.code in (0, None), command
    printed = capsys.readouterr().out
    assert "| freedom" in printed
    below = printed.split("user u1\n")[1].splitlines()
    assert [line.startswith("  ") for line in below[:6]] == [True] * 5 + [False]


def test_the_python_example_does_the_same(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop)
    (example,) = blocks("python")
    exec(compile(example, str(README), "exec"), {})
    recall, recommendations = capsys.readouterr().out.strip().splitlines()
    assert 0 < float(recall) <= 1
    assert recommendations.count("'item':") == 5
