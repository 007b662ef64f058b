"""How encoders of drawings are judged: tasks within alphabets, Omniglot's official runs, and pairs of digits.

The official runs are read in one place alone, :func:`accuracy_on_runs`, once for each finished encoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.symbols import OneShotRun, load_omniglot_runs
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import SamplingError
from siamese_utils.evaluation.calibration import Verdict, fit_verdict
from siamese_utils.evaluation.episodes import all_way_accuracy, few_shot_accuracy
from siamese_utils.evaluation.estimates import Estimate, mean_estimate, wilson
from siamese_utils.evaluation.pairs import pair_accuracy, pair_auc, sample_similarities
from siamese_utils.studies.drawing.data import WAYS, characters_of


def accuracy_on_alphabets(
    encoder: Encoder, characters: ImageSet, alphabets: Iterable[int], episodes: int = 500
) -> Estimate:
    """One-shot accuracy in tasks made like the official runs, from alphabets of the background set.

    A task takes twenty characters of one alphabet, drawn by one person as the support set and by another as queries.
    The interval covers the random choice of tasks from these alphabets.

    Args:
        encoder: to judge.
        characters: all drawings of a class stand together, in one order of people for all classes of an alphabet.
        alphabets: each with twenty characters or more.
        episodes: tasks from each alphabet.

    Raises:
        SamplingError: an alphabet is too small, or its characters were not drawn by the same number of people.
    """
    rng = named_rng(0, "tasks within alphabets")
    shares = []
    for alphabet in alphabets:
        classes = characters_of(characters, [alphabet])
        positions = characters.indices_of(classes.tolist())
        people = len(positions) // max(1, len(classes))
        if len(classes) < WAYS or people < 2 or len(positions) != people * len(classes):
            raise SamplingError(
                f"The alphabet {characters.superclass_names[alphabet]} needs {WAYS} characters by the same two or more "
                "people; choose another."
            )
        z = encoder.embed(characters.images[positions]).view(len(classes), people, -1)
        for _ in range(episodes):
            chosen = torch.from_numpy(rng.permutation(len(classes))[:WAYS])
            one, other = rng.permutation(people)[:2].tolist()
            best = (z[chosen, other] @ z[chosen, one].T).argmax(dim=1)
            shares.append((best == torch.arange(WAYS)).double().mean())
    return mean_estimate(torch.stack(shares))


@dataclass(frozen=True, eq=False)
class RunAnswers:
    """An encoder's answers in Omniglot's official runs.

    Attributes:
        runs: the runs, with their images.
        similarity: float32 (runs, queries, supports), cosine.
        hits: bool (runs, queries), whether the most similar support is the right one.
    """

    runs: tuple[OneShotRun, ...]
    similarity: torch.Tensor
    hits: torch.Tensor

    @property
    def metrics(self) -> dict[str, Estimate]:
        """The share of right answers, with an interval over trials and one over runs."""
        low, high = wilson(int(self.hits.sum()), self.hits.numel())
        by_run = mean_estimate(self.hits.double().mean(dim=1))
        return {
            "acc_20w1s_runs": Estimate(by_run.value, (high - low) / 2, self.hits.numel()),
            "acc_20w1s_by_run": by_run,
        }


def accuracy_on_runs(encoder: Encoder, runs: Sequence[OneShotRun] | None = None) -> RunAnswers:
    """Judge a finished encoder on the twenty official runs; nothing else in the package opens them.

    Args:
        encoder: to judge.
        runs: other runs that take their place, for tests and synthetic data.
    """
    runs = load_omniglot_runs() if runs is None else tuple(runs)
    tables, hits = [], []
    for run in runs:
        similarity = encoder.embed(run.query) @ encoder.embed(run.support).T
        tables.append(similarity)
        hits.append(similarity.argmax(dim=1) == run.true)
    return RunAnswers(runs, torch.stack(tables), torch.stack(hits))


def digit_metrics(
    encoder: Encoder, test_digits: ImageSet, learned: Sequence[int], threshold: float
) -> dict[str, Estimate]:
    """Metrics on MNIST's test images, of digits learned and of the others.

    Args:
        encoder: to judge.
        test_digits: MNIST's test images.
        learned: digits that were learned; none at all if the encoder has never seen MNIST.
        threshold: cosine above which a pair is called the same.
    """
    z, labels = encoder.embed(test_digits.images), test_digits.labels
    unseen = [digit for digit in range(test_digits.num_classes) if digit not in learned]
    metrics = {}
    for kind, digits in (("digits", list(learned)), ("unseen_digits", unseen)):
        if len(digits) < 2:
            continue
        rows = test_digits.indices_of(digits)
        part, of = z[rows], labels[rows]
        metrics[f"pair_acc_{kind}"] = pair_accuracy(part, of, threshold, named_rng(0, f"pair_acc_{kind}"))
        metrics[f"pair_auc_{kind}"] = pair_auc(part, of, named_rng(0, f"pair_auc_{kind}"), max_pairs=2_000_000)
        if len(digits) >= 5:
            metrics[f"acc_5w1s_{kind}"] = few_shot_accuracy(part, of, named_rng(0, f"acc_5w1s_{kind}"))
        if kind == "unseen_digits":
            metrics[f"acc_allway_1s_{kind}"] = all_way_accuracy(part, of, named_rng(0, f"acc_allway_1s_{kind}"), 200)
    return metrics


def verdict_on(encoder: Encoder, images: ImageSet, rows: torch.Tensor) -> Verdict:
    """How similarities are to be read, from pairs of some images of a set.

    Half of the pairs show the same class; the other half show two.

    Args:
        encoder: to judge.
        images: the set.
        rows: int64, which of them; none that the encoder learned.
    """
    z, labels = encoder.embed(images.images[rows]), images.labels[rows]
    return fit_verdict(*sample_similarities(z, labels, named_rng(0, "pairs for the verdict")))
