"""Two stages as one: a retriever's candidates, ranked again by a ranker, evaluated as one pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmrec.data.histories import Histories, Ids
from mmrec.data.rows.candidates import CandidateRows
from mmrec.data.rows.catalogue import positives
from mmrec.data.rows.dataset import RowDataset
from mmrec.data.rows.schema import LabelRule
from mmrec.errors import ConfigError, DataError
from mmrec.evaluate import (
    check_part,
    known_and_hidden,
    protocol,
    rank_and_measure,
    record_opening,
    settings_of,
    table_of,
)
from mmrec.evaluate_rows import score_rows
from mmrec.files import write_json, write_table
from mmrec.models.contracts import reads_sequences, scoring
from mmrec.rank import rescore
from mmrec.results import table_file
from mmrec.runs import Run
from mmrec.significance import Floats, holm, paired_bootstrap

if TYPE_CHECKING:
    from mmrec.data.dataset import Dataset, Split

RESAMPLES = 10_000


class Reranker:
    """A trained ranker that orders candidates of the dataset its rows were made from.

    Args:
        run: A finished run of a ranker.
        dataset: The dataset that the candidates come from.
        split: Its split; the ranker may have learned from the training part of no other.

    Attributes:
        run: The run.
        dataset: The dataset.
        rows: What the ranker was trained on.
        data: What its model was built from.
        model: The model.
        candidates: Encodes pairs.

    Raises:
        ConfigError: No ranker, or one that was trained without the real histories.
        DataError: Its rows were made from another dataset or split.
    """

    def __init__(self, run: str | Path | Run, dataset: Dataset, split: Split) -> None:
        self.run = run if isinstance(run, Run) else Run(run)
        rows = self.run.data()
        if not isinstance(rows, RowDataset):
            raise ConfigError(
                "a run of a ranker to rank again by",
                f"{self.run.path} of {self.run.config.model}, which scores no rows",
                "train one on rows of this dataset: mmrec data rows, mmrec train din (mmrec models lists the rankers)",
            )
        made = rows.manifest.get("catalogue") or {}
        if made.get("hash") != dataset.hash or made.get("split_hash") != split.hash:
            raise DataError(
                f"a ranker of rows made from {dataset.name} and its split {split.name!r} ({split.hash[:12]}…)",
                f"{rows.path}, made from {'another split' if made.get('hash') == dataset.hash else 'other data'}: the ranker may know what is held out here",
                f"mmrec data rows {dataset.path} --split {split.name} --to NEW_FOLDER, and train the ranker on them",
            )
        if self.run.config.histories != "real":
            raise ConfigError(
                "a ranker that was trained with the real histories",
                f"{self.run.path} with histories: {self.run.config.histories}",
                "train one without that key: it is for finding out what histories are worth",
            )
        self.dataset, self.rows, self.candidates = dataset, rows, CandidateRows.of(rows)
        self.data = self.run.training_data(rows, self.run.split(rows))
        self.model = self.run.model(self.data)

    @property
    def label(self) -> str | None:
        """What makes an interaction positive; None: all are, and negatives were drawn."""
        label: str | None = self.rows.manifest["provenance"]["options"]["label"]
        return label

    @property
    def history_of(self) -> Literal["positives", "all"] | None:
        """Which items of a user histories hold; None where rows have no histories."""
        held: Literal["positives", "all"] = self.rows.manifest["provenance"]["options"]["history_of"]
        return held if self.rows.histories else None

    def histories(self, known: Histories) -> Histories | None:
        """What rows would say of users who have the items ``known``; None where rows have no histories.

        Oldest first, and only positive ones where the rows' histories hold no others.
        """
        held = self.history_of
        if held is None:
            return None
        known = self.dataset.in_time(known)
        if self.label is None or held == "all":
            return known
        table, n_items = self.dataset.interactions, self.dataset.n_items
        positive = positives(self.dataset, LabelRule.parse(self.label))
        pairs = table["user"].to_numpy() * n_items + table["item"].to_numpy()
        kept = np.isin(known.users * n_items + known.items, pairs[positive])
        return Histories.from_pairs(known.users[kept], known.items[kept], known.n_users)

    def logits(self, users: Ids, items: Ids, histories: Histories | None) -> Tensor:
        """Logits ``(m,)`` of pairs of users and items, each user known by :meth:`histories`."""
        return torch.from_numpy(score_rows(self.model, self.candidates.rows(users, items, histories)))

    def over(
        self,
        score: Callable[[Ids], Tensor],
        candidates: int,
        *,
        histories: Histories | None,
        exclude: Histories,
    ) -> Callable[[Ids], Tensor]:
        """The scores of both stages: logits of each user's first candidates, -inf for all other items.

        Args:
            score: The retriever's scores ``(b, n_items)`` of a block of users.
            candidates: How many of its items are ranked again.
            histories: What the ranker knows of each user.
            exclude: Items that are no candidates.
        """
        return rescore(
            score, lambda users, items: self.logits(users, items, histories), candidates, exclude=exclude
        )


def evaluate_reranked(
    run: Run | str | Path,
    ranker: Run | str | Path,
    split: str = "test",
    *,
    candidates: int = 100,
    data: str | Path | None = None,
    mask: str | None = None,
) -> dict[str, Any]:
    """Evaluate a retriever with a ranker behind it as one pipeline.

    Each user's first ``candidates`` items by the retriever are ordered by the ranker's logits; nothing else is
    recommended. The result goes into the retriever's run folder, ``rerank/RANKER/<split>.json`` and the table per
    user; looking at the test part is recorded in both manifests.

    Args:
        run: A finished run of a model that ranks the catalogue.
        ranker: A finished run of a ranker of rows that were made from the same dataset and split.
        split: ``valid`` or ``test``.
        candidates: How many items of each user are ranked again.
        data: Where the dataset is now, if it has moved.
        mask: As in :func:`mmrec.evaluate.evaluate`.

    Returns:
        ``{"run", "ranker", "split", "n_users", "candidates", "metrics", "retriever", "gain", "protocol"}``: metrics of
        the pipeline and of the retriever alone; ``gain`` holds by metric the mean difference, its 95 % interval and p
        (paired bootstrap over users, 10,000 resamples, Holm-corrected over the metrics).

    Raises:
        ConfigError: No ranker, or fewer candidates than the longest list.
        DataError: The ranker's rows were made from another dataset or split.
        NotFittedError: A run is not finished.
    """
    run = run if isinstance(run, Run) else Run(run)
    check_part(run, split)
    settings = settings_of(run, split, mask)
    if candidates < max(settings.ks):
        raise ConfigError(
            f"at least {max(settings.ks)} candidates, the length of the longest list",
            str(candidates),
            "--candidates with a larger number, or evaluate.ks with smaller ones",
        )
    dataset = run.dataset(data)
    parts = run.split(dataset)
    second = Reranker(ranker, dataset, parts)
    check_part(second.run, split)
    model = run.model(run.training_data(dataset, parts))
    known, hidden = known_and_hidden(parts, settings)
    histories = dataset.in_time(known) if reads_sequences(model) else known
    score = scoring(model, histories, k=candidates, exclude=hidden)
    both = second.over(score, candidates, histories=second.histories(known), exclude=hidden)
    held = parts.valid if split == "valid" else parts.test
    alone, joined = (
        rank_and_measure(one, parts.train, held, dataset.n_items, settings.ks, mask=hidden)
        for one in (score, both)
    )
    document = {
        "run": str(run.path),
        "ranker": str(second.run.path),
        "split": split,
        "n_users": len(joined.users),
        "candidates": candidates,
        "metrics": joined.metrics,
        "retriever": alone.metrics,
        "gain": _gain(joined.per_user, alone.per_user),
        "protocol": protocol(dataset, parts, settings),
    }
    folder = run.path / "rerank" / second.run.path.resolve().name
    if split == "test":
        record_opening(run, document, ranker=str(second.run.path))
        record_opening(second.run, document, retriever=str(run.path))
    write_table(folder / table_file("per_user", split), table_of(joined, dataset))
    write_json(folder / f"{split}.json", document)
    return document


def _gain(joined: Mapping[str, Floats], alone: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
    names = list(joined)
    differences = np.stack([joined[name] - alone[name] for name in names], axis=1)
    test = paired_bootstrap(differences, RESAMPLES, np.random.default_rng(0))
    corrected = holm(test.p)
    columns = (test.mean, test.low, test.high, test.p, corrected)
    keys = ("mean", "low", "high", "p", "p_holm")
    return {
        name: {key: float(column[place]) for key, column in zip(keys, columns, strict=True)}
        for place, name in enumerate(names)
    }
