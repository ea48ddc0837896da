"""The report as a browser and a screen reader get it: parsed, never compared letter by letter."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmrec.compare import Comparison, compare
from mmrec.data.dataset import Dataset
from mmrec.data.importers.frames import from_frames
from mmrec.data.split import split
from mmrec.encode.runner import encode
from mmrec.evaluate import evaluate
from mmrec.report import write_report
from mmrec.report.curves import Curve, draw_chart, nice_ticks
from mmrec.report.markup import Html, element, join
from mmrec.report.users import ItemView, UserView, choose_users, view_users
from mmrec.train import train

EVIL = ('<script>alert("1")</script>', '" onload="alert(1)', "Tom & Jerry's </title></style>")
LISTS = ("recommendations", "cold")
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes, and the text inside each; fails where tags do not pair up."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag: str, css_class: str | None = None) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and (css_class is None or css_class in str(attributes.get("class")).split())
        ]

    def text(self, *tags: str) -> str:
        return " ".join(text for tag, text in self.texts if tag in tags)


def make_dataset(to: Path, *, pictures: bool) -> Dataset:
    """40 users and 20 items in two blocks, half of them with a picture, one without a title."""
    users, items = np.nonzero(np.add.outer(np.arange(40), np.arange(20)) % 2 == 0)
    table = pd.DataFrame(
        {"user_id": [f"u{user}" for user in users], "item_id": [f"i{item}" for item in items]}
    )
    titles = [f"{EVIL[item % 3]} {['even', 'odd'][item % 2]} number {item}" for item in range(20)]
    goods = pd.DataFrame({"item_id": [f"i{item}" for item in range(20)], "title": titles})
    goods["description"] = "A thing."
    goods.loc[19, ["title", "description"]] = None
    folder = None
    if pictures:
        folder = to.with_name("pictures")
        folder.mkdir()
        for item in range(0, 20, 2):
            Image.new("RGB", (300, 150), (12 * item, 90, 90)).save(folder / f"i{item}.png")
    dataset = from_frames(table, goods, images=folder, to=to, kinds={"title": "text", "description": "text"})
    split(dataset, "random", cold_items=0.2)
    return dataset


def make_comparison(dataset: Dataset, folder: Path) -> Comparison:
    encode(dataset, encoder="tfidf", name="words", fields=["title"], show_progress=False)
    runs = []
    for model, seeds in (("popularity", (0,)), ("vbpr", (0, 1))):
        for seed in seeds:
            features = {"text": "words"} if model == "vbpr" else {}
            settings = {"epochs": 3, "batch_size": 64, "monitor": "recall@5"}
            config = {"model": model, "data": str(dataset.path), "features": features, "train": settings}
            config["evaluate"] = {"ks": [5]}
            run = train(config, seed=seed, run=folder / f"{model}-{seed}", show_progress=False)
            evaluate(run, "test")
            runs.append(run.path)
    return compare(runs, metrics=["recall@5", "ndcg@5"], slices=["items: cold"])


Report = tuple[Page, Comparison, list[UserView], Dataset]


def make_report(folder: Path, *, pictures: bool) -> Report:
    dataset = make_dataset(folder / "data", pictures=pictures)
    comparison = make_comparison(dataset, folder)
    users = view_users(comparison, choose_users(dataset, dataset.split(), 4), dataset, k=3, history=2)
    users = [poison(user) for user in users]
    path = write_report(folder / "report.html", comparison, users, dataset, title=EVIL[2], about=[EVIL[0]])
    return Page(path.read_text(encoding="utf-8")), comparison, users, dataset


def poison(user: UserView) -> UserView:
    """The user with titles that attack the page: importers clean texts, but the report must not rely on that."""

    def change(items: Sequence[ItemView]) -> tuple[ItemView, ...]:
        return tuple(replace(item, title=f"{EVIL[n % 3]} {item.title}") for n, item in enumerate(items))

    lists = {name: tuple((label, change(items)) for label, items in getattr(user, name)) for name in LISTS}
    return replace(user, history=change(user.history), hidden=change(user.hidden), **lists)


@pytest.fixture(scope="module")
def illustrated(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return make_report(tmp_path_factory.mktemp("illustrated"), pictures=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return make_report(tmp_path_factory.mktemp("plain"), pictures=False)


def test_nothing_of_an_items_title_becomes_markup(illustrated: Report) -> None:
    page = illustrated[0]
    assert not page.all("script")
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    assert EVIL[0] in page.text("p")
    assert page.text("h1") == EVIL[2]
    assert EVIL[2] in page.text("title")
    assert all(evil in page.text("span") for evil in EVIL)
    assert any(EVIL[1] in str(image["alt"]) for image in page.all("img"))


def test_the_page_refers_to_nothing_outside(illustrated: Report) -> None:
    page = illustrated[0]
    for _, attributes in page.elements:
        for key in ("src", "href", "xlink:href", "action"):
            assert str(attributes.get(key) or "data:").startswith("data:")
    assert "url(" not in page.text("style")
    assert "@import" not in page.text("style")
    policy = [meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy[0]["content"]).startswith("default-src 'none'")


def test_the_page_is_structured_for_screen_readers(illustrated: Report) -> None:
    page = illustrated[0]
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert page.text("h2").split() == ["Data", "Results", "Learning", "curves", "Users"]
    assert len(page.all("table")) == len(page.all("caption")) == 3
    assert all(header.get("scope") in ("row", "col") for header in page.all("th"))
    assert all(image.get("alt") for image in page.all("img"))
    charts = page.all("svg", "chart")
    assert len(charts) == 2
    assert all(chart["role"] == "img" for chart in charts)
    assert "recall@5 on validation by epoch" in page.text("title")
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in page.all("div", "scroll"))


def test_the_tables_hold_each_model_and_its_numbers(illustrated: Report) -> None:
    page, comparison, *_ = illustrated
    assert page.text("th").split().count("popularity") == 1 + 1 + 1  # all users, cold items, its run
    assert page.text("th").split().count("vbpr") == 1 + 1 + 2
    for row in comparison.rows:
        mean = np.mean(row.values("recall@5"))
        assert f"{mean:.4f}" in page.text("td", "strong")
    assert "items: cold" in page.text("td")
    assert "popularity cannot tell them from one another" in page.text("li")
    assert "Holm-corrected" in page.text("li")


def test_light_dark_and_paper_have_their_styles(illustrated: Report) -> None:
    style = illustrated[0].text("style")
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style
    light, dark = (
        set(re.findall(r"(--[a-z0-9-]+):", part))
        for part in re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    )
    assert light == dark  # no colour is forgotten


def test_pictures_are_small_and_inside(illustrated: Report) -> None:
    page = illustrated[0]
    images = page.all("img")
    assert images
    for image in images:
        kind, _, content = str(image["src"]).partition(";base64,")
        assert kind == "data:image/jpeg"
        assert Image.open(io.BytesIO(base64.b64decode(content))).size == (96, 48)


def test_items_without_a_picture_say_so(illustrated: Report) -> None:
    page, _, users, _ = illustrated
    shown = [
        item
        for user in users
        for items in (user.history, user.hidden, *(items for _, items in (*user.recommendations, *user.cold)))
        for item in items
    ]
    assert len(page.all("img")) == sum(item.picture is not None for item in shown)
    assert len(page.all("span", "blank")) == sum(item.picture is None for item in shown)
    assert 0 < len(page.all("img")) < len(shown)


def test_without_pictures_there_are_titles_alone(plain: Report) -> None:
    page = plain[0]
    assert not page.all("img")
    assert not page.all("span", "blank")
    assert page.all("li", "item")
    assert "number" in page.text("span")


def test_a_damaged_picture_is_no_picture(illustrated: Report, tmp_path: Path) -> None:
    _, comparison, users, dataset = illustrated
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture at all")
    user = users[0]
    items = tuple(replace(item, picture=broken) for item in user.history)
    view = UserView(user.user_id, user.n_history, items, (), (), ())
    page = Page(write_report(tmp_path / "r.html", comparison, [view], dataset).read_text(encoding="utf-8"))
    assert not page.all("img")
    assert len(page.all("span", "blank")) == len(items) > 0


def test_views_mark_hidden_and_cold_items(illustrated: Report) -> None:
    _, comparison, users, dataset = illustrated
    parts = dataset.split()
    bought = set(parts.train.items.tolist())
    for user in users:
        row = dataset.user(user.user_id)
        hidden = {*parts.valid[row].tolist(), *parts.test[row].tolist()}
        assert [dataset.item(item.item_id) for item in user.history] == parts.train[row][-2:].tolist()
        assert user.n_history == len(parts.train[row])
        assert {dataset.item(item.item_id) for item in user.hidden} == hidden
        assert [label for label, _ in user.recommendations] == [row.label for row in comparison.rows]
        assert [label for label, _ in user.cold] == ["vbpr"]  # popularity cannot place cold items
        for _, items in (*user.recommendations, *user.cold):
            assert len(items) == 3
            for item in items:
                assert item.hidden == (dataset.item(item.item_id) in hidden)
                assert item.cold == (dataset.item(item.item_id) not in bought)
        assert all(item.cold for _, items in user.cold for item in items)


def test_hits_and_cold_items_carry_their_marks(illustrated: Report) -> None:
    page, _, users, _ = illustrated
    recommended = [
        item for user in users for _, items in (*user.recommendations, *user.cold) for item in items
    ]
    hidden = [item for user in users for item in user.hidden]
    assert len(page.all("li", "hit")) == sum(item.hidden for item in recommended) > 0
    cold = sum(item.cold for item in (*recommended, *hidden))
    assert len(page.all("span", "cold")) == cold + 1  # and one in the explanation


def test_an_item_without_a_title_shows_its_id(illustrated: Report) -> None:
    _, comparison, users, dataset = illustrated
    view = view_users(comparison, [users[0].user_id], dataset, k=20)[0]
    titles = {item.item_id: item.title for item in (*view.history, *view.recommendations[0][1])}
    assert len(titles) == 20  # what a user has not in training can be recommended
    assert titles["i19"] == "i19"
    assert titles["i3"] == "odd number 3"  # the first text column, not the description


def test_users_are_chosen_at_even_steps_of_activity(illustrated: Report) -> None:
    dataset = illustrated[3]
    parts = dataset.split()
    chosen = [dataset.user(user) for user in choose_users(dataset, parts, 4)]
    counts = parts.train.counts[chosen]
    assert counts.tolist() == sorted(counts.tolist())
    assert len(set(chosen)) == 4
    evaluated = int(((parts.train.counts > 0) & (parts.test.counts > 0)).sum())
    assert len(choose_users(dataset, parts, 1000)) == evaluated
    assert len(choose_users(dataset, parts, 1)) == 1


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.162, 0.389, [0.15, 0.2, 0.25, 0.3, 0.35, 0.4]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (3, 3, [3, 4]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low: float, high: float, ticks: Sequence[float]) -> None:
    found = nice_ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    if low != high:
        assert found == ticks


def test_a_chart_draws_lines_dots_and_labels_that_do_not_overlap() -> None:
    curves = [
        Curve("a", 0, 0, [(0, 0.1), (1, 0.4), (2, 0.3)], best=1),
        Curve("b", 1, 1, [(0, 0.1), (2, 0.3)]),
    ]
    page = Page(draw_chart(curves, title="t", y_label="recall", levels={"c": (2, 0.3)}))
    assert len(page.all("circle")) == 1
    lines = [path for path in page.all("path") if "stroke" in str(path["class"])]
    assert [path.get("stroke-dasharray") for path in lines] == ["1 4", None, "7 4"]
    heights = [float(point.split()[1]) for point in str(lines[1]["d"])[1:].split("L")]
    assert heights[1] < heights[2] < heights[0]  # a larger value is higher up
    assert float(str(page.all("circle")[0]["cy"])) == heights[1]
    labels = sorted(float(str(label["y"])) for label in page.all("text", "fill"))
    assert len(labels) == 3
    assert np.diff(labels).min() >= 14


def test_a_chart_of_one_epoch_can_be_drawn() -> None:
    assert Page(draw_chart([Curve("a", 0, 0, [(0, 0.0)])], title="t", y_label="y")).all("path")


def test_text_is_escaped_and_markup_is_not() -> None:
    inner = element("b", "<&>")
    assert inner == "<b>&lt;&amp;&gt;</b>"
    assert element("p", inner, " & ", class_="x", title='"', hidden=None) == (
        '<p class="x" title="&quot;"><b>&lt;&amp;&gt;</b> &amp; </p>'
    )
    assert element("img", alt="a", stroke_width=2) == '<img alt="a" stroke-width="2">'
    assert join("<", Html("<br>")) == "&lt;<br>"
