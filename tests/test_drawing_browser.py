"""The drawing page in a real browser: drawn on by mouse and by finger, and read like a person would.

The browser is the Chromium of the system, driven by Playwright. ``python tests/test_drawing_browser.py`` takes the
pictures of the page in ``figures/`` anew, from the stored encoder.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import pytest
import torch
from browsers import DESKTOP, PHONE, launch, playwright_api
from PIL import Image, ImageDraw

from siamese_utils.app import server as drawing_app
from siamese_utils.app.examples import CANVAS, EXAMPLE_SETS, Strokes, redrawn
from siamese_utils.encoders.checkpoints import save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.system.files import atomic_path, write_text_atomically

expect = playwright_api.expect
expect.set_options(timeout=20_000)

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

ROOT = Path(drawing_app.__file__).resolve().parents[2]
STORED = ROOT / "results" / "checkpoints" / "drawing.safetensors"


# ----------------------------------------------------------------------- the server, the browser, the hand


class Served:
    """The command ``draw`` in a process of its own, on a free port."""

    def __init__(self, checkpoint: Path) -> None:
        command = ["-m", "siamese_utils", "draw", "--checkpoint", str(checkpoint), "--port", "0", "--no-browser"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        if not found:
            raise AssertionError(line + self.process.communicate()[0])
        self.url = found[0]

    def stop(self) -> str:
        """Stop it, and give what it printed since. Not by SIGINT: what runs in the background may never get it."""
        self.process.terminate()
        return self.process.communicate(timeout=30)[0]


def draw(page: Page, pad: str, strokes: Strokes) -> None:
    """Draw with the mouse on the pad with this id."""
    canvas = page.locator(f"#{pad} canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    assert box is not None
    for stroke in strokes:
        for number, (x, y) in enumerate([*stroke[::3], stroke[-1]] if len(stroke) > 8 else stroke):
            page.mouse.move(box["x"] + x / CANVAS * box["width"], box["y"] + y / CANVAS * box["height"])
            if number == 0:
                page.mouse.down()
        page.mouse.up()


def ink(canvas: Locator) -> int:
    """How many pixels of a canvas are inked."""
    script = """canvas => {
        const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d", { willReadFrequently: true });
        copy.drawImage(canvas, 0, 0);
        return copy.getImageData(0, 0, canvas.width, canvas.height).data.filter((v, i) => i % 4 == 3 && v > 99).length;
    }"""
    return int(canvas.evaluate(script))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page with the stored encoder; where there is none, with one that has learned nothing."""
    checkpoint = STORED
    if not STORED.exists():
        checkpoint = tmp_path_factory.mktemp("browser") / "tiny.safetensors"
        torch.manual_seed(0)
        info = {"threshold": 0.5, "calibration": {"slope": 10.0, "intercept": -5.0}}
        save_encoder(Encoder("conv3", 8, image_size=28, mirror=False), checkpoint, info)
    server = Served(checkpoint)
    yield server
    assert server.stop() == "Stopped.\n"  # no warning, no traceback


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    playwright, started = launch()
    yield started
    started.close()
    playwright.stop()


class Watched:
    """A page with all that it asks for and all that it complains about."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.asked: list[str] = []
        self.complaints: list[str] = []
        context.on("request", lambda request: self.asked.append(request.url))
        self.page = context.new_page()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)
        self.page.wait_for_selector("html[data-ready]")
        self.page.set_default_timeout(20_000)


@pytest.fixture
def visit(browser: Browser, served: Served) -> Iterator[Any]:
    """Open the page; at the end nothing may have been asked of another host, and the console must be empty."""
    visits: list[Watched] = []

    def open_page(fragment: str = "", **options: Any) -> Page:
        watched = Watched(browser.new_context(**{"viewport": DESKTOP, **options}), served.url + fragment)
        visits.append(watched)
        return watched.page

    yield open_page
    for watched in visits:
        hosts = {urlparse(address).netloc for address in watched.asked if not address.startswith(("data:", "blob:"))}
        assert hosts == {urlparse(served.url).netloc}
        assert watched.complaints == []
        watched.context.close()


# -------------------------------------------------------------------------------------- same or different?


def test_two_symbols_drawn_by_mouse(visit: Any) -> None:
    """The verdict comes by itself after a stroke, and undo, clear and a further stroke change it."""
    page = visit()
    verdict, canvas = page.locator("#pair-verdict"), page.locator("#left canvas")
    assert verdict.inner_text() == "Draw a symbol in each box."
    assert page.get_by_role("button", name="Undo: Left symbol").is_disabled()
    draw(page, "left", EXAMPLE_SETS["Runes"]["gebo"])
    assert verdict.inner_text() == "Now draw in the right box."
    assert "Left symbol: 2 strokes" in canvas.get_attribute("aria-label")
    page.wait_for_selector("#left .seen.there")
    draw(page, "right", EXAMPLE_SETS["Runes"]["gebo"])
    page.wait_for_selector("#pair-verdict.same")  # the first of the two strokes has a verdict of its own
    assert verdict.inner_text().split("\n")[0] == "= Same symbol"
    assert re.fullmatch(r"(\d+|over 99)% sure", verdict.inner_text().split("\n")[1])
    assert page.locator("#pair-detail").inner_text() == "cosine similarity 1.00"
    assert "probability of the same symbol is" in page.locator("#gauge").get_attribute("aria-label")
    assert page.locator("#left .seen img").get_attribute("alt").startswith("Left symbol, as the network sees it")

    inked = ink(canvas)
    page.get_by_role("button", name="Undo: Left symbol").click()
    expect(page.locator("#pair-detail")).not_to_contain_text("1.00")
    assert "Left symbol: 1 stroke." in canvas.get_attribute("aria-label") and 0 < ink(canvas) < inked
    page.get_by_role("button", name="Clear: Left symbol").click()
    assert verdict.inner_text() == "Now draw in the left box." and ink(canvas) == 0
    assert page.locator("#gauge.on").count() == 0 and not page.locator("#left .seen").is_visible()


def test_a_line_leaves_the_canvas_and_the_pen_has_a_width(visit: Any) -> None:
    page = visit()
    canvas, pen = page.locator("#left canvas"), page.get_by_role("slider", name="Pen width")
    amounts = []
    for keys in (["Home"], ["End"]):
        for key in keys:
            pen.press(key)
        draw(page, "left", [[(200, 100), (200, 300)]])
        amounts.append(ink(canvas))
        page.get_by_role("button", name="Clear: Left symbol").click()
    assert amounts[1] > 4 * amounts[0]
    draw(page, "left", [[(350, 200), (900, 200)]])  # beyond the canvas, over the gauge
    page.wait_for_selector("#left .seen.there")
    assert "1 stroke." in canvas.get_attribute("aria-label")


def test_examples_by_keyboard_alone(visit: Any) -> None:
    page = visit()
    for _ in range(3):  # the tabs, the pen, the first example
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "One rune, drawn twice"
    page.keyboard.press("Enter")
    page.wait_for_selector("#gauge.on")
    if STORED.exists():
        assert page.locator("#pair-verdict").inner_text().startswith("= Same symbol")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        page.wait_for_selector("#pair-verdict.different")
        assert page.locator("#pair-verdict").inner_text().startswith("≠ Different symbols")
    page.get_by_role("tab", name="Same or different?").press("ArrowRight")
    assert page.get_by_role("heading", name="Support set").is_visible() and not page.locator("#gauge").is_visible()


def test_image_files(visit: Any, tmp_path: Path) -> None:
    page = visit()
    image = Image.new("L", (600, 400), 240)
    ImageDraw.Draw(image).line([(150, 80), (450, 320), (450, 100)], fill=30, width=12)
    image.save(tmp_path / "symbol.jpg")
    (tmp_path / "poem.png").write_text("No picture, a poem.")
    page.locator("#left input[type=file]").set_input_files(tmp_path / "symbol.jpg")
    page.wait_for_selector("#left .seen.there")
    assert "an uploaded symbol" in page.locator("#left canvas").get_attribute("aria-label")
    expect(page.get_by_role("button", name="Undo: Left symbol")).to_be_enabled()
    assert ink(page.locator("#left canvas")) > 500
    draw(page, "right", [[(90, 80), (300, 320), (300, 100)]])
    page.wait_for_selector("#gauge.on")

    page.locator("#left input[type=file]").set_input_files(tmp_path / "poem.png")
    complaint = page.locator("#left [role=alert]")
    complaint.wait_for()
    assert complaint.inner_text() == "This file is not an image that can be read; upload a PNG, JPEG, WebP, GIF or BMP."
    assert "an uploaded symbol" in page.locator("#left canvas").get_attribute("aria-label"), "the old one stays"
    (tmp_path / "big.png").write_bytes(bytes(10_600_000))
    page.locator("#left input[type=file]").set_input_files(tmp_path / "big.png")
    expect(complaint).to_contain_text("10 MB are allowed")
    page.get_by_role("button", name="Undo: Left symbol").click()
    assert not complaint.is_visible() and page.locator("#pair-verdict").inner_text() == "Now draw in the left box."


# --------------------------------------------------------------------------------------- your own symbols

OWN = {
    "up": EXAMPLE_SETS["Three arrows"]["up"],
    "gebo": EXAMPLE_SETS["Runes"]["gebo"],
    "moon": EXAMPLE_SETS["Weather icons"]["moon"],
}


def add(page: Page, name: str, strokes: Strokes) -> None:
    draw(page, "teach", strokes)
    page.get_by_label("Name of this symbol").fill(name)
    page.keyboard.press("Enter")


def names(page: Page) -> list[str]:
    return [field.input_value() for field in page.locator("#support input").all()]


def test_a_support_set_of_three_own_symbols(visit: Any, record_property: Any) -> None:
    """Draw one example of each, then draw each again by another hand: the right one must come first."""
    page = visit("#symbols")
    verdict = page.locator("#rank-verdict")
    assert verdict.inner_text() == "Make a support set of two symbols or more."
    for number, (name, strokes) in enumerate(OWN.items(), 1):
        add(page, name, strokes)
        assert names(page) == list(OWN)[:number]
        assert page.locator("#set-note").inner_text() == f"Added “{name}”."
        assert "New symbol: empty" in page.locator("#teach canvas").get_attribute("aria-label")
    assert verdict.inner_text() == "Draw one of the symbols here."
    assert page.locator("#count").inner_text() == "3 of 10 symbols"
    spent = []
    for number, (name, strokes) in enumerate(OWN.items()):
        again = redrawn(strokes, seed=20 + number)
        draw(page, "query", again[:1])
        page.wait_for_selector("#query .seen.there")
        for stroke in again[1:]:  # the answer follows every stroke
            page.evaluate("document.querySelector('#rank-verdict').removeAttribute('data-milliseconds')")
            draw(page, "query", [stroke])
            page.wait_for_selector("#rank-verdict[data-milliseconds]")
            spent.append(float(verdict.get_attribute("data-milliseconds")))
        assert page.locator("#ranking li").count() == 3
        assert re.search(r"cosine similarity -?\d\.\d\d$", page.locator("#ranking li").first.get_attribute("title"))
        if STORED.exists():
            assert page.locator("#ranking .who").first.inner_text() == name
            assert f"“{name}”" in verdict.inner_text()
        page.get_by_role("button", name="Clear: Which symbol?").click()
        assert verdict.inner_text() == "Draw one of the symbols here."
    record_property("milliseconds", spent)
    print("stroke end to new ranking, ms:", spent)
    assert min(spent) < 1000  # far above what it takes, for machines that do much else


def test_the_support_set_can_be_changed(visit: Any) -> None:
    page = visit("#symbols")
    note = page.locator("#set-note")
    page.get_by_role("button", name="Add to the set").click()
    assert note.inner_text() == "Draw the symbol first."
    draw(page, "teach", OWN["gebo"])
    page.get_by_role("button", name="Add to the set").click()
    assert note.inner_text() == "Type a name for the symbol first."
    page.get_by_label("Name of this symbol").fill("x" * 31)
    page.keyboard.press("Enter")
    assert "30 characters at most" in note.inner_text()
    page.get_by_label("Name of this symbol").fill("cross")
    page.keyboard.press("Enter")
    add(page, " CROSS ", OWN["gebo"])
    assert note.inner_text() == "“cross” has 2 examples now." and page.locator("#support .many").inner_text() == "2×"

    page.get_by_role("button", name="Runes", exact=True).click()
    assert names(page) == list(EXAMPLE_SETS["Runes"])
    page.get_by_role("button", name="Bring back").click()
    assert names(page) == ["cross"]
    page.get_by_role("button", name="Runes", exact=True).click()
    page.get_by_role("button", name="Draw one for me").click()
    page.wait_for_selector("#ranking li")
    if STORED.exists():
        assert page.locator("#ranking .who").first.inner_text() == "fehu"
    page.get_by_label("Name of fehu; change it here").fill("gebo")
    page.keyboard.press("Enter")
    assert note.inner_text() == "Another symbol is called “gebo” already." and names(page)[0] == "fehu"
    page.get_by_label("Name of fehu; change it here").fill("cattle")
    page.keyboard.press("Enter")
    expect(page.locator("#ranking")).to_contain_text("cattle")
    page.get_by_role("button", name="Remove cattle").click()
    assert names(page) == list(EXAMPLE_SETS["Runes"])[1:]
    for name in "abcd":
        add(page, name, OWN["gebo"])
    assert page.locator("#count").inner_text() == "10 of 10 symbols" and "which is all it holds" in note.inner_text()


def test_names_are_shown_not_run(visit: Any) -> None:
    page = visit("#symbols")
    evil = "<img src=x onerror=alert(1)>"
    page.on("dialog", lambda dialog: pytest.fail("a name was run as a program"))
    add(page, evil, OWN["gebo"])
    add(page, "<b>bold</b>", OWN["up"])
    draw(page, "query", OWN["gebo"])
    page.wait_for_selector("#ranking li")
    assert names(page) == [evil, "<b>bold</b>"]
    assert set(page.locator("#ranking .who").all_inner_texts()) == {evil, "<b>bold</b>"}
    assert page.locator("#ranking img, #ranking b, #rank-verdict img, #set-note img, #support img").count() == 0


def test_two_pages_do_not_disturb_each_other(visit: Any) -> None:
    one, two = visit("#symbols"), visit("#symbols")
    one.get_by_role("button", name="Runes", exact=True).click()
    two.get_by_role("button", name="Three arrows").click()
    for page in (one, two):
        draw(page, "query", OWN["up"])
    for page, group in ((one, "Runes"), (two, "Three arrows")):
        page.wait_for_selector("#ranking li")
        assert set(page.locator("#ranking .who").all_inner_texts()) == set(EXAMPLE_SETS[group])


# -------------------------------------------------------------------------------------- phones and trouble


def test_a_phone_and_a_finger(visit: Any) -> None:
    """Fingers draw and do not scroll the page; nothing is wider than the screen."""
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    session = page.context.new_cdp_session(page)

    def touch(pad: str, points: list[tuple[float, float]]) -> None:
        page.locator(f"#{pad} canvas").scroll_into_view_if_needed()
        box = page.locator(f"#{pad} canvas").bounding_box()
        for number, (x, y) in enumerate(points):
            place = {"x": box["x"] + x / CANVAS * box["width"], "y": box["y"] + y / CANVAS * box["height"]}
            kind = "touchStart" if number == 0 else "touchMove"
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [place]})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def wide() -> bool:
        return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))

    before = page.evaluate("scrollY")
    for pad in ("left", "right"):
        touch(pad, [(100, 100), (180, 180), (300, 300)])
        touch(pad, [(300, 100), (200, 200), (100, 300)])
    page.wait_for_selector("#pair-verdict.same")  # the first of the two strokes has a verdict of its own
    assert page.evaluate("scrollY") == before and not wide()
    assert "2 strokes" in page.locator("#right canvas").get_attribute("aria-label")
    page.get_by_role("tab", name="Your own symbols").click()
    page.get_by_role("button", name="Weather icons").click()
    page.get_by_role("button", name="Draw one for me").click()
    page.wait_for_selector("#ranking li")
    assert page.locator("#ranking li").count() == len(EXAMPLE_SETS["Weather icons"]) and not wide()


def test_every_picture_has_words_and_every_control_a_name(visit: Any) -> None:
    page = visit()
    page.get_by_role("button", name="One rune, drawn twice").click()
    page.wait_for_selector("#gauge.on")
    page.get_by_role("tab", name="Your own symbols").click()
    page.get_by_role("button", name="Three arrows").click()
    page.get_by_role("button", name="Draw one for me").click()
    page.wait_for_selector("#ranking li")
    nameless = page.evaluate(
        """[...document.querySelectorAll('canvas, svg, .seen.there img, button, input')]
        .filter(one => !(one.getAttribute('aria-label') || one.alt || one.textContent.trim() || one.labels?.length))
        .map(one => one.outerHTML)"""
    )
    assert nameless == []
    assert (
        page.evaluate("new Set([...document.querySelectorAll('[id]')].map(one => one.id)).size")
        == page.locator("[id]").count()
    )


def test_the_page_says_when_its_server_is_gone(browser: Browser, served: Served) -> None:
    context = browser.new_context(viewport=DESKTOP)
    page = context.new_page()
    page.goto(served.url)
    page.wait_for_selector("html[data-ready]")
    context.set_offline(True)
    draw(page, "left", OWN["gebo"])
    page.wait_for_selector("#trouble:not([hidden])")
    assert "does not answer" in page.locator("#trouble").inner_text()
    context.set_offline(False)
    draw(page, "left", OWN["up"])
    page.wait_for_selector("#trouble", state="hidden")
    context.close()


def test_the_browser_itself_refuses_other_hosts(browser: Browser, served: Served) -> None:
    """The policy works: what the page would load from elsewhere is not even asked for."""
    context = browser.new_context()
    asked: list[str] = []
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto(served.url)
    script = "fetch('http://127.0.0.1:9/x').then(() => 'loaded', () => 'refused')"
    assert page.evaluate(script) == "refused"
    assert not [address for address in asked if ":9/" in address]
    context.close()


# ------------------------------------------------------------------------------------------- its pictures

PICTURES = {
    "08_draw_pairs": "The drawing page, asked whether two symbols are the same. In the left and the right box a rune "
    "is drawn, the second time by a less steady hand; above each box stands the small picture that the network sees. "
    "Between them the needle of a gauge points to 'same'.",
    "08_draw_symbols": "The drawing page with a support set of eight runes, one example each. A query is drawn "
    "beside it, and the eight runes are ranked by the probability of being the same symbol; the right one comes first.",
}


def take_pictures(folder: Path, **options: Any) -> None:
    """Save a picture of each mode, and its alternative text."""
    server = Served(STORED)
    playwright, browser = launch()
    try:
        context = browser.new_context(
            **{"viewport": {"width": 1180, "height": 700}, "device_scale_factor": 1.5, **options}
        )
        for name, alt in PICTURES.items():
            page = context.new_page()
            page.goto(server.url + ("#symbols" if "symbols" in name else ""))
            page.wait_for_selector("html[data-ready]")
            if "symbols" in name:
                page.get_by_role("button", name="Runes", exact=True).click()
                for _ in range(3):  # the third, so that the first answers have warmed everything up
                    page.evaluate("document.querySelector('#rank-verdict').removeAttribute('data-milliseconds')")
                    page.get_by_role("button", name="Draw one for me").click()
                    page.wait_for_selector("#rank-verdict[data-milliseconds]")
            else:
                page.get_by_role("button", name="One rune, drawn twice").click()
                page.wait_for_selector("#gauge.on")
            page.mouse.move(0, 0)
            page.evaluate("document.activeElement.blur()")
            page.wait_for_timeout(500)  # the needle swings
            shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
            with atomic_path(folder / f"{name}.png") as temporary:
                shot.quantize(128, dither=Image.Dither.NONE).save(temporary, "PNG", optimize=True)
            write_text_atomically(folder / f"{name}.alt.txt", alt + "\n")
            print(page.locator("#pair-verdict, #rank-verdict").all_inner_texts())
    finally:
        browser.close()
        playwright.stop()
        server.stop()


if __name__ == "__main__":
    take_pictures(ROOT / "figures")
