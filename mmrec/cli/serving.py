"""The commands that take models out: verbs to functions, no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmrec.cli.common import Json, MovedData, RunPath, named, options, show

items_app = typer.Typer(help="Change the items of a bundle.", no_args_is_help=True, rich_markup_mode=None)


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
    index: Annotated[
        str | None,
        typer.Option(help="exact, faiss-hnsw, faiss-ivfpq, lancedb, qdrant, milvus; none: search is exact."),
    ] = None,
    index_option: Annotated[
        list[str] | None, typer.Option(help="key=value of the index. Repeatable.")
    ] = None,
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

    kept = named(features) or with_features
    folder = run_export(
        run,
        to,
        ranker=ranker,
        format=format,
        images=images,
        index=index,
        index_options=options(index_option),
        data=data,
        features=kept,
        overwrite=overwrite,
    )
    document = summary(folder)
    text = f"{folder}: {document['kind']} of {document['model']}, {document['bytes']:,} bytes"
    show(document, text, as_json=as_json)


def serve(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder, or a link to one.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
    keys: Annotated[
        Path | None, typer.Option(help="File with an API key on each line; or set MMREC_API_KEYS.")
    ] = None,
    encoder: Annotated[
        list[str] | None, typer.Option(help="modality=NAME_OR_PATH, to place new items. Repeatable.")
    ] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="name=value, for example k=100 or seconds=2. Repeatable.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Search exactly, whatever index is saved.")] = False,
    index_option: Annotated[
        list[str] | None, typer.Option(help="key=value over the saved index's. Repeatable.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Open the bundle anew when it changes.")] = False,
    trust_models: Annotated[
        bool, typer.Option("--trust-models", help="Load a model class of somebody else, which runs its code.")
    ] = False,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Least level to log.")
    ] = "info",
) -> None:
    """Serve a bundle over HTTP; SIGHUP opens it anew, SIGTERM ends it when all is answered."""
    from mmrec.serve.run import run

    run(
        bundle,
        host=host,
        port=port,
        keys=keys,
        encoders=named(encoder),
        limits=options(limit),
        exact=exact,
        index_options=options(index_option),
        watch=watch,
        trust_models=trust_models,
        log_level=log_level,
    )


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
    drop_ranker: Annotated[
        bool, typer.Option("--drop-ranker", help="Leave out the ranker, which does not know the new items.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add items to a bundle without training anything."""
    from mmrec.bundle.items import add_items

    document = add_items(
        bundle,
        table,
        images=images,
        encoders=named(encoder),
        method=method,
        to=to,
        replace=replace,
        drop_unknown=drop_unknown,
        drop_ranker=drop_ranker,
    )
    text = (
        f"{document['bundle']}: {document['added']:,} items added, {document['replaced']:,} replaced, "
        f"{document['items']:,} in all; {document['how']}"
    )
    show(document, text, as_json=as_json)
