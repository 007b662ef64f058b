"""Images of any size, files and views: what embed makes of them, and the fingerprint of what decides it."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from siamese_utils.data.image_files import load_image
from siamese_utils.data.pixels import to_float
from siamese_utils.data.squares import square_batches
from siamese_utils.encoders.encoder import Encoder, Ensemble
from siamese_utils.encoders.views import VIEWS, embed_by_views, embed_shifted, shifted, side_for, views_of
from siamese_utils.errors import ImageError, ShapeError, UnknownNameError

SIDE = 14


def some_images(count: int, height: int = SIDE, width: int = SIDE, seed: int = 0) -> np.ndarray:
    """Smooth images, whose pixels differ from row to row, column to column and colour to colour."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    size = (width, height)
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BICUBIC)) for one in coarse])


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder("conv3", 8, image_size=SIDE)
    encoder.set_pixel_statistics(some_images(20))
    encoder.set_centre(some_images(20))
    return encoder.eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("files")
    paths = [folder / f"{n}.png" for n in range(3)]
    for path, (height, width) in zip(paths, ((SIDE, SIDE), (40, 23), (9, 30))):
        Image.fromarray(some_images(1, height, width, seed=height)[0]).save(path)
    return paths


# ------------------------------------------------------------------------------------ any size, any form


def test_any_form_of_the_same_images_gives_the_same(encoder: Encoder, files: list[Path]) -> None:
    expected = encoder.embed(np.stack([load_image(file, SIDE) for file in files]))
    arrays = [np.asarray(Image.open(file)) for file in files]
    forms = {
        "paths": files,
        "names": tuple(map(str, files)),
        "column": pd.Series([str(file) for file in files]),
        "array of names": np.array([str(file) for file in files]),
        "generated": (file for file in files),
        "arrays": arrays,
        "tensors": [torch.tensor(one) for one in arrays],
        "of Pillow": [Image.open(file) for file in files],
        "mixed": [arrays[0], files[1], Image.open(files[2])],
    }
    for form, given in forms.items():
        assert torch.equal(encoder.embed(list(given) if form == "generated" else given), expected), form
    assert torch.equal(encoder.embed(files, batch_size=2), encoder.embed(arrays, batch_size=2))
    assert torch.equal(encoder.embed(files[1]), encoder.embed([arrays[1]]))  # one path alone


def test_an_array_of_another_size_is_cropped_and_scaled_as_files_are(encoder: Encoder, files: list[Path]) -> None:
    large = some_images(1, 40, 23, seed=40)
    assert torch.equal(encoder.embed(large), encoder.embed(files[1]))
    assert torch.equal(encoder.embed(torch.from_numpy(large)), encoder.embed(files[1]))


@pytest.mark.parametrize("none", [[], ()])
def test_no_images_have_no_embeddings(none: list | tuple, encoder: Encoder) -> None:
    assert encoder.embed(none).shape == (0, 8) and Ensemble([encoder, encoder]).embed(none).shape == (0, 16)


def test_grey_images(encoder: Encoder) -> None:
    grey = some_images(1)[0, ..., 1]
    assert torch.equal(encoder.embed([grey]), encoder.embed(np.repeat(grey[None, ..., None], 3, axis=3)))


def test_squares_of_the_right_size_stay_as_they_are() -> None:
    images = torch.from_numpy(some_images(5))
    (batch,) = square_batches(images, SIDE, 5)
    assert batch.data_ptr() == images.data_ptr()
    assert [len(batch) for batch in square_batches(images, 7, 2)] == [2, 2, 1]
    assert list(square_batches(images[:0], 7, 2)) == []
    assert torch.equal(torch.cat(list(square_batches(list(images), SIDE, 2))), images)


def test_files_are_read_a_batch_at_a_time(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(
        "siamese_utils.data.squares.load_image", lambda one, side: read.append(one) or some_images(1)[0]
    )
    batches = square_batches(files, SIDE, 2)
    next(batches)
    assert read == files[:2]


@pytest.mark.parametrize(
    "one",
    [
        np.zeros((SIDE, SIDE, 3), np.float32),
        np.zeros((SIDE, SIDE, 4), np.uint8),
        np.zeros((SIDE, SIDE, 3, 1), np.uint8),
        np.zeros((0, SIDE, 3), np.uint8),
        np.zeros(SIDE, np.uint8),
        None,
        7,
    ],
    ids=repr,
)
def test_what_is_no_image_is_named_by_its_place(encoder: Encoder, one: object) -> None:
    with pytest.raises(ShapeError, match=r"[Ii]mage 3 of the list"):
        encoder.embed([*some_images(3), one], batch_size=2)


def test_files_that_cannot_be_read(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(ImageError, match=r"page.png is not a readable image"):
        encoder.embed(tmp_path / "page.png")
    with pytest.raises(ImageError, match=r"There is no image file none.png"):
        encoder.embed(["none.png"])


def test_an_image_of_pillow_that_cannot_be_decoded(encoder: Encoder, files: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    path.write_bytes(files[1].read_bytes()[:700])
    with Image.open(path) as image, pytest.raises(ImageError, match="Image 0 of the list cannot be converted"):
        encoder.embed([image])


# ------------------------------------------------------------------------------------------- views


def test_views_are_averaged_as_directions(encoder: Encoder) -> None:
    for views in VIEWS:
        side = encoder.input_side(views)
        images = some_images(4, side, side)
        pixels = to_float(torch.from_numpy(images), encoder.pixel_mean, encoder.pixel_std)
        with torch.no_grad():
            seen = torch.stack([F.normalize(encoder(view)) for view in views_of(pixels, SIDE, views)])
        assert len(seen) == {"none": 1, "mirror": 2, "shifts": 10}[views]
        expected = F.normalize(F.normalize(seen.mean(dim=0)) - encoder.centre)
        torch.testing.assert_close(encoder.embed(images, views=views), expected, atol=1e-5, rtol=0)


def test_own_views(encoder: Encoder) -> None:
    plain, images = copy.deepcopy(encoder), some_images(3)
    plain.mirror = False
    assert (encoder.views, plain.views) == ("mirror", "none")
    assert torch.equal(encoder.embed(images), plain.embed(images, views="mirror"))
    assert torch.equal(plain.embed(images), encoder.embed(images, views="none"))
    assert not torch.equal(plain.embed(images), encoder.embed(images))


def test_shifts_are_crops_of_a_larger_image() -> None:
    side, large = 7, side_for(7, "shifts")
    assert (large, side_for(224, "shifts"), side_for(224, "mirror")) == (8, 256, 224)
    pixels = torch.arange(float(large**2)).view(1, 1, large, large)
    crops = list(views_of(pixels, side, "shifts"))
    assert all(crop.shape == (1, 1, side, side) for crop in crops)
    corners = {crop[0, 0, 0, 0].item() for crop in crops[::2]}
    assert corners == {0.0, 1.0, 8.0, 9.0} | {pixels[0, 0, 0, 0].item()}
    assert all(torch.equal(mirrored, crop.flip(3)) for crop, mirrored in zip(crops[::2], crops[1::2]))


def test_shifted_views_depend_less_on_where_the_object_is(encoder: Encoder) -> None:
    wide = torch.from_numpy(some_images(20, 32, 32))
    here, there = wide[:, :28, :28], wide[:, 3:31, 3:31]

    def moved(views: str) -> float:
        return (encoder.embed(here, views=views) * encoder.embed(there, views=views)).sum(dim=1).mean().item()

    assert moved("shifts") > moved("mirror")


def test_unknown_views(encoder: Encoder) -> None:
    for call in (encoder.embed, Ensemble([encoder]).embed):
        with pytest.raises(UnknownNameError, match="Did you mean 'mirror'"):
            call(some_images(1), views="miror")
    with pytest.raises(UnknownNameError):
        encoder.input_side("all")


def test_an_ensemble_takes_the_same(encoder: Encoder, files: list[Path]) -> None:
    pair = Ensemble([encoder, encoder])
    assert pair.input_side("shifts") == 16 and pair.views == "mirror" and pair.name == "conv3 + conv3"
    z = pair.embed(files, views="shifts", batch_size=2)
    assert torch.allclose(z, torch.cat([encoder.embed(files, views="shifts")] * 2, dim=1) / 2**0.5, atol=1e-6)


# ------------------------------------------------------------------------------------- fingerprints


def test_the_fingerprint_changes_with_whatever_decides_an_embedding(encoder: Encoder) -> None:
    prints = {encoder.fingerprint}
    assert copy.deepcopy(encoder).fingerprint in prints and len(encoder.fingerprint) == 32
    int(encoder.fingerprint, 16)

    def changed(**attributes: object) -> str:
        other = copy.deepcopy(encoder)
        for name, value in attributes.items():
            setattr(other, name, value)
        return other.fingerprint

    prints |= {changed(mirror=False), changed(image_size=15), changed(name="another")}
    for key, tensor in encoder.state_dict().items():
        other = copy.deepcopy(encoder)
        with torch.no_grad():
            other.state_dict()[key].view(-1)[0] += 1
        prints.add(other.fingerprint)
        assert tensor.shape == other.state_dict()[key].shape
    assert len(prints) == 4 + len(encoder.state_dict())
    pairs = {Ensemble(m).fingerprint for m in ([encoder], [encoder, encoder])}
    assert not pairs & prints and len(pairs) == 2


def test_the_fingerprint_is_the_same_in_another_process() -> None:
    encoder = Encoder("conv3", 4)
    with torch.no_grad():
        for value in (*encoder.parameters(), *encoder.buffers()):
            value.zero_()
    assert (
        encoder.fingerprint == "ab53f3ae837f7e14631aac15873f94cf"
    )  # changes where the embedding of the same weights does


def test_views_are_moved_by_a_pixel() -> None:
    picture = torch.arange(12, dtype=torch.uint8).view(1, 3, 4, 1)
    assert shifted(picture, 1, 0)[0, :, :, 0].tolist() == [[4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7]]
    assert shifted(picture, 0, -1)[0, 0, :, 0].tolist() == [1, 2, 3, 2]
    assert torch.equal(shifted(picture, 0, 0), picture)


def test_embeddings_of_shifted_images_are_averaged() -> None:
    torch.manual_seed(0)
    encoder = Encoder("conv3", image_size=SIDE).eval()
    images = torch.from_numpy(some_images(5))
    found = embed_shifted(encoder.embed, images, [(0, 0), (2, 0), (0, -1)])
    moved = [shifted(images, *shift) for shift in ((0, 0), (2, 0), (0, -1))]
    by_hand = [sum(encoder.embed(some)[row].double() for some in moved) for row in range(5)]
    torch.testing.assert_close(found.double(), F.normalize(torch.stack(by_hand), dim=1), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(embed_shifted(encoder.embed, images, [(0, 0)]), encoder.embed(images))
    asked: list[int] = []

    def embed(moved: torch.Tensor) -> torch.Tensor:
        asked.append(len(moved))
        return encoder.embed(moved)

    kinds = {"one": [(0, 0)], "three": [[0, 0], [2, 0], [0, -1]]}  # pairs are lists in a stored record
    views = embed_by_views(embed, images, kinds)
    assert len(asked) == 3  # the image as it is, for both
    torch.testing.assert_close(views["one"], encoder.embed(images))
    torch.testing.assert_close(views["three"], found)
