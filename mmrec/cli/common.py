"""What the commands share: options that several have, and how results are printed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mmrec.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DataPath = Annotated[Path, typer.Argument(help="Dataset folder.")]
RunPath = Annotated[Path, typer.Argument(help="Run folder.")]
MovedData = Annotated[Path | None, typer.Option("--data", help="The dataset's folder, if it has moved.")]
Override = Annotated[
    list[str] | None, typer.Option("--set", help="key.subkey=value, over the config. Repeatable.")
]


def show(document: Any, text: str, *, as_json: bool) -> None:
    """Print the JSON document or the text for people."""
    try:
        if as_json:
            print(json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False), flush=True)
        else:
            print(text.rstrip("\n"), flush=True)
    except BrokenPipeError:  # the reader has seen enough, as head does: no error, and nothing more to flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def key_value(text: str) -> tuple[str, str]:
    """Split ``name=value``.

    Raises:
        ConfigError: No such pair.
    """
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise ConfigError("name=value", repr(text), "for example --features text=text-minilm")
    return key, value


def named(pairs: list[str] | None) -> dict[str, str]:
    """Options given as ``key=value``, as text.

    Raises:
        ConfigError: No such pair.
    """
    return dict(map(key_value, pairs or []))


def options(pairs: list[str] | None) -> dict[str, Any]:
    """Options given as ``key=value``, each value in YAML: a number, true, or text.

    Raises:
        ConfigError: No such pair.
    """
    import yaml

    found = {}
    for key, value in map(key_value, pairs or []):
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"a YAML value for {key}", f"{value!r}: {error}", "quote it") from None
    return found


def accuracy(metrics: dict[str, float]) -> str:
    """Recall and ndcg in a line, or how well clicks are foretold."""
    shown = ("recall", "ndcg", "auc", "gauc", "logloss", "logloss_calibrated")
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name.split("@")[0] in shown)
