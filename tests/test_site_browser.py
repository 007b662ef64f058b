"""The rendered report in a real browser: complete, quiet, readable on a phone, and it asks for nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from browsers import DESKTOP, PHONE, browsing
from nbformat.v4 import new_output
from sites import Way, walk
from test_report import code, display, png, write

from siamese_utils.report import site as report
from siamese_utils.report.execute import numbered_notebooks

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


ROOT = Path(__file__).resolve().parents[1]
# As `page.start` shows it: light colours of its own, whatever the page's.
BANNER = "<div class='siamese-banner' style='background:#EAF4FB;color:#123'>Profile <code>report</code></div>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as started:
        yield started


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pages with all that notebooks hold: figures, wide tables, long lines, equations, links."""
    root = tmp_path_factory.mktemp("site")
    cells = "".join(f"<td>{number}.123456789</td>" for number in range(30))
    write(
        root / "notebooks" / "01_first.ipynb",
        "# First\n\nWhat is there: [the second](02_second.ipynb#A-part), $a^2$ and $$\\sum_{i=1}^{N} x_i^2 = 1$$\n\n"
        f"| {' | '.join('abcdefghij')} |\n|{'---|' * 10}\n| {' | '.join(['a long cell'] * 10)} |",
        code("x = 1", display({"image/png": png()}, {"image/png": {"alt": "A navy square."}})),
        code("banner", display({"text/html": BANNER})),
        code("table", display({"text/html": f"<table class='dataframe'><tbody><tr>{cells}</tr></tbody></table>"})),
        code("x" * 200, new_output("stream", name="stdout", text="y" * 300)),
        "## Zürich & &lt;b> 50%\n\nIt took 2.5 hours.",
        code("secret = 1"),
    )
    write(root / "notebooks" / "02_second.ipynb", "# Second\n\nBack to [the first](01_first.ipynb).", "## A part")
    report.build_report(root / "notebooks", root / "out", execute=False)
    return root / "out"


@pytest.mark.parametrize(
    "options",
    [
        {"viewport": DESKTOP},
        {"viewport": PHONE},
        {"viewport": PHONE, "color_scheme": "dark"},
        {"viewport": {"width": 320, "height": 600}},
    ],
    ids=["desktop", "phone", "dark phone", "narrow"],
)
def test_every_page_is_sound(options: dict[str, Any], browser: Browser, site: Path) -> None:
    pages, problems = walk(browser, site, **options)
    assert problems == []
    assert set(pages) == {"index.html", "01_first.html", "02_second.html"}


def test_every_page_of_the_stored_report_is_sound(browser: Browser, tmp_path: Path) -> None:
    """Wide and narrow, light and dark; at a desktop's width every table fits its column."""
    report.build_report(ROOT / "notebooks", tmp_path, execute=False)
    ways = [Way(viewport, scheme) for viewport in (DESKTOP, PHONE) for scheme in ("light", "dark")]
    pages, problems = walk(browser, tmp_path, ways)
    assert problems == []
    assert set(pages) == {"index.html", *(f"{path.stem}.html" for path in numbered_notebooks(ROOT / "notebooks"))}
    wide = {name: [one["name"] for one in look["tables"] if one["beyond"] > 0] for name, look in pages.items()}
    assert not any(wide.values()), wide


def test_light_and_dark_differ(browser: Browser, site: Path) -> None:
    light, dark = (walk(browser, site, color_scheme=scheme)[0] for scheme in ("light", "dark"))
    assert all(light[name]["background"] != dark[name]["background"] for name in light)


FAULTS = {
    "could not be fetched": "<img alt='x' src='none.png'>",
    "is broken": "<img alt='x' src='data:image/png;base64,AAAA'>",
    "without alt text": f"<img src='data:image/png;base64,{png()}'>",
    "asks for http://127.0.0.1:9/x": "<script>fetch('http://127.0.0.1:9/x').catch(() => 0)</script>",
    "the console says oops": "<script>console.error('oops')</script>",
    "a script failed": "<script>throw new Error('oops')</script>",
    "leads nowhere": "<a href='none.html'>none</a>",
    "names a place that is not there": "<a href='#none'>none</a>",
    "pixels wide in a window of 390": "<p style='width: 600px'>wide</p>",
    "cannot be set": "<code class='tex-error'>x</code>",
    "nothing shows that it scrolls": "<div class='scroll' style='overflow-x: auto; width: 90px'><table><td>"
    f"{'x' * 99}</table></div>",
    "scrolls away": "<div class='scroll' style='overflow-x: auto; width: 90px'><table><td>"
    + "x" * 99
    + "</table></div>",
    "leaves no room": "<div class='scroll'><table><td style='position: sticky; width: 300px'>x</table></div>",
    "an id stands there twice": "<p id='a'>a</p><p id='a'>b</p>",
    "2 main headings": "<h1>Another</h1>",
    "the text 'T' hardly differs": "<style>body { color: #fff; background: #fff }</style>",
    "the text 'dim' hardly differs": "<p style='color: #123'><code style='background: #222'>dim</code></p>",
}


@pytest.mark.parametrize("problem", FAULTS)
def test_the_walk_finds_what_is_wrong(problem: str, browser: Browser, tmp_path: Path) -> None:
    page = "<!doctype html><title>T</title><meta name='viewport' content='width=device-width'><h1>T</h1>"
    (tmp_path / "index.html").write_text(page)
    assert walk(browser, tmp_path, viewport=PHONE)[1] == []
    (tmp_path / "index.html").write_text(page + FAULTS[problem])
    assert any(problem in found for found in walk(browser, tmp_path, viewport=PHONE)[1])


def test_the_walk_finds_a_page_that_nothing_leads_to(browser: Browser, tmp_path: Path) -> None:
    for name in ("index.html", "lost.html"):
        (tmp_path / name).write_text("<!doctype html><title>T</title><h1>T</h1>")
    assert walk(browser, tmp_path)[1] == ["lost.html: no link leads there."]


# --- what scripts add: search, and buttons that copy --------------------------------------------------------


@pytest.fixture
def opened(browser: Browser, site: Path) -> Iterator[Callable[..., Page]]:
    """Opens a page of the site in a context of its own, which may ask nobody for anything."""
    contexts = []
    asked: list[str] = []

    def opening(name: str, **options: Any) -> Page:
        context = browser.new_context(offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: asked.append(str(error)))
        page.goto((site / name).as_uri())
        return page

    yield opening
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def found(page: Page) -> list[str]:
    return page.eval_on_selector_all("#search-found a", "all => all.map(one => one.getAttribute('href'))")


def at(page: Page) -> str:
    """Where a page is: its file and the heading."""
    return unquote(page.url.rpartition("/")[2])


def test_search_by_keyboard_alone(opened: Callable[..., Page]) -> None:
    page = opened("01_first.html")
    dialog, words = page.locator("dialog.search"), page.locator("#search-words")
    page.keyboard.press("/")
    assert dialog.is_visible() and page.evaluate("document.activeElement.id") == "search-words"
    page.keyboard.type("a")
    assert words.input_value() == "a" and len(found(page)) == 2
    words.fill("back first")
    assert found(page) == ["02_second.html"]
    words.fill("par")  # a heading's words come before the text's
    assert found(page)[0] == "02_second.html#A-part"
    assert page.locator("#search-found mark").first.text_content() == "part"
    chosen = page.locator("[role=option][aria-selected=true]")
    words.fill("a")
    for key, place in (("ArrowDown", 1), ("ArrowDown", 0), ("ArrowUp", 1), ("ArrowUp", 0)):
        page.keyboard.press(key)
        assert chosen.count() == 1 and chosen.get_attribute("id") == f"search-found-{place}"
        assert words.get_attribute("aria-activedescendant") == f"search-found-{place}"
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.keyboard.press("Control+k")
    words.fill("part")
    page.keyboard.press("Enter")
    page.wait_for_url("**/02_second.html#A-part")
    page.keyboard.press("/")
    words.fill("part")
    page.keyboard.press("Enter")  # on the page itself
    assert not dialog.is_visible() and at(page) == "02_second.html#A-part"


def test_search_knows_beginnings_accents_and_what_is_not_there(opened: Callable[..., Page]) -> None:
    page = opened("index.html")
    page.keyboard.press("/")
    for query, places in {
        "ZURI": ["01_first.html#Zürich-&-<b>-50%"],
        "zürich 2.5": ["01_first.html#Zürich-&-<b>-50%"],
        "zurich navy": [],
        "navy square": ["01_first.html"],
        "urich": [],
        " ?! ": [],
        "secret": [],
    }.items():
        page.fill("#search-words", query)
        assert [unquote(place) for place in found(page)] == places, query
        assert page.locator("#search-said").text_content() == (
            ""
            if query == " ?! "
            else f"{len(places)} place"
            if places
            else "Nothing found. Every word must occur; beginnings of words do."
        )
    page.fill("#search-words", "zurich")
    page.keyboard.press("Enter")
    page.wait_for_url("**/01_first.html#*")
    assert page.evaluate("document.querySelector(':target').textContent").startswith("Zürich & <b> 50%")


def test_search_by_touch(opened: Callable[..., Page]) -> None:
    page = opened("index.html", viewport=PHONE, has_touch=True, is_mobile=True)
    page.tap(".top .find")
    page.locator("#search-words").fill("part")
    box = page.locator("dialog.search").bounding_box()
    assert box is not None and (box["width"], box["height"]) == (PHONE["width"], PHONE["height"])
    page.locator("#search-found a").first.tap()
    page.wait_for_url("**/02_second.html#A-part")
    page.tap(".top .find")
    page.tap("dialog.search .field button")
    assert not page.locator("dialog.search").is_visible()


def test_a_code_cell_is_copied_as_it_stands(opened: Callable[..., Page]) -> None:
    page = opened("01_first.html", permissions=["clipboard-read", "clipboard-write"])
    page.click("details.code >> nth=0")
    page.click("details.code[open] .copyable button")
    page.wait_for_function("document.querySelector('.copyable button').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == "x = 1"


def test_every_heading_has_a_link_that_touch_shows(opened: Callable[..., Page]) -> None:
    page = opened("02_second.html", viewport=PHONE, has_touch=True, is_mobile=True)
    anchor = page.locator("h2 .anchor")
    assert anchor.evaluate("one => getComputedStyle(one).opacity") == "1"
    assert anchor.get_attribute("aria-label") == "Link to: A part"
    anchor.tap()
    assert at(page) == "02_second.html#A-part"


def test_pages_read_without_scripts(opened: Callable[..., Page]) -> None:
    page = opened("01_first.html", java_script_enabled=False)
    assert not page.locator(".find").first.is_visible() and not page.locator("dialog").is_visible()
    assert page.locator("article p").first.is_visible() and page.locator("details.code").first.is_visible()
    page.click("a[rel=next]")
    assert at(page) == "02_second.html"


def test_paper_holds_the_text_alone_and_all_of_it(opened: Callable[..., Page]) -> None:
    page = opened("01_first.html", viewport={"width": 680, "height": 960}, color_scheme="dark")
    page.click(".facts button")  # all code is shown
    page.emulate_media(media="print", color_scheme="dark")
    for gone in (".top", ".side", ".turn", ".anchor", "button", "dialog", "details.code > summary"):
        assert not any(one.is_visible() for one in page.locator(gone).all()), gone
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(30, 33, 38)"
    cut = """() => [...document.querySelectorAll("article pre, article .highlight, article .text")]
        .filter(one => one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1).length"""
    assert page.locator("pre").count() > 2 and page.evaluate(cut) == 0
    figure = page.locator("figure img").first
    assert figure.evaluate("one => getComputedStyle(one).breakInside") == "avoid"
    assert page.pdf(format="A4").startswith(b"%PDF")
