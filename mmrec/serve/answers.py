"""Shapes of the answers, for /openapi.json."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Near(_Answer):
    """An item of the history, and the cosine of its vector with that of the item."""

    item: str
    similarity: float


class Why(_Answer):
    """The most similar items of the history, and how much of the similarity each modality makes."""

    nearest: list[Near]
    modalities: dict[str, float] | None = None


class ListedItem(_Answer):
    """An item of a list."""

    item: str
    score: float
    attributes: dict[str, Any] | None = None
    why: Why | None = None


class ListAnswer(_Answer):
    """The best items, best first."""

    items: list[ListedItem]
    bundle: str


class ScoredItem(_Answer):
    """An item and how probable it is."""

    item: str
    probability: float


class ScoreAnswer(_Answer):
    """Probabilities in the order of the request."""

    items: list[ScoredItem]
    bundle: str


class ItemAnswer(_Answer):
    """An item."""

    item: str
    attributes: dict[str, Any]
    image: str | None


class UserAnswer(_Answer):
    """What a user has, oldest first where the model knows the order."""

    user: str
    history: list[str]


class FoundName(_Answer):
    """An item or a user."""

    kind: Literal["item", "user"]
    id: str
    title: str | None = None


class SearchAnswer(_Answer):
    """Items and users whose id or title holds the text."""

    results: list[FoundName]


class InfoAnswer(_Answer):
    """What is served."""

    bundle: str
    model: str
    dataset: str
    items: int
    users: int
    kind: str
    attributes: dict[str, str]
    title: str | None
    pictures: bool
    in_time: bool
    metrics: dict[str, dict[str, float]]
    index: str | None
    explains: bool
    new_items: list[str]


class HealthAnswer(_Answer):
    """The process is there, or ready."""

    status: Literal["ok", "ready"]


class Reason(_Answer):
    """Three parts of an error."""

    expected: str
    found: str
    do: str


class ErrorAnswer(_Answer):
    """Why there is no answer."""

    error: Reason
