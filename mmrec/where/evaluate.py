"""Which rows satisfy a condition: array operations, no Python per row."""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.where.attributes import Attributes, Column
from mmrec.where.tree import And, Compare, Contains, IsIn, IsNull, Node, Not, Or, Value

Mask = NDArray[np.bool_]
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def evaluate(node: Node, attributes: Attributes) -> Mask:
    """Mask ``(n,)`` of the rows that satisfy a checked condition."""
    match node:
        case And(parts):
            return reduce(np.logical_and, [evaluate(part, attributes) for part in parts])
        case Or(parts):
            return reduce(np.logical_or, [evaluate(part, attributes) for part in parts])
        case Not(part):
            return ~evaluate(part, attributes)
        case IsNull(name, negated):
            return attributes.columns[name].missing ^ negated
        case Compare(name, sign, value):
            return _compare(attributes.columns[name], sign, value)
        case IsIn(name, values, negated):
            column = attributes.columns[name]
            found = _is_in(column, values)
            return ~found & ~column.missing if negated else found
        case Contains(value, name, negated):
            column = attributes.columns[name]
            found = _contains(column, value)
            return ~found & ~column.missing if negated else found


def _compare(column: Column, sign: str, value: Value) -> Mask:
    """Mask over ``column.values``; false where missing."""
    if column.words is None:
        found = np.asarray(_OPERATORS[sign](column.values, value))
        return found & ~column.missing if sign == "!=" or column.kind == "boolean" else found  # NaN: only !=
    # Words are in order: comparing strings is comparing their places with where the value is or would be.
    places, left, right = column.values, bisect_left(column.words, value), bisect_right(column.words, value)
    match sign:
        case "==":
            return (places >= left) & (places < right)
        case "!=":
            return (places >= 0) & ((places < left) | (places >= right))
        case "<" | "<=":
            return (places >= 0) & (places < (left if sign == "<" else right))
        case _:
            return np.asarray(places >= (left if sign == ">=" else right))


def _is_in(column: Column, values: Sequence[Value]) -> Mask:
    if column.words is None:
        return np.isin(column.values, np.array(values, dtype=column.values.dtype))
    ranges = [(bisect_left(column.words, value), bisect_right(column.words, value)) for value in values]
    return np.isin(column.values, [left for left, right in ranges if left < right])


def _contains(column: Column, value: Value) -> Mask:
    assert column.offsets is not None
    flat = Column(column.kind.removesuffix("s"), column.values, column.words)
    rows = np.searchsorted(column.offsets, np.flatnonzero(_compare(flat, "==", value)), side="right") - 1
    found = np.zeros(len(column.offsets) - 1, dtype=bool)
    found[rows] = True
    return found
