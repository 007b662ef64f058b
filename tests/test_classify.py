"""One-shot classification of folders: reading images as people have them, prototypes, and clear errors."""

from __future__ import annotations

import dataclasses
import io
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from siamese_utils.data.image_files import images_in, load_image
from siamese_utils.data.images import ImageSet
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.checkpoints import load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder, Ensemble
from siamese_utils.errors import CheckpointError, ConfigError, DataError, SamplingError, ShapeError, SiameseError
from siamese_utils.recognition.answers import answers_page
from siamese_utils.recognition.classifier import OneShotClassifier, classify_folder
from siamese_utils.system import progress
from siamese_utils.training.loop import train
from siamese_utils.training.recipes import recipe


@pytest.fixture(scope="module")
def train_set() -> ImageSet:
    return make_synthetic("train", num_classes=20, per_class=32)


@pytest.fixture(scope="module")
def test_set() -> ImageSet:
    return make_synthetic("test", num_classes=25, per_class=12)


@pytest.fixture(scope="module")
def encoder(train_set: ImageSet) -> Encoder:
    """A small encoder trained for a few seconds on all but the last five classes."""
    config = dataclasses.replace(recipe("smoke"), encoder="conv3", epochs=6, batch_size=32, held_out_images=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = train(config, train_set, range(20), device="cpu", progress=False)
    torch.set_num_threads(threads)
    return result.encoder


UNSEEN = (20, 21, 22, 23, 24)


def save_class_folders(folder: Path, images: ImageSet, classes: tuple[int, ...], start: int, count: int) -> list[Path]:
    """Write images ``start`` to ``start + count`` of each class as PNG files in one sub-folder a class."""
    paths = []
    for label in classes:
        sub = folder / images.class_names[label]
        sub.mkdir(parents=True)
        for number, position in enumerate(images.indices_of([label])[start : start + count].tolist()):
            paths.append(sub / f"{number}.png")
            Image.fromarray(images.images[position].numpy()).save(paths[-1])
    return paths


@pytest.fixture
def support(tmp_path: Path, test_set: ImageSet) -> Path:
    """Two classes, one image each."""
    save_class_folders(tmp_path / "support", test_set, UNSEEN[:2], 0, 1)
    return tmp_path / "support"


def photo(width: int = 60, height: int = 40, seed: int = 0) -> Image.Image:
    """A smooth colourful picture, different in each of its quarters."""
    coarse = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


# --------------------------------------------------------------------------------- reading an image


def test_small_rgb_image_is_read_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = load_image(tmp_path / "a.png")
    assert read.dtype == np.uint8 and np.array_equal(read, pixels)
    assert np.array_equal(load_image(str(tmp_path / "a.png")), pixels)


@pytest.mark.parametrize("size", [8, 32, 64])
@pytest.mark.parametrize("shape", [(1, 1), (300, 20), (20, 300), (1, 200), (500, 400)])
def test_any_size_becomes_a_square(shape: tuple[int, int], size: int, tmp_path: Path) -> None:
    photo(*shape).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png", size).shape == (size, size, 3)


def test_what_was_read_may_be_written_to(tmp_path: Path) -> None:
    photo().save(tmp_path / "photo.png")
    load_image(tmp_path / "photo.png")[:] = 0


def test_middle_square_is_cut_out(tmp_path: Path) -> None:
    picture = Image.new("RGB", (96, 32), "blue")
    picture.paste(Image.new("RGB", (32, 32), "red"), (32, 0))
    picture.save(tmp_path / "a.png")
    assert (load_image(tmp_path / "a.png") == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff", "png"])
def test_formats(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{kind}"
    photo(64, 64).save(path)
    read, exact = load_image(path).astype(int), np.asarray(photo(64, 64).resize((32, 32), Image.Resampling.LANCZOS))
    assert abs(read - exact).mean() < 8  # JPEG and GIF lose something
    assert images_in(tmp_path) == [path]


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "CMYK", "I;16", "RGBA"])
def test_colour_modes(mode: str, tmp_path: Path) -> None:
    grey = np.linspace(0, 255, 32).astype(np.uint8)[None, :].repeat(32, axis=0)
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
        assert picture.mode == "I;16"
    elif mode == "1":
        picture = Image.fromarray(grey).convert("1", dither=Image.Dither.NONE)
        grey = np.where(grey > 127, 255, 0)
    else:
        picture = Image.fromarray(grey).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.save(path)
    read = load_image(path)
    assert read.shape == (32, 32, 3) and read.dtype == np.uint8
    assert abs(read.astype(int) - grey[:, :, None].astype(int)).max() <= 2


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:16] = [200, 0, 0, 255]
    pixels[16:24] = [0, 0, 0, 0]
    pixels[24:] = [0, 0, 0, 128]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    read = load_image(tmp_path / "a.png")
    assert (read[:16] == [200, 0, 0]).all() and (read[16:24] == 255).all()
    assert (abs(read[24:].astype(int) - 127) <= 1).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int, tmp_path: Path) -> None:
    turned_back = {  # what a camera stores when the picture has to be turned by the reader
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    upright = photo(32, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if turned_back is None else upright.transpose(turned_back)
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(load_image(tmp_path / "a.png"), np.asarray(upright))


def test_image_can_be_embedded_without_a_warning(tmp_path: Path, encoder: Encoder) -> None:
    photo().save(tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert encoder.embed(load_image(tmp_path / "a.png")[None]).shape == (1, encoder.embedding_dim)


def test_missing_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="is a folder; name the images in it, or ask predict_files"):
        load_image(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff"])
def test_file_that_is_no_image(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png is not a readable image") as error:
        load_image(tmp_path / "a.png")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "webp", "tiff"])
def test_damaged_images_are_read_or_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(16, 16).save(buffer, kind, **({"exif": exif} if kind in ("png", "jpeg", "webp", "tiff") else {}))
    content, path = buffer.getvalue(), tmp_path / f"a.{kind}"
    rng = np.random.default_rng(0)
    refused = 0
    for trial in range(150):
        damaged = bytearray(content)
        if trial % 3 == 0:
            damaged = damaged[: int(rng.integers(len(content)))]
        else:  # mostly in the header, where the structure is
            for position in rng.integers(0, min(len(content), 120 if trial % 3 == 1 else len(content)), 3):
                damaged[position] = int(rng.integers(256))
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on broken metadata
            try:
                assert load_image(path).shape == (32, 32, 3)
            except DataError as error:
                refused += 1
                assert str(path) in str(error) and "\n" not in str(error)
    assert refused


# --------------------------------------------------------------------------------------- prototypes


def test_prototype_is_the_mean_of_the_support(encoder: Encoder, test_set: ImageSet) -> None:
    groups = {str(label): test_set.images[test_set.indices_of([label])[:k]] for label, k in ((20, 1), (21, 3), (22, 5))}
    classifier = OneShotClassifier(encoder).fit(groups)
    assert classifier.class_names == ("20", "21", "22")
    for row, images in zip(classifier.prototypes, groups.values(), strict=True):
        mean = np.mean([encoder.embed(image[None])[0].double().numpy() for image in images], axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)
    one = encoder.embed(groups["20"])[0]
    torch.testing.assert_close(classifier.prototypes[0], one, atol=1e-5, rtol=0)


def test_similarity_is_the_cosine_to_the_prototype(encoder: Encoder, test_set: ImageSet) -> None:
    queries = test_set.images[::9]
    groups = {str(label): test_set.images[test_set.indices_of([label])[:2]] for label in UNSEEN}
    classifier = OneShotClassifier(encoder).fit(groups)
    similarity = classifier.similarities(queries)
    assert similarity.shape == (len(queries), 5) and similarity.dtype == torch.float32
    expected = torch.nn.functional.cosine_similarity(
        encoder.embed(queries)[:, None, :], classifier.prototypes[None, :, :], dim=2
    )
    torch.testing.assert_close(similarity, expected, atol=1e-5, rtol=0)
    best = [classifier.class_names[i] for i in expected.argmax(dim=1).tolist()]
    assert classifier.predict(queries) == best == classifier.predict(queries.numpy())


def test_support_image_is_recognised(encoder: Encoder, test_set: ImageSet) -> None:
    images = test_set.images[::12]
    classifier = OneShotClassifier(encoder).fit({str(n): image[None] for n, image in enumerate(images)})
    assert classifier.predict(images) == [str(n) for n in range(len(images))]
    torch.testing.assert_close(classifier.similarities(images).diagonal(), torch.ones(len(images)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shots, least", [(1, 0.3), (3, 0.4)])
def test_unseen_classes_are_recognised(encoder: Encoder, test_set: ImageSet, shots: int, least: float) -> None:
    right = total = 0
    for first in range(6):
        groups = {str(c): test_set.images[test_set.indices_of([c])[:6].roll(-first)[:shots]] for c in UNSEEN}
        classifier = OneShotClassifier(encoder).fit(groups)
        for c in UNSEEN:
            predictions = classifier.predict(test_set.images[test_set.indices_of([c])[6:]])
            right, total = right + predictions.count(str(c)), total + len(predictions)
    assert right / total > least  # chance is 0.2


def test_fitting_again_forgets(encoder: Encoder, test_set: ImageSet) -> None:
    first = {"a": test_set.images[:1], "b": test_set.images[20:21], "c": test_set.images[40:41]}
    classifier = OneShotClassifier(encoder).fit(first)
    assert classifier.fit({"x": test_set.images[:1], "y": test_set.images[30:31]}) is classifier
    assert classifier.class_names == ("x", "y") and classifier.similarities(test_set.images[:2]).shape == (2, 2)


def test_names_come_as_the_last_fit_was_given_them(encoder: Encoder, test_set: ImageSet, tmp_path: Path) -> None:
    images, by_name = test_set.images[:40:10], {"x": test_set.images[:1], "y": test_set.images[30:31]}
    classifier = OneShotClassifier(encoder).fit(images, np.array(["a", "a", "b", "b"]))
    assert isinstance(classifier.predict(images), np.ndarray) and classifier.n_features_in_ == encoder.embedding_dim
    assert isinstance(classifier.fit(by_name).predict(images), list) and not hasattr(classifier, "n_features_in_")
    classifier.save(tmp_path / "by_name")
    assert isinstance(OneShotClassifier.load(tmp_path / "by_name", encoder).predict(images), list)
    with pytest.raises(SamplingError):
        classifier.fit(images, np.array(["a"] * 4))  # a fit that fails changes nothing
    assert isinstance(classifier.predict(images), list)
    classifier.fit(images, np.array(["a", "a", "b", "b"])).save(tmp_path / "listed")
    assert isinstance(OneShotClassifier.load(tmp_path / "listed", encoder).predict(images), np.ndarray)


def test_embeddings_of_any_length_type_and_history_are_taken(encoder: Encoder, test_set: ImageSet) -> None:
    groups = {str(label): encoder.embed(test_set.images[test_set.indices_of([label])[:3]]) for label in UNSEEN}
    z = encoder.embed(test_set.images[::9])
    plain = OneShotClassifier(encoder).fit_embeddings(groups)
    for given, change in (
        ("longer", lambda rows: 3 * rows),
        ("double", lambda rows: rows.double()),
        ("with a gradient", lambda rows: rows.clone().requires_grad_()),
        ("an array", lambda rows: 0.5 * rows.numpy()),
    ):
        other = OneShotClassifier(encoder).fit_embeddings({name: change(rows) for name, rows in groups.items()})
        assert other.reading_.threshold == pytest.approx(plain.reading_.threshold, abs=1e-5), given
        assert other.reading_.temperature == pytest.approx(plain.reading_.temperature, rel=1e-4), given
        torch.testing.assert_close(other.compare(change(z)), plain.compare(z))


def test_arrays_that_cannot_be_used(encoder: Encoder, test_set: ImageSet) -> None:
    good = test_set.images[:1]
    classifier = OneShotClassifier(encoder)
    with pytest.raises(SamplingError, match="call fit"):
        classifier.predict(good)
    with pytest.raises(SamplingError, match="two classes"):
        classifier.fit({})
    with pytest.raises(SamplingError, match="two classes"):
        classifier.fit({"a": good})
    with pytest.raises(SamplingError, match="'b' has no support"):
        classifier.fit({"a": good, "b": good[:0]})
    with pytest.raises(ShapeError):
        classifier.fit({"a": good, "b": good[0]})
    with pytest.raises(ShapeError):
        classifier.fit({"a": good, "b": good.float()})
    with pytest.raises(SamplingError, match="call fit"):
        classifier.predict(good)  # no failed fit leaves half a classifier
    classifier.fit({"a": good, "b": good})
    with pytest.raises(ShapeError):
        classifier.predict(test_set.images[0])


def test_embeddings_at_hand_give_the_same_classifier(encoder: Encoder, test_set: ImageSet) -> None:
    groups = {str(label): test_set.images[test_set.indices_of([label])[:2]] for label in UNSEEN}
    queries = test_set.images[::9]
    of_images = OneShotClassifier(encoder).fit(groups)
    of_embeddings = OneShotClassifier(encoder).fit_embeddings(
        {name: encoder.embed(images).numpy() for name, images in groups.items()}
    )
    torch.testing.assert_close(of_embeddings.prototypes, of_images.prototypes, atol=1e-5, rtol=0)
    torch.testing.assert_close(of_embeddings.compare(encoder.embed(queries)), of_images.similarities(queries))
    for bad in (torch.ones(2, 3), torch.full((2, encoder.embedding_dim), torch.nan), "fox"):
        with pytest.raises(ShapeError):
            of_embeddings.compare(bad)
        with pytest.raises(ShapeError):
            of_embeddings.fit_embeddings({"a": bad, "b": bad})


class Watched(Encoder):
    """Notes how many images it is given at once."""

    def embed(self, images: np.ndarray | torch.Tensor, batch_size: int = 100) -> torch.Tensor:
        self.batches = [*getattr(self, "batches", []), len(images)]
        return super().embed(images, batch_size)


def test_many_classes_are_embedded_in_full_batches(test_set: ImageSet, tmp_path: Path) -> None:
    watched = Watched("conv3", 4).eval()
    support = tmp_path / "support"
    for number, image in enumerate(test_set.images[:230]):
        (support / f"{number:03d}").mkdir(parents=True)
        Image.fromarray(image.numpy()).save(support / f"{number:03d}" / "0.png")
    of_folder = OneShotClassifier(watched).fit_folder(support)
    assert watched.batches == [100, 100, 30]
    groups = {f"{number:03d}": image[None] for number, image in enumerate(test_set.images[:230])}
    of_arrays = OneShotClassifier(watched).fit(groups)
    assert watched.batches[3:] == [100, 100, 30] and of_folder.class_names == of_arrays.class_names
    torch.testing.assert_close(of_folder.prototypes, of_arrays.prototypes, atol=1e-6, rtol=0)
    queries = tmp_path / "queries"
    queries.mkdir()
    for number, image in enumerate(test_set.images[:101]):
        Image.fromarray(255 - image.numpy()).save(queries / f"{number:03d}.png")
    table = of_folder.predict_files(queries)
    assert watched.batches[6:] == [100, 1] and len(table) == 101


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_how_far_it_is_and_a_pipe_nothing(
    encoder: Encoder, support: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = images_in(sorted(support.iterdir())[0])
    for stream, patience, shown in ((Terminal(), 60, False), (Terminal(), 0, True), (io.StringIO(), 0, False)):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(progress, "PATIENCE", patience)
        classify_folder(encoder, support, query)
        assert ("support" in stream.getvalue() and "queries" in stream.getvalue()) == shown
        assert shown or not stream.getvalue()


def test_an_encoder_may_be_given_by_its_path(encoder: Encoder, support: Path, tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    save_encoder(encoder, path)
    queries = images_in(sorted(support.iterdir())[0])
    expected = classify_folder(load_encoder(path), support, queries)
    for given in (path, str(path), Ensemble([load_encoder(path)])):
        pd.testing.assert_frame_equal(classify_folder(given, support, queries), expected)
    with pytest.raises(CheckpointError, match="no checkpoint nowhere"):
        OneShotClassifier("nowhere.safetensors").fit_folder(support)
    for wrong in (5, {"encoder": 1}, Encoder):
        with pytest.raises(ConfigError, match="An encoder is needed"):
            OneShotClassifier(wrong).fit_folder(support)
    for members in (["nowhere"], "nowhere", None, [Encoder], []):
        with pytest.raises(ConfigError, match=r"An? en(coder|semble)"):
            Ensemble(members)


@pytest.mark.parametrize("seed", range(3))
def test_no_cosine_is_beyond_one(seed: int, test_set: ImageSet) -> None:
    torch.manual_seed(seed)
    encoder = Encoder("conv3", 64).eval()
    images = test_set.images[:200]
    classifier = OneShotClassifier(encoder).fit({str(n): image[None] for n, image in enumerate(images)})
    assert (encoder.embed(images) @ classifier.prototypes.T).max() > 1  # as rounding has it
    assert classifier.similarities(images).abs().max() <= 1


# ------------------------------------------------------------------------------------------ folders


def test_folder_agrees_with_arrays(encoder: Encoder, test_set: ImageSet, tmp_path: Path) -> None:
    save_class_folders(tmp_path / "support", test_set, UNSEEN, 0, 2)
    queries = save_class_folders(tmp_path / "queries", test_set, UNSEEN, 2, 3)
    table = classify_folder(encoder, tmp_path / "support", queries)
    names = sorted(test_set.class_names[label] for label in UNSEEN)
    label_of = {name: label for label, name in enumerate(test_set.class_names)}
    classifier = OneShotClassifier(encoder).fit(
        {name: test_set.images[test_set.indices_of([label_of[name]])[:2]] for name in names}
    )
    images = torch.cat([test_set.images[test_set.indices_of([label])[2:5]] for label in UNSEEN])
    similarity = classifier.similarities(images)
    first = ["query", "prediction", "similarity", "margin", "probability", "unknown"]
    assert table.columns.tolist() == [*first, *names]
    assert table["query"].tolist() == [str(path) for path in queries]
    assert table["prediction"].tolist() == classifier.predict(images)
    np.testing.assert_allclose(table[names], similarity, atol=1e-5)
    np.testing.assert_allclose(table["probability"], classifier.predict_proba(images).max(axis=1), atol=1e-5)
    best = similarity.sort(dim=1, descending=True).values
    np.testing.assert_allclose(table["similarity"], best[:, 0], atol=1e-5)
    np.testing.assert_allclose(table["margin"], best[:, 0] - best[:, 1], atol=1e-5)
    same = OneShotClassifier(encoder).fit_folder(tmp_path / "support").predict_files(queries)
    pd.testing.assert_frame_equal(same, table)


def test_queries_may_be_folders(encoder: Encoder, test_set: ImageSet, support: Path, tmp_path: Path) -> None:
    files = save_class_folders(tmp_path / "queries", test_set, UNSEEN[:2], 1, 2)
    folders = [tmp_path / "queries" / test_set.class_names[label] for label in UNSEEN[:2]]
    table = classify_folder(encoder, str(support), [str(folders[0]), files[-1]])
    assert table["query"].tolist() == [str(f) for f in (*files[:2], files[-1])]


@pytest.mark.parametrize("kind", [str, Path])
def test_single_query_may_stand_alone(kind: type, encoder: Encoder, support: Path) -> None:
    query = images_in(sorted(support.iterdir())[0])[0]
    assert classify_folder(encoder, support, kind(query))["query"].tolist() == [str(query)]


def test_mixed_photos_as_people_have_them(encoder: Encoder, tmp_path: Path) -> None:
    support = tmp_path / "support"
    for name in ("cat", "dog"):
        (support / name).mkdir(parents=True)
    photo(300, 200, 1).save(support / "cat" / "IMG_1.JPG", "JPEG")
    photo(40, 50, 2).convert("L").save(support / "cat" / "grey.png")
    photo(64, 64, 3).convert("RGBA").save(support / "dog" / "clear.webp", lossless=True)
    for hidden in (support / ".DS_Store", support / "cat" / ".hidden.png", support / "cat" / "Thumbs.db"):
        hidden.write_bytes(b"not an image")
    (support / ".ipynb_checkpoints").mkdir()
    (support / "cat" / "more").mkdir()
    (support / "readme.txt").write_text("two classes")
    classifier = OneShotClassifier(encoder).fit_folder(support)
    assert classifier.class_names == ("cat", "dog")
    expected = encoder.embed(np.stack([load_image(support / "cat" / f) for f in ("IMG_1.JPG", "grey.png")])).mean(dim=0)
    torch.testing.assert_close(classifier.prototypes[0], expected / expected.norm(), atol=1e-5, rtol=0)


def test_folder_for_an_encoder_of_another_image_size(tmp_path: Path, test_set: ImageSet) -> None:
    save_class_folders(tmp_path / "support", test_set, UNSEEN[:2], 0, 1)
    queries = save_class_folders(tmp_path / "queries", test_set, UNSEEN[:2], 1, 1)
    torch.manual_seed(0)
    assert len(classify_folder(Encoder("conv3", image_size=24).eval(), tmp_path / "support", queries)) == 2


RESERVED = ("query", "prediction", "similarity", "margin", "probability", "unknown", "in_support", "class_1")


@pytest.mark.parametrize("name", RESERVED)
def test_class_named_like_a_column(name: str, encoder: Encoder, support: Path) -> None:
    sorted(support.iterdir())[0].rename(support / name)
    query = images_in(support / name)[0]
    table = classify_folder(encoder, support, [query])
    assert table.iloc[0, :2].tolist() == [str(query), name]
    assert table.iloc[0, 2] == pytest.approx(1, abs=1e-5) and table.shape == (1, 8)
    assert f"{name} (class)" in table.columns
    (card,) = answers_page(table).cards
    assert card.heading == name and card.said.endswith("similarity 1.00, lead " + f"{table['margin'][0]:.2f}")


def test_missing_support_folder(encoder: Encoder, tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path / "file"):
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match="no support folder") as error:
            classify_folder(encoder, path, [])
        assert str(path) in str(error.value)


def test_support_folder_without_two_classes(encoder: Encoder, support: Path) -> None:
    first, second = sorted(support.iterdir())
    image = images_in(second)[0]
    image.rename(support / "loose.png")  # images beside the sub-folders are of no class
    second.rmdir()
    for _ in range(2):
        with pytest.raises(SamplingError, match="two classes"):
            classify_folder(encoder, support, [support / "loose.png"])
        if first.exists():
            images_in(first)[0].unlink()
            first.rmdir()


def test_empty_class_folder(encoder: Encoder, support: Path) -> None:
    (support / "empty").mkdir()
    (support / "empty" / ".hidden.png").write_bytes(b"")
    (support / "empty" / "notes.txt").write_bytes(b"")
    with pytest.raises(SamplingError, match="holds no image") as error:
        classify_folder(encoder, support, [])
    assert str(support / "empty") in str(error.value)


def test_broken_support_and_query_images(encoder: Encoder, support: Path) -> None:
    good = images_in(sorted(support.iterdir())[0])[0]
    broken = support.parent / "broken.png"
    broken.write_bytes(good.read_bytes()[:60])
    with pytest.raises(DataError, match=r"broken\.png is not a readable image"):
        classify_folder(encoder, support, [good, broken])
    with pytest.raises(DataError, match="no image file"):
        classify_folder(encoder, support, [support / "none.png"])
    broken.rename(good.parent / "broken.png")
    with pytest.raises(DataError, match=r"broken\.png is not a readable image"):
        classify_folder(encoder, support, [good])


def test_no_query(encoder: Encoder, support: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for queries in ([], [tmp_path / "empty"]):
        with pytest.raises(DataError, match="no query image"):
            classify_folder(encoder, support, queries)


def test_every_error_is_one_the_command_line_prints() -> None:
    for error in (DataError, SamplingError, ShapeError):
        assert issubclass(error, SiameseError)


def test_what_is_not_looked_into_is_told(encoder: Encoder, support: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Images beside the folders of classes, folders within a folder of queries, and links that lead nowhere."""
    (name, *_), query = sorted(support.iterdir()), next(support.rglob("*.png"))
    shutil.copy(query, support / "loose.png")
    (name / "gone.png").symlink_to(support / "nowhere.png")
    queries = support.parent / "queries"
    (queries / "2024").mkdir(parents=True)
    for place in (queries, queries / "2024"):
        Image.fromarray(np.full((32, 32, 3), 77, np.uint8)).save(place / "q.png")
    assert len(classify_folder(encoder, support, queries)) == 1
    told = " ".join(record.getMessage() for record in caplog.records)
    assert f"Of no class, and left out: 1 image in {support}, such as loose.png" in told
    assert f"Not looked into: 1 folder in {queries}, such as 2024" in told
    assert "Passed over 1 file" in told and "1 broken link" in told
