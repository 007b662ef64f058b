"""Made-up faces: what the notebook shows where LFW is not at hand."""

from __future__ import annotations

import dataclasses

from siamese_utils.data.faces import FaceSet, split_by_person, training_images
from siamese_utils.data.images import ImageSet
from siamese_utils.errors import ShapeError
from siamese_utils.evaluation.calibration import Verdict
from siamese_utils.experiments.study import Bench
from siamese_utils.studies.faces.systems import EMBEDDING, train_embedding
from siamese_utils.studies.faces.verification import TestAnswers, cosine_score, judge_embeddings


def demo_answers(faces: FaceSet, test: FaceSet) -> tuple[TestAnswers, Verdict]:
    """What a small encoder, trained on made-up faces within seconds, says of made-up test pairs.

    Raises:
        ShapeError: the faces are real, for which there are stored results.
    """
    if not (faces.is_synthetic and test.is_synthetic):
        raise ShapeError("The demonstration is for made-up faces; read the stored results of real ones.")
    quick = dataclasses.replace(
        EMBEDDING.train,
        encoder="conv3",
        embedding_dim=32,
        batch_size=32,
        least_images=1_600,
        most_images=1_600,
        resolutions=(),
    )
    config = dataclasses.replace(EMBEDDING, train=quick, size=32)
    training, validation = split_by_person(faces)
    encoder = train_embedding(config, training, Bench("cpu", progress=False)).encoder
    _, verdict = judge_embeddings(encoder, config.judged_crops, validation)
    return TestAnswers.of(cosine_score(encoder, config.judged_crops), (training, validation), test), verdict


def people_as_classes(faces: FaceSet) -> ImageSet:
    """The photographs as an image set, for the notebook's frame: (N, 64, 64, 3), one class a person."""
    return training_images(faces, EMBEDDING.crop, EMBEDDING.size, least=1)
