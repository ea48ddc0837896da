"""The commands that take models out: verbs to functions, no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmrec.cli.common import Json, MovedData, RunPath, show


def export(
    run: RunPath,
    to: Annotated[Path, typer.Option("--to", help="The new folder.")],
    ranker: Annotated[
        Path | None, typer.Option(help="Run of a ranker that goes along, to order anew what this one finds.")
    ] = None,
    format: Annotated[
        Literal["bundle", "parquet", "npy", "lance"],
        typer.Option(help="A bundle, or vectors and ids alone."),
    ] = "bundle",
    images: Annotated[
        Literal["copy", "link", "none"],
        typer.Option(help="Pictures in the bundle: copied, hard-linked, or their names alone."),
    ] = "none",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle.")] = False,
    data: MovedData = None,
    as_json: Json = False,
) -> None:
    """Write a run as one folder that needs neither run nor dataset."""
    from mmrec.bundle.export import export as run_export
    from mmrec.bundle.export import summary

    folder = run_export(run, to, ranker=ranker, format=format, images=images, data=data, overwrite=overwrite)
    document = summary(folder)
    text = f"{folder}: {document['kind']} of {document['model']}, {document['bytes']:,} bytes"
    show(document, text, as_json=as_json)
