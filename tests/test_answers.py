"""Answers as files: every format whole, nothing half written, and a page that holds what it shows."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from folders import KINDS, picture, save
from PIL import Image

from siamese_utils.errors import ConfigError, StorageError
from siamese_utils.recognition import pages
from siamese_utils.recognition.answers import DOUBTFUL, answers_page, write_answers, write_table
from siamese_utils.recognition.pages import Card, Page, page_html

EVIL = "<img src=x onerror=alert(1)>&\"'</script><!--.png"
"""A file's name that is markup; a slash cannot stand in one."""


def answers(folder: Path, count: int = 4, name: str = "query {}.png") -> pd.DataFrame:
    """A table as ``classify_folder`` gives it."""
    kinds, rows = [*KINDS], []
    for number in range(count):
        kind = kinds[number % len(kinds)]
        row = {
            "query": str(save(folder / name.format(number), picture(kind, 50 + number))),
            "prediction": kind,
            "probability": 0.95 - 0.3 * (number == 2),
            "similarity": 0.9,
            "margin": 0.4,
            "unknown": number == 1,
        }
        for place in (1, 2, 3):
            row |= {f"class_{place}": kinds[(number + place - 1) % 4], f"similarity_{place}": 1.2 - 0.3 * place}
            example = folder / "examples" / kind / f"{place}.png"
            row |= {
                f"nearest_{place}": str(example if example.exists() else save(example, picture(kind, place))),
                f"nearest_{place}_similarity": 1 - 0.1 * place,
            }
        rows.append(row)
    return pd.DataFrame(rows)


def data_of(html: str) -> dict[str, object]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html)
    return json.loads(text)


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_tables_are_read_back_as_they_were(ending: str, tmp_path: Path) -> None:
    table = answers(tmp_path, name="zürich, {} 'x'.png")
    table.loc[0, "nearest_3"] = None
    path = write_answers(table, tmp_path / "out" / f"answers.{ending.upper()}")
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[ending](path)
    pd.testing.assert_frame_equal(read, table, check_dtype=False, atol=1e-5)


@pytest.mark.parametrize("name", ["answers.xls", "answers", "answers.html.gz"])
def test_an_ending_without_a_format_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"names no format; choose \.csv, \.json, \.parquet or \.html\.$"):
        write_answers(answers(tmp_path), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "answers.csv").mkdir()
    with pytest.raises(ConfigError, match="is a folder; name a file in it"):
        write_answers(answers(tmp_path), tmp_path / "answers.csv")


@pytest.mark.parametrize("ending", ["csv", "json", "parquet", "html"])
def test_nothing_is_half_written(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / f"answers.{ending}"
    target.write_text("before")
    table = answers(tmp_path / "images")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("siamese_utils.system.files.os.replace", full)
    with pytest.raises(StorageError, match="No space left"):
        write_answers(table, target)
    assert target.read_text() == "before" and [*tmp_path.glob("*.tmp"), *tmp_path.glob(".*.tmp")] == []


def test_doubtful_answers_come_first(tmp_path: Path) -> None:
    page = answers_page(answers(tmp_path), "eyes", "It has seen colours.")
    assert [card.mark for card in page.cards] == ["unknown", "doubtful", "", ""]
    assert [card.heading for card in page.cards[:2]] == ["none of these", "sky"]
    assert page.cards[0].said.startswith("most like rust: similarity 0.90, lead")
    assert page.cards[1].said.startswith("probability 0.65, similarity 0.90")
    assert page.lead[0] == "4 images, 1 unknown, 1 doubtful. Compared by the encoder eyes."
    assert str(DOUBTFUL) in page.lead[1] and "if the image is of one of the classes" in page.lead[1]
    assert page.lead[2] == "It has seen colours."
    first = page.cards[2]
    assert [label for label, _ in first.bars] == ["moss", "rust", "sky"] and first.bars[0][1] == pytest.approx(0.9)
    assert [near.said for near in first.near] == ["moss"] * 3


def test_a_query_that_stands_among_the_examples_says_so(tmp_path: Path) -> None:
    page = answers_page(answers(tmp_path, 2).assign(in_support=[True, False]))
    assert [card.said.endswith("; it stands among the examples") for card in page.cards] == [False, True]


def test_answers_without_probability_go_by_their_lead(tmp_path: Path) -> None:
    table = answers(tmp_path)[["query", "prediction", "similarity", "margin"]]
    table.margin = [0.3, 0.1, 0.2, 0.4]
    page = answers_page(table)
    assert [card.heading for card in page.cards] == ["rust", "sky", "moss", "sand"]
    assert not any(card.mark or card.near or card.bars for card in page.cards) and len(page.lead) == 1


def test_the_page_is_one_file_with_its_pictures(tmp_path: Path) -> None:
    html = write_answers(answers(tmp_path), tmp_path / "answers.html").read_text(encoding="utf-8")
    data = data_of(html)
    assert len(data["pictures"]) == 4 + 12  # queries, and each example once
    for text in data["pictures"]:
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            assert image.size == (96, 96) and image.format == "JPEG" and len(text) < 6000
    assert re.findall(r"(?:src|href|url)\s*[=(]", html.partition("<script")[0]) == []
    assert "default-src 'none'" in html and "unsafe-inline" not in html


def test_names_of_files_and_classes_never_act_as_markup(tmp_path: Path) -> None:
    table = answers(tmp_path, 1, EVIL.replace("/", "∕"))
    evil = EVIL.replace(".png", "")
    table.prediction, table.class_1 = evil, evil
    page = answers_page(table, encoder=evil, note=evil)
    html = page_html(page)
    assert evil not in html and "<img" not in html.partition("<script")[0]
    (text,) = re.findall(r'id="data">(.*?)</script>', html)
    assert "<" not in text and data_of(html)["cards"][0]["heading"] == evil


def test_a_page_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits themselves, and that it says what they leave out."""
    card = Card(str(save(tmp_path / "a.png", picture("sky", 1))), "sky", order=(0,))
    monkeypatch.setattr(pages, "MOST_CARDS", 3)
    html = page_html(Page("Answers", cards=[card] * 5))
    assert len(data_of(html)["cards"]) == 3 and "The first 3 of 5 answers are on this page; a table (" in html
    monkeypatch.setattr(pages, "MOST_BYTES", 1)
    others = [Card(str(save(tmp_path / f"{n}.png", picture("sky", n))), "sky") for n in range(3)]
    html = page_html(Page("Answers", cards=others))
    assert [one["picture"] for one in data_of(html)["cards"]] == [0, None, None]
    assert "2 pictures further down are left out" in html


def test_what_cannot_be_read_any_more_has_no_picture(tmp_path: Path) -> None:
    table = answers(tmp_path, 2)
    Path(table["query"][0]).unlink()
    table.loc[1, "similarity_3"] = np.nan
    cards = data_of(page_html(answers_page(table)))["cards"]
    assert {card["picture"] is None for card in cards if card["file"] == table["query"][0]} == {True}
    assert [len(card["bars"]) for card in cards if card["file"] == table["query"][1]] == [2]


def test_numbers_that_are_none_stay_gaps(tmp_path: Path) -> None:
    path = write_table(pd.DataFrame({"a": [1.5, np.nan], "b": ["x", None]}), tmp_path / "t.json")
    assert json.loads(path.read_text()) == [{"a": 1.5, "b": "x"}, {"a": None, "b": None}]
