"""Tokenise a dataset: item content to a table of semantic IDs, with a health report."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import mmrec
from mmrec.codes import health as reports
from mmrec.codes.collisions import Collisions, resolve
from mmrec.codes.quantiser import Fitted, Rows, Settings
from mmrec.codes.store import Tokeniser
from mmrec.codes.table import CodeTable, write_codes
from mmrec.codes.views import Views
from mmrec.config import apply_override, validate
from mmrec.data.dataset import Dataset, Split
from mmrec.encode.encoders import check_choice, check_name
from mmrec.encode.features import FeatureTable
from mmrec.errors import ConfigError, DataError, FeatureError, did_you_mean
from mmrec.files import (
    content_hash,
    disk_errors,
    read_json,
    sha256_file,
    sync_folder,
    write_array,
    write_json,
)
from mmrec.progress import note
from mmrec.registry import load_class
from mmrec.runs import BEST, Run, environment

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Method:
    """A way to make codes.

    Attributes:
        module: Module with ``fit``.
        settings: Name of its settings class there.
        collisions: How colliding items are told apart unless said otherwise.
        summary: One line for people.
    """

    module: str
    settings: str
    collisions: Collisions
    summary: str


METHODS = {
    "residual-kmeans": Method(
        "mmrec.codes.residual", "ResidualKMeansSettings", "index", "k-means of residuals, level by level"
    ),
    "rqvae": Method("mmrec.codes.rqvae", "RQVAESettings", "index", "autoencoder with a residual quantiser"),
    "letter": Method(
        "mmrec.codes.letter", "LetterSettings", "reassign", "RQ-VAE aligned with the items of a trained run"
    ),
    "pq": Method("mmrec.codes.product", "ProductSettings", "reassign", "each part of the vector for itself"),
    "opq": Method("mmrec.codes.product", "ProductSettings", "reassign", "the same after a learned rotation"),
    "graph-rqvae": Method(
        "mmrec.codes.graph", "GraphSettings", "popularity", "RQ-VAE of a graph network's item vectors"
    ),
    "rq-dino": Method("mmrec.codes.dino", "DinoSettings", "index", "self-distilled codes of the pictures"),
}


@dataclass(frozen=True, eq=False)
class _Sources:
    """What is tokenised, and where it comes from."""

    inputs: Any  # joined vectors (n_items, d), or pictures (n_items, 3, s, s)
    present: Mask
    views: Views | None
    targets: tuple[Rows, Mask] | None
    record: dict[str, Any]


def tokenize(
    dataset: Dataset | str | Path,
    *,
    features: Sequence[str] = (),
    run: str | Path | Run | None = None,
    method: str = "residual-kmeans",
    levels: int | None = None,
    size: int | None = None,
    collisions: Collisions | None = None,
    name: str | None = None,
    split: str = "default",
    seed: int = 0,
    options: Mapping[str, Any] | Sequence[str] = (),
    allow_collapse: bool = False,
    overwrite: bool = False,
    show_progress: bool = True,
) -> CodeTable:
    """Make semantic IDs of all items, ``DATASET/codes/NAME``, and a report of how good they are.

    Everything is learned from items with training interactions in ``split``; the other items then get codes as new
    ones would. Called again with the same arguments it returns what is there.

    Args:
        dataset: Dataset or its folder.
        features: Names of the feature tables to tokenise; several are centred, brought to one scale and joined.
        run: A trained retriever, whose item vectors are tokenised as one more table, or with ``letter`` aligned with.
        method: ``residual-kmeans``, ``rqvae``, ``letter``, ``pq``, ``opq``, ``graph-rqvae`` or ``rq-dino``.
        levels: Codes per item; None: as usual for the method.
        size: Codes per level; None: as usual for the method.
        collisions: ``index`` or ``popularity`` append a code, ``reassign`` moves items to free codes of the last level;
            None: as usual for the method.
        name: Folder name; None: made from features and method.
        split: Whose training interactions count.
        seed: Of all draws.
        options: More settings of the method, see its settings class: a mapping, or ``key=value`` strings.
        allow_collapse: Keep codes that have collapsed, with a warning.
        overwrite: Replace codes of that name made in another way.
        show_progress: Show progress on stderr.

    Returns:
        The code table; ``health.json`` lies beside it.

    Raises:
        ConfigError: Unknown method or setting, a name that is none, nothing to tokenise.
        FeatureError: Unknown or unusable features, fewer distinct vectors than codes, codes that have collapsed,
            other codes of that name.
        DataError: A run of another dataset or split, or no such split.
        NotFittedError: A run without a checkpoint.
    """
    if method not in METHODS:
        raise ConfigError("a method of tokenising", repr(method), did_you_mean(method, list(METHODS)))
    chosen = METHODS[method]
    data = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    settings = _settings(method, options, levels=levels, size=size)
    how: Collisions = collisions or chosen.collisions
    check_choice("collisions", how, ("index", "popularity", "reassign"))
    target = _target(data, name or "-".join([*features, *(["run"] if run else []), method]))
    parts = data.split(split)
    fitted = np.bincount(parts.train.items, minlength=data.n_items) > 0
    sources = _collect(data, features, run, method, settings, parts, fitted, show_progress=show_progress)
    content = {
        "method": method,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "collisions": how,
        "split": {"name": split, "hash": parts.hash},
        "dataset": data.hash,
        **sources.record,
    }
    if (there := _find(target, content, data.n_items, overwrite=overwrite)) is not None:
        note(f"{target} is already tokenised")
        return there
    learned = fitted & sources.present
    _check_enough(sources.inputs[learned], settings.size, sources.record)
    generator = torch.Generator().manual_seed(seed)
    begin = time.monotonic()
    made = _fit(method, sources, learned, settings, generator, parts, allow_collapse, show_progress)
    fit_seconds = time.monotonic() - begin
    codes = made.quantiser.encode(made.vectors)
    final, sizes = resolve(
        how,
        codes,
        made.quantiser.sizes,
        popularity=np.bincount(parts.train.items, minlength=data.n_items),
        costs=lambda items: made.quantiser.last_costs(made.vectors[items], codes[items]),
    )
    begin = time.monotonic()
    health = reports.measure(
        made.vectors,
        sources.present,
        codes,
        made.quantiser.decode(codes),
        made.quantiser.sizes,
        final,
        sizes,
        generator=generator,
        notes=made.notes,
    )
    seconds = {"learning": fit_seconds, "report": time.monotonic() - begin}
    health = replace(health, seconds={key: round(value, 2) for key, value in seconds.items()})
    _judge(health, allow_collapse=allow_collapse)
    tokeniser = Tokeniser(made.quantiser, sources.views, made.front)

    def write(folder: Path) -> None:
        files = tokeniser.save(folder, content["settings"])
        for file, array in {"present": np.asarray(sources.present), **made.arrays}.items():
            write_array(folder / f"{file}.npy", array)
            files[f"{file}.npy"] = {"sha256": sha256_file(folder / f"{file}.npy")}
        write_json(folder / "health.json", health.to_document())
        manifest = {
            "content": content,
            "key": content_hash(content),
            "items": data.n_items,
            "absent": health.absent,
            "mmrec": mmrec.__version__,
            "environment": environment(),
            "files": files,
        }
        write_codes(folder, final, sizes, manifest)

    _replace(target, write)
    return CodeTable.open(target, n_items=data.n_items)


def _settings(method: str, options: Mapping[str, Any] | Sequence[str], **named: int | None) -> Settings:
    values: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    if isinstance(options, Mapping):
        values |= options
    else:
        for option in options:
            apply_override(values, option)
    kind: type[Settings] = load_class(f"{METHODS[method].module}:{METHODS[method].settings}")
    return validate(kind, values, f"the settings of {method}")


def _target(data: Dataset, name: str) -> Path:
    check_name(name, "text-kmeans")
    return data.path / "codes" / name


def _collect(
    data: Dataset,
    features: Sequence[str],
    run: str | Path | Run | None,
    method: str,
    settings: Any,
    parts: Split,
    fitted: Mask,
    *,
    show_progress: bool,
) -> _Sources:
    """Read what is tokenised."""
    if method == "rq-dino":
        if features or run:
            raise ConfigError(
                "pictures alone for rq-dino", "features or a run besides", "leave --features and --run out"
            )
        from mmrec.codes.pictures import read_pictures

        pictures, present, digest = read_pictures(data, settings.picture_size, show_progress=show_progress)
        return _Sources(pictures, present, None, None, {"pictures": digest})
    tables = [data.features(feature) for feature in features]
    record: dict[str, Any] = {"features": {table.name: table.hash for table in tables}}
    targets = None
    if run is not None:
        vectors = _run_vectors(run, data, parts, fitted)
        record["run"] = vectors.manifest["run"]
        if method == "letter":
            targets = (vectors.vectors, np.array(vectors.present))
        else:
            tables.append(vectors)
    if not tables:
        names = ", ".join(data.feature_names()) or f"none yet: mmrec encode {data.path}"
        raise ConfigError("features to tokenise", "none", f"name some with --features ({names})")
    views = Views.learn(tables, fitted)
    joined, present = views.join_tables(tables)
    return _Sources(joined, present, views, targets, record)


def _run_vectors(run: str | Path | Run, data: Dataset, parts: Split, fitted: Mask) -> FeatureTable:
    """Item vectors of a trained retriever; items it could not learn anything about are absent."""
    from mmrec.models.contracts import contract_of

    opened = run if isinstance(run, Run) else Run(run)
    opened.dataset(data.path)
    own = opened.split(data)
    if own.hash != parts.hash:
        raise DataError(
            f"a run trained on the split {parts.name!r}, on which the codes are learned",
            f"{opened.path}, trained on {own.name!r}: its vectors may know interactions that are held out",
            f"tokenize with --split {own.name}, or train on {parts.name!r}",
        )
    model = opened.model(opened.training_data(data, own))
    if contract_of(type(model)) != "retriever":
        raise ConfigError(
            "a run of a model with item vectors",
            f"{opened.config.model} in {opened.path}, which only scores",
            "train a retriever such as bpr, lightgcn or sasrec",
        )
    with torch.no_grad():
        vectors = model.vectors().items.detach().float().cpu().numpy()
    present = np.ones(data.n_items, dtype=np.bool_) if type(model).cold_items else fitted
    digest = opened.manifest.get("checkpoint_sha256") or sha256_file(opened.path / BEST)
    manifest = {"run": {"model": opened.config.model, "checkpoint": digest}}
    return FeatureTable("run", "collaborative", np.where(present[:, None], vectors, 0), present, manifest)


def _check_enough(rows: NDArray[Any], size: int, record: Mapping[str, Any]) -> None:
    distinct = len(np.unique(rows.reshape(len(rows), -1), axis=0)) if len(rows) else 0
    if distinct < size:
        names = ", ".join(record.get("features", {})) or "the run or the pictures"
        raise FeatureError(
            f"at least {size:,} distinct vectors of items with training interactions, as many as a level has codes",
            f"{distinct:,} among {len(rows):,} items, of {names}",
            "choose a smaller --size, or encode again where they should differ",
        )


def _fit(
    method: str,
    sources: _Sources,
    learned: Mask,
    settings: Any,
    generator: torch.Generator,
    parts: Split,
    allow_collapse: bool,
    show_progress: bool,
) -> Fitted:
    arguments: dict[str, dict[str, Any]] = {
        "letter": {"targets": sources.targets},
        "pq": {"rotate": False},
        "opq": {"rotate": True},
        "graph-rqvae": {"train": parts.train},
        "rq-dino": {"allow_collapse": allow_collapse},
    }
    fit: Callable[..., Fitted] = load_class(f"{METHODS[method].module}:fit")
    return fit(
        sources.inputs, learned, settings, generator, show_progress=show_progress, **arguments.get(method, {})
    )


def _judge(health: reports.Health, *, allow_collapse: bool) -> None:
    try:
        reports.check(health)
    except FeatureError as error:
        if not allow_collapse:
            raise
        note(str(error))


def _find(target: Path, content: Mapping[str, Any], n_items: int, *, overwrite: bool) -> CodeTable | None:
    """The codes there are, where they were made in the same way.

    Raises:
        FeatureError: Codes of that name were made in another way.
    """
    if overwrite or not target.exists():
        return None
    manifest: Mapping[str, Any] = {}
    if (target / "manifest.json").is_file():
        manifest = read_json(target / "manifest.json")
    if manifest.get("key") != content_hash(content):
        raise FeatureError(
            f"no codes {target.name!r} yet, or ones made in this way",
            f"{target} made in another way or from other data",
            "choose another --name, or add --overwrite to replace them",
        )
    return CodeTable.open(target, n_items=n_items)


def _replace(target: Path, write: Callable[[Path], None]) -> None:
    """Write a folder beside ``target`` and give it that name; what was there goes when the new one is whole.

    It is written one level too deep to be taken for a table of codes, should the process be killed.

    Raises:
        DiskError: The disk is full or may not be written.
    """
    workplace = target.parent / f".partial-{target.name}-{os.getpid()}"
    with disk_errors(target):
        try:
            (workplace / "new").mkdir(parents=True)
            write(workplace / "new")
            if target.exists():
                target.rename(workplace / "old")
            (workplace / "new").rename(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(workplace, ignore_errors=True)
