from __future__ import annotations

import io
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmrec.data import web
from mmrec.data.download import Patience, fetch
from mmrec.errors import DataError
from tests.data.web_server import Server, serving

BODY = b"ten bytes." * 1000


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        yield server


def get(url: str, to: Path) -> bytes:
    patience = Patience(timeout=0.3, attempts=2, backoff=0)
    return fetch([url], to, patience=patience, show=False).path.read_bytes()


def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    server.add("there.bin", BODY)
    assert get(server.add("a.bin", redirect="/there.bin"), tmp_path / "a.bin") == BODY


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:text/plain,x", "gopher://x/"]
)
def test_redirects_never_leave_the_web(server: Server, tmp_path: Path, target: str) -> None:
    with pytest.raises(DataError, match=r"redirect|Redirection"):
        get(server.add("a.bin", redirect=target), tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


def test_redirects_in_a_circle_end(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="HTTP 302"):
        get(server.add("a.bin", redirect="/a.bin"), tmp_path / "a.bin")
    assert len(server.requests) < 20


def test_a_redirect_from_https_to_http_is_refused() -> None:
    redirects = web._Redirects()
    secure = urllib.request.Request("https://example.org/a")
    with pytest.raises(web.Refused, match="not followed"):
        redirects.redirect_request(secure, io.BytesIO(), 302, "", None, "http://example.org/a")
    onward = redirects.redirect_request(secure, io.BytesIO(), 302, "", {}, "https://example.org/b")
    assert onward is not None and onward.full_url == "https://example.org/b"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/a", "/etc/passwd", "http:///a"])
def test_only_web_addresses_are_opened(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match="http or https"):
        get(url, tmp_path / "a.bin")
