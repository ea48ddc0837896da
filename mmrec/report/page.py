"""A report to look at: one HTML file with the table, the learning curves, and users beside their recommendations.

Everything is inside the file, pictures too; it needs no script and no network, and follows the reader's choice of
light or dark.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mmrec
from mmrec import tables
from mmrec.compare import Comparison
from mmrec.data.dataset import Dataset
from mmrec.encode.pictures import open_picture, quiet_decoding
from mmrec.files import read_json, write_text
from mmrec.registry import model_class
from mmrec.report.curves import Curve, dash_sample, draw_chart
from mmrec.report.markup import Html, element, join
from mmrec.report.style import STYLE
from mmrec.report.users import ItemView, UserView
from mmrec.runs import Run, read_epochs

THUMBNAIL = 96  # pixels; about 4 KiB each as JPEG

# Only what is inside the file may be shown, whatever an item's title holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

Thumbnails = Mapping[Path, str]
Logs = Sequence[tuple[str, Run, Sequence[Mapping[str, Any]]]]  # label, run, its entries per epoch


def write_report(
    path: Path,
    comparison: Comparison,
    users: Sequence[UserView],
    dataset: Dataset,
    *,
    title: str | None = None,
    about: Sequence[str] = (),
) -> Path:
    """Write the report of a comparison.

    Args:
        path: The HTML file.
        comparison: Evaluated run folders of one dataset; shown with the slices it holds.
        users: From :func:`mmrec.report.users.view_users`; each shown item with a picture adds about 4 KiB.
        dataset: The dataset of the runs, with or without pictures.
        title: Heading of the page.
        about: Paragraphs put under the heading.

    Raises:
        NotFittedError: A run folder is gone.
        DataError: The dataset has no such split any more.
        DiskError: The disk is full or may not be written.
    """
    runs = [(row.label, Run(result.run)) for row in comparison.rows for result in row.results]
    heading = title or f"Recommendations for {dataset.name}"
    body = [
        element("h1", heading),
        *(element("p", paragraph) for paragraph in about),
        _data_section(dataset, runs),
        _results_section(comparison, runs),
        _curves_section(runs),
        _users_section(users, _thumbnails(users), pictures="image" in dataset.modalities()),
        element("p", f"Written by mmrec {mmrec.__version__}.", class_="quiet"),
    ]
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", heading),
        element("style", Html(STYLE)),
    ]
    page = element("html", element("head", *head), element("body", element("main", *body)), lang="en")
    write_text(path, f"<!doctype html>\n{page}\n")
    return path


# --- data --------------------------------------------------------------------------------------------------------


def _data_section(dataset: Dataset, runs: Sequence[tuple[str, Run]]) -> Html:
    facts = list(_facts(dataset, runs[0][1].config.split))
    named = dict(sorted((pair for _, run in runs for pair in run.config.features.items())))
    for modality, name in named.items():
        table = dataset.features(name)
        facts.append(
            (f"{modality} features", f"{name}: {int(table.present.sum()):,} vectors of width {table.dim}")
        )
    listed = [part for term, value in facts for part in (element("dt", term), element("dd", value))]
    return element("section", element("h2", "Data"), element("dl", *listed, class_="facts"))


def _facts(dataset: Dataset, split_name: str) -> Iterator[tuple[str, str]]:
    split = dataset.split(split_name)
    parts = {"training": split.train, "validation": split.valid, "test": split.test}
    yield "dataset", f"{dataset.name} in {dataset.path}"
    yield "users", f"{dataset.n_users:,}"
    yield "items", f"{dataset.n_items:,}"
    shares = ", ".join(f"{len(part.items):,} {name}" for name, part in parts.items())
    yield "interactions", f"{dataset.n_interactions:,}"
    yield "split", f"{split.name} ({split.manifest['protocol']}): {shares}"
    for modality, present in dataset.modalities().items():
        yield f"items with {modality}", f"{int(present.sum()):,}; {int((~present).sum()):,} without"
    cold = np.bincount(split.train.items, minlength=dataset.n_items) == 0
    yield "cold items", f"{int(cold.sum()):,} without any training interaction"


# --- results -----------------------------------------------------------------------------------------------------


def _results_section(comparison: Comparison, runs: Sequence[tuple[str, Run]]) -> Html:
    bold = "\x02{}\x03"  # turned into markup once the cell is escaped
    parts = [
        element("h2", "Results"),
        _table(*tables.main_table(comparison, bold), f"All {comparison.n:,} {comparison.unit} of the {comparison.split} part"),
    ]  # fmt: skip
    if comparison.slices:
        caption = "Only the held-out items of a slice count; the candidates are still all items"
        parts.append(_table(*tables.slice_table(comparison, bold), caption))
    lines = tables.legend(comparison)
    unable = [row.label for row in comparison.rows if not _places_cold_items(row.results[0].run)]
    if "items: cold" in comparison.slices and unable:
        lines.insert(
            0,
            f"Cold items have no training interaction: {', '.join(unable)} cannot tell them from one another.",
        )
    parts.append(element("ul", *(element("li", line) for line in lines), class_="legend"))
    parts.append(_runs_table(runs))
    return element("section", *parts)


def _places_cold_items(run: str) -> bool:
    return bool(model_class(Run(run).config.model).cold_items)


def _table(names: Sequence[str], lines: Sequence[Sequence[str]], caption: str) -> Html:
    head = element("tr", *(element("th", name, scope="col") for name in names))
    row_name = names.index("model")
    body = [
        element(
            "tr",
            *(
                element("th", cell, scope="row") if place == row_name else element("td", _emphasise(cell))
                for place, cell in enumerate(line)
            ),
        )
        for line in lines
    ]
    table = element("table", element("caption", caption), element("thead", head), element("tbody", *body))
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _emphasise(cell: str) -> Html:
    return Html(join(cell).replace("\x02", "<strong>").replace("\x03", "</strong>"))


def _runs_table(runs: Sequence[tuple[str, Run]]) -> Html:
    names = [
        "model",
        "seed",
        "monitored on validation",
        "best value",
        "best epoch",
        "epochs",
        "training time",
        "run",
    ]
    lines = []
    for label, run in runs:
        log = read_epochs(run.path)
        best = _best_value(run)
        lines.append(
            [
                label,
                str(run.config.train.seed),
                run.config.train.monitor,
                "–" if best is None else f"{best:.4f}",
                str(run.manifest["best_epoch"]) if log else "–",
                str(len(log)) if log else "–",
                f"{sum(entry['seconds'] for entry in log):.1f} s" if log else "–",
                str(run.path),
            ]
        )
    return _table(names, lines, "Runs; the validation part alone chose the best epoch")


def _best_value(run: Run) -> float | None:
    """The monitored metric of the kept epoch."""
    values = [entry["valid"] for entry in read_epochs(run.path) if entry["valid"] is not None]
    if values:
        return float(max(values))
    file = run.path / "valid.json"
    found = read_json(file)["metrics"].get(run.config.train.monitor) if file.is_file() else None
    return None if found is None else float(found)


# --- curves ------------------------------------------------------------------------------------------------------


def _curves_section(runs: Sequence[tuple[str, Run]]) -> Html:
    labels = list(dict.fromkeys(label for label, _ in runs))
    seeds = sorted({run.config.train.seed for _, run in runs})
    logs = [(label, run, read_epochs(run.path)) for label, run in runs]
    if not any(log for _, _, log in logs):
        return element(
            "section", element("h2", "Learning curves"), element("p", "No model was trained in epochs.")
        )
    samples = [join(dash_sample(place), f"seed {seed}") for place, seed in enumerate(seeds)]
    keys = [element("span", sample, class_="key") for sample in (*samples, "● best epoch")]
    parts = [element("h2", "Learning curves"), element("p", *keys, class_="quiet")]
    for monitor in dict.fromkeys(run.config.train.monitor for _, run in runs):
        parts.append(_validation_chart(logs, labels, seeds, monitor))
    losses = [
        _loss_chart(label, logs, labels, seeds)
        for label in labels
        if any(log for name, _, log in logs if name == label)
    ]
    return element("section", *parts, element("div", *losses, class_="charts"))


def _validation_chart(logs: Logs, labels: Sequence[str], seeds: Sequence[int], monitor: str) -> Html:
    curves, levels = [], {}
    for label, run, log in logs:
        if run.config.train.monitor != monitor:
            continue
        colour, dash = labels.index(label), seeds.index(run.config.train.seed)
        points = [(entry["epoch"], entry["valid"]) for entry in log if entry["valid"] is not None]
        level = _best_value(run)
        if points:
            curves.append(Curve(label, colour, dash, points, run.manifest["best_epoch"]))
        elif level is not None:
            levels[label] = (colour, level)
    chart = draw_chart(curves, title=f"{monitor} on validation by epoch", y_label=monitor, levels=levels)
    caption = f"{monitor} on the validation part; models without epochs as dotted lines"
    return element("figure", chart, element("figcaption", caption), class_="wide")


def _loss_chart(label: str, logs: Logs, labels: Sequence[str], seeds: Sequence[int]) -> Html:
    curves, terms = [], []
    for name, run, log in logs:
        if name == label and log:
            terms = list(log[0]["loss"])
            points = [(entry["epoch"], sum(entry["loss"].values())) for entry in log]
            curves.append(Curve(label, labels.index(label), seeds.index(run.config.train.seed), points))
    chart = draw_chart(curves, title=f"training loss of {label} by epoch", y_label="loss")
    return element("figure", chart, element("figcaption", f"Training loss of {label}: {' + '.join(terms)}"))


# --- users -------------------------------------------------------------------------------------------------------


def _users_section(users: Sequence[UserView], thumbnails: Thumbnails, *, pictures: bool) -> Html:
    if not users:
        return Html("")
    marks = element(
        "p",
        _mark("hit"), "the user has it in the validation or test part, which was hidden from the models. ",
        _mark("cold"), "nobody has it in the training part. Items without a title show their id.",
        class_="quiet",
    )  # fmt: skip
    sections = [_user_section(user, thumbnails, pictures) for user in users]
    return element("section", element("h2", "Users"), marks, *sections)


def _user_section(user: UserView, thumbnails: Thumbnails, pictures: bool) -> Html:
    def group(heading: str, items: Sequence[ItemView], list_tag: str = "ul") -> Html:
        mark_hits = list_tag == "ol"  # among hidden items each would be one
        entries = [_item(item, thumbnails, pictures=pictures, mark_hits=mark_hits) for item in items]
        return join(element("h4", heading), element(list_tag, *entries, class_="items"))

    earlier = user.n_history - len(user.history)
    history = f"History: {user.n_history:,} items" + (f", the last {len(user.history)}" if earlier else "")
    past = [group(history, user.history)]
    if user.hidden:
        past.append(group(f"Hidden from the models: {len(user.hidden):,}", user.hidden))
    lists = [group(f"{label} recommends", items, "ol") for label, items in user.recommendations]
    lists += [group(f"{label} recommends of the cold items alone", items, "ol") for label, items in user.cold]
    columns = element("div", element("div", *past), element("div", *lists), class_="columns")
    return element("article", element("h3", user.user_id), columns, class_="user")


def _item(item: ItemView, thumbnails: Thumbnails, *, pictures: bool, mark_hits: bool) -> Html:
    content = [element("span", item.title)]
    source = thumbnails.get(item.picture) if item.picture else None
    if source:
        content.insert(0, element("img", src=source, alt=f"Picture of {item.title}"))
    elif pictures:
        content.insert(0, element("span", "no picture", class_="blank"))
    hit = mark_hits and item.hidden
    marks = [_mark(name) for name, there in (("hit", hit), ("cold", item.cold)) if there]
    if marks:
        content.append(element("div", *marks))
    return element("li", *content, class_="item hit" if hit else "item")


def _mark(name: str) -> Html:
    return element("span", "✓ hit" if name == "hit" else name, class_=f"mark {name}")


def _thumbnails(users: Sequence[UserView]) -> Thumbnails:
    """Small pictures as data URIs, each file read once; unreadable ones are left out."""
    from PIL import Image

    shown = {
        item.picture
        for user in users
        for items in (user.history, user.hidden, *(items for _, items in (*user.recommendations, *user.cold)))
        for item in items
        if item.picture is not None
    }
    found = {}
    with quiet_decoding():
        for path in sorted(shown):
            picture, _ = open_picture(path)
            if picture is None:
                continue
            picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=82)
            found[path] = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return found
