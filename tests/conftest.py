"""Fixtures that several test files share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmrec.data.dataset import Dataset
from mmrec.runs import Run
from tests.command_line import Command, make_command
from tests.forks import Forks
from tests.small_shop import config_of, make_small_shop


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``--dist loadgroup`` a file's tests stay in one process, which then makes their fixtures once.

    So do all that fork: they share a server.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            group = (
                "forks" if "forks" in getattr(item, "fixturenames", ()) else item.nodeid.partition("::")[0]
            )
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMREC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Processes that cost milliseconds; what uses them is in one group, so that one server is enough."""
    server = Forks(tmp_path_factory.mktemp("forks"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def small_shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset with splits and features; copy it before altering it."""
    return make_small_shop(tmp_path_factory.mktemp("shared") / "shop")


@pytest.fixture(scope="session")
def small_run(small_shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of BPR on it; copy it before altering it."""
    from mmrec.train import train

    folder = tmp_path_factory.mktemp("shared") / "run"
    return train(config_of(small_shop), run=folder, show_progress=False)


@pytest.fixture
def own_run(small_run: Run, tmp_path: Path) -> Run:
    """A copy of the finished run to alter."""
    shutil.copytree(small_run.path, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def mmrec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process: ``mmrec("train", config)``."""
    return make_command(monkeypatch, capsys)
