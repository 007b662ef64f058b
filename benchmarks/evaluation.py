"""Nearest-prototype evaluation of few-shot episodes: ours against easyfsl, on the same embeddings and episodes.

easyfsl (https://github.com/sicara/easy-few-shot-learning) answers one episode after another with a classifier
module; here its prototypes are compared by its own cosine distance, on embeddings that are there already. Its
episodes are given to it ready-made. Ours is timed with the drawing of the episodes, which only adds to its time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import typer
from easyfsl.methods import PrototypicalNetworks
from torch.nn import functional as F

from benchmarks import common
from siamese_utils.data.sampling import Episodes, named_rng, sample_episodes
from siamese_utils.evaluation.episodes import episode_accuracies, few_shot_accuracy

WAYS, SHOTS, QUERIES = 5, 1, 15
CLASSES, PER_CLASS, DIM = 10, 100, 256
TIES = 1e-6  # two similarities nearer than this are a tie: float32 sums in another order differ by less


class CosinePrototypes(PrototypicalNetworks):
    """easyfsl's prototypical networks with easyfsl's cosine distance in place of the Euclidean one."""

    def forward(self, query_images: torch.Tensor) -> torch.Tensor:
        """Similarity of queries (Q, D) to the prototypes: float32 (Q, N)."""
        return self.cosine_distance_to_prototypes(self.compute_features(query_images))


@dataclass(frozen=True, eq=False)
class Task:
    """Embeddings z float32 (M, D) of unit length, labels int64 (M,), and the episodes both sides answer."""

    z: torch.Tensor
    labels: torch.Tensor
    episodes: Episodes


def make_task(episodes: int) -> Task:
    """Random clusters as close to each other as real unseen classes are: about 70% of the answers are right."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    centres = F.normalize(torch.randn(CLASSES, DIM, generator=generator), dim=1)
    z = F.normalize(centres[labels] + 0.145 * torch.randn(len(labels), DIM, generator=generator), dim=1)
    return Task(z, labels, sample_episodes(labels, WAYS, SHOTS, QUERIES, episodes, named_rng(0, "benchmark")))


@torch.no_grad()
def easyfsl_accuracies(task: Task) -> torch.Tensor:
    """Accuracy of each episode by easyfsl, an episode at a time as its own ``evaluate`` does; float64 (E,)."""
    model = CosinePrototypes().eval()
    support_labels = torch.arange(WAYS).repeat_interleave(SHOTS)
    query_labels = torch.arange(WAYS).repeat_interleave(QUERIES)
    accuracies = []
    for support, query in zip(task.episodes.support, task.episodes.query):
        model.process_support_set(task.z[support.flatten()], support_labels)
        predicted = model(task.z[query.flatten()]).argmax(1)
        accuracies.append((predicted == query_labels).sum().item() / len(query_labels))
    return torch.tensor(accuracies, dtype=torch.float64)


def our_accuracies(task: Task) -> torch.Tensor:
    """Accuracy of each episode by ours; float64 (E,)."""
    return episode_accuracies(task.z, task.episodes)


def check_equal(task: Task) -> float:
    """Compare the accuracies of all episodes; returns their mean in percent.

    Raises:
        AssertionError: an episode differs by more than its ties can explain.
    """
    ours, theirs = our_accuracies(task), easyfsl_accuracies(task)
    similarity = torch.einsum("ewd,eqd->ewq", _prototypes(task), task.z[task.episodes.query.flatten(1)].double())
    best = similarity.topk(2, dim=1).values
    ties = (best[:, 0] - best[:, 1] < TIES).sum(1)
    wrong = ((ours - theirs).abs() > (ties + 1e-6) / (WAYS * QUERIES)).nonzero().flatten().tolist()
    assert not wrong, f"Episodes {wrong[:5]} have other accuracies than easyfsl gives them."
    return 100 * ours.mean().item()


def _prototypes(task: Task) -> torch.Tensor:
    return F.normalize(task.z[task.episodes.support].double().mean(2), dim=2)


def sides(task: Task) -> list[common.Side]:
    """Both sides; their rate is episodes a second of wall time."""

    def easyfsl() -> float:
        start = time.perf_counter()
        easyfsl_accuracies(task)
        return len(task.episodes) / (time.perf_counter() - start)

    def ours() -> float:
        start = time.perf_counter()
        few_shot_accuracy(
            task.z,
            task.labels,
            named_rng(0, "benchmark"),
            ways=WAYS,
            shots=SHOTS,
            queries=QUERIES,
            episodes=len(task.episodes),
        )
        return len(task.episodes) / (time.perf_counter() - start)

    def ours_given() -> float:
        start = time.perf_counter()
        our_accuracies(task)
        return len(task.episodes) / (time.perf_counter() - start)

    return [
        common.Side("easyfsl, episodes given", easyfsl),
        common.Side("siamese_utils, with drawing the episodes", ours),
        common.Side("siamese_utils, episodes given", ours_given),
    ]


def main(
    quick: common.Quick = False, repeats: common.Repeats = 5, threads: common.Threads = 0, out: common.Out = None
) -> None:
    """Answer 10,000 5-way 1-shot episodes, 15 queries a class, over 1,000 embeddings of 256 dimensions."""
    common.use_threads(threads)
    task = make_task(50 if quick else 10_000)
    accuracy = check_equal(task)
    rates = common.rates_in_turn(sides(task), 1 if quick else repeats)
    common.report([common.summarise("evaluation_5w1s", "episodes/s", rates)], common.output_path(out, quick))
    print(f"All {len(task.episodes)} episodes have the same accuracy on both sides, {accuracy:.2f}% on average.")


if __name__ == "__main__":
    typer.run(main)
