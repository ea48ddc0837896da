"""Items per user in compressed rows: the one shape in which interactions are read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Histories:
    """The items of each user, in the order of the interactions.

    Attributes:
        offsets: ``(n_users + 1,)``; the items of user u are ``items[offsets[u]:offsets[u + 1]]``.
        items: ``(n,)`` internal item ids.
    """

    offsets: Ids
    items: Ids

    @classmethod
    def from_pairs(cls, users: Ids, items: Ids, n_users: int) -> Histories:
        """Group pairs by user; the order inside a user is that of the input."""
        order = np.argsort(users, kind="stable")
        offsets = np.zeros(n_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(users, minlength=n_users), out=offsets[1:])
        return cls(offsets, np.ascontiguousarray(items[order], dtype=np.int64))

    @classmethod
    def empty(cls, n_users: int) -> Histories:
        """Histories without any item."""
        return cls(np.zeros(n_users + 1, dtype=np.int64), np.zeros(0, dtype=np.int64))

    @property
    def n_users(self) -> int:
        """Number of rows."""
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> Ids:
        """``(n_users,)`` number of items of each user."""
        return np.diff(self.offsets)

    @property
    def users(self) -> Ids:
        """``(n,)`` the user of each entry of :attr:`items`."""
        return np.repeat(np.arange(self.n_users, dtype=np.int64), self.counts)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the content, in hex digits: the name under which results derived from it are kept."""
        return hashlib.sha256(self.offsets.tobytes() + self.items.tobytes()).hexdigest()

    def matrix(self, n_items: int) -> sparse.csr_array:
        """``(n_users, n_items)`` float32 with ones; an item that a history has twice counts twice."""
        ones = np.ones(len(self.items), dtype=np.float32)
        return sparse.csr_array((ones, self.items, self.offsets), shape=(self.n_users, n_items))

    def __getitem__(self, user: int) -> Ids:
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def select(self, users: Ids) -> Histories:
        """The histories of ``users`` in that order, as rows 0, 1, …"""
        counts = self.counts[users]
        offsets = np.zeros(len(users) + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        flat = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], counts)
        return Histories(offsets, self.items[np.repeat(self.offsets[users], counts) + flat])

    def union(self, other: Histories) -> Histories:
        """Both histories of each user, this one's items first."""
        users = np.concatenate([self.users, other.users])
        return Histories.from_pairs(users, np.concatenate([self.items, other.items]), self.n_users)
