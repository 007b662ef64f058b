"""The rendered report in a real browser: complete, quiet, readable on a phone, and it asks for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browsers import DESKTOP, PHONE, browsing
from nbformat.v4 import new_output
from sites import walk
from test_report import code, display, png, write

from siamese_utils.report import site as report

if TYPE_CHECKING:
    from playwright.sync_api import Browser


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
