"""Several feature tables of the same items fused to one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmrec.data.dataset import Dataset
from mmrec.encode.absent import Mask, Rows, fill_absent
from mmrec.encode.encoders import check_choice, unit_rows
from mmrec.encode.features import FeatureTable
from mmrec.encode.runner import describe_table, feature_folder, find_finished
from mmrec.encode.shards import open_workplace
from mmrec.encode.subspaces import CCA, PCA
from mmrec.errors import ConfigError, FeatureError
from mmrec.files import content_hash
from mmrec.progress import note

METHODS = ("concat", "sum", "pca", "cca", "bezier")


def standardize(view: Rows, present: Mask, fitted: Mask) -> Rows:
    """Z-score each column by the ``fitted`` items that have the modality, then scale rows to length one.

    ``view (n_items, d)``, masks ``(n_items,)``; rows of absent items are zero.
    """
    known = view[present & fitted].astype(np.float64)
    if not len(known):
        raise FeatureError("a training item with each modality", "none", "choose another split")
    spread = known.std(axis=0)
    scaled = (view - known.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return np.where(present[:, None], unit_rows(scaled), 0)


def concat(views: Sequence[Rows]) -> Rows:
    """Side by side: ``(n, d_1 + d_2 + …)`` of views ``(n, d_m)``."""
    return np.concatenate(views, axis=1)


def add(views: Sequence[Rows]) -> Rows:
    """The sum ``(n, d)`` of views of one width.

    Raises:
        FeatureError: Different widths.
    """
    check_same_width(views)
    return np.asarray(np.sum(views, axis=0))


def bezier(views: Sequence[Rows], present: Sequence[Mask]) -> Rows:
    """Middle of the spherical Bézier curve ``(n, d)`` through the unit vectors of the modalities an item has.

    Zero for items without any. See :func:`mmrec.encode.spherical.spherical_bezier`.

    Raises:
        FeatureError: Different widths.
    """
    import torch

    from mmrec.encode.spherical import spherical_bezier

    check_same_width(views)
    points = np.stack([unit_rows(view) for view in views], axis=1)
    has = np.stack(present, axis=1)
    fused = np.zeros_like(points[:, 0])
    for pattern in np.unique(has, axis=0):  # items with the same modalities are fused together
        if pattern.any():
            rows = np.flatnonzero((has == pattern).all(axis=1))
            fused[rows] = spherical_bezier(torch.from_numpy(points[rows][:, pattern]), 0.5).numpy()
    return fused


def check_same_width(views: Sequence[Rows]) -> None:
    """Raise FeatureError unless all views ``(n, d_m)`` have one width."""
    widths = [view.shape[1] for view in views]
    if len(set(widths)) > 1:
        raise FeatureError("features of one width", f"widths {widths}", "choose --method concat, pca or cca")


def fuse_tables(
    tables: Sequence[FeatureTable],
    method: str,
    fitted: Mask,
    *,
    dim: float | None = None,
    absent: str = "zero",
    normalize: bool = True,
    reg: float = 1e-3,
    join: str = "mean",
) -> tuple[Rows, Mask]:
    """Fused vectors ``(n_items, d)`` and the items ``(n_items,)`` that have any modality.

    Args:
        tables: Two or more, of the same items.
        method: ``concat``, ``sum``, ``pca`` (of the concatenation), ``cca``, or ``bezier`` (on the sphere).
        fitted: ``(n_items,)`` the items that statistics, components and filled values are learned from.
        dim: Of ``pca``: share of the variance below 1, or a width; None: 0.95. Of ``cca``: a width; None: the smallest.
        absent: What stands for a modality that an item lacks: ``zero``, ``mean``, ``neighbours`` (see
            :func:`mmrec.encode.absent.fill_absent`). ``bezier`` and the mean of ``cca`` take the modalities there are.
        normalize: Z-score and scale to length one per modality before ``concat``, ``sum`` and ``pca``.
        reg: Regularisation of ``cca``.
        join: Of ``cca``: ``mean`` of the views' variates, or ``concat``.

    Raises:
        ConfigError: Unknown method, policy or join.
        FeatureError: Different widths where one is needed.
    """
    check_choice("method", method, METHODS)
    check_choice("join", join, ("mean", "concat"))
    present = [np.array(table.present) for table in tables]
    views: list[Rows] = [np.array(table.vectors, dtype=np.float32) for table in tables]
    anything = np.any(present, axis=0)
    if method == "bezier":
        return bezier(views, present), anything
    if method == "cca":
        fused = _canonical(views, present, fitted, dim, absent, reg, join)
    else:
        if normalize:
            views = [standardize(view, has, fitted) for view, has in zip(views, present, strict=True)]
        views = fill_absent(views, present, absent, fitted)
        fused = add(views) if method == "sum" else concat(views)
        if method == "pca":
            components = PCA.fit(fused[anything & fitted], 0.95 if dim is None else dim)
            fused = components.transform(fused)
    return np.where(anything[:, None], fused, 0), anything


def _canonical(
    views: list[Rows],
    present: list[Mask],
    fitted: Mask,
    dim: float | None,
    absent: str,
    reg: float,
    join: str,
) -> Rows:
    complete = np.all(present, axis=0) & fitted
    fit = CCA.fit([view[complete] for view in views], None if dim is None else int(dim), reg)
    if join == "concat":
        return concat(fit.transform(fill_absent(views, present, absent, fitted)))
    variates = np.stack(fit.transform(views))
    has = np.stack(present)[:, :, None]
    return np.asarray((variates * has).sum(axis=0) / np.maximum(has.sum(axis=0), 1))


def fuse(
    dataset: Dataset | str | Path,
    names: Sequence[str],
    method: str = "concat",
    *,
    name: str,
    split: str = "default",
    overwrite: bool = False,
    show_progress: bool = True,
    **options: Any,
) -> FeatureTable:
    """Fuse features of a dataset to ``features/NAME``; nothing is learned from items without training interactions.

    Args:
        dataset: Dataset or its folder.
        names: Two or more feature names.
        method: ``concat``, ``sum``, ``pca``, ``cca`` or ``bezier``.
        name: Folder name under ``features``.
        split: The split whose training items are learned from.
        overwrite: Replace features of that name made in another way.
        show_progress: Print a summary to stderr.
        options: Those of :func:`fuse_tables`.

    Raises:
        ConfigError: Fewer than two names, unknown method or option.
        FeatureError: No such features, or features of that name made in another way.
    """
    check_choice("method", method, METHODS)
    if len(names) < 2:
        raise ConfigError("two or more features to fuse", f"{list(names)}", "name more with --fuse")
    data = dataset if isinstance(dataset, Dataset) else Dataset(dataset)
    tables = [data.features(part) for part in names]
    parts = data.split(split)
    fitted = np.bincount(parts.train.items, minlength=data.n_items) > 0
    modalities = {table.modality for table in tables}
    modality = modalities.pop() if len(modalities) == 1 else "joint"
    content = {
        "modality": modality,
        "encoder": {"name": "fused", "method": method, **options},
        "inputs": {"features": {table.name: table.hash for table in tables}, "split": [split, parts.hash]},
    }
    key = content_hash(content)
    with open_workplace(feature_folder(data, name), content) as workplace:
        finished = find_finished(workplace, key, data.n_items, overwrite=overwrite)
        if finished is not None:
            note(f"{workplace.target} is already fused")
            return finished
        vectors, present = fuse_tables(tables, method, fitted, **options)
        workplace.start(None)
        manifest = {"name": name, "key": key, **content}
        table = workplace.finish(modality, manifest, vectors.shape, "float32", _blocks(vectors, present))
    if show_progress:
        note(describe_table(table))
    return table


def _blocks(vectors: Rows, present: Mask) -> Iterator[tuple[NDArray[np.int64], Rows]]:
    items = np.flatnonzero(present)
    yield items, vectors[items].astype(np.float32)
