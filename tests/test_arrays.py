"""What a user hands over: every form of the same numbers gives the same tensor, and all else one sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch
from fuzz import check_sentence
from torch.nn import functional as F

from siamese_utils import CosineClassifier, Encoder
from siamese_utils.data.arrays import as_classes, as_count, as_embeddings, as_labels, as_number, as_rng, labelled
from siamese_utils.data.images import ImageSet
from siamese_utils.data.pixels import as_images
from siamese_utils.data.sampling import PKBatches, sample_triplets
from siamese_utils.data.splits import hold_out_images
from siamese_utils.encoders.imprinting import nearest_classes
from siamese_utils.errors import ConfigError, DivergedError, SamplingError, ShapeError, SiameseError
from siamese_utils.evaluation.episodes import few_shot_accuracy, few_shot_predictions
from siamese_utils.evaluation.pairs import pair_auc, sample_similarities, threshold_for_balanced_accuracy
from siamese_utils.training.losses import OBJECTIVES, ProxyObjective, Term, cosine_distance, mine_semi_hard

LABELS = torch.arange(24) % 4
Z = F.normalize(torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), dim=1)
LABEL_FORMS = {
    "list": list,
    "list of ints": torch.Tensor.tolist,
    "tuple": lambda t: tuple(t.tolist()),
    "array": torch.Tensor.numpy,
    "int32": torch.Tensor.int,
    "uint8": lambda t: t.numpy().astype(np.uint8),
    "uint16": lambda t: t.numpy().astype(np.uint16),
    "other byte order": lambda t: t.numpy().astype(">i4"),
    "reversed twice": lambda t: t.numpy()[::-1].copy()[::-1],
    "column": lambda t: pd.Series(t.numpy(), index=range(100, 100 + len(t))),
    "read-only": lambda t: np.broadcast_to(t.numpy(), t.shape),
}
FLOAT_FORMS = {
    "list": torch.Tensor.tolist,
    "rows": list,
    "array": torch.Tensor.numpy,
    "float64": lambda t: t.numpy().astype(np.float64),
    "columns first": lambda t: np.asfortranarray(t.numpy()),
    "with a gradient": lambda t: t.clone().requires_grad_(),
    "other byte order": lambda t: t.numpy().astype(">f4"),
    "table": lambda t: pd.DataFrame(t.numpy()),
}


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_labels_in_every_form(form: str) -> None:
    found = as_labels(LABEL_FORMS[form](LABELS), len(LABELS))
    assert found.dtype == torch.int64 and torch.equal(found, LABELS)


@pytest.mark.parametrize("form", FLOAT_FORMS)
def test_embeddings_in_every_form(form: str) -> None:
    found = as_embeddings(FLOAT_FORMS[form](Z))
    assert torch.allclose(found.float(), Z) and found.requires_grad == (form == "with a gradient")


@pytest.mark.parametrize(
    ("floats", "labels"), [(form, "int32") for form in FLOAT_FORMS] + [("float64", form) for form in LABEL_FORMS]
)
def test_the_answer_is_the_same_in_every_form(floats: str, labels: str) -> None:
    z, y = FLOAT_FORMS[floats](Z), LABEL_FORMS[labels](LABELS)
    for ask in (
        lambda z, y: few_shot_accuracy(z, y, 0, ways=3, queries=2, episodes=5).value,
        lambda z, y: pair_auc(z, y).value,
        lambda z, y: CosineClassifier.from_means(z, y).imprint(FLOAT_FORMS[floats](Z[:2]), np.int64(9)).scores(Z),
        lambda z, y: mine_semi_hard(cosine_distance(z), y).to_negative.float(),
        lambda z, y: sample_triplets(y, 9, np.random.default_rng(0)).tolist(),
        lambda z, y: PKBatches(y, 2, 2, seed=0).epoch(0).tolist(),
        lambda z, y: hold_out_images(y, np.array([2, 0]), 1, 0)[1].tolist(),
    ):
        found, expected = (torch.as_tensor(ask(*given)).detach() for given in ((z, y), (Z, LABELS)))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_take_every_form(name: str) -> None:
    objective = OBJECTIVES[name](Term(name, **({"mining": "batch_hard"} if name == "triplet" else {})), 4, 6)
    expected = objective(Z, LABELS).loss.item()
    for form in LABEL_FORMS.values():
        assert objective(Z, form(LABELS)).loss.item() == expected
    for form in FLOAT_FORMS.values():
        assert objective(form(Z), LABELS).loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: as_labels(["fox", "cat"]), ShapeError, "list of str"),
        (lambda: as_labels("fox"), ShapeError, "not a str"),
        (lambda: as_labels([1, None]), ShapeError, "whole numbers|list of int"),
        (lambda: as_labels([10**30]), ShapeError, "numbers"),
        (lambda: as_labels(["ant", "bee"]), ShapeError, "a list of str; numpy.unique"),
        (lambda: as_labels(np.array(["ant", "bee"])), ShapeError, "numpy.unique"),
        (lambda: as_labels([[0, 1], [2]]), ShapeError, "list of list"),
        (lambda: as_labels([True]), ShapeError, "whole numbers"),
        (lambda: as_embeddings({"z": Z}), ShapeError, "not a dict"),
        (lambda: as_embeddings(Z, columns=7), ShapeError, "7 columns"),
        (lambda: as_embeddings(Z * torch.inf), ShapeError, "not finite"),
        (lambda: as_embeddings([Z[0], Z[0, :2]]), ShapeError, "list of Tensor"),
        (lambda: labelled("This", Z[:0], []), SamplingError, "there is none"),
        (lambda: as_classes(2.5, SamplingError), SamplingError, "whole numbers"),
        (lambda: as_classes({1, 2.5}, SamplingError), SamplingError, "whole numbers"),
        (lambda: as_count("Ways", 2.0), ConfigError, "got 2.0"),
        (lambda: as_count("Ways", True), ConfigError, "got True"),
        (lambda: as_count("Ways", 10**12), ConfigError, "at most"),
        (lambda: as_number("The margin", "1"), ConfigError, "got '1'"),
        (lambda: as_number("The margin", float("nan")), ConfigError, "finite"),
        (lambda: as_rng("0"), SamplingError, "default_rng"),
        (lambda: as_images([1, 2]), ShapeError, "uint8"),
        (lambda: ProxyObjective(4, 6)(Z, LABELS + 1), ShapeError, r"0\.\.3, but 1\.\.4"),
        (lambda: ProxyObjective(4, 6)(Z[:0], LABELS[:0]), SamplingError, "there is none"),
        (lambda: ProxyObjective(4, 6)(Z[:, :5], LABELS), ShapeError, "6 columns"),
        (lambda: ProxyObjective(4, 6)(Z * torch.nan, LABELS), DivergedError, "not finite"),
        (lambda: CosineClassifier.from_means(Z, LABELS).imprint(Z[:1], "fox"), ShapeError, "list of str"),
        (lambda: threshold_for_balanced_accuracy([0.1, float("nan")], [True, False]), ShapeError, "finite"),
        (lambda: few_shot_accuracy(Z, LABELS, 0, ways=3, queries=2, episodes=5, gram=Z), ShapeError, "24 by 24"),
    ],
)
def test_the_rest_gets_a_sentence(call: Callable, error: type[SiameseError], says: str) -> None:
    with pytest.raises(error, match=says) as caught:
        call()
    check_sentence(caught.value)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "8", True])  # none: as many as fit the encoder
def test_a_batch_holds_one_image_or_more(batch_size: object, synthetic_train: ImageSet) -> None:
    encoder, images = Encoder("conv3", 4).eval(), synthetic_train.images[:3]
    for call in (encoder.embed, encoder.features, encoder.set_centre):
        with pytest.raises(ShapeError, match="whole number, 1 or more"):
            call(images, batch_size)
    for empty in (encoder.embed, encoder.features):
        assert empty(images[:0]).shape == (0, 4)
    for statistics in (encoder.set_centre, encoder.set_pixel_statistics):
        with pytest.raises(ShapeError, match="one image or more"):
            statistics(images[:0])
    assert torch.equal(encoder.embed(list(images)), encoder.embed([image.numpy() for image in images]))


def test_cosines_stay_between_minus_one_and_one() -> None:
    z = F.normalize(torch.randn(400, 5, generator=torch.Generator().manual_seed(1)), dim=1).repeat(2, 1)
    labels = torch.arange(400).repeat(2)
    assert (z * z).sum(dim=1).max() > 1 and (z @ z.T).max() > 1  # as rounding has it
    assert max(part.abs().max() for part in sample_similarities(z, labels, 0)) <= 1
    assert few_shot_predictions(z, labels, 0).similarity.abs().max() <= 1
    assert cosine_distance(z).min() >= 0 and cosine_distance(-z).max() <= 2
    for row in z[:50]:
        assert abs(nearest_classes(3 * row, row[None], ["itself"])[0][1]) <= 1


def test_a_changed_copy_is_checked_too() -> None:
    classifier = CosineClassifier.from_means(Z, LABELS)
    with pytest.raises(ShapeError):
        dataclasses.replace(classifier, bias=torch.full((4,), torch.nan))
