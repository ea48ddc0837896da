"""The command line: verbs to functions, no logic."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from mmrec.errors import ConfigError, MMRecError

app = typer.Typer(
    name="mmrec",
    help="Recommender systems for items that have pictures and text.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
data_app = typer.Typer(
    help="Get, import, split and look at datasets.", no_args_is_help=True, rich_markup_mode=None
)
config_app = typer.Typer(help="Look at configs.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DataPath = Annotated[Path, typer.Argument(help="Dataset folder.")]
RunPath = Annotated[Path, typer.Argument(help="Run folder.")]
MovedData = Annotated[Path | None, typer.Option("--data", help="The dataset's folder, if it has moved.")]
Override = Annotated[
    list[str] | None, typer.Option("--set", help="key.subkey=value, over the config. Repeatable.")
]


def main() -> None:
    """Run the command line; exit 0 fine, 2 the input is wrong, 1 our fault, 130 interrupted."""
    try:
        app(standalone_mode=True)
    except MMRecError as error:
        print(f"mmrec: {type(error).__name__}\n{error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has closed it
        sys.stderr.close()
        sys.exit(0)
    except Exception:
        traceback.print_exc()
        print("mmrec: this is a fault of mmrec; please report the lines above", file=sys.stderr)
        sys.exit(1)


def show(document: Any, text: str, *, as_json: bool) -> None:
    """Print the JSON document or the text for people."""
    print(json.dumps(document, ensure_ascii=False, indent=1) if as_json else text.rstrip("\n"))


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
    pairs = dict(_key_value(text) for text in option or [])
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
        str, typer.Option(help="auto, recbole, mmrec, s3rec, movielens, json or tables.")
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
    k_core: Annotated[
        int, typer.Option(min=0, help="Keep users and items with at least this many interactions.")
    ] = 0,
    min_rating: Annotated[float | None, typer.Option(help="Drop interactions rated lower.")] = None,
    duplicates: Annotated[str, typer.Option(help="first, last or error.")] = "first",
    unknown_items: Annotated[
        str, typer.Option(help="Interactions with items not in the table: error, drop or add.")
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
        columns=dict(_key_value(text) for text in column or []),
        k_core=k_core,
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
        str, typer.Option(help="given, random, leave-one-out, temporal or cold-item.")
    ] = "random",
    name: Annotated[str, typer.Option(help="Name of the split.")] = "default",
    seed: Annotated[int, typer.Option(help="Seed of shuffles and draws.")] = 0,
    valid: Annotated[float, typer.Option(help="Share for validation (temporal, cold-item).")] = 0.1,
    test: Annotated[float, typer.Option(help="Share for test (temporal, cold-item).")] = 0.1,
    ties: Annotated[str, typer.Option(help="Equal timestamps: shuffle or file (leave-one-out).")] = "shuffle",
    cold_items: Annotated[
        float, typer.Option(help="Share of items withheld from training on top (random).")
    ] = 0.0,
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


@app.command(
    epilog="Example: mmrec encode datasets/shop --modality text --encoder sentence-transformers/all-MiniLM-L6-v2 --name text-minilm"
)
def encode(
    data: DataPath,
    modality: Annotated[str, typer.Option(help="text, image or joint.")] = "text",
    encoder: Annotated[
        str | None,
        typer.Option(help="tfidf, histogram, a model folder or hub name; the no-download one if not given."),
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
    field: Annotated[
        list[str] | None,
        typer.Option(help="Text column to read, in this order. Repeatable; all text columns if not given."),
    ] = None,
    pooling: Annotated[str, typer.Option(help="mean, cls or last (text).")] = "mean",
    prompt: Annotated[str, typer.Option(help="Instruction put before each text.")] = "",
    normalize: Annotated[bool, typer.Option(help="Scale vectors to length 1.")] = True,
    max_length: Annotated[int, typer.Option(min=1, help="Longest text in tokens.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Items per forward pass.")] = 64,
    dtype: Annotated[str, typer.Option(help="float32 or float16 on disk.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; the best there is if not given.")] = None,
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    dim: Annotated[int, typer.Option(min=1, help="Width of tfidf vectors.")] = 128,
    shard_rows: Annotated[int, typer.Option(min=1, help="Items per shard: what a kill can cost.")] = 1024,
    overwrite: Annotated[bool, typer.Option(help="Replace features of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Turn texts or pictures into item features; an interrupted call goes on where it stopped."""
    from mmrec.encode.external import import_features
    from mmrec.encode.runner import encode as run_encoder

    if source is not None:
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


@app.command(epilog="Example: mmrec train freedom --data datasets/shop --features text=text-tfidf --seed 1")
def train(
    config: Annotated[
        str, typer.Argument(help="A YAML file, a model name (with --data), or a run folder (with --resume).")
    ],
    data: Annotated[Path | None, typer.Option(help="Dataset folder, in place of the config's.")] = None,
    features: Annotated[
        list[str] | None, typer.Option(help="modality=name, in place of the config's. Repeatable.")
    ] = None,
    override: Override = None,
    seed: Annotated[int | None, typer.Option(help="In place of train.seed.")] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder; runs/DATASET/MODEL-HASH-seedN if not given.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved config and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Train a model; the validation split chooses the best epoch."""
    from mmrec.files import read_json
    from mmrec.train import resolve
    from mmrec.train import train as run_training

    named = dict(_key_value(text) for text in features) if features else None
    if dry_run:
        settings = resolve(config, data, features=named, overrides=override or [], seed=seed)
        show(settings.document(), settings.to_yaml(), as_json=as_json)
        return
    finished = run_training(
        config, data, features=named, overrides=override or [], seed=seed, run=run, resume=resume
    )
    metrics = read_json(finished.path / "valid.json")["metrics"]
    document = {"run": str(finished.path), "best_epoch": finished.manifest["best_epoch"], "valid": metrics}
    show(
        document,
        f"{finished.path}: best epoch {document['best_epoch']}\nvalid  {_accuracy(metrics)}",
        as_json=as_json,
    )


@app.command(epilog="Example: mmrec evaluate runs/shop/freedom-1a2b3c-seed0 --split test")
def evaluate(
    run: RunPath,
    split: Annotated[str, typer.Option(help="valid or test; opening test is recorded in the run.")] = "test",
    mask: Annotated[str | None, typer.Option(help="train or train+valid; the config's if not given.")] = None,
    data: MovedData = None,
    as_json: Json = False,
) -> None:
    """Rank the full catalogue for every user with held-out items and measure the lists."""
    from mmrec.evaluate import evaluate as run_evaluation

    document = run_evaluation(run, split, data=data, mask=mask)
    lines = [f"{split}  {document['n_users']:,} users  {_accuracy(document['metrics'])}"]
    for name, part in document["slices"].items():
        lines.append(f"  {name:<32} {part['n_users']:>7,} users  {_accuracy(part['metrics'])}")
    show(document, "\n".join(lines), as_json=as_json)


@app.command(epilog="Example: mmrec recommend runs/shop/freedom-1a2b3c-seed0 --user u17 -k 10")
def recommend(
    run: RunPath,
    user: Annotated[list[str], typer.Option(help="User id. Repeatable.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Items per user.")] = 10,
    seen: Annotated[bool, typer.Option(help="Permit items the user has already.")] = False,
    allow: Annotated[list[str] | None, typer.Option(help="Only these items. Repeatable.")] = None,
    deny: Annotated[list[str] | None, typer.Option(help="Not these items. Repeatable.")] = None,
    data: MovedData = None,
    as_json: Json = False,
) -> None:
    """Recommend items to users."""
    from mmrec.recommend import recommend as run_recommend
    from mmrec.runs import Run

    opened = Run(run)
    results = run_recommend(opened, user, k, exclude_seen=not seen, allow=allow, deny=deny, data=data)
    titles = opened.dataset(data).titles()
    lines = []
    for result in results:
        lines.append(f"user {result['user']}")
        lines += [
            f"  {entry['score']:9.4f}  {entry['item']}  {titles.get(entry['item'], '')}"
            for entry in result["items"]
        ]
    show(results[0] if len(results) == 1 else results, "\n".join(lines), as_json=as_json)


@app.command(epilog="Example: mmrec compare runs/shop/* --baseline lightgcn")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, several seeds of several models.")],
    metric: Annotated[
        list[str] | None, typer.Option(help="Metric to show, e.g. recall@20. Repeatable.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Label of the row that the others are tested against.")
    ] = None,
    split: Annotated[str, typer.Option(help="test or valid.")] = "test",
    resamples: Annotated[int, typer.Option(min=100, help="Of the paired bootstrap.")] = 10_000,
    format: Annotated[str, typer.Option(help="markdown, csv or latex.")] = "markdown",
    as_json: Json = False,
) -> None:
    """Compare evaluated runs: mean and spread over seeds, paired significance over users."""
    from mmrec.compare import compare as run_compare

    comparison = run_compare(runs, metrics=metric, baseline=baseline, split=split, resamples=resamples)
    texts = {"markdown": comparison.to_markdown, "csv": comparison.to_csv, "latex": comparison.to_latex}
    if format not in texts:
        raise ConfigError("--format markdown, csv or latex", repr(format), "choose one of them")
    show(comparison.to_document(), texts[format](), as_json=as_json)


@app.command(epilog="Example: mmrec models --json")
def models(as_json: Json = False) -> None:
    """List the models."""
    from mmrec.registry import describe_models

    entries = describe_models()
    lines = [
        f"{e['name']:<12} {e['contract']:<10} features {e['modalities']:<9} {e['summary']}" for e in entries
    ]
    show(entries, "\n".join(lines), as_json=as_json)


@config_app.command("show", epilog="Example: mmrec config show configs/demo/freedom.yaml --set train.lr=0.01")
def config_show(
    config: Annotated[Path, typer.Argument(help="YAML file.")],
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Print a config with its parents, defaults and overrides resolved."""
    from mmrec.config import load_config

    settings = load_config(config, override or [])
    show(settings.document(), settings.to_yaml(), as_json=as_json)


@app.command(epilog="Example: mmrec doctor")
def doctor(as_json: Json = False) -> None:
    """Say what this machine has: versions, devices, extras."""
    from mmrec.doctor import examine

    findings = examine()
    lines = [
        f"{key:<12} {value}" for key, value in findings.items() if key not in ("packages", "extras", "advice")
    ]
    lines += [f"{key:<12} {value}" for key, value in findings["packages"].items()]
    lines += [
        f"extra {name:<8} {'yes' if there else f'no: pip install mmrec[{name}]'}"
        for name, there in findings["extras"].items()
    ]
    show(findings, "\n".join(lines + findings["advice"]), as_json=as_json)


@app.command(epilog="Example: mmrec demo --to runs/demo")
def demo(
    to: Annotated[Path, typer.Option(help="Folder for data, runs and report.html.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per model.")] = 2,
) -> None:
    """Make a toy shop, train three models on it, compare them and write a report with pictures."""
    from mmrec.demo import run_demo

    run_demo(to, seeds=seeds)


def _key_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise ConfigError("name=value", repr(text), "for example --features text=text-minilm")
    return key, value


def _accuracy(metrics: dict[str, float]) -> str:
    return "  ".join(
        f"{name} {value:.4f}" for name, value in metrics.items() if name.split("@")[0] in ("recall", "ndcg")
    )
