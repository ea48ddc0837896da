"""The application from outside: what it answers, and what becomes of everything that should not be asked."""

from __future__ import annotations

import base64
import io
import json
import re
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from mmrec.errors import ConfigError
from mmrec.serve.engine import Engine
from mmrec.serve.keys import VARIABLE, read_keys
from mmrec.serve.requests import RecommendRequest
from tests.serve.clients import make_client, make_service

ASK = {"user": "user-0003", "k": 3}


@pytest.fixture(scope="module")
def client(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    page = tmp_path_factory.mktemp("page")
    (page / "index.html").write_text("<!doctype html>")
    (page / "page.js").write_text("// nothing")
    (page.parent / "secret").write_text("secret")
    return make_client(make_service(engine, body_bytes=20_000, image_pixels=10_000), page)


def check_error(response: Any, status: int, reason: str = "") -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"expected", "found", "do"}
    assert re.search(reason, str(error)), error


def test_answers_are_those_of_the_engine(client: TestClient, engine: Engine) -> None:
    response = client.post("/recommend", json={**ASK, "explain": True, "attributes": True})
    assert response.status_code == 200
    assert response.json() == engine.recommend(RecommendRequest(**ASK, explain=True, attributes=True))
    assert response.headers["content-security-policy"].startswith("default-src 'self'")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert len(client.post("/similar", json={"item": "item-0003"}).json()["items"]) == 10
    assert client.get("/users/user-0003").json() == engine.user("user-0003")
    assert client.get("/search?q=oak&kind=item&limit=3").json() == engine.search("oak", "item", 3)
    assert client.get("/info").json() == engine.info()
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}


def test_pictures_of_items(client: TestClient, engine: Engine) -> None:
    item = next(f"item-{row:04d}" for row in range(60) if engine.bundle.picture(row))
    address = client.get(f"/items/{item}").json()["image"]
    assert address == f"/items/{item}/image"
    response = client.get(address)
    assert (response.content, response.headers["content-type"]) == engine.picture(item)
    lacking = next(f"item-{row:04d}" for row in range(60) if not engine.bundle.picture(row))
    assert client.get(f"/items/{lacking}").json()["image"] is None
    check_error(client.get(f"/items/{lacking}/image"), 404, "a picture")


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"user": "user-0003", "k": 10**9}, 400, "k of at most 1,000"),
        ({"user": "user-0003", "k": 10**30}, 400, "k"),
        ({"user": "user-0003", "k": 0}, 400, "'k'"),
        ({"user": "user-0003", "k": -1}, 400, "'k'"),
        ({"user": "user-0003", "k": 2.5}, 400, "'k'"),
        ({"user": "user-0003", "k": "3"}, 400, "'k'"),
        ({"user": "user-0003", "k": True}, 400, "'k'"),
        ({"user": 3}, 400, "'user'"),
        ({"user": ["user-0003"]}, 400, "'user'"),
        ({"user": None}, 400, "neither"),
        ({"history": "item-0003"}, 400, "'history'"),
        ({"history": [3]}, 400, "'history.0'"),
        ({"history": ["item-0003"] * 1001}, 400, "history of at most 1,000"),
        ({"history": []}, 400, "an empty history"),
        ({"user": "nobody"}, 404, "'nobody'"),
        ({"user": ""}, 404, "a user"),
        ({"user": "x" * 5000}, 404, "a user"),
        ({"user": "\ud800"}, 404, "a user"),
        ({"user": "user-0003", "where": "price == '\ud800'"}, 400, "surrogate"),
        ({"user": "user-0003", "\ud800": 1}, 400, "ud800"),
        ({"user": "user-0003", "colour": 1}, 400, "'colour'"),
        ({"user": "user-0003", "where": 5}, 400, "'where'"),
        ({"user": "user-0003", "where": ""}, 400, ""),
        ({"user": "user-0003", "where": "price < 'a'"}, 400, "number"),
        ({"user": "user-0003", "where": "price < 5; drop table items"}, 400, ";"),
        ({"user": "user-0003", "where": "1 == 1"}, 400, ""),
        ({"user": "user-0003", "where": "price.__class__ == 1"}, 400, ""),
        ({"user": "user-0003", "where": "item_id == 'item-0003'"}, 400, "item_id"),
        ({"user": "user-0003", "where": "(" * 2000 + "price < 5" + ")" * 1990}, 400, ""),
        ({"user": "user-0003", "where": "not " * 900 + "price < 5"}, 400, ""),
        ([], 400, "the body"),
        (None, 400, ""),
        ("user-0003", 400, ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bodies_that_cannot_be(client: TestClient, body: Any, status: int, reason: str) -> None:
    content = json.dumps(body)
    response = client.post("/recommend", content=content, headers={"content-type": "application/json"})
    check_error(response, status, reason)


@pytest.mark.parametrize(
    ("path", "body", "hint"),
    [
        ("/recommend", {"user": "user-0003", "where_": "price < 5"}, "did you mean 'where'?"),
        ("/similar", {"item": "item-0003", "colour": 1}, "choose one of: "),
        ("/score", {"items": ["item-0003"], "users": "user-0003"}, "did you mean 'user'?"),
    ],
)
def test_an_unknown_field_is_named_as_found(client: TestClient, path: str, body: Any, hint: str) -> None:
    error = client.post(path, json=body).json()["error"]
    assert error["expected"] == "fields that the request has"
    assert error["found"] == repr(list(body)[-1])
    assert hint in error["do"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", ""),
        (b"{", "JSON in the body"),
        (b"\xff\xfe\x00", "JSON in the body"),
        (b'{"user": "user-0003", "user": "user-0000"}', "a key given twice"),
        (b'{"user": "user-0003", "k": NaN}', "NaN"),
        (b'{"user": "user-0003", "k": ' + b"9" * 5000 + b"}", "JSON in the body"),
        (b'{"user": ' + b"[" * 20 + b"]" * 20 + b"}", "at most 8 deep"),
        (b"[" * 9_000 + b"]" * 9_000, "JSON"),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, "JSON"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_json(client: TestClient, content: bytes, reason: str) -> None:
    response = client.post("/recommend", content=content, headers={"content-type": "application/json"})
    check_error(response, 400, reason)


def test_a_body_of_another_kind(client: TestClient) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    check_error(client.post("/recommend", content=b"user=user-0003", headers=form), 400)


def test_large_bodies(client: TestClient) -> None:
    check_error(client.post("/recommend", content=b" " * 20_001), 413, "20,000 bytes")
    pieces = (b" " * 1000 for _ in range(30))  # of no length known beforehand
    check_error(client.post("/recommend", content=pieces), 413, "20,000 bytes")


def png_header(width: int, height: int) -> bytes:
    """A file that claims to be large; nothing of it can be decoded."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def test_decompression_bombs(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    class Never:
        modalities = ("image",)

        def vectors(self, *_: Any) -> Any:
            pytest.fail("the picture was decoded")

    own = object.__new__(Engine)
    own.__dict__.update(engine.__dict__, _newcomers=Never())
    client = make_client(make_service(own, image_pixels=10_000))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("the picture was decoded"))
    for width, height in ((101, 100), (12_000, 12_000), (60_000, 60_000)):
        body = {"image": base64.b64encode(png_header(width, height)).decode()}
        check_error(client.post("/similar", json=body), 400, "at most 10,000 pixels")


def test_files_that_are_no_pictures(engine: Engine) -> None:
    own = object.__new__(Engine)
    own.__dict__.update(engine.__dict__, _newcomers=SimpleNamespace(modalities=["image"]))
    client = make_client(make_service(own))
    whole = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(whole, "PNG")
    for content in (b"", b"<svg/>", png_header(5, 5), whole.getvalue()[:60], b"%!PS-Adobe-3.0 EPSF-3.0"):
        check_error(
            client.post("/similar", json={"image": base64.b64encode(content).decode()}), 400, "a picture"
        )


@pytest.mark.parametrize(
    "path",
    [
        "/items/..%2f..%2fetc%2fpasswd/image",
        "/items/%2e%2e/image",
        "/items/../../etc/passwd/image",
        "/items/item-0003%00/image",
        "/items/nothing",
        "/users/nobody",
        "/users/..%2fitems",
        "/page/..%2fsecret",
        "/page/../secret",
        "/page/%2e%2e%2fsecret",
        "/page//etc/passwd",
        "/page/",
        "/page/page.css",
        "/page/index.html%00",
        "/items",
        "/docs",
        "/nothing",
    ],
)
def test_paths_that_lead_nowhere(client: TestClient, path: str) -> None:
    check_error(client.get(path), 404)


def test_paths_of_other_methods(client: TestClient) -> None:
    check_error(client.get("/recommend"), 405)
    check_error(client.put("/info"), 405)
    check_error(client.get("/search?q=a&limit=0"), 400, "limit")
    check_error(client.get("/search?q=a&limit=101"), 400, "limit of at most 100")
    check_error(client.get("/search?q=a&kind=shop"), 400, "kind")
    check_error(client.get("/search?q=" + "a" * 300), 400, "'query.q'")
    check_error(client.get("/search"), 400, "'query.q'")


def test_the_page(client: TestClient, engine: Engine, tmp_path: Path) -> None:
    assert client.get("/").text == "<!doctype html>"
    script = client.get("/page/page.js")
    assert (script.text, script.headers["content-type"]) == ("// nothing", "text/javascript; charset=utf-8")
    bare = make_client(make_service(engine), tmp_path)
    check_error(bare.get("/"), 404, "none in this installation")


# --- Keys


def test_keys(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("page")
    (tmp_path / "page.css").write_text("")
    client = make_client(make_service(engine, "first-key", "second-key"), tmp_path)
    for path in ("/", "/page/page.css", "/health", "/ready"):
        assert client.get(path).status_code == 200
    for path in ("/info", "/metrics", "/openapi.json", "/items/item-0003", "/nothing", "/search?q=a"):
        check_error(client.get(path), 401, "an API key")
    for headers in (
        {}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic first-key"}, {"X-API-Key": "first"},
        {"X-API-Key": ""}, {"Authorization": "Bearer"}, {"Authorization": "Bearer first-key second-key"},
    ):  # fmt: skip
        check_error(client.post("/recommend", json=ASK, headers=headers), 401)
    for headers in (
        {"Authorization": "Bearer first-key"},
        {"X-API-Key": "second-key"},
        {"authorization": "bearer second-key"},
    ):
        assert client.post("/recommend", json=ASK, headers=headers).status_code == 200
    large = {"content-length": "999999999"}
    check_error(client.post("/recommend", content=b"{}", headers=large), 401)  # nothing is read before


def test_every_key_is_compared_every_time(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmrec.serve import keys

    compared = []
    compare = keys.hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append(len(a)) or compare(a, b))
    client = make_client(make_service(engine, "a", "second-key", "third"))
    for key in ("a", "third", "wrong"):
        client.get("/info", headers={"X-API-Key": key})
    assert compared == [32] * 9


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text("one\n\n two \n")
    monkeypatch.setenv(VARIABLE, "three, four five")
    for keys, good, bad in ((read_keys(file), "two", "three"), (read_keys(None), "four", "one")):
        keys.check({"x-api-key": good})
        with pytest.raises(Exception, match="an unknown one"):
            keys.check({"x-api-key": bad})
    monkeypatch.delenv(VARIABLE)
    assert len(read_keys(None)) == 0
    for content in ("", "two words", "schlüssel"):
        file.write_text(content)
        with pytest.raises(ConfigError):
            read_keys(file)
    with pytest.raises(ConfigError, match="check --keys"):
        read_keys(tmp_path / "nothing")


# --- What is counted and what is logged

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\[\\"n])*",?)+)\})? ([0-9.e+-]+)')


def read_metrics(text: str) -> dict[str, float]:
    """A second reader of the format: samples by name and labels; types are declared before them."""
    found, declared = {}, set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in ("counter", "gauge", "histogram")
            declared.add(name)
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            name, labels, value = match.groups()
            assert name in declared or re.sub("_(bucket|sum|count)$", "", name) in declared, line
            key = f"{name}{{{labels}}}"
            assert key not in found
            found[key] = float(value)
    return found


def test_metrics_count_what_happened(engine: Engine) -> None:
    client = make_client(make_service(engine))
    for _ in range(3):
        client.post("/recommend", json=ASK)
    client.post("/recommend", json={"user": "nobody"})
    client.get("/users/user-0003")
    client.get("/no/such/path")
    found = read_metrics(client.get("/metrics").text)
    assert found['mmrec_requests_total{path="/recommend",status="200"}'] == 3
    assert found['mmrec_requests_total{path="/recommend",status="404"}'] == 1
    assert found['mmrec_requests_total{path="/users/{user}",status="200"}'] == 1
    assert found['mmrec_requests_total{path="other",status="404"}'] == 1
    buckets = [
        value
        for name, value in found.items()
        if name.startswith('mmrec_request_seconds_bucket{path="/recommend"')
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == found['mmrec_request_seconds_count{path="/recommend"}'] == 4
    assert found['mmrec_request_seconds_sum{path="/recommend"}'] > 0
    assert found["mmrec_batch_size_sum{None}"] == 4
    assert found["mmrec_in_flight{None}"] == found["mmrec_queue{None}"] == 0
    info = f'mmrec_bundle_info{{bundle="{engine.hash}",model="lightgcn",kind="vectors"}}'
    assert found[info] == 1


def test_logs_are_json_without_what_users_sent(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    from mmrec.serve.logs import set_up

    set_up()
    own = object.__new__(Engine)
    own.__dict__.update(engine.__dict__, user=lambda name: 1 / 0)
    client = make_client(make_service(own, "the-key"))
    headers = {"X-API-Key": "the-key"}
    assert client.post("/recommend", json=ASK, headers=headers).status_code == 200
    check_error(client.get("/items/item-9999?secret=1", headers=headers), 404)
    check_error(client.get("/users/user-0003", headers=headers), 500, "a fault of the service")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["request", "request", "fault", "request"]
    assert [(line["path"], line["status"]) for line in lines if line["event"] == "request"] == [
        ("/recommend", 200), ("/items/{item}", 404), ("/users/{user}", 500)
    ]  # fmt: skip
    assert lines[2]["exception"] == "ZeroDivisionError"
    assert not re.search(r"user-0003|item-9999|secret|the-key|127\.0\.0\.1", json.dumps(lines))


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    from mmrec.serve.run import run

    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(ConfigError, match=r"pip install 'mmrec\[serve\]'"):
        run(tmp_path)
