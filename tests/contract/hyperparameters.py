"""What a model declares about its hyper-parameters: their other values, and which of them it reads."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel


def modes(kind: Any) -> list[dict[str, Any]]:
    """The defaults of a class of models, then each other value of each choice and each switch, one at a time."""
    found: list[dict[str, Any]] = [{}]
    for key, field in kind.config_type.model_fields.items():
        choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        choices = (False, True) if field.annotation is bool else choices
        found += [{key: choice} for choice in choices if choice != field.default]
    return found


class Recorder:
    """A config that remembers which of its fields were read."""

    def __init__(self, config: BaseModel, read: set[str]) -> None:
        self._config, self._read = config, read

    def __getattr__(self, field: str) -> Any:
        if field in type(self._config).model_fields:
            self._read.add(field)
        return getattr(self._config, field)
