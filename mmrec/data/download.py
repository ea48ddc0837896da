"""One file from the web: streamed, resumed where it stopped, bounded in every direction, checked before it counts.

The bytes go to ``NAME.<address>.partial`` beside the target; a small JSON file next to it remembers address,
validator (ETag or Last-Modified) and length. A stalled, cut or killed download leaves both, and the next
attempt asks for the rest only. The target's name appears when everything was checked, never before.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import http.client
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

from mmrec.data.web import Interrupted, OutOfRange, Refused, answer, check_address
from mmrec.errors import DataError, DiskError
from mmrec.files import sha256_file, write_json
from mmrec.progress import Progress, note

CHUNK = 1 << 20
MAX_BYTES = 64 << 30  # of a file whose recipe names no limit
SPARE_BYTES = 64 << 20  # free space that a download leaves untouched
_GAIN = 1 << 20  # an attempt that brings this much is not counted against the number of attempts
_LONGEST_WAIT = 60.0
_GZIP, _HTML = (b"\x1f\x8b",), (b"<!doctype html", b"<html")
_MAGIC = {
    ".zip": (b"PK\x03\x04", b"PK\x05\x06"),
    ".gz": _GZIP,
    ".tgz": _GZIP,
    ".bz2": (b"BZh",),
    ".xz": (b"\xfd7zXZ\x00",),
    ".parquet": (b"PAR1",),
}


@dataclass(frozen=True)
class Checks:
    """What a file must be.

    Attributes:
        sha256: Hexadecimal digest.
        md5: Hexadecimal digest; weaker, for sources that publish nothing else.
        size: Length in bytes.
        origin: Who says so, for the message: ``published``, ``recorded on 2026-01-31``.
        remedy: What to do when the source has really changed the file.
    """

    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    origin: str = "published"
    remedy: str = "if the publisher has replaced the file, correct its checksum in the recipe"

    def describe(self) -> str:
        """The expectation in words, for the message."""
        parts = [f"{kind} {value}" for kind, value in (("sha256", self.sha256), ("md5", self.md5)) if value]
        parts += [f"{self.size:,} bytes"] if self.size is not None else []
        return f" with {', '.join(parts)} ({self.origin})" if parts else ""


@dataclass(frozen=True)
class Patience:
    """How long a server is given.

    Attributes:
        timeout: Seconds without a connection or a byte before an attempt is given up.
        slowest: Bytes per second, averaged over two timeouts, below which a server counts as stalled.
        attempts: Attempts per address that bring nothing new.
        backoff: Seconds before the second attempt; doubled before each further one.
    """

    timeout: float = 30.0
    slowest: int = 512
    attempts: int = 4
    backoff: float = 1.0


@dataclass(frozen=True)
class Fetched:
    """A file that passed its checks.

    Attributes:
        path: Where it is.
        url: The address it came from, None for a file that was already there.
        sha256: Its digest.
        size: Its length in bytes.
    """

    path: Path
    url: str | None
    sha256: str
    size: int


class _Mismatch(Refused):
    """A whole file that is not the expected one."""


@dataclass(frozen=True)
class _Job:
    """One address for one file, and the two files that an unfinished download leaves."""

    url: str
    to: Path
    checks: Checks
    max_bytes: int
    show: bool

    @property
    def partial(self) -> Path:
        address = hashlib.sha256(self.url.encode()).hexdigest()[:8]
        return self.to.with_name(f"{self.to.name}.{address}.partial")

    @property
    def memory(self) -> Path:
        return self.partial.with_name(f"{self.partial.name}.json")

    def size(self) -> int:
        return self.partial.stat().st_size if self.partial.is_file() else 0

    def remembered(self) -> dict[str, Any]:
        """Validator and length from the answer that began the partial file; empty where it cannot be used."""
        try:
            known = json.loads(self.memory.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) and known.get("url") == self.url else {}

    def remember(self, total: int | None, validator: str | None) -> None:
        write_json(self.memory, {"url": self.url, "total": total, "validator": validator})

    def forget(self) -> None:
        self.memory.unlink(missing_ok=True)
        self.partial.unlink(missing_ok=True)


def fetch(
    urls: Sequence[str],
    to: Path,
    *,
    checks: Checks | None = None,
    max_bytes: int = MAX_BYTES,
    patience: Patience | None = None,
    show: bool = True,
) -> Fetched:
    """Download ``to`` from the first of ``urls`` that delivers the expected file.

    A file that is there already is checked instead. What fails its checks is kept as ``NAME.bad``.

    Args:
        urls: The official address, then mirrors with the same bytes; http and https only.
        to: Target file.
        checks: Digests and length of the file, where they are known.
        max_bytes: The longest body that is read.
        patience: Timeouts and attempts.
        show: Show progress.

    Raises:
        DataError: No address delivered the file, or it is not the expected one.
        DiskError: The disk is full or may not be written.
    """
    checks, patience = checks or Checks(), patience or Patience()
    for url in urls:
        check_address(url)
    if to.is_file():
        return verify(to, checks)
    failures, mismatch = [], False
    with _disk_errors(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        for url in urls:
            try:
                return _from_address(_Job(url, to, checks, checks.size or max_bytes, show), patience)
            except Refused as error:
                mismatch = mismatch or isinstance(error, _Mismatch)
                failures.append(f"{url}: {error}")
    again = (
        "check the network and run the same command again (it goes on where it stopped), "
        f"or save the file as {to}"
    )
    raise DataError(
        f"{to.name}{checks.describe()}",
        "; ".join(failures) or "no address",
        f"{checks.remedy}; otherwise {again}" if mismatch else again,
    )


def verify(path: Path, checks: Checks) -> Fetched:
    """Compare a file with what it must be.

    Raises:
        DataError: It is something else; the file is then renamed to ``NAME.bad``.
    """
    try:
        return _checked(path, path, checks, None)
    except _Mismatch as error:
        raise DataError(
            f"{path.name}{checks.describe()}",
            f"{error}",
            f"run the same command again to download it anew; {checks.remedy}",
        ) from None


def _from_address(job: _Job, patience: Patience) -> Fetched:
    best, failed = job.size(), 0
    while True:
        try:
            _attempt(job, patience)
            return _finish(job)
        except Interrupted as error:
            if isinstance(error, OutOfRange):
                job.forget()
            done = job.size()
            failed = 0 if done >= best + _GAIN else failed + 1
            best = max(best, done)
            if failed >= patience.attempts:
                raise Refused(f"{error} ({failed} attempts)") from None
            wait = min(error.wait or patience.backoff * 2 ** max(failed - 1, 0), _LONGEST_WAIT)
            if job.show:
                note(f"{job.to.name}: {error}; trying again in {wait:.0f} s")
            time.sleep(wait)


def _attempt(job: _Job, patience: Patience) -> None:
    """One request: the whole file, or the rest of it."""
    known, offset = job.remembered(), job.size()
    if offset and offset == known.get("total"):
        return  # killed between the last byte and the rename
    validator = known.get("validator")
    resume = bool(offset and validator)
    headers = {"Range": f"bytes={offset}-", "If-Range": str(validator)} if resume else {}
    with answer(job.url, headers, timeout=patience.timeout) as response:
        start, total = _place(job, response, offset if resume else 0, known.get("total"))
        _check_length(job, response, start, total)
        if start == 0:
            job.partial.write_bytes(b"")  # emptied first: old bytes must never meet the new validator
            job.remember(total, _validator(response.headers))
        _receive(job, response, start, total, patience)


def _receive(
    job: _Job, response: http.client.HTTPResponse, start: int, total: int | None, patience: Patience
) -> None:
    """Append the body to the partial file as it arrives."""
    done, window, window_done = start, time.monotonic(), start
    show = job.show and bool(total)
    bar = Progress(f"download {job.to.name}", (total or 0) >> 10, done=start >> 10, unit="KiB", show=show)
    with bar, job.partial.open("ab") as file:
        while block := response.read1(CHUNK):
            if done + len(block) > job.max_bytes:
                job.forget()
                raise Refused(f"more than the {job.max_bytes:,} bytes that this file may have")
            file.write(block)
            file.flush()  # what has arrived survives a kill
            done += len(block)
            bar.advance((done >> 10) - bar.done)
            now = time.monotonic()
            if now - window > 2 * patience.timeout:
                if done - window_done < patience.slowest * (now - window):
                    raise Interrupted(f"stalled at {done:,} bytes: less than {patience.slowest} bytes/s")
                window, window_done = now, done
        os.fsync(file.fileno())
    whole = total if total is not None else job.checks.size
    if whole is not None and done < whole:
        raise Interrupted(f"the server stopped after {done:,} of {whole:,} bytes")
    if total is None:  # a chunked body says itself where it ends
        job.remember(done, _validator(response.headers))


def _place(
    job: _Job, response: http.client.HTTPResponse, offset: int, known: int | None
) -> tuple[int, int | None]:
    """Where in the file the body starts, and the length of the whole file where the server says it."""
    if response.status == 206 and offset:
        content_range = response.headers.get("Content-Range", "")
        unit, _, rest = content_range.partition(" ")
        span, _, whole = rest.partition("/")
        total = int(whole) if whole.isdigit() else None
        if unit == "bytes" and span.split("-")[0] == str(offset) and total == known:
            return offset, total
        job.forget()
        raise Interrupted(f"another part than the one asked for (Content-Range {content_range!r})")
    if response.status != 200:
        raise Refused(f"HTTP {response.status} {response.reason}")
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _check_length(job: _Job, response: http.client.HTTPResponse, start: int, total: int | None) -> None:
    """Refuse what cannot be the file before a byte of it is read."""
    checks = job.checks
    coding = response.headers.get("Content-Encoding", "identity")
    if coding != "identity" and job.to.suffix not in (".gz", ".tgz"):
        raise Refused(f"Content-Encoding {coding}, though the plain file was asked for")
    if total is None:
        if not response.chunked and not (checks.sha256 or checks.md5 or checks.size):
            raise Refused("no length, so that a cut file could not be told from a whole one")
        return
    if checks.size is not None and total != checks.size:
        raise _Mismatch(f"{total:,} bytes offered")
    if total > job.max_bytes:
        raise Refused(f"{total:,} bytes offered, {job.max_bytes:,} allowed")
    free = shutil.disk_usage(job.to.parent).free
    if total - start + SPARE_BYTES > free:
        raise DiskError(
            f"{(total - start) / 2**20:,.0f} MiB (and {SPARE_BYTES >> 20} MiB to spare) for {job.to.name}",
            f"{free / 2**20:,.0f} MiB free in {job.to.parent}",
            "free space or choose another folder, then run the same command again",
        )


def _finish(job: _Job) -> Fetched:
    """Check the whole file and give it its name."""
    try:
        fetched = _checked(job.partial, job.to, job.checks, job.url)
    except _Mismatch:
        job.memory.unlink(missing_ok=True)
        raise
    job.partial.replace(job.to)
    for rest in [*job.to.parent.glob(f"{glob.escape(job.to.name)}.*.partial*"), _bad(job.to)]:
        rest.unlink(missing_ok=True)
    return fetched


def _checked(path: Path, name: Path, checks: Checks, url: str | None) -> Fetched:
    size = path.stat().st_size
    found = _wrong_kind(path, name) or (f"{size:,} bytes" if checks.size not in (None, size) else "")
    digest = "" if found else sha256_file(path)
    if not found and checks.sha256 and digest != checks.sha256.lower():
        found = f"sha256 {digest}"
    if not found and checks.md5 and (weak := _md5_file(path)) != checks.md5.lower():
        found = f"md5 {weak}"
    if found:
        path.replace(_bad(name))
        raise _Mismatch(f"{found} (kept as {_bad(name)})")
    return Fetched(name, url, digest, size)


def _wrong_kind(path: Path, name: Path) -> str:
    """What a file is whose first bytes contradict its name: mostly a web page in place of the data."""
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(_HTML) and name.suffix not in (".html", ".htm"):
        return "a web page, not data"
    if not head.startswith(_MAGIC.get(name.suffix, (b"",))):
        return f"no {name.suffix} file (it starts with {head[:8]!r})"
    return ""


def _bad(path: Path) -> Path:
    return path.with_name(f"{path.name}.bad")


def _md5_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _validator(headers: Message) -> str | None:
    """What identifies this version of the file: a strong ETag, else the date of its last change."""
    etag = headers.get("ETag", "")
    return etag if etag.startswith('"') else headers.get("Last-Modified")


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Say what to do about a full or read-only disk; the partial file stays and is resumed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        raise DiskError(
            f"a disk that takes {path}",
            f"{error.strerror or error}",
            "free space or choose another folder, then run the same command again: it goes on where it stopped",
        ) from error
