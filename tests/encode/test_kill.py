"""Kill -9 at any moment: the resumed result has the bits of an uninterrupted one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import mmrec
from tests.encode.slow_encoder import NAME

ROOT = Path(__file__).resolve().parents[2]
FILES = ("vectors.npy", "mask.npy", "manifest.json")
CODE = f"import sys, mmrec; mmrec.encode(sys.argv[1], encoder={NAME!r}, name='x', batch_size=4, shard_rows=8)"


def read(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def start(dataset: Path, pause: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, str(dataset)],
        cwd=ROOT,
        env={**os.environ, "MMREC_TEST_PAUSE": str(pause)},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_and_resumed(text_data: Callable[..., Path], seed: int) -> None:
    """Three kills, each a random while after the first new shard appears, then a run to the end."""
    dataset = text_data(120)
    mmrec.encode(dataset, encoder=NAME, name="x", batch_size=4, shard_rows=8, show_progress=False)
    expected = read(dataset / "features" / "x")
    shutil.rmtree(dataset / "features")
    partial = dataset / "features" / ".partial-x"
    moments = random.Random(seed)
    n_done = 0
    for _ in range(3):
        process = start(dataset, pause=0.03)
        deadline = time.monotonic() + 30
        while len(list(partial.glob("shard-*.safetensors"))) <= n_done and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (dataset / "features" / "x").exists()
        n_done = len(list(partial.glob("shard-*.safetensors")))
        assert n_done > 0
    process = start(dataset, pause=0)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert f"resuming: {n_done} of 14 shards are done" in said
    assert read(dataset / "features" / "x") == expected
    assert [path.name for path in (dataset / "features").iterdir()] == ["x"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_before_every_call_to_the_file_system(text_data: Callable[..., Path], overwrite: bool) -> None:
    dataset = text_data(14)
    mmrec.encode(dataset, encoder=NAME, name="x", batch_size=3, shard_rows=9, show_progress=False)
    expected = dataset / "expected"
    (dataset / "features" / "x").rename(expected)
    arguments = [str(dataset), str(expected), *(["overwrite"] if overwrite else [])]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.encode.crash_everywhere", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert int(ended.stdout) > 30  # moments that were tried


def test_fitted_encoders_resume_to_the_same_bits(text_data: Callable[..., Path]) -> None:
    """tfidf is fitted again after a kill, in another process."""
    dataset = text_data(300)
    code = (
        "import os, sys, mmrec, mmrec.encode.shards as shards\n"
        "write = shards.Workplace.write_shard\n"
        "def write_two(self, index, shard):\n"
        "    os.kill(os.getpid(), 9) if index == 2 else write(self, index, shard)\n"
        "shards.Workplace.write_shard = write_two\n"
        "mmrec.encode(sys.argv[1], name='killed', dim=16, shard_rows=50, dtype='float16')\n"
    )
    died = subprocess.run([sys.executable, "-c", code, str(dataset)], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    assert len(list((dataset / "features" / ".partial-killed").glob("shard-*"))) == 2
    for name in ("killed", "whole"):
        mmrec.encode(dataset, name=name, dim=16, shard_rows=50, dtype="float16", show_progress=False)
    killed, whole = (read(dataset / "features" / name) for name in ("killed", "whole"))
    assert killed["vectors.npy"] == whole["vectors.npy"]
    assert killed["mask.npy"] == whole["mask.npy"]
