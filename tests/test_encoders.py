"""Encoders: shapes, unit length, what embedding must not depend on, and the published sizes."""

from __future__ import annotations

import copy
import importlib.util
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from siamese_utils.encoders.backbones import ENCODERS
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.errors import ConfigError, ShapeError, UnknownNameError

# One encoder comes from an optional package.
INSTALLED = [
    name for name in ENCODERS if name != "efficientnet-lite0" or importlib.util.find_spec("efficientnet_lite_pytorch")
]


def some_images(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth random images, so that convolutions have something to see."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = F.interpolate(coarse, size=(size, size), mode="bilinear")
    return (255 * smooth).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder("conv3", 16)
    with torch.no_grad():
        encoder(torch.randn(16, 3, 32, 32))
    encoder.set_pixel_statistics(some_images(50))
    encoder.set_centre(some_images(50))
    return encoder.eval()


# --------------------------------------------------------------------------------------------- bodies


@pytest.mark.parametrize("embedding_dim", [None, 7])
@pytest.mark.parametrize("name", INSTALLED)
def test_every_encoder_embeds(name: str, embedding_dim: int | None) -> None:
    torch.manual_seed(0)
    encoder = Encoder(name, embedding_dim)
    if embedding_dim is not None:
        assert encoder.embedding_dim == embedding_dim
    z = encoder.embed(some_images(3))
    assert z.shape == (3, encoder.embedding_dim) and z.dtype == torch.float32 and z.device.type == "cpu"
    torch.testing.assert_close(z.norm(dim=1), torch.ones(3))
    assert not z.requires_grad
    features = encoder(torch.randn(3, 3, 32, 32))
    assert features.shape == (3, encoder.embedding_dim)
    features.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("name", INSTALLED)
def test_encoders_take_smaller_images_in_training(name: str) -> None:
    encoder = Encoder(name)
    assert encoder(torch.randn(2, 3, 24, 24)).shape == encoder(torch.randn(2, 3, 32, 32)).shape


# He et al. (2016), table 6: 0.27 M, 0.46 M, 0.66 M and 0.85 M, with a last layer of 64 x 10 weights and 10 biases.
@pytest.mark.parametrize("depth, parameters", [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)])
def test_resnets_have_their_published_size(depth: int, parameters: int) -> None:
    encoder = Encoder(f"resnet{depth}")
    assert count_parameters(encoder) + 64 * 10 + 10 == parameters
    layers = sum(isinstance(module, torch.nn.Conv2d) for module in encoder.modules())
    assert layers == depth - 1 and encoder.embedding_dim == 64


def test_count_agrees_with_torch() -> None:
    encoder = Encoder("resnet9-16", 10)
    assert count_parameters(encoder) == torch.nn.utils.parameters_to_vector(encoder.parameters()).numel()
    encoder.projection.requires_grad_(False)
    assert count_parameters(encoder) == count_parameters(encoder.body)


def test_wider_is_larger() -> None:
    sizes = [count_parameters(Encoder(f"resnet9-{width}")) for width in (16, 32, 48, 64)]
    assert sizes == sorted(sizes) and sizes[-1] > 10 * sizes[0]


def test_weights_come_from_the_seed() -> None:
    torch.manual_seed(5)
    first = Encoder("conv3").state_dict()
    torch.manual_seed(5)
    second = Encoder("conv3").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_unknown_name_and_size() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet20'"):
        Encoder("resnet-20")
    for dim in (0, -1):
        with pytest.raises(ConfigError, match="at least one dimension"):
            Encoder("conv3", dim)


# ------------------------------------------------------------------------------------------ embedding


def test_embedding_is_what_the_docstring_says(encoder: Encoder) -> None:
    images = some_images(5, seed=1)
    pixels = (images.double() - encoder.pixel_mean.double()) / encoder.pixel_std.double()
    precise = copy.deepcopy(encoder).double()
    expected = []
    with torch.no_grad():
        for image in pixels:
            plain = precise(image.permute(2, 0, 1)[None])[0].numpy()
            mirror = precise(image.flip(1).permute(2, 0, 1)[None])[0].numpy()
            both = plain / np.linalg.norm(plain) + mirror / np.linalg.norm(mirror)
            centred = both / np.linalg.norm(both) - precise.centre.numpy()
            expected.append(centred / np.linalg.norm(centred))
    np.testing.assert_allclose(encoder.embed(images), np.stack(expected), atol=1e-4)


def test_features_are_what_the_network_gives(encoder: Encoder) -> None:
    """Not of unit length, not centred, not averaged with the mirror image; in evaluation mode."""
    images = some_images(5, seed=2)
    pixels = (images.float() - encoder.pixel_mean) / encoder.pixel_std
    with torch.no_grad():
        expected = encoder(pixels.permute(0, 3, 1, 2))
    encoder.train()
    torch.testing.assert_close(encoder.features(images, batch_size=2), expected, rtol=1e-4, atol=1e-4)
    assert encoder.training
    encoder.eval()
    with pytest.raises(ShapeError):
        encoder.features(pixels)


@given(count=st.integers(1, 9), batch_size=st.integers(1, 10))
def test_batch_size_does_not_matter(encoder: Encoder, count: int, batch_size: int) -> None:
    images = some_images(count, seed=2)
    torch.testing.assert_close(encoder.embed(images, batch_size), encoder.embed(images), atol=1e-5, rtol=0)


def test_neighbours_in_the_batch_do_not_matter(encoder: Encoder) -> None:
    images = some_images(8, seed=3)
    alone = torch.cat([encoder.embed(image[None]) for image in images])
    torch.testing.assert_close(encoder.embed(images), alone, atol=1e-5, rtol=0)
    assert encoder.embed(images[:0]).shape == (0, 16)


def test_mirror_images_have_one_embedding(encoder: Encoder) -> None:
    images = some_images(8, seed=4)
    torch.testing.assert_close(encoder.embed(images.flip(2)), encoder.embed(images), atol=1e-5, rtol=0)
    assert not torch.allclose(encoder.embed(images.flip(1)), encoder.embed(images), atol=1e-3)


def test_letters_and_their_mirror_images_differ(encoder: Encoder) -> None:
    letters = copy.deepcopy(encoder)
    letters.mirror = False
    images = some_images(8, seed=4)
    one_way, other_way = letters._directions(images, 500), letters._directions(images.flip(2), 500)
    assert not torch.allclose(one_way, other_way, atol=1e-3)
    # The average over both is what an encoder for photographs gives.
    both = F.normalize(one_way + other_way, dim=1)
    torch.testing.assert_close(both, encoder._directions(images, 500), atol=1e-5, rtol=0)


def test_arrays_and_tensors_agree(encoder: Encoder) -> None:
    images = some_images(6, seed=5)
    expected = encoder.embed(images)
    assert torch.equal(encoder.embed(images.numpy()), expected)
    planar = images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)  # another order in memory
    torch.testing.assert_close(encoder.embed(planar), expected, atol=1e-5, rtol=0)


def test_read_only_and_reversed_arrays_are_taken(encoder: Encoder) -> None:
    images = some_images(6, seed=5)
    frozen = images.numpy().copy()
    frozen.setflags(write=False)
    bgr = images.flip(3).contiguous().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(encoder.embed(frozen), encoder.embed(images))
        # The usual way to turn OpenCV's BGR into RGB gives a view with a negative stride.
        assert torch.equal(encoder.embed(bgr[..., ::-1]), encoder.embed(images))


def test_images_are_left_alone(encoder: Encoder) -> None:
    images = some_images(4)
    before = images.clone()
    encoder.embed(images)
    assert torch.equal(images, before)


def test_embedding_keeps_mode_and_statistics(encoder: Encoder) -> None:
    trained = copy.deepcopy(encoder)
    for mode in (True, False):
        trained.train(mode)
        before = {key: value.clone() for key, value in trained.state_dict().items()}
        inside = trained.embed(some_images(4))
        assert trained.training is mode and trained.body.training is mode
        assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())
        assert torch.equal(inside, encoder.embed(some_images(4)))
    trained.train()
    with pytest.raises(ShapeError):
        trained.embed(some_images(1).float())
    assert trained.training


def test_embedding_keeps_the_mode_of_every_part(encoder: Encoder) -> None:
    trained = copy.deepcopy(encoder).train()
    frozen = [module for module in trained.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in frozen:
        module.eval()
    before = [module.training for module in trained.modules()]
    trained.embed(some_images(1))
    assert frozen and [module.training for module in trained.modules()] == before


def test_centre_is_the_mean_direction(encoder: Encoder) -> None:
    images = some_images(40, seed=6)
    centred, plain = copy.deepcopy(encoder), copy.deepcopy(encoder)
    plain.centre.zero_()
    directions = plain.embed(images)
    centred.set_centre(images, batch_size=7)
    torch.testing.assert_close(centred.centre, directions.mean(dim=0), atol=1e-5, rtol=0)
    expected = F.normalize(directions - directions.mean(dim=0))
    torch.testing.assert_close(centred.embed(images), expected, atol=1e-4, rtol=0)
    # Centring spreads the directions out: that is what it is for.
    assert centred.embed(images).mean(dim=0).norm() < directions.mean(dim=0).norm()


def test_pixel_statistics_agree_with_numpy(encoder: Encoder) -> None:
    images = torch.randint(0, 256, (30, 32, 32, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images[..., 1] //= 3
    other = copy.deepcopy(encoder)
    other.set_pixel_statistics(images)
    exact = images.numpy().astype(np.float64).reshape(-1, 3)
    np.testing.assert_allclose(other.pixel_mean, exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(other.pixel_std, exact.std(axis=0), rtol=1e-6)
    other.set_pixel_statistics(images.flip(0))
    np.testing.assert_allclose(other.pixel_std, exact.std(axis=0), rtol=1e-6)


def test_images_of_one_colour_do_not_divide_by_zero() -> None:
    encoder = Encoder("conv3")
    flat = torch.full((2, 32, 32, 3), 9, dtype=torch.uint8)
    encoder.set_pixel_statistics(flat)
    assert (encoder.pixel_std > 0).all() and encoder.embed(flat).isfinite().all()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 32, 32, 3), np.float32),
        np.zeros((2, 32, 32, 3), np.int64),
        np.zeros((2, 32, 32, 3), bool),
        np.zeros((2, 32, 32), np.uint8),
        np.zeros((2, 32, 32, 1), np.uint8),
        np.zeros((2, 32, 32, 4), np.uint8),
        np.zeros((2, 3, 32, 32), np.uint8),
        np.zeros((32, 32, 3), np.uint8),
        np.zeros((2, 0, 32, 3), np.uint8),
        np.zeros((0,), np.uint8),
    ],
    ids=lambda images: f"{images.dtype} {images.shape}",
)
@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_other_shapes_and_types_are_an_error(encoder: Encoder, images: np.ndarray, kind: str) -> None:
    with pytest.raises(ShapeError) as error:
        encoder.embed(images if kind == "array" else torch.from_numpy(images))
    assert "\n" not in str(error.value)
