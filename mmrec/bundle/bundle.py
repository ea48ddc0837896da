"""A bundle opened: ids, attributes, vectors and recommendations from one folder, every byte of it checked first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.bundle.contents import read_contents
from mmrec.bundle.ids import check_histories, check_ids
from mmrec.bundle.index import attributes_of, open_index
from mmrec.bundle.inputs import parse_inputs
from mmrec.bundle.manifest import (
    CHECKPOINT,
    CONFIG,
    INPUT_TENSORS,
    INPUTS,
    PICTURES,
    RANKER_CONFIG,
    FileEntry,
    Kind,
)
from mmrec.bundle.model import parse_config, rebuild
from mmrec.bundle.pictures import parse_pictures, read_picture
from mmrec.bundle.reading import parse_tensors
from mmrec.config import ExperimentConfig
from mmrec.data.dataset import TrainingData, find_row, text_columns_of, titles_of
from mmrec.data.histories import Histories, Ids
from mmrec.errors import ConfigError, DataError
from mmrec.files import content_hash

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from mmrec.bundle.ranker import BundleRanker
    from mmrec.index import Index
    from mmrec.models.contracts import Users, Vectors

Floats = NDArray[np.float32]


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
        if self.manifest.ranker is not None:
            self._config(RANKER_CONFIG, self.manifest.ranker.model)

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
    def hash(self) -> str:
        """SHA-256 of the manifest's content, so of all files that it names."""
        return content_hash(self.manifest.model_dump(mode="json"))

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
        check_ids([user], self.manifest.counts.users, "users")
        return self._seen[user]

    @cached_property
    def titles(self) -> list[str]:
        """A short name of each item for people; empty where there is none."""
        return titles_of(self.items, [] if self.title_column is None else [self.title_column])

    @property
    def title_column(self) -> str | None:
        """The column of :attr:`items` that names an item: the first with free text."""
        return next(iter(text_columns_of(self.items, self.manifest.columns)), None)

    @cached_property
    def _pictures(self) -> dict[str, FileEntry]:
        pictures = self.manifest.pictures
        return {} if pictures is None else parse_pictures(self._files.read(PICTURES), pictures)

    def has_picture(self, item: int) -> bool:
        """Whether :meth:`picture` gives one.

        Raises:
            DataError: No such internal id.
        """
        return self._picture_name(item) is not None

    def _picture_name(self, item: int) -> str | None:
        check_ids([item], self.manifest.counts.items, "items")
        name = self.items["image"].iloc[item] if "image" in self.items else None
        return name if isinstance(name, str) and name in self._pictures else None

    def picture(self, item: int) -> tuple[bytes, str] | None:
        """Content and media type of an item's picture; None where it has none, or the bundle came without pictures.

        Raises:
            BundleError: It is missing or was changed.
            DataError: No such internal id.
        """
        name = self._picture_name(item)
        return None if name is None else read_picture(self.path, name, self._pictures[name])

    @cached_property
    def model(self) -> Any:
        """The model in evaluation mode.

        Raises:
            BundleError: It is damaged.
            ConfigError: A bundle of kind ``vectors`` has none.
        """
        if self.kind == "vectors":
            raise ConfigError("a bundle with a model", f"vectors alone in {self.path}", "use the vectors")
        return rebuild(self.config, self.data, self.read(CHECKPOINT), CHECKPOINT)

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
        return parse_tensors(self.read(CHECKPOINT), CHECKPOINT)

    def read(self, name: str) -> bytes:
        """The checked content of a file that the manifest lists.

        Raises:
            BundleError: It is missing or another one.
        """
        return self._files.read(name)

    @cached_property
    def data(self) -> TrainingData:
        """What users have seen, and the features and codes of the items; a bundle of kind ``vectors`` may have none.

        Raises:
            BundleError: It is damaged.
        """
        manifest = self.manifest
        if INPUTS not in manifest.files or INPUT_TENSORS not in manifest.files:
            return TrainingData(manifest.counts.users, manifest.counts.items, self._seen, {})
        return parse_inputs(self.read(INPUTS), self.read(INPUT_TENSORS), self._seen, manifest.counts.items)

    @cached_property
    def attributes(self) -> pd.DataFrame:
        """The columns of :attr:`items` that filters can ask for; see :mod:`mmrec.where`."""
        return attributes_of(self.items, self.manifest.columns)

    def index(self, *, exact: bool = False, **options: Any) -> Index:
        """The saved index over the item vectors, or exact search where the bundle has none; ids are internal.

        FAISS reads its own file with code that was not written for files of somebody with intentions: search a
        stranger's bundle exactly.

        Args:
            exact: Search exactly, whatever is saved.
            options: Over the saved ones, such as ``api_key``; ``uri`` where items lie on a server.

        Raises:
            BundleError: The index is damaged, or leads out of the bundle.
            ConfigError: Scores of this kind of bundle are no inner products; the index's package is not installed; it
                lies on a server that ``uri`` does not name.
        """
        from mmrec.index import build_index

        vectors = self.item_vectors
        if exact or self.manifest.index is None:
            return build_index("exact", vectors, self.attributes, **options)
        return open_index(self.path, self.manifest, self.attributes, options)

    def ranker(self) -> BundleRanker | None:
        """The second stage, built once; None where the bundle has none.

        Raises:
            BundleError: It is damaged.
        """
        return self._ranker

    @cached_property
    def _ranker(self) -> BundleRanker | None:
        from mmrec.bundle.ranker import read_ranker

        entry = self.manifest.ranker
        if entry is None:
            return None
        return read_ranker(self._files, self._config(RANKER_CONFIG, entry.model), entry, self.manifest.counts)

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
        ids = check_ids(users, self.manifest.counts.users, "users")
        return _encode(self._vectors.users, self._seen, ids)

    def history_vectors(self, histories: Sequence[Sequence[int]]) -> Floats:
        """Vectors ``(b, d)`` of anybody, known by their items (internal ids), oldest first.

        A bundle of kind ``sequence`` encodes them. One of kind ``vectors`` knows its own users only: it takes the mean of
        the items' vectors, an approximation for which nothing was trained. Nobody's items give zeros.

        Raises:
            ConfigError: Scores of this kind of bundle are no inner products.
            DataError: No such internal id.
        """
        rows = check_histories(histories, self.manifest.counts.items)
        return _encode(self._encode_stranger, rows, np.arange(rows.n_users))

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

    def _encode_stranger(self, users: Users) -> Tensor:
        """What :meth:`history_vectors` says."""
        vectors = self._vectors
        return vectors.users(users) if vectors.table is None else _mean(vectors.items, users.histories)

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

        known = self._seen if histories is None else histories
        if self.kind != "vectors" and histories is not None and knows_users(self.model):
            raise ConfigError(
                "users of the bundle",
                f"histories alone, where {self.manifest.model} reads who the user is",
                "name users, or export another model",
            )
        if self._item_vectors is not None:
            encode = None if histories is None else self._encode_stranger
            return products(self._vectors, known, encode)
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
        rerank: bool = False,
        candidates: int = 100,
    ) -> list[dict[str, Any]]:
        """The lists of :func:`mmrec.recommend` on the run, or lists for histories of strangers.

        Args:
            users: One external user id or several.
            k: Items for each; fewer come back when fewer are permitted.
            histories: External item ids of each stranger, oldest first, in place of ``users``.
            exclude_seen: Leave out the training items of a user, or the items of a history.
            allow: External ids of the items that may appear; all if None.
            deny: External ids of items that may not appear.
            rerank: Let the ranker order the first candidates; a score is then its calibrated probability.
            candidates: How many items of each user are ordered again; nothing else is recommended.

        Returns:
            ``{"user", "items": [{"item", "score"}, …]}`` each, best item first; ``user`` is None for a history.

        Raises:
            ConfigError: k is below 1, not one of users and histories, a model that needs to know its users, no ranker
                to rank again by, or fewer candidates than k.
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
        second = self._second_stage(k, candidates) if rerank else None
        length = k if second is None else candidates
        score = self.scorer(strangers, k=length, exclude=exclude, permitted=mask)
        if second is not None:
            score = second.over(score, candidates, strangers=strangers, exclude=exclude, permitted=mask)
        ranking = rank(score, ids, n_items, k, exclude=exclude, allow=permitted, deny=denied)
        ranking = ranking if second is None else second.calibrated(ranking)
        return named(ranking, names, self.items["item_id"].tolist())

    def _second_stage(self, k: int, candidates: int) -> BundleRanker:
        ranker = self.ranker()
        if ranker is None:
            raise ConfigError(
                "a bundle with a ranker to rank again by",
                f"none in {self.path}",
                "mmrec export RUN --to DIR --ranker RUN_OF_A_RANKER",
            )
        if candidates < k:
            raise ConfigError(f"at least {k} candidates for lists of {k}", str(candidates), "ask for more")
        return ranker

    def _who(
        self, users: str | Sequence[str] | None, histories: Sequence[Sequence[str]] | None
    ) -> tuple[list[str | None], Histories | None]:
        if histories is None:
            return [users] if isinstance(users, str) else list(users or []), None
        rows = [[self.item(item) for item in history] for history in histories]
        return [None] * len(histories), check_histories(rows, self.manifest.counts.items)

    def _rows_of(self, names: Sequence[str | None]) -> Ids:
        return np.array([self.user(str(name)) for name in names], dtype=np.int64)

    def _items_of(self, items: Sequence[str] | None) -> Ids | None:
        return None if items is None else np.array([self.item(item) for item in items], dtype=np.int64)


def _encode(encode: Callable[[Users], Tensor], histories: Histories, ids: Ids) -> Floats:
    import torch

    from mmrec.models.contracts import Users

    with torch.no_grad():
        return np.asarray(encode(Users.of(histories, ids)))


def _mean(vectors: Tensor, histories: Histories) -> Tensor:
    """Means ``(b, d)`` of the vectors of each history's items; zeros for none."""
    import torch
    import torch.nn.functional as F

    items, offsets = torch.from_numpy(histories.items), torch.from_numpy(histories.offsets)
    return F.embedding_bag(items, vectors, offsets, mode="mean", include_last_offset=True)
