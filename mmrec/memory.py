"""How the process asks for memory: large tensors are made and dropped in every step of every loop here."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
from pathlib import Path

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let malloc keep what is freed instead of giving it back to the system at once.

    By default glibc returns large freed blocks, and the next tensor of the same size is paid for with a page fault
    every 4 KiB: more than half of a training step on the CPU at the sizes of this field (tests/benchmarks). The
    setting holds for the whole process until it ends. Other C libraries are left alone.

    Source: the manual of ``mallopt(3)``.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, LARGEST)
    libc.mallopt(M_TRIM_THRESHOLD, LARGEST)


def peak_memory() -> int:
    """The most memory, in bytes, that this process has held at once so far.

    Linux counts it anew for each program; what ``getrusage`` says there includes the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
