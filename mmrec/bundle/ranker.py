"""The second stage of a bundle: probabilities of items for its users, and for strangers known by a history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.bundle.contents import Files
from mmrec.bundle.ids import check_histories, check_ids
from mmrec.bundle.inputs import parse_seen
from mmrec.bundle.manifest import (
    RANKER_CALIBRATION,
    RANKER_CHECKPOINT,
    RANKER_CONFIG,
    RANKER_HISTORIES,
    RANKER_INPUT_TENSORS,
    RANKER_INPUTS,
    Counts,
    RankerEntry,
)
from mmrec.bundle.model import rebuild
from mmrec.bundle.ranker_inputs import parse_ranker_inputs
from mmrec.bundle.reading import AGAIN, STRANGE, parse_json
from mmrec.calibrate import Calibration
from mmrec.config import ExperimentConfig
from mmrec.data.histories import Histories, Ids
from mmrec.data.rows.candidates import CandidateRows
from mmrec.errors import BundleError, ConfigError, DataError
from mmrec.evaluate_rows import score_rows
from mmrec.models.contracts import contract_of
from mmrec.rank import Ranking, rescore
from mmrec.registry import model_class

if TYPE_CHECKING:
    from torch import Tensor


class BundleRanker:
    """A ranker that is asked without the rows that it was trained on.

    Users of the bundle are known by their encoded attributes and by what they have in the training split. A stranger is
    encoded as rows of users are whom the training rows do not have, and whose attributes are missing: the user is the
    unknown one, of whom the metrics on held-out rows speak, too. Where each value has an id of its own (``min_count``
    1), no training row had the unknown user: its vector is still the one of the start, small and the same for all
    strangers. What the ranker cannot read, a history where rows have none, changes nothing.

    Ids are internal ones of the bundle. An item that came after the training is the unknown item.

    Attributes:
        config: Resolved config.
        entry: What the manifest says: what histories hold, what was measured, how it was calibrated.
        model: In evaluation mode.
        calibration: From logits to probabilities.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        entry: RankerEntry,
        model: Any,
        rows: CandidateRows,
        histories: Histories | None,
        calibration: Calibration,
        n_items: int,
    ) -> None:
        self.config, self.entry, self.model, self.calibration = config, entry, model, calibration
        self._rows, self._histories, self._n_items = rows, histories, n_items

    def logits(
        self,
        users: Sequence[int] | Ids | None,
        items: Sequence[int] | Ids,
        *,
        histories: Sequence[Sequence[int]] | None = None,
    ) -> NDArray[np.float32]:
        """Logits ``(m,)`` of items ``(m,)``, for a user or for a stranger each.

        Args:
            users: ``(m,)``, or ``(1,)`` for all items; None for strangers.
            items: ``(m,)``.
            histories: Items of each stranger, oldest first, m or 1 of them, in place of ``users``; the latest are read.
                ``entry.history`` says whether the ranker expects all items in them or positive ones alone.

        Raises:
            ConfigError: Not one of users and histories.
            DataError: No such internal ids, or neither one user nor as many as items.
        """
        targets = check_ids(items, self._n_items, "items")
        if (users is None) == (histories is None):
            raise ConfigError("users or histories", "both" if users is not None else "neither", "give one")
        if histories is None:
            assert users is not None
            return self._score(
                _one_each(check_ids(users, self._rows.n_users, "users"), len(targets)), targets, None
            )
        strangers = check_histories(histories, self._n_items)
        return self._score(_one_each(np.arange(strangers.n_users), len(targets)), targets, strangers)

    def probabilities(
        self,
        users: Sequence[int] | Ids | None,
        items: Sequence[int] | Ids,
        *,
        histories: Sequence[Sequence[int]] | None = None,
    ) -> NDArray[np.float64]:
        """Calibrated probabilities ``(m,)`` of a positive label; see :meth:`logits`."""
        return self.calibration.probabilities(self.logits(users, items, histories=histories))

    def over(
        self,
        score: Callable[[Ids], Tensor],
        candidates: int,
        *,
        strangers: Histories | None = None,
        exclude: Histories | None = None,
        permitted: Tensor | None = None,
    ) -> Callable[[Ids], Tensor]:
        """The scores of both stages, as of :meth:`mmrec.rerank.Reranker.over`.

        Args:
            score: Scores of the first stage; see :func:`mmrec.rank.rescore`.
            candidates: How many items of each user are scored again.
            strangers: Histories whose row numbers are the users' ids; None: the bundle's own users.
            exclude: Items that are no candidates.
            permitted: Mask ``(n_items,)`` of the items that may be.
        """
        import torch

        def again(users: Ids, items: Ids) -> Tensor:
            return torch.from_numpy(self._score(users, items, strangers))

        return rescore(score, again, candidates, exclude=exclude, permitted=permitted)

    def calibrated(self, ranking: Ranking) -> Ranking:
        """A ranking by logits with probabilities in their place."""
        return replace(ranking, scores=self.calibration.probabilities(ranking.scores).astype(np.float32))

    def _score(self, users: Ids, items: Ids, strangers: Histories | None) -> NDArray[np.float32]:
        """Logits ``(m,)`` of pairs; users are row numbers of the strangers, if there are some."""
        if strangers is None:
            rows = self._rows.rows(users, items, self._histories)
        else:
            nobody = np.full(len(users), self._rows.n_users, dtype=np.int64)
            rows = self._rows.rows(nobody, items, strangers, users)
        return score_rows(self.model, rows)


def _one_each(who: Ids, n: int) -> Ids:
    """One for each of n items.

    Raises:
        DataError: There are neither n nor one.
    """
    if len(who) not in (1, n):
        raise DataError(
            f"one user or history, or one for each of {n:,} items", f"{len(who):,}", "repeat them"
        )
    return np.ascontiguousarray(np.broadcast_to(who, n))


def read_ranker(files: Files, config: ExperimentConfig, entry: RankerEntry, counts: Counts) -> BundleRanker:
    """The ranker of a bundle.

    Args:
        files: Of the bundle.
        config: Checked content of ranker/config.json.
        entry: What the manifest says of it.
        counts: Users and items of the bundle.

    Raises:
        BundleError: It is damaged, or no ranker.
    """
    if contract_of(model_class(config.model)) != "ranker":
        raise BundleError(f"a model that scores rows in {RANKER_CONFIG}", config.model, STRANGE)
    inputs = files.read(RANKER_INPUTS), files.read(RANKER_INPUT_TENSORS)
    data, rows = parse_ranker_inputs(*inputs, counts)
    if (rows.history is None) != (entry.history is None):
        raise BundleError(
            f"the history of the manifest ({entry.history}) in {RANKER_INPUTS}", "another", AGAIN
        )
    histories = None
    if entry.history is not None:
        content = files.read(RANKER_HISTORIES)
        histories = parse_seen(content, counts.users, counts.items, where=RANKER_HISTORIES)
    try:
        document = parse_json(files.read(RANKER_CALIBRATION), RANKER_CALIBRATION)
        calibration = Calibration.parse(document, RANKER_CALIBRATION)
    except DataError as error:
        raise BundleError(error.expected, error.found, AGAIN) from None
    model = rebuild(config, data, files.read(RANKER_CHECKPOINT), RANKER_CHECKPOINT)
    return BundleRanker(config, entry, model, rows, histories, calibration, counts.items)
