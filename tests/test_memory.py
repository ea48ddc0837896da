from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest

from tests.forks import Forks


def print_faults() -> None:
    """Page faults of some work on large tensors, done for the second time."""
    import torch

    def work() -> None:
        for _ in range(4):
            one, two = torch.ones(10_000_000), torch.ones(10_000_000)
            three = one + two
            del one, two
            four = torch.ones(1_000_000)
            del three
        del four

    if sys.argv[1] == "kept":
        from mmrec.memory import keep_freed_memory

        keep_freed_memory()
    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_memory_that_was_freed_is_used_again_without_page_faults(forks: Forks) -> None:
    default, kept = (
        int(forks.run("tests.test_memory:print_faults", how).stdout) for how in ("default", "kept")
    )
    assert default > 100_000  # a page is 4 KiB: 500 MB are written in each round
    # Up to 2.38 glibc does not always find a freed block again for an aligned one of the same size: a tensor in twelve
    # may be paid for.
    assert kept < default / 8


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmrec import memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("was called"))
    memory.keep_freed_memory()


CHILD = "from mmrec.memory import peak_memory; print(peak_memory())"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the parent's memory is counted too")
def test_peak_memory_is_that_of_the_process_and_not_of_the_one_that_started_it() -> None:
    held = bytearray(400 * 2**20)
    peak = int(
        subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout
    )
    assert 2**20 < peak < len(held) / 2


FREED = """
from mmrec.memory import peak_memory
before = peak_memory()
held = bytearray(200 * 2**20)
del held
print(peak_memory() - before)
"""


def test_peak_memory_stays_when_memory_is_freed() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(done.stdout) >= 190 * 2**20
