"""The HTTP interface of the service over a small fixed shop, for tests of the page alone."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pandas as pd

import mmrec.where
from mmrec.errors import MMRecError
from tests.serve.drawings import COLOURS, THINGS, draw

PAGE = Path(mmrec.__file__).parent / "serve" / "page"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
KINDS = {
    "title": "text",
    "category": "category",
    "price": "number",
    "in_stock": "boolean",
    "colours": "categories",
}
EVIL = "<img src=x onerror=alert(1)>"
STYLES = {
    "vase": "vase with tulips",
    "lamp": "table lamp",
    "mug": "coffee mug",
    "chair": "chair",
    "clock": "clock",
}


def make_items() -> pd.DataFrame:
    """20 drawn things, one without a picture, one with markup for a title, and one without a title."""
    rows = [
        {
            "item_id": f"{thing}-{place + 1}",
            "title": f"{colour} {STYLES[thing]}",
            "category": thing,
            "price": 12.5 + 7 * place + 11 * row,
            "in_stock": (place + row) % 3 > 0,
            "colours": [colour.lower()],
            "picture": (thing, colour),
        }
        for place, colour in enumerate(COLOURS)
        for row, thing in enumerate(THINGS)
    ]
    items = pd.DataFrame(rows).set_index("item_id", drop=False)
    items.at["lamp-3", "picture"] = None
    items.at["clock-4", "title"] = EVIL
    items.at["mug-3", "title"] = None
    return items


@dataclass
class Fault:
    """What happens to the next requests of a path.

    Attributes:
        status: Answered in place of the result.
        headers: Sent with it.
        held: Answered once this is set.
    """

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    held: threading.Event | None = None


class Stub(http.server.ThreadingHTTPServer):
    """Attributes say what to answer and what was asked.

    Attributes:
        faults: Of one request each, by path.
        key: Needed where it is not empty.
        asked: Path and body of each request.
        facts: What it says about itself, beside names and numbers.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.items = make_items()
        ids = self.items["item_id"].tolist()
        self.users = {"ada": ids[:3] + ids[7:9] + ids[10:12] + ids[4:5], "grace": ids[:18], "new/one": []}
        self.faults: dict[str, list[Fault]] = {}
        self.key = ""
        self.asked: list[tuple[str, Any]] = []
        self.facts = {"pictures": True, "in_time": True}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the page hangs up on what it no longer needs

    def recommend(self, body: dict[str, Any]) -> dict[str, Any]:
        history = self._history(body["user"])
        if not history:
            raise MMRecError(
                "users with items in the training split, or histories with items", "none", "ask others"
            )
        found = self._best(body, leave=history)
        for place, entry in enumerate(found):
            turn = place % 5
            near = history[turn : turn + 3]
            nearest = [
                {"item": item, "similarity": 0.91 - 0.013 * place - 0.13 * n} for n, item in enumerate(near)
            ]
            share = round(0.72 - 0.04 * place, 2)
            entry["why"] = {"nearest": nearest, "modalities": {"text": share, "image": 1 - share}}
        return {"items": found, "bundle": "3f9a12c4"}

    def similar(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["item"] not in self.items.index:
            raise Missing("an item of the bundle", repr(body["item"]), "use an id such as vase-1")
        return {"items": self._best(body, leave=[body["item"]]), "bundle": "3f9a12c4"}

    def _history(self, user: str) -> list[str]:
        if user not in self.users:
            raise Missing("a user of the bundle", repr(user), "use an id such as ada")
        return self.users[user]

    def _best(self, body: dict[str, Any], leave: list[str]) -> list[dict[str, Any]]:
        if body["k"] < 1:
            raise MMRecError("k of at least 1", str(body["k"]), "ask for at least one item")
        table = self.items.drop(columns=["picture"])
        if "where" in body:
            table = table[mmrec.where.parse(body["where"]).mask(table)]
        order = (table["price"] * 5 % 31).sort_values(kind="stable").index  # any fixed order that mixes them
        best = [item for item in order if item not in leave][: body["k"]]
        return [
            {"item": item, "score": 7.31 * 0.88**place, "attributes": self.attributes(item)}
            for place, item in enumerate(best)
        ]

    def attributes(self, item: str) -> dict[str, Any]:
        row = self.items.loc[item, list(KINDS)]
        return dict(json.loads(row.to_json()))

    def item(self, item: str) -> dict[str, Any]:
        if item not in self.items.index:
            raise Missing("an item of the bundle", repr(item), "use an id such as vase-1")
        image = f"/items/{item}/image" if self.items.at[item, "picture"] else None
        return {"item": item, "attributes": self.attributes(item), "image": image}

    def search(self, q: str = "", kind: str = "item", limit: str = "20") -> dict[str, Any]:
        titles = dict.fromkeys(self.users) if kind == "user" else dict(self.items["title"])
        found = [
            {"kind": kind, "id": name} | ({"title": title} if title else {})
            for name, title in titles.items()
            if q.lower() in f"{name}\n{title or ''}".lower()
        ]
        return {"results": found[: int(limit)]}

    def info(self) -> dict[str, Any]:
        numbers = {"items": 20, "users": 3, "metrics": {"ndcg@10": 0.31}}
        names = {"bundle": "3f9a12c4", "model": "freedom", "dataset": "drawings", "kind": "vectors"}
        return {**names, **numbers, "attributes": KINDS, "title": "title", **self.facts}


class Missing(MMRecError):
    """Answered as 404."""


@cache
def _picture(thing: str, colour: str) -> bytes:
    return draw(thing, colour)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Stub

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def do_GET(self) -> None:
        self._answer(None)

    def _answer(self, body: Any) -> None:
        split = urlsplit(self.path)
        path = unquote(split.path)
        if path == "/" or path.startswith("/page/"):
            file = PAGE / ("index.html" if path == "/" else path.removeprefix("/page/"))
            return self._send(200, file.read_bytes(), TYPES[file.suffix])
        self.server.asked.append((self.path, body))
        fault = self.server.faults.get(path, [Fault()])
        now = fault.pop(0) if fault else Fault()
        if now.held:
            now.held.wait(20)
        if now.status != 200:
            error = {"expected": "a service at rest", "found": "a busy one", "do": "come back in a moment"}
            return self._json(now.status, {"error": error}, *now.headers)
        if self.server.key and self.headers.get("Authorization") != f"Bearer {self.server.key}":
            error = {
                "expected": "an API key",
                "found": "none or another",
                "do": "send the key of this service",
            }
            return self._json(401, {"error": error})
        query = {name: values[0] for name, values in parse_qs(split.query, keep_blank_values=True).items()}
        try:
            return self._result(path.strip("/").split("/", 1), query, body)
        except MMRecError as error:
            parts = {"expected": error.expected, "found": error.found, "do": error.do}
            return self._json(404 if isinstance(error, Missing) else 400, {"error": parts})

    def _result(self, parts: list[str], query: dict[str, str], body: Any) -> None:
        service = self.server
        match parts:
            case ["recommend"]:
                return self._json(200, service.recommend(body))
            case ["similar"]:
                return self._json(200, service.similar(body))
            case ["search"]:
                return self._json(200, service.search(**query))
            case ["info"]:
                return self._json(200, service.info())
            case ["users", user]:
                return self._json(200, {"user": user, "history": service._history(user)})
            case ["items", name] if name.endswith("/image"):
                picture: Any = service.items.at[name.removesuffix("/image"), "picture"]
                return self._send(200, _picture(*picture), "image/png")
            case ["items", name]:
                return self._json(200, service.item(name))
        raise Missing("a path of the service", self.path, "look into /openapi.json")

    def _json(self, status: int, answer: Any, *headers: tuple[str, str]) -> None:
        self._send(status, json.dumps(answer).encode(), "application/json", *headers)

    def _send(self, status: int, body: bytes, kind: str, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        named = {"Content-Type": kind, "Content-Length": str(len(body)), **dict(headers)}
        policy = {"Content-Security-Policy": "default-src 'self'", "X-Content-Type-Options": "nosniff"}
        for name, value in {**named, **policy}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def serving() -> Iterator[Stub]:
    """The service in a thread, closed at the end of the block."""
    stub = Stub()
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.shutdown()
        stub.server_close()
