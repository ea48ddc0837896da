"""The parsed form of a filter, how it is written and which attributes it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmrec.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from mmrec.where.attributes import Attributes

Value = str | float | bool
COMPARISONS = ("==", "!=", "<=", ">=", "<", ">")
KEYWORDS = frozenset({"and", "or", "not", "in", "is", "null", "true", "false"})


@dataclass(frozen=True)
class Compare:
    """``attribute operator value``."""

    attribute: str
    operator: str
    value: Value
    position: int = field(default=0, compare=False)


@dataclass(frozen=True)
class IsIn:
    """``attribute [not] in [value, …]``."""

    attribute: str
    values: tuple[Value, ...]
    negated: bool = False
    position: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Contains:
    """``value [not] in attribute``."""

    value: Value
    attribute: str
    negated: bool = False
    position: int = field(default=0, compare=False)


@dataclass(frozen=True)
class IsNull:
    """``attribute is [not] null``."""

    attribute: str
    negated: bool = False
    position: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Not:
    """``not part``."""

    part: Node


@dataclass(frozen=True)
class And:
    """``part and part and …``."""

    parts: tuple[Node, ...]


@dataclass(frozen=True)
class Or:
    """``part or part or …``."""

    parts: tuple[Node, ...]


Leaf = Compare | IsIn | Contains | IsNull
Node = Leaf | Not | And | Or


@dataclass(frozen=True)
class Filter:
    """A condition on items, made by :func:`mmrec.where.parse`."""

    root: Node

    def __str__(self) -> str:
        """The filter as text that parses to an equal filter."""
        return render(self.root)

    def check(self, columns: Mapping[str, str]) -> None:
        """Check that the attributes exist and hold what they are compared with.

        Args:
            columns: Attribute name to kind: ``number``, ``string``, ``boolean``, ``numbers`` or ``strings``.

        Raises:
            ConfigError: An unknown attribute, or one of another kind.
        """
        for leaf in leaves(self.root):
            _check_leaf(leaf, columns)

    def mask(self, table: pd.DataFrame | Attributes) -> NDArray[np.bool_]:
        """Mask ``(n,)`` of the rows for which the condition holds.

        Raises:
            ConfigError: As :meth:`check`.
            DataError: Columns that cannot be attributes.
        """
        from mmrec.where.attributes import Attributes
        from mmrec.where.evaluate import evaluate

        attributes = table if isinstance(table, Attributes) else Attributes.from_frame(table)
        self.check(attributes.kinds)
        return evaluate(self.root, attributes)


def leaves(node: Node) -> list[Leaf]:
    """The predicates of a condition, from left to right."""
    if isinstance(node, Not):
        return leaves(node.part)
    if isinstance(node, And | Or):
        return [leaf for part in node.parts for leaf in leaves(part)]
    return [node]


def kind_of(value: Value) -> str:
    """The kind of a single value."""
    if isinstance(value, bool):
        return "boolean"
    return "string" if isinstance(value, str) else "number"


def _check_leaf(leaf: Leaf, columns: Mapping[str, str]) -> None:
    name = leaf.attribute
    place = f"at character {leaf.position + 1} of the filter"
    if name not in columns:
        known = list(columns)
        raise ConfigError(
            "the name of an item attribute",
            f"{name!r} {place}",
            did_you_mean(name, known)
            if known
            else "there are no attributes: give some when the index is built",
        )
    kind = columns[name]
    if isinstance(leaf, IsNull):
        return
    holds_lists = kind in ("numbers", "strings")
    if isinstance(leaf, Contains) != holds_lists:
        raise ConfigError(
            f"{render_name(name)} {'compared as a list' if holds_lists else 'compared as a single value'}",
            f"{render(leaf)} {place}; it holds {'lists of ' + kind if holds_lists else f'one {kind} per item'}",
            f"write value in {render_name(name)}" if holds_lists else f"write {render_name(name)} == value",
        )
    single = kind.removesuffix("s")
    values = leaf.values if isinstance(leaf, IsIn) else (leaf.value,)
    for value in values:
        if kind_of(value) != single:
            raise ConfigError(
                f"{render_name(name)} compared with a {single}",
                f"{render(leaf)} {place}: {render_value(value)} is a {kind_of(value)}",
                "quote strings and nothing else" if single != "boolean" else "compare with true or false",
            )
    if isinstance(leaf, Compare) and single == "boolean" and leaf.operator not in ("==", "!="):
        raise ConfigError(
            f"== or != for the boolean {render_name(name)}", f"{leaf.operator} {place}", "use =="
        )


def render(node: Node) -> str:
    """A condition as text."""
    match node:
        case And(parts):
            return " and ".join(_grouped(part) for part in parts)
        case Or(parts):
            return " or ".join(_grouped(part) for part in parts)
        case Not(part):
            return f"not {_grouped(part)}"
        case Compare(name, operator, value):
            return f"{render_name(name)} {operator} {render_value(value)}"
        case IsIn(name, values, negated):
            listed = ", ".join(render_value(value) for value in values)
            return f"{render_name(name)} {'not ' if negated else ''}in [{listed}]"
        case Contains(value, name, negated):
            return f"{render_value(value)} {'not ' if negated else ''}in {render_name(name)}"
        case IsNull(name, negated):
            return f"{render_name(name)} is {'not ' if negated else ''}null"


def _grouped(node: Node) -> str:
    return f"({render(node)})" if isinstance(node, And | Or) else render(node)


def render_name(name: str) -> str:
    """An attribute's name, in backquotes unless it is a plain word."""
    return name if name.isidentifier() and name.lower() not in KEYWORDS else f"`{name}`"


def render_value(value: Value) -> str:
    """A value as it is written in a filter."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return quote(value) if isinstance(value, str) else render_number(value)


def render_number(value: float) -> str:
    """The shortest digits that give the same double; whole numbers without a fraction."""
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e16 else repr(float(value))


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def quote(text: str) -> str:
    """A string in double quotes; backslash, quote and control characters are escaped."""
    return '"' + "".join(_ESCAPES.get(c) or (f"\\u{ord(c):04x}" if ord(c) < 32 else c) for c in text) + '"'
