"""Bad inputs for everything that reads a file or takes an array, and what must come of each: one sentence.

A family draws one bad input and hands it in. ``refused`` wants an error of the package, in one sentence that names what
is at fault; ``refused_or`` also takes an answer that is provably the right one, for damage that may do no harm.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_data
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from siamese_utils import OneShotClassifier, classify_folder, load_encoder, load_image
from siamese_utils.data.cifar import load_cifar100
from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import class_split, hold_out_classes, hold_out_images
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.checkpoints import checkpoint_info, save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import SiameseError
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.evaluation.pairs import pair_auc, triplet_accuracy
from siamese_utils.experiments import store as results
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import TrainResult, train

SECONDS = 60
"""What a bad input may take at most; a hang must not pass for patience."""
COLUMNS = ("split", "draw", "seed", "recipe", "metric", "value", "ci95", "n", "checkpoint")


@dataclass
class Bench:
    """What the inputs are tried on.

    Attributes:
        folder: for files.
        encoder: small, for images of 32 x 32 pixels.
        checkpoint: content of its file.
        state: content of a training state, and ``config`` and ``train_set`` that it belongs to.
        support: a folder of two classes with two images each.
        cifar100: small copies of the three layouts, see ``test_data``.
    """

    folder: Path
    encoder: Encoder
    checkpoint: bytes = b""
    state: bytes = b""
    config: TrainConfig = field(default=None)  # type: ignore[assignment]
    train_set: ImageSet = field(default=None)  # type: ignore[assignment]
    support: Path = field(default=None)  # type: ignore[assignment]
    cifar100: dict[str, Path] = field(default_factory=dict)

    def file(self, name: str, content: bytes) -> Path:
        """A file with this content, in place of the last one of this name."""
        path = self.folder / name
        path.write_bytes(content)
        return path

    def train(self, folder: Path) -> TrainResult:
        """Go on with the training whose state lies in the folder."""
        return train(self.config, self.train_set, range(4), run_dir=folder, device="cpu", progress=False)


def make_bench(folder: Path, config: TrainConfig) -> Bench:
    """Make all that the families need, in a few seconds."""
    torch.manual_seed(0)
    bench = Bench(folder, Encoder("conv3", 8).eval(), config=config)
    path = folder / "whole.safetensors"
    save_encoder(bench.encoder, path, {"split": "90-10", "draw": 0})
    bench.checkpoint = path.read_bytes()
    bench.encoder = load_encoder(path)
    bench.train_set = make_synthetic("train", num_classes=4, per_class=6)
    bench.train(folder / "run")
    bench.state = (folder / "run" / "state.pt").read_bytes()
    bench.support = folder / "support"
    for number in range(4):
        target = bench.support / f"class{number // 2}" / f"{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(bench.train_set.images[6 * number].numpy()).save(target)
    for layout, write in test_data.WRITERS.items():
        bench.cifar100[layout] = folder / layout
        write(bench.cifar100[layout], test_data.BOTH[0])
    return bench


# ------------------------------------------------------------------------------------ what must happen


@contextmanager
def in_time() -> Iterator[None]:
    """Raise where something takes too long."""

    def late(*_: Any) -> None:
        raise AssertionError(f"still at it after {SECONDS} seconds")

    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check_sentence(error: SiameseError, *names: object) -> None:
    """One sentence (of one or two parts), not too long to read, that names what is at fault."""
    text = str(error)
    assert text and "\n" not in text and text.rstrip().endswith((".", "?")) and len(text) < 700, text
    assert "Traceback" not in text and "object at 0x" not in text, text
    for name in names:
        assert str(name) in text, f"{name!r} is not named: {text}"


def refused(call: Callable[[], Any], *names: object) -> None:
    """The call must end with an error of the package."""
    try:
        answer = call()
    except SiameseError as error:
        check_sentence(error, *names)
    else:
        raise AssertionError(f"accepted, with the answer {answer!r:.200}")


def refused_or(same: Callable[[Any], bool], call: Callable[[], Any], *names: object) -> None:
    """The call must end with an error of the package, or give what is right."""
    try:
        answer = call()
    except SiameseError as error:
        check_sentence(error, *names)
    else:
        assert same(answer), f"a wrong answer without a word: {answer!r:.200}"


# ------------------------------------------------------------------------------------ how files go bad


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A file that was cut off, that lost or gained bytes, or some of whose bits are wrong."""
    how = draw(st.sampled_from(["cut", "flip", "flip", "zeros", "hole", "tail", "other"]))
    if how == "cut":
        return content[: draw(st.integers(0, len(content) - 1))]
    if how == "other":
        return draw(st.binary(max_size=200))
    if how == "tail":
        return content + draw(st.binary(min_size=1, max_size=50))
    broken = bytearray(content)
    at = draw(st.integers(0, len(content) - 1))
    if how == "flip":
        for _ in range(draw(st.integers(1, 3))):
            broken[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    elif how == "zeros":
        length = min(draw(st.integers(1, 4096)), len(content) - at)
        broken[at : at + length] = bytes(length)
    else:
        del broken[at : at + draw(st.integers(1, 4096))]
    return bytes(broken)


class Intruder:
    """Unpickling this makes a folder."""

    def __init__(self, victim: Path) -> None:
        self.victim = str(victim)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.victim,)


def same_encoder(bench: Bench) -> Callable[[Encoder], bool]:
    expected = bench.encoder.state_dict()
    return lambda encoder: all(torch.equal(expected[key], value) for key, value in encoder.state_dict().items())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**13) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)


# ------------------------------------------------------------------------------------------- families


def damaged_checkpoint(data: st.DataObject, bench: Bench) -> None:
    content = data.draw(damaged(bench.checkpoint))
    path = bench.file("damaged.safetensors", content)
    refused_or(same_encoder(bench), lambda: load_encoder(path), path)


def checkpoint_of_another_design(data: st.DataObject, bench: Bench) -> None:
    """A field of the design holds what it must not; no size makes anyone ask for the memory."""
    path = bench.file("design.safetensors", bench.checkpoint)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    design = json.loads(metadata["encoder"])
    key = data.draw(st.sampled_from(sorted(design)))
    right = design[key]
    design[key] = data.draw(JSON.filter(lambda value: value != right or type(value) is not type(right)))
    save_file(load_file(path), path, metadata={**metadata, "encoder": json.dumps(design)})
    refused(lambda: load_encoder(path), path)


def checkpoint_with_other_tensors(data: st.DataObject, bench: Bench) -> None:
    path = bench.file("tensors.safetensors", bench.checkpoint)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    if data.draw(st.booleans()):  # as older checkpoints, which have nothing but their shapes and values to be judged by
        del metadata["checksum"]
    tensors = load_file(path)
    key = data.draw(st.sampled_from(sorted(key for key, tensor in tensors.items() if tensor.is_floating_point())))
    how = data.draw(st.sampled_from(["missing", "extra", "shape", "nan", "infinite"]))
    if how == "missing":
        del tensors[key]
    elif how == "extra":
        tensors[f"{key}.more"] = torch.zeros(2)
    elif how == "shape":
        tensors[key] = torch.zeros(*tensors[key].shape, 2)
    else:
        tensors[key].view(-1)[-1] = float("nan") if how == "nan" else float("inf")
    save_file(tensors, path, metadata=metadata)
    refused(lambda: load_encoder(path), path)


def pickled_checkpoint(data: st.DataObject, bench: Bench) -> None:
    """Refused, and nothing in it is run, wherever a file is read."""
    victim = bench.folder / "victim"
    hidden = data.draw(st.sampled_from([Intruder(victim), {"weights": Intruder(victim)}, [1, Intruder(victim)]]))
    buffer = io.BytesIO()
    if data.draw(st.booleans()):
        torch.save(hidden, buffer, _use_new_zipfile_serialization=data.draw(st.booleans()))
    else:
        pickle.dump(hidden, buffer, protocol=data.draw(st.integers(0, 5)))
    folder = bench.folder / "pickled"
    folder.mkdir(exist_ok=True)
    name = data.draw(st.sampled_from(["state.pt", "encoder.safetensors", "photo.png"]))
    (folder / name).write_bytes(buffer.getvalue())
    readers = {"state.pt": bench.train, "encoder.safetensors": load_encoder, "photo.png": load_image}
    refused(lambda: readers[name](folder if name == "state.pt" else folder / name), folder / name)
    assert not victim.exists(), "code in a file was run"


def damaged_training_state(data: st.DataObject, bench: Bench) -> None:
    folder = bench.folder / "damaged-run"
    folder.mkdir(exist_ok=True)
    (folder / "state.pt").write_bytes(data.draw(damaged(bench.state)))
    expected = bench.train(bench.folder / "run").encoder.state_dict()
    refused_or(
        lambda result: all(torch.equal(expected[key], value) for key, value in result.encoder.state_dict().items()),
        lambda: bench.train(folder),
        folder / "state.pt",
    )


def images_of_another_kind(data: st.DataObject, bench: Bench) -> None:
    """Arrays that are no uint8 images of 32 x 32 pixels, and things that are no arrays."""
    right = (2, 32, 32, 3)
    shape = data.draw(st.lists(st.integers(0, 33), max_size=5).map(tuple).filter(lambda s: s[1:] != right[1:]))
    dtype = data.draw(st.sampled_from(["float32", "float64", "int64", "int8", "bool", "complex64", "object", "U1"]))
    pixels = np.full(right, np.nan) if data.draw(st.booleans()) else np.zeros(right)
    bad = data.draw(
        st.sampled_from(
            [
                np.zeros(shape, np.uint8),
                torch.zeros(shape, dtype=torch.uint8),
                pixels.astype(dtype),
                None,
                "photo.png",
                7,
                [[1, 2], [3]],
                [None],
                {"images": 1},
                pixels.tolist(),
                b"bytes",
                np.zeros((2, 3, 32, 32), np.uint8),
            ]
        )
    )
    classifier = OneShotClassifier(bench.encoder)
    call = data.draw(
        st.sampled_from(
            [
                lambda: bench.encoder.embed(bad),
                lambda: classifier.fit({"a": bad, "b": bad}),
                lambda: classifier.fit_folder(bench.support).predict(bad),
                lambda: classifier.fit_folder(bench.support).similarities(bad),
            ]
        )
    )
    with np.errstate(all="ignore"):
        refused(call)


def supports_of_another_kind(data: st.DataObject, bench: Bench) -> None:
    images = bench.train_set.images[:2]
    bad = data.draw(
        st.sampled_from(
            [
                {},
                {"a": images},
                {"a": images, "b": images[:0]},
                None,
                3,
                "folder",
                [images, images],
                {"a": images, "b": None},
                {"a": images, "b": 5},
            ]
        )
    )
    refused(lambda: OneShotClassifier(bench.encoder).fit(bad))
    refused(lambda: OneShotClassifier(bench.encoder).predict(images))  # before it has learned any class


def damaged_photo(data: st.DataObject, bench: Bench) -> None:
    """A photograph is read whole, or refused by its name; the size of the result is as asked for."""
    mode = data.draw(st.sampled_from(["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK"]))
    kind = data.draw(st.sampled_from(["png", "jpeg", "tiff", "gif", "bmp", "webp"]))
    width, height = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8))
    picture = Image.fromarray(np.asarray(picture).astype(np.uint16)) if mode == "I;16" else picture.convert(mode)
    buffer = io.BytesIO()
    try:
        picture.save(buffer, kind)
    except (OSError, KeyError):  # not every format takes every mode
        picture.convert("RGB").save(buffer, kind)
    whole = bench.file(f"whole.{kind}", buffer.getvalue())
    assert load_image(whole).shape == (32, 32, 3)
    path = bench.file(f"damaged.{kind}", data.draw(damaged(buffer.getvalue())))
    refused_or(lambda image: image.shape == (32, 32, 3) and image.dtype == np.uint8, lambda: load_image(path), path)


def support_folder_gone_wrong(data: st.DataObject, bench: Bench) -> None:
    folder = bench.folder / "gone-wrong"
    for entry in sorted(folder.rglob("*"), reverse=True):
        entry.rmdir() if entry.is_dir() else entry.unlink()
    folder.mkdir(exist_ok=True)
    fault = data.draw(st.sampled_from(["empty class", "one class", "no class", "damaged", "text", "missing", "query"]))
    for number in range({"one class": 1, "no class": 0}.get(fault, data.draw(st.integers(2, 4)))):
        (folder / f"class{number}").mkdir()
        Image.new("RGB", (32, 32), (60 * number, 90, 120)).save(folder / f"class{number}" / "0.png")
    queries: Any = bench.support / "class0" / "0.png"
    named: object = ""
    victim = folder / "class1" / "0.png"
    if fault == "empty class":
        victim.unlink()
        named = victim.parent
    elif fault in ("damaged", "text"):
        image = victim.read_bytes()
        victim.write_bytes(image[: data.draw(st.integers(0, len(image) // 2))] if fault == "damaged" else b"text")
        named = victim
    elif fault == "missing":
        folder = named = bench.folder / "nowhere"  # type: ignore[assignment]
    elif fault == "query":
        queries = data.draw(st.sampled_from([[], bench.folder / "none.png", [bench.folder / "none.png"]]))
        named = "image"
    refused(lambda: classify_folder(bench.encoder, folder, queries), named)


def damaged_data_set(data: st.DataObject, bench: Bench) -> None:
    """CIFAR-100 in three layouts: damage is named, or the images are bit for bit the right ones."""
    layout = data.draw(st.sampled_from(sorted(bench.cifar100)))
    root = bench.cifar100[layout]
    files = sorted(path for path in root.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    part = data.draw(st.sampled_from(["train", "test"]))
    whole = path.read_bytes()
    other = data.draw(st.sampled_from(files))
    content = data.draw(damaged(whole) | st.just(other.read_bytes()) | st.none())
    images, labels = test_data.SORTED["cifar100"][part]
    try:
        path.unlink() if content is None else path.write_bytes(content)
        refused_or(
            lambda found: np.array_equal(found.images.numpy(), images) and np.array_equal(found.labels.numpy(), labels),
            lambda: load_cifar100(part, root=root, download=False, cache=False),
            root,
        )
    finally:
        path.write_bytes(whole)


def mislabelled_image_set(data: st.DataObject, bench: Bench) -> None:
    images, labels = bench.train_set.images, bench.train_set.labels
    bad = data.draw(
        st.sampled_from(
            [
                {"labels": labels[:-1]},
                {"labels": labels.float()},
                {"labels": labels - 1},
                {"labels": labels + 97},
                {"labels": labels.int()},
                {"images": images.float()},
                {"images": images[0]},
                {"images": images[:3]},
                {"images": images.permute(0, 3, 1, 2)},
                {"images": images.transpose(1, 2)[:, ::2]},
                {"labels": labels[:, None]},
            ]
        )
    )
    fields = {name: getattr(bench.train_set, name) for name in bench.train_set.__dataclass_fields__}
    refused(lambda: ImageSet(**{**fields, **bad}))
    count = len(bench.train_set)
    wrong = data.draw(st.sampled_from([[count], [-1], [0.5], [[0, 1]], [True, False], [10**12]]))
    refused(lambda: bench.train_set.subset(wrong))
    refused(lambda: bench.train_set.indices_of([data.draw(st.integers(4, 10**9) | st.integers(-(10**9), -1))]))


def damaged_table(data: st.DataObject, bench: Bench) -> None:
    table = (
        ",".join(COLUMNS).encode()
        + b"\n"
        + b"".join(f"90-10,0,0,r,m{number},{number}.5,0.25,1000,c.safetensors\n".encode() for number in range(5))
    )
    path = bench.file("table.csv", data.draw(damaged(table)))

    def whole(found: Any) -> bool:
        """What a table cannot hide: numbers are numbers, and columns and rows are whole."""
        numbers = all(found[name].dtype.kind in "if" for name in ("value", "n", "draw", "seed"))
        return not len(found) or (numbers and bool(found.value.notna().all()))

    refused_or(whole, lambda: results.read_table(path, COLUMNS), path)
    record = bench.file("record.json", data.draw(damaged(b'{"config": {"epochs": 3}, "seconds": 1.5}')))
    refused_or(lambda found: isinstance(found, dict), lambda: results.read_record(record), record)


def damaged_info(data: st.DataObject, bench: Bench) -> None:
    path = bench.file("info.safetensors", bench.checkpoint)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    metadata["info"] = data.draw(damaged(metadata["info"].encode())).decode("utf-8", "replace")
    save_file(load_file(path), path, metadata=metadata)
    refused_or(lambda info: isinstance(info, dict), lambda: checkpoint_info(path), path)
    whole = json.dumps({"split": "90-10", "draw": 0})
    refused_or(lambda _: metadata["info"] == whole, lambda: load_encoder(path), path)


def foreign_configuration(data: st.DataObject, bench: Bench) -> None:
    """Any value in any field: refused, or a configuration that survives being written and read."""
    plain = bench.config.to_json()
    key = data.draw(st.sampled_from([*sorted(plain), "colour"]))
    plain[key] = data.draw(JSON)
    if key in ("augment", "terms") and data.draw(st.booleans()):
        part = dict(bench.config.to_json()[key] if key == "augment" else bench.config.to_json()[key][0])
        part[data.draw(st.sampled_from(sorted(part)))] = data.draw(JSON)
        plain[key] = part if key == "augment" else [part]
    refused_or(
        lambda config: TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config,
        lambda: TrainConfig.from_json(plain),
    )


def splits_that_do_not_exist(data: st.DataObject, bench: Bench) -> None:
    labels = bench.train_set.labels
    number = st.integers(-(10**9), -1) | st.floats(allow_nan=True) | st.text(max_size=3) | st.none() | st.booleans()
    call = data.draw(
        st.sampled_from(
            [
                lambda: class_split(data.draw(st.text(max_size=8)), 0),
                lambda: class_split("90-10", data.draw(number)),
                lambda: class_split("5-6", 0, data.draw(st.integers(-5, 10))),
                lambda: hold_out_images(labels, (0, 1), data.draw(st.integers(6, 99)), 0),
                lambda: hold_out_images(labels, (0, 0), 1, 0),
                lambda: hold_out_images(labels, (), 1, 0),
                lambda: hold_out_images(labels, (0, 99), 1, 0),
                lambda: hold_out_images(labels, (0,), 1, -1),
                lambda: hold_out_classes((0, 1, 2), data.draw(st.integers(3, 99)), 0),
            ]
        )
    )
    refused(call)


def embeddings_that_are_none(data: st.DataObject, bench: Bench) -> None:
    z = torch.nn.functional.normalize(torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = torch.arange(24) % 4
    bad = data.draw(
        st.sampled_from(
            [
                (z[:-1], labels),
                (z, labels[:-1]),
                (z * torch.nan, labels),
                (2 * z, labels),
                (z.int(), labels),
                (z[0], labels),
                (z, labels.float()),
                (z, labels[:, None]),
                (z[:0], labels[:0]),
                (None, labels),
                (z, None),
                (z, "labels"),
                ([[1.0], [2.0, 3.0]], labels),
                (z, labels * 0),
                (z.clone().fill_(0), labels),
            ]
        )
    )
    metric = data.draw(st.sampled_from([few_shot_accuracy, triplet_accuracy, pair_auc]))
    refused(lambda: metric(*bad, named_rng(0, "fuzz")))


FAMILIES: tuple[Callable[[st.DataObject, Bench], None], ...] = (
    damaged_checkpoint,
    checkpoint_of_another_design,
    checkpoint_with_other_tensors,
    pickled_checkpoint,
    damaged_training_state,
    images_of_another_kind,
    supports_of_another_kind,
    damaged_photo,
    support_folder_gone_wrong,
    damaged_data_set,
    mislabelled_image_set,
    damaged_table,
    damaged_info,
    foreign_configuration,
    splits_that_do_not_exist,
    embeddings_that_are_none,
)


def attack(
    family: Callable[[st.DataObject, Bench], None], bench: Bench, inputs: int, count: Callable[[], None] = lambda: None
) -> None:
    """Try so many inputs of a family."""

    @settings(max_examples=inputs, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def one(data: st.DataObject) -> None:
        count()
        with in_time():
            family(data, bench)

    one()


@contextmanager
def small_cifar100(bench: Bench) -> Iterator[None]:
    """Expect the small copies of CIFAR-100 instead of the real one."""
    with pytest.MonkeyPatch.context() as patch:
        test_data.expect_small(patch, bench.cifar100["torchvision"])
        yield
