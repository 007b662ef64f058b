"""Distillation: the loss against a slow loop, who may teach, and that a taught training goes on after a kill."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_training import CLASSES, TINY, run, same_weights
from torch.nn import functional as F

from siamese_utils.data.images import ImageSet
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.checkpoints import load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, ConfigError, DivergedError, SamplingError, ShapeError, TrainingError
from siamese_utils.system import project as place
from siamese_utils.training import loop
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.distillation import DistillationObjective, taught_embeddings
from siamese_utils.training.loop import train_task
from siamese_utils.training.task import prepare

TAUGHT = dataclasses.replace(TINY, teachers=("teacher",), teaching_weight=5.0)


@pytest.fixture(scope="module")
def small_set() -> ImageSet:
    return make_synthetic("train", num_classes=8, per_class=10)


@pytest.fixture
def teacher(project: Path, small_set: ImageSet) -> Path:
    return stored("teacher", small_set)


def stored(name: str, small_set: ImageSet, **info: object) -> Path:
    path = place.results_dir() / "checkpoints" / f"{name}.safetensors"
    torch.manual_seed(len(name))
    encoder = Encoder("conv3", 8)
    encoder.set_pixel_statistics(small_set.images)
    encoder.set_centre(small_set.images)
    save_encoder(encoder, path, {"classes": list(CLASSES), "data": small_set.name, **info})
    return path


def slowly(z: torch.Tensor, taught: torch.Tensor, temperature: float) -> float:
    """Image by image and in float64, as the definition reads."""
    z, taught = z.double(), taught.double()
    z = F.normalize(z - z.mean(dim=0), dim=1)
    total = 0.0
    for one in range(len(z)):
        others = [other for other in range(len(z)) if other != one]
        q, p = ([math.exp(float(rows[one] @ rows[other]) / temperature) for other in others] for rows in (z, taught))
        total += sum(b / sum(p) * math.log((b / sum(p)) / (a / sum(q))) for a, b in zip(q, p, strict=True))
    return total / len(z)


@pytest.mark.parametrize(("weight", "temperature"), [(1.0, 0.1), (2.5, 0.5)])
def test_the_loss_is_the_divergence_of_likeness(weight: float, temperature: float) -> None:
    made = torch.Generator().manual_seed(0)
    z, taught = torch.randn(7, 5, generator=made), F.normalize(torch.randn(7, 9, generator=made), dim=1)
    output = DistillationObjective(weight, temperature)(z, taught)
    assert output.loss.item() == pytest.approx(weight * slowly(z, taught, temperature), rel=1e-4)
    assert output.stats["distillation_loss"].item() == pytest.approx(output.loss.item() / weight)


def test_who_answers_as_the_teacher_has_nothing_to_learn() -> None:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    taught = F.normalize(z - z.mean(dim=0), dim=1)
    turned = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2)))[0]
    z = (3 * z @ turned + 5).requires_grad_()  # likeness knows no place, size or turn
    loss = DistillationObjective()(z, taught).loss
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5) and z.grad.abs().max() < 1e-4


def test_steps_lead_towards_the_teacher() -> None:
    made = torch.Generator().manual_seed(3)
    z, taught = (
        torch.randn(8, 6, generator=made).requires_grad_(),
        F.normalize(torch.randn(8, 3, generator=made), dim=1),
    )
    objective, optimizer = DistillationObjective(), torch.optim.Adam([z], 0.05)
    losses = []
    for _ in range(60):
        loss = objective(z, taught).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_batches_that_cannot_be_compared() -> None:
    objective = DistillationObjective()
    with pytest.raises(ShapeError, match="4 images cannot be learned from the teachers' 3"):
        objective(torch.randn(4, 2), torch.randn(3, 2))
    with pytest.raises(SamplingError, match="three images or more, not 2"):
        objective(torch.randn(2, 2), torch.randn(2, 2))
    with pytest.raises(DivergedError):
        objective(torch.full((4, 2), math.nan), torch.randn(4, 2))
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError):
            DistillationObjective(wrong)


def test_cosines_of_several_teachers_are_averaged(teacher: Path, small_set: ImageSet) -> None:
    second = stored("second one", small_set)
    images = small_set.images[:12]
    both, one, other = (
        taught_embeddings(names, images, CLASSES, small_set.name)
        for names in ((teacher.stem, second.stem), (teacher.stem,), (second.stem,))
    )
    torch.testing.assert_close(both @ both.T, (one @ one.T + other @ other.T) / 2)
    assert not torch.allclose(one @ one.T, other @ other.T, atol=0.01)


def test_teachers_that_take_long_show_how_far_they_are(
    teacher: Path, small_set: ImageSet, capsys: pytest.CaptureFixture[str]
) -> None:
    images = small_set.images.repeat(6, 1, 1, 1)[:230]  # more than one forward pass, and no whole number of them
    whole = load_encoder(teacher).embed(images)
    quiet = taught_embeddings((teacher.stem,), images, CLASSES, small_set.name)
    assert not capsys.readouterr().err
    told = taught_embeddings((teacher.stem,) * 2, images, CLASSES, small_set.name, progress=True)
    assert "460/460" in capsys.readouterr().err
    assert torch.equal(quiet, torch.nn.functional.normalize(whole, dim=1)) and told.shape == (230, 2 * whole.shape[1])


def test_a_teacher_of_other_classes_is_refused(teacher: Path, small_set: ImageSet) -> None:
    stored("knows-more", small_set, classes=[*CLASSES, 99])
    stored("silent", small_set, classes=None)
    stored("elsewhere", small_set, data="cifar100")
    for name, reason in (
        ("knows-more", "has learned 1 classes that are not to be learned, such as 99"),
        ("silent", "does not say which classes"),
        ("elsewhere", "does not say which classes"),
        ("nobody", "There is no checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            run(dataclasses.replace(TAUGHT, teachers=("teacher", name)), small_set)
    fewer = stored("knows-less", small_set, classes=list(CLASSES)[:2])
    assert taught_embeddings((fewer.stem,), small_set.images[:3], CLASSES, small_set.name).shape == (3, 8)
    with pytest.raises(ConfigError, match="turned"):
        dataclasses.replace(TAUGHT, turned_classes=True)


def test_each_image_is_learned_with_its_own_lesson(teacher: Path, small_set: ImageSet) -> None:
    task = prepare(TAUGHT, small_set, CLASSES)
    taught = taught_embeddings(TAUGHT.teachers, task.images, task.classes, small_set.name)
    task = dataclasses.replace(task, taught=taught)
    examples = task.batches.epoch(0)[1]
    again = taught_embeddings(TAUGHT.teachers, task.batch(examples)[0], task.classes, small_set.name)
    torch.testing.assert_close(task.lesson(examples), again)


def test_a_taught_training_comes_nearer_and_goes_on_after_a_kill(
    teacher: Path, small_set: ImageSet, tmp_path: Path
) -> None:
    alone, taught = run(TINY, small_set), run(TAUGHT, small_set)
    assert "distillation_loss" not in alone.history
    losses = taught.history.distillation_loss.tolist()
    assert losses[-1] < losses[0] and not same_weights(alone, taught)
    with pytest.raises(TrainingError, match="Stopped"):
        run(TAUGHT, small_set, tmp_path / "run", stop_after=1)
    assert same_weights(run(TAUGHT, small_set, tmp_path / "run"), taught)


def test_lessons_are_for_the_steps_that_mix_nothing_and_of_the_images_shown(
    teacher: Path, small_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the study of teaching trains: with turned and with mixed images, and going on after a kill."""
    config = dataclasses.replace(TAUGHT, mixing="manifold", mixing_share=0.5, rotation_weight=0.5)
    kinds: list[str] = []
    given, taught, mixed = loop.step, DistillationObjective.forward, loop.Learner.learn_mixed

    def step(learner: Any, images: Any, labels: Any, progress: float, lesson: torch.Tensor) -> Any:
        # What a teacher makes of the images as they are, not of what is made of them.
        again = taught_embeddings(config.teachers, images, CLASSES, small_set.name)
        torch.testing.assert_close(lesson, again)
        return given(learner, images, labels, progress, lesson)

    def teach(objective: Any, embeddings: torch.Tensor, lesson: torch.Tensor) -> Any:
        kinds.append("taught")
        return taught(objective, embeddings, lesson)

    def mix(*arguments: Any) -> Any:
        kinds.append("mixed")
        return mixed(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", step)
        patch.setattr(DistillationObjective, "forward", teach)
        patch.setattr(loop.Learner, "learn_mixed", mix)
        run(config, small_set)
    assert len(kinds) == 18 and set(kinds) == {"taught", "mixed"}  # each step one of the two
    with pytest.raises(TrainingError, match="Stopped"):
        run(config, small_set, tmp_path / "run", stop_after=1)
    assert same_weights(run(config, small_set, tmp_path / "run"), run(config, small_set))


def test_turned_images_can_be_left_out_of_a_lesson(
    teacher: Path, small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is compared with which lesson, read off the pixels: what is turned back is the image that was given."""
    config = dataclasses.replace(
        TAUGHT, rotation_weight=0.5, rotation_share=0.25, augment=AugmentConfig(translate=0, flip=False)
    )
    lessons: list[torch.Tensor] = []
    teach = DistillationObjective.forward

    def keep(objective: Any, embeddings: torch.Tensor, lesson: torch.Tensor) -> Any:
        assert len(embeddings) == len(lesson)
        lessons.append(lesson)
        return teach(objective, embeddings, lesson)

    monkeypatch.setattr(DistillationObjective, "forward", keep)
    task = prepare(config, small_set, CLASSES)
    images, labels = task.batch(task.batches.epoch(0)[0])
    taught = torch.eye(len(images))  # so that a lesson tells whose it is
    for upright in (False, True):
        learner = loop.Learner(dataclasses.replace(config, teach_upright=upright), task.images, task.num_labels)
        learner.begin(0)
        pixels = learner.augment(images, 0.0)
        turned: list[torch.Tensor] = []
        learner.encoder.register_forward_pre_hook(lambda _, given, turned=turned: turned.append(given[0]))
        learner.learn(pixels, labels, 0.0, taught)
        unturned = (turned[0] == pixels).flatten(1).all(dim=1)
        assert 0 < (~unturned).sum() < len(images)
        told = lessons[-1].argmax(dim=1).tolist()
        assert told == (unturned.nonzero().squeeze(1).tolist() if upright else list(range(len(images))))


@pytest.mark.parametrize(
    "changes", [{"teachers": ()}, {"rotation_weight": 0.0}, {"rotation_share": 0.0}, {"rotation_share": 0.99}]
)
def test_a_lesson_of_upright_images_needs_some(changes: dict[str, Any]) -> None:
    fine = dataclasses.replace(TAUGHT, rotation_weight=0.5, teach_upright=True)
    assert type(fine).from_json(fine.to_json()) == fine
    with pytest.raises(ConfigError, match="teach_upright"):
        dataclasses.replace(fine, **changes)


def test_another_teacher_does_not_go_on_from_a_state(teacher: Path, small_set: ImageSet, tmp_path: Path) -> None:
    """Half of the lessons would be of one who is no longer there."""
    first = teacher.read_bytes()
    with pytest.raises(TrainingError, match="Stopped"):
        run(TAUGHT, small_set, tmp_path / "run", stop_after=1)
    try:
        other = stored("another", small_set)
        teacher.write_bytes(other.read_bytes())
        with pytest.raises(CheckpointError, match="images or teachers"):
            run(TAUGHT, small_set, tmp_path / "run")
    finally:
        teacher.write_bytes(first)
    run(TAUGHT, small_set, tmp_path / "run")


def test_settings_without_teachers_are_stored_as_before() -> None:
    assert not {"teachers", "teaching_weight"} & set(TINY.to_json())
    assert type(TAUGHT).from_json(TAUGHT.to_json()) == TAUGHT


def test_a_recipe_with_teachers_is_not_trained_without_their_lessons(small_set: ImageSet) -> None:
    with pytest.raises(ConfigError, match="belong together"):
        train_task(TAUGHT, prepare(TAUGHT, small_set, CLASSES), progress=False)
