"""A tokeniser on disk: all that gives codes to items that are not there yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmrec.codes.collisions import Collisions, resolve_new
from mmrec.codes.quantiser import Codes, Quantiser, Rows
from mmrec.codes.table import CodeTable
from mmrec.codes.views import Views
from mmrec.errors import FeatureError
from mmrec.files import read_json, sha256_file, write_json
from mmrec.registry import load_class
from mmrec.runs import load_tensors, save_tensors

KINDS = {
    "residual": "mmrec.codes.residual:ResidualQuantiser",
    "rqvae": "mmrec.codes.rqvae:RQVAE",
    "product": "mmrec.codes.product:ProductQuantiser",
    "graph": "mmrec.codes.graph:GraphEncoder",
    "pictures": "mmrec.codes.pictures:PictureEncoder",
}
TENSORS, METADATA = "quantiser.safetensors", "quantiser.json"


@dataclass(frozen=True, eq=False)
class Tokeniser:
    """How the inputs of an item become codes.

    Attributes:
        quantiser: Vectors to codes.
        views: Joins tables of vectors to one; None where the inputs are pictures.
        front: Makes what is quantised of these inputs; None: they are quantised as they are.
    """

    quantiser: Quantiser
    views: Views | None
    front: Any

    def embed(self, inputs: Rows | Mapping[str, Rows]) -> Rows:
        """What is quantised ``(n, d)`` of the inputs of new items.

        Raises:
            FeatureError: Inputs of another kind or shape.
        """
        if self.views is not None:
            inputs = self.views.join_new(inputs)
        elif isinstance(inputs, Mapping):
            raise FeatureError("pictures (n, 3, s, s)", "vectors by name", "give an array of pictures")
        vectors: Rows = np.asarray(inputs) if self.front is None else self.front.embed(inputs)
        return vectors

    def extend(
        self, inputs: Rows | Mapping[str, Rows], method: Collisions, taken: Codes, sizes: tuple[int, ...]
    ) -> Codes:
        """Codes ``(m, levels)`` of new items, different from one another and from those ``taken``.

        Args:
            inputs: As in :func:`extend`.
            method: How the table's collisions were resolved.
            taken: ``(n, levels)`` codes of the table.
            sizes: Of its levels.

        Raises:
            FeatureError: Inputs of another kind, or no free codes for an item.
        """
        vectors = self.embed(inputs)
        codes = self.quantiser.encode(vectors)
        return resolve_new(
            method,
            codes,
            taken,
            sizes,
            lambda rows: self.quantiser.last_costs(vectors[rows], codes[rows]),
        )

    def save(self, folder: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        """Write into a folder; the files' hashes by name, for the manifest."""
        tensors: dict[str, torch.Tensor] = {}
        document: dict[str, Any] = {"settings": dict(settings)}
        for part in ("quantiser", "views", "front"):
            made = getattr(self, part)
            if made is not None:
                state, metadata = made.state()
                tensors |= {f"{part}/{name}": tensor for name, tensor in state.items()}
                document[part] = {"kind": getattr(made, "kind", part), **metadata}
        save_tensors(folder / TENSORS, tensors, {})
        write_json(folder / METADATA, document)
        return {name: {"sha256": sha256_file(folder / name)} for name in (TENSORS, METADATA)}

    @classmethod
    def open(cls, folder: Path) -> Tokeniser:
        """Read what :meth:`save` wrote, beside the manifest of its code table.

        Raises:
            FeatureError: Missing or changed files.
        """
        for name, recorded in read_json(folder / "manifest.json")["files"].items():
            if not (folder / name).is_file() or sha256_file(folder / name) != recorded["sha256"]:
                raise FeatureError(
                    f"{name} in {folder} as it was written", "none, or another file", "tokenize again"
                )
        tensors, _ = load_tensors(folder / TENSORS, checked=True)
        document = read_json(folder / METADATA)
        made: dict[str, Any] = {"views": None, "front": None}
        for part in ("quantiser", "views", "front"):
            if part in document:
                prefix = f"{part}/"
                own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
                kind = Views if part == "views" else load_class(KINDS[document[part]["kind"]])
                made[part] = kind.restore(own, document[part])
        return cls(**made)


def extend(folder: str | Path, inputs: Rows | Mapping[str, Rows]) -> Codes:
    """Codes of new items by the quantiser of a code table, without training anything.

    Args:
        folder: ``DATASET/codes/NAME``.
        inputs: What the table was made from: vectors ``(n, d)``, several by name, or pictures ``(n, 3, s, s)``.
            A row of zeros is an item without that content.

    Returns:
        ``(n, levels)``, different from one another and from all of the table's; the table does not change.

    Raises:
        FeatureError: Damaged files, inputs of another kind, or no free codes for an item.
    """
    folder = Path(folder)
    tokeniser = Tokeniser.open(folder)
    manifest = read_json(folder / "manifest.json")
    table = CodeTable.open(folder, n_items=int(manifest["items"]))
    return tokeniser.extend(inputs, manifest["content"]["collisions"], table.codes, table.sizes)
