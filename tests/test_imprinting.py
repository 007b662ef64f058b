"""Imprinted weights against slow loops and scikit-learn, their limits, and bad input."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from sklearn.covariance import empirical_covariance
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.nn import functional as F

from siamese_utils.encoders.imprinting import (
    CLASSIFIER_FORMAT,
    CosineClassifier,
    FineTuneConfig,
    Whitening,
    bias_for_budget,
    class_means,
    fine_tune,
    harmonic_mean,
    imprinted,
    leads,
    load_classifier,
    nearest_classes,
    overall,
    save_classifier,
)
from siamese_utils.errors import CheckpointError, ConfigError, SamplingError, ShapeError


def clouds(classes: int, per_class: int, dim: int = 12, spread: float = 0.6, seed: int = 0):
    """Directions around one centre a class: embeddings (N, D) and labels (N,)."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(classes, dim, generator=generator), dim=1)
    labels = torch.arange(classes).repeat_interleave(per_class)
    noise = torch.randn(len(labels), dim, generator=generator) / math.sqrt(dim)
    return F.normalize(centres[labels] + spread * noise, dim=1), labels


# ---------------------------------------------------------------------------------------- classifier


def test_an_imprinted_weight_is_the_mean_of_the_shots_at_unit_length() -> None:
    shots = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    expected = np.array([1, 2]) / math.sqrt(5)
    assert imprinted(shots).tolist() == pytest.approx(expected.tolist())
    assert imprinted(3 * shots).tolist() == pytest.approx(expected.tolist())  # every shot counts alike
    many = torch.stack([shots, shots.flip(1)])
    assert torch.allclose(imprinted(many)[1], imprinted(shots).flip(0))


def test_imprinting_adds_a_class_and_leaves_the_others_alone() -> None:
    z, labels = clouds(5, 20)
    old = CosineClassifier.from_means(z[labels < 4], labels[labels < 4])
    new = old.imprint(z[labels == 4][:3], 4)
    assert new.labels == (0, 1, 2, 3, 4)
    assert torch.equal(new.weights[:4], old.weights)
    assert torch.equal(new.scores(z)[:, :4], old.scores(z))
    assert (new.predict(z) == labels).float().mean() > 0.9
    assert torch.allclose(new.probabilities(z).sum(dim=1), torch.ones(len(z)))


def test_labels_need_not_start_at_zero() -> None:
    z, labels = clouds(3, 10, spread=0.1)
    names = torch.tensor([70, 3, 12])[labels]
    classifier = CosineClassifier.from_means(z, names)
    assert classifier.labels == (3, 12, 70)
    assert torch.equal(classifier.predict(z), names)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda c, z: c.imprint(z[0], 9), ShapeError, "Shots are the embeddings"),
        (lambda c, z: c.imprint(z[:0], 9), ShapeError, "Shots are the embeddings"),
        (lambda c, z: c.imprint(z[:1], 1), SamplingError, "has a class 1 already"),
        (lambda c, z: CosineClassifier(c.weights, (0, 0, 1)), ShapeError, "named twice"),
        (lambda c, z: CosineClassifier(c.weights, (0, 1)), ShapeError, "one weight row a class"),
        (lambda c, z: CosineClassifier(c.weights, (0, 1, 2), scale=0), ConfigError, "must be positive"),
        (lambda c, z: CosineClassifier(c.weights, (0, 1, 2), bias=torch.zeros(2)), ShapeError, "one bias a class"),
        (lambda c, z: CosineClassifier.from_means(z, torch.zeros(2)), ShapeError, "one label each"),
        (lambda c, z: c.within_budget(z, torch.zeros(len(z)), [], 1), SamplingError, "Name some classes"),
        (lambda c, z: c.within_budget(z, torch.zeros(len(z)), [0, 1, 2], 1), SamplingError, "Name some classes"),
    ],
)
def test_bad_input_is_named(change, error, says) -> None:
    z, labels = clouds(3, 4)
    with pytest.raises(error, match=says):
        change(CosineClassifier.from_means(z, labels), z)


def test_gradients_of_what_is_given_are_not_kept() -> None:
    z, labels = clouds(4, 20)
    plain = CosineClassifier.from_means(z, labels)
    z = z.requires_grad_()
    white, classifier = Whitening.fit(z, labels), CosineClassifier.from_means(z, labels)
    assert torch.equal(classifier.weights, plain.weights)
    grown = classifier.imprint(z[:2], 60)
    for kept in (white.matrix, white(z), classifier.weights, classifier.scores(z), grown.weights):
        assert not kept.requires_grad and kept.device.type == "cpu"


def test_a_classifier_survives_its_file(tmp_path: Path) -> None:
    z, labels = clouds(4, 20)
    white = Whitening.fit(z, labels)
    classifier = CosineClassifier.from_means(white(z), labels + 60, scale=7.0)
    path = tmp_path / "new" / "classifier.safetensors"
    save_classifier(path, classifier, white)
    again, whitening = load_classifier(path)
    assert torch.equal(again.scores(whitening(z)), classifier.scores(white(z)))
    assert (again.labels, again.scale) == ((60, 61, 62, 63), 7.0)


def test_files_that_are_no_classifier_are_refused(tmp_path: Path) -> None:
    z, labels = clouds(3, 10)
    white, path = Whitening.fit(z, labels), tmp_path / "classifier.safetensors"
    with pytest.raises(CheckpointError, match="There is no classifier"):
        load_classifier(path)
    save_classifier(path, CosineClassifier.from_means(white(z), labels), white)
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    with pytest.raises(CheckpointError, match="damaged"):
        load_classifier(path)
    torch.save({"weights": z}, path)
    with pytest.raises(CheckpointError, match="damaged or not a safetensors"):
        load_classifier(path)
    save_file({"weights": z}, path)
    with pytest.raises(CheckpointError, match="not written by save_classifier"):
        load_classifier(path)
    whole = {"weights": z[:2], "bias": torch.zeros(2), "whitening": torch.eye(z.shape[1])}
    for change, labels_text in (
        ({"bias": torch.zeros(3)}, "[0, 1]"),
        ({"whitening": torch.eye(3)}, "[0, 1]"),
        ({"weights": z[:2] / 0}, "[0, 1]"),
        ({}, "[0]"),
        ({}, "[0, 0]"),
        ({}, "nothing"),
    ):
        save_file(
            {**whole, **change}, path, metadata={"format": CLASSIFIER_FORMAT, "labels": labels_text, "scale": "16"}
        )
        with pytest.raises(CheckpointError, match="does not hold a whole classifier"):
            load_classifier(path)
    with pytest.raises(CheckpointError, match="Cannot write"):
        save_classifier(path / "below-a-file.safetensors", CosineClassifier.from_means(white(z), labels), white)


# ----------------------------------------------------------------------------------------- whitening


def test_whitened_means_are_the_directions_of_linear_discriminant_analysis() -> None:
    z, labels = clouds(4, 200, dim=6)
    shrinkage = 0.2
    white = Whitening.fit(z, labels, shrinkage)
    numpy, classes = z.double().numpy(), labels.numpy()
    means = np.stack([numpy[classes == c].mean(axis=0) for c in range(4)])
    covariance = empirical_covariance(numpy - means[classes], assume_centered=True) * len(z) / (len(z) - 4)
    covariance += shrinkage * np.trace(covariance) / 6 * np.eye(6)
    scale = np.trace(covariance) / 6 / (1 + shrinkage)
    # In whitened space w . x = mean' S^-1 x, which is what LDA computes from that covariance.
    ours = white.matrix.double().numpy() @ white.matrix.double().numpy()
    assert np.allclose(ours, scale * np.linalg.inv(covariance), rtol=1e-4)


def test_whitening_helps_where_classes_scatter_along_one_direction() -> None:
    z, labels = clouds(8, 60, spread=0.4)
    stretched = z.clone()
    stretched[:, 0] += torch.randn(len(z), generator=torch.Generator().manual_seed(1))
    known, new = labels < 6, labels >= 6
    white = Whitening.fit(stretched[known], labels[known], 0.01)

    def accuracy(x: torch.Tensor) -> float:
        shots = torch.stack([x[labels == c][:1] for c in (6, 7)])
        return float(((x[new] @ imprinted(shots).T).argmax(dim=1) == labels[new] - 6).float().mean())

    assert accuracy(white(stretched)) > accuracy(F.normalize(stretched, dim=1)) + 0.1


def test_whitening_agrees_with_scikit_learn_on_which_class() -> None:
    z, labels = clouds(3, 300, dim=5, spread=0.9)
    white = Whitening.fit(z, labels, 1e-6)
    x = z @ white.matrix
    means = torch.stack([x[labels == c].mean(dim=0) for c in range(3)])
    ours = (x @ means.T - means.square().sum(dim=1) / 2).argmax(dim=1).numpy()
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(z.numpy(), labels.numpy()).predict(z.numpy())
    assert (ours == theirs).mean() > 0.995


@pytest.mark.parametrize(
    ("z", "labels", "shrinkage", "error"),
    [
        (torch.randn(4, 3), torch.arange(4), 0.3, SamplingError),
        (torch.ones(4, 3), torch.tensor([0, 0, 1, 1]), 0.3, SamplingError),
        (torch.randn(4, 3), torch.tensor([0, 0, 1, 1]), 0.0, ConfigError),
        (torch.randn(4, 3), torch.tensor([0, 0, 1]), 0.3, ShapeError),
    ],
)
def test_whitening_refuses_what_it_cannot_measure(z, labels, shrinkage, error) -> None:
    with pytest.raises(error):
        Whitening.fit(z, labels, shrinkage)


# ------------------------------------------------------------------------------------ bias and leads


@given(st.integers(0, 10_000), st.floats(0, 30))
def test_the_bias_spends_the_budget_and_no_more(seed: int, budget: float) -> None:
    rng = np.random.default_rng(seed)
    lead = torch.from_numpy(rng.normal(1, 1, (3, 60)))
    right = torch.from_numpy(rng.random((3, 60)) < 0.8)
    bias = bias_for_budget(lead, right, budget)
    before = right.sum(dim=1)
    after = (right & (lead >= bias[:, None])).sum(dim=1)
    assert (before - after == math.floor(budget / 100 * 60 + 1e-9)).all()


def test_a_budget_that_leaves_nothing_is_refused() -> None:
    lead, right = torch.randn(1, 10), torch.ones(1, 10, dtype=torch.bool)
    for budget in (100, -1):
        with pytest.raises(ConfigError, match="leaves nothing to keep"):
            bias_for_budget(lead, right, budget)


def test_a_bias_within_budget_costs_old_classes_what_was_agreed() -> None:
    z, labels = clouds(6, 100, spread=1.2)
    old, new = labels < 5, labels == 5
    classifier = CosineClassifier.from_means(z[old], labels[old])
    before = (classifier.predict(z[old]) == labels[old]).double().mean()
    added = classifier.imprint(z[new][:2], 5)
    plain = (added.predict(z[new]) == 5).double().mean()
    for budget in (0.0, 2.0, 10.0):
        tuned = added.within_budget(z[old], labels[old], [5], budget)
        after = (tuned.predict(z[old]) == labels[old]).double().mean()
        assert float(100 * (before - after)) == pytest.approx(budget, abs=1e-6)
    assert (tuned.predict(z[new]) == 5).double().mean() > plain
    assert tuned.bias[:5].abs().max() == 0


def test_leads_give_the_accuracies_of_the_classifier() -> None:
    z, labels = clouds(6, 30, spread=1.0)
    old, new = labels < 4, labels >= 4
    classifier = CosineClassifier.from_means(z[old], labels[old])
    for label in (4, 5):
        classifier = classifier.imprint(z[labels == label][:2], label)
    for bias in (-1.0, 0.0, 1.5):
        moved = CosineClassifier(classifier.weights, classifier.labels, bias=torch.tensor([0, 0, 0, 0, bias, bias]))
        right = moved.predict(z) == labels
        found = leads(
            classifier.weights[:4], classifier.weights[None, 4:], (z[old], labels[old]), (z[new], labels[new] - 4)
        )
        ours = [float(value) for value in found.accuracies(bias)]
        assert ours == pytest.approx([100 * float(right[part].double().mean()) for part in (old, new)])


@given(st.floats(0, 100), st.floats(0, 100))
def test_means_of_two_accuracies(old: float, novel: float) -> None:
    a, b = torch.tensor([old], dtype=torch.float64), torch.tensor([novel], dtype=torch.float64)
    assert float(overall(a, b, 40, 1)) == pytest.approx((40 * old + novel) / 41)
    expected = 0 if old + novel == 0 else 2 * old * novel / (old + novel)
    assert float(harmonic_mean(a, b)) == pytest.approx(expected, abs=1e-9)


def test_nearest_classes_are_sorted() -> None:
    old = torch.eye(3)
    found = nearest_classes(torch.tensor([0.1, 0.9, 0.5]), old, ["a", "b", "c"], count=2)
    assert [name for name, _ in found] == ["b", "c"]
    assert found[0][1] == pytest.approx(0.9 / math.sqrt(0.01 + 0.81 + 0.25))


# --------------------------------------------------------------------------------------- fine-tuning


def one_replica_by_hand(old, novel, batches, shots, shot_rows, config, scale):
    """The same stage for a single classifier, written out class by class in float64."""
    classes, added = len(old), len(novel)
    weights = torch.cat([old, F.normalize(novel, dim=1)]).double().requires_grad_()
    start = weights.detach().clone()
    need = [1.0] * added
    moment = torch.zeros_like(start)
    square = torch.zeros_like(start)
    frozen_steps = round(config.frozen_share * config.steps)
    for step, batch in enumerate(batches):
        unit = F.normalize(weights, dim=1)
        total = torch.zeros((), dtype=torch.float64)
        sure = []
        for c in range(classes):
            scores = scale * batch[c].double() @ unit.T
            log = scores.log_softmax(dim=1)[:, c]
            sure.append(log.exp().mean().item())
            total = total + log.mean()
        gaps = []
        for j in range(added):
            scores = scale * shots[shot_rows == j].double() @ unit.T
            log = scores.log_softmax(dim=1)[:, classes + j]
            gaps.append(np.mean(sure) - log.exp().mean().item())
            total = total + need[j] * log.mean()
        loss = -total / (classes + sum(need))
        frozen = step < frozen_steps
        moved = (weights - start)[classes:] if frozen else weights - start
        loss = loss + config.anchor * moved.square().sum()
        (gradient,) = torch.autograd.grad(loss, weights)
        active = torch.ones(len(start), 1)
        active[:classes] = 0 if frozen else 1
        rate = config.rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        moment = torch.where(active > 0, 0.9 * moment + 0.1 * gradient, moment)
        square = torch.where(active > 0, 0.999 * square + 0.001 * gradient**2, square)
        counts = torch.full((len(start), 1), float(step + 1))
        counts[:classes] = max(step + 1 - frozen_steps, 1)
        update = (moment / (1 - 0.9**counts)) / ((square / (1 - 0.999**counts)).sqrt() + 1e-8)
        weights = (weights.detach() - active * rate * update).requires_grad_()
        need = [
            min(max(n * math.exp(config.adapt * g), 1 / config.largest_weight), config.largest_weight)
            for n, g in zip(need, gaps)
        ]
    unit = F.normalize(weights.detach(), dim=1)
    return unit[:classes], unit[classes:]


@pytest.mark.parametrize("anchor", [0.0, 2.0])
def test_fine_tuning_is_the_stage_written_out_by_hand(anchor: float) -> None:
    z, labels = clouds(5, 6, dim=5, spread=0.8)
    is_old = labels < 3
    old = class_means(z[is_old], labels[is_old], 3)
    shots = z[~is_old][[0, 1, 6, 7, 8]]
    rows = torch.tensor([0, 0, 1, 1, 1])
    novel = imprinted(torch.stack([shots[:2], shots[2:4]]))
    config = FineTuneConfig(steps=8, rate=0.02, per_class=1, adapt=0.5, anchor=anchor)
    # With one image a class nothing is left to chance.
    first = torch.tensor([0, 6, 12])
    got_old, got_novel = fine_tune(old, novel[None], (z[first], labels[first]), shots[None], rows, config, scale=8)
    batches = [[z[row : row + 1] for row in first.tolist()]] * config.steps
    want_old, want_novel = one_replica_by_hand(old, novel, batches, shots, rows, config, 8)
    assert torch.allclose(got_old[0].double(), want_old, atol=2e-4)
    assert torch.allclose(got_novel[0].double(), want_novel, atol=2e-4)


def test_replicas_are_tuned_as_if_each_were_alone() -> None:
    z, labels = clouds(5, 20, spread=0.9)
    is_old = labels < 4
    old = class_means(z[is_old], labels[is_old], 4)
    shots = torch.stack([z[labels == 4][:3], z[labels == 4][3:6]])
    rows = torch.zeros(3, dtype=torch.int64)
    config = FineTuneConfig(steps=20, rate=0.01, adapt=0.3)
    together = fine_tune(old, imprinted(shots)[:, None], (z[is_old], labels[is_old]), shots, rows, config)
    for number in range(2):
        alone = fine_tune(
            old, imprinted(shots[number])[None, None], (z[is_old], labels[is_old]), shots[number][None], rows, config
        )
        for both, single in zip(together, alone):
            assert torch.allclose(both[number], single[0], atol=1e-5)


def test_frozen_classes_stay_where_they_are() -> None:
    z, labels = clouds(4, 20, spread=0.9)
    old = class_means(z[labels < 3], labels[labels < 3], 3)
    shots, rows = z[labels == 3][None, :2], torch.zeros(2, dtype=torch.int64)
    images = (z[labels < 3], labels[labels < 3])
    start = imprinted(shots)[:, None]
    frozen = fine_tune(old, start, images, shots, rows, FineTuneConfig(steps=20, frozen_share=1.0))
    free = fine_tune(old, start, images, shots, rows, FineTuneConfig(steps=20, frozen_share=0.0))
    assert torch.allclose(frozen[0][0], old, atol=1e-6)
    assert not torch.allclose(frozen[1], start, atol=1e-3)
    assert not torch.allclose(free[0][0], old, atol=1e-3)


def test_fine_tuning_tells_a_new_class_from_its_neighbour() -> None:
    """One feature alone tells the new class from an old one; the mean of the shots does not weigh it, tuning does."""
    generator = torch.Generator().manual_seed(0)
    common = F.normalize(torch.randn(1, 10, generator=generator), dim=1)
    sign = torch.tensor([-1.0, 1.0]).repeat_interleave(60)
    noise = 0.8 * torch.randn(120, 9, generator=generator)
    z = common + torch.cat([0.25 * sign[:, None] + 0.05 * torch.randn(120, 1, generator=generator), noise], dim=1)
    z, rows = F.normalize(z, dim=1), (sign > 0).long()
    classifier = CosineClassifier.from_means(z[:30], rows[:30]).imprint(z[60:80], 1)
    tuned = classifier.fine_tune(
        (z[:30], rows[:30]), (z[60:80], rows[60:80]), FineTuneConfig(steps=200, rate=0.02, per_class=20)
    )
    test = torch.cat([torch.arange(30, 60), torch.arange(80, 120)])
    before, after = ((c.predict(z[test]) == rows[test]).float().mean() for c in (classifier, tuned))
    assert after > before + 0.03


def test_fine_tuning_is_the_same_twice() -> None:
    z, labels = clouds(4, 20)
    old = CosineClassifier.from_means(z[labels < 3], labels[labels < 3]).imprint(z[labels == 3][:2], 3)
    parts = (z[labels < 3], labels[labels < 3]), (z[labels == 3][:2], labels[labels == 3][:2])
    assert torch.equal(old.fine_tune(*parts).weights, old.fine_tune(*parts).weights)


def test_fine_tuning_names_what_is_missing() -> None:
    z, labels = clouds(4, 6)
    classifier = CosineClassifier.from_means(z[labels < 3], labels[labels < 3]).imprint(z[labels == 3][:2], 3)
    old, new = (z[labels < 3], labels[labels < 3]), (z[labels == 3], labels[labels == 3])
    with pytest.raises(SamplingError, match="has no class 7"):
        classifier.fine_tune(old, (z[:1], torch.tensor([7])))
    with pytest.raises(SamplingError, match="classes added last"):
        classifier.fine_tune(old, (z[:1], torch.tensor([0])))
    with pytest.raises(SamplingError, match="an image of every class"):
        classifier.fine_tune((z[labels < 2], labels[labels < 2]), new)
