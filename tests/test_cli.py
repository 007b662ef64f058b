"""The command line: what it prints, and that every error is one line and exit code 1."""

from __future__ import annotations

import dataclasses
import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import torch
from PIL import Image

from siamese_utils import cli
from siamese_utils.data.images import ImageSet
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.evaluation.protocol import METRICS
from siamese_utils.experiments import plan as planning
from siamese_utils.experiments import store as results
from siamese_utils.experiments import study as experiments
from siamese_utils.recognition import commands as own_images
from siamese_utils.recognition.check import check_folder
from siamese_utils.recognition.classifier import classify_folder
from siamese_utils.studies.splits import study as splits
from siamese_utils.studies.splits.study import SPLIT_SWEEP, checkpoint_path
from siamese_utils.training.recipes import RECIPES

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(command_line: Run) -> Run:
    return command_line


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder to work in."""
    root = tmp_path / "project"
    for folder in ("results", "siamese_utils"):
        (root / folder).mkdir(parents=True)
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="module")
def sets() -> dict[str, ImageSet]:
    return {
        "train": make_synthetic("train", num_classes=12, per_class=16),
        "test": make_synthetic("test", num_classes=12, per_class=20),
    }


@pytest.fixture
def folders(project: Path, sets: dict[str, ImageSet]) -> tuple[Path, Path]:
    """Support folder of three classes with two images each, and a folder of three queries."""
    support, queries = project / "support", project / "queries"
    queries.mkdir()
    for label in range(3):
        (support / f"class {label}").mkdir(parents=True)
        for number, position in enumerate(sets["test"].indices_of([label])[:3].tolist()):
            image = Image.fromarray(sets["test"].images[position].numpy())
            image.save(support / f"class {label}" / f"{number}.png" if number < 2 else queries / f"{label}.png")
    return support, queries


@pytest.fixture
def checkpoint(project: Path) -> Path:
    path = project / "tiny.safetensors"
    torch.manual_seed(0)
    save_encoder(Encoder("conv3", 8), path)
    return path


def check_error(answer: tuple[int, str, str], *words: str) -> None:
    code, out, err = answer
    assert code == 1 and out == ""
    assert err.startswith("Error: ") and err.count("\n") == 1 and err.endswith((".\n", "?\n")), err
    assert "Traceback" not in err
    for word in words:
        assert word in err


# ------------------------------------------------------------------------------------------- classify


def test_classify(run: Run, folders: tuple[Path, Path], checkpoint: Path) -> None:
    support, queries = folders
    code, out, err = run("classify", support, queries, "--checkpoint", checkpoint)
    table = classify_folder(load_encoder(checkpoint), support, [queries], top=5)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{row.query}: "
        + (f"none of these (most like {row.prediction}: " if row.unknown else f"{row.prediction} (probability ")
        + f"{row.probability:.2f}, " * (not row.unknown)
        + f"similarity {row.similarity:.2f}, lead {row.margin:.2f})"
        for row in table.itertuples()
    ]
    assert len(out.splitlines()) == 3


@pytest.mark.parametrize("command", [("classify", "", "x.png"), ("check", "")])
def test_an_empty_name_of_a_folder_is_refused(run: Run, command: tuple[str, ...], checkpoint: Path) -> None:
    check_error(run(*command, "--checkpoint", checkpoint), "name of the support folder is empty")


def test_classify_with_a_rate_of_unknown(run: Run, folders: tuple[Path, Path], checkpoint: Path) -> None:
    support, queries = folders
    for image in sorted(queries.iterdir()):  # two of a class, without which no rate can be told
        shutil.copy(image, sorted(support.iterdir())[0] / image.name)
    called = []
    for rate in ("0.01", "0.99"):
        code, out, _ = run("classify", *folders, "--checkpoint", checkpoint, "--unknown-rate", rate)
        called.append(out.count("none of these"))
        assert code == 0
    assert called[0] < called[1]
    unknown = [line for line in out.splitlines() if "none of these (most like " in line]
    assert len(unknown) == called[1] and not any("probability" in line for line in unknown)
    check_error(
        run("classify", *folders, "--checkpoint", checkpoint, "--unknown-rate", "2"), "between 0 and 1, not at 2"
    )


def test_classify_as_csv(run: Run, folders: tuple[Path, Path], checkpoint: Path) -> None:
    support, queries = folders
    files = sorted(queries.iterdir())
    code, out, _ = run("classify", support, *files[:2], "--checkpoint", checkpoint, "--csv")
    assert code == 0
    expected = classify_folder(load_encoder(checkpoint), support, files[:2])
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(out)), expected, atol=1e-4, check_dtype=False)
    assert "unknown" in expected
    pages = [checkpoint.with_name(f"{name}.html") for name in ("listed", "wide")]
    for page, options in zip(pages, ((), ("--csv",))):  # a page needs the list
        assert run("classify", support, *files[:2], "--checkpoint", checkpoint, "--out", page, *options)[0] == 0
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_classify_takes_the_best_encoder_and_names_it(
    run: Run, folders: tuple[Path, Path], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_images, "best_encoder", lambda: "siamese-photos")
    check_error(run("classify", *folders), "No checkpoint of the name 'siamese-photos'")
    place = checkpoint_path("90-10", 0).with_name("siamese-photos.safetensors")
    place.parent.mkdir()
    checkpoint.rename(place)
    code, out, err = run("classify", *folders)
    assert code == 0 and out.count("\n") == 3 and err.startswith("Encoder: siamese-photos. It has learned 90 classes")
    assert run("classify", *folders, "--encoder", "siamese-photos") == (0, out, "")


def test_classify_errors(run: Run, folders: tuple[Path, Path], checkpoint: Path, project: Path) -> None:
    support, queries = folders
    option = ("--checkpoint", checkpoint)
    check_error(run("classify", support, queries, "--checkpoint", project / "none"), "no checkpoint", "none")
    check_error(run("classify", project / "none", queries, *option), "no support folder", "none")
    check_error(run("classify", support, queries / "none.png", *option), "no image file", "none.png")
    (queries / "a.png").write_bytes(b"not an image")
    check_error(run("classify", support, queries, *option), "a.png is not a readable image")
    check_error(run("classify", support, queries, *option), "1 of 4 queries cannot be read", "--skip-unreadable")
    code, out, _ = run("classify", support, queries, *option, "--skip-unreadable")
    assert code == 0 and out.count("\n") == 3 and "a.png" not in out
    (support / "empty").mkdir()
    check_error(run("classify", support, queries, *option), "holds no image", "empty")
    checkpoint.write_bytes(b"not a checkpoint")
    check_error(run("classify", support, queries, *option), "damaged")


def test_classify_in_a_process_of_its_own(folders: tuple[Path, Path], checkpoint: Path) -> None:
    arguments = ["classify", *map(str, folders), "--checkpoint", str(checkpoint)]
    child = subprocess.run(
        [sys.executable, "-m", "siamese_utils", *arguments],
        cwd=Path(cli.__file__).resolve().parents[1],
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0 and child.stderr == ""
    assert [line.split(":")[0] for line in child.stdout.splitlines()] == [str(f) for f in sorted(folders[1].iterdir())]


@pytest.mark.parametrize("ending", ["csv", "json", "parquet", "html"])
def test_classify_into_a_file(ending: str, run: Run, folders: tuple[Path, Path], checkpoint: Path) -> None:
    path = checkpoint.with_name(f"answers.{ending}")
    code, out, err = run("classify", *folders, "--checkpoint", checkpoint, "--out", path)
    assert (code, err, out) == (0, "", f"3 answers are in {path}.\n")
    if ending == "parquet":
        expected = classify_folder(load_encoder(checkpoint), *folders, top=5)
        pd.testing.assert_frame_equal(pd.read_parquet(path), expected)
    else:
        assert path.stat().st_size > 400


@pytest.mark.parametrize("command", ["classify", "check"])
def test_files_that_cannot_be_written_are_refused_before_the_work(
    command: str, run: Run, folders: tuple[Path, Path], project: Path
) -> None:
    arguments = folders if command == "classify" else folders[:1]
    check_error(run(command, *arguments, "--out", project / "a.xls"), "a.xls has the ending '.xls'", "choose .csv")
    check_error(run(command, *arguments, "--out", project / "a"), "has no ending")
    check_error(run(command, *arguments, "--out", project), "ending")


# ---------------------------------------------------------------------------------------------- check


def test_check(run: Run, folders: tuple[Path, Path], checkpoint: Path, project: Path) -> None:
    support, _ = folders
    option = ("--checkpoint", checkpoint)
    report = check_folder(support, checkpoint)
    assert run("check", support, *option) == (0, f"{report}\n", "")
    code, out, err = run("check", support, *option, "--out", project / "check.html")
    assert (code, err) == (0, "") and out.splitlines()[-1] == f"What was found is in {project / 'check.html'}."
    assert out.splitlines()[:-1] == report.sentences()
    (support / "class 0" / "a.png").write_bytes(b"not an image")
    check_error(run("check", support, *option), "a.png is not a readable image", "--skip-unreadable")
    code, out, _ = run("check", support, *option, "--skip-unreadable")
    assert code == 0 and "Unreadable:\n" in out
    for folder in support.iterdir():
        for image in sorted(folder.glob("*.png"))[1:]:
            image.unlink()
    check_error(run("check", support, *option), "one image", "add a second image")


def test_search_into_a_page(run: Run, folders: tuple[Path, Path], checkpoint: Path, project: Path) -> None:
    """The images of a support folder stand in its sub-folders."""
    path = project / "found.html"
    options = ("--checkpoint", checkpoint, "--top", 2, "--out", path)
    assert run("search", *folders, *options) == (0, f"6 answers are in {path}.\n", "")
    html = path.read_text()
    assert "Which images are most like it?" in html and str(folders[0] / "class 0") in html
    check_error(run("search", *folders, *options[:-1], project / "found.xls"), "found.xls has the ending '.xls'")


# ----------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("command", [(), ("report",), ("train",), ("evaluate",), ("classify",), ("check",)])
def test_help(run: Run, command: tuple[str, ...]) -> None:
    code, out, _ = run(*command, "--help")
    assert code == 0 and "Usage" in out
    if not command:
        assert all(name in out for name in ("report", "train", "evaluate", "classify", "check"))


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("classify",), ("train", "--draw", "x"), ("train", "--colour", "blue")]
)
def test_wrong_usage(run: Run, arguments: tuple[str, ...]) -> None:
    code, _, err = run(*arguments)
    assert code == 2 and "Traceback" not in err


# ---------------------------------------------------------------------------------- train and evaluate


@pytest.fixture
def no_cifar100(monkeypatch: pytest.MonkeyPatch, sets: dict[str, ImageSet]) -> None:
    """Stand-in data of twelve classes for the commands that ask for CIFAR-100."""
    monkeypatch.setattr(experiments, "load_cifar100", lambda part: sets[part])
    real = splits.class_split
    monkeypatch.setattr(splits, "class_split", lambda name, draw=0, _=12: real(name, draw, 12))
    monkeypatch.setattr(splits, "SPLIT_NAMES", ("7-5", "6-6"))


@pytest.fixture
def tiny_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(
        RECIPES["smoke"], recipe="tiny", encoder="conv3", epochs=1, batch_size=16, images_per_class=2, held_out_images=3
    )
    monkeypatch.setitem(RECIPES, "tiny", config)


def test_train_stores_what_evaluate_finds_again(run: Run, project: Path, no_cifar100: None, tiny_recipe: None) -> None:
    options = ("--split", "7-5", "--recipe", "tiny", "--device", "cpu")
    code, out, err = run("train", *options, "--publish")
    assert code == 0 and "Stored in" not in err
    name = "cifar100-7-5-draw0-seed0-tiny"
    path = project / "results" / "checkpoints" / f"{name}.safetensors"
    assert checkpoint_info(path)["config"] == RECIPES["tiny"].to_json()
    table = SPLIT_SWEEP.table()
    assert set(table["metric"]) == set(METRICS) and len(table) == len(METRICS)
    assert set(table["checkpoint"]) == {f"results/checkpoints/{name}.safetensors"}
    for row in table.itertuples():
        (line,) = [line for line in out.splitlines() if line.split()[0] == row.metric]
        assert f"{row.value:.2f}" in line
    record = results.load_json(name)
    assert record["recipe"] == "tiny" and len(record["history"]) == 1 and record["provenance"]["device"] == "cpu"
    again = run("evaluate", path)
    assert again == (0, out, "")

    before = everything(project / "results")
    assert run("train", *options) == (0, out, "")  # a finished run changes nothing
    assert everything(project / "results") == before


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_a_training_of_ones_own_leaves_the_published_one(
    run: Run, project: Path, no_cifar100: None, tiny_recipe: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (cli, splits.recipes):
        monkeypatch.setattr(module, "DEFAULT_RECIPE", "tiny")
    published = splits.split_run("7-5", recipe="tiny")
    monkeypatch.setattr(cli, "SPLIT_SWEEP", dataclasses.replace(SPLIT_SWEEP, runs=lambda: [published]))
    options = ("train", "--split", "7-5", "--recipe", "tiny", "--device", "cpu")
    assert run(*options)[0] == 0  # in an empty place of the report's
    monkeypatch.setitem(RECIPES, "other", dataclasses.replace(RECIPES["tiny"], recipe="other"))
    before = everything(project / "results")
    assert before
    own = project / "siamese_runs" / "results"
    for words, name in (
        (("--seed", "5"), "cifar100-7-5-draw0-seed5-tiny"),
        (("--draw", "7"), "cifar100-7-5-draw7"),
        (("--recipe", "other"), "cifar100-7-5-draw0-seed0-other"),
    ):
        code, _, err = run(*options, *words)
        assert code == 0 and f"Stored in {own / 'checkpoints' / name}" in err.replace("\n", "")
        assert (own / "runs" / f"{name}.json").is_file() and everything(project / "results") == before
    assert len(results.read_table(own / "split_sweep.csv")) == 3 * len(METRICS)
    # What is published, trained again: the same numbers, and the published files as they were.
    code, out, err = run(*options, "--anew")
    assert code == 0 and "siamese_runs" in err and everything(project / "results") == before
    tables = [results.read_table(place / "split_sweep.csv") for place in (project / "results", own)]
    first, again = (table.query("recipe == 'tiny' and seed == 0 and draw == 0") for table in tables)
    assert len(first) == len(METRICS) and again.value.tolist() == first.value.tolist()
    assert run(*options)[1] == out  # without it, the published evaluation is told


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--split", "91-9"), ("91-9",)),
        (("--split", "../../evil"), ("evil",)),
        (("--recipe", "smoek"), ("smoek", "smoke")),
        (("--draw", "-1"), ("draw",)),
        (("--seed", "-1"), ("seed",)),
        (("--device", "abacus"), ("abacus",)),
    ],
)
def test_train_errors(
    run: Run, project: Path, no_cifar100: None, tiny_recipe: None, arguments: tuple[str, str], words: tuple[str, ...]
) -> None:
    options = {"--split": "7-5", "--recipe": "tiny", **dict([arguments])}
    check_error(run("train", *(text for pair in options.items() for text in pair)), *words)
    assert list((project / "results").iterdir()) == []


def test_evaluate_errors(run: Run, checkpoint: Path, no_cifar100: None, project: Path) -> None:
    check_error(run("evaluate", project / "none.safetensors"), "no checkpoint", "none.safetensors")
    check_error(run("evaluate", checkpoint), "does not say which split")


def test_evaluate_looks_at_the_checkpoint_before_the_data(
    run: Run, checkpoint: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiments, "load_cifar100", lambda part: pytest.fail("asked for data"))
    check_error(run("evaluate", project / "none.safetensors"), "no checkpoint", "none.safetensors")
    check_error(run("evaluate", checkpoint), "does not say which split")
    origin = {"split": "7-5", "draw": 0, "config": RECIPES["smoke"].to_json()}
    save_encoder(Encoder("conv3", 8), checkpoint, origin)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    check_error(run("evaluate", checkpoint), "damaged")


def test_without_data(run: Run, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_encoder(Encoder("conv3", 8), checkpoint, {"split": "7-5", "draw": 0, "config": RECIPES["smoke"].to_json()})
    monkeypatch.setattr("siamese_utils.data.sources._bases", list)
    monkeypatch.delenv("SIAMESE_DATA", raising=False)
    answer = run("evaluate", checkpoint)
    check_error(answer, "CIFAR-100", "SIAMESE_DATA")
    assert "SIAMESE_SYNTHETIC" not in answer[2]  # the command would not heed it


def test_sweep_prints_its_plan_and_does_what_is_left(
    run: Run, project: Path, no_cifar100: None, tiny_recipe: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--splits", "7-5,6-6", "--draws", "0,1", "--recipe", "tiny", "--device", "cpu", "--publish")
    code, out, err = run("sweep", *options, "--plan")
    assert not err
    assert code == 0 and "4 of 4 runs to do" in out and not (project / "results" / "split_sweep.csv").exists()
    assert run("sweep", *options)[0] == 0
    labels = [f"{split}-draw{draw}-seed0-tiny" for draw in (0, 1) for split in ("7-5", "6-6")]
    table = SPLIT_SWEEP.table()
    assert set(zip(table.split, table.draw, strict=True)) == {("7-5", 0), ("6-6", 0), ("7-5", 1), ("6-6", 1)}
    code, out, _ = run("sweep", *options)
    assert code == 0 and out.splitlines() == [f"{label}: stored" for label in labels]
    code, out, _ = run("sweep", *options, "--plan")
    assert code == 0 and "0 of 4 runs to do" in out and out.count("yes") == 4
    assert run("sweep", *("--splits", " 7-5,6-6,"), *("--draws", "0,1,1,"), *options[4:], "--plan")[1] == out
    check_error(run("sweep", "--draws", "zero"), "--draws", "zero")
    check_error(run("sweep", "--draws", ","), "--draws", "leave it out")
    check_error(run("sweep", "--splits", " , "), "--splits", "leave it out")
    check_error(run("sweep", "--splits", "7-5", "--recipe", "tiyn"), "tiyn", "tiny")


def test_report_errors(run: Run, project: Path) -> None:
    check_error(run("report", "--notebooks", project / "none"), "none")
    (project / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(), project / "notebooks" / "01_test.ipynb")
    check_error(run("report", "--profile", "smoek"), "smoek", "smoke")


def test_the_report_goes_to_the_projects_build_folder_wherever_one_stands(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(), project / "notebooks" / "01_test.ipynb")
    monkeypatch.chdir(project / "notebooks")
    assert run("report", "--stored")[0] == 0
    assert (project / "build" / "report" / "index.html").is_file()


@pytest.mark.parametrize(
    "command", [("imprint",), ("imprint", "--moved"), ("faces",), ("drawing",), ("study", "objectives")]
)
def test_studies_find_what_decides_them_wherever_one_stands(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(planning, "rate", lambda *_: None)
    for folder in (project, project / "results", project.parent):
        monkeypatch.chdir(folder)
        code, out, err = run(*command, "--plan")
        assert code == 0 and not err and "runs to do" in out
