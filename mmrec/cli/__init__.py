"""The command line: verbs to functions, no logic."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmrec import __version__
from mmrec.cli.codes import tokenize
from mmrec.cli.common import Json, MovedData, Override, RunPath, accuracy, named, show
from mmrec.cli.data import data_app, encode
from mmrec.cli.serving import export, items_app, serve
from mmrec.errors import ConfigError, MMRecError

app = typer.Typer(
    name="mmrec",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
config_app = typer.Typer(help="Look at configs.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
app.add_typer(items_app, name="items")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mmrec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Recommender systems for items that have pictures and text."""


def main() -> None:
    """Run the command line; exit 0 fine, 2 the input is wrong, 1 our fault, 130 interrupted."""
    try:
        app(prog_name="mmrec")
    except MMRecError as error:
        print(f"mmrec: {type(error).__name__}\n{error}", file=sys.stderr)
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        print("mmrec: this is a fault of mmrec; please report the lines above", file=sys.stderr)
        sys.exit(1)


app.command(
    epilog="Example: mmrec encode datasets/shop --modality text --encoder sentence-transformers/all-MiniLM-L6-v2 --name text-minilm"
)(encode)
app.command(
    epilog="Example: mmrec tokenize datasets/shop --features text-minilm --levels 3 --size 256 --name text-kmeans"
)(tokenize)


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
    from mmrec.config import resolve
    from mmrec.files import read_json

    chosen = named(features) or None
    if dry_run:
        settings = resolve(config, data, features=chosen, overrides=override or [], seed=seed)
        show(settings.document(), settings.to_yaml(), as_json=as_json)
        return
    from mmrec.train import train as run_training

    finished = run_training(
        config, data, features=chosen, overrides=override or [], seed=seed, run=run, resume=resume
    )
    metrics = read_json(finished.path / "valid.json")["metrics"]
    document = {"run": str(finished.path), "best_epoch": finished.manifest["best_epoch"], "valid": metrics}
    show(
        document,
        f"{finished.path}: best epoch {document['best_epoch']}\nvalid  {accuracy(metrics)}",
        as_json=as_json,
    )


@app.command(epilog="Example: mmrec tune configs/ml100k/freedom.yaml --workers 2")
def tune(
    config: Annotated[Path, typer.Argument(help="A YAML file with a search: section.")],
    data: Annotated[Path | None, typer.Option(help="Dataset folder, in place of the config's.")] = None,
    features: Annotated[
        list[str] | None, typer.Option(help="modality=name, in place of the config's. Repeatable.")
    ] = None,
    override: Override = None,
    to: Annotated[
        Path | None, typer.Option(help="The search's folder; runs/tune/DATASET-MODEL-HASH if not given.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the trials and the cores.")] = 1,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Refuse to begin a new search; one that is there is always continued."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Search hyper-parameters on the validation split; the test split stays closed."""
    from mmrec.tune.search import tune as run_search

    chosen = named(features) or None
    search = run_search(
        config, data, features=chosen, overrides=override or [], to=to, workers=workers, resume=resume
    )
    show(search.to_document(), search.to_plain(), as_json=as_json)


@app.command(epilog="Example: mmrec evaluate runs/shop/freedom-1a2b3c-seed0 --split test")
def evaluate(
    run: RunPath,
    split: Annotated[
        Literal["valid", "test"], typer.Option(help="Part to rank for; opening test is recorded in the run.")
    ] = "test",
    mask: Annotated[
        Literal["train", "train+valid"] | None,
        typer.Option(help="Items of a user that may not appear at test; as the config says if not given."),
    ] = None,
    rerank: Annotated[
        Path | None, typer.Option(help="Run of a ranker that orders the first candidates anew.")
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Candidates for --rerank.")] = 100,
    plot: Annotated[
        bool, typer.Option("--plot", help="Draw predicted against observed clicks of a ranker into its run.")
    ] = False,
    data: MovedData = None,
    as_json: Json = False,
) -> None:
    """Rank the full catalogue for every user with held-out items, or score the held-out rows of a ranker."""
    if rerank is not None:
        from mmrec.rerank import evaluate_reranked

        if plot:
            raise ConfigError(
                "--rerank or --plot",
                "both",
                f"draw the ranker's clicks alone: mmrec evaluate {rerank} --plot",
            )
        document = evaluate_reranked(run, rerank, split, candidates=candidates, data=data, mask=mask)
        lines = [f"{split}  {document['n_users']:,} users, {candidates} candidates"]
        for name, gain in document["gain"].items():
            before, after = document["retriever"][name], document["metrics"][name]
            sign = "*" if gain["p_holm"] < 0.05 else ""
            lines.append(
                f"  {name:<14} {before:.4f} -> {after:.4f}  {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]{sign}"
            )
        show(document, "\n".join(lines), as_json=as_json)
        return
    from mmrec.evaluate import evaluate as run_evaluation

    document = run_evaluation(run, split, data=data, mask=mask)
    if plot:
        from mmrec.click_plots import plot_evaluation

        plot_evaluation(run, split)
    size = f"{document['n_users']:,} users" if "n_users" in document else f"{document['n_rows']:,} rows"
    lines = [f"{split}  {size}  {accuracy(document['metrics'])}"]
    for name, part in document.get("slices", {}).items():
        lines.append(f"  {name:<32} {part['n_users']:>7,} users  {accuracy(part['metrics'])}")
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


@app.command(epilog="Example: mmrec explain runs/shop/dgvae-1a2b3c-seed0 --user u17")
def explain(
    run: RunPath,
    user: Annotated[list[str], typer.Option(help="User id. Repeatable.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Recommended items per user.")] = 10,
    words: Annotated[int, typer.Option(min=1, help="Words per factor.")] = 8,
    data: MovedData = None,
    as_json: Json = False,
) -> None:
    """Say in words what a user is recommended for, and which items each of these factors explains."""
    from mmrec.explain import explain as run_explain
    from mmrec.explain import render
    from mmrec.runs import Run

    opened = Run(run)
    results = run_explain(opened, user, k, words=words, data=data)
    text = render(results, opened.dataset(data).titles())
    show(results[0] if len(results) == 1 else results, text, as_json=as_json)


@app.command(epilog="Example: mmrec compare runs/shop/* --baseline lightgcn")
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, several seeds of several models.")],
    metric: Annotated[
        list[str] | None, typer.Option(help="Metric to show, e.g. recall@20 or auc. Repeatable.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Label of the row that the others are tested against.")
    ] = None,
    split: Annotated[Literal["valid", "test"], typer.Option(help="Which evaluations.")] = "test",
    slice_name: Annotated[
        list[str] | None,
        typer.Option("--slice", help="Slice to show as well, e.g. 'items: cold'. Repeatable."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Of the paired bootstrap.")] = 10_000,
    cost: Annotated[
        bool, typer.Option("--cost", help="Show time and memory of the training as well.")
    ] = False,
    codes: Annotated[bool, typer.Option("--codes", help="Show the health of semantic IDs as well.")] = False,
    format: Annotated[
        Literal["markdown", "plain", "csv", "latex"], typer.Option(help="Of the table.")
    ] = "markdown",
    as_json: Json = False,
) -> None:
    """Compare evaluated runs: mean and spread over seeds, paired significance over users or rows."""
    from mmrec.compare import compare as run_compare
    from mmrec.tables import csv_lines, latex, markdown, plain

    comparison = run_compare(
        runs,
        metrics=metric,
        baseline=baseline,
        split=split,
        slices=slice_name or [],
        resamples=resamples,
        cost=cost,
        codes=codes,
    )
    texts = {"markdown": markdown, "plain": plain, "csv": csv_lines, "latex": latex}
    show(comparison.to_document(), texts[format](comparison), as_json=as_json)


app.command(epilog="Example: mmrec export runs/shop/freedom-1a2b3c-seed0 --to bundles/shop --images copy")(
    export
)
app.command(epilog="Example: mmrec serve bundles/shop --port 8000")(serve)


@app.command(epilog="Example: mmrec models --json")
def models(as_json: Json = False) -> None:
    """List the models."""
    from mmrec.registry import describe_models

    entries = describe_models()
    lines = [
        f"{e['name']:<12} {e['contract']:<10} features {e['modalities']:<9} {e['summary']}" for e in entries
    ]
    lines.append("recbole:NAME models of RecBole, such as recbole:SASRec: pip install 'mmrec[recbole]'")
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
    show(settings.document(search=True), settings.to_yaml(search=True), as_json=as_json)


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
