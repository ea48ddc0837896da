"""What a model class is built from, beside its config: sizes, training items, features and codes, kept in the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mmrec.bundle.manifest import INPUT_TENSORS, INPUTS, SEEN
from mmrec.bundle.reading import AGAIN, STRANGE, parse_json, parse_tensors, take
from mmrec.codes.table import CodeTable
from mmrec.data.dataset import TrainingData
from mmrec.data.histories import Histories
from mmrec.encode.features import FeatureTable
from mmrec.errors import BundleError, FeatureError
from mmrec.files import write_bytes, write_json

FLOATS = ("float16", "float32", "float64")
Document = TypeVar("Document", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Features(_Frozen):
    modality: str
    name: str
    dim: int = Field(ge=1)
    vocabulary: list[str] | None


class _Codes(_Frozen):
    source: str
    name: str
    sizes: list[int] = Field(min_length=1)
    arrays: list[str]


class Tables(_Frozen):
    """Features and codes, whose numbers lie in a file of tensors."""

    features: list[_Features]
    codes: list[_Codes]


def write_seen(folder: Path, seen: Histories, name: str = SEEN) -> None:
    """Write the items of each user as ``offsets (n_users + 1,)`` and ``items (n,)``."""
    import safetensors.numpy

    arrays: dict[str, NDArray[Any]] = {"offsets": seen.offsets, "items": seen.items.astype(np.int32)}
    write_bytes(folder / name, safetensors.numpy.save(arrays))


def parse_seen(content: bytes, n_users: int, n_items: int, n_pairs: int = -1, where: str = SEEN) -> Histories:
    """Read what :func:`write_seen` wrote; -1 stands for any number of pairs.

    Raises:
        BundleError: Not the items of so many users, or items that there are not.
    """
    tensors = parse_tensors(content, where)
    offsets = take(tensors, "offsets", "int64", (n_users + 1,), where).numpy()
    items = take(tensors, "items", "int32", (n_pairs,), where).numpy().astype(np.int64)
    check_rows(offsets, items, n_items, where)
    return Histories(offsets, items)


def check_rows(offsets: NDArray[Any], columns: NDArray[Any], n_columns: int, where: str) -> None:
    """Check compressed rows: code that reads them does not look whether they lead out of its memory.

    Raises:
        BundleError: They do.
    """
    rising = len(offsets) > 0 and offsets[0] == 0 and (np.diff(offsets) >= 0).all()
    inside = not len(columns) or (columns.min() >= 0 and columns.max() < n_columns)
    if not rising or offsets[-1] != len(columns) or not inside:
        raise BundleError(
            f"rows of numbers below {n_columns:,} in {where}", "rows that lead elsewhere", STRANGE
        )


def write_inputs(folder: Path, data: TrainingData) -> None:
    """Write the features and codes of the training data; the rest of it is what users have seen."""
    import safetensors.numpy

    document, arrays = describe_tables(data.features, data.codes)
    write_json(folder / INPUTS, document)
    write_bytes(folder / INPUT_TENSORS, safetensors.numpy.save(arrays))


def describe_tables(
    features: Mapping[str, FeatureTable], codes: Mapping[str, CodeTable]
) -> tuple[dict[str, list[Any]], dict[str, NDArray[Any]]]:
    """What :func:`parse_tables` reads: a document and named arrays."""
    arrays: dict[str, NDArray[Any]] = {}
    document: dict[str, list[Any]] = {"features": [], "codes": []}  # in the order in which models sum them up
    for modality, table in features.items():
        arrays[f"features/{modality}/vectors"] = np.ascontiguousarray(table.vectors)
        arrays[f"features/{modality}/present"] = np.ascontiguousarray(table.present)
        entry = {"name": table.name, "dim": table.dim, "vocabulary": table.vocabulary}
        document["features"].append({"modality": modality, **entry})
    for source, own in codes.items():
        kept = _kept_arrays(own)
        arrays[f"codes/{source}/codes"] = np.ascontiguousarray(own.codes)
        arrays |= {f"codes/{source}/{name}": array for name, array in kept.items()}
        entry = {"name": own.name, "sizes": list(own.sizes), "arrays": sorted(kept)}
        document["codes"].append({"source": source, **entry})
    return document, arrays


def _kept_arrays(table: CodeTable) -> dict[str, NDArray[Any]]:
    """What the tokeniser kept besides the codes."""
    files = [name.removesuffix(".npy") for name in table.manifest.get("files", {}) if name.endswith(".npy")]
    kept = {name: table.array(name) for name in {*files, *table.arrays} - {"codes"}}
    return {name: np.ascontiguousarray(array) for name, array in kept.items() if array is not None}


def parse_inputs(document: bytes, tensors: bytes, seen: Histories, n_items: int) -> TrainingData:
    """The training data as far as a model that is not trained any more needs it.

    Args:
        document: model/inputs.json.
        tensors: model/inputs.safetensors.
        seen: The training items of each user, as the model reads them.
        n_items: Size of the catalogue.

    Raises:
        BundleError: Damaged, or not of this catalogue.
    """
    inputs = parse_document(Tables, document, INPUTS, "features and codes")
    features, codes = parse_tables(inputs, parse_tensors(tensors, INPUT_TENSORS), n_items, INPUT_TENSORS)
    return TrainingData(seen.n_users, n_items, seen, features, codes=codes)


def parse_document(kind: type[Document], content: bytes, where: str, what: str) -> Document:
    """JSON of a known form.

    Raises:
        BundleError: Of another one.
    """
    try:
        return kind.model_validate(parse_json(content, where))
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise BundleError(f"{what} in {where}", reason, AGAIN) from None


def parse_tables(
    tables: Tables, found: Mapping[str, Any], n_items: int, where: str
) -> tuple[dict[str, FeatureTable], dict[str, CodeTable]]:
    """Features and codes of a catalogue.

    Args:
        tables: What they are.
        found: The tensors by name.
        n_items: Size of the catalogue.
        where: The file of the tensors.

    Raises:
        BundleError: Not of this catalogue.
    """
    try:
        codes = {entry.source: _codes(found, entry, n_items, where) for entry in tables.codes}
    except FeatureError as error:
        raise BundleError(error.expected, error.found, AGAIN) from None
    return {entry.modality: _features(found, entry, n_items, where) for entry in tables.features}, codes


def _features(found: Mapping[str, Any], entry: _Features, n_items: int, where: str) -> FeatureTable:
    name = f"features/{entry.modality}/vectors"
    dtype = str(found[name].dtype).removeprefix("torch.") if name in found else FLOATS[0]
    if dtype not in FLOATS:
        raise BundleError(f"{name} of floating point numbers in {where}", dtype, AGAIN)
    vectors = take(found, name, dtype, (n_items, entry.dim), where)
    present = take(found, f"features/{entry.modality}/present", "bool", (n_items,), where)
    if entry.vocabulary is not None and len(entry.vocabulary) != entry.dim:
        raise BundleError(
            f"a word for each of {entry.dim:,} columns of {name}", f"{len(entry.vocabulary):,}", AGAIN
        )
    manifest = {} if entry.vocabulary is None else {"vocabulary": entry.vocabulary}
    return FeatureTable(entry.name, entry.modality, vectors.numpy(), present.numpy(), manifest)


def _codes(found: Mapping[str, Any], entry: _Codes, n_items: int, where: str) -> CodeTable:
    codes = take(found, f"codes/{entry.source}/codes", "int32", (n_items, len(entry.sizes)), where)
    arrays = {}
    for name in entry.arrays:
        key = f"codes/{entry.source}/{name}"
        if key not in found:
            raise BundleError(f"{key} in {where}", "none", AGAIN)
        arrays[name] = found[key].numpy()
    return CodeTable(entry.name, codes.numpy(), tuple(entry.sizes), arrays=arrays)
