"""What every request passes before the application and after: key, size, patience, JSON, headers, counts and logs."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmrec.bundle.reading import parse_json
from mmrec.errors import BundleError, ConfigError, MMRecError
from mmrec.serve.errors import BusyError, ServiceError, SlowClientError, TooLargeError, status_of
from mmrec.serve.logs import log

if TYPE_CHECKING:
    from mmrec.serve.service import Service

OPEN = ("/", "/health", "/ready")  # paths without a key, and the page's files
HEADERS = {
    # pictures come from here, or as blobs, since an address cannot carry a key
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def error_response(error: MMRecError) -> Response:
    """An error as the client sees it; of what is the service's own fault it learns no details."""
    status = status_of(error)
    if status == 500:
        log("fault", logging.ERROR, exception=error)
        return fault()
    reason = {"expected": error.expected, "found": error.found, "do": error.do}
    headers = error.headers if isinstance(error, ServiceError) else None
    return JSONResponse({"error": reason}, status, headers)


def fault() -> Response:
    """What a client learns of a fault."""
    reason = {"expected": "an answer", "found": "a fault of the service", "do": "look into its log"}
    return JSONResponse({"error": reason}, 500)


class Guard:
    """Middleware around the application.

    Args:
        app: The application.
        service: Whose keys, limits and counts.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if self._service.stopping:
                    headers["Connection"] = "close"
            async with asyncio.timeout(self._service.limits.send_seconds):
                await send(message)

        try:
            self._admit(scope)
            await self._app(scope, await self._read(scope, receive), sending)
        except MMRecError as error:
            await error_response(error)(scope, receive, sending)
        except TimeoutError:  # a client that does not read: nothing more can be said to it
            log("slow reader", logging.WARNING)
            raise
        except Exception as error:
            log("fault", logging.ERROR, exception=error)
            if status:
                raise
            await fault()(scope, receive, sending)
        finally:
            path, seconds = _template(scope), time.perf_counter() - started
            self._service.metrics.add_request(path, status, seconds)
            log("request", method=scope["method"], path=path, status=status, seconds=round(seconds, 6))

    def _admit(self, scope: Scope) -> None:
        path = scope["path"]
        if not (path in OPEN or path.startswith("/page/")):
            self._service.keys.check(Headers(scope=scope))
        if self._service.stopping and path != "/health":
            raise BusyError("a running service", "one that is stopping", "ask another one")

    async def _read(self, scope: Scope, receive: Receive) -> Receive:
        """The whole body, read and checked; requests without one pass as they are."""
        headers, limits = Headers(scope=scope), self._service.limits
        length = headers.get("content-length", "0")
        if length == "0" and "transfer-encoding" not in headers:
            return receive
        if not length.isdecimal() or int(length[:20]) > limits.body_bytes:
            raise _too_large(limits.body_bytes)
        parts: list[bytes] = []
        size, more = 0, True
        try:
            async with asyncio.timeout(limits.body_seconds):
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        break  # gone
                    part = message.get("body", b"")
                    parts.append(part)
                    size, more = size + len(part), message.get("more_body", False)
                    if size > limits.body_bytes:
                        raise _too_large(limits.body_bytes)
        except TimeoutError:
            raise SlowClientError(
                f"a body within {limits.body_seconds:g} seconds", f"{size:,} bytes so far", "send it faster"
            ) from None
        body = b"".join(parts)
        if "json" in headers.get("content-type", ""):
            _check_json(body, limits.json_depth)
        return _replay(body, receive)


def _replay(body: bytes, receive: Receive) -> Receive:
    done = False

    async def replayed() -> Message:
        nonlocal done
        if done:
            return await receive()
        done = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _check_json(body: bytes, depth: int) -> None:
    try:
        parse_json(body, "the body", depth=depth)
    except BundleError as error:
        raise ConfigError(
            error.expected, error.found[:200], "send JSON as /openapi.json describes it"
        ) from None


def _too_large(most: int) -> TooLargeError:
    return TooLargeError(f"a body of at most {most:,} bytes", "a larger one", "send less")


def _template(scope: Scope) -> str:
    """The path without ids; one name for all that there is not."""
    route: Any = scope.get("route")
    return str(getattr(route, "path_format", None) or getattr(route, "path", "other"))
