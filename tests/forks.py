"""Processes that cost milliseconds: a server imports what is heavy once, and forks for every test that needs a process.

Tests that kill training, or ask how a fresh process behaves, would each wait seconds for an interpreter that imports
torch. The server is a process of its own, because the tests' process has threads and must not be forked.

Usage: python -m tests.forks FOLDER; then requests as lines of JSON on stdin.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "faiss",
    "mmrec.cli",
    "optuna",
    "pandas",
    "sklearn.decomposition",
    "sklearn.feature_extraction.text",
    "torch",
    "tests.bundle.crash_add",
    "tests.bundle.crash_export",
    "tests.crash_train",
    "tests.crash_tune",
    "tests.encode.crash_everywhere",
    "tests.index.crash_save",
)


class Forks:
    """The server, seen from the tests; it starts with the first process that is asked for.

    Args:
        folder: For what the processes print.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: subprocess.Popen[str] | None = None

    def start(self, target: str, *arguments: object, **environment: str) -> Forked:
        """Begin a process that calls a function and ends.

        Args:
            target: ``module:function``, which is called without arguments.
            *arguments: What it finds in ``sys.argv[1:]``.
            **environment: Variables, besides the server's.
        """
        request = {"target": target, "arguments": [*map(str, arguments)], "environment": environment}
        return Forked(self, self._ask(request))

    def run(self, target: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Begin a process, and wait until it has ended."""
        return self.start(target, *arguments, **environment).wait()

    def wait(self, process: int) -> subprocess.CompletedProcess[str]:
        """Wait for a process; its exit status, negative for a signal, and what it printed."""
        status = self._ask({"wait": process})
        out, err = (
            (self._folder / f"{process}.{stream}").read_text(encoding="utf-8") for stream in ("out", "err")
        )
        return subprocess.CompletedProcess([], status, out, err)

    def close(self) -> None:
        """End the server, if there is one."""
        if self._server is not None:
            self._server.communicate()

    def _ask(self, request: dict[str, Any]) -> int:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.forks", str(self._folder)],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1"},  # a fork has no threads, and would wait for them
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())


class Forked:
    """A process of the server."""

    def __init__(self, forks: Forks, process: int) -> None:
        self._forks, self.pid = forks, process

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait until it has ended."""
        return self._forks.wait(self.pid)


def fork(request: dict[str, Any], folder: Path) -> int:
    """Answer a request for a process; its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            prepare(request, folder)
            module, _, function = request["target"].partition(":")
            getattr(importlib.import_module(module), function)()
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child


def prepare(request: dict[str, Any], folder: Path) -> None:
    """Make a fork look like a process that was started from a shell."""
    for stream, descriptor in (("out", 1), ("err", 2)):
        file = os.open(folder / f"{os.getpid()}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(request["environment"])
    sys.argv = [request["target"], *request["arguments"]]


def main() -> None:
    """Answer requests until there are no more."""
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = fork(request, Path(sys.argv[1]))
        print(answer, flush=True)


if __name__ == "__main__":
    main()
