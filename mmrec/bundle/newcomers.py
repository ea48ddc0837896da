"""Vectors and codes of items that came after the training, from what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmrec.bundle.bundle import Bundle, Floats
from mmrec.bundle.encoding import Pictures, encode_new, open_encoder
from mmrec.bundle.growth import first_items, grow_codes, grow_data, grow_features, grow_model
from mmrec.bundle.manifest import CHECKPOINT
from mmrec.bundle.model import rebuild
from mmrec.bundle.neighbourhood import NEIGHBOURS, TEMPERATURE, mix_neighbours
from mmrec.bundle.tokeniser import Made, read_tokeniser
from mmrec.codes.store import Tokeniser
from mmrec.data.dataset import TrainingData
from mmrec.encode.encoders import Encoder
from mmrec.encode.features import FeatureTable
from mmrec.errors import BundleError, ConfigError, DataError, FeatureError
from mmrec.registry import model_class

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

Method = Literal["auto", "model", "neighbours"]
Given = NDArray[Any] | tuple[NDArray[Any], NDArray[np.bool_]]


class Newcomers:
    """Makes vectors of new items for a bundle, without training anything.

    - A model that makes item vectors of features alone (UniSRec, Molar) gives them itself, and so do models of semantic
      IDs (TIGER), whose quantiser codes the new items.
    - For two tables of vectors (``neighbours``) the formula is :func:`mmrec.bundle.neighbourhood.mix_neighbours`.
    - ``model`` asks a model of two tables to extend itself instead (FREEDOM, VBPR): that is exactly what it gives items that
      nobody had, whose vectors are shorter than others' and seldom come first among all items.

    Args:
        bundle: Exported with features.
        encoders: Where encoders are now, by modality or by the name of the feature table: a folder, a name or an encoder.
            All but the built-in ones have to be named, and are compared with what the features were made by.
        method: ``neighbours`` or ``model``; ``auto``: the model where it grows, else neighbours.

    Raises:
        ConfigError: The bundle holds no features, its model cannot take new items, or a name that is none.
    """

    def __init__(
        self,
        bundle: Bundle,
        encoders: Mapping[str, str | Encoder] | None = None,
        *,
        method: Method = "auto",
    ) -> None:
        self.bundle, self._given = bundle, dict(encoders or {})
        self._encoders: dict[str, Encoder] = {}
        self._check()
        self.method = self._choose(method)
        known = {*self.tables, *self.tables.values()}
        if wrong := sorted(self._given.keys() - known):
            raise ConfigError(f"encoders of {', '.join(sorted(known))}", wrong[0], "correct --encoder")

    def _check(self) -> None:
        bundle = self.bundle
        found = model_class(bundle.config.model)  # which looks whether its class may be loaded
        if bundle.kind != "vectors" and not getattr(found, "grows", False):
            raise ConfigError(
                "a model with two tables of vectors, or one that is made of the items' content alone",
                f"{bundle.manifest.model} in {bundle.path}, which knows only the items it was trained with",
                "train again with the new items, or export another model: freedom, unisrec, molar, tiger",
            )
        if not self.tables:
            raise ConfigError(
                "features, or a tokeniser, by which new items get vectors",
                f"none in {bundle.path}",
                "export the run again: mmrec export RUN --to BUNDLE --with-features",
            )

    def _choose(self, method: str) -> Method:
        if self.bundle.kind != "vectors":
            if method == "neighbours":
                raise ConfigError(
                    "two tables of vectors for neighbours",
                    f"a bundle of kind {self.bundle.kind}",
                    "leave the method out",
                )
            return "model"
        if method not in ("auto", "model", "neighbours"):
            raise ConfigError("method auto, model or neighbours", repr(method), "choose one of them")
        if method == "model" and CHECKPOINT not in self.bundle.manifest.files:
            raise ConfigError(
                "a model that extends itself, exported with features",
                f"{self.bundle.manifest.model} in {self.bundle.path}",
                "use method neighbours",
            )
        return "model" if method == "model" else "neighbours"

    @property
    def how(self) -> str:
        """How the vectors or codes are made, for manifest and card."""
        if self._tokenisers:
            return "codes by the tokeniser of the known items"
        if self.method == "model":
            return "vectors by the model"
        return f"vectors of the {NEIGHBOURS} nearest known items by content, weighted (temperature {TEMPERATURE})"

    @cached_property
    def _data(self) -> TrainingData:
        """What the model reads; beside two tables of vectors that of the items which it was trained with."""
        data, n = self.bundle.data, self.bundle.manifest.trained_items
        return first_items(data, n) if self.bundle.kind == "vectors" else data

    @cached_property
    def _usable(self) -> NDArray[np.bool_]:
        """Which of the items that were there at the training somebody had."""
        n = self.bundle.manifest.trained_items
        return np.asarray(np.bincount(self._data.train.items, minlength=n)[:n] > 0)

    @cached_property
    def _model(self) -> Any:
        """What extends itself to new items: a service asks for one after the other."""
        if self.bundle.kind != "vectors":
            return self.bundle.model
        return rebuild(self.bundle.config, self._data, self.bundle.read(CHECKPOINT), CHECKPOINT)

    @cached_property
    def _tokenisers(self) -> dict[str, tuple[Tokeniser, Made]]:
        """By source of the codes; a source without one makes the bundle one that cannot take new items."""
        sources = list(self._data.codes)
        for source in sources:
            if f"codes/{source}/made.json" not in self.bundle.manifest.files:
                raise ConfigError(
                    f"a tokeniser for the codes {source!r} in {self.bundle.path}",
                    "none: they were made of pictures or of a run, or exported by an older mmrec",
                    "tokenize features, train and export again",
                )
        return {source: read_tokeniser(self.bundle.read, source) for source in sources}

    @cached_property
    def tables(self) -> dict[str, str]:
        """Feature tables that new items need: name to modality."""
        found = {table.name: modality for modality, table in self._data.features.items()}
        encodings = self.bundle.manifest.encodings
        for _, made in self._tokenisers.values():
            found |= {name: encodings[name].modality for name in made.features if name in encodings}
            if absent := [name for name in made.features if name not in encodings]:
                raise BundleError(f"how {absent[0]} was made, in the manifest", "nothing", "export again")
        return found

    @property
    def modalities(self) -> set[str]:
        """What is read of new items: ``text``, ``image`` or both."""
        found = set(self.tables.values())
        return (found - {"joint"}) | ({"text", "image"} if "joint" in found else set())

    @property
    def first_fields(self) -> list[str]:
        """The column that comes first in the text of each table, where a text without columns belongs."""
        encodings = [self.bundle.manifest.encodings.get(name) for name in self.tables]
        return sorted({one.fields[0] for one in encodings if one is not None and one.fields})

    def _dim(self, name: str) -> int:
        for table in self._data.features.values():
            if table.name == name:
                return table.dim
        for tokeniser, _ in self._tokenisers.values():
            views = tokeniser.views
            if views is not None and name in views.names:
                return len(views.means[views.names.index(name)])
        raise BundleError(f"the width of {name}", "unknown", "export the run again")

    def encode(self, table: pd.DataFrame, pictures: Pictures | None = None) -> dict[str, FeatureTable]:
        """Features of new items by table name, made as those of the known items were.

        Args:
            table: Columns of the bundle's items; absent ones are empty.
            pictures: One for each item or None; None: no item has one.

        Raises:
            FeatureError: An encoder is missing or another one.
            DataError: Another number of pictures than of items.
        """
        if pictures is not None and len(pictures) != len(table):
            raise DataError(
                "a picture or None for each item", f"{len(pictures)} for {len(table)}", "give both"
            )
        rows = table.reindex(columns=self.bundle.items.columns)
        if pictures is not None:
            pictures = [None if picture is None else picture.convert("RGB") for picture in pictures]
        made = {}
        for name in self.tables:
            encoding, encoder = self.bundle.manifest.encodings[name], self._encoder(name)
            vectors, present = encode_new(name, encoding, encoder, rows, pictures)
            if not present.any():
                vectors = np.zeros((len(rows), self._dim(name)), dtype=encoding.dtype)
            made[name] = FeatureTable(name, self.tables[name], vectors, present)
        return self._checked(made, len(table))

    def open(self) -> None:
        """Open all encoders, so that what is wrong with one is found out before there are items.

        Raises:
            FeatureError: One is missing or another one.
            BundleError: The bundle does not say how features were made.
        """
        for name in self.tables:
            self._encoder(name)

    def _encoder(self, name: str) -> Encoder:
        if name not in self._encoders:
            known = self.bundle.items.iloc[: self.bundle.manifest.trained_items]
            chosen = self._given.get(name, self._given.get(self.tables[name]))
            encoding = self.bundle.manifest.encodings.get(name)
            if encoding is None:
                raise BundleError(f"how {name} was made, in the manifest", "nothing", "export the run again")
            self._encoders[name] = open_encoder(name, encoding, chosen, known)
        return self._encoders[name]

    def _checked(self, features: dict[str, FeatureTable], n: int) -> dict[str, FeatureTable]:
        for name, table in features.items():
            if table.vectors.shape != (n, self._dim(name)) or table.present.shape != (n,):
                raise FeatureError(
                    f"{name}: vectors ({n}, {self._dim(name)})",
                    f"shape {table.vectors.shape}",
                    "encode the new items as the catalogue was",
                )
            if not np.isfinite(table.vectors).all():
                raise FeatureError(
                    f"finite vectors of {name}", "NaN or infinity", "look at the new items' content"
                )
        return features

    def take(self, features: Mapping[str, Given]) -> dict[str, FeatureTable]:
        """Given features of new items by table name.

        Args:
            features: By modality or table name, each ``(m, d_m)``, alone or with a mask ``(m,)`` of the items that have
                any; alone, rows of zeros have none. A modality that is not given is absent.

        Raises:
            FeatureError: Nothing given, an unknown name, or vectors of another width.
        """
        own = {modality: name for name, modality in self.tables.items()} | {
            name: name for name in self.tables
        }
        if not features or (wrong := [name for name in features if name not in own]):
            found = wrong[0] if features else "none"
            raise FeatureError(f"features of {', '.join(self.tables.values())}", found, "correct the names")
        given = {
            own[name]: value if isinstance(value, tuple) else (value, None)
            for name, value in features.items()
        }
        n = len(next(iter(given.values()))[0])
        tables = {}
        for name, modality in self.tables.items():
            vectors, mask = given.get(name, (np.zeros((n, self._dim(name)), np.float32), None))
            array = np.asarray(vectors)
            present: NDArray[np.bool_] = np.asarray(
                array.any(axis=-1) if mask is None else mask, dtype=np.bool_
            )
            if present.shape == array.shape[:1] and array.ndim == 2:
                array = np.where(present[:, None], array, np.zeros((), dtype=array.dtype))
            tables[name] = FeatureTable(name, modality, array, present)
        return self._checked(tables, n)

    def vectors(self, table: pd.DataFrame, pictures: Pictures | None = None) -> Floats:
        """Vectors ``(m, d)`` of new items.

        Args:
            table: Columns of the bundle's items; absent ones are empty.
            pictures: One for each item or None; None: no item has one.

        Raises:
            ConfigError: A bundle without item vectors.
            FeatureError: An encoder is missing or another one.
            DataError: An item with nothing to encode.
        """
        return self._vectors(self.encode(table, pictures))

    def vectors_from_features(self, features: Mapping[str, Given]) -> Floats:
        """Vectors ``(m, d)`` of new items whose features are given; see :meth:`take`.

        Raises:
            ConfigError: A bundle without item vectors.
            FeatureError: Features that do not fit.
            DataError: An item without any.
        """
        return self._vectors(self.take(features))

    def _vectors(self, features: Mapping[str, FeatureTable]) -> Floats:
        if self.bundle.manifest.dim is None:
            raise ConfigError("a bundle with item vectors", f"kind {self.bundle.kind}", "add the items to it")
        if empty := without_content(features):
            raise DataError(
                "a text or a picture of each new item",
                f"nothing to encode in row {empty[0] + 1:,}",
                "fill it in",
            )
        if self.bundle.kind == "vectors" or hasattr(self._model, "extend"):
            return self.place(features)
        m = len(next(iter(features.values())).present)
        rows = np.arange(m) + self.bundle.manifest.counts.items
        return np.asarray(self.grow(rows, features)[0].vectors().items.detach()[rows])

    def place(self, features: Mapping[str, FeatureTable]) -> Floats:
        """Vectors ``(m, d)`` of new items beside two tables of vectors, or by a model that extends itself."""
        import torch

        bundle = self.bundle
        new = {self.tables[name]: table for name, table in features.items()}
        if self.method == "model":
            with torch.no_grad():
                extended: Tensor = self._model.extend(new)
            return np.ascontiguousarray(extended.float().cpu().numpy())
        vectors = bundle.item_vectors[: bundle.manifest.trained_items]
        return mix_neighbours(new, self._data.features, vectors, self._usable)

    def grow(
        self, rows: NDArray[np.int64], features: Mapping[str, FeatureTable]
    ) -> tuple[Any, dict[str, Tensor], TrainingData]:
        """The model, its tensors and its inputs with the new items at ``rows (m,)``.

        Raises:
            FeatureError: No codes are free for an item.
            NotFittedError: The model does not grow as it says.
        """
        state = self.bundle.state()
        assert state is not None
        by_modality = {self.tables[name]: table for name, table in features.items()}
        grown = grow_features(self._data.features, rows, by_modality)
        codes = {}
        for source, (tokeniser, made) in self._tokenisers.items():
            known = self._data.codes[source]
            taken = np.delete(known.codes, rows[rows < len(known.codes)], axis=0)
            inputs = {name: np.asarray(features[name].vectors) for name in made.features}
            new = tokeniser.extend(inputs, made.collisions, taken, known.sizes)
            codes[source] = grow_codes(known, rows, new)
        data = grow_data(self._data, features=grown, codes=codes)
        model, tensors = grow_model(self.bundle.config, data, state)
        return model, tensors, data


def without_content(features: Mapping[str, FeatureTable]) -> list[int]:
    """Rows of items that have none of the features."""
    present = np.any([table.present for table in features.values()], axis=0)
    return [int(row) for row in np.flatnonzero(~present)]
