"""Planted leaks: each test spoils one thing that keeps test data out of training or choosing, and something must fail.

What fails is a guard of the package, or an existing test, which is called here as the plain function that it is. That
a test image among the files of the training part is found is shown in ``test_data``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import test_faces
import test_splits
import test_splits_study
import test_training
import test_validation
import tiny_faces
import torch
from crashes import content

from siamese_utils.data import faces, splits
from siamese_utils.data.faces import FaceSet, split_by_person
from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import Pairs, named_rng
from siamese_utils.data.splits import CifarFSSplit, ClassSplit, class_split
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import DataError, SplitError
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.experiments import study as experiments
from siamese_utils.experiments.study import Bench, Outcome, Run
from siamese_utils.studies import validation
from siamese_utils.studies.faces import study as face_study
from siamese_utils.studies.splits import study as sweep
from siamese_utils.studies.splits.study import carry_out, judge_again
from siamese_utils.training import loop as training
from siamese_utils.training import recipes, task
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import TrainResult

pytestmark = pytest.mark.usefixtures("one_thread")
small_set, larger_set = test_training.small_set, test_training.larger_set


@pytest.fixture(scope="module")
def parts() -> tuple[ImageSet, ImageSet]:
    return test_splits_study.synthetic_parts()


@pytest.fixture
def swept(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that knows the small recipe of the sweep's tests."""
    monkeypatch.setitem(recipes.RECIPES, "tiny", test_splits_study.TINY)
    return project


def trained(train_set: ImageSet, test_set: ImageSet) -> Outcome:
    """A small run of the sweep."""
    return carry_out(test_splits_study.tiny_run(), test_splits_study.bench_of((train_set, test_set)))


@contextmanager
def caught() -> Iterator[None]:
    """What happens inside must be noticed by an assertion."""
    with pytest.raises(AssertionError):
        yield


def other_images(images: ImageSet, classes: tuple[int, ...] | None = None) -> ImageSet:
    """The same set with other pixels in the images of some classes, or in all."""
    return test_training.poisoned(images, images.indices_of(range(images.num_classes) if classes is None else classes))


# ------------------------------------------------------------------- a splitter that gives away a class


def test_class_on_both_sides_of_a_split() -> None:
    split = class_split("90-10")
    with pytest.raises(SplitError, match="Class 95 is both seen and unseen"):
        dataclasses.replace(split, seen=(*split.seen, 95))


@pytest.mark.parametrize("draw", [0, 1])
def test_splitter_that_exchanges_a_class(draw: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disjoint, but not the protocol's: an unseen class is learned in the place of a seen one."""
    real = splits.class_split

    def exchanging(name: str, draw: int = 0, num_classes: int = 100) -> ClassSplit:
        split = real(name, draw, num_classes)
        if not split.unseen:
            return split
        seen, unseen = {*split.seen[1:], split.unseen[0]}, {*split.unseen[1:], split.seen[0]}
        return ClassSplit(name, draw, tuple(sorted(seen)), tuple(sorted(unseen)))

    monkeypatch.setattr(test_splits, "class_split", exchanging)
    with caught():
        (test_splits.test_other_draws_follow_the_protocol if draw else test_splits.test_draw_0_is_alphabetical)()


def test_training_that_learns_another_split_than_it_is_judged_on(
    swept: Path, parts: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint says what it learned, and is not judged on that as unseen."""
    real = experiments.train

    def leaky(config: TrainConfig, train_set: ImageSet, seen: tuple[int, ...], **more: Any) -> TrainResult:
        return real(config, train_set, (*seen[1:], 7), **more)

    monkeypatch.setattr(experiments, "train", leaky)
    with pytest.raises(SplitError, match="learned class 7, which is unseen in split 7-5"):
        trained(*parts)


def test_image_of_an_unseen_class_in_training(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    real = task.hold_out_images

    def leaky(labels: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        used, held_out = real(labels, *rest)
        return torch.cat([used, (labels == 3).nonzero().flatten()[:1]]), held_out

    monkeypatch.setattr(task, "hold_out_images", leaky)
    with pytest.raises(SplitError, match="An image of class 3, which is not to be learned"):
        test_training.run(test_training.TINY, small_set)


def test_held_out_images_in_training(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    real = task.hold_out_images

    def leaky(*given: Any) -> tuple[torch.Tensor, torch.Tensor]:
        used, held_out = real(*given)
        return torch.cat([used, held_out]), held_out

    monkeypatch.setattr(task, "hold_out_images", leaky)
    leaked = test_training.run(test_training.TINY, small_set)
    with caught():
        test_training.test_held_out_images_are_never_touched(small_set, leaked)


# ------------------------------------------------------------------------------- test images in training


def test_test_images_given_to_the_training(parts: tuple[ImageSet, ImageSet]) -> None:
    with pytest.raises(DataError, match="holds test images"):
        test_training.run(test_training.TINY, parts[1])


def test_parts_given_in_the_wrong_order(swept: Path, parts: tuple[ImageSet, ImageSet]) -> None:
    """The threshold would be chosen on test images."""
    path = swept / "run.safetensors"
    path.write_bytes(trained(*parts).checkpoint or b"")
    for wrong in (parts[::-1], (parts[1], parts[1]), (parts[0], parts[0])):
        with pytest.raises(DataError, match="threshold is chosen on training images"):
            judge_again(path, Bench.of(*wrong))


# -------------------------------------------------------------------------------------- the threshold


def test_threshold_from_unseen_classes(
    swept: Path, parts: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sweep.hold_out_images
    monkeypatch.setattr(sweep, "hold_out_images", lambda labels, seen, *rest: real(labels, (0, 1, 11), *rest))
    with pytest.raises(SplitError, match="held-out images include class 11"):
        trained(*parts)


def check_test_images_decide_nothing(parts: tuple[ImageSet, ImageSet], folder: Path) -> None:
    """With other test images the same weights come out, and the same threshold."""
    weights, thresholds = [], []
    for test_set in (parts[1], other_images(parts[1])):
        finished = trained(parts[0], test_set)
        path = folder / "run.safetensors"
        path.write_bytes(finished.checkpoint or b"")
        weights.append(content(path))
        thresholds.append(finished.record["threshold"])
    same = weights[0] == weights[1]  # not in the assertion, which would spell out the difference number by number
    assert same, "test images decide which weights are kept"
    assert thresholds[0] == thresholds[1], "test images decide the threshold"


def test_test_images_decide_nothing(swept: Path, parts: tuple[ImageSet, ImageSet]) -> None:
    check_test_images_decide_nothing(parts, swept)


def test_threshold_from_test_images(
    swept: Path, parts: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sweep._embed

    def leaky(encoder: Encoder, config: Any, train_set: ImageSet, test_set: ImageSet, *rest: Any) -> Any:
        _, z, classes = real(encoder, config, train_set, test_set, *rest)
        of_seen = torch.isin(test_set.labels, torch.tensor(classes.seen))
        return (z[of_seen], test_set.labels[of_seen]), z, classes

    monkeypatch.setattr(sweep, "_embed", leaky)
    with pytest.raises(AssertionError, match="decide the threshold"):
        check_test_images_decide_nothing(parts, swept)


def check_test_people_decide_nothing(system: str) -> None:
    """With other photographs of the test people the same threshold comes out, and the same validation accuracy."""
    strangers, verdicts, chosen_by = tiny_faces.strangers(), [], []
    for test in (strangers, dataclasses.replace(strangers, images=255 - strangers.images.roll(9, dims=1))):
        outcome = tiny_faces.carried_out(tiny_faces.face_run(system, 1), test)
        verdicts.append(outcome.record["verdict"])
        chosen_by.append({name: value for name, value in outcome.metrics.items() if "validation" in name})
    assert verdicts[0] == verdicts[1], "test people decide the threshold"
    assert chosen_by[0] == chosen_by[1], "test people are judged on in training"


@pytest.mark.parametrize("system", ["embedding", "koch"])
def test_test_people_decide_nothing(system: str) -> None:
    check_test_people_decide_nothing(system)


@pytest.mark.parametrize("system", ["embedding", "koch"])
def test_threshold_from_test_people(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    judge, score, run = face_study.judge_embeddings, face_study.koch_score, tiny_faces.carried_out
    at_hand: list[FaceSet] = []

    def watched(planned: Run, test: FaceSet) -> Outcome:
        at_hand[:] = [test]
        return run(planned, test)

    def leaky_score(result: Any) -> Any:
        """Gives the scores of as many test pairs when it is asked about validation pairs."""
        return lambda pairs: score(result)(pairs if pairs is at_hand[0] else at_hand[0])[: len(pairs.pairs.same)]

    monkeypatch.setattr(tiny_faces, "carried_out", watched)
    monkeypatch.setattr(face_study, "judge_embeddings", lambda encoder, crops, _: judge(encoder, crops, at_hand[0]))
    monkeypatch.setattr(face_study, "koch_score", leaky_score)
    with pytest.raises(AssertionError, match="decide the threshold"):
        check_test_people_decide_nothing(system)


# ------------------------------------------------------------------- early stopping, choice of a model


def check_unseen_classes_stop_nothing(images: ImageSet) -> None:
    """Early stopping ends the same, whatever the images of the classes look like that are not learned."""
    config = dataclasses.replace(test_training.TINY, epochs=4, validation_classes=2, patience=1)
    unseen = tuple(set(range(images.num_classes)) - set(test_training.CLASSES))
    one, other = (test_training.run(config, each) for each in (images, other_images(images, unseen)))
    assert test_training.same_weights(one, other), "unseen classes decide which weights are kept"
    assert test_training.without_time(one) == test_training.without_time(other), "unseen classes are judged on"


def test_unseen_classes_stop_nothing(larger_set: ImageSet) -> None:
    check_unseen_classes_stop_nothing(larger_set)


def test_early_stopping_by_unseen_classes(larger_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    real = training.validation_accuracy
    monkeypatch.setattr(training, "validation_accuracy", lambda encoder, images, _: real(encoder, images, (3, 6)))
    with pytest.raises(AssertionError, match="unseen classes"):
        check_unseen_classes_stop_nothing(larger_set)


def test_model_chosen_by_test_accuracy(
    swept: Path, parts: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The better of two seeds on the test images of unseen classes."""
    real, run = experiments.train, trained
    at_hand: list[ImageSet] = []

    def watched(*given: ImageSet) -> Outcome:
        at_hand[:] = [given[1]]
        return run(*given)

    def leaky(config: TrainConfig, *given: Any, run_dir: Path, **more: Any) -> TrainResult:
        trained = [real(dataclasses.replace(config, seed=seed), *given, **more) for seed in range(4)]
        unseen = at_hand[0].indices_of(range(7, 12))

        def accuracy(result: TrainResult) -> float:
            z = result.encoder.embed(at_hand[0].images[unseen])
            return few_shot_accuracy(z, at_hand[0].labels[unseen], named_rng(0, "leak"), episodes=200).value

        return max(trained, key=accuracy)

    monkeypatch.setitem(globals(), "trained", watched)
    monkeypatch.setattr(experiments, "train", leaky)
    with pytest.raises(AssertionError, match="decide which weights"):
        check_test_images_decide_nothing(parts, swept)


def test_trials_judged_on_test_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    real = validation.fewshot_split_cifar_fs

    def leaky(names: tuple[str, ...]) -> CifarFSSplit:
        return dataclasses.replace(real(names), val=real(names).test)

    monkeypatch.setattr(validation, "fewshot_split_cifar_fs", leaky)
    train_set = test_validation.train_set.__wrapped__()
    with caught():
        test_validation.test_only_training_and_validation_classes_are_touched(train_set, None)


# ----------------------------------------------------------------------- a person on both sides of LFW


def test_cut_that_leaves_a_person_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    real = FaceSet.of_people
    monkeypatch.setattr(FaceSet, "of_people", lambda self, persons: real(self, {0, 1, *map(int, persons)}))
    with pytest.raises(SplitError, match="is in training and in validation"):
        split_by_person(tiny_faces.people())


def test_cut_by_pair_instead_of_by_person(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a cut of the list of pairs would be: no pair is lost, but people stand on both sides."""

    def by_pair(whole: FaceSet, share: float = 0.2, seed: int = 0) -> tuple[FaceSet, FaceSet]:
        chosen = torch.rand(len(whole.pairs.same), generator=torch.Generator().manual_seed(seed)) < share
        pairs = whole.pairs
        return tuple(
            dataclasses.replace(whole, pairs=Pairs(pairs.first[rows], pairs.second[rows], pairs.same[rows]))
            for rows in (~chosen, chosen)
        )  # type: ignore[return-value]

    monkeypatch.setattr(test_faces, "split_by_person", by_pair)
    with caught():
        test_faces.test_no_person_is_on_both_sides_and_no_pair_is_lost()


def test_test_person_among_those_who_are_learned() -> None:
    """The list of the test set names someone of the training set."""
    people = tiny_faces.people()
    assert faces.shared_people(people, people)
    with pytest.raises(SplitError, match="both learned and tested on"):
        tiny_faces.carried_out(tiny_faces.face_run("embedding", 1), people)
