from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmrec.data import download, web
from mmrec.data.download import Checks, Patience, fetch, verify
from mmrec.errors import DataError, DiskError
from tests.data.web_server import Server, serving

BODY = np.random.default_rng(0).integers(0, 256, 300_000, dtype=np.uint8).tobytes()
SHA256 = hashlib.sha256(BODY).hexdigest()
FAST = Patience(timeout=0.3, attempts=3, backoff=0.01)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with serving() as server:
        yield server


def get(urls: str | list[str], to: Path, **how: object) -> download.Fetched:
    how = {"patience": FAST, "show": False, **how}
    return fetch([urls] if isinstance(urls, str) else urls, to, **how)  # type: ignore[arg-type]


def ranges(server: Server) -> list[str | None]:
    return [request.range for request in server.requests]


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The plain way


def test_a_file_arrives_whole_and_alone(server: Server, tmp_path: Path) -> None:
    fetched = get(
        server.add("a.bin", BODY), tmp_path / "a.bin", checks=Checks(sha256=SHA256.upper(), size=len(BODY))
    )
    assert (fetched.path.read_bytes(), fetched.sha256, fetched.size) == (BODY, SHA256, len(BODY))
    assert fetched.url == server.url("a.bin")
    assert leftovers(tmp_path) == ["a.bin"]


def test_a_chunked_body_needs_no_length(server: Server, tmp_path: Path) -> None:
    assert get(server.add("a.bin", BODY, chunked=True), tmp_path / "a.bin").sha256 == SHA256


def test_an_existing_good_file_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(BODY)
    fetched = get(server.add("a.bin", b"new"), tmp_path / "a.bin", checks=Checks(sha256=SHA256))
    assert (fetched.url, fetched.sha256, server.requests) == (None, SHA256, [])


def test_the_server_sees_who_asks(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    original = urllib.request.Request
    monkeypatch.setattr(
        web.urllib.request,
        "Request",
        lambda url, headers: seen.update(headers) or original(url, headers=headers),
    )
    get(server.add("a.bin", BODY), tmp_path / "a.bin")
    assert seen["User-Agent"].startswith("mmrec/")  # some sites answer 403 to Python's own
    assert seen["Accept-Encoding"] == "identity"


# Interruptions


def test_a_cut_download_continues_where_it_stopped(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY, faults=[("cut", 100_000)])
    assert get(url, tmp_path / "a.bin").sha256 == SHA256
    assert ranges(server) == [None, "bytes=100000-"]
    assert server.requests[1].status == 206
    assert server.requests[1].sent == len(BODY) - 100_000
    assert leftovers(tmp_path) == ["a.bin"]


def test_a_date_is_a_validator_too(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY, faults=[("cut", 100_000)], etag=None, dated=True)
    assert get(url, tmp_path / "a.bin").sha256 == SHA256
    assert ranges(server) == [None, "bytes=100000-"]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_validator_it_starts_over(server: Server, tmp_path: Path, etag: str | None) -> None:
    url = server.add("a.bin", BODY, faults=[("cut", 100_000)], etag=etag)
    assert get(url, tmp_path / "a.bin").sha256 == SHA256
    assert ranges(server) == [None, None]


def test_a_stalled_download_continues(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY, faults=[("stall", 50_000)])
    assert get(url, tmp_path / "a.bin").sha256 == SHA256
    assert ranges(server) == [None, "bytes=50000-"]


def test_a_server_that_drips_counts_as_stalled(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY, faults=[("drip", 400)])
    started = time.monotonic()
    assert get(url, tmp_path / "a.bin").sha256 == SHA256
    assert time.monotonic() - started < 5  # 400 drops would take 20 s
    assert len(server.requests) == 2
    assert 0 < int(str(server.requests[1].range)[6:-1]) < 100


def test_a_server_without_ranges_sends_all_again(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY, faults=[("cut", 100_000)], ranges=False)
    assert get(url, tmp_path / "a.bin").sha256 == SHA256
    assert ranges(server) == [None, "bytes=100000-"]
    assert server.requests[1].status == 200


def test_a_file_that_changed_meanwhile_starts_over(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY[::-1], faults=[("cut", 100_000)] * 3)
    with pytest.raises(DataError, match="stopped after"):
        get(url, tmp_path / "a.bin", patience=Patience(timeout=0.3, attempts=1, backoff=0))
    server.add("a.bin", BODY)  # another ETag
    assert get(url, tmp_path / "a.bin").path.read_bytes() == BODY
    assert server.requests[-1].range == "bytes=100000-"
    assert server.requests[-1].status == 200


def test_another_part_than_the_one_asked_for_is_thrown_away(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY, faults=[("cut", 100_000)], wrong_range=True)
    assert get(url, tmp_path / "a.bin").sha256 == SHA256
    assert ranges(server) == [None, "bytes=100000-", None]


def test_a_partial_longer_than_the_file_starts_over(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY, faults=[("cut", 100_000)])
    with pytest.raises(DataError):
        get(url, tmp_path / "a.bin", patience=Patience(timeout=0.3, attempts=1, backoff=0))
    partial = next(tmp_path.glob("*.partial"))
    partial.write_bytes(BODY + b"more")
    assert get(url, tmp_path / "a.bin").sha256 == SHA256
    assert [request.status for request in server.requests] == [200, 416, 200]


def test_killed_before_the_rename_nothing_is_asked_again(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY, faults=[("cut", 100_000)])
    with pytest.raises(DataError):
        get(url, tmp_path / "a.bin", patience=Patience(timeout=0.3, attempts=1, backoff=0))
    next(tmp_path.glob("*.partial")).write_bytes(BODY)
    assert get(url, tmp_path / "a.bin").sha256 == SHA256
    assert len(server.requests) == 1


def test_attempts_are_bounded(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY, faults=[("cut", 10)] * 50, ranges=False)
    with pytest.raises(DataError, match=r"stopped after 10 of 300,000 bytes \(3 attempts\)"):
        get(url, tmp_path / "a.bin")
    assert len(server.requests) == 3


def test_attempts_that_bring_much_are_not_counted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_GAIN", 40_000)
    url = server.add("a.bin", BODY, faults=[("cut", 50_000)] * 5)
    assert get(url, tmp_path / "a.bin").sha256 == SHA256
    assert len(server.requests) == 6  # more than three attempts, each with something new


CHILD = """
import signal
import sys
from pathlib import Path
from mmrec.data.download import Patience, fetch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
fetch([sys.argv[1]], Path(sys.argv[2]), patience=Patience(timeout=20), show=False)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_the_middle_it_resumes(server: Server, tmp_path: Path, how: signal.Signals) -> None:
    url = server.add("a.bin", BODY, faults=[("stall", 200_000)])
    to = tmp_path / "a.bin"
    child = subprocess.Popen([sys.executable, "-c", CHILD, url, str(to)], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while sum(path.stat().st_size for path in tmp_path.glob("*.partial")) < 200_000:
            assert time.monotonic() < until and child.poll() is None
            time.sleep(0.02)
        os.kill(child.pid, how)
        child.wait(timeout=60)
    finally:
        child.kill()
        child.wait()
    assert child.returncode != 0
    assert not to.exists()
    assert get(url, to).path.read_bytes() == BODY
    assert ranges(server) == [None, "bytes=200000-"]
    assert leftovers(tmp_path) == ["a.bin"]


# Errors and mirrors


def test_server_errors_are_tried_again(server: Server, tmp_path: Path) -> None:
    assert get(server.add("a.bin", BODY, faults=[500, 503]), tmp_path / "a.bin").sha256 == SHA256
    assert len(server.requests) == 3


def test_the_server_may_say_when_to_come_back(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    get(server.add("a.bin", BODY, faults=[429, 429], headers={"Retry-After": "7"}), tmp_path / "a.bin")
    assert waits == [7, 7]


def test_waits_double(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    url = server.add("a.bin", BODY, faults=[500] * 4)
    get(url, tmp_path / "a.bin", patience=Patience(attempts=5, backoff=1))
    assert waits == [1, 2, 4, 8]


@pytest.mark.parametrize("status", [403, 404, 410])
def test_a_missing_file_goes_to_the_mirror_at_once(server: Server, tmp_path: Path, status: int) -> None:
    urls = [server.add("old.bin", BODY, faults=[status] * 9), server.add("mirror.bin", BODY)]
    assert get(urls, tmp_path / "a.bin").url == urls[1]
    assert [request.path for request in server.requests] == ["/old.bin", "/mirror.bin"]


def test_a_mirror_helps_where_the_first_is_cut_for_good(server: Server, tmp_path: Path) -> None:
    urls = [server.add("a.bin", BODY, faults=[("cut", 1000)] * 9), server.add("mirror.bin", BODY)]
    assert get(urls, tmp_path / "a.bin").url == urls[1]
    assert server.requests[-1].range is None  # the other server's bytes are not mixed in
    assert leftovers(tmp_path) == ["a.bin"]


def test_every_address_is_named_when_all_fail(server: Server, tmp_path: Path) -> None:
    urls = [server.url("nothing.bin"), server.add("b.bin", BODY, faults=[500] * 9)]
    with pytest.raises(DataError) as caught:
        get(urls, tmp_path / "a.bin")
    assert "nothing.bin: HTTP 404" in caught.value.found
    assert "b.bin: HTTP 500" in caught.value.found
    assert str(tmp_path / "a.bin") in caught.value.do


def test_no_server_at_all(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening
        with pytest.raises(DataError, match="no connection"):
            get(f"http://127.0.0.1:{taken.getsockname()[1]}/a.bin", tmp_path / "a.bin")


# Lies


def test_a_wrong_file_is_put_aside(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY[::-1])
    with pytest.raises(DataError) as caught:
        get(url, tmp_path / "a.bin", checks=Checks(sha256=SHA256, origin="published by its author"))
    assert SHA256 in caught.value.expected and "published by its author" in caught.value.expected
    assert hashlib.sha256(BODY[::-1]).hexdigest() in caught.value.found
    assert leftovers(tmp_path) == ["a.bin.bad"]
    server.add("a.bin", BODY)
    get(url, tmp_path / "a.bin", checks=Checks(sha256=SHA256))
    assert leftovers(tmp_path) == ["a.bin"]


def test_a_mirror_helps_where_the_first_lies(server: Server, tmp_path: Path) -> None:
    urls = [server.add("a.bin", BODY[::-1]), server.add("mirror.bin", BODY)]
    assert get(urls, tmp_path / "a.bin", checks=Checks(sha256=SHA256)).url == urls[1]
    assert leftovers(tmp_path) == ["a.bin"]


def test_md5_where_nothing_better_is_published(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY)
    md5 = hashlib.md5(BODY).hexdigest()
    assert get(url, tmp_path / "a.bin", checks=Checks(md5=md5)).sha256 == SHA256
    with pytest.raises(DataError, match=f"md5 {md5}"):
        get(url, tmp_path / "b.bin", checks=Checks(md5="0" * 32))


def test_an_existing_wrong_file_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"edited")
    with pytest.raises(DataError, match="recorded on 2026-01-01"):
        verify(tmp_path / "a.bin", Checks(sha256=SHA256, origin="recorded on 2026-01-01"))
    assert leftovers(tmp_path) == ["a.bin.bad"]


def test_a_body_shorter_than_said_is_never_taken(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY, length=len(BODY) + 10, ranges=False)
    with pytest.raises(DataError, match="stopped after 300,000 of 300,010 bytes"):
        get(url, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_another_length_than_the_recipe_says_is_refused_unread(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY)
    with pytest.raises(DataError, match="300,000 bytes offered"):
        get(url, tmp_path / "a.bin", checks=Checks(size=5))
    assert leftovers(tmp_path) == []


def test_a_body_without_length_or_checksum_is_refused(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY, length=-1)
    with pytest.raises(DataError, match="no length"):
        get(url, tmp_path / "a.bin")
    assert get(url, tmp_path / "a.bin", checks=Checks(sha256=SHA256)).sha256 == SHA256


def test_an_announced_giant_is_refused_unread(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", BODY, length=10**15)
    with pytest.raises(DataError, match="allowed"):
        get(url, tmp_path / "a.bin")
    with pytest.raises(DiskError, match="MiB free"):
        get(url, tmp_path / "a.bin", max_bytes=10**16)
    assert leftovers(tmp_path) == []


def test_an_endless_body_is_cut_off(server: Server, tmp_path: Path) -> None:
    url = server.add("a.bin", b"", endless=True)
    with pytest.raises(DataError, match="more than the 1,000,000 bytes"):
        get(url, tmp_path / "a.bin", max_bytes=1_000_000)
    assert leftovers(tmp_path) == []


def test_a_web_page_is_no_zip(server: Server, tmp_path: Path) -> None:
    page = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
    with pytest.raises(DataError, match="a web page, not data"):
        get(server.add("a.csv", page), tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"no \.zip file"):
        get(server.add("a.zip", BODY), tmp_path / "a.zip")
    assert leftovers(tmp_path) == ["a.csv.bad", "a.zip.bad"]


def test_a_recoded_body_is_refused(server: Server, tmp_path: Path) -> None:
    url = server.add("a.csv", BODY, headers={"Content-Encoding": "gzip"})
    with pytest.raises(DataError, match="Content-Encoding gzip"):
        get(url, tmp_path / "a.csv")


# Disk


def test_a_folder_that_may_not_be_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(self: Path, data: bytes) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", deny)
    with pytest.raises(DiskError, match="Permission denied"):
        get(server.add("a.bin", BODY), tmp_path / "a.bin")


def test_progress_is_told_on_stderr(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    get(server.add("a.bin", BODY, faults=[500]), tmp_path / "a.bin", show=True)
    told = capsys.readouterr()
    assert told.out == ""
    assert "HTTP 500" in told.err and "292/292 KiB (100%)" in told.err
