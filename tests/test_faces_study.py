"""The face study: who is learned, who is judged, what is stored, and that no test pair decides anything."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_faces import bench, carried_out, face_run, finished, people, strangers, tiny

import siamese_utils
from siamese_utils.data.faces import split_by_person
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import SplitError
from siamese_utils.evaluation import estimates
from siamese_utils.experiments.audit import audit
from siamese_utils.experiments.study import Outcome, Run, keep, precision_of, stored
from siamese_utils.studies.faces import findings, study, verification
from siamese_utils.studies.faces.koch import KochConfig
from siamese_utils.studies.faces.study import FACES, METRICS, SEEDS, answers_on_test
from siamese_utils.studies.faces.systems import EMBEDDING, KOCH
from siamese_utils.studies.faces.trials import FACE_GRID, FACE_TRIALS, GRID_EPOCHS, READ_EPOCHS
from siamese_utils.studies.faces.verification import auc, cosine_score, judge_embeddings

pytestmark = pytest.mark.usefixtures("one_thread")
TRIALS = {str(run.key["trial"]): run for run in FACE_TRIALS.runs()}


# --- who is judged --------------------------------------------------------------------------------


def test_the_test_pairs_are_read_in_one_place() -> None:
    """Only the evaluation of a finished network may read them."""
    places = []
    for path in sorted(Path(siamese_utils.__file__).parent.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "load_test_faces" not in text:
            continue
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef):
                used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
                used |= {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
                if "load_test_faces" in used:
                    places.append((f"{path.parent.name}/{path.stem}", function.name))
    assert places == [("faces/study", "answers_on_test")]


def test_people_who_were_learned_are_not_tested_on() -> None:
    training, validation = split_by_person(people())
    with pytest.raises(SplitError, match="both learned and tested on"):
        answers_on_test(lambda faces: torch.zeros(len(faces.pairs.same)), (training, validation), bench(validation))


@pytest.mark.parametrize("system", ["embedding", "koch"])
def test_nothing_is_chosen_on_test_pairs(system: str) -> None:
    """With all answers of the test turned round, every choice stays and accuracy is mirrored: a leak would show."""
    first = finished(system)
    pairs = dataclasses.replace(strangers().pairs, same=~strangers().pairs.same)
    turned = carried_out(face_run(system), dataclasses.replace(strangers(), pairs=pairs))
    assert turned.record["verdict"] == first.record["verdict"]
    assert turned.metrics["acc_test"].value == pytest.approx(100 - first.metrics["acc_test"].value)
    assert turned.metrics["auc_test"].value == pytest.approx(100 - first.metrics["auc_test"].value)
    for name in first.metrics:
        if name.startswith(("acc_validation", "auc_validation", "loss_train", "loss_validation")):
            assert turned.metrics[name] == first.metrics[name], name


def test_trials_and_grid_never_open_the_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "load_test_faces", lambda: pytest.fail("read the test pairs"))
    monkeypatch.setattr(estimates, "RESAMPLES", 20)
    tried = FACE_TRIALS.carry_out(tiny(TRIALS["base"]), bench().at(tmp_path / "trial"))
    assert set(tried.metrics) == set(FACE_TRIALS.metrics)
    assert tried.metrics["auc_validation_all"] != tried.metrics["auc_validation_all_one_crop"]
    setting = FACE_GRID.carry_out(tiny(FACE_GRID.runs()[0]), bench().at(tmp_path / "grid"))
    assert set(setting.metrics) <= set(FACE_GRID.metrics)
    last = setting.record["history"][-1]
    assert setting.metrics["acc_validation_half"].value == pytest.approx(last["validation_accuracy"])
    assert setting.metrics["loss_validation"].value == last["validation_loss"]
    assert setting.record["validation_pairs"] == len(split_by_person(people())[1].pairs.same)
    for folder in ("trial", "grid"):  # so that a training that is killed goes on
        assert (tmp_path / folder / "state.pt").is_file()


# --- configurations -------------------------------------------------------------------------------


def test_trials_change_one_thing_at_a_time() -> None:
    assert len(TRIALS) == len(FACE_TRIALS.runs()) and next(iter(TRIALS)) == "base"
    for name, trial in TRIALS.items():
        assert trial.expectation.endswith(".")
        assert trial.config.train.augment.flip  # so that test pairs are mirrored
        start = TRIALS[{"supcon": "supcon", "pairs": "supcon-no-singles"}.get(name.partition("-")[0], "base")].config
        start = TRIALS["base"].config if name == "supcon" else start
        own, base = ({**config.to_json(), **config.to_json()["train"]} for config in (trial.config, start))
        # How many images are shown, and which crops are judged, follow from the change.
        beside = {"recipe", "train", "least_images", "most_images", "judged_crops"}
        changed = {field for field in own if own[field] != base[field]} - beside
        assert len(changed) == (name != "base"), (name, changed)


def test_runs_and_grid_are_the_issues() -> None:
    runs = {run.label: run for run in FACES.runs()}
    assert [run.key["seed"] for run in runs.values() if run.key["system"] == "koch"] == list(SEEDS) == [0, 1, 2, 3, 4]
    assert len(runs) == len(FACES.runs()) == 11
    assert runs["koch-seed3"].config.seed == 3 and runs["embedding-seed3"].config.train.seed == 3
    longest, *others = FACE_GRID.runs()
    values: dict[str, set[object]] = {"learning_rate": {KOCH.learning_rate}, "batch_size": {KOCH.batch_size}}
    for run in others:
        parameter = str(run.key["trial"]).partition("=")[0]
        values.setdefault(parameter, set()).add(getattr(run.config, parameter))
        assert run.config.epochs == GRID_EPOCHS
    assert values["learning_rate"] == {5e-6, 1e-5, 3e-5, 5e-5, 7e-5, 1e-4, 1e-3}
    assert values["batch_size"] == {8, 16, 32, 48, 64}
    assert READ_EPOCHS == (1, 2, 3, 5, 10, 15, 20, 30) and GRID_EPOCHS in READ_EPOCHS
    assert longest.config.epochs == 30
    assert all(run.config.patience == 0 for run in FACE_GRID.runs())


def test_the_assignments_network_is_filed_as_float32() -> None:
    """It multiplies in nothing else, whatever the processor could."""
    assert {precision_of(run) for run in FACE_GRID.runs()} == {"float32"}
    for run in FACES.runs():
        assert precision_of(run) == (run.config.train.precision if run.key["system"] == "embedding" else "float32")


# --- what a run gives and leaves ------------------------------------------------------------------


@pytest.fixture
def kept(project: Path) -> dict[str, tuple[Run, Outcome]]:
    """A project in which one network of each of two systems is stored."""
    done = {system: (face_run(system), finished(system)) for system in ("embedding", "koch")}
    for run, outcome in done.values():
        keep(FACES, run, outcome, {})
    return done


def test_study_is_stored_and_reproduced(kept: dict[str, tuple[Run, Outcome]]) -> None:
    run, outcome = kept["embedding"]
    assert set(outcome.metrics) <= set(METRICS)
    path = verification.checkpoint_path()
    encoder, info = load_encoder(path), checkpoint_info(path)
    assert encoder.mirror and encoder.image_size == 16 and info["crops"] == list(EMBEDDING.judged_crops)
    assert path.stat().st_size < 8e6 and set(info["calibration"]) == {"slope", "intercept"}
    assert info["config"] == run.config.to_json()
    training, validation = split_by_person(people())
    _, verdict = judge_embeddings(encoder, info["crops"], validation)
    assert verdict.threshold == pytest.approx(info["threshold"], abs=0.02)
    answers = answers_on_test(cosine_score(encoder, info["crops"]), (training, validation), bench(strangers()))
    table = FACES.table()
    assert set(table.checkpoint[table.system == "koch"]) == {""}
    rows = table[table.system == "embedding"].set_index("metric")
    assert set(rows.checkpoint) == {"results/checkpoints/faces.safetensors"}
    same = strangers().pairs.same
    assert rows.value["auc_test"] == pytest.approx(auc(answers.score.numpy(), same.numpy()), abs=1e-3)
    pairs = findings.stored_pairs()
    assert len(pairs) == 80  # of both, side by side
    pairs = pairs[pairs.system == "embedding"]
    assert pairs.pair.tolist() == list(range(40)) and pairs.same.tolist() == same.int().tolist()
    calibrated = verification.Verdict(info["threshold"], **info["calibration"])
    np.testing.assert_allclose(pairs.probability, answers.probability(calibrated), rtol=1e-3)
    np.testing.assert_array_equal(pairs.probability, findings.stored_answers())
    assert stored(FACES, run) == "yes"
    record = FACES.read_record(run)
    assert record["alignment"] == "synthetic" and record["faces"]["training people"] == len(training.people)


def test_stored_numbers_are_computed_anew_from_the_checkpoint(
    kept: dict[str, tuple[Run, Outcome]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 20)
    metrics = kept["embedding"][1].metrics
    again = FACES.again(verification.checkpoint_path(), bench(strangers()))["faces"]  # type: ignore[misc]
    assert set(again) == set(metrics) - set(FACES.once)
    for name, estimate in again.items():
        assert estimate.value == pytest.approx(metrics[name].value, abs=1e-3), name
    found = audit([FACES], bench(strangers()))
    assert set(found.metric) == set(again) and set(found.verdict) == {"holds"}
    FACES.path.write_text(FACES.path.read_text().replace("acc_test,", "acc_test,9", 1))
    assert (audit([FACES], bench(strangers())).verdict != "holds").sum() == 1


def test_koch_run_gives_the_documents_numbers() -> None:
    outcome = finished("koch")
    record, metrics = outcome.record, outcome.metrics
    assert record["parameters"]["total"] > record["parameters"]["trainable"] and len(record["history"]) == 2
    assert metrics["loss_validation"].value == record["history"][-1]["validation_loss"]
    assert metrics["acc_validation_half"].value == pytest.approx(record["history"][-1]["validation_accuracy"])
    pairs = outcome.tables["face_pairs"]
    probability, same = pairs.probability.to_numpy(), pairs.same.to_numpy() == 1
    cross_entropy = -np.log(np.where(same, probability, 1 - probability)).mean()
    assert metrics["loss_test"].value == pytest.approx(cross_entropy + record["penalty"], rel=1e-3)
    assert metrics["acc_test_half"].value == pytest.approx(100 * ((probability > 0.5) == same).mean())
    assert outcome.checkpoint is None and isinstance(face_run("koch").config, KochConfig)


def test_pretrained_row_learns_no_face(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    untrained = Encoder("conv3", 8, image_size=16)
    monkeypatch.setattr(study, "pretrained_encoder", lambda training: untrained)
    outcome = carried_out(face_run("pretrained"), strangers())
    assert outcome.metrics["seconds"].value == 0 and "loss_train" not in outcome.metrics
    assert "ImageNet" in outcome.record["note"] and outcome.record["history"] == []
    assert outcome.checkpoint is None and FACES.checkpoint_path(face_run("pretrained")) is None
