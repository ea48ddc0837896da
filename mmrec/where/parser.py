"""From the text of a filter to its tree: a tokenizer and a recursive-descent parser.

condition := conjunction ("or" conjunction)*
conjunction := negation ("and" negation)*
negation := "not" negation | "(" condition ")" | predicate
predicate := attribute | operand comparison operand | attribute "is" ["not"] "null"
           | attribute ["not"] "in" "[" value ("," value)* "]" | value ["not"] "in" attribute
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from mmrec.errors import ConfigError
from mmrec.where.attributes import LARGEST
from mmrec.where.tree import (
    COMPARISONS,
    KEYWORDS,
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
)

MAX_LENGTH = 50_000  # characters
MAX_DEPTH = 50  # of parentheses and "not"
MAX_LIST = 1_000  # values

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<word>[^\W\d]\w*)
      | (?P<name>`[^`]+`)
      | (?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<sign>==|!=|<=|>=|[<>()\[\],-])""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"\\": "\\", '"': '"', "'": "'", "n": "\n", "r": "\r", "t": "\t"}
_MIRRORED = {"==": "==", "!=": "!=", "<": ">", ">": "<", "<=": ">=", ">=": "<="}
_FOREIGN = {"=": "write == to compare", "&": "write and", "|": "write or", "!": "write not, or !="}


def parse(text: str) -> Filter:
    """Read a filter.

    Args:
        text: For example ``price < 50 and category in ["toys", "games"]``; see :mod:`mmrec.where`.

    Raises:
        ConfigError: The text is no filter, or too long, too deep or too large a list; it names the place.
    """
    if len(text) > MAX_LENGTH:
        raise ConfigError(
            f"a filter of at most {MAX_LENGTH:,} characters",
            f"{len(text):,}",
            "pass long lists of items as allow or deny",
        )
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise ConfigError("a filter in Unicode", repr(text), "leave out halves of surrogate pairs")
    return Filter(_Parser(text).parse())


@dataclass(frozen=True)
class _Token:
    kind: str  # number, name, string, sign, keyword or end
    text: str
    position: int


@dataclass(frozen=True)
class _Attribute:
    name: str
    position: int


class _Parser:
    """Reads tokens from left to right; each method reads one rule of the grammar."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._split()
        self.next = 0
        self.depth = 0

    def parse(self) -> Node:
        node = self._condition()
        if self._peek().kind != "end":
            self._fail("and, or, or the end of the filter")
        return node

    # --- rules ---------------------------------------------------------------------------------------------------

    def _condition(self) -> Node:
        parts = [self._conjunction()]
        while self._take("or"):
            parts.append(self._conjunction())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def _conjunction(self) -> Node:
        parts = [self._negation()]
        while self._take("and"):
            parts.append(self._negation())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def _negation(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self._fail(f"at most {MAX_DEPTH} levels of parentheses and not", do="write the condition flatter")
        node: Node
        if self._take("not"):
            node = Not(self._negation())
        elif self._take("("):
            node = self._condition()
            if not self._take(")"):
                self._fail("and, or, or a closing parenthesis")
        else:
            node = self._predicate()
        self.depth -= 1
        return node

    def _predicate(self) -> Node:
        position = self._peek().position
        left = self._operand()
        token = self._peek()
        if token.text in COMPARISONS and token.kind == "sign":
            return self._comparison(left, position)
        negated = token.text == "not" and token.kind == "keyword"
        if negated:
            self.next += 1
        if self._take("in"):
            return self._membership(left, negated, position)
        if negated:
            self._fail("in after not")
        if not isinstance(left, _Attribute):
            self._fail("a comparison such as price < 50, or in")
        if self._take("is"):
            negated = self._take("not")
            if not self._take("null"):
                self._fail("null after is", do="write is null or is not null; compare other values with ==")
            return IsNull(left.name, negated, left.position)
        return Compare(left.name, "==", True, left.position)

    def _comparison(self, left: _Attribute | Value, position: int) -> Compare:
        operator = self._advance().text
        right = self._operand()
        if isinstance(left, _Attribute) and not isinstance(right, _Attribute):
            return Compare(left.name, operator, right, left.position)
        if isinstance(right, _Attribute) and not isinstance(left, _Attribute):
            return Compare(right.name, _MIRRORED[operator], left, right.position)
        both = "two attributes" if isinstance(left, _Attribute) else "two values"
        return self._fail("an attribute compared with a value", found=both, position=position)

    def _membership(self, left: _Attribute | Value, negated: bool, position: int) -> Node:
        if isinstance(left, _Attribute):
            return IsIn(left.name, self._list(), negated, left.position)
        right = self._operand()
        if not isinstance(right, _Attribute):
            self._fail("the name of an attribute that holds lists", position=position)
        return Contains(left, right.name, negated, right.position)

    def _list(self) -> tuple[Value, ...]:
        if not self._take("["):
            self._fail(
                "a list such as [1, 2] after in", do="for an attribute that holds lists: value in attribute"
            )
        values: list[Value] = []
        while True:
            value = self._operand()
            if isinstance(value, _Attribute):
                self._fail(
                    "a value in the list", found=value.name, position=value.position, do="quote strings"
                )
            values.append(value)
            if len(values) > MAX_LIST:
                self._fail(f"at most {MAX_LIST:,} values in a list", do="pass items as allow or deny")
            if self._take("]"):
                return tuple(values)
            if not self._take(","):
                self._fail("a comma or ] in the list")

    def _operand(self) -> _Attribute | Value:
        token = self._peek()
        if token.kind == "name":
            self.next += 1
            return _Attribute(token.text, token.position)
        if token.kind == "string":
            self.next += 1
            return self._unquote(token)
        if token.text in ("true", "false") and token.kind == "keyword":
            self.next += 1
            return token.text == "true"
        if token.text == "-" and token.kind == "sign":
            self.next += 1
            return -self._number()
        if token.kind == "number":
            return self._number()
        null = token.text == "null" and token.kind == "keyword"
        return self._fail("an attribute or a value", do="write is null or is not null" if null else None)

    def _number(self) -> float:
        token = self._peek()
        if token.kind != "number":
            self._fail("a number after -")
        value = float(token.text)
        whole = not any(mark in token.text for mark in ".eE")
        if value > (LARGEST if whole else 1e300):
            self._fail("a number that double precision holds", do="store long ids as strings")
        self.next += 1
        return value

    # --- tokens --------------------------------------------------------------------------------------------------

    def _split(self) -> list[_Token]:
        tokens = []
        position = 0
        while position < len(self.text):
            match = _TOKEN.match(self.text, position)
            if match is None:
                character = self.text[position]
                what = "a closing quote" if character in "\"'`" else "a name, a value or an operator"
                do = _FOREIGN.get(character)
                self._fail(what, found=repr(character), position=position, do=do)
            kind, text = str(match.lastgroup), match.group()
            if kind == "word":
                kind, text = ("keyword", text.lower()) if text.lower() in KEYWORDS else ("name", text)
            elif kind == "name":
                text = text[1:-1]
            if kind != "space":
                tokens.append(_Token(kind, text, position))
            position = match.end()
        return [*tokens, _Token("end", "", len(self.text))]

    def _unquote(self, token: _Token) -> str:
        def one(match: re.Match[str]) -> str:
            code = match.group(1)
            if len(code) == 5:
                return chr(int(code[1:], 16))
            if code not in _ESCAPED:
                self._fail(
                    "one of the escapes \\\\ \\\" \\' \\n \\r \\t \\uXXXX",
                    found=match.group(),
                    position=token.position + 1 + match.start(),
                    do="write \\\\ for a backslash",
                )
            return _ESCAPED[code]

        text = _ESCAPE.sub(one, token.text[1:-1])
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
            self._fail(
                "text without NUL and halves of surrogate pairs", found=token.text, position=token.position
            )
        return text

    def _peek(self) -> _Token:
        return self.tokens[self.next]

    def _advance(self) -> _Token:
        token = self.tokens[self.next]
        self.next += 1
        return token

    def _take(self, text: str) -> bool:
        """Step over a keyword or sign if it is next."""
        token = self._peek()
        if token.kind not in ("keyword", "sign") or token.text != text:
            return False
        self.next += 1
        return True

    def _fail(
        self, expected: str, *, found: str | None = None, position: int | None = None, do: str | None = None
    ) -> NoReturn:
        if position is None:
            token = self._peek()
            position, found = token.position, found or token.text
        start = max(0, position - 30)
        cut = self.text[start : position + 30]
        raise ConfigError(
            f"{expected} at character {position + 1} of the filter",
            f"{found or 'the end' if position >= len(self.text) else found} in {cut!r}",
            do or 'a filter looks like price < 50 and category in ["toys", "games"] and not "red" in colours',
        )
