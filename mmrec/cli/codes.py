"""The command that makes semantic IDs: verbs to functions, no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mmrec.cli.common import DataPath, Json, show


def tokenize(
    data: DataPath,
    features: Annotated[
        list[str] | None, typer.Option(help="Features to tokenise. Repeatable: several are joined.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="A trained run whose item vectors are tokenised too; letter aligns with them."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="residual-kmeans, rqvae, letter, pq, opq, graph-rqvae or rq-dino (pictures)."),
    ] = "residual-kmeans",
    levels: Annotated[
        int | None, typer.Option(min=1, help="Codes per item; as usual for the method if not given.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=2, help="Codes per level; as usual for the method if not given.")
    ] = None,
    collisions: Annotated[
        Literal["index", "popularity", "reassign"] | None,
        typer.Option(help="How items with the same codes are told apart; as usual for the method."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the codes; FEATURES-METHOD if not given.")] = None,
    split: Annotated[str, typer.Option(help="Split whose training items are learned from.")] = "default",
    seed: Annotated[int, typer.Option(help="Seed of all draws.")] = 0,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, a setting of the method. Repeatable.")
    ] = None,
    allow_collapse: Annotated[
        bool, typer.Option("--allow-collapse", help="Keep codes that have collapsed, with a warning.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace codes of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Turn item features into semantic IDs, and report how good they are."""
    from mmrec.codes.health import read_health
    from mmrec.codes.tokenize import tokenize as run_tokenizer

    table = run_tokenizer(
        data,
        features=features or [],
        run=run,
        method=method,
        levels=levels,
        size=size,
        collisions=collisions,
        name=name,
        split=split,
        seed=seed,
        options=override or [],
        allow_collapse=allow_collapse,
        overwrite=overwrite,
    )
    health = read_health(data / "codes" / table.name)
    document = {
        "codes": table.name,
        "items": table.n_items,
        "sizes": list(table.sizes),
        "hash": table.hash,
        "health": health.to_document(),
    }
    title = f"codes {table.name}: {table.n_items:,} items x {table.levels} codes of {', '.join(map(str, table.sizes))}"
    show(document, f"{title}\n{health.to_plain()}", as_json=as_json)
