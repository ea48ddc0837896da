"""The index of a bundle: built at export over item vectors and attributes, opened with an eye on where it leads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmrec.bundle.manifest import INDEX, Index, Manifest, check_name
from mmrec.bundle.reading import AGAIN, MOST_JSON, STRANGE, parse_json, read_inside
from mmrec.data.histories import Histories, Ids
from mmrec.errors import BundleError, ConfigError, DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

    from mmrec.index import Index as Searchable

KS = (10, 100)  # lengths of the lists whose recall is measured
QUERIES = 1000  # at most, for that
_MANIFEST = f"{INDEX}/manifest.json"


def parse_index(name: str) -> tuple[str, dict[str, str]]:
    """Backend and options of a name such as ``exact``, ``faiss-hnsw`` or ``lancedb-ivfpq``.

    Raises:
        ConfigError: No such backend.
    """
    from mmrec.index import BACKENDS

    backend, dash, kind = name.partition("-")
    if backend not in BACKENDS:
        raise ConfigError("the name of an index", repr(name), did_you_mean(backend, list(BACKENDS)))
    return backend, {"kind": kind} if dash else {}


def attributes_of(items: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """The columns of items that filters can ask for.

    Texts, which are read and not compared, stay out; so do columns whose values are of no kind that a filter knows.

    Args:
        items: ``item_id`` and attributes.
        columns: Column to its kind.
    """
    from mmrec.where import Attributes

    kept = []
    for place, name in enumerate(items.columns):
        if name == "item_id" or columns.get(str(name)) == "text":
            continue
        try:
            Attributes.from_frame(items.iloc[:, [place]])
        except DataError:
            continue
        kept.append(place)
    return items.iloc[:, kept]


def choose_users(seen: Histories) -> Ids:
    """Some users with items, by whose vectors an index is measured, ascending."""
    users = np.flatnonzero(seen.counts)
    if len(users) > QUERIES:
        users = np.sort(np.random.default_rng(0).choice(users, QUERIES, replace=False))
    return users


def write_index(
    folder: Path,
    name: str,
    options: Mapping[str, Any],
    vectors: NDArray[np.float32],
    attributes: pd.DataFrame,
    queries: NDArray[np.float32],
) -> Index:
    """Build an index, measure it against exact search and save it.

    Args:
        folder: The bundle.
        name: As for :func:`parse_index`.
        options: Of the backend.
        vectors: ``(n_items, d)``.
        attributes: One row per item.
        queries: ``(b, d)`` vectors of users.

    Returns:
        The manifest's entry.

    Raises:
        ConfigError: Unknown name or option, a package that is not installed, or a place on this machine's disk.
    """
    from mmrec.index import build_index, measure_recall

    backend, kind = parse_index(name)
    uri = options.get("uri")
    if uri is not None and "://" not in str(uri):
        raise ConfigError(
            "the address of a server (http://…)", repr(uri), "leave uri out: the bundle holds it"
        )
    index = build_index(backend, vectors, attributes, None, **{**kind, **options})
    recall = {f"recall@{k}": measure_recall(index, queries, k, n_queries=QUERIES) for k in KS}
    index.save(folder / INDEX)
    saved = parse_json((folder / _MANIFEST).read_bytes(), _MANIFEST)  # without what is never saved
    return Index(backend=backend, options=saved["options"], recall=recall)


def open_index(
    root: Path, manifest: Manifest, attributes: pd.DataFrame, options: Mapping[str, Any]
) -> Searchable:
    """Open the saved index of a bundle.

    Args:
        root: The bundle.
        manifest: Its manifest, which names an index.
        attributes: What filters ask for, as :func:`attributes_of` gives it.
        options: Over the saved ones, such as ``api_key``.

    Raises:
        BundleError: Its files are others than the manifest's, or lead out of the bundle.
        ConfigError: A package is not installed, an option is unknown, or items lie on a server that ``uri`` has to name.
    """
    from mmrec.index import load_index

    assert manifest.index is not None
    _check_saved(root, manifest, given="uri" in options)
    try:
        index = load_index(root / INDEX, **options)
    except (
        DataError,
        RuntimeError,
    ) as error:  # the latter is FAISS's word for a file that is none of its own
        found = error.found if isinstance(error, DataError) else str(error)
        raise BundleError(f"a saved index in {root / INDEX}", found, AGAIN) from None
    if (len(index), index.dim, set(index.kinds)) != (manifest.counts.items, manifest.dim, set(attributes)):
        raise BundleError(
            f"an index of the bundle's {manifest.counts.items:,} items",
            f"{len(index):,} items, vectors of width {index.dim}, attributes {', '.join(index.kinds) or 'none'}",
            AGAIN,
        )
    return index


def _check_saved(root: Path, manifest: Manifest, *, given: bool) -> None:
    """An index has a manifest of its own, which may name nothing but files that this bundle's manifest lists."""
    assert manifest.index is not None
    if _MANIFEST not in manifest.files:
        raise BundleError(f"{_MANIFEST} among the files of the bundle", "none", AGAIN)
    content = read_inside(root, _MANIFEST, manifest.files[_MANIFEST], most=MOST_JSON)
    document = parse_json(content, _MANIFEST)
    try:
        same = (document["backend"], document["options"]) == (manifest.index.backend, manifest.index.options)
        uri, data = document["options"].get("uri"), document["data"]
        names = [f"{INDEX}/{check_name(str(data))}/{check_name(name)}" for name in document["files"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"the manifest of an index in {_MANIFEST}", f"{error!r}", AGAIN) from None
    if not same or not set(names) <= manifest.files.keys():
        raise BundleError(f"{_MANIFEST} that fits the bundle", "other options or files", STRANGE)
    if uri is not None and not given:
        raise ConfigError(
            "the address of the server that holds the items",
            f"a bundle that wants {uri!r} to be asked",
            f"if that is your server, say so: --index-option uri={uri}; or search exactly: --exact",
        )
