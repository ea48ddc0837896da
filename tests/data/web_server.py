"""An HTTP server on 127.0.0.1 that misbehaves as told: the web that downloads have to survive."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate


@dataclass
class Page:
    """One file and how it is served.

    ``faults`` are used up one per request, before the file is served properly:
    an HTTP status, ``("cut", n)`` closes after n body bytes, ``("stall", n)`` falls silent after n,
    ``("drip", n)`` sends n bytes one by one.
    """

    body: bytes = b""
    faults: list[int | tuple[str, int]] = field(default_factory=list)
    ranges: bool = True
    etag: str | None = "auto"
    dated: bool = False
    length: int | None = None  # a lie; -1 sends none
    chunked: bool = False
    endless: bool = False
    redirect: str | None = None
    wrong_range: bool = False
    headers: dict[str, str] = field(default_factory=dict)

    def tag(self) -> str | None:
        return f'"{hashlib.md5(self.body).hexdigest()}"' if self.etag == "auto" else self.etag


@dataclass
class Request:
    path: str
    range: str | None
    status: int = 0
    sent: int = 0


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, Page] = {}
        self.requests: list[Request] = []
        self.closing = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{path}"

    def add(self, path: str, body: bytes = b"", **how: object) -> str:
        self.pages[f"/{path}"] = Page(body, **how)  # type: ignore[arg-type]
        return self.url(path)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the client hangs up on purpose


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        request = Request(self.path, self.headers.get("Range"))
        self.server.requests.append(request)
        page = self.server.pages.get(self.path)
        fault = page.faults.pop(0) if page is not None and page.faults else None
        if page is None or isinstance(fault, int):
            request.status = 404 if page is None else fault
            self._head(request.status, {"Content-Length": "0", **(page.headers if page else {})})
            return
        if page.redirect is not None:
            self._head(302, {"Location": page.redirect, "Content-Length": "0"})
            return
        self._serve(page, request, fault)

    def _serve(self, page: Page, request: Request, fault: tuple[str, int] | None) -> None:
        body, headers, request.status = page.body, dict(page.headers), 200
        if page.tag():
            headers["ETag"] = str(page.tag())
        if page.dated:
            headers["Last-Modified"] = formatdate(0, usegmt=True)
        current = self.headers.get("If-Range") in (None, page.tag(), headers.get("Last-Modified"))
        if page.ranges and request.range and current:
            start = int(request.range.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                request.status = 416
                self._head(416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": "0"})
                return
            request.status = 206
            said = start + 1 if page.wrong_range else start
            headers["Content-Range"] = f"bytes {said}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        if page.chunked or page.endless:
            headers["Transfer-Encoding"] = "chunked"
        elif page.length != -1:
            headers["Content-Length"] = str(len(body) if page.length is None else page.length)
        self._head(request.status, headers)
        self._body(page, body, request, fault)

    def _body(self, page: Page, body: bytes, request: Request, fault: tuple[str, int] | None) -> None:
        write: Callable[[bytes], int] = self.wfile.write
        if page.chunked or page.endless:
            write = lambda data: self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))  # noqa: E731
        if fault and fault[0] == "drip":
            for position in range(fault[1]):
                write(body[position : position + 1])
                self.wfile.flush()
                time.sleep(0.05)
            return
        part = body[: fault[1]] if fault else body
        for start in range(0, len(part), 1 << 16):
            request.sent += len(part[start : start + (1 << 16)])
            write(part[start : start + (1 << 16)])
        self.wfile.flush()
        if fault and fault[0] == "stall":
            self.server.closing.wait(20)
        while page.endless and not self.server.closing.is_set():
            write(b"x" * (1 << 16))
        if page.chunked and not fault:
            self.wfile.write(b"0\r\n\r\n")

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server in a thread, closed at the end of the block."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
