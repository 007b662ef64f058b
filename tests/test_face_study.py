"""The face study: who is learned, who is judged, what is stored, and that no test pair decides anything."""

from __future__ import annotations

import ast
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_auc_score, roc_curve
from torch.nn import functional as F

import siamese_utils
from siamese_utils import cli
from siamese_utils.data.faces import PHOTO, FaceSet, shared_people, split_by_person, squares, synthetic_faces
from siamese_utils.data.sampling import Pairs
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import (
    CheckpointError,
    DataError,
    ResultsError,
    SamplingError,
    ShapeError,
    SplitError,
    UnknownNameError,
)
from siamese_utils.evaluation import estimates
from siamese_utils.evaluation.estimates import Estimate, bootstrap_estimate
from siamese_utils.evaluation.pairs import pair_auc
from siamese_utils.experiments import plotting
from siamese_utils.experiments import store as results
from siamese_utils.report import page
from siamese_utils.studies import validation as studies
from siamese_utils.studies.audit import Data, audit
from siamese_utils.studies.faces import figures as face_figures
from siamese_utils.studies.faces import study, verification
from siamese_utils.studies.faces import trials as face_trials
from siamese_utils.studies.faces.study import FaceConfig, FaceRun, answers_on_test, run_faces
from siamese_utils.studies.faces.trials import GridRun
from siamese_utils.studies.faces.verification import (
    TestAnswers,
    accuracy_at_own_threshold,
    accuracy_estimate,
    auc,
    cosine_score,
    embed_faces,
    equal_error_rate,
    judge_embeddings,
    verify_photos,
)

ROOT = Path(siamese_utils.__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def people() -> FaceSet:
    return synthetic_faces(40, 80)


@pytest.fixture(scope="module")
def strangers() -> FaceSet:
    return synthetic_faces(20, 40, part="test")


@pytest.fixture
def small(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose networks are trained within a second."""
    tiny = dataclasses.replace(
        study.EMBEDDING.train, encoder="conv3", embedding_dim=8, batch_size=16, least_images=64, most_images=64,
        resolutions=(),
    )  # fmt: skip
    monkeypatch.setattr(study, "EMBEDDING", dataclasses.replace(study.EMBEDDING, train=tiny, size=16))
    koch = dataclasses.replace(study.KOCH, side=65, channels=(2, 3, 4, 5), features=6, epochs=2)
    monkeypatch.setattr(study, "KOCH", koch)
    monkeypatch.setattr(face_trials, "TRIAL_IMAGES", 64)
    monkeypatch.setattr(face_trials, "GRID_EPOCHS", 1)
    monkeypatch.setattr(estimates, "RESAMPLES", 20)
    return project


def quick(run: FaceRun, people: FaceSet, strangers: FaceSet) -> dict[str, Estimate]:
    return run_faces(run, people, test=strangers, device="cpu", progress=False)


# --- who is judged --------------------------------------------------------------------------------


def test_the_test_pairs_are_read_in_one_place() -> None:
    """Only the evaluation of a finished network may read them."""
    places = []
    for path in sorted(Path(siamese_utils.__file__).parent.rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
                used |= {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
                if "load_test_faces" in used:
                    places.append((f"{path.parent.name}/{path.stem}", function.name))
    assert places == [("faces/study", "answers_on_test")]


def test_people_who_were_learned_are_not_tested_on(people: FaceSet) -> None:
    training, validation = split_by_person(people)
    with pytest.raises(SplitError, match="both learned and tested on"):
        answers_on_test(lambda faces: torch.zeros(len(faces.pairs.same)), (training, validation), validation)


@pytest.mark.parametrize("system", ["embedding", "koch"])
def test_nothing_is_chosen_on_test_pairs(small: Path, people: FaceSet, strangers: FaceSet, system: str) -> None:
    """With all answers of the test turned round, every choice stays and accuracy is mirrored: a leak would show."""
    first = quick(FaceRun(system, 1), people, strangers)
    record = results.load_json(f"faces-{system}-seed1")
    pairs = dataclasses.replace(strangers.pairs, same=~strangers.pairs.same)
    turned = quick(FaceRun(system, 1), people, dataclasses.replace(strangers, pairs=pairs))
    again = results.load_json(f"faces-{system}-seed1")
    assert again["verdict"] == record["verdict"]
    assert turned["acc_test"].value == pytest.approx(100 - first["acc_test"].value)
    assert turned["auc_test"].value == pytest.approx(100 - first["auc_test"].value)
    for name in first:
        if name.startswith(("acc_validation", "auc_validation", "loss_train", "loss_validation")):
            assert turned[name] == first[name], name


def test_trials_and_grid_never_open_the_test_set(small: Path, people: FaceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "load_test_faces", None)
    monkeypatch.setattr(face_trials, "load_training_faces", None)
    plain = dataclasses.replace(face_trials.TRIALS[0], name="plain")
    monkeypatch.setattr(face_trials, "TRIALS", (plain,))
    monkeypatch.setattr(face_trials, "GRID", (GridRun("epochs", 2), GridRun("batch_size", 8)))
    monkeypatch.setattr(face_trials, "READ_EPOCHS", (1, 2))
    for run in (face_trials.run_trials, face_trials.run_grid):
        done = list(run(people, device="cpu", progress=False))
        assert all(metrics for _, metrics in done)
        assert not any(metrics for _, metrics in run(device="cpu", progress=False))  # stored: nothing is loaded
        with pytest.raises(UnknownNameError):
            list(run(people, only=["plane"]))
    log = face_trials.trial_log()
    assert log.trial.tolist() == ["plain"] and "±" in log["AUC"][0]
    table = face_trials.sensitivity_table()
    assert table.parameter.tolist() == ["epochs", "epochs", "batch_size", "batch_size"]
    assert table.value.tolist() == [1, 2, 8, 32] and table.epochs.tolist() == [1, 2, 1, 1]
    assert table.accuracy[0] == table.accuracy[3]  # one run, read after its first epoch
    history = studies.read_record("face_grid", "batch_size=8")["history"]
    assert table.accuracy[2] == history[-1]["validation_accuracy"]


# --- judging --------------------------------------------------------------------------------------


def delong(score: np.ndarray, same: np.ndarray) -> tuple[float, float]:
    """AUC and its standard error (DeLong, DeLong and Clarke-Pearson, 1988), in percent."""
    wins = (score[same][:, None] > score[~same]) + 0.5 * (score[same][:, None] == score[~same])
    error = wins.mean(1).var(ddof=1) / wins.shape[0] + wins.mean(0).var(ddof=1) / wins.shape[1]
    return 100 * wins.mean(), 100 * error**0.5


def test_auc_and_its_interval_agree_with_delong() -> None:
    rng = np.random.default_rng(0)
    same = np.arange(600) < 250
    score = np.round(rng.normal(same * 1.0, 1), 2)  # with ties
    estimate = bootstrap_estimate(auc, torch.from_numpy(score), torch.from_numpy(same))
    value, error = delong(score, same)
    assert estimate.value == pytest.approx(value) and estimate.ci95 == pytest.approx(1.96 * error, rel=0.08)
    assert estimate.n == 600
    with pytest.raises(SamplingError):
        bootstrap_estimate(auc, torch.ones(4), torch.ones(4, dtype=torch.bool))


@given(seed=st.integers(0, 10_000), apart=st.floats(0, 3), count=st.integers(5, 60))
def test_equal_error_rate_is_where_both_errors_meet(seed: int, apart: float, count: int) -> None:
    rng = np.random.default_rng(seed)
    same = np.arange(2 * count) < count
    score = rng.normal(apart * same, 1)
    error = equal_error_rate(score, same) / 100
    thresholds = np.sort(np.append(score, [-99, 99]))
    rejected = np.array([(score[same] <= t).mean() for t in thresholds])
    accepted = np.array([(score[~same] > t).mean() for t in thresholds])
    gap = rejected - accepted  # rises
    cut = int(np.searchsorted(gap, 0))
    around = np.concatenate([rejected[max(0, cut - 1) : cut + 1], accepted[max(0, cut - 1) : cut + 1]])
    assert around.min() - 1e-9 <= error <= around.max() + 1e-9
    assert equal_error_rate(np.exp(score), same) == pytest.approx(100 * error)
    assert equal_error_rate(-score, same) == pytest.approx(100 - 100 * error, abs=1e-6)


@given(seed=st.integers(0, 10_000), digits=st.integers(0, 3))
def test_curves_agree_with_sklearn(seed: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    same = rng.permutation(np.arange(40) < 15)
    score = np.round(rng.normal(same, 1), digits)  # with ties
    wrong, right, _ = roc_curve(same, score, drop_intermediate=False)
    assert auc(score, same) == pytest.approx(100 * roc_auc_score(same, score))
    assert equal_error_rate(score, same) == pytest.approx(100 * np.interp(0, wrong - (1 - right), wrong))


def test_equal_error_rate_of_known_cases() -> None:
    same = np.array([True, True, False, False])
    assert equal_error_rate(np.array([4.0, 3, 2, 1]), same) == 0
    assert equal_error_rate(np.array([4.0, 2, 3, 1]), same) == 50
    assert equal_error_rate(np.array([1.0, 2, 3, 4]), same) == 100


def test_accuracy_at_own_threshold_is_honest() -> None:
    """On scores that say nothing the best threshold on the pairs themselves would be above one half."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(20):
        score = torch.from_numpy(rng.normal(size=60).astype(np.float32))
        values.append(accuracy_at_own_threshold(score, torch.arange(60) % 2 == 0).value)
    assert np.mean(values) < 53
    same = torch.arange(60) < 30
    assert accuracy_at_own_threshold(same.float() + torch.linspace(0, 0.1, 60), same).value == 100
    with pytest.raises(SamplingError):
        accuracy_at_own_threshold(torch.zeros(8), torch.arange(8) < 4)


def test_accuracy_estimate_is_wilsons() -> None:
    from scipy.stats import binomtest

    estimate = accuracy_estimate(torch.arange(1000) < 820)
    interval = binomtest(820, 1000).proportion_ci(method="wilson")
    assert estimate.value == 82 and estimate.ci95 == pytest.approx(50 * (interval.high - interval.low), abs=1e-2)


def test_test_answers() -> None:
    answers = TestAnswers(torch.tensor([0.9, 0.2, 0.6, -0.5]), torch.tensor([True, True, False, False]))
    verdict = verification.Verdict(0.1, 2.0, -1.0)
    metrics = answers.metrics(verdict)
    assert metrics["acc_test"].value == 75 and metrics["acc_test_half"].value == 50 and metrics["auc_test"].value == 75
    torch.testing.assert_close(answers.probability(verdict), torch.sigmoid(torch.tensor([0.8, -0.6, 0.2, -2.0])))


class Pixels:
    """Stands in for an encoder: the embedding of an image is its pixels."""

    image_size = 16

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        z = images.float().flatten(1)
        return F.normalize(z - z.mean(dim=1, keepdim=True), dim=1)


def test_crops_are_averaged(people: FaceSet) -> None:
    alone = [embed_faces(Pixels(), people.images[:5], (crop,)) for crop in (128, 96)]  # type: ignore[arg-type]
    both = embed_faces(Pixels(), people.images[:5], (128, 96))  # type: ignore[arg-type]
    torch.testing.assert_close(both, F.normalize(alone[0] + alone[1], dim=1))
    torch.testing.assert_close(alone[0], Pixels().embed(squares(people.images[:5], 128, 16)))


def test_validation_is_judged_on_its_own_pairs(people: FaceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 20)
    _, validation = split_by_person(people)
    metrics, verdict = judge_embeddings(Pixels(), (128,), validation)  # type: ignore[arg-type]
    z = Pixels().embed(squares(validation.images, 128, 16))
    score = cosine_score(Pixels(), (128,))(validation)  # type: ignore[arg-type]
    torch.testing.assert_close(score, (z[validation.pairs.first] * z[validation.pairs.second]).sum(1))
    assert metrics["auc_validation"].value == pytest.approx(auc(score.numpy(), validation.pairs.same.numpy()))
    assert metrics["auc_validation_all"] == pair_auc(z, validation.person)
    pairs = [(i, j) for i in range(len(z)) for j in range(i)]
    same = np.array([bool(validation.person[i] == validation.person[j]) for i, j in pairs])
    cosine = np.array([float(z[i] @ z[j]) for i, j in pairs])
    balanced = [((cosine > t)[same].mean() + (cosine <= t)[~same].mean()) / 2 for t in (verdict.threshold, *cosine)]
    assert balanced[0] == pytest.approx(max(balanced), abs=1e-6)


# --- configurations -------------------------------------------------------------------------------


def test_only_clear_differences_are_called_so() -> None:
    usual = {"learning_rate": 5e-5, "epochs": 10, "framing": "photo"}
    rows = [("learning_rate", 5e-6, 52.0), ("learning_rate", 5e-5, 67.0), ("learning_rate", 1e-3, 62.0),
            ("epochs", 1, 64.0), ("epochs", 10, 66.0), ("framing", "photo", 66.0)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["parameter", "value", "accuracy"]).assign(ci95=4.4)
    assert {name: getattr(study.KOCH, name) for name in usual} == usual
    rate, epochs = face_trials.sensitivity_sentences(table).splitlines()  # a single framing: nothing to compare
    assert "from 52.0% (at 5e-06) to 67.0% (at 5e-05)" in rate and "Clearly different from it: 5e-06." in rate
    assert "gives 66.0 ± 4.4%" in epochs and "None is clearly different" in epochs
    wide = face_trials.sensitivity_sentences(table.assign(ci95=20.0))
    assert "Clearly" not in wide


def test_trials_change_one_thing_at_a_time() -> None:
    trials = {trial.name: trial for trial in face_trials.TRIALS}
    assert len(trials) == len(face_trials.TRIALS) and face_trials.TRIALS[0].name == "base"
    for name, trial in trials.items():
        assert trial.expectation.endswith(".")
        assert trial.config.train.augment.flip  # so that test pairs are mirrored
        start = trials[{"supcon": "supcon", "pairs": "supcon-no-singles"}.get(name.partition("-")[0], "base")].config
        start = trials["base"].config if name == "supcon" else start
        own, base = ({**config.to_json(), **config.to_json()["train"]} for config in (trial.config, start))
        # How many images are shown, and which crops are judged, follow from the change.
        beside = {"recipe", "train", "least_images", "most_images", "judged_crops"}
        changed = {field for field in own if own[field] != base[field]} - beside
        assert len(changed) == (name != "base"), (name, changed)


def test_runs_and_grid_are_the_issues() -> None:
    assert [run.seed for run in study.RUNS if run.system == "koch"] == list(study.SEEDS) == [0, 1, 2, 3, 4]
    assert len({run.name for run in study.RUNS}) == len(study.RUNS) == 11
    assert FaceRun("koch", 3).config["seed"] == 3 and FaceRun("embedding", 3).embedding.train.seed == 3
    names = ("learning_rate", "batch_size")
    values = {name: {run.value for run in face_trials.GRID if run.parameter == name} for name in names}
    assert values["learning_rate"] | {study.KOCH.learning_rate} == {5e-6, 1e-5, 3e-5, 5e-5, 7e-5, 1e-4, 1e-3}
    assert values["batch_size"] | {study.KOCH.batch_size} == {8, 16, 32, 48, 64}
    assert face_trials.READ_EPOCHS == (1, 2, 3, 5, 10, 15, 20, 30)
    assert face_trials.GRID_EPOCHS in face_trials.READ_EPOCHS
    assert face_trials.GRID[0].config.epochs == 30
    assert all(run.config.patience == 0 for run in face_trials.GRID)


# --- storing --------------------------------------------------------------------------------------


def test_study_is_stored_and_reproduced(small: Path, people: FaceSet, strangers: FaceSet) -> None:
    run = FaceRun("embedding")
    metrics = quick(run, people, strangers)
    assert set(metrics) <= set(study.METRICS)
    path = verification.checkpoint_path()
    encoder, info = load_encoder(path), checkpoint_info(path)
    assert encoder.mirror and encoder.image_size == 16 and info["crops"] == list(study.EMBEDDING.judged_crops)
    assert path.stat().st_size < 8e6 and set(info["calibration"]) == {"slope", "intercept"}
    training, validation = split_by_person(people)
    _, verdict = judge_embeddings(encoder, info["crops"], validation)
    assert verdict.threshold == pytest.approx(info["threshold"], abs=0.02)
    answers = answers_on_test(cosine_score(encoder, info["crops"]), (training, validation), strangers)
    stored = study.stored_faces().set_index("metric")
    assert set(stored.checkpoint) == {"results/checkpoints/faces.safetensors"}
    assert stored.value["auc_test"] == pytest.approx(auc(answers.score.numpy(), strangers.pairs.same.numpy()), abs=1e-3)
    pairs = study.stored_pairs()
    assert pairs.pair.tolist() == list(range(40)) and pairs.same.tolist() == strangers.pairs.same.int().tolist()
    kept = verification.Verdict(info["threshold"], **info["calibration"])
    np.testing.assert_allclose(pairs.probability, answers.probability(kept), rtol=1e-3)
    assert study.is_stored(run) and not (small / "runs" / run.name).exists()
    assert not study.is_stored(FaceRun("embedding", 1))
    record = results.load_json(run.name)
    assert record["alignment"] == "synthetic" and record["faces"]["training people"] == len(training.people)
    assert FaceConfig.from_json(record["config"]) == study.EMBEDDING


def test_stored_numbers_are_computed_anew_from_the_checkpoint(
    small: Path, people: FaceSet, strangers: FaceSet
) -> None:
    metrics = quick(FaceRun("embedding"), people, strangers)
    again = study.reevaluate_faces(verification.checkpoint_path(), people, strangers)
    assert set(again) == set(metrics) - set(study.OF_THE_TRAINING)
    for name, estimate in again.items():
        assert estimate.value == pytest.approx(metrics[name].value, abs=1e-3), name
    everything = Data(None, None, faces=people, test_faces=strangers)  # type: ignore[arg-type]
    found = audit(everything, ["faces"], progress=False)
    assert set(found.metric) == set(again) and set(found.verdict) == {"holds"}
    table = study.table_path()
    table.write_text(table.read_text().replace("acc_test,", "acc_test,9", 1))
    assert (audit(everything, ["faces"], progress=False).verdict != "holds").sum() == 1


def test_ensemble_is_the_mean_of_log_odds() -> None:
    log_odds = {0: [2.0, -3.0, 0.4, -0.2], 1: [1.0, 1.0, -1.0, 0.0]}
    rows = [
        ("koch", seed, pair, int(pair in (0, 2)), 1 / (1 + np.exp(-value)))
        for seed, values in log_odds.items() for pair, value in enumerate(values)
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(study.PAIR_COLUMNS))
    # Means: 1.5 (same), -1 (different), -0.3 (same), -0.1 (different): one of four is wrong.
    found = study.ensemble("koch", table.sample(frac=1, random_state=0))
    assert found["acc_test_half"].value == 75 and found["acc_test_half"].n == 4
    assert found["auc_test"].value == pytest.approx(75)
    for incomplete in (table[:-1], table[:0]):
        with pytest.raises(ResultsError, match="koch"):
            study.ensemble("koch", incomplete)


def test_koch_run_stores_the_documents_numbers(small: Path, people: FaceSet, strangers: FaceSet) -> None:
    metrics = quick(FaceRun("koch"), people, strangers)
    record = results.load_json("faces-koch-seed0")
    assert record["parameters"]["total"] > record["parameters"]["trainable"] and len(record["history"]) == 2
    assert metrics["loss_validation"].value == record["history"][-1]["validation_loss"]
    assert metrics["acc_validation_half"].value == pytest.approx(record["history"][-1]["validation_accuracy"])
    pairs = study.stored_pairs()
    probability, same = pairs.probability.to_numpy(), pairs.same.to_numpy() == 1
    cross_entropy = -np.log(np.where(same, probability, 1 - probability)).mean()
    assert metrics["loss_test"].value == pytest.approx(cross_entropy + record["penalty"], rel=1e-3)
    assert metrics["acc_test_half"].value == pytest.approx(100 * ((probability > 0.5) == same).mean())


def test_rows_of_other_runs_stay(small: Path, people: FaceSet, strangers: FaceSet) -> None:
    for run in (FaceRun("embedding"), FaceRun("embedding", 1), FaceRun("embedding")):
        quick(run, people, strangers)
    assert len(study.stored_pairs()) == 80
    spread = study.over_seeds().set_index(["system", "metric"])
    rows = study.stored_faces().query("metric == 'acc_test'").value
    one = spread.loc[("embedding", "acc_test")]
    assert one.seeds == 2 and one["mean"] == pytest.approx(rows.mean()) and one.sd == pytest.approx(rows.std(ddof=1))


def test_pretrained_row_learns_no_face(
    small: Path, people: FaceSet, strangers: FaceSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    untrained = Encoder("conv3", 8, image_size=16)
    monkeypatch.setattr(study, "pretrained_encoder", lambda training: untrained)
    metrics = quick(FaceRun("pretrained"), people, strangers)
    assert metrics["seconds"].value == 0 and "loss_train" not in metrics
    assert "ImageNet" in results.load_json("faces-pretrained-seed0")["note"]
    assert not verification.checkpoint_path().exists()


def test_run_all_goes_on_where_it_was(
    small: Path, people: FaceSet, strangers: FaceSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "load_training_faces", lambda: people)
    monkeypatch.setattr(study, "load_test_faces", lambda: strangers)
    monkeypatch.setattr(study, "RUNS", (FaceRun("embedding", 1), FaceRun("embedding", 2), FaceRun("koch", 1)))
    done = [(run.name, bool(m)) for run, m in study.run_all(only=["embedding"], device="cpu", progress=False)]
    assert done == [("faces-embedding-seed1", True), ("faces-embedding-seed2", True)]
    monkeypatch.setattr(study, "load_training_faces", None)  # nothing is loaded when all is stored
    only = ["faces-embedding-seed2", "faces-embedding-seed1"]
    assert [bool(metrics) for _, metrics in study.run_all(only=only)] == [False, False]
    with pytest.raises(UnknownNameError, match="known are: koch"):
        list(study.run_all(only=["kuch"]))
    with pytest.raises(UnknownNameError):
        run_faces(FaceRun("kuch"), people)


def test_the_table_of_seeds_gives_the_mean_and_both_ends() -> None:
    rows = [("koch", 0, "acc_test", 70.0), ("koch", 1, "acc_test", 73.26), ("embedding", 0, "acc_test", 86.0),
            ("koch", 0, "seconds", 99.7), ("koch", 1, "seconds", 102.0), ("koch", 0, "loss_test", 1.234)]  # fmt: skip
    stored = pd.DataFrame(rows, columns=["system", "seed", "metric", "value"])
    table = study.seeds_table(["acc_test", "seconds", "loss_test"], ["embedding", "koch"], stored)
    assert table.columns.tolist() == ["measure", study.NAMES["embedding"], study.NAMES["koch"]]
    assert table.iloc[:, 0].tolist() == [study.METRICS[name] for name in ("acc_test", "seconds", "loss_test")]
    assert table.iloc[:, 1].tolist() == ["86.0", "–", "–"]
    assert table.iloc[:, 2].tolist() == ["71.6, 70.0 to 73.3", "101, 100 to 102", "1.23"]
    for metrics, systems in ((["acc"], ["koch"]), (["acc_test"], ["kuch"])):
        with pytest.raises(UnknownNameError):
            study.seeds_table(metrics, systems, stored)


def test_missing_results_say_so(project: Path) -> None:
    trials = (face_trials.trial_log, face_trials.sensitivity_table)
    for read in (study.stored_faces, study.stored_pairs, study.over_seeds, *trials):
        with pytest.raises(ResultsError):
            read()


# --- verifying one's own photographs --------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path, people: FaceSet) -> list[Path]:
    """Two photographs of one person and one of another, as LFW frames them."""
    order = [int(people.pairs.first[0]), int(people.pairs.second[0]), int(people.pairs.second[-1])]
    paths = []
    for number, photo in enumerate(order):
        whole = np.full((PHOTO, PHOTO, 3), 90, np.uint8)
        whole[55:205, 60:190] = people.images[photo].numpy()
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(whole).save(paths[-1])
    return paths


@pytest.fixture
def verifier(project: Path) -> Path:
    torch.manual_seed(0)
    info = {"threshold": 0.4, "calibration": {"slope": 3.0, "intercept": -1.0}, "crops": [128, 112]}
    save_encoder(Encoder("conv3", 8, image_size=16), verification.checkpoint_path(), info)
    return verification.checkpoint_path()


def test_verifying_photographs_is_comparing_pairs(verifier: Path, photos: list[Path], people: FaceSet) -> None:
    answer = verify_photos(photos[0], photos[1])
    first = Pairs(people.pairs.first[:1], people.pairs.second[:1], people.pairs.same[:1])
    pair = dataclasses.replace(people, pairs=first)
    expected = cosine_score(load_encoder(verifier), (128, 112))(pair)
    assert answer.similarity == pytest.approx(float(expected[0]), abs=1e-5)
    assert answer.same == (answer.similarity > 0.4)
    assert answer.probability == pytest.approx(1 / (1 + np.exp(-(3 * answer.similarity - 1))))
    assert verify_photos(photos[1], photos[0]).similarity == pytest.approx(answer.similarity, abs=1e-6)
    assert verify_photos(photos[0], photos[0]).similarity == pytest.approx(1, abs=1e-5)


def test_any_size_and_format_is_taken(verifier: Path, photos: list[Path], tmp_path: Path) -> None:
    with Image.open(photos[0]) as image:
        large = Image.new("RGB", (900, 500))
        large.paste(image.resize((500, 500), Image.Resampling.LANCZOS), (200, 0))
        large.save(tmp_path / "large.jpg", quality=95)
    assert verify_photos(photos[0], tmp_path / "large.jpg").similarity > 0.95


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["siamese_utils", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out = capsys.readouterr()
        return int(stop.value.code or 0), out.out, out.err

    return call


def test_verify_on_the_command_line(command: Run, verifier: Path, photos: list[Path]) -> None:
    for first, second in ((0, 1), (0, 2)):
        answer = verify_photos(photos[first], photos[second])
        code, out, err = command("verify", photos[first], photos[second])
        word = "same" if answer.same else "different"
        assert (code, err) == (0, "") and out.startswith(f"{word} (probability of the same person")
        assert f"{answer.probability:.2f}" in out and out.count("\n") == 1


@pytest.mark.parametrize("fault", ["missing photo", "broken photo", "no checkpoint", "other checkpoint"])
def test_verify_says_what_is_wrong(
    command: Run, verifier: Path, photos: list[Path], tmp_path: Path, fault: str
) -> None:
    second = photos[1]
    if fault == "missing photo":
        second = tmp_path / "nobody.jpg"
    elif fault == "broken photo":
        second.write_bytes(b"not an image")
    elif fault == "no checkpoint":
        verifier.unlink()
    else:
        save_encoder(Encoder("conv3", 8), verifier)
    code, out, err = command("verify", photos[0], second)
    assert (code, out) == (1, "") and err.startswith("Error: ") and err.count("\n") == 1 and err.endswith(".\n")
    expected = {"missing photo": DataError, "broken photo": DataError}.get(fault, CheckpointError)
    with pytest.raises(expected):
        verify_photos(photos[0], second)


def test_faces_on_the_command_line(command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def pretend(name: str) -> Callable[..., list[tuple[FaceRun, dict[str, Estimate]]]]:
        def run(**how: object) -> list[tuple[FaceRun, dict[str, Estimate]]]:
            asked.update(how, which=name)
            return [(FaceRun("koch"), {"acc_test": Estimate(73.25, 2.7, 1000)}), (FaceRun("koch", 1), {})]

        return run

    for module, name in ((study, "run_all"), (face_trials, "run_trials"), (face_trials, "run_grid")):
        monkeypatch.setattr(module, name, pretend(name))
    for words, which in ((["--only", "koch"], "run_all"), (["--trials"], "run_trials"), (["--grid"], "run_grid")):
        code, out, _ = command("faces", *words)
        assert code == 0 and "73.25 ± 2.70" in out and "faces-koch-seed1: stored" in out
        assert asked == {"only": ["koch"] if words[0] == "--only" else (), "device": "auto", "which": which}
    assert command("faces", "--trials", "--grid")[0] == 1


# --- made-up faces and figures --------------------------------------------------------------------


def test_demo_learns_made_up_people(people: FaceSet, strangers: FaceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 20)
    _, answers, verdict = study.demo_answers(people, strangers)
    assert answers.metrics(verdict)["auc_test"].value > 65 and verdict.slope > 0
    with pytest.raises(ShapeError):
        study.demo_answers(dataclasses.replace(people, alignment="funneled"), strangers)
    assert study.people_as_classes(strangers).num_classes == 20


def test_figures_say_what_they_show(people: FaceSet, strangers: FaceSet) -> None:
    plotting.set_style()
    rng = np.random.default_rng(0)
    same = strangers.pairs.same.numpy()
    probability = np.clip(rng.normal(0.35 + 0.3 * same, 0.2), 0.01, 0.99)
    rows = [(system, seed, pair, int(same[pair]), probability[pair])
            for system in ("koch", "embedding") for seed in (0, 1) for pair in range(len(same))]  # fmt: skip
    pairs = pd.DataFrame(rows, columns=list(study.PAIR_COLUMNS))
    history = pd.DataFrame({"epoch": [1, 2], "loss": [5.0, 4], "validation_loss": [5.0, 4.5], "accuracy": [50.0, 60],
                            "validation_accuracy": [50.0, 55]})  # fmt: skip
    grid = [("epochs", 1, 60.0), ("epochs", 2, 65.0), ("learning_rate", 1e-5, 60.0), ("learning_rate", 5e-5, 65.0),
            ("batch_size", 8, 60.0), ("batch_size", 32, 65.0)]  # fmt: skip
    table = pd.DataFrame([(p, v, 5, a, 4.0, 1.0) for p, v, a in grid],
                         columns=["parameter", "value", "epochs", "accuracy", "ci95", "loss"])  # fmt: skip
    found = [("koch", 0, "acc_test", 73.0, 2.7, 1000, ""), ("embedding", 0, "acc_test", 84.0, 2.3, 1000, "")]
    scores = pd.DataFrame(found, columns=list(study.FACE_COLUMNS))
    drawn = {
        "pairs": (face_figures.pairs_figure(people), "two people each"),
        "photos": (face_figures.photos_figure({"training": people, "test": strangers}), "of the people in test"),
        "curves": (face_figures.curves_figure({0: history, 1: history}), "loss is 4.00 in training and 4.50"),
        "grid": (face_figures.sensitivity_figure(table), "epochs from 1 to 2: 60.0 to 65.0 percent"),
        "roc": (face_figures.roc_figure(pairs), f"network {equal_error_rate(probability, same):.1f} percent"),
        "accuracy": (face_figures.accuracy_figure(scores), "84.0 percent over 1 seed."),
        "extremes": (face_figures.extremes_figure(strangers, probability), "different, wrong, probability"),
        "calibration": (face_figures.calibration_figure(pairs), "percentage points"),
    }
    for name, ((figure, alt), words) in drawn.items():
        assert words in alt and len(alt.split()) > 10 and "nan" not in alt, (name, alt)
        figure.savefig(io.BytesIO(), dpi=20)  # draws everything; plotting's own tests save
        plt.close(figure)
    with pytest.raises(SamplingError):
        face_figures.curves_figure({})
    with pytest.raises(SamplingError):
        face_figures.calibration_figure(pairs, "pretrained")


def test_extreme_pairs() -> None:
    same = torch.tensor([True, True, True, False, False, False])
    chosen = face_figures.extreme_pairs([0.9, 0.4, 0.1, 0.8, 0.2, 0.05], same)
    assert chosen == {"same, right": 0, "same, wrong": 2, "different, right": 5, "different, wrong": 3}
    with pytest.raises(SamplingError):
        face_figures.extreme_pairs([0.5], same[:1])


# --- the stored networks --------------------------------------------------------------------------


def test_stored_numbers_agree_with_stored_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if not study.table_path().is_file():
        pytest.skip("no stored run")
    table, pairs = study.stored_faces(), study.stored_pairs()
    for (system, seed), run in pairs.groupby(["system", "seed"]):
        assert len(run) == 1000 and int(run.same.sum()) == 500
        rows = table[(table.system == system) & (table.seed == seed)].set_index("metric").value
        score, same = run.probability.to_numpy(), run.same.to_numpy() == 1
        assert rows["auc_test"] == pytest.approx(auc(score, same), abs=0.05)  # four digits of a probability
        assert rows["eer_test"] == pytest.approx(equal_error_rate(score, same), abs=0.15)


# --- the notebook ---------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["smoke", "report"])
def test_notebook_starts_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
    shown: list[object] = []
    monkeypatch.setattr(page, "display", shown.append)
    monkeypatch.setenv("SIAMESE_PROFILE", profile)
    monkeypatch.setenv("SIAMESE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("SIAMESE_OFFLINE", "1")
    monkeypatch.setattr("siamese_utils.data.sources.search_folders", lambda root=None: [(tmp_path, "./data")])
    started, faces, lists = page.start_faces()
    assert started.is_synthetic and faces.is_synthetic and set(lists) == {"train", "test"}
    assert not shared_people(lists["train"], lists["test"])
    assert 'data-siamese-source="synthetic"' in shown[0].data  # type: ignore[attr-defined]
