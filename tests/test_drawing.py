"""The drawing demo without a browser: drawings, image files, answers, the server, and its place in a notebook."""

from __future__ import annotations

import base64
import io
import json
import re
import signal
import socket
import sys
import threading
import types
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from siamese_utils.app import drawing
from siamese_utils.app import notebook as app_notebook
from siamese_utils.app import server as drawing_app
from siamese_utils.app.drawing import (
    Drawing,
    DrawingModel,
    Stroke,
    parse_drawing,
    parse_name,
    parse_support,
    read_upload,
    render,
)
from siamese_utils.app.examples import CANVAS, EXAMPLE_PAIRS, EXAMPLE_SETS, redrawn
from siamese_utils.app.server import DrawingServer, answer, start_values
from siamese_utils.data.symbols import canonical_symbol, symbol_images
from siamese_utils.encoders.checkpoints import save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, ConfigError, DataError, MissingPackageError, SamplingError
from siamese_utils.recognition.classifier import OneShotClassifier

HOOK = ((100.0, 60.0), (100.0, 300.0), (220.0, 300.0), (260.0, 220.0))
STORED = Path(drawing_app.__file__).resolve().parents[2] / "results" / "checkpoints" / "drawing.safetensors"


def sketch(*lines: tuple[tuple[float, float], ...], width: float = 16) -> Drawing:
    return Drawing(tuple(Stroke(width, line) for line in lines))


def as_json(one: Drawing) -> dict[str, Any]:
    strokes = [{"width": stroke.width, "points": [list(point) for point in stroke.points]} for stroke in one.strokes]
    return {"strokes": strokes, "picture": base64.b64encode(one.picture).decode() or None}


def example(group: str, name: str, seed: int | None = None) -> Drawing:
    strokes = EXAMPLE_SETS[group][name]
    return sketch(*(tuple(stroke) for stroke in (strokes if seed is None else redrawn(strokes, seed))))


@pytest.fixture(scope="module")
def model() -> DrawingModel:
    """A small encoder that has learned nothing; what is tested here does not depend on it."""
    torch.manual_seed(0)
    return DrawingModel(Encoder("conv3", 8, image_size=28, mirror=False), slope=10.0, intercept=-5.0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, model: DrawingModel) -> Path:
    path = tmp_path_factory.mktemp("drawing") / "tiny.safetensors"
    save_encoder(model.encoder, path, {"threshold": 0.5, "calibration": {"slope": 10.0, "intercept": -5.0}})
    return path


# ------------------------------------------------------------------------------------------ drawings


def test_drawing_from_json() -> None:
    drawn = sketch(HOOK, ((200.0, 200.0),), width=9)
    assert parse_drawing(json.loads(json.dumps(as_json(drawn)))) == drawn
    assert parse_drawing({}) == Drawing()
    off = parse_drawing({"strokes": [{"width": 1e9, "points": [[-5, 1e300]]}]})
    assert off == Drawing((Stroke(drawing.MAX_PEN, ((0.0, 400.0),)),))


def a_stroke(**changes: Any) -> dict[str, Any]:
    return {"width": 16, "points": [[1, 2], [3, 4]], **changes}


@pytest.mark.parametrize(
    "value, words",
    [
        (None, "object with str"),
        ([], "object with str"),
        ("strokes", "object with str"),
        ({"strokes": 7}, "must be a list"),
        ({"strokes": "ab"}, "must be a list"),
        ({"strokes": [[1, 2]]}, "width and"),
        ({"strokes": [a_stroke(points=[])]}, "list of points"),
        ({"strokes": [a_stroke(points="12")]}, "list of points"),
        ({"strokes": [a_stroke(points=[[1, 2, 3]])]}, "two numbers"),
        ({"strokes": [a_stroke(points=["12"])]}, "two num"),
        ({"strokes": [a_stroke(points=[[1, float("nan")]])]}, "finite"),
        ({"strokes": [a_stroke(width=None)]}, "finite"),
        ({"strokes": [a_stroke(points=[[1, 10**400]])]}, "finite"),
        ({"strokes": [a_stroke(points=[[1, True]])]}, "finite"),
        ({"strokes": [a_stroke(width=float("inf"))]}, "finite"),
        ({"strokes": [a_stroke()] * (drawing.MAX_STROKES + 1)}, "200 strokes at most"),
        ({"strokes": [a_stroke(points=[[1, 2]] * (drawing.MAX_POINTS + 1))]}, "20000 points at most"),
        ({"strokes": [a_stroke(points=[[1, 2]] * 10_001)] * 2}, "20000 points at most"),
        ({"picture": 5}, "not readable"),
        ({"picture": "no base64!"}, "not readable"),
        ({"picture": "é"}, "not readable"),
        ({"picture": "A" * 2_000_000}, "not readable"),
    ],
)
def test_bad_drawings(value: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_drawing(value)


def a_symbol(name: object = "sun", count: int = 1) -> dict[str, Any]:
    return {"name": name, "examples": [{"strokes": [a_stroke()]}] * count}


def test_support_from_json() -> None:
    support = parse_support([a_symbol("  my \t sun "), a_symbol("Юла", 3)])
    assert list(support) == ["my sun", "Юла"] and [len(examples) for examples in support.values()] == [1, 3]


@pytest.mark.parametrize(
    "value, words",
    [
        ({}, "must be a list"),
        ("ab", "must be a list"),
        ([5], "must be an object"),
        ([a_symbol(str(n)) for n in range(11)], "10 symbols at most"),
        ([a_symbol("sun"), a_symbol("SUN ")], "Two symbols are called"),
        ([a_symbol(count=0)], "has no example"),
        ([a_symbol(count=11)], "10 examples at most"),
        ([{"name": "sun", "examples": "ab"}], "has no example"),
        ([a_symbol(None)], "needs a name"),
        ([a_symbol("  ")], "needs a name"),
        ([a_symbol("x" * 31)], "30 characters"),
        ([a_symbol("a\x00b")], "printable"),
        ([a_symbol("a\u202eb")], "printable"),
    ],
)
def test_bad_support_sets(value: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_support(value)


def test_names_are_text_not_markup() -> None:
    assert parse_name("<img src=x onerror=1>") == "<img src=x onerror=1>"  # the page shows it, see the browser's test


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "strokes",
                    "points",
                    "width",
                    "picture",
                    "name",
                    "examples",
                    "left",
                    "right",
                    "query",
                    "support",
                    "drawing",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.sampled_from(["compare", "rank", "see", "nonsense"]))
def test_anything_in_gives_an_answer_or_one_sentence(model: DrawingModel, data: object, question: str) -> None:
    try:
        json.dumps(answer(model, question, data), allow_nan=False)
    except (DataError, SamplingError) as error:
        assert re.fullmatch(r"[A-Z].*\.", str(error)) and "\n" not in str(error)


# ----------------------------------------------------------------------------------------- rendering


def difference(one: Drawing, other: Drawing) -> float:
    """Share of the ink that two canonical symbols do not have in common, 0 to 1."""
    a, b = (canonical_symbol(render(drawn)).astype(float) for drawn in (one, other))
    return float(np.abs(a - b).sum() / (a.sum() + b.sum()))


def test_rendering_draws_what_was_drawn() -> None:
    ink = render(sketch(((50.0, 50.0), (50.0, 350.0)), ((50.0, 350.0), (350.0, 350.0)), width=10))  # an L
    side = ink.shape[0]
    assert ink.dtype == np.uint8 and ink.shape == (256, 256) and set(np.unique(ink)) == {0, 255}
    assert (ink[:, 4] == 255).mean() > 0.95 and (ink[-5, :] == 255).mean() > 0.95  # rows run down, as on the screen
    assert not ink[: side // 2, side // 2 :].any()


def test_a_single_point_is_a_blot() -> None:
    ink = render(sketch(((200.0, 200.0),)))
    assert (ink == 255).mean() == pytest.approx(np.pi / 4, abs=0.02)
    assert canonical_symbol(ink).max() > 0


def test_nothing_drawn() -> None:
    with pytest.raises(DataError, match="Nothing is drawn here yet"):
        render(Drawing())


@given(st.floats(0.15, 1.2), st.floats(-60, 60), st.floats(-30, 60), st.sampled_from([4.0, 8.0, 24.0]), st.booleans())
def test_place_size_and_pen_hardly_matter(scale: float, dx: float, dy: float, width: float, reverse: bool) -> None:
    points = tuple((x * scale + dx + 70, y * scale + dy + 40) for x, y in HOOK)
    pen = min(width, 24 * scale)
    assume(all(pen / 2 <= place <= 400 - pen / 2 for point in points for place in point))  # on the page
    moved = sketch(points[::-1] if reverse else points, width=pen)
    assert difference(sketch(HOOK), moved) < 0.25
    assert difference(sketch(HOOK), sketch(tuple((x, 400 - y) for x, y in HOOK))) > 0.4  # upside down does


# --------------------------------------------------------------------------------------- image files


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def paper_with_hook(ink: int = 20, paper: int = 245, size: tuple[int, int] = (700, 500)) -> Image.Image:
    image = Image.new("L", size, paper)
    ImageDraw.Draw(image).line([(x + 150, y + 40) for x, y in HOOK], fill=ink, width=14, joint="curve")
    return image


def shaded(image: Image.Image) -> Image.Image:
    """A photo of the paper: lit from one side, with grain."""
    level = np.asarray(image, dtype=float) * np.linspace(1, 0.45, image.width)
    level += np.random.default_rng(0).normal(0, 5, level.shape)
    return Image.fromarray(np.clip(level, 0, 255).astype(np.uint8))


def transparent() -> Image.Image:
    ink = Image.eval(paper_with_hook(0, 255), lambda value: 255 - value)
    return Image.merge("LA", (Image.new("L", ink.size, 0), ink)).convert("RGBA")


@pytest.mark.parametrize(
    "data",
    [
        file_of(paper_with_hook()),
        file_of(paper_with_hook(250, 10)),
        file_of(paper_with_hook(), "JPEG"),
        file_of(paper_with_hook().convert("RGB"), "WEBP"),
        file_of(paper_with_hook(), "GIF"),
        file_of(paper_with_hook().convert("1"), "BMP"),
        file_of(shaded(paper_with_hook()), "JPEG"),
        file_of(transparent()),
        file_of(paper_with_hook(90, 170)),
        file_of(paper_with_hook().resize((4200, 3000)), "JPEG"),
        file_of(Image.fromarray(np.asarray(paper_with_hook()).astype(np.uint16) * 257)),
        file_of(
            paper_with_hook().transpose(Image.Transpose.ROTATE_90),
            "JPEG",
            exif=b"Exif\x00\x00MM\x00*\x00\x00\x00"
            b"\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00",
        ),
    ],
    ids=["png", "inverted", "jpeg", "webp", "gif", "bmp", "photo", "transparent", "pale", "large", "deep", "turned"],
)
def test_a_symbol_is_found_in_an_image_file(data: bytes) -> None:
    uploaded = Drawing(picture=read_upload(data))
    assert parse_drawing(json.loads(json.dumps(as_json(uploaded)))) == uploaded
    assert difference(uploaded, sketch(HOOK, width=14)) < 0.2


def one_colour_png(side: int) -> bytes:
    """A PNG of one colour and any size, some kilobytes long, made without holding its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    packed = zlib.compressobj(9)
    row = bytes(1 + -(-side // 8))
    data = b"".join(packed.compress(row * 1000) for _ in range(side // 1000)) + packed.flush()
    head = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "not an image that can be read"),
        (b"To be or not to be.", "not an image that can be read"),
        (file_of(paper_with_hook())[:400], "not an image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF", "not an image"),
        (file_of(Image.new("RGB", (300, 200), "white")), "No symbol stands out"),
        (file_of(Image.new("L", (300, 200))), "No symbol stands out"),
        (file_of(Image.new("RGBA", (300, 200))), "No symbol stands out"),
        (file_of(Image.new("L", (1, 1), 9)), "No symbol stands out"),
        (one_colour_png(20_000), "more than 50 million"),
        (one_colour_png(9_000), "9000 × 9000 pixels, more than 50"),
        (bytes(drawing.MAX_UPLOAD + 1), "10 MB are allowed"),
    ],
    ids=["empty", "text", "cut", "postscript", "white", "black", "clear", "pixel", "bomb", "large", "heavy"],
)
def test_unusable_uploads_get_one_sentence(data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_upload(data)
    assert "\n" not in str(caught.value)


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"BM", b"RIFF"])
)
def test_no_bytes_break_the_upload(data: bytes, start: bytes) -> None:
    with pytest.raises(DataError):
        read_upload(start + data)


def test_strokes_on_an_upload_count() -> None:
    picture = read_upload(file_of(paper_with_hook()))
    bare, crossed = Drawing(picture=picture), Drawing((Stroke(16, ((30.0, 30.0), (370.0, 370.0))),), picture)
    assert render(bare).shape == (CANVAS, CANVAS)
    assert difference(bare, crossed) > 0.2


@pytest.mark.parametrize(
    "picture",
    [b"junk", file_of(Image.new("L", (400, 400))), file_of(Image.new("LA", (401, 400))), one_colour_png(9000)],
)
def test_only_pictures_of_this_page_come_back(picture: bytes) -> None:
    with pytest.raises(DataError, match=r"picture of a drawing is not"):
        render(Drawing(picture=picture))


# ------------------------------------------------------------------------------------------- answers


def test_comparison_is_the_cosine_and_its_logistic(model: DrawingModel) -> None:
    left, right = example("Runes", "gebo"), example("Greek letters", "psi")
    symbols = np.stack([canonical_symbol(render(one)) for one in (left, right)])
    rows = model.encoder.embed(symbol_images(symbols))
    found = model.compare(left, right)
    assert found.similarity == pytest.approx(float(rows[0] @ rows[1]), abs=1e-5)
    assert found.probability == pytest.approx(1 / (1 + np.exp(-(10 * found.similarity - 5))), abs=1e-9)
    assert found.same == (found.probability >= 0.5)
    assert model.compare(right, left).similarity == pytest.approx(found.similarity, abs=1e-6)
    assert model.compare(left, left).similarity == pytest.approx(1, abs=1e-5)


def test_no_cosine_of_drawings_is_beyond_one(model: DrawingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    one = example("Runes", "gebo")
    row = model.embed([one])[0] * (1 + 1e-6)  # a length as rounding can make it
    monkeypatch.setattr(model, "embed", lambda drawings: row.expand(len(drawings), -1))
    assert model.compare(one, one).similarity == 1
    assert max(answer.similarity for answer in model.rank({"a": [one], "b": [one]}, one)) <= 1


@pytest.mark.parametrize("slope", [0.0, 10.0, 1e6])
def test_probability_never_overflows(model: DrawingModel, slope: float) -> None:
    steep = DrawingModel(model.encoder, slope, -slope / 2)
    values = [steep.probability(cosine) for cosine in np.linspace(-1, 1, 21)]
    assert all(0 <= value <= 1 for value in values) and values == sorted(values)
    assert steep.probability(0.5) == 0.5


def test_ranking_is_that_of_the_one_shot_classifier(model: DrawingModel) -> None:
    """The same answers as from images that are embedded afresh, several examples a symbol, cached or not."""
    names = list(EXAMPLE_SETS["Runes"])
    support = {name: [example("Runes", name), example("Runes", name, 5)][: 1 + n % 2] for n, name in enumerate(names)}
    images = {n: symbol_images(np.stack([canonical_symbol(render(d)) for d in drawn])) for n, drawn in support.items()}
    oracle = OneShotClassifier(model.encoder).fit(images)
    for name in names:
        query = example("Runes", name, 9)
        expected = oracle.similarities(symbol_images(canonical_symbol(render(query))[None]))[0]
        for _ in range(2):
            ranking = model.rank(support, query)
            assert [one.name for one in ranking] == [names[i] for i in expected.argsort(descending=True)]
            for one in ranking:
                assert one.similarity == pytest.approx(float(expected[names.index(one.name)]), abs=1e-5)
                assert one.probability == model.probability(one.similarity)


def test_equal_symbols_keep_their_order(model: DrawingModel) -> None:
    same = example("Runes", "gebo")
    ranking = model.rank({"b": [same], "a": [same]}, same)
    assert [one.name for one in ranking] == ["b", "a"]


def test_a_support_set_needs_two_symbols_with_drawings(model: DrawingModel) -> None:
    one, two = example("Runes", "gebo"), example("Runes", "fehu")
    with pytest.raises(SamplingError, match="at least two classes"):
        model.rank({"a": [one]}, two)
    with pytest.raises(SamplingError, match="no support image"):
        model.rank({"a": [one], "b": []}, two)
    with pytest.raises(DataError, match="Nothing is drawn"):
        model.rank({"a": [one], "b": [two]}, Drawing())


def test_the_cache_forgets_but_never_errs(model: DrawingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_CACHED", 3)
    small = DrawingModel(model.encoder, 10, -5)
    drawn = [example("Runes", name) for name in EXAMPLE_SETS["Runes"]]
    expected = model.embed(drawn)
    for order in (range(len(drawn)), [0, 0, 5, 1], [7, 2, 7]):
        rows = small.embed([drawn[i] for i in order])
        torch.testing.assert_close(rows, expected[list(order)], atol=1e-5, rtol=0)
        assert len(small._embeddings) <= 3


def test_many_pages_at_once(model: DrawingModel) -> None:
    """Threads that ask about different sets get the answers that each would get alone."""
    fresh = DrawingModel(model.encoder, 10, -5)
    asked = {
        group: ({name: [example(group, name)] for name in symbols}, example(group, next(iter(symbols)), 3))
        for group, symbols in EXAMPLE_SETS.items()
    }
    answers: dict[str, list[Any]] = {group: [] for group in asked}

    def page(group: str) -> None:
        for _ in range(5):
            answers[group].append(fresh.rank(*asked[group]))

    threads = [threading.Thread(target=page, args=(group,)) for group in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for group, (support, query) in asked.items():
        expected = [one.name for one in model.rank(support, query)]
        assert [[one.name for one in ranking] for ranking in answers[group]] == [expected] * 5


def test_loading(checkpoint: Path, model: DrawingModel, tmp_path: Path) -> None:
    loaded = DrawingModel.load(checkpoint)
    one, two = example("Runes", "gebo"), example("Runes", "fehu")
    assert loaded.compare(one, two).similarity == pytest.approx(model.compare(one, two).similarity, abs=2e-3)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        DrawingModel.load(tmp_path / "none.safetensors")
    for number, info in enumerate([{}, {"calibration": 3}, {"calibration": {"slope": 1}}]):
        save_encoder(model.encoder, tmp_path / f"{number}.safetensors", info)
        with pytest.raises(CheckpointError, match="holds no calibration"):
            DrawingModel.load(tmp_path / f"{number}.safetensors")
    with pytest.raises(CheckpointError, match="takes images of 32 pixels, drawings have 28"):
        DrawingModel(Encoder("conv3", 8), 1, 0)


@pytest.mark.skipif(not STORED.exists(), reason="the encoder for drawings is not stored yet")
def test_the_stored_encoder_recognises_the_examples() -> None:
    """Second drawings of the example symbols find the first ones."""
    stored = DrawingModel.load(STORED)
    right = total = 0
    for group in start_values()["sets"]:
        support = {one["name"]: (parse_drawing(one["drawing"]),) for one in group["symbols"]}
        found = [stored.rank(support, parse_drawing(one["again"]))[0].name == one["name"] for one in group["symbols"]]
        right, total = right + sum(found), total + len(found)
    assert right >= 0.9 * total, f"{right} of {total}"


# ------------------------------------------------------------------------------------------ examples


def test_examples_are_drawings_of_the_page() -> None:
    values = start_values()
    assert json.loads(json.dumps(values)) == values
    assert [group["name"] for group in values["sets"]] == list(EXAMPLE_SETS)
    for group in values["sets"]:
        support = parse_support([{"name": one["name"], "examples": [one["drawing"]]} for one in group["symbols"]])
        assert len(support) == len(group["symbols"]) >= 3
        for one in group["symbols"]:
            for key in ("drawing", "again"):
                points = np.concatenate([stroke["points"] for stroke in one[key]["strokes"]])
                assert points.min() >= 10 and points.max() <= CANVAS - 10
                assert np.ptp(points, axis=0).max() > 150, "an example fills the canvas"
    for pair, (title, *_) in zip(values["pairs"], EXAMPLE_PAIRS, strict=True):
        assert pair["name"] == title
        assert parse_drawing(pair["left"]).strokes != parse_drawing(pair["right"]).strokes


def test_a_second_drawing_is_like_the_first_and_repeatable() -> None:
    for group, symbols in EXAMPLE_SETS.items():
        for name, strokes in symbols.items():
            before = json.dumps(strokes)
            again = redrawn(strokes, 3)
            assert again == redrawn(strokes, 3) != redrawn(strokes, 4)
            assert json.dumps(strokes) == before and len(again) == len(strokes)
            assert difference(example(group, name), example(group, name, 3)) < 0.75


# -------------------------------------------------------------------------------------------- server


@pytest.fixture(scope="module")
def server(model: DrawingModel) -> Iterator[DrawingServer]:
    with DrawingServer(model, port=0) as running:
        yield running


def fetch(
    server: DrawingServer,
    path: str,
    body: bytes | None = None,
    kind: str = "application/json",
    method: str | None = None,
    host: str | None = None,
) -> tuple[int, Any, Any]:
    headers = {"Content-Type": kind} | ({"Host": host} if host else {})
    request = urllib.request.Request(server.url + path, body, headers, method=method)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def ask(server: DrawingServer, question: str, data: object) -> Any:
    status, headers, body = fetch(server, question, json.dumps(data).encode())
    assert status == 200 and headers["Content-Type"].startswith("application/json")
    return json.loads(body)


def test_the_page_and_its_files_come_from_here_alone(server: DrawingServer) -> None:
    kinds = {"": "text/html", "page.css": "text/css", "page.js": "text/javascript", "start": "application/json"}
    for path, kind in kinds.items():
        status, headers, body = fetch(server, path)
        assert status == 200 and headers["Content-Type"].startswith(kind) and body
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "http" not in policy and "*" not in policy and "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Server"] is None
        if path != "start":
            assert set(re.findall(rb"https?://[^\s'\"]+", body)) <= {b"http://www.w3.org/2000/svg"}
            assert b"innerHTML" not in body and b"eval(" not in body


def test_questions_over_the_wire(server: DrawingServer, model: DrawingModel) -> None:
    left, right = example("Runes", "gebo"), example("Runes", "fehu")
    found = ask(server, "compare", {"left": as_json(left), "right": as_json(right)})
    expected = model.compare(left, right)
    assert (found["similarity"], found["same"]) == (pytest.approx(expected.similarity), expected.same)
    assert base64.b64decode(found["left"].split(",")[1])[:4] == b"\x89PNG"
    with Image.open(io.BytesIO(base64.b64decode(found["right"].split(",")[1]))) as seen:
        np.testing.assert_array_equal(np.asarray(seen), model.symbol(right))
    support = [{"name": name, "examples": [as_json(example("Runes", name))]} for name in ("fehu", "gebo")]
    ranking = ask(server, "rank", {"support": support, "query": as_json(left)})["ranking"]
    assert [one["name"] for one in ranking] == ["gebo", "fehu"] and ranking[0]["similarity"] == pytest.approx(
        1, abs=1e-4
    )
    assert ask(server, "see", {"drawing": as_json(left)})["drawing"] == found["left"]


def test_uploads_over_the_wire(server: DrawingServer) -> None:
    stream = "application/octet-stream"
    data = file_of(paper_with_hook())
    status, _, body = fetch(server, "upload", data, stream)
    assert status == 200 and base64.b64decode(json.loads(body)["picture"]) == read_upload(data)
    for bad, words in ((b"text", "not an image"), (bytes(10_500_000), "10 MB are allowed")):
        status, _, body = fetch(server, "upload", bad, stream)
        assert status == 200 and words in json.loads(body)["error"]


@pytest.mark.parametrize(
    "body, words",
    [
        (b"", "not readable"),
        (b"{", "not readable"),
        (b"\xff\xfe", "not readable"),
        (b"[" * 200_000, "not readable"),
        (b"[]", "JSON object"),
        (b"{}", "with strokes"),
        (b'{"left": {"strokes": [{"width": 1, "points": [[NaN, 1]]}]}, "right": {}}', "finite"),
        (b'{"left": {}, "right": {}}', "Nothing is drawn"),
        (b" " * 5_000_000, "too large"),
    ],
)
def test_bad_requests_get_one_sentence(server: DrawingServer, body: bytes, words: str) -> None:
    status, _, reply = fetch(server, "compare", body)
    assert status == 200 and words in json.loads(reply)["error"]


def test_what_is_not_a_question_is_refused(server: DrawingServer) -> None:
    for page, kind in (("compare", "text/plain"), ("upload", "image/png")):  # what a form of another site could send
        status, _, body = fetch(server, page, b"{}", kind)
        assert status == 415 and "application/" in json.loads(body)["error"]
    assert fetch(server, "upload", b"{}", "multipart/form-data")[0] == 400
    for path in ("nothing", "../drawing.py", "page.html", "%2e%2e/drawing.py", "static/"):
        status, _, body = fetch(server, path)
        assert status == 404 and "no such page" in json.loads(body)["error"]
    for page, content, method in (("compare", None, None), ("", b"x", "DELETE")):
        status, _, body = fetch(server, page, content, method=method)
        assert status == 405 and "does not take requests of this kind" in json.loads(body)["error"]


def test_a_failure_inside_says_no_more_than_that(server: DrawingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing_app, "answer", lambda *_: 1 / 0)
    status, _, body = fetch(server, "compare", b"{}")
    assert status == 500 and json.loads(body) == {"error": "The server has failed."}


def test_loopback_only_unless_told(server: DrawingServer, model: DrawingModel) -> None:
    assert server.url.startswith("http://127.0.0.1:")
    with socket.socket() as other, pytest.raises(OSError):
        other.settimeout(5)
        other.connect(("127.0.0.2", server.port))  # loopback too, but not the address the server listens on
    with DrawingServer(model, "0.0.0.0", 0) as everywhere, socket.socket() as other:
        other.connect(("127.0.0.2", everywhere.port))
        assert everywhere.url == f"http://127.0.0.1:{everywhere.port}/"


def test_another_sites_name_is_refused_on_loopback(server: DrawingServer, model: DrawingModel) -> None:
    own, foreign = (
        ("127.0.0.1", "localhost:8765", "LOCALHOST", "[::1]:1", "localhost.", "my.localhost:1"),
        ("elsewhere.example", "evil.test:8765"),
    )
    for names, status in ((own, 200), (foreign, 403)):
        for name in names:
            assert fetch(server, "start", host=name)[0] == status
            assert fetch(server, "compare", b"{}", host=name)[0] == status
    assert "open the page at the address" in json.loads(fetch(server, "", host="evil.test")[2])["error"]
    for more in ({"host": "0.0.0.0"}, {"any_name": True}):  # to be reached by other names, also by way of a proxy
        with DrawingServer(model, port=0, **more) as open_to_all:
            assert fetch(open_to_all, "start", host="evil.test")[0] == 200


def test_ports(server: DrawingServer, model: DrawingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=f"Port {server.port} is in use"):
        DrawingServer(model, port=server.port)
    with pytest.raises(ConfigError, match="from 0 to 65535"):
        DrawingServer(model, port=70_000)
    with pytest.raises(ConfigError, match=r"Cannot listen on 'nowhere\.invalid'"):
        DrawingServer(model, "nowhere.invalid", 0)
    monkeypatch.setattr(drawing_app, "DEFAULT_PORT", server.port)
    with DrawingServer(model) as second:
        assert server.port < second.port < server.port + 20
    monkeypatch.setattr(drawing_app, "_PORTS_TRIED", 1)
    with pytest.raises(ConfigError, match="are all in use"):
        DrawingServer(model)


def test_stopping_frees_the_port(model: DrawingModel) -> None:
    first = DrawingServer(model, port=0)
    first.stop()
    first.stop()
    first.wait()
    with DrawingServer(model, port=first.port) as second:
        assert fetch(second, "start")[0] == 200


def test_without_tornado(model: DrawingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tornado", None)
    with pytest.raises(MissingPackageError, match=r"siamese_utils\[draw\]"):
        DrawingServer(model)


# ------------------------------------------------------------------------------------------- command


def test_the_command(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where the page is, opens a browser there, serves until it is interrupted, and says so."""
    said: list[str] = []
    opened: list[str] = []

    def interrupted(self: DrawingServer) -> None:
        assert fetch(self, "start")[0] == 200
        raise KeyboardInterrupt

    monkeypatch.setattr(DrawingServer, "wait", interrupted)
    monkeypatch.setattr(drawing_app.webbrowser, "open", opened.append)
    threads, terminate = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)
    try:
        drawing_app.run(checkpoint, port=0, any_name=True, say=said.append)
        assert signal.getsignal(signal.SIGTERM) is terminate
        assert re.fullmatch(r"The drawing page is at (http://127\.0\.0\.1:\d+/) \(stop with Ctrl\+C\)\.", said[0])
        assert said[0].split()[5] == opened[0] and said[1:] == ["Stopped."]
        drawing_app.run(checkpoint, "0.0.0.0", 0, browser=False, say=said.append)
        assert "Everyone who reaches this machine" in said[3] and len(opened) == 1
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "arguments, words", [(("--checkpoint", "none.safetensors"), "no checkpoint none.safetensors"), ((), "checkpoint")]
)
def test_the_command_line_explains(
    arguments: tuple[str, ...], words: str, project: Path, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = command_line("draw", "--no-browser", *arguments)
    assert (code, out) == (1, "") and err.startswith("Error: ") and words in err and err.count("\n") == 1


# ------------------------------------------------------------------------------------------ notebook


@pytest.fixture
def front_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[Any]]:
    """Pretend to be a cell: choose who watches, get the list of what is displayed."""
    import IPython
    import IPython.display

    monkeypatch.setattr(app_notebook.project, "project_root", lambda: tmp_path)
    (tmp_path / "figures").mkdir()
    shown: list[Any] = []
    monkeypatch.setattr(IPython.display, "display", lambda *things: shown.extend(things))

    def pretend(allow_stdin: bool | None) -> list[Any]:
        kernel = types.SimpleNamespace(get_parent=lambda channel: {"content": {"allow_stdin": allow_stdin}})
        shell = None if allow_stdin is None else types.SimpleNamespace(kernel=kernel)
        monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
        return shown

    return pretend


@pytest.mark.parametrize("allow_stdin", [False, None])
def test_a_notebook_nobody_watches_gets_pictures(
    front_end: Callable[..., list[Any]], allow_stdin: bool | None, tmp_path: Path
) -> None:
    shown = front_end(allow_stdin)
    assert app_notebook.show_in_notebook() is None
    assert len(shown) == 1 and "A program executed this notebook" in shown[0].data
    Image.new("L", (4, 4)).save(tmp_path / "figures" / "08_draw_pairs.png")
    (tmp_path / "figures" / "08_draw_pairs.alt.txt").write_text("The page with two drawings.\n")
    app_notebook.show_in_notebook()
    assert shown[2].alt == "The page with two drawings." and not app_notebook._shown


def test_a_notebook_somebody_watches_gets_the_page(
    front_end: Callable[..., list[Any]], checkpoint: Path, tmp_path: Path
) -> None:
    shown = front_end(True)
    try:
        first = app_notebook.show_in_notebook(checkpoint, height=700)
        assert first is not None and fetch(first, "start")[0] == 200
        assert shown[0].src == first.url and shown[0].height == 700 and first.url in shown[1].data
        second = app_notebook.show_in_notebook(checkpoint)
        assert second is not None and app_notebook._shown == [second] and first._stopped.is_set()
    finally:
        app_notebook.stop_in_notebook()
    with pytest.raises(urllib.error.URLError):
        fetch(second, "start")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        app_notebook.show_in_notebook(tmp_path / "none.safetensors")


def test_colab_gets_a_frame_through_its_own_proxy(
    front_end: Callable[..., list[Any]], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, framed = front_end(True), []
    output = types.SimpleNamespace(serve_kernel_port_as_iframe=lambda port, height: framed.append((port, height)))
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(output=output))
    monkeypatch.setitem(sys.modules, "google", types.SimpleNamespace(colab=sys.modules["google.colab"]))
    try:
        server = app_notebook.show_in_notebook(checkpoint)
        assert server is not None and framed == [(server.port, "900")] and shown == []
        assert fetch(server, "start", host="colab.example")[0] == 200
    finally:
        app_notebook.stop_in_notebook()


def test_a_notebook_without_tornado_says_so(
    front_end: Callable[..., list[Any]], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = front_end(True)
    monkeypatch.setitem(sys.modules, "tornado", None)
    assert app_notebook.show_in_notebook(checkpoint) is None
    assert "siamese_utils[draw]" in shown[0].data
