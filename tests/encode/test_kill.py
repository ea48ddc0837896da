"""Kill -9 at any moment: the resumed result has the bits of an uninterrupted one."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import mmrec
from tests.encode.crash_everywhere import FILES
from tests.encode.slow_encoder import NAME
from tests.forks import Forks


def encoded(dataset: Path, **options: int) -> Path:
    """What an uninterrupted run gives, put aside."""
    mmrec.encode(dataset, encoder=NAME, name="x", show_progress=False, **options)
    (dataset / "features" / "x").rename(dataset / "expected")
    (dataset / "features").rmdir()
    return dataset / "expected"


def test_killed_at_random_moments_and_resumed(text_data: Callable[..., Path], forks: Forks) -> None:
    dataset = text_data(120)
    expected = encoded(dataset, batch_size=4, shard_rows=8)
    ended = forks.run("tests.encode.crash_everywhere:kill_at_random", dataset, expected)
    assert ended.returncode == 0, ended.stderr
    assert f"resuming: {int(ended.stdout)} of 14 shards are done" in ended.stderr


@pytest.mark.parametrize(
    ("overwrite", "stride"),
    [
        (False, 3),
        (True, 2),
        *(pytest.param(overwrite, 1, marks=pytest.mark.slow) for overwrite in (False, True)),
    ],
)
def test_killed_before_calls_to_the_file_system(
    text_data: Callable[..., Path], forks: Forks, overwrite: bool, stride: int
) -> None:
    dataset = text_data(14)
    expected = encoded(dataset, batch_size=3, shard_rows=9)
    arguments = [dataset, expected, stride, *(["overwrite"] if overwrite else [])]
    ended = forks.run("tests.encode.crash_everywhere:kill_at_file_operations", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 30  # as many as there are


def test_fitted_encoders_resume_to_the_same_bits(text_data: Callable[..., Path], forks: Forks) -> None:
    """tfidf is fitted again after a kill, in another process."""
    dataset = text_data(300)
    died = forks.run("tests.encode.crash_everywhere:kill_while_fitted", dataset)
    assert died.returncode == -signal.SIGKILL
    assert len(list((dataset / "features" / ".partial-killed").glob("shard-*"))) == 2
    for name in ("killed", "whole"):
        mmrec.encode(dataset, name=name, dim=16, shard_rows=50, dtype="float16", show_progress=False)
    killed, whole = (
        {file: (dataset / "features" / name / file).read_bytes() for file in FILES}
        for name in ("killed", "whole")
    )
    assert killed["vectors.npy"] == whole["vectors.npy"]
    assert killed["mask.npy"] == whole["mask.npy"]
