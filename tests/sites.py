"""A walk through a rendered report in a real browser, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize


@dataclass(frozen=True)
class Way:
    """A window and a colour scheme in which a page is looked at; ``None`` keeps those of the context."""

    viewport: ViewportSize | None = None
    scheme: Literal["light", "dark"] | None = None


LOOK = """() => {
    const channels = colour => colour.match(/[0-9.]+/g).map(Number);
    const luminance = colour => channels(colour).slice(0, 3).map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = element => {
        for (; element; element = element.parentElement) {
            const colour = getComputedStyle(element).backgroundColor;
            if ((channels(colour)[3] ?? 1) > 0.5) return colour;
        }
        return "rgb(255, 255, 255)";
    };
    const known = new Map();
    const contrast = (colour, behind) => {
        const pair = colour + behind;
        if (!known.has(pair)) {
            const [text, back] = [luminance(colour), luminance(behind)];
            known.set(pair, (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05));  // as WCAG defines it
        }
        return known.get(pair);
    };
    const readable = element => contrast(getComputedStyle(element).color, ground(element)) >= 4;
    for (const closed of document.querySelectorAll("details")) closed.open = true;
    const faint = new Set();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        if (texts.currentNode.data.trim() && element.checkVisibility() && !readable(element))
            faint.add(texts.currentNode.data.trim().slice(0, 40));
    }
    const tables = [...document.querySelectorAll(".scroll")].map(frame => {
        const {backgroundImage, backgroundAttachment} = getComputedStyle(frame);
        const first = [...frame.querySelectorAll("th:first-child, td:first-child")].filter(one => one.colSpan === 1);
        return {
            name: (frame.querySelector("caption, th, td")?.textContent ?? "").slice(0, 40),
            beyond: frame.scrollWidth - frame.clientWidth,
            shaded: backgroundImage.split("linear-gradient").length === 5
                && backgroundAttachment === "local, local, scroll, scroll",
            held: first.every(one => getComputedStyle(one).position === "sticky"),
            first: Math.max(0, ...first.map(one => one.getBoundingClientRect().width)),
        };
    });
    const named = image => (image.getAttribute("alt") || image.getAttribute("aria-label") || "").trim();
    const images = [...document.images];
    return {
        title: document.title,
        headings: document.querySelectorAll("h1").length,
        ids: [...document.querySelectorAll("[id]")].map(one => one.id),
        links: [...document.querySelectorAll("a[href]")].map(one => one.getAttribute("href")),
        nameless: images.filter(image => !named(image) || /no description/i.test(named(image))).length,
        broken: images.filter(image => !image.complete || image.naturalWidth === 0).map(named),
        faults: [...document.querySelectorAll(".tex-error, merror")].map(one => one.textContent),
        width: document.documentElement.scrollWidth,
        window: window.innerWidth,
        faint: [...faint],
        tables,
        background: getComputedStyle(document.body).backgroundColor,
    };
}"""
"""What a script in the page can tell about it."""


def walk(
    browser: Browser, site: Path, ways: Sequence[Way] = (Way(),), **options: Any
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Open every page that can be reached from the index, from the disk and without a network.

    Args:
        browser: to open them in.
        site: folder of the pages.
        ways: in which each page is looked at, one after the other.
        options: of the browser's context: ``viewport``, ``color_scheme``, ``java_script_enabled`` ...

    Returns:
        what ``LOOK`` found on each page in the first of the ways, by its name, and a sentence for everything that is
        wrong in any of them.
    """
    context = browser.new_context(offline=True, **options)
    problems: list[str] = []
    pages: dict[str, dict[str, Any]] = {}
    todo = ["index.html"]
    while todo:
        name = todo.pop()
        page = context.new_page()
        _listen(page, name, problems)
        page.goto((site / name).as_uri())
        page.wait_for_load_state()
        looks = [_look(page, way) for way in ways]
        pages[name] = looks[0]
        problems += dict.fromkeys(f"{name}: {problem}" for look in looks for problem in _seen(look))
        page.close()
        for link in pages[name]["links"]:
            target = unquote(urlsplit(link).path)
            if urlsplit(link).scheme or not target or target in pages or target in todo:
                continue
            if not (site / target).is_file():
                problems.append(f"{name}: the link to {link} leads nowhere.")
            elif target.endswith(".html"):
                todo.append(target)
    context.close()
    problems += _lost_anchors(pages)
    problems += [f"{path.name}: no link leads there." for path in site.glob("*.html") if path.name not in pages]
    return pages, problems


def _look(page: Page, way: Way) -> dict[str, Any]:
    if way.viewport:
        page.set_viewport_size(way.viewport)
    if way.scheme:
        page.emulate_media(color_scheme=way.scheme)
    return page.evaluate(LOOK)


def _listen(page: Page, name: str, problems: list[str]) -> None:
    def asked(url: str) -> None:
        if urlsplit(url).scheme not in ("file", "data", "blob", "about"):
            problems.append(f"{name}: asks for {url}.")

    page.on("request", lambda request: asked(request.url))
    page.on("requestfailed", lambda request: problems.append(f"{name}: {request.url} could not be fetched."))
    page.on("console", lambda message: problems.append(f"{name}: the console says {message.text}."))
    page.on("pageerror", lambda error: problems.append(f"{name}: a script failed: {error}."))


def _seen(look: dict[str, Any]) -> Iterable[str]:
    if not look["title"].strip() or look["headings"] != 1:
        yield f"{look['headings']} main headings and the title {look['title']!r}."
    if look["nameless"]:
        yield f"{look['nameless']} images without alt text."
    for name in look["broken"]:
        yield f"the image {name!r} is broken."
    for fault in look["faults"]:
        yield f"the equation {fault!r} cannot be set."
    if look["width"] > look["window"]:
        yield f"is {look['width']} pixels wide in a window of {look['window']}."
    if len(set(look["ids"])) != len(look["ids"]):
        yield "an id stands there twice."
    yield from _cut_tables(look)
    for text in look["faint"]:
        yield f"the text {text!r} hardly differs from its ground."


def _cut_tables(look: dict[str, Any]) -> Iterable[str]:
    for table in look["tables"]:
        if table["beyond"] > 0 and not table["shaded"]:
            yield f"the table {table['name']!r} is cut, and nothing shows that it scrolls."
        if table["beyond"] > 0 and look["window"] < 640 and not table["held"]:
            yield f"the first column of the table {table['name']!r} scrolls away."
        if table["held"] and table["first"] > look["window"] / 2:
            yield f"the first column of the table {table['name']!r} leaves no room for the others."


def _lost_anchors(pages: dict[str, dict[str, Any]]) -> Iterable[str]:
    for name, look in pages.items():
        for link in look["links"]:
            parts = urlsplit(link)
            target = unquote(parts.path) or name
            if parts.scheme or not parts.fragment or target not in pages:
                continue
            if unquote(parts.fragment) not in pages[target]["ids"]:
                yield f"{name}: the link to {link} names a place that is not there."
