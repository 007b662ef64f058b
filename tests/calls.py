"""Every public function, called as it should be and then with arguments gone wrong.

Whatever is handed over, a call ends in an error of the package, in one sentence, or in an answer without a number that
is none. ``make_calls`` has a right call of everything public; ``tests/test_calls.py`` asks that nothing is left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from fuzz import check_sentence, in_time
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

import siamese_utils
from siamese_utils.data import sampling, splits
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.imprinting import FineTuneConfig
from siamese_utils.errors import SiameseError
from siamese_utils.evaluation import calibration, embeddings, episodes, estimates, pairs, protocol
from siamese_utils.training import losses

MODULES = (sampling, splits, calibration, embeddings, episodes, estimates, pairs, protocol, losses)
RESULTS = {  # what functions give back, and what is not called by a user
    *("Pairs", "Episodes", "ClassSplit", "CifarFSSplit", "Verdict", "FewShotPredictions", "Estimate"),
    *("SplitEvaluation", "ObjectiveOutput", "Triplets", "SiameseError", "Term"),
}


@dataclasses.dataclass(frozen=True)
class Call:
    """A function or method with right arguments, made anew for each call; those of ``fixed`` stay as they are."""

    ask: Callable[..., Any]
    right: Callable[[], dict[str, Any]]
    fixed: tuple[str, ...] = ()


def z_and_labels() -> dict[str, Any]:
    z = F.normalize(torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    return {"z": z, "labels": torch.arange(24) % 4}


def batch() -> dict[str, Any]:
    given = z_and_labels()
    return {"embeddings": 3 * given["z"], "labels": given["labels"]}


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _drawn() -> sampling.Episodes:
    return sampling.sample_episodes(z_and_labels()["labels"], 2, 2, 3, 5, _rng())


def _metric(ask: Callable[..., Any], **more: Any) -> Call:
    return Call(ask, lambda: {**z_and_labels(), "rng": _rng(), **more})


def _distances() -> dict[str, Any]:
    given = z_and_labels()
    return {"distance": losses.cosine_distance(given["z"]), "labels": given["labels"]}


def _scores() -> dict[str, Any]:
    values = torch.linspace(-1, 1, 20)
    return {"score": values, "same": values + torch.arange(20) % 3 > 0.7}


def _evaluation() -> dict[str, Any]:
    z = F.normalize(torch.randn(240, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    labels, split = torch.arange(240) % 12, splits.class_split("6-6", 0, 12)
    seen = labels < 6
    numbers = {"samples": 20, "episodes": 3, "supports": 3}
    return {"held_out": (z[seen], labels[seen]), "test_z": z, "test_labels": labels, "split": split, **numbers}


def _classifier() -> siamese_utils.CosineClassifier:
    given = z_and_labels()
    old = given["labels"] < 3
    return siamese_utils.CosineClassifier.from_means(given["z"][old], given["labels"][old])


def _fine_tuning() -> dict[str, Any]:
    z, labels = z_and_labels().values()
    return {
        "old": (z[labels < 3], labels[labels < 3]),
        "shots": (z[labels == 3], labels[labels == 3]),
        "config": FineTuneConfig(steps=2),
    }


def _objective(name: str) -> Call:
    objective = losses.OBJECTIVES[name](losses.Term(name), 4, 6)
    return Call(lambda embeddings, labels: objective(embeddings, labels), batch)


def make_calls(folder: Path) -> dict[str, Call]:
    """A right call of everything public, by name; files that they read and write lie in the folder."""
    torch.manual_seed(0)
    encoder = Encoder("conv3", 4).eval()
    checkpoint = folder / "encoder.safetensors"
    siamese_utils.save_encoder(encoder, checkpoint)
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for number in range(4):
        file = folder / "support" / f"class {number // 2}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number].numpy()).save(file)
    support = {"a": images[:2], "b": images[2:]}
    fitted = siamese_utils.OneShotClassifier(encoder).fit(support)
    fitted.save(folder / "kept.safetensors")
    index = sampling.ClassIndex(z_and_labels()["labels"])
    batches = sampling.PKBatches(z_and_labels()["labels"], 2, 2, 0)
    data = {"part": "train", "root": folder / "no data", "download": False, "cache": False}
    names = [f"class {number}" for number in range(100)]
    weights = {"weights": torch.eye(3), "labels": (0, 1, 2), "scale": 16.0, "bias": torch.zeros(3)}
    new = siamese_utils.OneShotClassifier
    return {
        # ---------------------------------------------------------------- the package
        "Encoder": Call(
            lambda name, embedding_dim, image_size, mirror: Encoder(name, embedding_dim, image_size, mirror),
            lambda: {"name": "conv3", "embedding_dim": 4, "image_size": 32, "mirror": True},
        ),
        "Encoder.embed": Call(encoder.embed, lambda: {"images": images, "batch_size": 2, "views": "mirror"}),
        "Encoder.input_side": Call(encoder.input_side, lambda: {"views": "shifts"}),
        "Encoder.features": Call(encoder.features, lambda: {"images": images, "batch_size": 2}),
        "Encoder.set_centre": Call(Encoder("conv3", 4).set_centre, lambda: {"images": images, "batch_size": 2}),
        "Encoder.set_pixel_statistics": Call(Encoder("conv3", 4).set_pixel_statistics, lambda: {"images": images}),
        "Ensemble": Call(siamese_utils.Ensemble, lambda: {"members": [encoder, encoder]}),
        "Ensemble.embed": Call(siamese_utils.Ensemble([encoder]).embed, lambda: {"images": images, "batch_size": 2}),
        "Ensemble.input_side": Call(siamese_utils.Ensemble([encoder]).input_side, lambda: {"views": "shifts"}),
        "OneShotClassifier": Call(
            lambda encoder, head, unknown_rate, views: (
                new(encoder, head, unknown_rate, views).fit_folder(folder / "support").prototypes
            ),
            lambda: {"encoder": encoder, "head": "auto", "unknown_rate": 0.1, "views": "none"},
        ),
        "OneShotClassifier.fit": Call(
            lambda X, y: new(encoder).fit(X, y).prototypes, lambda: {"X": images, "y": ["a", "a", "b", "b"]}
        ),
        "OneShotClassifier.save": Call(fitted.save, lambda: {"path": folder / "classifier.safetensors"}),
        "OneShotClassifier.load": Call(
            lambda path: new.load(path, encoder).prototypes, lambda: {"path": folder / "kept.safetensors"}
        ),
        "OneShotClassifier.fit_embeddings": Call(
            lambda support: new(encoder).fit_embeddings(support).prototypes,
            lambda: {"support": {name: encoder.embed(of_class) for name, of_class in support.items()}},
        ),
        "OneShotClassifier.fit_folder": Call(
            lambda folder: new(encoder).fit_folder(folder).prototypes, lambda: {"folder": folder / "support"}
        ),
        "OneShotClassifier.similarities": Call(fitted.similarities, lambda: {"images": images}),
        "OneShotClassifier.compare": Call(fitted.compare, lambda: {"z": encoder.embed(images)}),
        "OneShotClassifier.predict": Call(fitted.predict, lambda: {"X": images}),
        "OneShotClassifier.predict_proba": Call(fitted.predict_proba, lambda: {"X": images}),
        "OneShotClassifier.is_unknown": Call(fitted.is_unknown, lambda: {"X": images}),
        "OneShotClassifier.add_class": Call(
            lambda name, images: new(encoder).fit(support).add_class(name, images).prototypes,
            lambda: {"name": "c", "images": images[:2]},
        ),
        "OneShotClassifier.predict_files": Call(
            fitted.predict_files, lambda: {"paths": folder / "support" / "class 0", "skip_unreadable": True, "top": 2}
        ),
        "best_encoder": Call(siamese_utils.best_encoder, dict),
        "classify_folder": Call(
            siamese_utils.classify_folder,
            lambda: {"encoder": checkpoint, "support": folder / "support", "queries": [folder / "support" / "class 0"]},
        ),
        "EmbeddingIndex": Call(
            siamese_utils.EmbeddingIndex, lambda: {"z": z_and_labels()["z"], "names": list("abcdefghijklmnopqrstuvwx")}
        ),
        "EmbeddingIndex.build": Call(
            siamese_utils.EmbeddingIndex.build, lambda: {"encoder": encoder, "files": folder / "support" / "class 0"}
        ),
        "EmbeddingIndex.search": Call(
            siamese_utils.EmbeddingIndex(z_and_labels()["z"]).search, lambda: {"z": z_and_labels()["z"], "k": 3}
        ),
        "EmbeddingIndex.save": Call(
            siamese_utils.EmbeddingIndex(z_and_labels()["z"]).save, lambda: {"path": folder / "index.safetensors"}
        ),
        "check_folder": Call(
            siamese_utils.check_folder,
            lambda: {"folder": folder / "support", "encoder": checkpoint, "skip_unreadable": True},
        ),
        "export_onnx": Call(
            siamese_utils.export_onnx, lambda: {"encoder": encoder, "path": folder / "encoder.onnx", "views": "none"}
        ),
        "load_encoder": Call(siamese_utils.load_encoder, lambda: {"path": checkpoint, "device": "cpu"}),
        "save_encoder": Call(
            siamese_utils.save_encoder,
            lambda: {"encoder": encoder, "path": folder / "saved.safetensors", "info": {"seed": 0}},
        ),
        "load_image": Call(
            siamese_utils.load_image, lambda: {"path": folder / "support" / "class 0" / "0.png", "size": 8}
        ),
        **{
            name: Call(getattr(siamese_utils, name), lambda: dict(data), ("download", "cache"))
            for name in ("load_cifar10", "load_cifar100", "load_images")
        },
        "CosineClassifier": Call(siamese_utils.CosineClassifier, lambda: dict(weights)),
        "CosineClassifier.from_means": Call(siamese_utils.CosineClassifier.from_means, z_and_labels),
        "CosineClassifier.imprint": Call(_classifier().imprint, lambda: {"shots": z_and_labels()["z"][:2], "label": 9}),
        **{
            f"CosineClassifier.{name}": Call(getattr(_classifier(), name), lambda: {"z": z_and_labels()["z"]})
            for name in ("scores", "predict", "probabilities")
        },
        "CosineClassifier.within_budget": Call(
            _classifier().within_budget,
            lambda: {**z_and_labels(), "labels": torch.arange(24) % 3, "added": [2], "budget": 10.0},
        ),
        "CosineClassifier.fine_tune": Call(_classifier().imprint(z_and_labels()["z"][3:4], 3).fine_tune, _fine_tuning),
        # ---------------------------------------------------------------- data
        "named_rng": Call(sampling.named_rng, lambda: {"seed": 0, "name": "calls"}),
        "ClassIndex": Call(sampling.ClassIndex, lambda: {"labels": z_and_labels()["labels"]}),
        **{
            f"ClassIndex.{name}": Call(getattr(index, name), lambda: {"anchors": np.arange(5), "rng": _rng()})
            for name in ("relatives", "strangers")
        },
        **{
            name: Call(getattr(sampling, name), lambda: {"labels": z_and_labels()["labels"], "count": 5, "rng": _rng()})
            for name in ("sample_pairs", "sample_triplets")
        },
        "sample_episodes": Call(
            sampling.sample_episodes,
            lambda: {
                **{"labels": z_and_labels()["labels"], "ways": 2, "shots": 1, "queries": 2},
                **{"count": 3, "rng": _rng()},
            },
        ),
        "PKBatches": Call(
            sampling.PKBatches,
            lambda: {
                **{"labels": z_and_labels()["labels"], "classes_per_batch": 2, "images_per_class": 2, "seed": 0},
                **{"allow_fewer_classes": True, "passes": 2},
            },
        ),
        "PKBatches.epoch": Call(batches.epoch, lambda: {"epoch": 1}),
        "ClassSplit": Call(
            splits.ClassSplit, lambda: {"name": "2-2", "draw": 0, "seen": (0, 1), "unseen": (2, 3)}, ("name", "draw")
        ),
        "class_split": Call(splits.class_split, lambda: {"name": "3-1", "draw": 1, "num_classes": 4}),
        "fewshot_split_cifar_fs": Call(splits.fewshot_split_cifar_fs, lambda: {"class_names": names}),
        "hold_out_images": Call(
            splits.hold_out_images,
            lambda: {"labels": z_and_labels()["labels"], "classes": (0, 2), "per_class": 2, "seed": 0},
        ),
        "hold_out_classes": Call(splits.hold_out_classes, lambda: {"classes": (0, 1, 2), "count": 1, "seed": 0}),
        # ---------------------------------------------------------------- evaluation
        "checked": Call(embeddings.checked, z_and_labels),
        "checked_embeddings": Call(embeddings.checked_embeddings, lambda: {"z": z_and_labels()["z"]}),
        "checked_gram": Call(embeddings.checked_gram, lambda: {"gram": torch.eye(5), "count": 5}, ("count",)),
        "fit_verdict": Call(
            calibration.fit_verdict, lambda: {"same": torch.tensor([0.9, 0.4]), "different": torch.tensor([0.1, 0.5])}
        ),
        "few_shot_accuracy": _metric(
            episodes.few_shot_accuracy, ways=2, shots=1, queries=2, episodes=5, gram=torch.eye(24)
        ),
        "episode_accuracies": Call(
            episodes.episode_accuracies, lambda: {"z": z_and_labels()["z"], "episodes": _drawn(), "gram": torch.eye(24)}
        ),
        "all_way_accuracy": _metric(episodes.all_way_accuracy, supports=3, gram=torch.eye(24)),
        "all_way_confusion": _metric(episodes.all_way_confusion, supports=3),
        "all_way_recalls": _metric(episodes.all_way_recalls, supports=3),
        "few_shot_predictions": _metric(episodes.few_shot_predictions, ways=2, shots=2),
        "legacy_few_shot": _metric(episodes.legacy_few_shot, threshold=0.2, supports=3),
        "legacy_always_different": Call(episodes.legacy_always_different, lambda: {"num_classes": 4}),
        "estimate_over_images": Call(
            episodes.estimate_over_images,
            lambda: {"values": torch.linspace(0, 1, 5), "episodes": _drawn(), "labels": z_and_labels()["labels"]},
        ),
        "exact": Call(estimates.exact, lambda: {"value": 2.5}),
        "mean_estimate": Call(estimates.mean_estimate, lambda: {"shares": torch.tensor([0.5, 0.7])}),
        "share_estimate": Call(estimates.share_estimate, lambda: {"hits": torch.tensor([True, False])}),
        "wilson": Call(estimates.wilson, lambda: {"hits": 3, "trials": 5}),
        "difference_of_shares": Call(
            estimates.difference_of_shares,
            lambda: dict(zip(("hits", "trials", "other_hits", "other_trials"), (3, 5, 4, 9))),
        ),
        "bootstrap_estimate": Call(
            lambda score, same: estimates.bootstrap_estimate(lambda s, f: float(s[f].mean()), score, same), _scores
        ),
        "triplet_accuracy": _metric(pairs.triplet_accuracy, count=5),
        "pair_accuracy": _metric(pairs.pair_accuracy, count=5, threshold=0.1),
        "sample_similarities": _metric(pairs.sample_similarities, count=5),
        "threshold_for_balanced_accuracy": Call(
            lambda score, same: pairs.threshold_for_balanced_accuracy(score, same), _scores
        ),
        "auc": Call(lambda score, same: pairs.auc(score, same), _scores),
        "threshold_over_all_pairs": _metric(pairs.threshold_over_all_pairs),
        "pair_auc": _metric(pairs.pair_auc, max_pairs=50),
        "evaluate_split": Call(protocol.evaluate_split, lambda: {**_evaluation(), "metrics": ["acc_5w1s"], "seed": 0}),
        # ---------------------------------------------------------------- objectives
        "checked_batch": Call(losses.checked_batch, batch),
        "cosine_distance": Call(losses.cosine_distance, lambda: {"z": z_and_labels()["z"]}),
        "euclidean_distance": Call(losses.euclidean_distance, lambda: {"z": z_and_labels()["z"]}),
        "positive_pairs": Call(losses.positive_pairs, lambda: {"labels": z_and_labels()["labels"]}),
        "contrastive": Call(
            losses.contrastive,
            lambda: {
                **{"distance": losses.cosine_distance(z_and_labels()["z"]), "same": torch.eye(24) > 0},
                **{"different": torch.eye(24) == 0, "margin": 0.5},
            },
        ),
        **{miner.__name__: Call(miner, _distances) for miner in losses.MINERS.values()},
        "triplet_loss": Call(
            losses.triplet_loss,
            lambda: {"triplets": losses.mine_batch_all(**_distances()), "margin": 0.2, "temperature": 0.5},
        ),
        "TripletObjective": Call(
            losses.TripletObjective,
            lambda: {"distance": "cosine", "mining": "random", "margin": 0.2, "temperature": 0.5},
        ),
        "ProxyObjective": Call(
            losses.ProxyObjective, lambda: {"num_classes": 4, "embedding_dim": 6, "scale": 16.0, "smoothing": 0.1}
        ),
        "LinearObjective": Call(
            losses.LinearObjective, lambda: {"num_classes": 4, "embedding_dim": 6, "scale": 1.0, "smoothing": 0.1}
        ),
        "SupConObjective": Call(losses.SupConObjective, lambda: {"temperature": 0.1}),
        "ContrastiveObjective": Call(losses.ContrastiveObjective, lambda: {"distance": "euclidean", "margin": 0.5}),
        "PairObjective": Call(losses.PairObjective, lambda: {"embedding_dim": 6}),
        **{f"objective {name}": _objective(name) for name in losses.OBJECTIVES},
        "ProxyObjective.logits": Call(losses.ProxyObjective(4, 6).logits, lambda: {"embeddings": z_and_labels()["z"]}),
        "LinearObjective.logits": Call(
            losses.LinearObjective(4, 6).logits, lambda: {"embeddings": z_and_labels()["z"]}
        ),
        "PairObjective.all_logits": Call(
            losses.PairObjective(6).all_logits, lambda: {"embeddings": z_and_labels()["z"]}
        ),
        "PairObjective.probability": Call(
            losses.PairObjective(6).probability, lambda: {"z1": z_and_labels()["z"], "z2": z_and_labels()["z"]}
        ),
        "WeightedSum": Call(
            losses.WeightedSum, lambda: {"terms": (losses.Term("proxy"),), "num_classes": 4, "embedding_dim": 6}
        ),
        "WeightedSum.forward": Call(
            losses.WeightedSum((losses.Term("supcon"), losses.Term("triplet")), 4, 6),
            lambda: {**batch(), "progress": 0.5},
        ),
        "RotationObjective": Call(losses.RotationObjective, lambda: {"embedding_dim": 6, "weight": 0.5}),
        "RotationObjective.forward": Call(
            losses.RotationObjective(6), lambda: {"embeddings": z_and_labels()["z"], "turns": z_and_labels()["labels"]}
        ),
        "embedding_spread": Call(losses.embedding_spread, lambda: {"embeddings": z_and_labels()["z"]}),
    }


def public_names() -> set[str]:
    """Functions and classes that users call."""
    found = set(siamese_utils.__all__)
    for module in MODULES:
        own = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
        found |= {name for name in own if not name.startswith("_") and callable(getattr(module, name))}
    return found - RESULTS


# ---------------------------------------------------------------------------------- what may go wrong

ODD = st.sampled_from(
    [
        *(None, True, False, 0, -1, 1, 2, 7, 1.5, -0.5, math.nan, math.inf, -math.inf, 10**12, -(10**12), 10**30, 1j),
        *("fox", "", "a\nb", "caf\udce9", b"\xff", "\0", [], (), {}, set(), [None], ["fox"], [[]], [[1], [1, 2]]),
        *(
            [0, 1],
            [0.5, math.nan],
            {"a": 1},
            {"a": [1.0], "b": [2.0]},
            {0, 1},
            range(3),
            slice(3),
            object,
            len,
            Ellipsis,
        ),
        *(np.zeros(0), np.zeros(3), np.zeros((2, 3)), np.array(5), np.array(["a", "b"]), np.array([None, 1])),
        *(np.full(4, np.nan), np.int32(3), np.float64("nan"), np.datetime64("2020"), np.array([1 + 1j])),
        *(torch.zeros(0), torch.zeros(3), torch.zeros(2, 3), torch.zeros(2, 3, 4), torch.tensor(3), torch.tensor(0.5)),
        *(torch.zeros(4, dtype=torch.complex64), torch.zeros(24, 6), torch.zeros(24, dtype=torch.int64)),
        *(torch.ones(24, dtype=torch.bool), torch.full((24,), 2**62), torch.zeros(2, 32, 32, 3, dtype=torch.uint8)),
        *(pd.Series([1, 2]), pd.DataFrame({"a": ["x"]}), Path("nowhere"), Path("."), losses.Term("proxy")),
        *(torch.zeros(0, 6), torch.zeros(24, 0), torch.zeros(1, 6), torch.zeros(0, 32, 32, 3, dtype=torch.uint8)),
    ]
)
TWISTS: tuple[Callable[[torch.Tensor], Any], ...] = (
    *(lambda t: t[:-1], lambda t: t[:0], lambda t: t[:1], lambda t: t[None], lambda t: t[..., None], lambda t: t.T),
    *(
        lambda t: t * math.nan,
        lambda t: t * math.inf,
        lambda t: t + 1000,
        lambda t: -t,
        lambda t: t * 0,
        lambda t: t * 2,
    ),
    *(lambda t: t.float(), lambda t: t.double(), lambda t: t.half(), lambda t: t.int(), lambda t: t.bool()),
    *(lambda t: t.to(torch.complex64), lambda t: t.tolist(), lambda t: t.numpy(), lambda t: list(t)),
    *(lambda t: torch.cat([t, t]), lambda t: t.reshape(-1), lambda t: t.flip(0), lambda t: t.to(torch.uint8)),
    *(lambda t: t.numpy().astype(object), lambda t: t.numpy().astype(str), lambda t: t.clone().requires_grad_()),
    *(lambda t: t.to("meta"), lambda t: t.expand(3, *t.shape), lambda t: t.bfloat16()),
)


def twisted(draw: st.DrawFn, right: Any) -> Any:
    """A right argument gone wrong: another shape, type, size, or one part of it."""
    if isinstance(right, torch.Tensor):
        try:
            return draw(st.sampled_from(TWISTS))(right)
        except RuntimeError:  # not every twist fits every tensor
            return right[:-1]
    if isinstance(right, (tuple, list)) and right:
        at = draw(st.integers(0, len(right) - 1))
        return type(right)(odd(draw, part) if number == at else part for number, part in enumerate(right))
    if isinstance(right, Mapping) and right:
        at = draw(st.sampled_from(sorted(right)))
        return {key: odd(draw, part) if key == at else part for key, part in right.items()}
    if isinstance(right, sampling.Episodes):
        part = draw(st.sampled_from(["support", "query"]))
        return dataclasses.replace(right, **{part: odd(draw, getattr(right, part))})
    if isinstance(right, (int, float)) and not isinstance(right, bool):
        return draw(
            st.sampled_from([right + 1, -right, right + 0.5, str(right), [right], right * 1000, np.int64(right)])
        )
    return draw(ODD)


def odd(draw: st.DrawFn, right: Any) -> Any:
    return twisted(draw, right) if draw(st.booleans()) else draw(ODD)


def is_sound(answer: Any) -> bool:
    """No number in an answer is none."""
    if isinstance(answer, torch.Tensor):
        return not (answer.is_floating_point() and bool(answer.detach().isnan().any()))
    if isinstance(answer, np.ndarray):
        return not (answer.dtype.kind == "f" and bool(np.isnan(answer).any()))
    if isinstance(answer, float):
        return not math.isnan(answer)
    if isinstance(answer, pd.DataFrame):
        return not bool(answer.isna().any(axis=None))
    if isinstance(answer, torch.nn.Module):
        return all(is_sound(value) for value in answer.state_dict().values())
    if dataclasses.is_dataclass(answer):
        return all(is_sound(getattr(answer, field.name)) for field in dataclasses.fields(answer))
    if isinstance(answer, Mapping):
        return all(map(is_sound, answer.values()))
    return not isinstance(answer, (list, tuple)) or all(map(is_sound, answer))


def attempt(call: Call, given: Mapping[str, Any]) -> None:
    """The call must end in an error of the package or in a sound answer, soon."""
    with in_time():
        try:
            answer = call.ask(**given)
        except SiameseError as error:
            check_sentence(error)
        else:
            assert is_sound(answer), f"an answer with a number that is none: {answer!r:.300}"


def attack(name: str, call: Call, inputs: int, count: Callable[[], None] = lambda: None) -> None:
    """So many calls, each with one argument or two gone wrong; of what takes none, there is none."""
    if not set(call.right()) - set(call.fixed):
        return

    @settings(max_examples=inputs, suppress_health_check=list(HealthCheck), deadline=None, print_blob=False)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        count()
        right = call.right()
        changed = data.draw(st.sets(st.sampled_from(sorted(set(right) - set(call.fixed))), min_size=1, max_size=2))
        wrong = {key: odd(data.draw, right[key]) for key in sorted(changed)}
        attempt(call, {**right, **wrong})

    one()
