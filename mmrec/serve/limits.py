"""How much a request may ask for, and how many requests at a time."""

from __future__ import annotations

from pydantic import Field

from mmrec.models.contracts import ModelConfig


class Limits(ModelConfig):
    """Bounds of a service; each can be set with ``mmrec serve --limit name=value``."""

    k: int = Field(1000, ge=1, description="items of a list")
    history: int = Field(1000, ge=1, description="items of a history")
    ids: int = Field(10_000, ge=0, description="items to allow, and to deny")
    candidates: int = Field(1000, ge=1, description="items to score")
    where: int = Field(4000, ge=0, description="characters of a filter")
    text: int = Field(20_000, ge=1, description="characters of a new item's text")
    image_pixels: int = Field(25_000_000, ge=1, description="pixels of a new item's picture")
    body_bytes: int = Field(8 * 2**20, ge=1, description="bytes of a request's body")
    json_depth: int = Field(8, ge=1, description="lists and objects in each other")
    results: int = Field(100, ge=1, description="results of a search for ids and titles")
    in_flight: int = Field(64, ge=1, description="requests being answered")
    queue: int = Field(256, ge=0, description="requests waiting to be answered")
    connections: int = Field(1024, ge=1, description="open connections")
    batch: int = Field(64, ge=1, description="lists made by one search of the index")
    threads: int = Field(2, ge=1, description="threads that search and encode")
    seconds: float = Field(10.0, gt=0, description="seconds for an answer, waiting included")
    body_seconds: float = Field(10.0, gt=0, description="seconds for a client to send a body")
    header_seconds: float = Field(10.0, gt=0, description="seconds for a client to send the headers")
    send_seconds: float = Field(30.0, gt=0, description="seconds for a client to take a piece of the answer")
    stop_seconds: float = Field(
        30.0, gt=0, description="seconds for requests in flight when the service stops"
    )
