"""What a service answers, over one opened bundle: lists, similar items, items, users and names. No HTTP in here.

An engine never changes after it is made; any number of threads may ask it.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mmrec.errors import ConfigError, DataError, MMRecError
from mmrec.serve.errors import NotFoundError, UnavailableError
from mmrec.serve.limits import Limits
from mmrec.serve.names import Names
from mmrec.serve.pictures import read_image
from mmrec.serve.plain import index_of_cosines, to_json, unit, without_padding
from mmrec.serve.reasons import Reasons
from mmrec.serve.requests import RecommendRequest, ScoreRequest, SimilarRequest

if TYPE_CHECKING:
    from mmrec.bundle.bundle import Bundle
    from mmrec.bundle.newcomers import Newcomers
    from mmrec.index import Found, Index

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]
Answer = dict[str, Any]
HISTORY = 200  # items of a user that are shown


@dataclass(frozen=True, eq=False)
class _Asker:
    """Whoever wants a list.

    Attributes:
        user: Internal id; None for a history.
        history: Items by which they are known.
        deny: Items that they may not get.
    """

    user: int | None
    history: Ids
    deny: Ids


class Engine:
    """Answers from a bundle.

    Everything that can fail because of the bundle fails here: model, ranker and encoders are loaded and the index opened.

    Args:
        bundle: What is served.
        limits: How much a request may ask for.
        encoders: Modality to encoder, by which new items are placed among the known ones; see
            :class:`mmrec.bundle.newcomers.Newcomers`. Where none is named, nothing new is placed.
        exact: Search exactly, whatever index is saved.
        index_options: Over the saved ones, such as ``api_key``.

    Raises:
        BundleError: Model or index are damaged.
        ConfigError: A package is not there, or encoders are given for a bundle that cannot take new items.
        FeatureError: An encoder is missing or another one.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        limits: Limits | None = None,
        encoders: Mapping[str, str] | None = None,
        exact: bool = False,
        index_options: Mapping[str, Any] | None = None,
    ) -> None:
        from mmrec.where import Attributes

        self.bundle, self.limits, self.encoders = bundle, limits or Limits(), dict(encoders or {})
        self.hash = bundle.hash[:12]
        self.attributes = Attributes.from_frame(bundle.attributes)
        self._item_ids: list[str] = bundle.items["item_id"].tolist()
        self._user_ids: list[str] = bundle.users["user_id"].tolist()
        self._items = {item_id: row for row, item_id in enumerate(self._item_ids)}
        self._users = {user_id: row for row, user_id in enumerate(self._user_ids)}
        shown = [str(name) for name in bundle.items if name not in ("item_id", "image")]
        self._shown = {name: bundle.items[name].array for name in shown}
        self._names = {"item": Names(self._item_ids, bundle.titles), "user": Names(self._user_ids)}
        self.index: Index | None = None
        self._reasons: Reasons | None = None
        if bundle.kind in ("vectors", "sequence"):
            self.index = bundle.index(exact=exact, **(index_options or {}))
            self._alike = index_of_cosines(bundle.item_vectors, self.attributes)
            self._reasons = Reasons(self._alike.items.vectors, bundle.data.features)
        if bundle.kind != "vectors":
            _ = bundle.model
        self._ranker = bundle.ranker()
        self._newcomers = self._open_newcomers()
        self._encoding = threading.Lock()  # tokenisers are not made for several threads

    def _open_newcomers(self) -> Newcomers | None:
        if not self.encoders:
            return None
        from mmrec.bundle.newcomers import Newcomers

        newcomers = Newcomers(self.bundle, self.encoders)
        newcomers.open()
        return newcomers

    # --- Lists for users and histories

    def shape(self, request: RecommendRequest) -> Hashable:
        """Requests of equal shape can be answered together by :meth:`recommend_all`."""
        allow = None if request.allow is None else tuple(request.allow)
        shape = (request.k, request.where, allow)
        if self.index is not None:
            return shape
        deny = None if request.deny is None else tuple(request.deny)
        return (*shape, deny, request.exclude_seen, request.user is None)

    def recommend(self, request: RecommendRequest) -> Answer:
        """The best items for a user or a history.

        Raises:
            ConfigError: What is asked for does not go together, is too much, or a filter that does not fit.
            DataError: Somebody without items.
            NotFoundError: An unknown user or item.
            UnavailableError: The index does not answer.
        """
        [answer] = self.recommend_all([request])
        if isinstance(answer, MMRecError):
            raise answer
        return answer

    def recommend_all(self, requests: Sequence[RecommendRequest]) -> list[Answer | MMRecError]:
        """Answers to requests of one shape by one search, each an answer or the error of that request alone.

        Raises:
            MMRecError: An error that all of them share, as :meth:`recommend` says.
        """
        answers: list[Answer | MMRecError] = []
        askers = {}
        for place, request in enumerate(requests):
            try:
                askers[place] = self._asker(request)
                answers.append({})
            except MMRecError as error:
                answers.append(error)
        if askers:
            allow = requests[0].allow
            permitted = None if allow is None else self._rows("item", allow)
            lists = self._rank(list(askers.values()), [requests[place] for place in askers], permitted)
            for (place, asker), (items, scores) in zip(askers.items(), lists, strict=True):
                answers[place] = self._listed(items, scores, requests[place], asker)
        return answers

    def _asker(self, request: RecommendRequest) -> _Asker:
        request.check(self.limits)
        user = None
        if request.user is not None:
            user = self._row("user", request.user)
            history = self.bundle.seen(user)
        else:
            history = self._rows("item", request.history or [])
        if not len(history):
            found = "an empty history" if user is None else f"{request.user!r} without any"
            raise DataError(
                "somebody with items in the training split, or in a history", found, "ask for others"
            )
        deny = self._rows("item", request.deny or [])
        return _Asker(user, history, np.concatenate([deny, history]) if request.exclude_seen else deny)

    def _rank(
        self, askers: Sequence[_Asker], requests: Sequence[RecommendRequest], allow: Ids | None
    ) -> list[tuple[Ids, Floats]]:
        """Items and scores for each, best first."""
        first = requests[0]
        if self.index is None:
            return self._rank_by_model(requests, allow)
        # one list longer than the catalogue costs memory and gives nothing
        k, deny = min(first.k, len(self._item_ids)), [asker.deny for asker in askers]
        return without_padding(self._search(self.index, self._vectors(askers), k, first.where, allow, deny))

    def _vectors(self, askers: Sequence[_Asker]) -> Floats:
        """Vectors ``(b, d)``, users and histories each in one go."""
        vectors = np.empty((len(askers), self.bundle.item_vectors.shape[1]), dtype=np.float32)
        known = [place for place, asker in enumerate(askers) if asker.user is not None]
        others = [place for place, asker in enumerate(askers) if asker.user is None]
        if known:
            users = np.array([askers[place].user for place in known], dtype=np.int64)
            vectors[known] = self.bundle.user_vectors(users)
        if others:
            histories = [cast(Sequence[int], askers[place].history) for place in others]
            vectors[others] = self.bundle.history_vectors(histories)
        return vectors

    def _rank_by_model(
        self, requests: Sequence[RecommendRequest], allow: Ids | None
    ) -> list[tuple[Ids, Floats]]:
        """For scores that are no inner products: the model scores all items."""
        first = requests[0]
        if first.where is not None:
            permitted = self._filter(first.where)
            if allow is not None:
                permitted &= np.isin(np.arange(len(permitted)), allow)
            allow = np.flatnonzero(permitted)
        results = self.bundle.recommend(
            None if first.user is None else [str(request.user) for request in requests],
            min(first.k, len(self._item_ids)),
            histories=None if first.history is None else [request.history or [] for request in requests],
            exclude_seen=first.exclude_seen,
            allow=None if allow is None else [self._item_ids[row] for row in allow],
            deny=first.deny,
        )
        lists = [result["items"] for result in results]
        return [
            (
                np.array([self._items[entry["item"]] for entry in entries], dtype=np.int64),
                np.array([entry["score"] for entry in entries], dtype=np.float32),
            )
            for entries in lists
        ]

    def _filter(self, where: str) -> NDArray[np.bool_]:
        from mmrec.where import parse

        return parse(where).mask(self.attributes)

    def _search(
        self, index: Index, queries: Floats, k: int, where: str | None, allow: Ids | None, deny: Sequence[Ids]
    ) -> Found:
        try:
            return index.search(queries, k, where=where, allow=allow, deny=list(deny))
        except MMRecError:
            raise
        except Exception as error:  # clients of databases raise whatever their libraries do
            raise UnavailableError(
                f"an answer of the index {index.backend}", type(error).__name__, "try again in a moment"
            ) from error

    def _listed(
        self,
        items: Ids,
        scores: Floats,
        request: RecommendRequest | SimilarRequest,
        asker: _Asker | None = None,
    ) -> Answer:
        entries: list[Answer] = [
            {"item": self._item_ids[item], "score": score}
            for item, score in zip(items.tolist(), scores.tolist(), strict=True)
        ]
        if request.attributes:
            for entry, item in zip(entries, items.tolist(), strict=True):
                entry["attributes"] = self._attributes_of(item)
        if isinstance(request, RecommendRequest) and request.explain and asker is not None and self._reasons:
            for entry, why in zip(entries, self._reasons.why(items, asker.history), strict=True):
                entry["why"] = {
                    **why,
                    "nearest": [
                        {"item": self._item_ids[near["item"]], "similarity": near["similarity"]}
                        for near in why["nearest"]
                    ],
                }
        return {"items": entries, "bundle": self.hash}

    # --- Similar items and single things

    def similar(self, request: SimilarRequest) -> Answer:
        """The items whose vectors have the largest cosine with that of an item.

        Raises:
            ConfigError: What is asked for does not go together, is too much, or needs an encoder that is not there.
            DataError: No picture, or too large a one.
            NotFoundError: An unknown item.
        """
        request.check(self.limits)
        if self.index is None:
            raise ConfigError(
                "a bundle with item vectors",
                f"one of kind {self.bundle.kind}",
                "ask for recommendations instead",
            )
        own = np.zeros(0, dtype=np.int64)
        if request.item is not None:
            row = self._row("item", request.item)
            own, query = np.array([row]), self._alike.items.vectors[row]
        else:
            query = unit(self._new_vector(request.text, request.image)[None])[0]
        k = min(request.k, len(self._item_ids))
        [(items, scores)] = without_padding(
            self._search(self._alike, query[None], k, request.where, None, [own])
        )
        return self._listed(items, scores, request)

    def _new_vector(self, text: str | None, image: str | None) -> Floats:
        import pandas as pd

        if self._newcomers is None:
            name = "image" if text is None else "text"
            raise ConfigError(
                f"a service with an encoder of {name}",
                "none",
                f"mmrec serve BUNDLE --encoder {name}=NAME_OR_PATH",
            )
        given = {"text": text, "image": image}
        readable = self._newcomers.modalities
        if lacking := [name for name, value in given.items() if value is not None and name not in readable]:
            raise ConfigError(
                f"a bundle whose model or neighbours read {' and '.join(lacking)}",
                f"one that reads {' and '.join(sorted(readable))}",
                "leave it out",
            )
        picture = None if image is None else read_image(image, self.limits.image_pixels)
        table = pd.DataFrame(dict.fromkeys(self._newcomers.first_fields, text), index=[0])
        with self._encoding:
            vectors = self._newcomers.vectors(table, [picture])
        return np.asarray(vectors[0], dtype=np.float32)

    def score(self, request: ScoreRequest) -> Answer:
        """Probabilities by the ranker of the bundle.

        Raises:
            ConfigError: The bundle has no ranker.
            NotFoundError: An unknown user or item.
        """
        request.check(self.limits)
        ranker = self._ranker
        if ranker is None:
            raise ConfigError("a bundle with a ranker", "none", "mmrec export RUN --to DIR --ranker RUN")
        items = self._rows("item", request.items)
        if request.user is not None:
            found = ranker.probabilities([self._row("user", request.user)], items)
        else:
            found = ranker.probabilities(
                None, items, histories=[self._rows("item", request.history or []).tolist()]
            )
        scored = zip(request.items, found.tolist(), strict=True)
        return {
            "items": [{"item": item, "probability": probability} for item, probability in scored],
            "bundle": self.hash,
        }

    def item(self, item_id: str) -> Answer:
        """``{"item", "attributes", "image": whether it has a picture}``.

        Raises:
            NotFoundError: Unknown.
        """
        row = self._row("item", item_id)
        return {
            "item": item_id,
            "attributes": self._attributes_of(row),
            "image": self.bundle.has_picture(row),
        }

    def picture(self, item_id: str) -> tuple[bytes, str]:
        """Content and media type of an item's picture.

        Raises:
            NotFoundError: Unknown item, or one without a picture in the bundle.
        """
        found = self.bundle.picture(self._row("item", item_id))
        if found is None:
            raise NotFoundError("an item with a picture in the bundle", "none", "mmrec export --images copy")
        return found

    def user(self, user_id: str) -> Answer:
        """``{"user", "history"}``, the last items that the user has.

        Raises:
            NotFoundError: Unknown.
        """
        items = self.bundle.seen(self._row("user", user_id))[-HISTORY:]
        return {"user": user_id, "history": [self._item_ids[item] for item in items]}

    def search(self, query: str, kind: str | None, limit: int) -> Answer:
        """Items, then users, whose id or title holds the query.

        Raises:
            ConfigError: More results than permitted.
        """
        if limit > self.limits.results:
            raise ConfigError(f"limit of at most {self.limits.results}", f"{limit}", "ask for fewer results")
        results: list[Answer] = []
        for one in ("item", "user") if kind is None else (kind,):
            names = self._names[one]
            for place in names.find(query, limit - len(results)):
                title = names.titles[place] if names.titles is not None else ""
                results.append({"kind": one, "id": names.ids[place]} | ({"title": title} if title else {}))
        return {"results": results}

    def info(self) -> Answer:
        """What is served."""
        manifest = self.bundle.manifest
        return {
            "bundle": self.hash,
            "model": manifest.model,
            "dataset": manifest.dataset.name,
            "items": manifest.counts.items,
            "users": manifest.counts.users,
            "kind": manifest.kind,
            "attributes": self.attributes.kinds,
            "title": self.bundle.title_column,
            "pictures": manifest.pictures is not None,
            "in_time": manifest.in_time,
            "metrics": {part: entry.metrics for part, entry in manifest.evaluations.items()},
            "index": None if self.index is None else self.index.backend,
            "explains": self._reasons is not None,
            "new_items": sorted(self._newcomers.modalities) if self._newcomers else [],
        }

    def _attributes_of(self, row: int) -> Answer:
        return {name: to_json(column[row]) for name, column in self._shown.items()}

    def _row(self, kind: str, name: str) -> int:
        row = (self._items if kind == "item" else self._users).get(name)
        if row is None:
            raise NotFoundError(
                f"an {kind}" if kind == "item" else f"a {kind}", repr(name)[:200], "GET /search?q="
            )
        return row

    def _rows(self, kind: str, names: Sequence[str]) -> Ids:
        return np.array([self._row(kind, name) for name in names], dtype=np.int64)
