"""Rows of users and candidate items, encoded as the rows a ranker was trained on: what a second stage scores."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mmrec.data.histories import Histories, Ids
from mmrec.data.rows.catalogue import HISTORY, user_columns
from mmrec.data.rows.dataset import RowDataset
from mmrec.data.rows.parts import to_rows
from mmrec.data.rows.table import Lists, RowTable
from mmrec.errors import DataError


class CandidateRows:
    """Encodes pairs of users and items; the users are encoded once.

    Args:
        rows: A row dataset that was made from a dataset.

    Raises:
        DataError: It was made from tables, so that there is no catalogue to take candidates from.
    """

    def __init__(self, rows: RowDataset) -> None:
        catalogue = rows.catalogue
        if catalogue is None:
            raise DataError(
                "rows that were made from a dataset",
                f"rows of {rows.manifest['provenance'].get('importer')} in {rows.path}",
                f"mmrec data rows DATASET --to {rows.path}",
            )
        self._schema, self._n_users = rows.schema, catalogue.n_users
        everyone = np.arange(catalogue.n_users, dtype=np.int64)
        columns = user_columns(catalogue, self._schema, everyone)
        fields = {name: self._schema.fields[name] for name in columns}
        encoded = rows.encoder.encode(pa.table(columns), fields, "the users")
        encoded["label"] = pa.array(np.zeros(catalogue.n_users, dtype=np.int8))
        self._users = to_rows(pa.table(encoded)).columns

    def rows(self, users: Ids, items: Ids, histories: Histories | None = None) -> RowTable:
        """Pairs of users and candidates; their labels are 0 and mean nothing.

        Args:
            users: ``(m,)`` internal ids.
            items: ``(m,)`` internal ids.
            histories: Internal item ids of every user, oldest first, as in :attr:`mmrec.data.dataset.Split.train`; the
                latest are kept. None where rows have no histories.

        Raises:
            DataError: Rows have histories and none are given, or not those of all users.
        """
        columns: dict[str, NDArray[np.generic] | Lists] = {}
        for name in self._schema.fields:
            if name == self._schema.item:
                columns[name] = (items + 1).astype(np.int32)
            elif name == HISTORY:
                columns[name] = self._histories(users, histories)
            else:
                column = self._users[name]
                columns[name] = select_lists(column, users) if isinstance(column, Lists) else column[users]
        return RowTable(columns, np.zeros(len(users), dtype=np.int8), users)

    def _histories(self, users: Ids, histories: Histories | None) -> Lists:
        if histories is None or histories.n_users != self._n_users:
            raise DataError(
                f"a history for each of the {self._n_users:,} users",
                "none" if histories is None else f"{histories.n_users:,}",
                "give the histories by user: dataset.in_time(dataset.split().train)",
            )
        length = self._schema.fields[HISTORY].length
        ends = histories.offsets[users + 1]
        starts = np.maximum(histories.offsets[users], ends - length)
        return _gather(histories.items + 1, starts, ends - starts)


def candidate_rows(rows: RowDataset, users: Ids, items: Ids, histories: Histories | None = None) -> RowTable:
    """The rows of pairs; see :meth:`CandidateRows.rows`. For more than one call make a :class:`CandidateRows`."""
    return CandidateRows(rows).rows(users, items, histories)


def select_lists(lists: Lists, rows: Ids) -> Lists:
    """Some lists, as a new table of lists."""
    starts = lists.offsets[rows]
    return _gather(lists.values, starts, lists.offsets[rows + 1] - starts)


def _gather(values: NDArray[np.integer], starts: Ids, counts: Ids) -> Lists:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    flat = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, counts)
    return Lists(values[flat].astype(np.int32), offsets)
