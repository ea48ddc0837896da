"""What a model has to offer, structurally: no base class, only these methods and a few class attributes.

A model class declares in one line each::

    batches = "pairs"          # what it trains on; None for closed forms, which have fit(data) instead of loss
    modalities = "required"    # "none", "optional" or "required": does it read item features
    cold_items = True          # scores items without training interactions by something better than chance

    config_type = Config       # a frozen pydantic model in the same file

and is built by ``__init__(self, config, data)`` with :class:`mmrec.data.dataset.TrainingData`, or, where it ranks rows
(``batches = "rows"``), with :class:`mmrec.data.rows.table.RowData`. The kinds of batches are those of
:data:`mmrec.data.batches.BATCHES`; a model of sequences also says ``max_length``, how far back it looks, one of
sets ``max_items``, how many it looks at, and ``targets``, for how many others at once, and a model of semantic IDs
``codes``: "one" table or "several".

Optional, found by name: ``on_epoch(generator)``, called at the start of every training epoch;
``explain(users) -> Explanation``, for ``mmrec explain``; ``rescore(speller, spell) -> (b, n_items)`` of a generator that
takes what it spelt, ``spell()``, as candidates only; ``extend(features) -> (m, d)``, the vectors of new items, given as
tables of their features by modality, without training anything; ``grows``, True where the class built with more items has
the tensors of a trained one with rows of zeros for the new items, and gives these what it gives items that nobody had;
``knows_users``, True where a score depends on which user it is for
and not on the history alone, so that nobody unknown can be recommended anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from mmrec.beam import Beams, Speller, generate
from mmrec.codes.trie import Trie
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories, Ids
from mmrec.data.rows.table import RowBatch

BEAMS_AT_ONCE = 4096  # of all users together; what each has spelt takes some 50 KB


class ModelConfig(BaseModel):
    """Base of the models' configs: frozen, and unknown keys and infinite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


@dataclass(frozen=True, eq=False)
class Users:
    """A block of users to score: who they are and what they did.

    Attributes:
        ids: ``(b,)`` internal user ids.
        histories: Row j holds the items by which ``ids[j]`` is known; oldest first for models of sequences.
    """

    ids: Ids
    histories: Histories

    @classmethod
    def of(cls, histories: Histories, ids: Ids) -> Users:
        """The users ``ids`` with their histories."""
        return cls(ids, histories.select(ids))


@dataclass(frozen=True, eq=False)
class Vectors:
    """Vectors whose inner products are the scores, computed once in evaluation mode.

    Attributes:
        items: ``(n_items, d)``.
        encode: Gives the vectors ``(b, d)`` of a block of users.
        table: ``(n_users, d)`` where all that counts is who a user is; None where vectors are made from histories.
    """

    items: Tensor
    encode: Callable[[Users], Tensor]
    table: Tensor | None = None

    @classmethod
    def from_tables(cls, users: Tensor, items: Tensor) -> Vectors:
        """Vectors of models with a table ``(n_users, d)`` of users."""
        return cls(items, lambda block: users[torch.from_numpy(block.ids).to(users.device)], users)

    @cached_property
    def transposed(self) -> Tensor:
        """``(d, n_items)``, as products with it are fastest."""
        return self.items.T.contiguous()

    def users(self, users: Users) -> Tensor:
        """Vectors ``(b, d)`` of a block of users."""
        return self.encode(users)


@dataclass(frozen=True, eq=False)
class Explanation:
    """How a model's scores of a block of users come about, by factors and by words.

    Attributes:
        shares: ``(b, n_factors, n_items)`` part that each factor has in the score of an item; sums to 1 over factors.
        words: ``(b, n_factors, n_words)`` how much each word says about what the factor is to the user; sums to 1
            over factors and words.
        vocabulary: The words; empty where the model has nothing that people can read.
    """

    shares: Tensor
    words: Tensor
    vocabulary: Sequence[str]


@runtime_checkable
class Scorer(Protocol):
    """Scores the full catalogue."""

    def scores(self, users: Users) -> Tensor:
        """Scores ``(b, n_items)``."""
        ...


@runtime_checkable
class Retriever(Protocol):
    """Trains on batches; its score is an inner product."""

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Named terms whose sum is minimised."""
        ...

    def vectors(self) -> Vectors:
        """Vectors in evaluation mode."""
        ...


@runtime_checkable
class Generator(Protocol):
    """Trains on batches; spells the items that it recommends, code by code, and scores no others.

    Its config says ``beams``, how many IDs are spelt at once for a user, and ``normalize``.
    """

    config: Any
    trie: Trie

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Named terms whose sum is minimised."""
        ...

    def speller(self, users: Users) -> Speller:
        """What :func:`mmrec.beam.generate` asks about a block of users."""
        ...


@runtime_checkable
class Ranker(Protocol):
    """Trains on rows with labels; scores rows."""

    def loss(self, batch: RowBatch) -> dict[str, Tensor]:
        """Named terms whose sum is minimised."""
        ...

    def score(self, batch: RowBatch) -> Tensor:
        """Logits ``(b,)``."""
        ...


class Model(Protocol):
    """What every model class declares."""

    config_type: ClassVar[type[ModelConfig]]
    batches: ClassVar[str | None]
    modalities: ClassVar[str]
    cold_items: ClassVar[bool]

    def __init__(self, config: Any, data: Any) -> None: ...


def contract_of(model: type) -> str:
    """``retriever``, ``generator``, ``ranker`` or ``scorer``."""
    if getattr(model, "batches", None) == "rows":
        return "ranker"
    if hasattr(model, "speller"):
        return "generator"
    return "retriever" if hasattr(model, "vectors") else "scorer"


def reads_sequences(model: Any) -> bool:
    """True for a model that has to know which of a user's items came first."""
    return bool(getattr(model, "max_length", 0))


def knows_users(model: Any) -> bool:
    """True for a model whose scores of a history depend on which user has it."""
    return bool(getattr(model, "knows_users", False))


def training_histories(model: Any, data: TrainingData) -> Histories:
    """The training items of each user as the model reads them."""
    return data.sequences if reads_sequences(model) else data.train


def scoring(
    model: Any,
    histories: Histories,
    *,
    k: int | None = None,
    exclude: Histories | None = None,
    permitted: Tensor | None = None,
) -> Callable[[Ids], Tensor]:
    """A function from user ids ``(b,)`` to scores ``(b, n_items)``; puts the model into evaluation mode.

    The result is only valid until the next call, which may reuse its memory. A generator gives -inf to what it did not
    spell.

    Args:
        model: A scorer, a retriever or a generator.
        histories: By what each user is known: :func:`training_histories`, or more.
        k: How many items of each user the caller will look at: a generator spells no more. All if None, exactly.
        exclude: Per internal user id items that the caller will not look at; a generator passes over them.
        permitted: Mask ``(n_items,)`` of the items that the caller will look at; likewise.
    """
    model.eval()
    if contract_of(type(model)) == "generator":
        return torch.no_grad()(lambda ids: _spelt(model, Users.of(histories, ids), k, exclude, permitted))
    if contract_of(type(model)) == "scorer":
        return torch.no_grad()(lambda ids: model.scores(Users.of(histories, ids)))
    with torch.no_grad():
        return products(model.vectors(), histories)


def products(
    vectors: Vectors, histories: Histories, encode: Callable[[Users], Tensor] | None = None
) -> Callable[[Ids], Tensor]:
    """:func:`scoring` with the vectors of a retriever; ``encode`` gives those of users in place of their own."""
    encode = encode or vectors.users
    buffers: dict[int, Tensor] = {}

    @torch.no_grad()
    def score(ids: Ids) -> Tensor:
        queries = encode(Users.of(histories, ids))
        # A fresh block of scores costs more in page faults than the product itself: keep one per block size.
        if len(ids) not in buffers:
            buffers.clear()
            buffers[len(ids)] = queries.new_empty(len(ids), len(vectors.items))
        return torch.mm(queries, vectors.transposed, out=buffers[len(ids)])

    return score


def _spelt(
    model: Generator, users: Users, k: int | None, exclude: Histories | None, permitted: Tensor | None
) -> Tensor:
    """Scores ``(b, n_items)`` with -inf at what was not spelt."""
    n_items, device = len(model.trie.items), model.trie.items.device
    width = max(min(k or n_items, n_items), model.config.beams)
    size = max(1, BEAMS_AT_ONCE // width)
    scores = torch.full((len(users.ids), n_items), -torch.inf, device=device)
    for start in range(0, len(users.ids), size):
        ids = users.ids[start : start + size]
        block = Users(ids, users.histories.select(np.arange(start, start + len(ids))))
        forbidden = None
        if exclude is not None:
            seen = exclude.select(ids)
            forbidden = (torch.from_numpy(seen.users).to(device), torch.from_numpy(seen.items).to(device))
        speller, rescores = model.speller(block), hasattr(model, "rescore")
        spell = partial(
            generate,
            speller,
            model.trie,
            width if rescores else k or n_items,  # as candidates all beams count
            beams=width,
            forbidden=forbidden,
            permitted=None if permitted is None else permitted.to(device),
            among_children=model.config.normalize == "permitted",
        )
        part = model.rescore(speller, spell) if rescores else by_item(spell(), n_items)  # type: ignore[attr-defined]
        scores[start : start + size] = part
    return scores


def by_item(found: Beams, n_items: int) -> Tensor:
    """Scores ``(b, n_items)`` with -inf at what was not spelt."""
    scores = torch.full((len(found.items), n_items), -torch.inf, device=found.items.device)
    rows, places = (found.items >= 0).nonzero(as_tuple=True)
    scores[rows, found.items[rows, places]] = found.scores[rows, places]
    return scores
