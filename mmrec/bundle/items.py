"""Items added to a bundle after the training: rows, vectors or codes, pictures and index, all at once or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import mmrec
from mmrec.bundle.bundle import Bundle
from mmrec.bundle.card import write_card
from mmrec.bundle.growth import grow_data, grow_features, put_rows
from mmrec.bundle.index import attributes_of, choose_users, write_index
from mmrec.bundle.inputs import write_inputs
from mmrec.bundle.manifest import (
    CARD,
    CHECKPOINT,
    CONFIG,
    INDEX,
    ITEM_VECTORS,
    ITEMS,
    MANIFEST,
    RANKER,
    Addition,
    Index,
    Manifest,
    Pictures,
    check_name,
)
from mmrec.bundle.new_rows import NewRows, join_rows, raise_bad_rows, read_new_rows
from mmrec.bundle.newcomers import Given, Method, Newcomers, without_content
from mmrec.bundle.pictures import FOLDER, write_list
from mmrec.bundle.reading import parse_json, parse_table
from mmrec.bundle.seal import seal, sync
from mmrec.data.dataset import modalities_of, text_columns_of
from mmrec.encode.encoders import Encoder
from mmrec.encode.features import FeatureTable
from mmrec.errors import ConfigError, DataError
from mmrec.files import (
    atomic_folder,
    atomic_path,
    remove_leftovers,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)
from mmrec.runs import now, save_tensors

if TYPE_CHECKING:
    import pandas as pd


def add_items(
    bundle: str | Path,
    table: pd.DataFrame | str | Path,
    *,
    images: str | Path | None = None,
    encoders: Mapping[str, str | Encoder] | None = None,
    features: Mapping[str, Given] | None = None,
    method: Method = "auto",
    to: str | Path | None = None,
    replace: bool = False,
    drop_unknown: bool = False,
    drop_ranker: bool = False,
) -> dict[str, Any]:
    """Add items to a bundle without training anything; a reader finds the old bundle or the new one.

    An item that was there at the training keeps what it has learned when it is replaced: its row changes, its vector does
    not. Items that were added serve as nobody's neighbours, so that their order does not matter. An index is built anew
    with the options of the old one, and its recall measured again. A ranker knows the items that it was trained with,
    and no others: it does not come along. Two processes that add to one bundle at the same time may lose one's items:
    let one do it.

    Args:
        bundle: Exported with features (:func:`mmrec.bundle.export.export`); a model of sequences or semantic IDs has them.
        table: ``item_id`` and columns of the catalogue; see :func:`mmrec.bundle.new_rows.read_new_rows`.
        images: Folder of the new items' pictures, named in a column ``image`` or ``<item_id>.<suffix>``.
        encoders: Where the encoders are; see :class:`mmrec.bundle.newcomers.Newcomers`.
        features: Of the rows of ``table``, in place of encoders: by modality ``(m, d_m)``, alone or with a mask.
        method: Of :class:`mmrec.bundle.newcomers.Newcomers`.
        to: A new bundle; None: change this one.
        replace: Items may be given that are there already.
        drop_unknown: Leave out columns that the catalogue lacks.
        drop_ranker: Leave out the ranker; needed where the bundle has one.

    Returns:
        ``{"bundle", "added", "replaced", "items", "how"}``.

    Raises:
        ConfigError: A bundle that cannot take items, or whose index lies on a server.
        DataError: Bad rows, all of which are named; ``to`` is in use.
        FeatureError: An encoder is missing or another one, or no code is free.
        BundleError: A damaged bundle.
    """
    path = Path(bundle)
    opened = Bundle(path)
    _check_bundle(opened, drop_ranker=drop_ranker)
    newcomers = Newcomers(opened, encoders, method=method)
    new = read_new_rows(
        table,
        opened.items,
        opened.manifest.columns,
        images=None if images is None else Path(images),
        replace=replace,
        drop_unknown=drop_unknown,
    )
    if features is None and images is None:
        _check_pictures(new, newcomers)
    made = newcomers.encode(new.items, new.pictures) if features is None else newcomers.take(features)
    _check_content(new, made)
    target = path if to is None else Path(to)
    remove_leftovers(target.parent, glob.escape(target.name))
    with atomic_folder(target, overwrite=to is None) as folder:
        manifest = _write(folder, opened, newcomers, new, made, None if images is None else Path(images))
        sync(folder)
    last = manifest.additions[-1]
    counts = {"added": last.items, "replaced": last.replaced, "items": manifest.counts.items}
    return {"bundle": str(target), **counts, "how": last.how}


def _check_bundle(bundle: Bundle, *, drop_ranker: bool) -> None:
    """Whatever else the bundle holds has to know the new items, too."""
    ranker, index = bundle.manifest.ranker, bundle.manifest.index
    if ranker is not None and not drop_ranker:
        raise ConfigError(
            "a bundle without a ranker",
            f"{ranker.model} in {bundle.path}, to which all new items would be one and the same unknown item",
            "leave it out: --drop-ranker; or train it again with the new items",
        )
    if index is not None and index.options.get("uri") is not None:
        raise ConfigError(
            "an index in the bundle, which changes when the bundle does",
            f"one on the server {index.options['uri']}",
            "export the run again with an index in the bundle, such as faiss-hnsw",
        )


def _check_pictures(new: NewRows, newcomers: Newcomers) -> None:
    """Named pictures that nobody looks at would count as absent."""
    needed = {"image", "joint"} & set(newcomers.tables.values())
    if needed and "image" in new.items and new.items["image"].notna().any():
        raise DataError("the folder of the pictures that the new items name", "none", "--images FOLDER")


def _check_content(new: NewRows, features: Mapping[str, FeatureTable]) -> None:
    ids = new.items["item_id"].tolist()
    if len(next(iter(features.values())).present) != len(ids):
        raise DataError("features of each new item", f"others than {len(ids)} rows", "give a row for each")
    reasons = dict.fromkeys(without_content(features), f"nothing to encode for {', '.join(features)}")
    raise_bad_rows(ids, reasons, "the table")


def _write(
    folder: Path,
    bundle: Bundle,
    newcomers: Newcomers,
    new: NewRows,
    features: Mapping[str, FeatureTable],
    images: Path | None,
) -> Manifest:
    """Write the bundle with the new items."""
    import pyarrow.parquet as pq

    for name in bundle.manifest.files:
        if not name.startswith((f"{INDEX}/", f"{RANKER}/")):  # built anew, and left out
            _copy(bundle.path, name, folder)
    table = join_rows(bundle.read(ITEMS), new.items, new.rows)
    with atomic_path(folder / ITEMS) as temporary:
        pq.write_table(table, temporary)
    learned = new.rows >= bundle.manifest.trained_items  # the others keep what they have
    rows = new.rows[learned]
    own = {
        name: FeatureTable(name, table.modality, table.vectors[learned], table.present[learned])
        for name, table in features.items()
    }
    vectors = _write_content(folder, bundle, newcomers, rows, own) if len(rows) else None
    index = _write_index(folder, bundle, vectors)
    pictures = _add_pictures(folder, bundle, new, images)
    manifest = _describe(bundle, newcomers, new, table.to_pandas())
    manifest = manifest.model_copy(update={"index": index, "ranker": None, "pictures": pictures})
    write_text(folder / CARD, write_card(manifest, parse_json(bundle.read(CONFIG), CONFIG)))
    manifest = manifest.model_copy(update={"files": seal(folder)})
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def _copy(source: Path, name: str, folder: Path, *, link: bool = False) -> None:
    """Copy a file, or, where it is to be linked and the file system is the same, link it."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if link:
        with contextlib.suppress(OSError):  # another file system
            os.link(source / name, file)
            return
    shutil.copyfile(source / name, file)


def _write_content(
    folder: Path,
    bundle: Bundle,
    newcomers: Newcomers,
    rows: NDArray[np.int64],
    features: Mapping[str, FeatureTable],
) -> NDArray[np.float32] | None:
    """Write what items are made of, tensors where the model reads it, and vectors ``(n, d)`` of all items, if any."""
    import safetensors.numpy

    if bundle.kind == "vectors":
        vectors = newcomers.place(features)
        new = {newcomers.tables[name]: table for name, table in features.items()}
        write_inputs(folder, grow_data(bundle.data, features=grow_features(bundle.data.features, rows, new)))
    else:
        model, tensors, data = newcomers.grow(rows, features)
        write_inputs(folder, data)
        save_tensors(folder / CHECKPOINT, tensors, {"grown": int(data.n_items)})
        if bundle.manifest.dim is None:
            return None
        vectors = model.vectors().items.detach().float().cpu().numpy()[rows]
    both = put_rows(bundle.item_vectors, rows, vectors)
    write_bytes(folder / ITEM_VECTORS, safetensors.numpy.save({"vectors": both}))
    return both


def _write_index(folder: Path, bundle: Bundle, vectors: NDArray[np.float32] | None) -> Index | None:
    """Build the index anew over all items, as it was built at export; vectors: None if they are the old ones."""
    index = bundle.manifest.index
    if index is None:
        return None
    vectors = bundle.item_vectors if vectors is None else vectors
    items = parse_table((folder / ITEMS).read_bytes(), ITEMS, rows=len(vectors))
    attributes = attributes_of(items, bundle.manifest.columns)
    queries = bundle.user_vectors(choose_users(bundle.data.train))
    return write_index(folder, index.backend, index.options, vectors, attributes, queries)


def _add_pictures(folder: Path, bundle: Bundle, new: NewRows, images: Path | None) -> Pictures | None:
    """Put the new pictures beside the old ones, where the bundle came with pictures.

    Raises:
        DataError: A picture with the name of another one.
    """
    if bundle.manifest.pictures is None:
        return None
    known = bundle._pictures
    for name in known:
        _copy(bundle.path / FOLDER, name, folder / FOLDER, link=True)
    rows = {name: (entry.bytes, entry.sha256) for name, entry in known.items()}
    names = [] if images is None else new.items["image"].dropna().tolist()
    for name in map(check_name, names):
        assert images is not None
        entry = ((images / name).stat().st_size, sha256_file(images / name))
        if name in rows and rows[name] != entry:
            raise DataError(
                f"a new name for each picture in {images}", f"{name}: another of that name", "rename it"
            )
        if name not in rows:
            _copy(images, name, folder / FOLDER)
        rows[name] = entry
    return write_list(folder, [(name, *rows[name]) for name in sorted(rows)])


def _describe(bundle: Bundle, newcomers: Newcomers, new: NewRows, items: pd.DataFrame) -> Manifest:
    """The manifest with what has changed of the whole table."""
    manifest = bundle.manifest
    added = len(items) - manifest.counts.items
    has = modalities_of(items, text_columns_of(items, manifest.columns))
    counts = manifest.counts.model_copy(
        update={
            "items": len(items),
            "cold_items": manifest.counts.cold_items + added,
            "without": {name: int((~has[name]).sum()) for name in manifest.counts.without if name in has},
        }
    )
    addition = Addition(
        when=now(),
        mmrec=mmrec.__version__,
        items=added,
        replaced=len(new.rows) - added,
        how=newcomers.how,
    )
    additions = [*manifest.additions, addition]
    return manifest.model_copy(update={"mmrec": mmrec.__version__, "counts": counts, "additions": additions})
