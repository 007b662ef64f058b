"""Drawings in, answers out: are two symbols the same, and which of the user's own symbols is this one?

A drawing comes as strokes, or as an image file, or as strokes on top of one. It is redrawn in the form the encoder
learned (:func:`data.symbols.canonical_symbol`), embedded, and compared by cosine similarity; the checkpoint's
calibration turns the similarity into a probability. Nothing is trained, and nothing of a drawing is kept beyond a small
cache. This module knows no browser; the page and its server are :mod:`app.server`.

Method: G. Koch, R. Zemel, R. Salakhutdinov, *Siamese Neural Networks for One-shot Image Recognition*, 2015 (pairs);
J. Snell, K. Swersky, R. Zemel, *Prototypical Networks for Few-shot Learning*, NeurIPS 2017 (several examples of a
symbol); J. Platt, *Probabilistic Outputs for Support Vector Machines*, 1999 (calibration).
"""

from __future__ import annotations

import base64
import io
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError, WrapValidator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from siamese_utils.app.examples import CANVAS
from siamese_utils.data.image_files import on_paper, opened, read_image
from siamese_utils.data.symbols import SIDE, canonical_symbol, symbol_images
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, DataError
from siamese_utils.recognition.classifier import OneShotClassifier

# What a request may hold; a drawing by hand stays far below.
MAX_STROKES = 200
MAX_POINTS = 20_000  # of all strokes of a drawing
MIN_PEN, MAX_PEN = 1.0, 60.0
MAX_CLASSES = 10
MAX_EXAMPLES = 10  # of one symbol
MAX_NAME = 30  # characters
MAX_UPLOAD = 10_000_000  # bytes of an image file
MAX_PIXELS = 50_000_000  # of an uploaded image

_RENDERED = 256  # pixels of a rendered drawing's longer side
_UPLOADED = 360  # pixels of an uploaded symbol's longer side, on a canvas of 400
_LONGEST_PICTURE = 600_000  # characters of base64
_CACHED = 256  # drawings
_CONTRAST = 40  # grey levels between ink and paper below which an upload counts as empty


# --- drawings -------------------------------------------------------------------------------------


def _says(sentence: str) -> WrapValidator:
    """What is wrong with a value itself is told by this sentence; what is wrong inside it, by the inner value's."""

    def check(value: object, validate: Callable[[object], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            cause = error.errors(include_input=False)[0].get("ctx", {}).get("error")
            raise cause if isinstance(cause, DataError) else DataError(sentence) from error

    return WrapValidator(check)


def _within(low: float, high: float) -> AfterValidator:
    return AfterValidator(lambda value: min(max(value, low), high))


def _decoded(value: object) -> object:
    short = isinstance(value, str) and len(value) <= _LONGEST_PICTURE
    return base64.b64decode(value, validate=True) if short else value or b""


# Python's JSON also reads NaN, infinities and numbers of any length. What lies off the canvas is moved to its edge.
_finite = _says("Points and pen widths must be finite numbers; draw the stroke again.")
_Number = Annotated[float, Field(strict=True, allow_inf_nan=False), _finite]
_Coordinate = Annotated[_Number, _within(0.0, float(CANVAS))]
_Point = Annotated[tuple[_Coordinate, _Coordinate], _says("A point must be two numbers; draw the stroke again.")]


@pydantic_dataclass(frozen=True)
class Stroke:
    """One line of a pen: its width and its points, in units of a canvas of 400 by 400, y downwards."""

    width: Annotated[_Number, _within(MIN_PEN, MAX_PEN)]
    points: Annotated[
        tuple[_Point, ...], Field(min_length=1), _says("A stroke must have a list of points; draw it again.")
    ]


@pydantic_dataclass(frozen=True)
class Drawing:
    """What is on one canvas; equal drawings are equal keys of a cache.

    Attributes:
        strokes: in the order drawn.
        picture: an uploaded symbol under them, as the PNG that :func:`read_upload` makes; empty for none. A browser
            sends it in base64.
    """

    strokes: Annotated[
        tuple[Annotated[Stroke, _says("A stroke must be an object with a width and points; draw it again.")], ...],
        BeforeValidator(lambda value: value or ()),
        _says("The strokes of a drawing must be a list; draw it again."),
    ] = ()
    picture: Annotated[
        bytes,
        Field(strict=True),
        BeforeValidator(_decoded),
        _says("The uploaded picture of a drawing is not readable; upload it again."),
    ] = b""

    def __post_init__(self) -> None:
        """Check that the drawing is not too large."""
        points = sum(len(stroke.points) for stroke in self.strokes)
        for what, most, count in (("strokes", MAX_STROKES, len(self.strokes)), ("points", MAX_POINTS, points)):
            if count > most:
                raise DataError(f"A drawing may have {most} {what} at most, this one has {count}; clear it.")


_Drawing = Annotated[Drawing, _says("A drawing must be an object with strokes; draw it again.")]


def parse_name(value: object) -> str:
    """A symbol's name with its spaces tidied; any script, but printable and short.

    Raises:
        DataError: it is no text, empty, too long, or holds characters that cannot be shown.
    """
    name = " ".join(value.split()) if isinstance(value, str) else ""
    if not name:
        raise DataError("Every symbol needs a name; type one.")
    if len(name) > MAX_NAME:
        raise DataError(f"A name may have {MAX_NAME} characters at most; shorten {name[:MAX_NAME] + '…'!r}.")
    if not name.isprintable():
        raise DataError("A name may hold printable characters only; type it again.")
    return name


@pydantic_dataclass(frozen=True)
class Symbol:
    """A symbol of a support set: what the user calls it, and drawings of it."""

    name: Annotated[str, BeforeValidator(parse_name)] = Field(default="", validate_default=True)
    examples: Annotated[tuple[_Drawing, ...], BeforeValidator(lambda it: it if isinstance(it, list) else ())] = ()

    def __post_init__(self) -> None:
        """Check that the number of examples is right."""
        if not self.examples:
            raise DataError(f"The symbol {self.name!r} has no example; draw one or remove it.")
        if len(self.examples) > MAX_EXAMPLES:
            count = len(self.examples)
            raise DataError(f"A symbol may have {MAX_EXAMPLES} examples at most; {self.name!r} has {count}.")


_Symbol = Annotated[Symbol, _says("A symbol must be an object with a name and examples; reload the page.")]
_DRAWING = TypeAdapter(_Drawing)
_SUPPORT = TypeAdapter(Annotated[list[_Symbol], _says("The support set must be a list of symbols; reload the page.")])


def _parsed(kind: TypeAdapter[Any], value: object) -> Any:
    try:
        return kind.validate_python(value)
    except ValidationError as error:  # of a sentence, which is an error of pydantic's again
        raise error.errors(include_input=False)[0]["ctx"]["error"] from None


def parse_drawing(value: object) -> Drawing:
    """Check what a browser sent as a drawing.

    Args:
        value: ``{"strokes": [{"width": 16, "points": [[x, y], ...]}, ...], "picture": base64 of a PNG or None}``; both
            keys may be missing, other keys are ignored. Points off the canvas are moved to its edge.

    Raises:
        DataError: of another form, or more than the limits of this module allow.
    """
    return _parsed(_DRAWING, value)


def parse_support(value: object) -> dict[str, tuple[Drawing, ...]]:
    """Check what a browser sent as a support set.

    Args:
        value: ``[{"name": "sun", "examples": [drawing, ...]}, ...]``, up to ten symbols.

    Returns:
        the drawings of each symbol by its name, in the order given.

    Raises:
        DataError: of another form, too large, without drawings, or a name is missing, too long or there twice.
    """
    symbols = _parsed(_SUPPORT, value)
    if len(symbols) > MAX_CLASSES:
        raise DataError(f"The support set may have {MAX_CLASSES} symbols at most; remove one.")
    names = [symbol.name.casefold() for symbol in symbols]
    for symbol in symbols:
        if names.count(symbol.name.casefold()) > 1:
            raise DataError(f"Two symbols are called {symbol.name!r}; rename one.")
    return {symbol.name: symbol.examples for symbol in symbols}


def render(drawing: Drawing) -> NDArray[np.uint8]:
    """Draw a drawing as ink, bright on dark.

    Strokes alone fill the result, whatever their size on the canvas; with a picture the whole canvas is rendered.

    Returns:
        uint8 (H, W), 400 at most each.

    Raises:
        DataError: there is nothing on the canvas, or its picture is damaged.
    """
    if drawing.picture:
        paper, scale, left, top = _read_picture(drawing.picture), 1.0, 0.0, 0.0
    elif drawing.strokes:
        ends = np.array(
            [
                (x + side, y + side)
                for stroke in drawing.strokes
                for x, y in stroke.points
                for side in (-stroke.width / 2, stroke.width / 2)
            ]
        )
        (left, top), extent = ends.min(axis=0), ends.max(axis=0) - ends.min(axis=0)
        scale = _RENDERED / float(extent.max())
        width, height = (max(1, math.ceil(side * scale)) for side in extent)
        paper = Image.new("L", (width, height))
    else:
        raise DataError("Nothing is drawn here yet; draw a symbol or upload one.")
    pen = ImageDraw.Draw(paper)
    for stroke in drawing.strokes:
        points = [((x - left) * scale, (y - top) * scale) for x, y in stroke.points]
        radius = max(stroke.width * scale / 2, 0.75)
        if len(points) > 1:
            pen.line(points, fill=255, width=max(1, round(2 * radius)))
        for x, y in points:  # round ends and joints
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return np.asarray(paper)


# --- image files ----------------------------------------------------------------------------------


def read_upload(data: bytes) -> bytes:
    """Find the symbol in an image file: dark on light or light on dark, a scan or a photo of paper.

    The ground is levelled (the paper of a photo is never evenly lit), what stands out from it is taken as ink and put
    in the middle of a canvas.

    Args:
        data: the file, of any format that Pillow decodes.

    Returns:
        a PNG of 400 by 400 pixels, black, whose alpha channel is the ink: it can be shown on paper of any colour.

    Raises:
        DataError: the file is no such image, damaged, too large, or shows nothing but ground.
    """
    if len(data) > MAX_UPLOAD:
        raise DataError(
            f"The file has {len(data) / 1e6:.0f} MB, {MAX_UPLOAD / 1e6:.0f} MB are allowed; upload a smaller image."
        )
    grey = _grey(data)
    level = np.asarray(grey, dtype=np.float32)
    edge = np.concatenate([level[0], level[-1], level[:, 0], level[:, -1]])
    if np.median(edge) < 128:  # light on dark
        grey, level = ImageOps.invert(grey), 255 - level
    # The brightest of a wide neighbourhood is paper, unless a blot is wider than that.
    wide = max(3, max(grey.size) // 6) | 1
    ground = grey.resize((max(1, grey.width // 4), max(1, grey.height // 4)), Image.Resampling.BOX)
    ground = ground.filter(ImageFilter.MaxFilter(max(3, wide // 4) | 1)).filter(ImageFilter.GaussianBlur(wide / 16))
    depth = np.asarray(ground.resize(grey.size, Image.Resampling.BILINEAR), dtype=np.float32) - level
    darkest = float(depth.max())
    if darkest < _CONTRAST:
        raise DataError("No symbol stands out in this image; upload one with dark lines on a light ground.")
    ink = np.clip((depth / darkest - 0.3) / 0.3, 0, 1)  # shadows and the grain of the paper stay below
    rows, columns = np.flatnonzero((ink > 0.5).any(axis=1)), np.flatnonzero((ink > 0.5).any(axis=0))
    found = Image.fromarray(np.rint(255 * ink).astype(np.uint8)).crop(
        (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    )
    found = ImageOps.contain(found, (_UPLOADED, _UPLOADED), Image.Resampling.LANCZOS)
    alpha = Image.new("L", (CANVAS, CANVAS))
    alpha.paste(found, ((CANVAS - found.width) // 2, (CANVAS - found.height) // 2))
    return _png(Image.merge("LA", (Image.new("L", alpha.size), alpha)))


def _grey(data: bytes) -> Image.Image:
    """The file as a grey image of at most 800 pixels, upright, transparent parts white, or black under white ink."""
    says, advice = "is not an image that can be read", "upload a PNG, JPEG, WebP, GIF or BMP"
    image = read_image(data, "This file", CANVAS, advice, grey=True, says=says, limit=MAX_PIXELS)
    image.thumbnail((800, 800), Image.Resampling.BOX)
    return on_paper(image).convert("L")


def _read_picture(data: bytes) -> Image.Image:
    """The ink of what ``read_upload`` made, after its way through the browser."""
    with opened(data, "The uploaded picture of a drawing", "upload it again", formats=("PNG",)) as image:
        if image.size == (CANVAS, CANVAS) and image.mode == "LA":
            return image.getchannel("A")
    raise DataError("The uploaded picture of a drawing is not one that this page made; upload it again.")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


# --- answers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Answer about two drawings.

    Attributes:
        similarity: cosine of their embeddings, -1 to 1.
        probability: that both show the same symbol.
        same: whether that is at least a half.
    """

    similarity: float
    probability: float
    same: bool


@dataclass(frozen=True)
class Ranked:
    """One line of a ranking: a symbol, its similarity to the query, and the probability that they are the same."""

    name: str
    similarity: float
    probability: float


class DrawingModel:
    """An encoder with the calibration that goes with it; answers about drawings.

    Calls may come from any thread; they are worked off one by one. What was drawn last is cached: a new stroke costs
    one pass of the network, however large the support set is.

    Args:
        encoder: takes canonical symbols, 28 by 28 pixels.
        slope: of the logistic function from cosine similarity to the probability of being the same.
        intercept: likewise: ``P = 1 / (1 + exp(-(slope * cosine + intercept)))``.

    Raises:
        CheckpointError: the encoder takes images of another size.
    """

    def __init__(self, encoder: Encoder, slope: float, intercept: float) -> None:
        if encoder.image_size != SIDE:
            raise CheckpointError(
                f"This encoder takes images of {encoder.image_size} pixels, drawings have {SIDE}; use a checkpoint "
                "that was trained on symbols, such as results/checkpoints/drawing.safetensors."
            )
        self.encoder = encoder
        self.slope = slope
        self.intercept = intercept
        self._lock = threading.RLock()
        self._symbol = lru_cache(_CACHED)(lambda drawing: canonical_symbol(render(drawing)))
        self._embeddings: OrderedDict[Drawing, torch.Tensor] = OrderedDict()  # the one used last comes last

    @classmethod
    def load(cls, path: str | Path) -> DrawingModel:
        """Load a checkpoint whose metadata hold a calibration, and warm the network up.

        Raises:
            CheckpointError: it is missing, damaged, has no calibration, or takes images of another size.
        """
        calibration = checkpoint_info(path).get("calibration")
        try:
            slope, intercept = (float(calibration[key]) for key in ("slope", "intercept"))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} holds no calibration of similarities; use a checkpoint that was trained on symbols, such as "
                "results/checkpoints/drawing.safetensors."
            ) from error
        model = cls(load_encoder(path), slope, intercept)
        model.embed([Drawing((Stroke(16, ((100, 100), (300, 300))),))])  # the first pass is slow
        return model

    @property
    def embedding_dim(self) -> int:
        """Size of an embedding."""
        return self.encoder.embedding_dim

    def embed(self, drawings: Sequence[Drawing]) -> torch.Tensor:
        """Embed drawings, those that are new in one batch: float32 (N, D), rows of unit length.

        Raises:
            DataError: one of them is empty or damaged.
        """
        with self._lock:
            new = [drawing for drawing in dict.fromkeys(drawings) if drawing not in self._embeddings]
            if new:
                symbols = np.stack([self._symbol(drawing) for drawing in new])
                self._embeddings.update(zip(new, self.encoder.embed(symbol_images(symbols))))
            for drawing in drawings:
                self._embeddings.move_to_end(drawing)
            rows = torch.stack([self._embeddings[drawing] for drawing in drawings])
            while len(self._embeddings) > _CACHED:
                self._embeddings.popitem(last=False)
        return rows

    def symbol(self, drawing: Drawing) -> NDArray[np.uint8]:
        """What the network sees of a drawing: uint8 (28, 28), bright ink on dark ground.

        Raises:
            DataError: there is nothing on the canvas, or its picture is damaged.
        """
        with self._lock:
            return self._symbol(drawing)

    def compare(self, left: Drawing, right: Drawing) -> Comparison:
        """Say whether two drawings show the same symbol.

        Raises:
            DataError: one of them is empty or damaged.
        """
        rows = self.embed([left, right])
        similarity = float((rows[0] @ rows[1]).clamp(-1, 1))
        probability = self.probability(similarity)
        return Comparison(similarity, probability, probability >= 0.5)

    def rank(self, support: Mapping[str, Sequence[Drawing]], query: Drawing) -> list[Ranked]:
        """Rank the symbols of a support set by their similarity to a query.

        Args:
            support: drawings of each symbol by its name, two symbols at least.
            query: the drawing to recognise.

        Returns:
            an answer for every symbol, the most similar first; equals stay in the order given.

        Raises:
            DataError: a drawing is empty or damaged.
            SamplingError: fewer than two symbols, or one without a drawing.
        """
        self.embed([query, *(drawing for examples in support.values() for drawing in examples)])  # in one batch
        classifier = OneShotClassifier(self.encoder).fit_embeddings(
            {name: self.embed(examples) if examples else torch.empty(0) for name, examples in support.items()}
        )
        similarities = classifier.compare(self.embed([query]))[0].tolist()
        answers = [Ranked(n, s, self.probability(s)) for n, s in zip(classifier.class_names, similarities)]
        return sorted(answers, key=lambda answer: -answer.similarity)

    def probability(self, similarity: float) -> float:
        """Probability that two drawings of this cosine similarity show the same symbol."""
        return 0.5 * (1 + math.tanh((self.slope * similarity + self.intercept) / 2))  # the logistic, without overflow


def symbol_png(symbol: NDArray[np.uint8]) -> bytes:
    """A canonical symbol, uint8 (28, 28), as a PNG file."""
    return _png(Image.fromarray(symbol))
