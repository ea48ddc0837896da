"""Run by tests: lines of code, each in a process that has imported nothing of mmrec.

Arguments: lines of code. A line may leave callables in ``verbs``, which are then called without arguments.
Prints what the line or each of those calls raised: a JSON list of one list of texts per line.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import mmrec


def outcome_of(code: str) -> list[str]:
    """Errors of a line of code in a fork that has forgotten mmrec, so that nothing else is imported again."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mmrec"]:
            del sys.modules[name]
        os.write(write, json.dumps(errors_of(code)).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as said:
        errors: list[str] = json.load(said)
    assert os.waitpid(child, 0)[1] == 0
    return errors


def errors_of(code: str) -> list[str]:
    names: dict[str, Any] = {}
    try:
        exec(code, names)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
    errors = []
    for verb in names.get("verbs", []):
        try:
            verb()
            errors.append("none")
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
    return errors


def main() -> None:
    for name in mmrec.__all__:
        getattr(mmrec, name)  # the packages that it needs stay imported
    print(json.dumps([outcome_of(code) for code in sys.argv[1:]]))
