"""Modules that are called like their main function.

``mmrec.encode``, ``mmrec.train``, … are verbs and the modules that hold them at once. Python binds a submodule
to its parent under the same name when the submodule is first imported, which would hide a function of that
name. So the module itself takes the call: ``mmrec.encode(data)`` and ``from mmrec.encode.features import …``
work in either order.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """A module that passes calls on to the function named in its ``__verb__``."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._called_function()(*arguments, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._called_function())

    def _called_function(self) -> Any:
        module, _, name = str(self.__dict__["__verb__"]).partition(":")
        return getattr(importlib.import_module(module), name)


def make_callable(module: str, function: str) -> None:
    """Let a module be called as one of the functions in it or below it.

    Args:
        module: ``__name__`` of the calling module.
        function: ``package.module:name`` of the function, imported when the module is first called.
    """
    sys.modules[module].__dict__["__verb__"] = function
    sys.modules[module].__class__ = _CallableModule
