"""What gives semantic IDs to new items, kept in the bundle beside the codes of the known ones."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mmrec.bundle.manifest import check_name
from mmrec.bundle.reading import AGAIN, parse_json
from mmrec.codes.collisions import Collisions
from mmrec.codes.store import METADATA, TENSORS, Tokeniser
from mmrec.codes.table import CodeTable
from mmrec.errors import BundleError, FeatureError
from mmrec.files import write_bytes, write_json

MADE = "made.json"


class Made(BaseModel):
    """How codes were made.

    Attributes:
        features: Names of the feature tables that were tokenised; none where a run's vectors or pictures were.
        collisions: How colliding items are told apart.
        files: SHA-256 of the tokeniser's files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    features: list[str]
    collisions: Collisions
    files: dict[str, dict[str, str]]


def features_of(table: CodeTable) -> list[str]:
    """Names of the feature tables that codes were made from; none where more or something else was tokenised."""
    content = table.manifest.get("content", {})
    return [] if "run" in content and content.get("method") != "letter" else list(content.get("features", {}))


def write_tokeniser(folder: Path, source: str, table: CodeTable) -> None:
    """Copy the tokeniser of a code table; one without, such as a table in memory, leaves nothing."""
    if table.folder is None or not features_of(table):
        return
    files = table.manifest["files"]
    made = Made(
        features=features_of(table),
        collisions=table.manifest["content"]["collisions"],
        files={name: files[name] for name in (TENSORS, METADATA)},
    )
    place = folder / "codes" / check_name(source)
    for name in made.files:
        write_bytes(place / name, (table.folder / name).read_bytes())
    write_json(place / MADE, made.model_dump())


def read_tokeniser(read: Callable[[str], bytes], source: str) -> tuple[Tokeniser, Made]:
    """Read what :func:`write_tokeniser` wrote.

    Args:
        read: Gives the checked content of a file of the bundle.
        source: Of the codes.

    Raises:
        BundleError: It is damaged.
    """
    place = f"codes/{source}"
    try:
        made = Made.model_validate(parse_json(read(f"{place}/{MADE}"), MADE))
        with tempfile.TemporaryDirectory() as temporary:
            for name in (TENSORS, METADATA):
                (Path(temporary) / name).write_bytes(read(f"{place}/{name}"))
            write_json(Path(temporary) / "manifest.json", {"files": made.files})
            return Tokeniser.open(Path(temporary)), made
    except (ValidationError, FeatureError, KeyError, TypeError, ValueError) as error:
        raise BundleError(f"a tokeniser in {place}", f"{error}", AGAIN) from None
