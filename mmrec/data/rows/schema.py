"""What the columns of rows and of their items mean, declared in YAML.

.. code-block:: yaml

    label: rating >= 4              # or the name of a column of 0 and 1
    group: user_id                  # rows that are ranked against each other
    item: item_id                   # which field says what the row is about
    fields:
      user_id: category
      item_id: {kind: category, min_count: 2}
      price: {kind: number, treatment: log}
      clicked: {kind: history, separator: " ", max_length: 64}
    items:                          # one row for each item, by its id
      fields:
        genres: {kind: tags, separator: "|", max_length: 5}
      embeddings:
        text: {column: text_vector}
        image: {file: image.npy}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmrec.config import read_yaml, validate

Operator = Literal[">=", ">", "<=", "<", "=="]
Treatment = Literal["raw", "log", "quantile"]
RESERVED = ("label", "group", "row")  # columns of the encoded tables
_RULE = re.compile(r"\s*(.+?)\s*(>=|>|<=|<|==)\s*([-+0-9.eE]+)\s*")
_OPTIONS = {
    "category": {"min_count", "missing", "vocabulary", "largest"},
    "tags": {"min_count", "missing", "vocabulary", "largest", "separator", "max_length"},
    "number": {"treatment", "missing"},
    "history": {"missing", "separator", "max_length"},
}
_TREATMENT_OPTIONS = {"raw": set[str](), "log": {"min_count"}, "quantile": {"buckets"}}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FieldSchema(_Frozen):
    """A field. In YAML its kind alone will do: ``user_id: category``.

    A number becomes standardised with mean and deviation of the training rows (``raw``), the category of its log bucket
    as the Criteo set has them, ``floor(ln(x)^2)`` for x > 2 and ``floor(x)`` below (``log``), or that of its quantile
    among the training rows (``quantile``).
    """

    kind: Literal["category", "tags", "number", "history"]
    column: str | None = Field(None, description="column of the source; the field's name if not given")
    min_count: int = Field(1, ge=1, description="training rows a value must have to get an id of its own")
    missing: tuple[str, ...] = Field((), description="values that mean nothing is known")
    vocabulary: Literal["fitted", "index"] = Field(
        "fitted", description="index: values are ids already, 0 is missing"
    )
    largest: int | None = Field(
        None, ge=1, description="largest id of an index; that of the data if not given"
    )
    separator: str | None = Field(None, min_length=1, description="between values; none for list columns")
    max_length: int | None = Field(None, ge=1, description="most values of a row")
    treatment: Treatment = "raw"
    buckets: int = Field(16, ge=2, description="how many quantiles")

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> FieldSchema:
        known = _OPTIONS[self.kind] | {"kind", "column"}
        if self.vocabulary == "index":
            known -= {"min_count", "missing"}
        if self.kind == "number":
            known |= _TREATMENT_OPTIONS[self.treatment]
        if unread := sorted(self.model_fields_set - known):
            raise ValueError(f"a {self.kind} field declared so reads no {unread[0]}: remove it")
        if self.largest is not None and self.vocabulary != "index":
            raise ValueError("largest belongs to vocabulary: index")
        return self

    @property
    def length(self) -> int:
        """Most values of a row, of tags and histories."""
        return self.max_length or (64 if self.kind == "history" else 20)

    @property
    def encoded_kind(self) -> Literal["category", "tags", "number"]:
        """What the field is once it is encoded: numbers in buckets are categories."""
        if self.kind == "number":
            return "number" if self.treatment == "raw" else "category"
        return "tags" if self.kind == "history" else self.kind


class EmbeddingSchema(_Frozen):
    """Frozen vectors of the items; in YAML the column alone will do."""

    column: str | None = Field(None, description="column of lists in the table of items")
    file: str | None = Field(None, description=".npy file, one row for each row of the table of items")
    modality: str | None = Field(None, description="text, image, …; the name of the embedding if not given")

    @model_validator(mode="before")
    @classmethod
    def _column_alone(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check(self) -> EmbeddingSchema:
        if (self.column is None) == (self.file is None):
            raise ValueError("an embedding is either a column or a file")
        return self


class ItemSchema(_Frozen):
    """The items' side: a table with one row for each item."""

    key: str | None = Field(None, description="column of the item's id; that of the item field if not given")
    fields: dict[str, FieldSchema] = Field(default_factory=dict)
    embeddings: dict[str, EmbeddingSchema] = Field(default_factory=dict)


class Schema(_Frozen):
    """Fields, label and group of rows; see the example at the top of the module."""

    label: str = Field(description="a column of 0 and 1, or a rule such as rating >= 4")
    group: str | None = Field(None, description="column of what rows belong to: a user, a session")
    item: str | None = Field(None, description="which field holds the item's id")
    fields: dict[str, FieldSchema] = Field(min_length=1)
    items: ItemSchema | None = None

    @field_validator("label")
    @classmethod
    def _readable(cls, label: str) -> str:
        LabelRule.parse(label)
        return label

    @model_validator(mode="after")
    def _check(self) -> Schema:
        inner = {} if self.items is None else self.items.fields
        for name in (*self.fields, *inner):
            if name in RESERVED:
                raise ValueError(f"{name} is no name for a field: call it otherwise, with column: {name}")
        if both := sorted(self.fields.keys() & inner.keys()):
            raise ValueError(f"{both[0]} is a field of rows and of items: rename one, with column: {both[0]}")
        if any(field.kind == "history" for field in inner.values()):
            raise ValueError("items have no histories")
        if self.item is None and (self.items is not None or self.histories):
            raise ValueError("histories and items need item: which field holds the item's id")
        if self.item is not None and self.fields.get(self.item, FieldSchema(kind="tags")).kind != "category":
            raise ValueError(f"item: {self.item} is no field of kind category")
        return self

    @property
    def histories(self) -> dict[str, FieldSchema]:
        """Histories by name."""
        return {name: field for name, field in self.fields.items() if field.kind == "history"}

    @property
    def rule(self) -> LabelRule:
        """How the label is read."""
        return LabelRule.parse(self.label)

    @property
    def item_key(self) -> str:
        """Column of the item's id in the table of items."""
        assert self.items is not None and self.item is not None
        return self.items.key or self.fields[self.item].column or self.item

    def columns(self) -> list[str]:
        """Columns of the source that rows are made of."""
        names = [field.column or name for name, field in self.fields.items()]
        return list(dict.fromkeys([self.rule.column, *([self.group] if self.group else []), *names]))

    def item_columns(self) -> list[str]:
        """Columns of the table of items that are read."""
        assert self.items is not None
        names = [field.column or name for name, field in self.items.fields.items()]
        vectors = [one.column for one in self.items.embeddings.values() if one.column]
        return list(dict.fromkeys([self.item_key, *names, *vectors]))

    def document(self) -> dict[str, Any]:
        """The schema as plain JSON and YAML values, without what is as usual."""
        return self.model_dump(mode="json", exclude_defaults=True)


@dataclass(frozen=True)
class LabelRule:
    """Which rows are positive: those whose ``column`` is 1, or compares with ``threshold``."""

    column: str
    operator: Operator | None = None
    threshold: float = 0.0

    @classmethod
    def parse(cls, text: str) -> LabelRule:
        """From ``rating >= 4`` or the name of a column.

        Raises:
            ValueError: Something compared with what is no number.
        """
        match = _RULE.fullmatch(text)
        if match is None:
            return cls(text.strip())
        column, operator, threshold = match.groups()
        return cls(column, operator, float(threshold))  # type: ignore[arg-type]


def load_schema(source: Schema | str | Path | Mapping[str, Any]) -> Schema:
    """A schema from a YAML file or the same content as a mapping.

    Raises:
        ConfigError: Unreadable file, unknown key, wrong value.
    """
    if isinstance(source, Schema):
        return source
    if isinstance(source, Mapping):
        return validate(Schema, source, "the schema")
    return validate(Schema, read_yaml(Path(source)), str(source))


def override(schema: Schema, **changes: Any) -> Schema:
    """The schema with other keys; None leaves a key as it is.

    Raises:
        ConfigError: The result is no schema.
    """
    given = {key: value for key, value in changes.items() if value is not None}
    if not given:
        return schema
    return validate(Schema, {**schema.document(), **given}, "the schema")
