"""The files of a bundle, read and checked: tables, what users have seen, vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmrec.bundle.inputs import parse_seen
from mmrec.bundle.manifest import (
    ITEM_VECTORS,
    ITEMS,
    MANIFEST,
    SEEN,
    USER_VECTORS,
    USERS,
    FileEntry,
    Manifest,
    read_manifest,
)
from mmrec.bundle.reading import (
    AGAIN,
    MOST_JSON,
    check_inside,
    parse_json,
    parse_table,
    parse_tensors,
    read_inside,
    take,
)
from mmrec.data.histories import Histories
from mmrec.errors import BundleError

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


@dataclass(frozen=True)
class Files:
    """The files that a manifest lists.

    Attributes:
        path: Their folder.
        entries: Size and SHA-256 by name.
        check: Compare the SHA-256; sizes are always compared.
    """

    path: Path
    entries: dict[str, FileEntry]
    check: bool

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            BundleError: It is missing or another one.
        """
        most = MOST_JSON if name.endswith(".json") else None
        return read_inside(self.path, name, self.entries[name], check=self.check, most=most)

    def table(self, name: str, rows: int, key: str) -> pd.DataFrame:
        """A table whose rows have an id each, in the column ``key``.

        Raises:
            BundleError: It has none, or other rows.
        """
        table = parse_table(self.read(name), name, rows=rows)
        ids = table[key].tolist() if key in table else []
        if not ids or not all(isinstance(one, str) for one in ids) or len(set(ids)) < len(ids):
            raise BundleError(f"a column {key} in {name}, no id missing or twice", "another one", AGAIN)
        return table

    def vectors(self, name: str, rows: int, dim: int) -> Tensor:
        """Finite vectors ``(rows, dim)``.

        Raises:
            BundleError: None, or of another shape.
        """
        vectors = take(parse_tensors(self.read(name), name), "vectors", "float32", (rows, dim), name)
        if not vectors.isfinite().all():
            raise BundleError(f"finite vectors in {name}", "NaN or infinity", AGAIN)
        return vectors


@dataclass(frozen=True, eq=False)
class Contents:
    """What every bundle holds, and the files for the rest.

    Attributes:
        manifest: What it is.
        files: What is read when it is asked for.
        items: Row i is item i.
        users: Row u is user u.
        seen: Training items of each user.
        item_vectors: ``(n_items, d)``; None where scores are no inner products.
        user_vectors: ``(n_users, d)``; None where users have no vectors of their own.
    """

    manifest: Manifest
    files: Files
    items: pd.DataFrame
    users: pd.DataFrame
    seen: Histories
    item_vectors: Tensor | None
    user_vectors: Tensor | None


def read_contents(path: Path, *, check: bool) -> Contents:
    """Open a bundle; where another one takes its place meanwhile, that one.

    Raises:
        BundleError: No bundle, or a damaged one.
    """
    if not (path / MANIFEST).is_file():
        raise BundleError(
            f"a bundle folder with {MANIFEST}", f"none in {path}", f"mmrec export RUN --to {path}"
        )
    content = read_inside(path, MANIFEST, most=MOST_JSON)
    while True:
        try:
            return _read(path, content, check=check)
        except BundleError:
            before, content = content, read_inside(path, MANIFEST, most=MOST_JSON)
            if content == before:
                raise


def _read(path: Path, content: bytes, *, check: bool) -> Contents:
    manifest = read_manifest(parse_json(content, MANIFEST), str(path))
    files, counts, dim = Files(path, manifest.files, check), manifest.counts, manifest.dim
    contents = Contents(
        manifest,
        files,
        files.table(ITEMS, counts.items, "item_id"),
        files.table(USERS, counts.users, "user_id"),
        parse_seen(files.read(SEEN), counts.users, counts.items, counts.seen),
        None if dim is None else files.vectors(ITEM_VECTORS, counts.items, dim),
        files.vectors(USER_VECTORS, counts.users, dim) if dim and manifest.kind == "vectors" else None,
    )
    done = {ITEMS, USERS, SEEN, ITEM_VECTORS, USER_VECTORS}
    for name, entry in manifest.files.items():
        if check and name not in done:
            check_inside(path, name, entry)
    return contents
