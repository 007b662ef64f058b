"""Two depths of one network: its parts, their centres, and what the study judges."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny import TINY
from torch.nn import functional as F

from siamese_utils.data.images import ImageSet
from siamese_utils.data.pixels import to_float
from siamese_utils.data.splits import fewshot_split_cifar_fs
from siamese_utils.encoders.backbones import ENCODERS
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.depths import SHARE, TwoDepths
from siamese_utils.encoders.encoder import Encoder, Ensemble
from siamese_utils.errors import ConfigError, ResultsError, ShapeError
from siamese_utils.experiments.study import Bench, complete, select, stored
from siamese_utils.studies.ensembles import cifar_fs, depths, depths_findings
from siamese_utils.studies.ensembles.depths import DEEP, OWN, TOGETHER, TWO_DEPTHS
from siamese_utils.training import recipes


def trained(name: str, images: torch.Tensor, dim: int | None = None) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(name, dim)
    encoder.set_pixel_statistics(images)
    encoder.set_centre(images[:40])
    return encoder.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (60, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("name", "dim", "before"), [("resnet9-16", None, 7), ("resnet9-16", 24, 7), ("airbench", None, 4)]
)
def test_parts_are_centred_and_scaled_each_by_itself(
    images: torch.Tensor, name: str, dim: int | None, before: int
) -> None:
    """Against the same by hand: the body stage by stage, in double precision where it is compared."""
    encoder = trained(name, images, dim)
    deep = TwoDepths(encoder, images[:40])
    assert not encoder.training  # as it was
    body = encoder.body

    @torch.no_grad()
    def parts(given: torch.Tensor) -> list[torch.Tensor]:
        summed: list[torch.Tensor] = []
        pixels = to_float(given, encoder.pixel_mean, encoder.pixel_std)
        for view in (pixels, pixels.flip(3)):
            earlier = body[:before](view)
            last = body[before:-2](earlier)
            own = encoder.projection(body[-2:](last))
            mean, largest = last.mean(dim=(2, 3)), last.flatten(2).max(dim=2).values
            other = mean if name == "airbench" else largest
            found = [own, other, earlier.mean(dim=(2, 3)), earlier.flatten(2).max(dim=2).values]
            found = [F.normalize(each.double(), dim=1) for each in found]
            summed = [a + b for a, b in zip(summed, found, strict=True)] if summed else found
        return [F.normalize(each, dim=1) for each in summed]

    centred = []
    for number, (part, example) in enumerate(zip(parts(images), parts(images[:40]), strict=True)):
        centre = encoder.centre.double() if number == 0 else example.mean(dim=0)
        centred.append(F.normalize(part - centre, dim=1))
    weights = torch.tensor([1.0, SHARE, SHARE, SHARE], dtype=torch.float64) ** 2
    expected = sum(w * (z @ z.T) for w, z in zip(weights / weights.sum(), centred, strict=True))
    z = deep.embed(images)
    assert z.shape == (60, deep.embedding_dim) and z.dtype == torch.float32
    torch.testing.assert_close((z @ z.T).double(), expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(deep.own(z), encoder.embed(images), atol=2e-5, rtol=0)
    torch.testing.assert_close(deep.embed(images, batch_size=7), z, atol=2e-5, rtol=0)


def test_it_is_an_encoder_like_others(images: torch.Tensor) -> None:
    encoder = trained("resnet9-16", images)
    deep = TwoDepths(encoder, images[:40])
    assert deep.name == "resnet9-16 at two depths" and deep.views == "mirror" and deep.image_size == 32
    assert not encoder.body[7]._forward_pre_hooks and not encoder.body[-2]._forward_pre_hooks
    assert deep.fingerprint == TwoDepths(encoder, images[:40]).fingerprint
    assert deep.fingerprint != TwoDepths(encoder, images[:30]).fingerprint
    both = Ensemble([deep, TwoDepths(trained("airbench", images), images[:40])])
    assert both.embed(images[:5]).shape == (5, both.embedding_dim)
    assert deep.embed(images[:0]).shape == (0, deep.embedding_dim)


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "vgg19bn-8"])
def test_a_network_without_such_stages_is_refused(images: torch.Tensor, name: str) -> None:
    assert name in ENCODERS
    with pytest.raises(ConfigError, match=f"sequence of stages.*not {name}"):
        TwoDepths(Encoder(name), images)


def test_examples_are_needed(images: torch.Tensor) -> None:
    encoder = trained("resnet9-16", images)
    with pytest.raises(ShapeError, match="there is none"):
        TwoDepths(encoder, images[:0])
    with pytest.raises(ShapeError, match="uint8"):
        TwoDepths(encoder, images.float())


def test_the_study_judges_both_in_the_same_episodes(
    hundred: tuple[ImageSet, ImageSet], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    monkeypatch.setitem(recipes.RECIPES, "tiny-long", dataclasses.replace(TINY, recipe="tiny-long"))
    for name, value in (
        ("HALF_HOUR_RECIPE", "tiny"),
        ("LONG_RECIPES", ("tiny-long",)),
        ("LONG", (("tiny-long", 0), ("tiny-long", 1))),
        ("LONG_SEEDS", (0,)),
    ):
        monkeypatch.setattr(depths, name, value)
    with pytest.raises(ResultsError, match="study two_depths"):
        depths_findings.depths_sentence()
    bench = Bench.of(*hundred, device="cpu", progress=False)
    runs = select(TWO_DEPTHS, only=["validation", "90-10-draw1"])
    assert [run.key["task"] for run in runs] == ["validation", "90-10-draw1"]
    table = complete(TWO_DEPTHS, bench, runs)
    assert all(stored(TWO_DEPTHS, run) == "yes" for run in runs)
    assert set(table.metric) == set(TWO_DEPTHS.metrics)
    values = table.set_index(["task", "networks", "features", "metric"]).value
    names = ["tiny, seed 0", "tiny-long, seed 0", "tiny-long, seed 1", TOGETHER]
    assert list(values["validation"].index.unique("networks")) == names
    assert list(values["90-10-draw1"].index.unique("networks")) == ["tiny-long, seed 0", TOGETHER]

    # By hand: the network's own features as the other studies judge them.
    whole = cifar_fs.whole_set(*hundred)
    split = fewshot_split_cifar_fs(whole.class_names)
    positions = whole.indices_of(split.val)
    encoder = load_encoder(cifar_fs.checkpoint_path(0, "tiny"))
    z = encoder.embed(whole.images[positions])
    for metric, estimate in cifar_fs.judge(z, whole.labels[positions]).items():
        assert values["validation", "tiny, seed 0", OWN, metric] == pytest.approx(estimate.value, abs=0.02)
        gained = values["validation", "tiny, seed 0", DEEP, metric] - estimate.value
        assert values["validation", "tiny, seed 0", DEEP, metric.replace("acc", "gain")] == pytest.approx(
            gained, abs=0.03
        )

    shown = depths_findings.depths_table().frame
    assert shown.networks.tolist() == [*names, "tiny-long, seed 0", TOGETHER]
    assert shown.classes.tolist()[3:] == ["CIFAR-FS, validation", "90-10-draw1", "90-10-draw1"]
    sentence = depths_findings.depths_sentence()
    mean = sum(values["validation", name, DEEP, "gain_5w5s"] for name in names[:3]) / 3
    assert f" and {mean:+.1f} on the validation classes, " in sentence and "Means of the draws" not in sentence
    every = [table.assign(task=table.task.replace("90-10-draw1", f"90-10, draw {draw}")) for draw in (0, 2)]
    pd.concat([table, *(one[one.task != "validation"] for one in every)]).to_csv(TWO_DEPTHS.path, index=False)
    reached = values["90-10-draw1", "tiny-long, seed 0", DEEP, "acc_5w1s"]
    assert f"Means of the draws of 90-10 at one shot: *tiny-long* {reached:.1f} ± " in depths_findings.depths_sentence()
