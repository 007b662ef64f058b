"""Two depths of one network: its parts, their centres, and what the study judges."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from tiny import TINY
from torch.nn import functional as F

from siamese_utils.data.images import ImageSet
from siamese_utils.data.pixels import to_float
from siamese_utils.data.splits import class_split, fewshot_split_cifar_fs
from siamese_utils.encoders.backbones import ENCODERS
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.encoders.depths import SHARE, TwoDepths
from siamese_utils.encoders.encoder import Encoder, Ensemble
from siamese_utils.encoders.views import embed_by_views
from siamese_utils.errors import CheckpointError, ConfigError, ResultsError, ShapeError
from siamese_utils.experiments.study import Bench, complete, select, stored
from siamese_utils.studies.ensembles import cifar_fs, depths, depths_findings, draws, findings
from siamese_utils.studies.ensembles.depths import ALL, DEEP, LONG_AND_SHORT, OWN, TOGETHER, TWO_DEPTHS
from siamese_utils.studies.ensembles.study import unseen_metrics
from siamese_utils.studies.ensembles.test_time import SHIFTS
from siamese_utils.studies.splits.study import split_run
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


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("name", "dim"), [("resnet9-16", 24), ("airbench", None)])
def test_a_checkpoint_keeps_both_depths(
    images: torch.Tensor, tmp_path: Path, name: str, dim: int | None, bits: int
) -> None:
    path = tmp_path / "deep.safetensors"
    deep = TwoDepths(trained(name, images, dim), images[:40])
    save_encoder(deep, path, {"split": "90-10"}, bits=bits)
    again = load_encoder(path)
    assert isinstance(again, TwoDepths) and not again.training
    assert (again.name, again.sizes, again.source) == (deep.name, deep.sizes, str(path))
    assert checkpoint_info(path) == {"split": "90-10"}
    assert torch.equal(again.centre, deep.centre)  # not rounded, unlike the weights
    with safe_open(path, framework="pt") as file:  # versions that know no depths refuse it by this
        assert file.metadata()["format"] == "siamese_utils.encoder/3"
    # The network is what it is without depths, whatever its bits.
    save_encoder(deep.encoder, tmp_path / "plain.safetensors", bits=bits)
    plain = load_encoder(tmp_path / "plain.safetensors")
    assert torch.equal(again.embed(images), TwoDepths.of_parts(plain, deep.centre, deep.lengths).embed(images))
    if bits == 16:
        torch.testing.assert_close(again.embed(images), deep.embed(images), atol=0.01, rtol=0)
    assert torch.equal(again.own(again.embed(images)), F.normalize(again.embed(images)[:, : again.sizes[0]]))
    # What was loaded is what is saved again, to the last bit.
    save_encoder(again, tmp_path / "twice.safetensors", {"split": "90-10"}, bits=bits)
    assert load_encoder(tmp_path / "twice.safetensors").fingerprint == again.fingerprint


def test_the_share_of_the_parts_is_kept_with_the_encoder(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep.safetensors"
    deep = TwoDepths(trained("resnet9-16", images), images[:40])
    save_encoder(deep, path)
    before = load_encoder(path)
    monkeypatch.setattr("siamese_utils.encoders.depths.SHARE", 0.25)
    assert load_encoder(path).fingerprint == before.fingerprint
    assert torch.equal(load_encoder(path).embed(images), before.embed(images))
    assert TwoDepths(trained("resnet9-16", images), images[:40]).fingerprint != deep.fingerprint


def test_several_threads_may_ask_it(images: torch.Tensor) -> None:
    deep = TwoDepths(trained("resnet9-16", images), images[:40])
    given = [images[number : number + 3] for number in range(0, 57, 3)] * 4
    expected = [deep.embed(some) for some in given]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(deep.embed, given))
    for z, again in zip(expected, found, strict=True):
        torch.testing.assert_close(again, z, atol=1e-5, rtol=0)


def test_copies_embed_alike(images: torch.Tensor) -> None:
    deep = TwoDepths(trained("airbench", images), images[:40])
    for copied in (copy.deepcopy(deep), pickle.loads(pickle.dumps(deep))):
        assert copied.fingerprint == deep.fingerprint and torch.equal(copied.embed(images), deep.embed(images))


def test_a_centre_of_another_network_is_refused(images: torch.Tensor, tmp_path: Path) -> None:
    encoder = trained("resnet9-16", images)
    deep = TwoDepths(encoder, images[:40])
    with pytest.raises(ShapeError, match="resnet9-16 at two depths has a centre of"):
        TwoDepths.of_parts(encoder, deep.centre[:-1], deep.lengths)
    with pytest.raises(ShapeError, match="and 4 parts"):
        TwoDepths.of_parts(encoder, deep.centre, deep.lengths[:-1])
    path = tmp_path / "deep.safetensors"
    deep.register_buffer("centre", deep.centre[:-1])
    save_encoder(deep, path)
    with pytest.raises(CheckpointError, match="do not fit the encoder 'resnet9-16'"):
        load_encoder(path)
    deep.register_buffer("centre", torch.full((deep.embedding_dim,), float("nan")))
    with pytest.raises(CheckpointError, match="not finite"):
        save_encoder(deep, path)


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
    for name in ("tiny-long", "tiny-plain"):
        monkeypatch.setitem(recipes.RECIPES, name, dataclasses.replace(TINY, recipe=name))
    for name, value in (
        ("DEFAULT_RECIPE", "tiny-plain"),
        ("SHORTER", (("tiny", 0),)),
        ("LONG_RECIPES", ("tiny-long",)),
        ("LONG", (("tiny-long", 0), ("tiny-long", 1))),
    ):
        monkeypatch.setattr(depths, name, value)
    monkeypatch.setattr(cifar_fs, "SEEDS", (0,))
    bench = Bench.of(*hundred, device="cpu", progress=False)
    runs = select(TWO_DEPTHS, only=["validation", "90-10-draw1"])
    assert [run.key["task"] for run in runs] == ["validation", "90-10-draw1"]
    table = complete(TWO_DEPTHS, bench, runs)
    assert all(stored(TWO_DEPTHS, run) == "yes" for run in runs)
    assert set(table.metric) == set(TWO_DEPTHS.metrics)
    values = table.set_index(["task", "views", "networks", "features", "metric"]).value.sort_index()
    alone = ["tiny-plain, seed 0", "tiny, seed 0", "tiny-long, seed 0", "tiny-long, seed 1"]
    names = [*alone, TOGETHER, LONG_AND_SHORT, ALL]
    record = TWO_DEPTHS.read_record(runs[0])["networks"]
    assert [len(record[name]) for name in names] == [1, 1, 1, 1, 2, 3, 4]
    for view in SHIFTS:
        assert set(values["validation", view].index.unique("networks")) == set(names)
        assert set(values["90-10-draw1", view].index.unique("networks")) == {"tiny-long, seed 0", TOGETHER}

    # By hand: the networks' own features as the other studies judge them.
    whole, test_set = cifar_fs.whole_set(*hundred), hundred[1]
    positions = whole.indices_of(fewshot_split_cifar_fs(whole.class_names).val)
    encoder = load_encoder(cifar_fs.checkpoint_path(0, "tiny"))
    z = embed_by_views(encoder.embed, whole.images[positions], SHIFTS)
    expected = {("validation", view): cifar_fs.judge(z[view], whole.labels[positions]) for view in SHIFTS}
    positions = test_set.indices_of(class_split("90-10", 1, test_set.num_classes).unseen)
    encoder = load_encoder(draws.paths(1, ["tiny-long"])[0])
    z = embed_by_views(encoder.embed, test_set.images[positions], SHIFTS)
    expected |= {("90-10-draw1", view): unseen_metrics(z[view], test_set.labels[positions]) for view in SHIFTS}
    for (task, view), metrics in expected.items():
        of = values[task, view, "tiny, seed 0" if task == "validation" else "tiny-long, seed 0"]
        for metric in ("acc_5w1s", "acc_5w5s"):
            assert of[OWN, metric] == pytest.approx(metrics[metric].value, abs=0.02)
            gained = of[DEEP, metric] - of[OWN, metric]
            assert of[DEEP, metric.replace("acc", "gain")] == pytest.approx(gained, abs=0.01)


def test_networks_that_are_missing_are_planned(project: Path) -> None:
    planned = {run.key["task"]: run.images for run in TWO_DEPTHS.runs()}
    each = {recipe: cifar_fs.cifar_fs_run(0, recipe).images for recipe in recipes.LONG_RECIPES}
    short = cifar_fs.cifar_fs_run(0, recipes.HALF_HOUR_RECIPE).images
    plain = cifar_fs.cifar_fs_run(0, recipes.DEFAULT_RECIPE).images
    assert planned["validation"] == 3 * (plain + short) + 2 * sum(each.values()) and planned["test"] == 0
    of_draw = sum(split_run("90-10", 2, recipe=recipe).images for recipe in recipes.LONG_RECIPES)
    assert planned["90-10-draw2"] == of_draw > 0


def put(tasks: Sequence[str]) -> None:
    """Gains of half a point at one shot and a whole one at five, half a point more for a second seed or over shifts.

    On the test classes second seed and shifts lose as much; each draw of 90-10 gains more than the one before.
    """
    rows = []
    for task in tasks:
        sign, draw = -1.0 if task == "test" else 1.0, depths.DRAW_OF.get(task, 0)
        names = {"muon-rotation, seed 0": 0.0, TOGETHER: -0.25}
        if task in depths.PARTS:
            names |= {"muon-rotation, seed 1": 0.5 * sign, "muon-manifold-short, seed 0": -1.0}
        if task == "validation":
            names |= {LONG_AND_SHORT: 0.25, ALL: -0.5, "muon-manifold-short, seed 2": -1.0}
        for view, more in zip(SHIFTS, (0.0, 0.25 * sign), strict=True):
            for networks, change in names.items():
                for shots in (1, 5):
                    own, gain = 60.0 + 10 * draw + shots, (0.5 if shots == 1 else 1.0) + change + more + draw
                    rows += [
                        (task, view, networks, OWN, f"acc_5w{shots}s", own, 0.3, 100),
                        (task, view, networks, DEEP, f"acc_5w{shots}s", own + gain, 0.3, 100),
                        (task, view, networks, DEEP, f"gain_5w{shots}s", gain, 0.1, 100),
                    ]
    pd.DataFrame(rows, columns=TWO_DEPTHS.columns).to_csv(TWO_DEPTHS.path, index=False)


def test_gains_are_told_by_classes_and_views(project: Path) -> None:
    for told in (depths_findings.depths_sentence, depths_findings.depths_table, depths_findings.draw_gains_sentence):
        with pytest.raises(ResultsError, match="study two_depths"):
            told()
    put(["90-10-draw1"])  # two draws are missing, so 90-10 has no mean
    for told in (depths_findings.depths_sentence, depths_findings.depths_table):
        with pytest.raises(ResultsError, match="study two_depths"):
            told()
    assert depths_findings.draw_gains_sentence() == (
        "Draw by draw, at one and at five shots: *muon-rotation* +1.8 and +2.2 on draw 1; "
        f"*{TOGETHER}* +1.5 and +2.0 on draw 1."
    )
    put(["validation", "90-10-draw1"])
    assert depths_findings.depths_sentence() == (
        "Points that two depths bring over shifted views, at one and at five shots: **one long network +1.0 and +1.5 "
        "on validation; the long ones together +0.5 and +1.0 on validation; muon-manifold-short -0.2 and +0.2 on "
        "validation**."
    )
    put(["validation", "test", *depths.DRAW_OF])
    told = depths_findings.depths_sentence()
    assert (
        "one long network +1.0 and +1.5 on validation, +0.0 and +0.5 on test, +1.8 and +2.2 on 90-10; the long" in told
    )
    shown = depths_findings.depths_table().frame
    assert len(shown) == (5 + 3 + 2) * 2
    rows = shown.set_index(["classes", "networks", "views"])
    assert shown["of"].unique().tolist() == ["2", "1", "3"]
    one = rows.loc[("test", "muon-rotation", "shifted")]
    assert one["its own, 1-shot"] == "61.0" and one["two depths, 5-shot"] == "65.5 ± 0.3"
    assert one["gain, 1-shot"] == "+0.0 ± 0.1"
    mean = rows.loc[("90-10", "muon-rotation", "as it is")]
    assert (
        mean["its own, 1-shot"] == "71.0"
        and mean["two depths, 1-shot"] == "72.5 ± 0.2"
        and mean["gain, 5-shot"] == "+2.0 ± 0.1"
    )


def test_two_depths_stand_in_the_field_by_what_is_best_on_validation(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {"muon-rotation, seed 0": (0,), "muon-rotation, seed 1": (1,), "muon-manifold-short, seed 0": (0,)}
    members[TOGETHER] = (0, 1)
    monkeypatch.setattr(findings, "_members_of", lambda name, _: [("muon-rotation", seed) for seed in members[name]])
    monkeypatch.setattr(findings, "cost", lambda seed, name: findings.Cost(30.0 + seed, 1e6, 2e15))
    for task in (*depths.PARTS, "90-10-draw1"):  # one part alone chooses nothing
        put([task])
        assert findings._kinds_stored() == []
        with pytest.raises(ResultsError, match=r"lacks a part.*study two_depths"):
            findings.Way.best(DEEP)
    put(depths.PARTS)
    assert findings._kinds_stored() == [DEEP]
    best = findings.Way.best(DEEP)  # on the test classes the worst of its recipe
    assert (best.name, best.one_shot) == ("muon-rotation, seed 1, two depths, shifted", (60.75, 0.3))
    first, short = findings._at_two_depths()
    assert first["method"] == "one muon-rotation, two depths, shifted, mean of 2 seeds"
    assert (first["5-way 1-shot"], first["5-way 5-shot"]) == ("61.0 ± 0.3", "65.5 ± 0.3")
    assert (first["core-minutes"], first["images"], first["operations"]) == ("30", "1.00", "2.00")
    assert short["method"] == "one muon-manifold-short, two depths, shifted, one seed"


def test_more_networks_are_told_on_the_validation_classes_alone(project: Path) -> None:
    put(["test", "90-10-draw0"])
    with pytest.raises(ResultsError, match="study two_depths"):
        depths_findings.more_sentence()
    put(depths.PARTS)
    assert depths_findings.more_sentence() == (
        "Together on the validation classes, at two depths over shifted views, with one example and with five: the "
        "long ones (4) **61.5 ± 0.3** and **66.0 ± 0.3**, these and the short ones (7) **62.0 ± 0.3** and "
        "**66.5 ± 0.3**, all networks of CIFAR-FS (10) **61.2 ± 0.3** and **65.8 ± 0.3**."
    )
    tested = set(depths.groups("test"))
    assert {LONG_AND_SHORT, ALL, "muon-manifold-short, seed 2"}.isdisjoint(tested) and TOGETHER in tested
