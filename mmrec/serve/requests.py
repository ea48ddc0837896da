"""Bodies of requests: what may be asked for, and that it is not too much."""

from __future__ import annotations

from collections.abc import Sized

from pydantic import BaseModel, ConfigDict, Field

from mmrec.errors import ConfigError
from mmrec.serve.limits import Limits


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class RecommendRequest(_Request):
    """The best items for a user, or for whoever has the items of a history."""

    user: str | None = Field(None, description="id of a user; or give a history")
    history: list[str] | None = Field(None, description="ids of items, oldest first")
    k: int = Field(10, ge=1, description="length of the list")
    where: str | None = Field(None, description="a filter over attributes, such as price < 50")
    allow: list[str] | None = Field(None, description="ids of the items that may appear")
    deny: list[str] | None = Field(None, description="ids of items that may not appear")
    exclude_seen: bool = Field(True, description="leave out what the user or the history has")
    explain: bool = Field(False, description="say why, where the bundle has item vectors")
    attributes: bool = Field(False, description="give the items' attributes")

    def check(self, limits: Limits) -> None:
        """Check what a schema does not say.

        Raises:
            ConfigError: Not one of user and history, or more than permitted.
        """
        _check_one({"user": self.user, "history": self.history})
        _check_size("history", self.history, limits.history)
        _check_size("allow", self.allow, limits.ids)
        _check_size("deny", self.deny, limits.ids)
        _check_list(self.k, self.where, limits)


class SimilarRequest(_Request):
    """The items most similar to one of them, or to a new one, by the cosine of their vectors."""

    item: str | None = Field(None, description="id of an item; or give text, image or both of a new one")
    text: str | None = Field(None, description="of a new item")
    image: str | None = Field(None, description="of a new item, in base64")
    k: int = Field(10, ge=1, description="length of the list")
    where: str | None = Field(None, description="a filter over attributes, such as price < 50")
    attributes: bool = Field(False, description="give the items' attributes")

    def check(self, limits: Limits) -> None:
        """Check what a schema does not say.

        Raises:
            ConfigError: Neither or both of a known and a new item, or more than permitted.
        """
        new = self.text if self.text is not None else self.image
        _check_one({"item": self.item, "text or image of a new item": new})
        _check_size("text", self.text, limits.text)
        _check_list(self.k, self.where, limits)


class ScoreRequest(_Request):
    """How probably a user, or whoever has the items of a history, takes each of some items."""

    user: str | None = Field(None, description="id of a user; or give a history")
    history: list[str] | None = Field(None, description="ids of items, oldest first")
    items: list[str] = Field(min_length=1, description="ids of the items to score")

    def check(self, limits: Limits) -> None:
        """Check what a schema does not say.

        Raises:
            ConfigError: Not one of user and history, or more than permitted.
        """
        _check_one({"user": self.user, "history": self.history})
        _check_size("history", self.history, limits.history)
        _check_size("items", self.items, limits.candidates)


def _check_one(given: dict[str, object]) -> None:
    found = [name for name, value in given.items() if value is not None]
    if len(found) != 1:
        raise ConfigError(" or ".join(given), " and ".join(found) or "neither", "give one of them")


def _check_size(name: str, value: Sized | None, most: int) -> None:
    if value is not None and len(value) > most:
        raise ConfigError(f"{name} of at most {most:,}", f"{len(value):,}", "ask for less at a time")


def _check_list(k: int, where: str | None, limits: Limits) -> None:
    if k > limits.k:
        raise ConfigError(f"k of at most {limits.k:,}", f"{k:,}", "ask for a shorter list")
    _check_size("where", where, limits.where)
