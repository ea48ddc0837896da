"""The commands that make and look at datasets and features: verbs to functions, no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmrec.cli.common import DataPath, Json, named, show
from mmrec.cli.rows import data_rows

data_app = typer.Typer(
    help="Get, import, split and look at datasets.", no_args_is_help=True, rich_markup_mode=None
)


data_app.command(
    "rows",
    epilog="Example: mmrec data rows datasets/shop --label 'rating>=4' --history 64 --to datasets/shop-rows",
)(data_rows)


@data_app.command("get", epilog="Example: mmrec data get movielens-100k --to datasets/movielens-100k")
def data_get(
    name: Annotated[
        str | None, typer.Argument(help="Name of a recipe; without it, the recipes are listed.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Dataset folder; datasets/NAME if not given.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="key=value of the recipe, e.g. category=Baby.")
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option(help="Accept the licence shown without being asked.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Download a public dataset, check it, unpack it and import it."""
    from mmrec.data.recipes import get, list_recipes

    if name is None:
        recipes = list_recipes()
        show(recipes, "\n".join(f"{r['name']:<18} {r['title']}" for r in recipes), as_json=as_json)
        return
    pairs = named(option)
    dataset = get(name, to, accept_licence=accept_licence, options=pairs)
    show({"dataset": str(dataset.path)}, repr(dataset), as_json=as_json)


@data_app.command(
    "import",
    epilog="Example: mmrec data import shop/interactions.csv --items shop/items.csv --images shop/pictures --to datasets/shop",
)
def data_import(
    source: Annotated[Path, typer.Argument(help="Folder or table with the interactions.")],
    to: Annotated[Path, typer.Option(help="New dataset folder.")],
    format: Annotated[
        str,
        typer.Option(
            help="auto, or one of recbole, mmrec, json, movielens, amazon, microlens, mmctr, tables, s3rec."
        ),
    ] = "auto",
    items: Annotated[
        Path | None, typer.Option(help="Table of items: CSV, TSV, JSON lines or Parquet.")
    ] = None,
    users: Annotated[Path | None, typer.Option(help="Table of users.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of pictures named ITEM_ID.jpg (png, webp, …).")
    ] = None,
    link_images: Annotated[bool, typer.Option(help="Leave the pictures where they are.")] = False,
    split_file: Annotated[
        Path | None, typer.Option(help="Table user_id, item_id, x_label with a published split.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="own=canonical column name, e.g. asin=item_id.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="column=kind where the guess is wrong: id, text, tokens, number or time. Repeatable."
        ),
    ] = None,
    k_core: Annotated[
        int, typer.Option(min=0, help="Keep users and items with at least this many interactions.")
    ] = 0,
    k_core_users: Annotated[int | None, typer.Option(min=0, help="Another minimum for users.")] = None,
    k_core_items: Annotated[int | None, typer.Option(min=0, help="Another minimum for items.")] = None,
    keep_cold_items: Annotated[
        bool, typer.Option("--keep-cold-items", help="Keep items outside the k-core, without interactions.")
    ] = False,
    min_rating: Annotated[float | None, typer.Option(help="Drop interactions rated lower.")] = None,
    duplicates: Annotated[
        Literal["first", "last", "error"], typer.Option(help="Row to keep of a repeated user and item.")
    ] = "first",
    unknown_items: Annotated[
        Literal["error", "drop", "add"], typer.Option(help="What to do with items not in the item table.")
    ] = "error",
    name: Annotated[str | None, typer.Option(help="Name of the dataset; the folder's if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Turn tables and pictures into a dataset folder."""
    from mmrec.data.importers import import_dataset

    dataset = import_dataset(
        source,
        to,
        format=format,
        name=name,
        items=items,
        users=users,
        images=images,
        link_images=link_images,
        split_file=split_file,
        columns=named(column),
        kinds=named(kind),
        k_core=k_core,
        k_core_users=k_core_users,
        k_core_items=k_core_items,
        keep_cold_items=keep_cold_items,
        min_rating=min_rating,
        duplicates=duplicates,
        unknown_items=unknown_items,
    )
    counts = {"users": dataset.n_users, "items": dataset.n_items, "interactions": dataset.n_interactions}
    show({"dataset": str(dataset.path), **counts}, repr(dataset), as_json=as_json)


@data_app.command(
    "split", epilog="Example: mmrec data split datasets/shop --protocol leave-one-out --name loo"
)
def data_split(
    data: DataPath,
    protocol: Annotated[
        Literal["given", "random", "random-rows", "leave-one-out", "temporal", "cold-item"],
        typer.Option(help="What is held out: see mmrec/data/split.py."),
    ] = "random",
    name: Annotated[str, typer.Option(help="Name of the split.")] = "default",
    seed: Annotated[int, typer.Option(help="Seed of shuffles and draws.")] = 0,
    valid: Annotated[
        float, typer.Option(help="Share for validation (random-rows, temporal, cold-item).")
    ] = 0.1,
    test: Annotated[float, typer.Option(help="Share for test (random-rows, temporal, cold-item).")] = 0.1,
    ties: Annotated[
        Literal["shuffle", "file"], typer.Option(help="Order of equal timestamps (leave-one-out).")
    ] = "shuffle",
    cold_items: Annotated[
        float, typer.Option(help="Share of items withheld from training on top (random).")
    ] = 0.0,
    unknown_users: Annotated[
        Literal["leave-out", "keep"],
        typer.Option(help="Users without training interactions (temporal, random-rows)."),
    ] = "leave-out",
    overwrite: Annotated[bool, typer.Option(help="Replace a split of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Split the interactions into training, validation and test."""
    from mmrec.data.dataset import Dataset
    from mmrec.data.split import split

    result = split(
        Dataset(data),
        protocol,
        name=name,
        seed=seed,
        valid=valid,
        test=test,
        ties=ties,
        cold_items=cold_items,
        unknown_users=unknown_users,
        overwrite=overwrite,
    )
    counts = result.manifest["counts"]
    show(
        {"split": name, **counts},
        f"split {name}: " + ", ".join(f"{key} {value:,}" for key, value in counts.items()),
        as_json=as_json,
    )


@data_app.command("show", epilog="Example: mmrec data show datasets/shop")
def data_show(data: DataPath, as_json: Json = False) -> None:
    """Print counts, sparsity, histograms, modalities and the leakage report of each split."""
    from mmrec.data.dataset import Dataset
    from mmrec.data.show import describe, render

    document = describe(Dataset(data))
    show(document, render(document), as_json=as_json)


def encode(
    data: DataPath,
    modality: Annotated[
        str, typer.Option(help="text, image or joint (one vector of both); with --from any name.")
    ] = "text",
    encoder: Annotated[
        str | None,
        typer.Option(
            help="tfidf, words, histogram, a model folder or hub name; tfidf or histogram if not given."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the features; MODALITY-ENCODER if not given.")
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Features made elsewhere: a .npy file, one row per item.")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(help="With --from: item id of each row, a .txt, .json or .npy file.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="With --from: which rows are present, a boolean .npy file.")
    ] = None,
    fuse: Annotated[
        list[str] | None,
        typer.Option(help="Features to fuse to new ones called --name. Repeatable, two or more."),
    ] = None,
    method: Annotated[
        Literal["concat", "sum", "pca", "cca", "bezier"], typer.Option(help="With --fuse: how.")
    ] = "concat",
    field: Annotated[
        list[str] | None,
        typer.Option(help="Text column to read, in this order. Repeatable; all text columns if not given."),
    ] = None,
    pooling: Annotated[
        Literal["mean", "cls", "last"], typer.Option(help="How a text's tokens become one vector.")
    ] = "mean",
    prompt: Annotated[str, typer.Option(help="Instruction put before each text.")] = "",
    normalize: Annotated[bool, typer.Option(help="Scale vectors to length 1.")] = True,
    max_length: Annotated[int, typer.Option(min=1, help="Longest text in tokens.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Items per forward pass.")] = 64,
    dtype: Annotated[Literal["float32", "float16"], typer.Option(help="On disk.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; the best there is if not given.")] = None,
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], typer.Option(help="Of the model's arithmetic.")
    ] = "auto",
    dim: Annotated[
        int | None, typer.Option(min=1, help="Width of tfidf vectors (128), number of words (2000).")
    ] = None,
    shard_rows: Annotated[int, typer.Option(min=1, help="Items per shard: what a kill can cost.")] = 1024,
    overwrite: Annotated[bool, typer.Option(help="Replace features of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Turn texts or pictures into item features; an interrupted call goes on where it stopped."""
    from mmrec.encode.external import import_features
    from mmrec.encode.runner import encode as run_encoder

    if fuse:
        from mmrec.encode.fusion import fuse as fuse_features

        table = fuse_features(data, fuse, method, name=name or f"fused-{method}", overwrite=overwrite)
    elif source is not None:
        table = import_features(
            data,
            source,
            name=name or source.stem,
            modality=modality,
            ids=ids,
            mask=mask,
            overwrite=overwrite,
        )
    else:
        table = run_encoder(
            data,
            modality=modality,
            encoder=encoder or ("histogram" if modality == "image" else "tfidf"),
            name=name,
            fields=field,
            pooling=pooling,
            prompt=prompt,
            normalize=normalize,
            max_length=max_length,
            batch_size=batch_size,
            dtype=dtype,
            device=device,
            precision=precision,
            dim=dim,
            shard_rows=shard_rows,
            overwrite=overwrite,
        )
    document = {
        "features": table.name,
        "modality": table.modality,
        "dim": table.dim,
        "present": int(table.present.sum()),
    }
    text = f"features {table.name}: {len(table.present):,} items x {table.dim}, {document['present']:,} with {table.modality}"
    show(document, text, as_json=as_json)
