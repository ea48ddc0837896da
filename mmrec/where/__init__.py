"""Filters over item attributes: ``price < 50 and category in ["toys", "games"] and in_stock``.

The language has comparisons (``== != < <= > >=``) of an attribute with a value, ``in`` and ``not in`` with a list of
values, membership in an attribute that holds lists (``"red" in colours``), ``is null``, ``is not null``, a boolean
attribute by itself (``in_stock``), ``and``, ``or``, ``not`` and parentheses. Values are numbers, strings in single
or double quotes (with ``\\\\ \\" \\' \\n \\r \\t \\uXXXX``), ``true`` and ``false``. Keywords may be in upper case. Names
that are no plain word stand in backquotes: `` `Main Category` ``. Strings compare exactly and order by code point.

Logic has two values. A comparison or membership, ``!=`` and ``not in`` included, is false for an item whose attribute
is missing, and ``not (...)`` is plain negation: ``not (price < 50)`` holds for items without a price, ``price >= 50``
does not. NaN and empty lists are missing values; the empty string is a value.
"""

from mmrec.where.attributes import Attributes
from mmrec.where.parser import parse
from mmrec.where.tree import Filter

__all__ = ["Attributes", "Filter", "parse"]
