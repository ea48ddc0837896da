"""Filters in the languages of the databases, with every string quoted: SQL for LanceDB, models for Qdrant, text for Milvus.

SQL and Milvus do not agree on missing attributes in what is negated, so there each predicate is guarded with
``is not null``. All numbers are stored as doubles, booleans as booleans, empty lists as missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmrec.errors import ConfigError
from mmrec.where.tree import (
    And,
    Compare,
    Contains,
    Filter,
    IsIn,
    IsNull,
    Node,
    Not,
    Or,
    Value,
    quote,
    render,
)

if TYPE_CHECKING:
    from qdrant_client import models

# Names that a database would read as something else, those of the columns beside the attributes among them.
_RESERVED = frozenset(
    {"id", "vector", "and", "or", "not", "in", "is", "null", "true", "false", "like", "exists", "between", "div", "mod",
     "text_match", "phrase_match", "random_sample"}
)  # fmt: skip


def column_name(attribute: str) -> str:
    """The name of an attribute's column in a database: itself where it is a plain word, else its bytes in hexadecimal.

    Different attributes get different names, and no name needs quoting.
    """
    plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", attribute) and not attribute.startswith("hex_")
    return attribute if plain and attribute.lower() not in _RESERVED else f"hex_{attribute.encode().hex()}"


# --- LanceDB and Milvus: text -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Dialect:
    name: Callable[[str], str]  # of an attribute
    value: Callable[[Value], str]
    equal: str
    brackets: str
    contains: Callable[[str, str], str]


def to_lance(filter: Filter) -> str:
    """SQL for LanceDB's ``where``."""
    return _text(filter.root, _LANCE, guarded=False)


def to_milvus(filter: Filter) -> str:
    """A boolean expression for Milvus."""
    return _text(filter.root, _MILVUS, guarded=False)


def _text(node: Node, dialect: _Dialect, *, guarded: bool) -> str:
    match node:
        case And(parts):
            return " and ".join(f"({_text(part, dialect, guarded=guarded)})" for part in parts)
        case Or(parts):
            return " or ".join(f"({_text(part, dialect, guarded=guarded)})" for part in parts)
        case Not(part):
            return f"not ({_text(part, dialect, guarded=True)})"
    name = dialect.name(node.attribute)
    if isinstance(node, IsNull):
        return f"{name} is {'not ' if node.negated else ''}null"
    if guarded or (not isinstance(node, Compare) and node.negated):
        return f"({name} is not null) and ({_leaf(node, name, dialect)})"
    return _leaf(node, name, dialect)


def _leaf(leaf: Compare | IsIn | Contains, name: str, dialect: _Dialect) -> str:
    match leaf:
        case Compare(_, operator, value):
            return f"{name} {dialect.equal if operator == '==' else operator} {dialect.value(value)}"
        case IsIn(_, values, negated):
            listed = ", ".join(map(dialect.value, values)).join(dialect.brackets)
            return f"{name} {'not in' if negated else 'in'} {listed}"
        case Contains(value, _, negated):
            return f"{'not ' if negated else ''}{dialect.contains(name, dialect.value(value))}"


def _sql_value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"cast({value!r} as double)"


def _milvus_value(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return quote(value) if isinstance(value, str) else repr(value)


_LANCE = _Dialect(
    name=lambda name: f"`{column_name(name)}`",
    value=_sql_value,
    equal="=",
    brackets="()",
    contains=lambda name, value: f"array_has({name}, {value})",
)
_MILVUS = _Dialect(
    name=column_name,
    value=_milvus_value,
    equal="==",
    brackets="[]",
    contains=lambda name, value: f"array_contains_any({name}, [{value}])",  # Lite: alone, no negative number
)


# --- Qdrant ------------------------------------------------------------------------------------------------------


def to_qdrant(filter: Filter) -> models.Filter:
    """A filter of qdrant-client's models.

    Raises:
        ConfigError: Strings are compared with < <= > >=, which Qdrant does for numbers only.
    """
    from qdrant_client import models

    return models.Filter(must=[_qdrant(filter.root)])


def _qdrant(node: Node) -> models.Condition:
    from qdrant_client import models

    match node:
        case And(parts):
            return models.Filter(must=[_qdrant(part) for part in parts])
        case Or(parts):
            return models.Filter(should=[_qdrant(part) for part in parts])
        case Not(part):
            return models.Filter(must_not=[_qdrant(part)])
    # a list counts as equal when one of its values is, and what is empty or not there is missing
    empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=column_name(node.attribute)))
    if isinstance(node, IsNull):
        return models.Filter(must_not=[empty]) if node.negated else empty
    if isinstance(node, Compare) and node.operator not in ("==", "!="):
        return _qdrant_range(node)
    values = node.values if isinstance(node, IsIn) else (node.value,)
    equal = [_qdrant_equal(node.attribute, value) for value in values]
    negated = node.operator == "!=" if isinstance(node, Compare) else node.negated
    return models.Filter(must_not=[empty, *equal]) if negated else models.Filter(should=equal)


def _qdrant_equal(attribute: str, value: Value) -> models.Condition:
    from qdrant_client import models

    key = column_name(attribute)
    if isinstance(value, bool | str):
        return models.FieldCondition(key=key, match=models.MatchValue(value=value))
    return models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))


def _qdrant_range(leaf: Compare) -> models.Condition:
    from qdrant_client import models

    if isinstance(leaf.value, str):
        raise ConfigError(
            "numbers compared with < <= > >=, as Qdrant cannot order strings",
            render(leaf),
            "use ==, != or in for strings, or another index",
        )
    bound = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}[leaf.operator]
    return models.FieldCondition(key=column_name(leaf.attribute), range=models.Range(**{bound: leaf.value}))
