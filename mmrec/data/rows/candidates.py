"""Rows of users and candidate items, encoded as the rows a ranker was trained on: what a second stage scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmrec.data.histories import Histories, Ids
from mmrec.data.rows.catalogue import HISTORY, USER, user_columns
from mmrec.data.rows.dataset import RowDataset
from mmrec.data.rows.parts import to_rows
from mmrec.data.rows.table import HistoryField, Lists, RowTable
from mmrec.errors import DataError


@dataclass(frozen=True, eq=False)
class CandidateRows:
    """Encodes pairs of users and items; the users were encoded once.

    The last row of the users' columns stands for strangers, encoded as a row of somebody whom training rows do not
    have and of whom nothing is known: the id of the user is the unknown one, every attribute is missing.

    Attributes:
        users: The users' fields ``(n_users + 1,)`` or lists, in the order of a row.
        item: Name of the item field.
        n_items: Items that have an id; items beyond them get the unknown one.
        history: The history of a row; None where rows have none.
    """

    users: Mapping[str, NDArray[np.generic] | Lists]
    item: str
    n_items: int
    history: HistoryField | None

    @classmethod
    def of(cls, rows: RowDataset) -> Self:
        """For the users of the dataset that rows were made from.

        Raises:
            DataError: They were made from tables, so that there is no catalogue to take candidates from.
        """
        catalogue = rows.catalogue
        if catalogue is None:
            raise DataError(
                "rows that were made from a dataset",
                f"rows of {rows.manifest['provenance'].get('importer')} in {rows.path}",
                f"mmrec data rows DATASET --to {rows.path}",
            )
        encoder, schema = rows.encoder, rows.schema
        columns = user_columns(catalogue, schema, np.append(np.arange(catalogue.n_users), -1))
        fields = {name: schema.fields[name] for name in columns}
        encoded = encoder.encode(pa.table(columns), fields, "the users")
        ids = np.append(encoded[USER].to_numpy()[:-1], encoder.coders[USER].size - 1)
        encoded[USER] = pa.array(ids, pa.int32())
        encoded["label"] = pa.array(np.zeros(catalogue.n_users + 1, dtype=np.int8))
        history = next((one for one in rows.histories if one.name == HISTORY), None)
        return cls(to_rows(pa.table(encoded)).columns, str(schema.item), catalogue.n_items, history)

    @property
    def n_users(self) -> int:
        """Users that are known; also the row of a stranger."""
        return len(self.users[USER]) - 1

    def rows(
        self, users: Ids, items: Ids, histories: Histories | None = None, places: Ids | None = None
    ) -> RowTable:
        """Pairs of users and candidates; their labels are 0 and mean nothing.

        Args:
            users: ``(m,)`` internal ids; :attr:`n_users` for a stranger.
            items: ``(m,)`` internal ids.
            histories: Internal item ids of every user, oldest first, as in :attr:`mmrec.data.dataset.Split.train`; the
                latest are kept. None where rows have no histories.
            places: ``(m,)`` which of the histories each pair has, if not that of its user.

        Raises:
            DataError: Rows have histories and none are given, or not those of all users.
        """
        columns: dict[str, NDArray[np.generic] | Lists] = {
            name: select_lists(column, users) if isinstance(column, Lists) else column[users]
            for name, column in self.users.items()
        }
        columns[self.item] = self._item_ids(items)
        if self.history is not None:
            if histories is None or (places is None and histories.n_users != self.n_users):
                raise DataError(
                    f"a history for each of the {self.n_users:,} users",
                    "none" if histories is None else f"{histories.n_users:,}",
                    "give the histories by user: dataset.in_time(dataset.split().train)",
                )
            columns[self.history.name] = self._latest(histories, users if places is None else places)
        return RowTable(columns, np.zeros(len(users), dtype=np.int8), users)

    def _item_ids(self, items: NDArray[np.integer]) -> NDArray[np.int32]:
        return np.asarray(np.minimum(items, self.n_items) + 1, dtype=np.int32)

    def _latest(self, histories: Histories, places: Ids) -> Lists:
        assert self.history is not None
        ends = histories.offsets[places + 1]
        starts = np.maximum(histories.offsets[places], ends - self.history.length)
        found = _gather(histories.items, starts, ends - starts)
        return Lists(self._item_ids(found.values), found.offsets)


def select_lists(lists: Lists, rows: Ids) -> Lists:
    """Some lists, as a new table of lists."""
    starts = lists.offsets[rows]
    return _gather(lists.values, starts, lists.offsets[rows + 1] - starts)


def _gather(values: NDArray[np.integer], starts: Ids, counts: Ids) -> Lists:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    flat = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, counts)
    return Lists(values[flat].astype(np.int32), offsets)
