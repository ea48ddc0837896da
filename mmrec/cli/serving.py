"""The commands that take models out: verbs to functions, no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmrec.cli.common import Json, MovedData, RunPath, key_value, show

items_app = typer.Typer(help="Change the items of a bundle.", no_args_is_help=True, rich_markup_mode=None)


def export(
    run: RunPath,
    to: Annotated[Path, typer.Option("--to", help="The new folder.")],
    ranker: Annotated[
        Path | None, typer.Option(help="A second run that goes along, to order anew what this one finds.")
    ] = None,
    format: Annotated[
        Literal["bundle", "parquet", "npy", "lance"],
        typer.Option(help="A bundle, or vectors and ids alone."),
    ] = "bundle",
    images: Annotated[
        Literal["copy", "link", "none"],
        typer.Option(help="Pictures in the bundle: copied, hard-linked, or their names alone."),
    ] = "none",
    with_features: Annotated[
        bool, typer.Option("--with-features", help="Keep what items that are added later need.")
    ] = False,
    features: Annotated[
        list[str] | None,
        typer.Option(help="modality=name: features for a model that reads none. Repeatable."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle.")] = False,
    data: MovedData = None,
    as_json: Json = False,
) -> None:
    """Write a run as one folder that needs neither run nor dataset."""
    from mmrec.bundle.export import export as run_export
    from mmrec.bundle.export import summary

    kept = dict(key_value(text) for text in features) if features else with_features
    folder = run_export(
        run, to, ranker=ranker, format=format, images=images, data=data, features=kept, overwrite=overwrite
    )
    document = summary(folder)
    text = f"{folder}: {document['kind']} of {document['model']}, {document['bytes']:,} bytes"
    show(document, text, as_json=as_json)


@items_app.command(
    epilog="Example: mmrec items add shop-bundle new.csv --images pictures --encoder text=models/minilm"
)
def add(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, exported --with-features.")],
    table: Annotated[Path, typer.Argument(help="New items: .csv, .tsv, .jsonl or .parquet, with item_id.")],
    images: Annotated[Path | None, typer.Option(help="Folder of their pictures.")] = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="modality=NAME_OR_FOLDER: where an encoder is. Repeatable.")
    ] = None,
    method: Annotated[
        Literal["auto", "model", "neighbours"], typer.Option(help="What makes the vectors.")
    ] = "auto",
    to: Annotated[
        Path | None, typer.Option("--to", help="A new bundle, in place of changing this one.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Items may be there already.")] = False,
    drop_unknown: Annotated[
        bool, typer.Option("--drop-unknown", help="Leave out columns that the catalogue lacks.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add items to a bundle without training anything."""
    from mmrec.bundle.items import add_items

    document = add_items(
        bundle,
        table,
        images=images,
        encoders=dict(key_value(text) for text in encoder or []),
        method=method,
        to=to,
        replace=replace,
        drop_unknown=drop_unknown,
    )
    text = (
        f"{document['bundle']}: {document['added']:,} items added, {document['replaced']:,} replaced, "
        f"{document['items']:,} in all; {document['how']}"
    )
    show(document, text, as_json=as_json)
