"""The end of writing a bundle: sizes and hashes of its files, all of them on the disk."""

from __future__ import annotations

import os
from pathlib import Path

from mmrec.bundle.manifest import FileEntry
from mmrec.bundle.pictures import FOLDER
from mmrec.files import sha256_file, sync_folder


def seal(folder: Path) -> dict[str, FileEntry]:
    """Size and SHA-256 of all files but the pictures, which have a list of their own."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    names = {file.relative_to(folder).as_posix(): file for file in files}
    return {
        name: FileEntry(bytes=file.stat().st_size, sha256=sha256_file(file))
        for name, file in names.items()
        if not name.startswith(f"{FOLDER}/")
    }


def sync(folder: Path) -> None:
    """Make all content survive a power cut before the folder gets its name."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        else:
            sync_folder(file)
    sync_folder(folder)
