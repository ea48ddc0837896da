"""The command that makes rows for click models: verbs to functions, no logic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mmrec.cli.common import Json, named, show

if TYPE_CHECKING:
    from mmrec.data.rows.dataset import RowDataset


def data_rows(
    source: Annotated[Path, typer.Argument(help="Dataset folder, table, or folder of tables.")],
    to: Annotated[Path | None, typer.Option(help="New folder of rows.")] = None,
    format: Annotated[
        str, typer.Option(help="auto, or one of dataset, tables, libfm, criteo, mmctr.")
    ] = "auto",
    schema: Annotated[Path | None, typer.Option(help="YAML: what the columns are (tables).")] = None,
    infer: Annotated[
        bool, typer.Option("--infer", help="Only print the schema, to be corrected and given with --schema.")
    ] = False,
    valid: Annotated[Path | None, typer.Option(help="Validation rows.")] = None,
    test: Annotated[Path | None, typer.Option(help="Test rows.")] = None,
    items: Annotated[Path | None, typer.Option(help="Table of the items (tables).")] = None,
    embedding: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FILE.npy, a row for each row of the table of items. Repeatable."),
    ] = None,
    missing_embeddings: Annotated[
        Literal["error", "zero"], typer.Option(help="What to do with items without a vector.")
    ] = "error",
    label: Annotated[
        str | None, typer.Option(help="Column of 0 and 1, or what is positive, e.g. 'rating>=4'.")
    ] = None,
    item: Annotated[str | None, typer.Option(help="Column of the item's id (tables, libfm).")] = None,
    group: Annotated[
        str | None, typer.Option(help="Column that rows are grouped by (tables, libfm).")
    ] = None,
    fields: Annotated[
        str | None, typer.Option(help="Names by position, e.g. user,item,hour (libfm).")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the dataset (dataset).")] = None,
    split_column: Annotated[str | None, typer.Option(help="Column with train, valid, test (tables).")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of times to cut by (tables).")] = None,
    valid_share: Annotated[float | None, typer.Option(help="Share of the rows for validation.")] = None,
    test_share: Annotated[float | None, typer.Option(help="Share of the rows for test (tables).")] = None,
    negatives: Annotated[
        int | None, typer.Option(help="Items drawn for each interaction, in place of --label (dataset).")
    ] = None,
    history: Annotated[int | None, typer.Option(min=0, help="Most items of a history (dataset).")] = None,
    history_of: Annotated[
        Literal["positives", "all"] | None, typer.Option(help="What is in a history (dataset).")
    ] = None,
    user_field: Annotated[
        list[str] | None, typer.Option(help="Attribute of users (dataset). Repeatable; all if not given.")
    ] = None,
    item_field: Annotated[
        list[str] | None, typer.Option(help="Attribute of items (dataset). Repeatable; all if not given.")
    ] = None,
    min_count: Annotated[
        int | None, typer.Option(min=1, help="Training rows that a value needs for an id.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of all draws.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the rows; the source's if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Encode rows for click models: vocabularies of the training rows, then all parts."""
    from mmrec.data.rows.build import build
    from mmrec.data.rows.formats import read_rows
    from mmrec.errors import ConfigError

    if to is None and not infer:
        raise ConfigError("a folder for the rows", "no --to", f"mmrec data rows {source} --to DIR")
    raw = read_rows(
        source,
        format,
        schema=schema,
        valid=valid,
        test=test,
        items=items,
        embeddings=named(embedding) or None,
        label=label,
        item=item,
        group=group,
        fields=fields.split(",") if fields else None,
        split=split,
        split_column=split_column,
        time_column=time_column,
        valid_share=valid_share,
        test_share=test_share,
        negatives=negatives,
        history=history,
        history_of=history_of,
        user_fields=user_field,
        item_fields=item_field,
        min_count=min_count,
        seed=seed,
        name=name,
    )
    if to is None or infer:
        import yaml

        document = raw.schema.document()
        show(document, yaml.safe_dump(document, sort_keys=False, allow_unicode=True), as_json=as_json)
        return
    rows = build(raw, to, missing_embeddings=missing_embeddings)
    show(_document(rows), _render(rows), as_json=as_json)


def _document(rows: RowDataset) -> dict[str, Any]:
    return {
        "dataset": str(rows.path),
        "rows": {part: entry["rows"] for part, entry in rows.manifest["parts"].items()},
        "fields": {field.name: {"kind": field.kind, "size": field.size} for field in rows.fields},
    }


def _render(rows: RowDataset) -> str:
    """Counts, share of positives, and what the validation rows lack."""
    lines = [f"{rows.path}:"]
    for part, entry in rows.manifest["parts"].items():
        share = entry["positives"] / entry["rows"]
        lines.append(f"  {part:<6}{entry['rows']:>12,} rows, {share:.1%} positive")
    lacking = rows.manifest["parts"]["valid"]["fields"]
    sizes: dict[str, tuple[str, str]] = {
        field.name: (field.kind, f"{field.size:,}" if field.size else "") for field in rows.fields
    }
    sizes |= {one.name: ("history", f"<= {one.length:,}") for one in rows.histories}
    width = max(map(len, ["field", *sizes]))
    lines.append(f"  {'field':<{width}}  {'kind':<9}{'size':>11}  valid: missing  unknown")
    for name, (kind, size) in sizes.items():
        shares = lacking.get(name)
        text = f"{shares['missing']:>14.1%}{shares['unknown']:>9.1%}" if shares else ""
        lines.append(f"  {name:<{width}}  {kind:<9}{size:>11}  {text}")
    for field in rows.encoder.item_fields:
        lines.append(f"  items: {field.name} ({field.kind}{f', {field.size:,}' if field.size else ''})")
    return "\n".join(lines)
