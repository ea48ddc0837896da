"""Saved indexes: a manifest that names the files of one save with their hashes, written last.

manifest.json   format, backend, options, counts, kinds of attributes, measured recall, folder and hashes of the files
data-1/         the files; the next save writes data-2, then the manifest, then removes data-1
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmrec
from mmrec.errors import DataError
from mmrec.files import disk_errors, read_json, remove_leftovers, sha256_file, sync_folder, write_json

if TYPE_CHECKING:
    from mmrec.index.protocol import Index

FORMAT = 1
MANIFEST = "manifest.json"
_KEYS = {"backend", "options", "n", "dim", "kinds", "recall", "data", "files"}


def save_index(
    index: Index, folder: Path, options: Mapping[str, Any], write: Callable[[Path], None] | None
) -> None:
    """Save an index: files first, then at once the manifest that makes them count.

    Args:
        index: Says what the manifest tells about it.
        folder: Where to; an index that is there already is replaced.
        options: What the backend needs to open it again.
        write: Writes the files into an empty folder; None where a database holds the items.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError("a folder for the index", f"the file {folder}", "choose another name")
    remove_leftovers(folder)
    names = {path.name for path in folder.glob("data-*") if re.fullmatch(r"data-[0-9]+", path.name)}
    data = f"data-{1 + max((int(name[5:]) for name in names), default=0)}"
    files = {}
    with disk_errors(folder):
        if write is not None:
            (folder / data).mkdir(parents=True)
            write(folder / data)
            for path in sorted((folder / data).iterdir()):
                files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
            sync_folder(folder)
    manifest = {
        "format": FORMAT,
        "mmrec": mmrec.__version__,
        "backend": index.backend,
        "options": dict(options),
        "n": len(index),
        "dim": index.dim,
        "kinds": [[name, kind] for name, kind in index.kinds.items()],  # in the order of the columns
        "recall": index.recall,
        "data": data if write is not None else None,
        "files": files,
    }
    write_json(folder / MANIFEST, manifest)
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a saved index whose files are all there and unchanged.

    Raises:
        DataError: No index, one of a newer mmrec, or damaged files.
    """
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not manifest.keys() >= _KEYS:
        raise DataError(
            f"an index of format {FORMAT} in {folder}",
            "another manifest.json",
            "save the index again with this mmrec",
        )
    kept = manifest["data"] is None or re.fullmatch(r"data-[0-9]+", manifest["data"])
    if not kept or not isinstance(manifest["files"], dict) or any("/" in name for name in manifest["files"]):
        raise DataError(f"the manifest of an index in {folder}", "other entries", "save the index again")
    for name, expected in manifest["files"].items():
        path = folder / manifest["data"] / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected["bytes"] or sha256_file(path) != expected["sha256"]:
            found = "no such file" if size is None else "another content (size or SHA-256 differs)"
            raise DataError(f"{path} as it was saved", found, "save the index again, or restore the file")
    manifest["kinds"] = dict(manifest["kinds"])
    return manifest
