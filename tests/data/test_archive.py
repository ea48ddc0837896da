from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from mmrec.data.archive import Limits, is_archive, safe_name, unpack
from mmrec.errors import DataError

FILES = {"set/ratings.csv": b"user,item\n1,2\n" * 500, "set/deep/er/README": b"hello", "top.txt": b""}


def make_zip(path: Path, files: dict[str, bytes], *, how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            add(archive, name, data)
    return path


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(data))


def refused(archive: Path, what: str, limits: Limits | None = None) -> None:
    """Refused with a reason; nothing is left but the archive itself."""
    before = set(archive.parent.rglob("*"))
    with pytest.raises(DataError, match=what) as caught:
        unpack(archive, archive.parent / "out", limits=limits)
    assert archive.name in caught.value.found
    assert set(archive.parent.rglob("*")) == before


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.zip", make_zip),
        ("a.tar", make_tar),
        ("a.tar.gz", lambda path, files: make_tar(path, files, "w:gz")),
        ("A.TGZ", lambda path, files: make_tar(path, files, "w:gz")),
        ("a.tar.bz2", lambda path, files: make_tar(path, files, "w:bz2")),
        ("a.tar.xz", lambda path, files: make_tar(path, files, "w:xz")),
    ],
)
def test_honest_archives(tmp_path: Path, name: str, make: Callable[[Path, dict[str, bytes]], Path]) -> None:
    archive = make(tmp_path / name, FILES)
    assert unpack(archive, tmp_path / "out") == sorted(FILES)
    assert content(tmp_path / "out") == FILES
    assert names(tmp_path) == sorted([name, "out"])


def test_a_single_gz_file(tmp_path: Path) -> None:
    (tmp_path / "meta.json.gz").write_bytes(gzip.compress(b"{}"))
    assert unpack(tmp_path / "meta.json.gz", tmp_path / "out") == ["meta.json"]
    assert content(tmp_path / "out") == {"meta.json": b"{}"}


def test_dots_and_folders_are_harmless(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("./", "./set", "./set", "set/"):
            add(archive, name, type=tarfile.DIRTYPE)
        add(archive, "./set/a", b"1")
    assert unpack(tmp_path / "a.tar", tmp_path / "out") == ["set/a"]


def test_modes_are_dropped(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "tool", b"#!", mode=0o6777)
    unpack(tmp_path / "a.tar", tmp_path / "out")
    assert not stat.S_IMODE((tmp_path / "out" / "tool").stat().st_mode) & 0o6111


def test_leftovers_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".out.partial-1234" / "x").mkdir(parents=True)
    unpack(make_zip(tmp_path / "a.zip", FILES), tmp_path / "out")
    assert names(tmp_path) == ["a.zip", "out"]


def test_an_existing_folder_is_not_mixed_in(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"")
    with pytest.raises(DataError, match="new or empty folder"):
        unpack(make_zip(tmp_path / "a.zip", FILES), tmp_path / "out")


# Names

BAD_NAMES = [
    "/etc/passwd",
    "//server/share",
    "../outside",
    "set/../../outside",
    "set/..",
    "C:/windows/x",
    "c:x",
    "..\\outside",
    "set\\x",
    "line\nbreak",
    "bell\x07",
    "x" * 256,
    "/".join("d" * 65),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="path"):
        safe_name(name)
    refused(make_tar(tmp_path / "a.tar.gz", {"good": b"1", name: b"2"}, "w:gz"), "the entry")
    refused(make_zip(tmp_path / "a.zip", {"good": b"1", name: b"2"}), "the entry")


def test_a_zero_byte_in_a_name(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"good.txtXevil": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"txtXevil", b"txt\x00evil"))
    refused(archive, "control character")


@pytest.mark.parametrize(
    "spellings",
    [
        ("a", "a"),
        ("a", "./a"),
        ("Data/x", "data/X"),
        ("e\u0301", "\u00e9"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("straße", "STRASSE"),
    ],
)
def test_names_that_meet(tmp_path: Path, spellings: tuple[str, str]) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in spellings:
            add(archive, name, b"1")
    refused(tmp_path / "a.tar", "twice|a file and a folder")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        for name in dict.fromkeys(spellings):
            zipped.writestr(name, b"1")
    if len(set(spellings)) == 2:
        refused(tmp_path / "a.zip", "twice|a file and a folder")


def test_no_name_at_all(tmp_path: Path) -> None:
    refused(make_tar(tmp_path / "a.tar", {"./.": b"1"}), "no name")


# Kinds


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.CONTTYPE,
        b"Z",
    ],
)
def test_links_and_devices_in_tar(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        add(archive, "good", b"1")
        add(archive, "link", type=kind, linkname="../../etc")
        add(archive, "link/passwd", b"2")
    if kind == tarfile.CONTTYPE:  # an old name for a plain file, here used as a folder by the next
        refused(tmp_path / "a.tar", "a file and a folder")
    else:
        refused(tmp_path / "a.tar", "a link, a device")


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_zip(tmp_path: Path, mode: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (mode | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path / "a.zip", "a link or a device")


def test_encrypted_entries(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a": b"1"})
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(bytes(data))
    refused(archive, "encrypted")


# Bombs


def test_too_many_entries(tmp_path: Path) -> None:
    files = {f"f{i}": b"" for i in range(11)}
    for archive in (make_zip(tmp_path / "a.zip", files), make_tar(tmp_path / "a.tar", files)):
        refused(archive, "more than 10 entries", Limits(entries=10))


def test_too_many_bytes(tmp_path: Path) -> None:
    files = {f"f{i}": os.urandom(1000) for i in range(5)}
    for archive in (make_zip(tmp_path / "a.zip", files), make_tar(tmp_path / "a.tar.gz", files, "w:gz")):
        refused(archive, "more than 4,999 bytes", Limits(total=4999))
        unpack(archive, tmp_path / archive.suffix, limits=Limits(total=5000))


def test_bombs_grow_too_much(tmp_path: Path) -> None:
    zeros = {"zeros": bytes(20 << 20)}
    refused(make_zip(tmp_path / "a.zip", zeros), "over 200 times")
    refused(make_tar(tmp_path / "a.tar.gz", zeros, "w:gz"), "over 200 times")
    (tmp_path / "b.gz").write_bytes(gzip.compress(zeros["zeros"]))
    refused(tmp_path / "b.gz", "over 200 times")


def test_small_files_of_zeros_pass(tmp_path: Path) -> None:
    assert unpack(make_zip(tmp_path / "a.zip", {"zeros": bytes(1 << 20)}), tmp_path / "out") == ["zeros"]


def test_a_size_that_lies(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a": b"x" * 5000})
    data = bytearray(archive.read_bytes())
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 100)  # in the central directory
    archive.write_bytes(bytes(data))
    refused(archive, "damaged|longer|cut")


def test_entries_that_overlap(tmp_path: Path) -> None:
    """Two directory entries for the same packed bytes: the trick behind the largest zip bombs."""
    archive = make_zip(tmp_path / "a.zip", {"a": os.urandom(5000)})
    data = archive.read_bytes()
    start, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = data[start:end]
    tail = bytearray(data[end:])
    struct.pack_into("<HHI", tail, 8, 2, 2, 2 * len(entry))
    archive.write_bytes(data[:start] + entry + entry + bytes(tail))
    refused(archive, "overlap|damaged")


def test_headers_that_never_end(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "a", b"1", pax_headers={"comment": "x" * (2 << 20)})
    refused(tmp_path / "a.tar.gz", "headers or padding")


def test_padding_that_never_ends(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", {"a": b"1"}, "w:gz")
    archive.write_bytes(archive.read_bytes() + gzip.compress(bytes(3 << 20)))
    refused(archive, "headers or padding")


# Damage


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.gz"])
def test_damaged_archives(tmp_path: Path, name: str) -> None:
    archive = tmp_path / name
    mode = {"z2": "w:bz2", "xz": "w:xz"}.get(name[-2:], "w:gz")
    files = {f"f{i}": os.urandom(20_000) for i in range(3)}
    make_zip(archive, files) if name == "a.zip" else make_tar(archive, files, mode)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])  # cut
    refused(archive, "damaged")
    archive.write_bytes(whole[:30_000] + bytes(64) + whole[30_064:])  # overwritten
    refused(archive, "damaged")
    archive.write_bytes(b"<html>no archive</html>")
    refused(archive, "damaged")


def test_a_checksum_at_the_very_end_is_read(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", {"a": os.urandom(100)}, "w:gz")
    data = bytearray(archive.read_bytes())
    data[-8] ^= 1  # gzip's CRC
    archive.write_bytes(bytes(data))
    refused(archive, "damaged: CRC")


def test_a_method_that_is_not_known(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a": b"1" * 100})
    data = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        struct.pack_into("<H", data, data.index(mark) + offset, 99)
    archive.write_bytes(bytes(data))
    refused(archive, "damaged")


def test_other_suffixes(tmp_path: Path) -> None:
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    assert not is_archive(tmp_path / "a.rar") and is_archive(tmp_path / "b.tar.gz")
    with pytest.raises(DataError, match=r"\.tar\.gz"):
        unpack(tmp_path / "a.rar", tmp_path / "out")
    with pytest.raises(DataError, match="no file"):
        unpack(tmp_path / "b.zip", tmp_path / "out")


def test_crc_of_zip_entries(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"a": b"honest text"}, how=zipfile.ZIP_STORED)
    assert zlib.crc32(b"honest text")
    archive.write_bytes(archive.read_bytes().replace(b"honest text", b"forged text"))
    refused(archive, "damaged: Bad CRC")
