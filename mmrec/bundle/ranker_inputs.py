"""What a ranker of a bundle reads: fields, the users' and the items' encoded columns, features and codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmrec.bundle.inputs import Tables, check_rows, describe_tables, parse_document, parse_tables
from mmrec.bundle.manifest import RANKER_INPUT_TENSORS, RANKER_INPUTS, Counts
from mmrec.bundle.reading import AGAIN, STRANGE, parse_tensors, take
from mmrec.codes.table import CodeTable
from mmrec.data.rows.candidates import CandidateRows
from mmrec.data.rows.catalogue import USER
from mmrec.data.rows.table import PADDING, HistoryField, Lists, RowData, RowField, RowTable
from mmrec.errors import BundleError
from mmrec.files import write_bytes, write_json

if TYPE_CHECKING:
    from torch import Tensor

_TYPES = {"category": "int32", "tags": "int32", "number": "float32"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Field(_Frozen):
    name: str
    kind: Literal["category", "tags", "number"]
    size: int = Field(ge=0, lt=2**31)

    @model_validator(mode="after")
    def _check(self) -> _Field:
        if (self.size == 0) != (self.kind == "number") or self.size == 1:
            raise ValueError(f"{self.size} ids of the {self.kind} field {self.name!r}")
        return self


class _History(_Frozen):
    name: str
    length: int = Field(ge=1)


class _Inputs(_Frozen):
    """Fields of a row in its order, the item field among them; those of an item; what histories there are."""

    item: str
    fields: list[_Field]
    item_fields: list[_Field]
    history: _History | None
    tables: Tables

    @model_validator(mode="after")
    def _check(self) -> _Inputs:
        names = [one.name for one in (*self.fields, *self.item_fields)]
        names += [] if self.history is None else [self.history.name]
        if len(set(names)) < len(names):
            raise ValueError("a field given twice")
        kinds = {one.name: one.kind for one in self.fields}
        if {kinds.get(self.item), kinds.get(USER)} != {"category"} or self.item == USER:
            raise ValueError(f"no categories {USER!r} and {self.item!r} among the fields")
        return self

    def row_fields(self) -> tuple[RowField, ...]:
        return tuple(RowField(one.name, one.kind, one.size) for one in self.fields)

    def row_item_fields(self) -> tuple[RowField, ...]:
        return tuple(RowField(one.name, one.kind, one.size) for one in self.item_fields)


def write_ranker_inputs(folder: Path, data: RowData, candidates: CandidateRows) -> None:
    """Write what :func:`parse_ranker_inputs` reads.

    Words do not go along: known users are columns of ids, strangers have the ids that stand for what is not known, and
    an item's id is its internal one plus 1.
    """
    import safetensors.numpy

    history = candidates.history
    # Rankers read the codes alone, not what else the tokeniser kept.
    codes = {source: CodeTable(own.name, own.codes, own.sizes) for source, own in data.codes.items()}
    tables, arrays = describe_tables(data.features, codes)
    for name, column in candidates.users.items():
        if isinstance(column, Lists):
            arrays[f"users/offsets/{name}"] = column.offsets
        values = column.values if isinstance(column, Lists) else column
        arrays[f"users/values/{name}"] = np.ascontiguousarray(values)
    assert data.item_rows is not None
    arrays["items/rows"] = data.item_rows
    arrays |= {f"items/values/{name}": np.ascontiguousarray(own) for name, own in data.item_values.items()}
    document = {
        "item": candidates.item,
        "fields": [vars(field) for field in data.fields],
        "item_fields": [vars(field) for field in data.item_fields],
        "history": None if history is None else vars(history),
        "tables": tables,
    }
    write_json(folder / RANKER_INPUTS, document)
    write_bytes(folder / RANKER_INPUT_TENSORS, safetensors.numpy.save(arrays))


def parse_ranker_inputs(document: bytes, tensors: bytes, counts: Counts) -> tuple[RowData, CandidateRows]:
    """What a ranker's model is built from, without training rows, and what encodes pairs for it.

    Args:
        document: ranker/inputs.json.
        tensors: ranker/inputs.safetensors.
        counts: Users and items of the bundle.

    Raises:
        BundleError: Damaged, or not of these users and items.
    """
    inputs = parse_document(_Inputs, document, RANKER_INPUTS, "fields, features and codes")
    found = parse_tensors(tensors, RANKER_INPUT_TENSORS)
    fields = inputs.row_fields()
    size = next(field.size for field in fields if field.name == inputs.item)
    n_items = size - 2
    if not 1 <= n_items <= counts.items:
        raise BundleError(
            f"ids of at most {counts.items:,} items in {RANKER_INPUTS}", f"those of {n_items:,}", AGAIN
        )
    features, codes = parse_tables(inputs.tables, found, n_items, RANKER_INPUT_TENSORS)
    history = None if inputs.history is None else HistoryField(inputs.history.name, inputs.history.length)
    data = RowData(
        fields,
        RowTable({}, np.zeros(0, dtype=np.int8)),
        inputs.item,
        () if history is None else (history,),
        inputs.row_item_fields(),
        {field.name: _item_values(found, field, size) for field in inputs.row_item_fields()},
        _item_rows(found, size),
        features,
        codes,
    )
    users = {
        field.name: _user_column(found, field, counts.users + 1)  # the last row: strangers
        for field in fields
        if field.name != inputs.item
    }
    return data, CandidateRows(users, inputs.item, n_items, history)


def _user_column(found: Mapping[str, Tensor], field: RowField, rows: int) -> NDArray[np.generic] | Lists:
    key, where = f"users/values/{field.name}", RANKER_INPUT_TENSORS
    if field.kind != "tags":
        return _checked(take(found, key, _TYPES[field.kind], (rows,), where), field, key)
    offsets = take(found, f"users/offsets/{field.name}", "int64", (rows + 1,), where).numpy()
    values = take(found, key, "int32", (-1,), where).numpy()
    check_rows(offsets, values, field.size, f"{key} of {where}")
    return Lists(values, offsets)


def _item_values(found: Mapping[str, Tensor], field: RowField, size: int) -> NDArray[np.generic]:
    key = f"items/values/{field.name}"
    shape = (size, -1) if field.kind == "tags" else (size,)
    values = _checked(take(found, key, _TYPES[field.kind], shape, RANKER_INPUT_TENSORS), field, key)
    if values[[0, -1]].any():
        raise BundleError(f"nothing in the first and the last row of {key}", "values", STRANGE)
    return values


def _item_rows(found: Mapping[str, Tensor], size: int) -> NDArray[np.int64]:
    rows = take(found, "items/rows", "int64", (size,), RANKER_INPUT_TENSORS).numpy()
    if rows.min() < -1 or rows.max() >= size - 2:
        raise BundleError(
            f"rows below {size - 2:,} in items/rows of {RANKER_INPUT_TENSORS}",
            "rows that lead elsewhere",
            STRANGE,
        )
    return np.asarray(rows)


def _checked(values: Tensor, field: RowField, key: str) -> NDArray[np.generic]:
    """Ids that the field has, or finite numbers."""
    array: NDArray[Any] = values.numpy()
    if field.kind == "number":
        fits, wanted = bool(np.isfinite(array).all()), "finite numbers"
    else:
        fits = not array.size or (array.min() >= PADDING and array.max() < field.size)
        wanted = f"ids below {field.size:,}"
    if not fits:
        raise BundleError(f"{wanted} in {key} of {RANKER_INPUT_TENSORS}", "others", STRANGE)
    return array
