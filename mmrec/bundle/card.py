"""The model card of a bundle: what it was made from, how well it did, what is not known, how to use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrec.bundle.manifest import Evaluated, EvaluatedRows, Kind, Manifest, RankerEntry, Source, Trained

KIND_TEXT: dict[Kind, str] = {
    "vectors": "A vector for each user and each item; a score is their inner product.",
    "sequence": "A vector for each item, and a model that turns a history into one; a score is their inner product.",
    "scores": "A model that scores all items for a history.",
    "generator": "A model that spells the semantic IDs of items; a score is the logarithm of a probability.",
}
STRANGERS: dict[Kind, str] = {
    "vectors": "Users it does not know have no vector. For a history the mean of its items' vectors stands in, which is an"
    " approximation: nothing was trained for it.",
    "sequence": "Users it does not know are served by their history.",
    "scores": "Users it does not know are served by their history, unless the model reads who the user is.",
    "generator": "Users it does not know are served by their history, unless the model reads who the user is.",
}

CALIBRATIONS = {
    "none": "uncalibrated: probabilities are the logistic function of the logits as they are",
    "temperature": "calibrated on validation rows by a temperature",
    "platt": "calibrated on validation rows by a scale and an offset (Platt)",
}


def write_card(manifest: Manifest, config: Mapping[str, Any]) -> str:
    """Markdown of a bundle.

    Args:
        manifest: Of the bundle; its files need not be there yet.
        config: Resolved config of the run.
    """
    parts = [
        f"# {manifest.model} on {manifest.dataset.name}",
        f"{KIND_TEXT[manifest.kind]} Written by mmrec {manifest.mmrec} on {manifest.created}.",
        "## Data",
        _data(manifest),
        "## Model",
        _model(manifest, config),
        "## Results",
        _results(manifest.evaluations, manifest.trained),
        *([] if manifest.ranker is None else ["## Ranker", _ranker(manifest.ranker)]),
        "## Limits",
        _limits(manifest),
        "## Use",
        _use(manifest),
    ]
    return "\n\n".join(parts) + "\n"


def _data(manifest: Manifest) -> str:
    counts = manifest.counts
    made = {"features": manifest.features, "codes": manifest.codes}
    lines = [
        f"dataset {manifest.dataset.name}, hash `{manifest.dataset.hash}`",
        f"{counts.users:,} users, {counts.items:,} items, {counts.seen:,} training interactions",
        f"split {manifest.split.name} ({manifest.split_protocol}), hash `{manifest.split.hash}`",
        *(f"{kind} {_sources(tables)}" for kind, tables in made.items() if tables),
    ]
    lines += [
        f"{addition.items:,} items added and {addition.replaced:,} replaced on {addition.when}: {addition.how}"
        for addition in manifest.additions
    ]
    if manifest.pictures is not None:
        lines.append(f"{manifest.pictures.files:,} pictures, {manifest.pictures.bytes:,} bytes")
    return _bullets(lines)


def _sources(tables: Mapping[str, Source]) -> str:
    return ", ".join(f"{name}: {table.name} (hash `{table.hash[:12]}`)" for name, table in tables.items())


def _model(manifest: Manifest, config: Mapping[str, Any]) -> str:
    trained = manifest.trained
    lines = [f"seed {trained.seed}, best epoch {trained.best_epoch}, config hash `{trained.config_hash}`"]
    if manifest.dim is not None:
        lines.append(f"vectors of width {manifest.dim}")
    if manifest.index is not None:
        recall = ", ".join(f"{name} {value:.3f}" for name, value in manifest.index.recall.items())
        lines.append(f"with an index, {manifest.index.backend}; against exact search: {recall}")
    params = [f"| {name} | {value} |" for name, value in config["params"].items()]
    table = ["| hyper-parameter | value |", "|---|---|", *params]
    return _bullets(lines) + ("\n\n" + "\n".join(table) if params else "")


def _results(evaluations: Mapping[Any, Evaluated] | Mapping[Any, EvaluatedRows], trained: Trained) -> str:
    if not evaluations:
        return "Not evaluated."
    names = sorted({name for entry in evaluations.values() for name in entry.metrics})
    rows = [["metric", *evaluations], ["---"] * (1 + len(evaluations))]
    rows += [[name, *(_value(entry, name) for entry in evaluations.values())] for name in names]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    lines = [f"{part}: {_counted(entry)}" for part, entry in evaluations.items()]
    opened = len(trained.test_opened)
    lines.append(
        f"the test split was opened {opened} {'time' if opened == 1 else 'times'}, first on {trained.test_opened[0]}"
        if opened
        else "the test split was not opened; validation chose the epoch, so its numbers flatter"
    )
    return f"{table}\n\n{_bullets(lines)}"


def _counted(entry: Evaluated | EvaluatedRows) -> str:
    if isinstance(entry, EvaluatedRows):
        return f"{entry.n_rows:,} rows"
    return f"{entry.n_users:,} users; {_protocol(entry)}"


def _ranker(entry: RankerEntry) -> str:
    label = "an interaction, among drawn negatives" if entry.label is None else f"`{entry.label}`"
    held = {None: "no history", "positives": "a history of positive items", "all": "a history of all items"}
    lines = [
        f"{entry.model} on the rows {entry.dataset.name} (hash `{entry.dataset.hash}`), with {held[entry.history]}; a click is {label}",
        *(
            f"{kind} {_sources(tables)}"
            for kind, tables in (("features", entry.features), ("codes", entry.codes))
            if tables
        ),
        f"seed {entry.trained.seed}, best epoch {entry.trained.best_epoch}, config hash `{entry.trained.config_hash}`",
        CALIBRATIONS[entry.calibration],
        "a stranger is the unknown user, with no attributes, and has the history that is given",
    ]
    if entry.merge_error is not None:
        lines.append(
            f"the matrices of a layer are merged into one: logits differ by at most {entry.merge_error:.1e} on drawn pairs"
        )
    return f"{_bullets(lines)}\n\n{_results(entry.evaluations, entry.trained)}"


def _value(entry: Evaluated | EvaluatedRows, name: str) -> str:
    return f"{entry.metrics[name]:.4f}" if name in entry.metrics else ""


def _protocol(entry: Evaluated) -> str:
    return ", ".join(
        f"{key} {entry.protocol[key]}" for key in ("candidates", "mask", "history") if key in entry.protocol
    )


def _limits(manifest: Manifest) -> str:
    counts = manifest.counts
    lines = [
        f"{counts.cold_items:,} of {counts.items:,} items have no training interaction",
        *(f"{n:,} items have no {modality}" for modality, n in counts.without.items() if n),
        f"{counts.users_without_items:,} of {counts.users:,} users have no training interaction: they get no list",
        "what a user has seen is the training part of the split alone; held-out items can be recommended",
        STRANGERS[manifest.kind],
    ]
    if manifest.additions:
        lines.append("the results are of the catalogue before items were added")
    if manifest.index is None:
        lines.append("no index: search is exact, over all items")
    return _bullets(lines)


def _use(manifest: Manifest) -> str:
    lines = [
        "import mmrec",
        "",
        "bundle = mmrec.Bundle(FOLDER)",
        'bundle.recommend("USER_ID", k=10)',
        'bundle.recommend(histories=[["ITEM_ID", "ITEM_ID"]], k=10)',
    ]
    if manifest.ranker is not None:
        lines.append('bundle.recommend("USER_ID", k=10, rerank=True, candidates=100)')
    return "```python\n" + "\n".join(lines) + "\n```"


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
