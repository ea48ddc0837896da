"""Looking for ids and titles by a part of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate


class Names:
    """Ids and titles in one text, in which a part of them is found without Python per entry.

    Args:
        ids: Of the entries.
        titles: Of the entries; empty where there is none.
    """

    def __init__(self, ids: Sequence[str], titles: Sequence[str] | None = None) -> None:
        self.ids = ids
        self.titles = titles
        # a line each: id, a character that no query can hold, title
        lines = [
            "\0".join(" ".join(part.split()) for part in parts).casefold()
            for parts in zip(ids, titles if titles is not None else [""] * len(ids), strict=True)
        ]
        self._text = "\n".join(lines)
        self._starts = [0, *accumulate(len(line) + 1 for line in lines)]

    def find(self, query: str, limit: int) -> list[int]:
        """Places of the first entries whose id or title holds ``query``, whatever the case; an empty one is in all."""
        wanted = " ".join(query.replace("\0", " ").split()).casefold()
        found: list[int] = []
        position = self._text.find(wanted) if len(self.ids) else -1
        while position >= 0 and len(found) < limit:
            place = bisect_right(self._starts, position) - 1
            found.append(place)
            position = self._text.find(wanted, self._starts[place + 1])
        return found
