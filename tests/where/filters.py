"""Random tables and filters, and the slowest reading of what a filter means: row by row in plain Python."""

from __future__ import annotations

import random
from typing import Any

import pandas as pd
from hypothesis import strategies as st

from mmrec.where.tree import COMPARISONS, And, Compare, Contains, IsIn, IsNull, Node, Not, Or, Value

TEXTS = [
    "",
    "toys",
    "Toys",
    "it's",
    'a "b"',
    "\\",
    "tab\tline\n",
    "zażółć 猫",
    "x' OR 1=1 --",
    '"] or true',
    "a",
]
NUMBERS = [0.0, -1.5, 3.0, 49.99, 1e-9, 123456789.0, 1.0 - 2.0**53]
KINDS = {
    "price": "number", "category": "string", "in_stock": "boolean", "colours": "strings", "sizes": "numbers",
    "Main Category": "string", "or": "number", "größe": "number", "Price": "string", "order": "number",
}  # fmt: skip
_VALUES: dict[str, st.SearchStrategy[Value]] = {
    "number": st.sampled_from(NUMBERS),
    "string": st.sampled_from(TEXTS),
    "boolean": st.booleans(),
}


def _leaves(ordered_strings: bool) -> st.SearchStrategy[Node]:
    leaves: list[st.SearchStrategy[Node]] = []
    for name, kind in KINDS.items():
        value = _VALUES[kind.removesuffix("s")]
        leaves.append(st.builds(IsNull, st.just(name), st.booleans()))
        if kind.endswith("s"):
            leaves.append(st.builds(Contains, value, st.just(name), st.booleans()))
            continue
        ordered = kind == "number" or (kind == "string" and ordered_strings)
        signs = COMPARISONS if ordered else ("==", "!=")
        leaves.append(st.builds(Compare, st.just(name), st.sampled_from(signs), value))
        values = st.lists(value, min_size=1, max_size=3).map(tuple)
        leaves.append(st.builds(IsIn, st.just(name), values, st.booleans()))
    return st.one_of(leaves)


def _grow(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    several = st.lists(nodes, min_size=2, max_size=3).map(tuple)
    return st.one_of(st.builds(Not, nodes), st.builds(And, several), st.builds(Or, several))


nodes = st.recursive(_leaves(True), _grow, max_leaves=6)
nodes_without_string_order = st.recursive(_leaves(False), _grow, max_leaves=6)


def make_table(n: int, seed: int = 0) -> pd.DataFrame:
    """Random items; a third of the cells are missing."""
    draw = random.Random(seed)
    columns: dict[str, pd.Series[Any]] = {}
    for name, kind in KINDS.items():
        pool: list[Any] = {"number": NUMBERS, "string": TEXTS, "boolean": [True, False]}[
            kind.removesuffix("s")
        ]
        if kind.endswith("s"):
            cells = [
                draw.choice([None, draw.choices(pool, k=draw.randrange(4)), [pool[2]]]) for _ in range(n)
            ]
        else:
            cells = [draw.choice([None, draw.choice(pool), draw.choice(pool)]) for _ in range(n)]
        columns[name] = pd.Series(cells, dtype=object)
    return pd.DataFrame(columns)


def holds(node: Node, row: dict[str, Any]) -> bool:
    """Whether a condition holds for one row."""
    match node:
        case And(parts):
            return all(holds(part, row) for part in parts)
        case Or(parts):
            return any(holds(part, row) for part in parts)
        case Not(part):
            return not holds(part, row)
    cell = row[node.attribute]
    missing = cell is None or cell == []
    match node:
        case IsNull(_, negated):
            return missing != negated
        case IsIn(_, values, negated):
            return not missing and (cell in values) != negated
        case Contains(value, _, negated):
            return not missing and (value in cell) != negated
        case Compare(_, sign, value):
            if missing:
                return False
            return {
                "==": lambda: cell == value, "!=": lambda: cell != value, "<": lambda: cell < value,
                "<=": lambda: cell <= value, ">": lambda: cell > value, ">=": lambda: cell >= value,
            }[sign]()  # fmt: skip
    raise AssertionError(node)


def pandas_mask(node: Node, table: pd.DataFrame) -> pd.Series[bool]:
    """The rows that a condition holds for, by the operations of pandas."""
    match node:
        case And(parts):
            return pd.concat([pandas_mask(part, table) for part in parts], axis=1).all(axis=1)
        case Or(parts):
            return pd.concat([pandas_mask(part, table) for part in parts], axis=1).any(axis=1)
        case Not(part):
            return ~pandas_mask(part, table)
    column = table[node.attribute]
    present = column.notna()
    if KINDS[node.attribute].endswith("s"):  # an empty list is missing
        present &= column.map(len, na_action="ignore") != 0
    match node:
        case IsNull(_, negated):
            return present if negated else ~present
        case IsIn(_, values, negated):
            return present & (column.isin(values) != negated)
        case Contains(value, _, negated):
            exploded = column.explode()
            return present & ((exploded == value).groupby(level=0).any() != negated)
        case Compare(_, sign, value):
            found = column.dropna().infer_objects()
            operations = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
            return getattr(found, operations[sign])(value).reindex(table.index, fill_value=False)
    raise AssertionError(node)
