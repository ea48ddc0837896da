"""A bundle opened: ids, attributes, vectors and recommendations from one folder, every byte of it checked first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.bundle.contents import read_contents
from mmrec.bundle.inputs import parse_inputs
from mmrec.bundle.manifest import (
    CHECKPOINT,
    CONFIG,
    INPUT_TENSORS,
    INPUTS,
    PICTURES,
    RANKER_CHECKPOINT,
    RANKER_CONFIG,
    FileEntry,
    Kind,
)
from mmrec.bundle.model import parse_config, rebuild
from mmrec.bundle.pictures import parse_pictures, read_picture
from mmrec.bundle.reading import parse_tensors
from mmrec.config import ExperimentConfig
from mmrec.data.dataset import TrainingData, find_row, titles_of
from mmrec.data.histories import Histories, Ids
from mmrec.errors import BundleError, ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

    from mmrec.models.contracts import Vectors

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Ranker:
    """A second run inside a bundle, for whoever builds its model.

    Attributes:
        config: Resolved config.
        tensors: Of its best epoch, by name.
    """

    config: ExperimentConfig
    tensors: dict[str, Tensor]


class Bundle:
    """A bundle folder.

    Internal ids are row numbers: item ``i`` is row ``i`` of :attr:`items`, user ``u`` row ``u`` of :attr:`users`.

    Nothing in a bundle is run, and nothing outside its folder is read: there is no pickle, names may not leave the folder,
    files are compared with the manifest's sizes before they are read and with its SHA-256 before they are used, and only
    mmrec's own model classes are loaded. A hash says that the bundle is whole, not that whoever made it is honest: its
    vectors can be anything, and its hyper-parameters can ask for more memory than there is.

    Attributes:
        manifest: What it is, what it was made from and how well it did.
        items: Row i is item i: ``item_id`` and attributes.
        users: Row u is user u: ``user_id``.

    Args:
        path: The folder.
        check: Compare SHA-256 hashes; everything else is checked anyway.
        trust_models: Import a model class ``package.module:Class`` that the bundle names, which runs its code.

    Raises:
        BundleError: No bundle there, or one that is damaged or asks for what it may not.
    """

    def __init__(self, path: str | Path, *, check: bool = True, trust_models: bool = False) -> None:
        self.path, self.trust_models = Path(path), trust_models
        contents = read_contents(self.path, check=check)
        self.manifest, self.items, self.users = contents.manifest, contents.items, contents.users
        self._files, self._seen = contents.files, contents.seen
        self._item_vectors, self._user_vectors = contents.item_vectors, contents.user_vectors
        if self.kind != "vectors":  # what may not be loaded should not be found out by the first request
            self._config(CONFIG, self.manifest.model)

    def _config(self, name: str, model: str) -> ExperimentConfig:
        return parse_config(self._files.read(name), name, model, trust_models=self.trust_models)

    def __repr__(self) -> str:
        manifest = self.manifest
        return f"Bundle({str(self.path)!r}: {manifest.model} on {manifest.dataset.name}, {manifest.kind})"

    @property
    def kind(self) -> Kind:
        """``vectors``, ``sequence``, ``scores`` or ``generator``."""
        return self.manifest.kind

    @cached_property
    def _user_rows(self) -> dict[str, int]:
        return {user_id: row for row, user_id in enumerate(self.users["user_id"].tolist())}

    @cached_property
    def _item_rows(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.items["item_id"].tolist())}

    def user(self, user_id: str) -> int:
        """Internal id of a user.

        Raises:
            DataError: Unknown user.
        """
        return find_row(self._user_rows, user_id, f"a user of {self.path}")

    def item(self, item_id: str) -> int:
        """Internal id of an item.

        Raises:
            DataError: Unknown item.
        """
        return find_row(self._item_rows, item_id, f"an item of {self.path}")

    def seen(self, user: int) -> Ids:
        """Items ``(n,)`` that a user has in the training split; oldest first for a model of sequences.

        Raises:
            DataError: No such internal id.
        """
        _check_ids([user], self.manifest.counts.users, "users")
        return self._seen[user]

    @cached_property
    def titles(self) -> list[str]:
        """A short name of each item for people; empty where there is none."""
        kinds = self.manifest.columns
        return titles_of(self.items, [str(name) for name in self.items if kinds.get(str(name)) == "text"])

    @cached_property
    def _pictures(self) -> dict[str, FileEntry]:
        pictures = self.manifest.pictures
        return {} if pictures is None else parse_pictures(self._files.read(PICTURES), pictures)

    def picture(self, item: int) -> tuple[bytes, str] | None:
        """Content and media type of an item's picture; None where it has none, or the bundle came without pictures.

        Raises:
            BundleError: It is missing or was changed.
            DataError: No such internal id.
        """
        _check_ids([item], self.manifest.counts.items, "items")
        name = self.items["image"].iloc[item] if "image" in self.items else None
        if not isinstance(name, str) or name not in self._pictures:
            return None
        return read_picture(self.path, name, self._pictures[name])

    @cached_property
    def model(self) -> Any:
        """The model in evaluation mode.

        Raises:
            BundleError: It is damaged.
            ConfigError: A bundle of kind ``vectors`` has none.
        """
        if self.kind == "vectors":
            raise ConfigError("a bundle with a model", f"vectors alone in {self.path}", "use the vectors")
        return self.rebuild()

    @cached_property
    def inputs(self) -> TrainingData | None:
        """Features and codes of the items; of a bundle of vectors those of the items of the training, if it came with them.

        Raises:
            BundleError: They are damaged.
        """
        manifest = self.manifest
        if INPUTS not in manifest.files or INPUT_TENSORS not in manifest.files:
            return None
        n_items = manifest.trained_items if self.kind == "vectors" else manifest.counts.items
        content = self._files.read(INPUTS), self._files.read(INPUT_TENSORS)
        return parse_inputs(*content, self._seen, n_items)

    @property
    def config(self) -> ExperimentConfig:
        """Of the model.

        Raises:
            BundleError: It is damaged, or a class of somebody else.
        """
        return self._config(CONFIG, self.manifest.model)

    def state(self) -> dict[str, Tensor] | None:
        """Tensors of the model; None where the bundle came without.

        Raises:
            BundleError: They are damaged.
        """
        if CHECKPOINT not in self.manifest.files:
            return None
        return parse_tensors(self._files.read(CHECKPOINT), CHECKPOINT)

    def rebuild(self) -> Any:
        """The model in evaluation mode, over the items that it was trained with where that is all it knows.

        Raises:
            BundleError: It is damaged, or the bundle came without.
        """
        if self.inputs is None:
            raise BundleError(
                f"{INPUTS} in {self.path}", "none", "export the run again, with --with-features"
            )
        return rebuild(self.config, self.inputs, self._files.read(CHECKPOINT), CHECKPOINT)

    def read(self, name: str) -> bytes:
        """The checked content of a file that the manifest lists.

        Raises:
            BundleError: It is missing or another one.
        """
        return self._files.read(name)

    def ranker(self) -> Ranker | None:
        """Config and tensors of the ranker; None where the bundle has none.

        Raises:
            BundleError: It is damaged.
        """
        entry = self.manifest.ranker
        if entry is None:
            return None
        config = self._config(RANKER_CONFIG, entry.model)
        return Ranker(config, parse_tensors(self._files.read(RANKER_CHECKPOINT), RANKER_CHECKPOINT))

    @property
    def item_vectors(self) -> Floats:
        """``(n_items, d)``, whose inner products with user vectors are the scores.

        Raises:
            ConfigError: Scores of this kind of bundle are no inner products.
        """
        return np.asarray(self._vectors.items)

    def user_vectors(self, users: Sequence[int] | Ids) -> Floats:
        """Vectors ``(b, d)`` of users, given as internal ids.

        Raises:
            ConfigError: Scores of this kind of bundle are no inner products.
            DataError: No such internal id.
        """
        ids = _check_ids(users, self.manifest.counts.users, "users")
        return _encode(self._vectors, self._seen, ids)

    def history_vectors(self, histories: Sequence[Sequence[int]]) -> Floats:
        """Vectors ``(b, d)`` of anybody, known by their items (internal ids), oldest first.

        A bundle of kind ``sequence`` encodes them. One of kind ``vectors`` knows its own users only: it takes the mean of
        the items' vectors, an approximation for which nothing was trained. Nobody's items give zeros.

        Raises:
            ConfigError: Scores of this kind of bundle are no inner products.
            DataError: No such internal id.
        """
        rows = self._histories(histories)
        return _encode(self._stranger_vectors, rows, np.arange(rows.n_users))

    @cached_property
    def _vectors(self) -> Vectors:
        import torch

        from mmrec.models.contracts import Vectors

        if self._item_vectors is None:
            raise ConfigError(
                "a bundle of kind vectors or sequence", f"{self.kind} in {self.path}", "use recommend"
            )
        if self._user_vectors is not None:
            return Vectors.from_tables(self._user_vectors, self._item_vectors)
        with torch.no_grad():
            return Vectors(self._item_vectors, self.model.vectors().encode)

    @cached_property
    def _stranger_vectors(self) -> Vectors:
        from mmrec.models.contracts import Vectors

        own = self._vectors
        if own.table is None:
            return own
        mean = Vectors(own.items, lambda users: _mean(own.items, users.histories))
        mean.__dict__["transposed"] = own.transposed
        return mean

    def _histories(self, histories: Sequence[Sequence[int]]) -> Histories:
        counts = [len(history) for history in histories]
        flat = [item for history in histories for item in history]
        items = _check_ids(flat, self.manifest.counts.items, "items")
        return Histories(np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64), items)

    def scorer(
        self,
        histories: Histories | None = None,
        *,
        k: int | None = None,
        exclude: Histories | None = None,
        permitted: Tensor | None = None,
    ) -> Callable[[Ids], Tensor]:
        """A function from user ids ``(b,)`` to scores ``(b, n_items)``, valid until its next call.

        Args:
            histories: Items of strangers, whose row numbers are then the ids; None: the bundle's own users.
            k: How many items of each the caller will look at; see :func:`mmrec.models.contracts.scoring`.
            exclude: Items that the caller will not look at; likewise.
            permitted: Mask ``(n_items,)`` of the items that the caller will look at; likewise.

        Raises:
            ConfigError: Strangers, and a model that has to know who they are.
        """
        from mmrec.models.contracts import knows_users, products, scoring

        if self.kind != "vectors" and histories is not None and knows_users(self.model):
            raise ConfigError(
                "users of the bundle",
                f"histories alone, where {self.manifest.model} reads who the user is",
                "name users, or export another model",
            )
        if self._item_vectors is not None:
            vectors = self._vectors if histories is None else self._stranger_vectors
            return products(vectors, self._seen if histories is None else histories)
        known = self._seen if histories is None else histories
        return scoring(self.model, known, k=k, exclude=exclude, permitted=permitted)

    def recommend(
        self,
        users: str | Sequence[str] | None = None,
        k: int = 10,
        *,
        histories: Sequence[Sequence[str]] | None = None,
        exclude_seen: bool = True,
        allow: Sequence[str] | None = None,
        deny: Sequence[str] | None = None,
    ) -> list[dict[str, Any]]:
        """The lists of :func:`mmrec.recommend` on the run, or lists for histories of strangers.

        Args:
            users: One external user id or several.
            k: Items for each; fewer come back when fewer are permitted.
            histories: External item ids of each stranger, oldest first, in place of ``users``.
            exclude_seen: Leave out the training items of a user, or the items of a history.
            allow: External ids of the items that may appear; all if None.
            deny: External ids of items that may not appear.

        Returns:
            ``{"user", "items": [{"item", "score"}, …]}`` each, best item first; ``user`` is None for a history.

        Raises:
            ConfigError: k is below 1, not one of users and histories, or a model that needs to know its users.
            DataError: Unknown user or item, a user without training items, or an empty history.
        """
        from mmrec.rank import permitted_items, rank
        from mmrec.recommend import check_length, named

        check_length(k)
        if (users is None) == (histories is None):
            raise ConfigError("users or histories", "both" if users is not None else "neither", "give one")
        names, strangers = self._who(users, histories)
        known = self._seen if strangers is None else strangers
        ids = np.arange(len(names)) if strangers is not None else self._rows_of(names)
        if len(empty := np.flatnonzero(known.counts[ids] == 0)):
            raise DataError(
                "users with items in the training split, or histories with items",
                f"{names[empty[0]]!r}" if strangers is None else f"history {empty[0]} is empty",
                "ask for others, or show what is popular",
            )
        n_items = self.manifest.counts.items
        exclude = known if exclude_seen else None
        permitted, denied = self._items_of(allow), self._items_of(deny)
        mask = permitted_items(n_items, permitted, denied)
        score = self.scorer(strangers, k=k, exclude=exclude, permitted=mask)
        ranking = rank(score, ids, n_items, k, exclude=exclude, allow=permitted, deny=denied)
        return named(ranking, names, self.items["item_id"].tolist())

    def _who(
        self, users: str | Sequence[str] | None, histories: Sequence[Sequence[str]] | None
    ) -> tuple[list[str | None], Histories | None]:
        if histories is None:
            return [users] if isinstance(users, str) else list(users or []), None
        rows = self._histories([[self.item(item) for item in history] for history in histories])
        return [None] * len(histories), rows

    def _rows_of(self, names: Sequence[str | None]) -> Ids:
        return np.array([self.user(str(name)) for name in names], dtype=np.int64)

    def _items_of(self, items: Sequence[str] | None) -> Ids | None:
        return None if items is None else np.array([self.item(item) for item in items], dtype=np.int64)


def _encode(vectors: Vectors, histories: Histories, ids: Ids) -> Floats:
    import torch

    from mmrec.models.contracts import Users

    with torch.no_grad():
        return np.asarray(vectors.users(Users.of(histories, ids)))


def _mean(vectors: Tensor, histories: Histories) -> Tensor:
    """Means ``(b, d)`` of the vectors of each history's items; zeros for none."""
    import torch
    import torch.nn.functional as F

    items, offsets = torch.from_numpy(histories.items), torch.from_numpy(histories.offsets)
    return F.embedding_bag(items, vectors, offsets, mode="mean", include_last_offset=True)


def _check_ids(ids: Sequence[int] | Ids, n: int, what: str) -> Ids:
    array = np.asarray(ids, dtype=np.int64)
    if array.ndim != 1 or (len(array) and (array.min() < 0 or array.max() >= n)):
        raise DataError(
            f"{what}, numbers from 0 to below {n:,}", f"{ids!r}"[:80], "look them up by their ids"
        )
    return array
