"""The page in a real browser, over a service that answers, errs, hesitates and asks for a key as told."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from tests.serve.browser import CHROMIUM, Browser, Tab, running
from tests.serve.stub import EVIL, PAGE, Fault, Stub, serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path: apt-get install chromium")

SCREENSHOTS = Path(__file__).parent / "screenshots"
CARDS = "#cards .card:not(.blank)"
LIST = f"document.querySelector('#list').ariaBusy === 'false' && document.querySelectorAll('{CARDS}').length"
# the contrast of what can be read with what is behind it, by WCAG 2: [ratio, text] of the worst
CONTRAST = """(() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([red, green, blue]) => [red, green, blue].map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, place) => sum + value * [0.2126, 0.7152, 0.0722][place], 0);
  const behind = (node) => {
    const colour = channels(getComputedStyle(node).backgroundColor);
    return colour.length === 3 || !node.parentElement ? colour : behind(node.parentElement);
  };
  const written = [...document.body.querySelectorAll('*')].filter((node) => node.checkVisibility()
    && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
  const fields = [...document.querySelectorAll('input')].filter((node) => node.checkVisibility());
  return [...written, ...fields].map((node) => {
    const [one, other] = [light(channels(getComputedStyle(node).color)), light(behind(node))];
    return [(Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05), node.textContent || node.id];
  }).sort(([one], [other]) => one - other)[0];
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def service() -> Iterator[Stub]:
    with serving() as stub:
        yield stub


@pytest.fixture
def tab(browser: Browser, service: Stub) -> Iterator[Tab]:
    """A tab whose requests never leave the service; only the errors of the service reach its console."""
    with browser.tab() as tab:
        tab.resize(1280, 800)
        yield tab
        assert [url for url in tab.requests if not url.startswith((service.url, "about:"))] == []
        assert [error for error in tab.errors if "the server responded with a status" not in error] == []


def show(tab: Tab, service: Stub, address: str = "") -> None:
    tab.open(f"{service.url}{address}")
    tab.until(f"{LIST} > 0 && document.querySelector('.row, .large')")


def titles(tab: Tab) -> list[str]:
    return tab.texts(f"{CARDS} h3")


def focused(tab: Tab) -> str:
    return str(tab.js("document.activeElement.id || document.activeElement.innerText"))


def test_search_with_the_keyboard_shows_history_beside_recommendations(tab: Tab, service: Stub) -> None:
    tab.open(service.url)
    assert tab.until("document.querySelector('.example')?.innerText") == "ada"
    tab.press("Tab")
    assert focused(tab) == "skip"
    while focused(tab) != "query":
        tab.press("Tab")
    tab.type("a")
    tab.until("document.querySelectorAll('[role=option]').length > 2")
    assert tab.texts(".group")[0].lower() == "users"
    assert tab.text("#live") == "10 found, use the arrow keys"
    tab.press("ArrowDown", "ArrowDown", "ArrowUp")
    active = "document.getElementById(document.activeElement.getAttribute('aria-activedescendant'))"
    assert tab.js(f"[{active}.innerText.trim(), {active}.ariaSelected]") == ["ada", "true"]
    tab.press("Enter")
    tab.until(f"{LIST} === 10")
    assert focused(tab) == "query"  # who searches goes on searching
    assert tab.text("#live") == "Recommended for ada: 10 items"
    assert tab.texts(f"{CARDS} .score")[:2] == ["score 7.310", "score 6.433"]
    tab.until("document.querySelector('.row')")
    assert tab.texts(".row .id") == service.users["ada"][::-1]
    assert tab.until("document.querySelectorAll('.row img').length >= 7")
    assert tab.texts(".card:first-child .shares li") == ["text\n72%", "image\n28%"]
    width = "document.querySelector('.card .bar').offsetWidth / document.querySelector('.card .track').offsetWidth"
    assert tab.js(width) == pytest.approx(0.72, abs=0.03)
    nearest = tab.until(
        "[...document.querySelectorAll('.card:first-child .nearest li')].map((row) => row.innerText)"
    )
    assert [row.split("\n")[-1] for row in nearest] == ["0.91", "0.78", "0.65"]
    assert tab.errors == []


def test_enter_at_once_takes_the_exact_id_and_escape_closes(tab: Tab, service: Stub) -> None:
    tab.open(service.url)
    tab.js("document.getElementById('query').focus()")
    tab.type("mug-2")
    tab.press("Enter")
    tab.until(f"{LIST} === 10")
    assert tab.js("location.hash") == "#item=mug-2"
    tab.type("zzz")
    assert tab.until("document.getElementById('nothing').innerText") == "Nothing found for “zzz”."
    assert tab.js("document.activeElement.ariaExpanded") == "false"
    tab.press("Escape")
    assert tab.js("document.getElementById('suggestions').hidden")
    tab.press("Escape")
    assert tab.js("document.activeElement.value") == ""


def test_k_and_filter_change_the_list_and_not_the_way_back(tab: Tab, service: Stub) -> None:
    show(tab, service, "#user=ada")
    entries = tab.js("history.length")
    tab.js("document.getElementById('k').focus()")
    tab.type("3")
    tab.press("Enter")
    tab.until(f"{LIST} === 3")
    tab.press("Tab")
    tab.type('category == "mug"')
    tab.press("Tab", "Enter")  # the button
    tab.until(f"{LIST} === 2")
    assert tab.text("#summary") == '2 items where category == "mug" · bundle 3f9a12c4'
    assert [body for path, body in service.asked if path == "/recommend"][-1] == {
        "user": "ada",
        "k": 3,
        "where": 'category == "mug"',
        "attributes": True,
        "explain": True,
    }
    assert tab.js("history.length") == entries
    tab.call("Page.reload")
    tab.until(f"{LIST} === 2")
    assert tab.js("[document.getElementById('k').value, document.getElementById('where').value]") == [
        "3",
        'category == "mug"',
    ]
    assert (
        tab.until("document.querySelector('.row a').hash")
        == "#item=clock-1&k=3&where=category+%3D%3D+%22mug%22"
    )


def test_errors_of_input_stand_beside_their_field_and_lose_nothing(tab: Tab, service: Stub) -> None:
    show(tab, service, "#user=ada")
    before = titles(tab)
    tab.js("document.getElementById('where').focus()")
    tab.type("price <")
    tab.press("Enter")
    problem = tab.until("document.querySelector('#where-problem .problem')?.innerText").split("\n")
    assert problem[0::2] == ["expected", "found", "do"]
    assert "price <" in problem[3]
    assert tab.js("document.activeElement.ariaInvalid") == "true"
    assert titles(tab) == before
    tab.type("")
    tab.press("Enter")
    tab.until("!document.querySelector('.problem') && !document.getElementById('where').ariaInvalid")
    tab.js("document.getElementById('k').focus()")
    tab.type("0")
    tab.press("Enter")
    assert "k of at least 1" in tab.until("document.querySelector('#k-problem .problem')?.innerText")
    tab.open("about:blank")
    tab.open(f"{service.url}#user=ada&where=price+%3C")  # nothing was shown before
    tab.until("document.querySelector('#where-problem .problem')")
    assert titles(tab) == []
    assert tab.until("document.querySelectorAll('.row').length === 8")


def test_similar_items_on_click_and_the_way_back(tab: Tab, service: Stub) -> None:
    show(tab, service, "#user=ada&k=4")
    assert tab.js("document.getElementById('back').hidden")
    second = titles(tab)[1]
    tab.click(f"{CARDS}:nth-child(2) h3 a")
    tab.until(f"document.getElementById('list-title').innerText === 'Similar to {second}' && {LIST} === 4")
    assert tab.js("location.hash") == "#item=lamp-4&k=4"
    assert tab.until("document.querySelector('.large img')?.complete")
    assert tab.texts(".attributes dt") == ["category", "price", "in_stock", "colours"]
    assert tab.texts(".why") == []
    tab.js("document.querySelector('.card h3 a').focus()")
    tab.press("Enter")  # one further, by keyboard
    tab.until(f"location.hash !== '#item=lamp-4&k=4' && {LIST} === 4")
    tab.click("#back button")
    tab.until(f"location.hash === '#item=lamp-4&k=4' && {LIST} === 4")
    tab.js("history.back()")
    tab.until(f"document.getElementById('list-title').innerText === 'Recommended for ada' && {LIST} === 4")
    tab.until("document.activeElement.dataset.item === 'lamp-4'")  # Tab goes on from the card that was left
    assert tab.js("document.getElementById('back').hidden")
    assert tab.errors == []


def test_titles_are_text_and_missing_things_leave_a_calm_page(tab: Tab, service: Stub) -> None:
    show(tab, service, "#user=ada&k=20")
    assert EVIL in titles(tab)
    assert "mug-3" in titles(tab)  # no title: the id
    tab.js("scrollTo(0, document.body.scrollHeight)")
    tab.until("document.querySelectorAll('.card > .picture > img').length === 12")
    show(tab, service, "#item=lamp-3")
    assert tab.js("document.querySelector('.large').childElementCount") == 0
    tab.open(f"{service.url}#item=clock-4")
    tab.until(f"document.getElementById('list-title').innerText.includes({EVIL!r})")
    tab.open(f"{service.url}#user=new%2Fone")
    assert "histories" in tab.until("document.querySelector('#list-problem .problem')?.innerText")
    tab.open(f"{service.url}#user=nobody")
    assert "'nobody'" in tab.until("document.querySelector('#list-problem .problem')?.innerText")
    assert tab.texts(".problem button") == []  # asking again would not help


def test_a_bundle_without_pictures_and_times_promises_neither(tab: Tab, service: Stub) -> None:
    service.facts = {"pictures": False, "in_time": False}
    show(tab, service, "#user=ada")
    tab.until("document.body.classList.contains('pictureless')")
    assert (
        tab.js("[...document.querySelectorAll('.picture')].some((node) => node.checkVisibility())") is False
    )
    assert tab.texts(".row .id") == service.users["ada"]
    expected = [service.items.at[item, "title"] for item in service.users["ada"][:3]]
    shown = "[...document.querySelectorAll('.row a')].slice(0, 3).map((node) => node.innerText)"
    tab.until(f"JSON.stringify({shown}) === JSON.stringify({expected!r})")  # titles come one by one
    assert tab.text("#about-content > :first-child") == "8 items"


def test_a_busy_service_is_asked_again_by_hand(tab: Tab, service: Stub) -> None:
    service.faults["/recommend"] = [Fault(503, (("Retry-After", "2"),))]
    tab.open(f"{service.url}#user=ada")
    problem = tab.until("document.querySelector('#list-problem .problem')?.innerText")
    assert "a busy one" in problem
    assert "after 2 s" in problem
    tab.click(".problem button")
    tab.until(f"{LIST} === 10 && !document.querySelector('.problem')")
    assert tab.until("document.querySelectorAll('.row').length === 8")


def test_a_slow_answer_never_overtakes_a_newer_one(tab: Tab, service: Stub) -> None:
    held = threading.Event()
    service.faults["/recommend"] = [Fault(held=held)]
    tab.open(f"{service.url}#user=grace")
    tab.until("document.querySelectorAll('.blank').length === 10")
    assert tab.js("document.getElementById('list').ariaBusy") == "true"
    tab.js("location.hash = '#user=ada'")
    tab.until(f"{LIST} === 10")
    held.set()
    tab.js("fetch('info').then((answer) => answer.text())")  # time enough for the held answer
    assert tab.text("#list-title") == "Recommended for ada"
    assert len(titles(tab)) == 10
    aborted = "performance.getEntriesByType('resource').filter((entry) => entry.name.endsWith('/recommend'))"
    assert tab.js(f"{aborted}.map((entry) => entry.responseStatus)") == [0, 200]


def test_a_key_is_asked_for_and_kept_in_this_tab_only(tab: Tab, service: Stub) -> None:
    service.key = "sesame"
    tab.open(f"{service.url}#user=ada")
    assert "an API key" in tab.until("document.querySelector('#key-problem .problem')?.innerText")
    tab.js("document.getElementById('key').focus()")
    tab.type(" sesame ")
    tab.press("Enter")
    tab.until(f"{LIST} === 10")
    assert not tab.js("document.getElementById('access').open")
    tab.until("document.querySelectorAll('.row canvas').length === 7")  # pictures need the key as well
    assert tab.js("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]
    tab.call("Page.reload")
    tab.until(f"{LIST} === 10")


def test_a_service_that_is_gone_is_told_from_one_that_errs(tab: Tab, service: Stub) -> None:
    show(tab, service, "#user=ada")
    cut = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    tab.call("Network.emulateNetworkConditions", **cut)
    tab.js("location.hash = '#user=grace'")
    assert "no connection" in tab.until("document.querySelector('#list-problem .problem')?.innerText")
    tab.errors.clear()  # the browser's own words about it


def test_every_text_can_be_read_and_nothing_sticks_out(tab: Tab, service: Stub) -> None:
    for scheme, address in product(
        ("light", "dark"), ("#user=ada", "#item=vase-1", "#user=ada&where=price+%3C", "#user=nobody", "")
    ):
        tab.prefer(color_scheme=scheme, reduced_motion="reduce")
        tab.open("about:blank")
        tab.open(f"{service.url}{address}")
        tab.until("document.querySelector('.card:not(.blank), .problem, .example')")
        ratio, text = tab.js(CONTRAST)
        assert ratio >= 4.5, (scheme, address, ratio, text)
        assert tab.js("document.getAnimations().length") == 0
        for width in (360, 700, 1600):
            tab.resize(width, 800)
            assert tab.js("document.documentElement.scrollWidth") <= width, (width, address)


def test_the_skip_link_leads_to_the_results_and_keeps_the_address(tab: Tab, service: Stub) -> None:
    show(tab, service, "#user=ada")
    tab.press("Tab", "Enter")
    assert focused(tab) == "results"
    assert tab.js("location.hash") == "#user=ada"
    tab.press("Tab")
    assert tab.js("document.activeElement.closest('.row') !== null")
    assert tab.js("getComputedStyle(document.activeElement.closest('.row')).outlineStyle") == "solid"


def test_the_page_names_every_control_and_needs_nothing_inline() -> None:
    source = (PAGE / "index.html").read_text(encoding="utf-8")
    for forbidden in ("<style", " style=", "onclick", "http://", "https://"):
        assert forbidden not in source
    scripts = "\n".join(path.read_text(encoding="utf-8") for path in sorted(PAGE.glob("*.js")))
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert forbidden not in scripts


def test_accessible_names(tab: Tab, service: Stub) -> None:
    show(tab, service, "#user=ada&k=3")
    tree = tab.call("Accessibility.getFullAXTree")["nodes"]
    controls = [
        (node["role"]["value"], node["name"]["value"])
        for node in tree
        if not node["ignored"]
        and node["role"]["value"] in {"combobox", "textbox", "spinbutton", "button", "link", "search", "main"}
    ]
    named = {name for _, name in controls}
    assert {("combobox", "User or item"), ("spinbutton", "How many"), ("textbox", "Filter")} <= set(controls)
    assert {name for role, name in controls if role not in ("main", "search")} & {""} == set()
    assert "Teal vase with tulips" in named


def make_screenshots() -> None:
    """Write the pictures of the README: ``python -m tests.serve.test_page``."""
    import io
    import tempfile

    from PIL import Image

    SCREENSHOTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as browser, serving() as service:
        for scheme in ("light", "dark"):
            with browser.tab() as tab:
                tab.resize(1280, 800)
                tab.prefer(color_scheme=scheme, reduced_motion="reduce")
                show(tab, service, "#user=ada&k=8&where=price+%3C+70")
                tab.until("document.querySelectorAll('.nearest img').length >= 12")
                tab.until("[...document.images].every((image) => image.complete)")
                image = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
            image.quantize(128, dither=Image.Dither.NONE).save(SCREENSHOTS / f"{scheme}.png", optimize=True)


if __name__ == "__main__":
    make_screenshots()
