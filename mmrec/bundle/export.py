"""From a trained run to a bundle: one folder that serves without the run and without the dataset."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

import mmrec
from mmrec.bundle.card import write_card
from mmrec.bundle.encoding import encoding_of
from mmrec.bundle.index import attributes_of, choose_users, parse_index, write_index
from mmrec.bundle.inputs import write_inputs, write_seen
from mmrec.bundle.manifest import (
    CARD,
    CHECKPOINT,
    CONFIG,
    FORMAT,
    ITEM_VECTORS,
    ITEMS,
    KINDS,
    MANIFEST,
    METRICS,
    USER_VECTORS,
    USERS,
    Counts,
    Encoding,
    Evaluated,
    EvaluatedRows,
    Index,
    Kind,
    Manifest,
    RankerEntry,
    Source,
    Trained,
)
from mmrec.bundle.model import write_checkpoint, write_config
from mmrec.bundle.pictures import How, write_pictures
from mmrec.bundle.plain import DESCRIPTION, Format, check_installed, write_plain
from mmrec.bundle.ranker_export import write_ranker
from mmrec.bundle.seal import seal, sync
from mmrec.bundle.tokeniser import features_of, write_tokeniser
from mmrec.data.dataset import Dataset, Split, TrainingData
from mmrec.data.histories import Histories
from mmrec.errors import ConfigError, DataError, MMRecError, NotFittedError
from mmrec.files import (
    atomic_folder,
    read_json,
    remove_leftovers,
    write_bytes,
    write_json,
    write_table,
    write_text,
)
from mmrec.registry import model_class
from mmrec.runs import Run, now

if TYPE_CHECKING:
    from mmrec.models.contracts import Vectors
    from mmrec.rerank import Reranker

Found = TypeVar("Found", Evaluated, EvaluatedRows)


@dataclass(frozen=True, eq=False)
class _Trained:
    """A run with all that it refers to.

    Attributes:
        seen: Training items of each user, the oldest first where times are known.
        items: ``(n_items, d)``; None where scores are no inner products.
        users: ``(n_users, d)``; None where users have no vectors of their own.
        vectors: Items and users as the model gives them; None where scores are no inner products.
        keeps_features: Whether the features go along where vectors are all that serving needs.
    """

    run: Run
    dataset: Dataset
    split: Split
    data: TrainingData
    kind: Kind
    seen: Histories
    items: NDArray[np.float32] | None
    users: NDArray[np.float32] | None
    vectors: Vectors | None
    keeps_features: bool = False


def export(
    run: Run | str | Path,
    to: str | Path,
    *,
    ranker: Run | str | Path | None = None,
    format: Literal["bundle"] | Format = "bundle",
    images: How = "none",
    index: str | None = None,
    index_options: Mapping[str, Any] | None = None,
    data: str | Path | None = None,
    features: bool | Mapping[str, str] = False,
    overwrite: bool = False,
) -> Path:
    """Write a finished run as a bundle; the folder appears whole or not at all.

    What a bundle holds depends on where the model's scores come from; d is the width of its vectors:

    - vectors (LightGCN, FREEDOM, …): item and user vectors, ``4 d (n_items + n_users)`` bytes; no model.
    - sequence (SASRec, UniSRec, …; also MultVAE): item vectors, ``4 d n_items`` bytes, the checkpoint, and the features
      that the model reads, as large as they are in the dataset.
    - scores (EASE, ItemKNN, RPG, …) and generator (TIGER, …): the checkpoint, the features and the codes.

    Besides these all have the items with their attributes, the ids of the users, and what each of them has in the
    training split: ``8 (n_users + 1)`` bytes and 4 for each interaction. Attributes of users stay behind.

    A ranker comes with the features and codes that it reads, stored again even where the model has the same ones
    (``n_items (b d + 1)`` bytes for b-byte numbers of width d), with the histories that it reads, which take as much as
    what users have seen, and with 4 bytes for each field of each user and each item. These fields are the attributes
    of users that it was trained with, as numbers without the words that they stand for.

    Args:
        run: A finished run or its folder.
        to: The new folder.
        ranker: A finished run of a ranker that goes along, to order anew what this one has found; its rows were made
            from the same dataset and split.
        format: ``bundle``, or vectors and ids alone as ``parquet``, ``npy`` or ``lance``.
        images: ``copy`` the pictures into the bundle, ``link`` them (hard links: no space, same file system), or
            ``none``: their names alone.
        index: Build and save an index over the item vectors: ``exact``, ``faiss-hnsw``, ``faiss-ivfpq``, ``lancedb``,
            ``qdrant``, ``milvus``. Its recall against exact search goes into the manifest. None: search is exact.
        index_options: Of the index; see the ``Options`` of its module in :mod:`mmrec.index`.
        data: Where the dataset is now, if it has moved.
        features: True keeps the features of a model with vectors, which new items need
            (:func:`mmrec.bundle.items.add_items`), and its tensors where it can extend itself; the other kinds have them
            anyway. A mapping from modality to the name of a feature table gives some to a model that reads none.
        overwrite: Replace a bundle. A reader finds the old one or the new one
            (:func:`mmrec.files.atomic_folder` says how).

    Returns:
        ``to``.

    Raises:
        ConfigError: Options that do not go together, a model without vectors for another format than ``bundle``, or a
            second run that is of no ranker.
        DataError: The dataset is not the run's, the ranker's rows are of another dataset or split, ``to`` is in use, or
            holds no bundle to overwrite.
        NotFittedError: The run is not finished, its checkpoint is damaged, or its vectors are not finite.
    """
    to = Path(to)
    _check_options(format, images, has_ranker=ranker is not None, index=index, with_features=bool(features))
    _check_target(to, overwrite=overwrite)
    trained = _with_features(_open(run if isinstance(run, Run) else Run(run), data), features)
    second = None if ranker is None else _open_ranker(ranker, trained)
    if trained.items is None and (format != "bundle" or index is not None):
        option = f"--format {format}" if index is None else f"--index {index}"
        raise ConfigError(
            f"a model with vectors for {option}", trained.run.config.model, "export a bundle without an index"
        )
    remove_leftovers(to.parent, glob.escape(to.name))
    with atomic_folder(to, overwrite=overwrite) as folder:
        if format == "bundle":
            _write_bundle(folder, trained, second, images, (index, index_options or {}))
        else:
            description = _description(trained).items()
            document = {k: v.model_dump() if isinstance(v, BaseModel) else v for k, v in description}
            write_plain(folder, format, _tables(trained), document)
        sync(folder)
    return to


def _with_features(trained: _Trained, features: bool | Mapping[str, str]) -> _Trained:
    """The run with the features that go along.

    Raises:
        ConfigError: It has none, or is to get others than its own.
        FeatureError: The dataset has no such features.
    """
    own = {modality: table.name for modality, table in trained.data.features.items()}
    named = dict(features) if isinstance(features, Mapping) else {}
    if named and trained.kind != "vectors":
        raise ConfigError(
            "a model with user and item vectors", trained.run.config.model, "leave features out"
        )
    if named and own and named != own:
        raise ConfigError(f"the features of the run, {own}", f"{named}", "leave their names out")
    if named and not own:
        tables = {modality: trained.dataset.features(name) for modality, name in named.items()}
        trained = replace(trained, data=replace(trained.data, features=tables))
    if features and not trained.data.features:
        raise ConfigError(
            "features to keep",
            f"none in the config of {trained.run.path}",
            "name some of the dataset's: --features text=text-minilm",
        )
    return replace(trained, keeps_features=bool(features))


def _check_options(
    format: str, images: str, *, has_ranker: bool, index: str | None, with_features: bool
) -> None:
    formats = ("bundle", *get_args(Format))
    if format not in formats:
        raise ConfigError(f"format {', '.join(formats)}", repr(format), "choose one of them")
    if images not in get_args(How):
        raise ConfigError(f"images {', '.join(get_args(How))}", repr(images), "choose one of them")
    others = {
        "a ranker": has_ranker,
        "features": with_features,
        f"images {images}": images != "none",
        f"index {index}": index is not None,
    }
    found = next((name for name, given in others.items() if given), None)
    if format != "bundle" and found is not None:
        raise ConfigError(f"vectors and ids alone for --format {format}", found, "export a bundle")
    check_installed(format)
    if index is not None:
        parse_index(index)


def _check_target(to: Path, *, overwrite: bool) -> None:
    """Overwriting is for what was exported, and for nothing else."""
    if not to.exists() or (to.is_dir() and not any(to.iterdir())):
        return
    if not overwrite:
        raise DataError("a new or empty folder", f"{to} in use", "choose another folder, or --overwrite")
    try:
        mine = (to / DESCRIPTION).is_file() or read_json(to / MANIFEST).get("kind") in KINDS
    except (MMRecError, AttributeError):
        mine = False
    if not mine or to.is_symlink():
        found = "a link" if to.is_symlink() else "other files"
        raise DataError(
            "a bundle to overwrite", f"{found} at {to}", "choose another folder, or remove it first"
        )


def _finished(run: Run) -> Run:
    if not run.finished:
        raise NotFittedError(
            f"a finished run in {run.path}",
            f"status {run.manifest['status']!r}",
            f"mmrec train {run.path} --resume",
        )
    return run


def _open(run: Run, moved: str | Path | None) -> _Trained:
    import torch

    from mmrec.models.contracts import contract_of

    dataset = _finished(run).dataset(moved)
    split = run.split(dataset)
    data = run.training_data(dataset, split)
    model = run.model(data)
    contract = contract_of(type(model))
    kind: Kind = "generator" if contract == "generator" else "scores"
    items = users = vectors = None
    if contract == "retriever":
        with torch.no_grad():
            vectors = model.vectors()
        kind = "sequence" if vectors.table is None else "vectors"
        items = _array(vectors.items, run)
        users = None if vectors.table is None else _array(vectors.table, run)
    seen = data.train if dataset.time_column is None else data.sequences
    return _Trained(run, dataset, split, data, kind, seen, items, users, vectors)


def _open_ranker(run: Run | str | Path, trained: _Trained) -> Reranker:
    from mmrec.rerank import Reranker

    run = _finished(run if isinstance(run, Run) else Run(run))
    return Reranker(run, trained.dataset, trained.split)


def _array(vectors: Any, run: Run) -> NDArray[np.float32]:
    array: NDArray[np.float32] = np.ascontiguousarray(vectors.detach().float().cpu().numpy())
    if not np.isfinite(array).all():
        raise NotFittedError(
            "finite vectors", f"NaN or infinity in those of {run.path}", "train again: see metrics.jsonl"
        )
    return array


def _write_bundle(
    folder: Path,
    trained: _Trained,
    ranker: Reranker | None,
    images: How,
    index: tuple[str | None, Mapping[str, Any]],
) -> None:
    import safetensors.numpy

    write_table(folder / ITEMS, trained.dataset.items)
    write_table(folder / USERS, trained.dataset.users[["user_id"]])
    write_seen(folder, trained.seen)
    for name, vectors in ((ITEM_VECTORS, trained.items), (USER_VECTORS, trained.users)):
        if vectors is not None:
            write_bytes(folder / name, safetensors.numpy.save({"vectors": vectors}))
    _write_model(folder, trained)
    second = None
    if ranker is not None:
        evaluations = _evaluations(ranker.run, EvaluatedRows)
        written = write_ranker(folder, ranker, trained.split.train)
        second = RankerEntry(**_provenance(ranker.run), evaluations=evaluations, **written)
    pictures = write_pictures(folder, trained.dataset, images)
    columns = trained.dataset.manifest["columns"].get("items", {})
    content = {
        **_description(trained),
        "mmrec": mmrec.__version__,
        "created": now(),
        **_provenance(trained.run),
        "split": Source(name=trained.split.name, hash=trained.split.hash),
        "split_protocol": str(trained.split.manifest["protocol"]),
        "columns": {str(k): str(v) for k, v in columns.items()},
        "encodings": _encodings(trained),
        "in_time": trained.dataset.time_column is not None,
        "additions": [],
        "evaluations": _evaluations(trained.run, Evaluated),
        "pictures": pictures,
        "index": _write_index(folder, trained, columns, *index),
        "ranker": second,
    }
    # The card is one of the files, and says what the manifest says of everything else.
    unsealed = Manifest.model_construct(**content, files={})
    write_text(folder / CARD, write_card(unsealed, trained.run.config.document()))
    manifest = Manifest(**content, files=seal(folder))
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def _write_model(folder: Path, trained: _Trained) -> None:
    """The config always; tensors and what the class is built from where vectors are not all."""
    is_model = trained.kind != "vectors"
    write_config(trained.run, folder / CONFIG)
    if is_model or (trained.keeps_features and hasattr(model_class(trained.run.config.model), "extend")):
        write_checkpoint(trained.run, folder / CHECKPOINT)
    if is_model or trained.keeps_features:
        write_inputs(folder, trained.data)
    for source, table in trained.data.codes.items():
        write_tokeniser(folder, source, table)


def _encodings(trained: _Trained) -> dict[str, Encoding]:
    """How the tables were made of which the bundle holds features or codes, as far as the dataset still has them."""
    tables = (
        list(trained.data.features.values()) if trained.kind != "vectors" or trained.keeps_features else []
    )
    made_from = {name for table in trained.data.codes.values() for name in features_of(table)}
    tables += [trained.dataset.features(name) for name in made_from & set(trained.dataset.feature_names())]
    return {table.name: encoding_of(table) for table in sorted(tables, key=lambda table: table.name)}


def _write_index(
    folder: Path, trained: _Trained, columns: Mapping[str, str], name: str | None, options: Mapping[str, Any]
) -> Index | None:
    if name is None:
        return None
    assert trained.items is not None
    attributes = attributes_of(trained.dataset.items, columns)
    return write_index(folder, name, options, trained.items, attributes, _queries(trained))


def _queries(trained: _Trained) -> NDArray[np.float32]:
    """Vectors ``(b, d)`` of some users with items, to measure an index by."""
    import torch

    from mmrec.models.contracts import Users

    assert trained.vectors is not None
    with torch.no_grad():
        users = Users.of(trained.seen, choose_users(trained.seen))
        return _array(trained.vectors.users(users), trained.run)


def _description(trained: _Trained) -> dict[str, Any]:
    """What the vectors or scores are."""
    counts = np.bincount(trained.seen.items, minlength=trained.dataset.n_items)
    return {
        "format": FORMAT,
        "kind": trained.kind,
        "model": trained.run.config.model,
        "metric": METRICS[trained.kind],
        "dim": None if trained.items is None else int(trained.items.shape[1]),
        "dataset": Source(name=trained.dataset.name, hash=trained.dataset.hash),
        "counts": Counts(
            users=trained.dataset.n_users,
            items=trained.dataset.n_items,
            seen=len(trained.seen.items),
            users_without_items=int((trained.seen.counts == 0).sum()),
            cold_items=int((counts == 0).sum()),
            without={name: int((~has).sum()) for name, has in trained.dataset.modalities().items()},
        ),
    }


def _provenance(run: Run) -> dict[str, Any]:
    """Where a run's tensors come from."""
    manifest = run.manifest
    return {
        "model": run.config.model,
        "dataset": _source(manifest["dataset"]),
        "features": {name: _source(entry) for name, entry in manifest["features"].items()},
        "codes": {name: _source(entry) for name, entry in manifest.get("codes", {}).items()},
        "trained": Trained(
            seed=run.config.train.seed,
            best_epoch=int(manifest["best_epoch"]),
            config_hash=manifest["config_hash"],
            test_opened=[str(entry["when"]) for entry in manifest["test_opened"]],
        ),
    }


def _source(entry: Mapping[str, Any]) -> Source:
    return Source(name=entry["name"], hash=entry["hash"])


def _evaluations(run: Run, kind: type[Found]) -> dict[Literal["valid", "test"], Found]:
    """Validation, and test if it was opened on the record."""
    parts: tuple[Literal["valid", "test"], ...] = ("valid", "test")
    parts = parts if run.manifest["test_opened"] else parts[:1]
    found = {part: run.path / f"{part}.json" for part in parts}
    documents = {part: read_json(file) for part, file in found.items() if file.is_file()}
    return {
        part: kind(**{key: document[key] for key in kind.model_fields})
        for part, document in documents.items()
    }


def _tables(trained: _Trained) -> dict[str, tuple[list[str], NDArray[np.float32]]]:
    """Ids and vectors of items, and of users where they have some."""
    assert trained.items is not None
    tables = {"item": (trained.dataset.items["item_id"].tolist(), trained.items)}
    if trained.users is not None:
        tables["user"] = (trained.dataset.users["user_id"].tolist(), trained.users)
    return tables


def summary(folder: Path) -> dict[str, Any]:
    """``{"bundle", "kind", "model", "users", "items", "bytes"}`` of what :func:`export` wrote."""
    own = folder / DESCRIPTION
    document = read_json(own if own.is_file() else folder / MANIFEST)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    counts = {name: document["counts"][name] for name in ("users", "items")}
    return {
        "bundle": str(folder), "kind": document["kind"], "model": document["model"], **counts, "bytes": size,
    }  # fmt: skip
