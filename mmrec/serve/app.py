"""The HTTP application: paths, bodies and answers; see ``/openapi.json``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePath
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

import mmrec
from mmrec.errors import ConfigError, MMRecError, did_you_mean
from mmrec.serve import answers
from mmrec.serve.errors import NotFoundError
from mmrec.serve.guard import Guard, error_response
from mmrec.serve.metrics import CONTENT_TYPE
from mmrec.serve.requests import RecommendRequest, ScoreRequest, SimilarRequest
from mmrec.serve.service import Service

_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_BODIES: dict[str, type[BaseModel]] = {
    "/recommend": RecommendRequest,
    "/similar": SimilarRequest,
    "/score": ScoreRequest,
}
Name = Annotated[str, Path(min_length=1, max_length=1000)]


def make_app(service: Service, page: Traversable | None = None) -> FastAPI:
    """The application over a service.

    Args:
        service: What answers.
        page: Folder of the page's files; the package's own if None.
    """
    problems: dict[int | str, dict[str, Any]] = {
        code: {"model": answers.ErrorAnswer, "description": "Why there is no answer."}
        for code in ("4XX", "5XX")
    }
    app = FastAPI(
        title="mmrec",
        version=mmrec.__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=problems,
        default_response_class=JSONResponse,
    )
    app.add_middleware(Guard, service=service)
    app.add_exception_handler(MMRecError, _say)
    app.add_exception_handler(RequestValidationError, _say_invalid)
    app.add_exception_handler(HTTPException, _say_http)
    _add_questions(app, service)
    _add_things(app, service)
    _add_state(app, service)
    _add_page(app, files("mmrec.serve") / "page" if page is None else page)
    return app


def _add_questions(app: FastAPI, service: Service) -> None:
    @app.post("/recommend", response_model=None, responses={200: {"model": answers.ListAnswer}})
    async def recommend(body: RecommendRequest) -> Response:
        """The best items for a user or a history."""
        return JSONResponse(await service.recommend(body))

    @app.post("/similar", response_model=None, responses={200: {"model": answers.ListAnswer}})
    async def similar(body: SimilarRequest) -> Response:
        """The items most similar to a known or a new one."""
        return JSONResponse(await service.ask(lambda engine: engine.similar(body)))

    @app.post("/score", response_model=None, responses={200: {"model": answers.ScoreAnswer}})
    async def score(body: ScoreRequest) -> Response:
        """How probable items are, by the bundle's ranker."""
        return JSONResponse(await service.ask(lambda engine: engine.score(body)))


def _add_things(app: FastAPI, service: Service) -> None:
    @app.get(
        "/items/{item:path}/image",
        response_class=Response,
        responses={200: {"content": {"image/*": {}}, "description": "The picture."}},
    )
    async def image(item: Name) -> Response:
        """The picture of an item."""
        content, kind = await service.ask(lambda engine: engine.picture(item))
        return Response(content, media_type=kind)

    @app.get("/items/{item:path}", response_model=None, responses={200: {"model": answers.ItemAnswer}})
    async def one_item(item: Name) -> Response:
        """An item and its attributes."""
        found = await service.ask(lambda engine: engine.item(item))
        address = f"/items/{quote(item, safe='')}/image" if found["image"] else None
        return JSONResponse(found | {"image": address})

    @app.get("/users/{user:path}", response_model=None, responses={200: {"model": answers.UserAnswer}})
    async def one_user(user: Name) -> Response:
        """A user and their last items."""
        return JSONResponse(await service.ask(lambda engine: engine.user(user)))

    @app.get("/search", response_model=None, responses={200: {"model": answers.SearchAnswer}})
    async def search(
        q: Annotated[str, Query(max_length=200)],
        kind: Literal["item", "user"] | None = None,
        limit: Annotated[int, Query(ge=1)] = 20,
    ) -> Response:
        """Items and users by a part of their id or title."""
        return JSONResponse(await service.ask(lambda engine: engine.search(q, kind, limit)))


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/info", response_model=None, responses={200: {"model": answers.InfoAnswer}})
    async def info() -> Response:
        """What is served."""
        return JSONResponse(service.engine.info())

    @app.get("/health", response_model=None, responses={200: {"model": answers.HealthAnswer}})
    async def health() -> Response:
        """The process is there."""
        return JSONResponse({"status": "ok"})

    @app.get("/ready", response_model=None, responses={200: {"model": answers.HealthAnswer}})
    async def ready() -> Response:
        """Requests are welcome; a service that is stopping says 503."""
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)


def _add_page(app: FastAPI, folder: Traversable) -> None:
    kinds = (
        {file.name: _KINDS.get(PurePath(file.name).suffix) for file in folder.iterdir()}
        if folder.is_dir()
        else {}
    )
    contents = {name: (folder / name).read_bytes() for name, kind in kinds.items() if kind is not None}

    def send(name: str) -> Response:
        if name not in contents:
            raise NotFoundError(
                "a file of the page", "none in this installation", "use the API: see /openapi.json"
            )
        return Response(contents[name], media_type=kinds[name], headers={"Cache-Control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return send("index.html")

    @app.get("/page/{name:path}", include_in_schema=False)
    async def page(name: str) -> Response:
        return send(name)


async def _say(request: Request, error: Exception) -> Response:
    assert isinstance(error, MMRecError)
    return error_response(error)


async def _say_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: Mapping[str, Any] = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
    if first["type"] == "extra_forbidden":
        fields = list(_BODIES[request.url.path].model_fields)
        return error_response(
            ConfigError("fields that the request has", repr(place)[:100], did_you_mean(place[:100], fields))
        )
    found = repr(first.get("input"))[:100]
    known = "see /openapi.json for what is known"
    return error_response(ConfigError(f"{place!r}: {first['msg']}"[:300], found, known))


async def _say_http(request: Request, error: Exception) -> Response:
    """What the framework refuses by itself: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        found = "no such path" if error.status_code == 404 else f"{request.method}"
        reason = {"expected": "a path and method of the API", "found": found, "do": "see /openapi.json"}
    else:
        reason = {
            "expected": "a request that can be read",
            "found": str(error.detail)[:200],
            "do": "see /openapi.json",
        }
    return JSONResponse({"error": reason}, error.status_code, error.headers)
