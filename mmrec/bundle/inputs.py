"""What a model class is built from, beside its config: sizes, training items, features and codes, kept in the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


class _Inputs(_Frozen):
    features: list[_Features]
    codes: list[_Codes]


def write_seen(folder: Path, seen: Histories) -> None:
    """Write the items of each user as ``offsets (n_users + 1,)`` and ``items (n,)``."""
    import safetensors.numpy

    arrays: dict[str, NDArray[Any]] = {"offsets": seen.offsets, "items": seen.items.astype(np.int32)}
    write_bytes(folder / SEEN, safetensors.numpy.save(arrays))


def parse_seen(content: bytes, n_users: int, n_items: int, n_pairs: int) -> Histories:
    """Read what :func:`write_seen` wrote.

    Raises:
        BundleError: Not the items of so many users, or items that there are not.
    """
    tensors = parse_tensors(content, SEEN)
    offsets = take(tensors, "offsets", "int64", (n_users + 1,), SEEN).numpy()
    items = take(tensors, "items", "int32", (n_pairs,), SEEN).numpy().astype(np.int64)
    check_rows(offsets, items, n_items, SEEN)
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

    arrays: dict[str, NDArray[Any]] = {}
    document: dict[str, list[Any]] = {"features": [], "codes": []}  # in the order in which models sum them up
    for modality, table in data.features.items():
        arrays[f"features/{modality}/vectors"] = np.ascontiguousarray(table.vectors)
        arrays[f"features/{modality}/present"] = np.ascontiguousarray(table.present)
        entry = {"name": table.name, "dim": table.dim, "vocabulary": table.vocabulary}
        document["features"].append({"modality": modality, **entry})
    for source, codes in data.codes.items():
        kept = _kept_arrays(codes)
        arrays[f"codes/{source}/codes"] = np.ascontiguousarray(codes.codes)
        arrays |= {f"codes/{source}/{name}": array for name, array in kept.items()}
        entry = {"name": codes.name, "sizes": list(codes.sizes), "arrays": sorted(kept)}
        document["codes"].append({"source": source, **entry})
    write_json(folder / INPUTS, document)
    write_bytes(folder / INPUT_TENSORS, safetensors.numpy.save(arrays))


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
    try:
        inputs = _Inputs.model_validate(parse_json(document, INPUTS))
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise BundleError(f"features and codes in {INPUTS}", reason, AGAIN) from None
    found = parse_tensors(tensors, INPUT_TENSORS)
    try:
        codes = {entry.source: _codes(found, entry, n_items) for entry in inputs.codes}
    except FeatureError as error:
        raise BundleError(error.expected, error.found, AGAIN) from None
    features = {entry.modality: _features(found, entry, n_items) for entry in inputs.features}
    return TrainingData(seen.n_users, n_items, seen, features, codes=codes)


def _features(found: Mapping[str, Any], entry: _Features, n_items: int) -> FeatureTable:
    name = f"features/{entry.modality}/vectors"
    dtype = str(found[name].dtype).removeprefix("torch.") if name in found else FLOATS[0]
    if dtype not in FLOATS:
        raise BundleError(f"{name} of floating point numbers in {INPUT_TENSORS}", dtype, AGAIN)
    vectors = take(found, name, dtype, (n_items, entry.dim), INPUT_TENSORS)
    present = take(found, f"features/{entry.modality}/present", "bool", (n_items,), INPUT_TENSORS)
    if entry.vocabulary is not None and len(entry.vocabulary) != entry.dim:
        raise BundleError(
            f"a word for each of {entry.dim:,} columns in {INPUTS}", f"{len(entry.vocabulary):,}", AGAIN
        )
    manifest = {} if entry.vocabulary is None else {"vocabulary": entry.vocabulary}
    return FeatureTable(entry.name, entry.modality, vectors.numpy(), present.numpy(), manifest)


def _codes(found: Mapping[str, Any], entry: _Codes, n_items: int) -> CodeTable:
    codes = take(found, f"codes/{entry.source}/codes", "int32", (n_items, len(entry.sizes)), INPUT_TENSORS)
    arrays = {}
    for name in entry.arrays:
        key = f"codes/{entry.source}/{name}"
        if key not in found:
            raise BundleError(f"{key} in {INPUT_TENSORS}", "none", AGAIN)
        arrays[name] = found[key].numpy()
    return CodeTable(entry.name, codes.numpy(), tuple(entry.sizes), arrays=arrays)
