"""Unpacking archives that nobody vouches for: every entry stays inside its folder, every size is counted.

Refused: absolute paths, drive letters, ``..``, backslashes, control characters, links, devices, encrypted
entries, names that are the same after normalisation (Unicode form, case), too many entries, too many bytes,
and data that grows more than honest data does. Nothing remains of an archive that was refused half-way.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn

from mmrec.errors import DataError, DiskError
from mmrec.files import atomic_folder

_BLOCK = 1 << 20
_HEADERS = 1 << 20  # bytes of tar headers allowed between two entries
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
)
_ODD = re.compile(r"[\x00-\x1f\x7f\\]|^[A-Za-z]:")


@dataclass(frozen=True)
class Limits:
    """What an archive may bring.

    Attributes:
        entries: Files and folders.
        total: Bytes after unpacking.
        ratio: Unpacked bytes per packed byte; plain text reaches 20, a bomb 1000 and more.
        free_ratio: Bytes to which ``ratio`` does not apply, so that small files of zeros pass.
    """

    entries: int = 500_000
    total: int = 64 << 30
    ratio: float = 200.0
    free_ratio: int = 16 << 20


def unpack(archive: Path, to: Path, *, limits: Limits | None = None) -> list[str]:
    """Unpack a zip, tar (plain, gz, bz2, xz) or single gz file into a new folder.

    The content goes to a temporary folder first; ``to`` appears when all of it is there. Modes, owners and
    times of the entries are dropped.

    Args:
        archive: The file; its suffix says what it is.
        to: Folder to make; it must not hold anything yet.
        limits: What the archive may bring.

    Returns:
        The files' paths relative to ``to``, sorted.

    Raises:
        DataError: An entry or the whole is not acceptable, or the archive is damaged.
        DiskError: The disk is full or may not be written.
    """
    read = _reader(archive)
    meter = _Meter(archive, limits or Limits())
    to.parent.mkdir(parents=True, exist_ok=True)
    for stale in to.parent.glob(f".{to.name}.partial-*"):  # of a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    with atomic_folder(to) as folder:
        try:
            read(archive, folder, meter)
        except DataError:
            raise
        except _BROKEN as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # a matter of the disk, not of the archive
            meter.refuse(f"damaged: {error}")
    return sorted(meter.files)


def is_archive(path: Path) -> bool:
    """Whether :func:`unpack` knows the suffix."""
    return _kind(path) is not None


def safe_name(name: str) -> PurePosixPath:
    """A relative path that stays where it is put.

    Raises:
        ValueError: It is absolute, leaves its folder, or holds characters that mean something else elsewhere.
    """
    if name.startswith("/") or _ODD.search(name):
        raise ValueError("an absolute path, a drive, a backslash or a control character")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError("a path with '..'")
    if any(len(part.encode("utf-8", "surrogateescape")) > 255 for part in parts) or len(parts) > 64:
        raise ValueError("a path that is too long")
    return PurePosixPath(*parts)


@dataclass
class _Meter:
    """Counts entries, names and bytes, and refuses when there are too many."""

    archive: Path
    limits: Limits
    entries: int = 0
    unpacked: int = 0
    files: list[str] = field(default_factory=list)
    _taken: dict[str, bool] = field(default_factory=dict)  # normalised path -> is a folder

    def refuse(self, what: str) -> NoReturn:
        raise DataError(
            "an archive that can be unpacked safely",
            f"{self.archive.name}: {what}",
            f"delete {self.archive} and download it again from the official address; do not unpack it by hand",
        ) from None

    def enter(self, name: str, *, folder: bool) -> PurePosixPath | None:
        """Admit an entry; None for the archive's own top folder."""
        self.entries += 1
        if self.entries > self.limits.entries:
            self.refuse(f"more than {self.limits.entries:,} entries")
        try:
            path = safe_name(name)
        except ValueError as error:
            self.refuse(f"the entry {name!r} is {error}")
        if not path.parts:
            if folder:
                return None
            self.refuse(f"the entry {name!r} has no name")
        for parent in list(path.parents)[:-1]:
            if not self._taken.setdefault(_normal(parent), True):
                self.refuse(f"{parent} is a file and a folder")
        key = _normal(path)
        if key in self._taken and not (folder and self._taken[key]):
            self.refuse(f"the name {name!r} twice (or in two spellings)")
        self._taken[key] = folder
        if not folder:
            self.files.append(str(path))
        return path

    def count(self, size: int) -> None:
        """Add unpacked bytes."""
        self.unpacked += size
        self.check(self.unpacked)

    def check(self, total: int) -> None:
        """Refuse a total, counted or announced, that is too large."""
        if total > self.limits.total:
            self.refuse(f"more than {self.limits.total:,} bytes after unpacking")
        packed = self.archive.stat().st_size
        if total > self.limits.free_ratio and total > self.limits.ratio * packed:
            self.refuse(f"over {self.limits.ratio:g} times its {packed:,} bytes after unpacking")

    def save(self, source: Callable[[int], bytes], target: Path, size: int | None) -> None:
        """Copy one entry, counting what really comes."""
        target.parent.mkdir(parents=True, exist_ok=True)
        done = 0
        with target.open("xb") as file:
            while block := source(_BLOCK):
                done += len(block)
                if size is not None and done > size:
                    self.refuse(f"{target.name} is longer than its header says")
                self.count(len(block))
                file.write(block)
        if size is not None and done != size:
            self.refuse(f"{target.name} is cut: {done:,} of {size:,} bytes")


def _normal(path: PurePosixPath) -> str:
    return unicodedata.normalize("NFC", str(path)).casefold()


def _unzip(archive: Path, folder: Path, meter: _Meter) -> None:
    with zipfile.ZipFile(archive) as opened:
        infos = opened.infolist()
        meter.check(sum(info.file_size for info in infos))
        _check_space(folder, sum(info.file_size for info in infos))
        if sum(info.compress_size for info in infos) > archive.stat().st_size:
            meter.refuse("entries that overlap each other")
        for info in infos:
            mode = info.external_attr >> 16
            if info.flag_bits & 0x1:
                meter.refuse(f"the entry {info.filename!r} is encrypted")
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                meter.refuse(f"the entry {info.filename!r} is a link or a device")
            path = meter.enter(info.orig_filename, folder=info.is_dir())
            if path is None or info.is_dir():
                _make_folder(folder, path)
                continue
            with opened.open(info) as source:
                meter.save(source.read, folder / path, info.file_size)


class _Counted:
    """The unpacked stream of a tar file: no header may be longer than honest ones are."""

    def __init__(self, stream: IO[bytes], meter: _Meter) -> None:
        self._stream, self._meter = stream, meter
        self.position = 0
        self.allowed = 0

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self.position += len(block)
        if self.position > self.allowed:
            self._meter.refuse("headers or padding of more than 1 MiB")
        return block


def _untar(archive: Path, folder: Path, meter: _Meter) -> None:
    with contextlib.ExitStack() as stack:
        stream = _Counted(stack.enter_context(_decompressed(archive)), meter)
        stream.allowed = _HEADERS
        opened = stack.enter_context(tarfile.open(fileobj=stream, mode="r|"))  # type: ignore[call-overload]
        for member in opened:
            if not (member.isreg() or member.isdir()) or member.issparse() or member.size < 0:
                meter.refuse(f"the entry {member.name!r} is a link, a device or sparse")
            path = meter.enter(member.name, folder=member.isdir())
            if path is None or member.isdir():
                _make_folder(folder, path)
            else:
                meter.check(meter.unpacked + member.size)
                _check_space(folder, member.size)
                stream.allowed += member.size
                source = opened.extractfile(member)
                if source is None:
                    meter.refuse(f"the entry {member.name!r} cannot be read")
                meter.save(source.read, folder / path, member.size)
            stream.allowed = stream.position + _HEADERS
        while stream.read(_BLOCK):  # to the end, where the compressor's checksum is
            pass


def _gunzip(archive: Path, folder: Path, meter: _Meter) -> None:
    path = meter.enter(archive.name.removesuffix(".gz"), folder=False)
    assert path is not None
    with gzip.open(archive) as source:
        meter.save(source.read, folder / path, None)


def _decompressed(archive: Path) -> IO[bytes]:
    name = archive.name.lower()
    if name.endswith((".gz", ".tgz")):
        return gzip.open(archive)  # type: ignore[return-value]
    if name.endswith(".bz2"):
        return bz2.open(archive)
    if name.endswith(".xz"):
        return lzma.open(archive)
    return archive.open("rb")


_KINDS: dict[str, Callable[[Path, Path, _Meter], None]] = {
    ".zip": _unzip,
    ".tar": _untar,
    ".tar.gz": _untar,
    ".tgz": _untar,
    ".tar.bz2": _untar,
    ".tar.xz": _untar,
    ".gz": _gunzip,
}


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    return max((suffix for suffix in _KINDS if name.endswith(suffix)), key=len, default=None)


def _reader(archive: Path) -> Callable[[Path, Path, _Meter], None]:
    kind = _kind(archive)
    if kind is None or not archive.is_file():
        raise DataError(
            f"an archive ({', '.join(_KINDS)})",
            f"{archive}" if archive.is_file() else f"no file {archive}",
            "check the name, or unpack it with a program that knows this kind",
        )
    return _KINDS[kind]


def _make_folder(folder: Path, path: PurePosixPath | None) -> None:
    if path is not None:
        (folder / path).mkdir(parents=True, exist_ok=True)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DiskError(
            f"{needed / 2**20:,.0f} MiB for the unpacked files",
            f"{free / 2**20:,.0f} MiB free in {folder.parent}",
            "free space or choose another folder, then run the same command again",
        )
