"""The pages of answers, of a check and of a search in a real browser: quiet, complete, for keyboards and phones."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browsers import DESKTOP, browsing
from folders import KINDS, Eyes, class_folders
from PIL import Image
from sites import Way, walk
from test_answers import EVIL, answers

from siamese_utils.data.photos import find_photos
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.recognition.answers import write_answers
from siamese_utils.recognition.check import check_folder
from siamese_utils.recognition.classifier import classify_folder
from siamese_utils.system.files import atomic_path, write_text_atomically

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE = {"width": 375, "height": 667}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as started:
        yield started


@pytest.fixture(scope="module")
def page_of_answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty answers, one of them to a file whose name is markup, in a class whose name is."""
    folder = tmp_path_factory.mktemp("answers")
    table = answers(folder, 60)
    query = folder / EVIL.replace("/", "∕")
    shutil.copy(table["query"][5], query)
    table.loc[5, ["query", "prediction", "probability"]] = [str(query), EVIL, 0.3]
    return write_answers(table, folder / "site" / "index.html", "eyes", "It has seen colours.")


@pytest.fixture(scope="module")
def page_of_a_check(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = class_folders(tmp_path_factory.mktemp("check") / "<b>my examples", dict.fromkeys(KINDS, 5))
    shutil.move(folder / "rust" / "3.png", folder / "sky" / "9.png")
    shutil.copy(folder / "moss" / "2.png", folder / "moss" / f"a{EVIL.replace('/', '∕')}")
    (folder / "sky" / "<i>.png").write_bytes(b"no image")
    return check_folder(folder, Eyes(), skip_unreadable=True).save(folder.parent / "site" / "index.html")


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a page in a context of its own; whatever goes wrong in it fails the test."""
    contexts, wrong = [], []

    def opening(file: Path, **options: Any) -> Page:
        context = browser.new_context(offline=True, **{"viewport": DESKTOP, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on("console", lambda message: wrong.append(message.text))
        page.on("request", lambda request: wrong.append(request.url))
        page.goto(file.as_uri())
        return page

    yield opening
    for context in contexts:
        context.close()
    assert [one for one in wrong if not one.startswith(("file:", "data:"))] == []


def headings(page: Page) -> list[str]:
    return page.eval_on_selector_all(".card h3", "all => all.map(one => one.firstChild.data)")


@pytest.mark.parametrize("which", ["page_of_answers", "page_of_a_check"])
def test_pages_are_sound_at_every_width(which: str, browser: Browser, request: pytest.FixtureRequest) -> None:
    """Nothing is fetched or broken, every image has its text, no text is faint, nothing sticks out."""
    site = request.getfixturevalue(which).parent
    ways = [Way(window) for window in (DESKTOP, PHONE, {"width": 320, "height": 600})] + [Way(PHONE, "dark")]
    pages, problems = walk(browser, site, ways)
    # Tables of these pages scroll in their frame, which can be reached by keyboard.
    assert [problem for problem in problems if "scrolls" not in problem] == []
    assert pages["index.html"]["background"] == "rgb(244, 245, 247)"


def test_doubtful_answers_come_first_each_beside_its_examples(
    opened: Callable[..., Page], page_of_answers: Path
) -> None:
    page = opened(page_of_answers)
    assert page.locator(".card").count() == 24
    assert headings(page)[:3] == ["none of these", EVIL, "sky"]
    assert page.locator(".card .mark").all_inner_texts()[:2] == ["unknown", "doubtful"]
    first = page.locator(".card").nth(2)
    assert first.locator(".near li").count() == 3 and first.locator(".bars dt").first.inner_text() == "sky"
    widths = first.locator(":scope > div .track span").evaluate_all("all => all.map(one => one.style.width)")
    assert widths == ["90%", "60%", "30%"]
    assert page.locator(".card img").first.evaluate("one => [one.naturalWidth, one.naturalHeight]") == [96, 96]
    assert "none of" not in page.locator("#count").inner_text()


def test_answers_are_chosen_by_class_kind_and_name(opened: Callable[..., Page], page_of_answers: Path) -> None:
    page = opened(page_of_answers)
    page.select_option("#kind", "unknown")
    assert set(headings(page)) == {"none of these"}
    page.select_option("#kind", "doubtful")
    assert headings(page) == [EVIL, "sky"] and page.locator("#count").inner_text() == "2 of 2 answers shown."
    page.select_option("#class", "=sky")
    assert headings(page) == ["sky"]
    page.select_option("#kind", "")
    assert page.locator("#count").inner_text() == "15 of 15 answers shown."
    page.select_option("#class", f"={EVIL}")
    assert headings(page) == [EVIL] and page.locator(".card img[onerror]").count() == 0
    page.select_option("#class", "")
    page.fill("#word", "QUERY 5")
    assert page.locator("#count").inner_text() == "10 of 10 answers shown."  # 50 to 59; 5 has another name
    page.fill("#word", "nothing")
    assert page.locator(".card").count() == 0
    assert page.locator("#count").inner_text() == "None of the answers is of this kind."
    page.fill("#word", "")
    page.select_option("#by", label="by file name")
    names = page.locator(".card > div:first-child .file").all_inner_texts()
    assert names[1:4] == ["query 0.png", "query 1.png", "query 2.png"], "numbers count as numbers"
    page.select_option("#by", label="surest first")
    assert headings(page)[-1] != EVIL and "none of these" not in headings(page)


def test_by_keyboard_alone(opened: Callable[..., Page], page_of_answers: Path) -> None:
    page = opened(page_of_answers)
    at = "document.activeElement.id || document.activeElement.textContent"
    seen = []
    for _ in range(5):
        page.keyboard.press("Tab")
        seen.append(page.evaluate(at))
    assert seen == ["class", "kind", "by", "word", "more"]
    page.keyboard.press("Enter")
    assert page.locator(".card").count() == 48
    assert page.evaluate("[...document.querySelectorAll('h3')].indexOf(document.activeElement)") == 24
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator(".card").count() == 60 and not page.locator("#more").is_visible()
    assert page.evaluate("[...document.querySelectorAll('h3')].indexOf(document.activeElement)") == 48


def test_one_column_on_a_phone(opened: Callable[..., Page], page_of_answers: Path) -> None:
    page = opened(page_of_answers, viewport=PHONE, is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    boxes = [page.locator(".card").nth(number).bounding_box() for number in range(3)]
    assert len({box["x"] for box in boxes}) == 1 and all(box["width"] > 330 for box in boxes)
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    examples = [page.locator(".near").first.locator("li").nth(number).bounding_box() for number in range(3)]
    assert len({box["y"] for box in examples}) == 1 and examples[2]["x"] + examples[2]["width"] < 375
    for name in ("#class", "#more"):
        assert page.locator(name).bounding_box()["height"] >= 36


def test_the_page_of_a_check(opened: Callable[..., Page], page_of_a_check: Path) -> None:
    page = opened(page_of_a_check)
    assert page.locator("h1").inner_text() == "How well will <b>my examples work?"
    assert headings(page) == ["sky? It looks like rust", "moss: same file"]
    assert "<i>.png is not a readable image" in page.locator("main").inner_text()
    page.select_option("#kind", "doubled")
    assert headings(page) == ["moss: same file"]
    page.select_option("#kind", "")
    page.select_option("#class", "=rust")  # the label, or what it looks like
    assert headings(page) == ["sky? It looks like rust"]


def test_the_tables_of_a_check_fit_a_phone(opened: Callable[..., Page], page_of_a_check: Path) -> None:
    page = opened(page_of_a_check, viewport={"width": 390, "height": 844})
    widths = page.eval_on_selector_all(".scroll", "all => all.map(one => [one.scrollWidth, one.clientWidth])")
    assert len(widths) == 3 and all(inside <= frame for inside, frame in widths)
    assert "remark" in page.locator("thead").first.inner_text()


def test_a_name_cannot_run_a_script(opened: Callable[..., Page], tmp_path: Path) -> None:
    """The policy holds even if markup got through: only this package's own script runs."""
    file = write_answers(answers(tmp_path, 2), tmp_path / "a.html")
    html = file.read_text().replace("</main>", "<script>document.title = 'taken'</script><b onclick='x()'></b></main>")
    context = opened(file).context
    page = context.new_page()
    page.set_content("<p>")
    file.write_text(html)
    page.goto(file.as_uri())
    assert page.title() == "Which of your classes is it?" and page.locator(".card").count() == 2


# ------------------------------------------------------------------------------------------- its picture

PICTURE = "10_answers_page"
ALT = (
    "The page of answers for photographs of ten kinds of thing, of which a class folder held five each. The answers "
    "stand below one another, doubtful ones first: on the left the photograph, beside it the class with its "
    "probability, or that it is none of these, and bars of the similarity to five classes, on the right the three "
    "examples that are most like it. The first ones are marked as unknown."
)


def take_picture(folder: Path, classes: int = 10, shots: int = 5) -> None:
    """Save a picture of the page of answers to real photographs, and its alternative text."""
    photos = find_photos().half("reporting")
    with tempfile.TemporaryDirectory() as name:
        support, queries = Path(name) / "support", Path(name) / "queries"
        for label, kind in enumerate(photos.class_names[:classes]):
            files = [photos.files[row] for row in (photos.labels == label).nonzero().flatten().tolist()]
            for number, file in enumerate(files[: shots + 2]):
                target = support / kind if number < shots else queries
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target / (file.name if number < shots else f"{kind} {number}.jpg"))
        for number, file in enumerate(photos.unknown[:3]):
            shutil.copy(file, queries / f"something else {number}.jpg")
        encoder = load_encoder("efficientnet-lite0")
        table = classify_folder(encoder, support, queries, top=5)
        page = write_answers(table, Path(name) / "answers.html", encoder.name, encoder.note)
        with browsing() as browser:
            context = browser.new_context(viewport={"width": 1180, "height": 1010}, device_scale_factor=1.5)
            opened_page = context.new_page()
            opened_page.goto(page.as_uri())
            shot = Image.open(io.BytesIO(opened_page.screenshot())).convert("RGB")
    with atomic_path(folder / f"{PICTURE}.png") as temporary:
        shot.quantize(128, dither=Image.Dither.NONE).save(temporary, "PNG", optimize=True)
    write_text_atomically(folder / f"{PICTURE}.alt.txt", ALT + "\n")


if __name__ == "__main__":
    take_picture(Path(__file__).resolve().parents[1] / "figures")
