"""A request to the web: http and https only, few redirects, failures sorted by whether trying again may help."""

from __future__ import annotations

import contextlib
import functools
import http.client
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from typing import IO

from mmrec import __version__
from mmrec.errors import DataError

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class Interrupted(Exception):
    """An attempt that failed in a way another attempt may not.

    Args:
        reason: What happened, for the message.
        wait: Seconds the server asked to be left alone.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Refused(Exception):
    """An address that has no use for further attempts; a mirror may."""


class OutOfRange(Interrupted):
    """The part of the file that was asked for does not exist (HTTP 416)."""


def check_address(url: str) -> None:
    """Let only web addresses pass.

    Raises:
        DataError: Neither http nor https.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DataError("an http or https address", url, "correct the address in the recipe")


@contextlib.contextmanager
def answer(url: str, headers: Mapping[str, str], *, timeout: float) -> Iterator[http.client.HTTPResponse]:
    """Open an address for reading; what goes wrong until the block ends is sorted, too.

    Args:
        url: http or https.
        headers: Added to the request.
        timeout: Seconds without a connection or a byte.

    Raises:
        Interrupted: Another attempt may help.
        Refused: Another attempt will not help.
    """
    plain = {"User-Agent": f"mmrec/{__version__}", "Accept": "*/*", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers={**plain, **headers})
    try:
        with _opener().open(request, timeout=timeout) as response:
            yield response
    except urllib.error.HTTPError as error:
        error.close()
        raise _sorted(error) from None
    except TimeoutError:
        raise Interrupted(f"stalled: no byte for {timeout:g} s") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise Refused(f"the server's certificate is not valid ({error.reason.verify_message})") from None
        raise Interrupted(f"no connection ({error.reason})") from None
    except (http.client.HTTPException, ConnectionError, ssl.SSLError) as error:
        raise Interrupted(f"the connection broke ({type(error).__name__}: {error})") from None


def _sorted(error: urllib.error.HTTPError) -> Interrupted | Refused:
    reason = f"HTTP {error.code} {error.reason}"
    if error.code == 416:
        return OutOfRange(reason)
    if error.code in _AGAIN:
        wait = error.headers.get("Retry-After", "")
        return Interrupted(reason, float(wait) if wait.isdigit() else None)
    return Refused(reason)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, on the web only, and never from https back to http."""

    max_redirections = 8

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request to the new address, if it may be asked."""
        fp.close()  # urllib would read the body of the redirect first, however long it is
        old, new = urllib.parse.urlsplit(req.full_url).scheme, urllib.parse.urlsplit(newurl).scheme
        if new not in ("http", "https") or (old == "https" and new == "http"):
            raise Refused(f"a redirect to {newurl}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # reads all certificates: tens of milliseconds


def _opener() -> urllib.request.OpenerDirector:
    """An opener of http and https alone: urllib's usual one also opens file:, ftp: and data: addresses."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=_tls()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener
