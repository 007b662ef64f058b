"""The index that the pages are searched with."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bs4 import BeautifulSoup
from nbformat.v4 import new_output
from test_report import code, display, png, render, soup_of

from siamese_utils.report import search
from siamese_utils.report.search import Section


def parts(html: str) -> list[tuple[str, str, str]]:
    return [(one.id, one.heading, one.text) for one in search.sections(BeautifulSoup(html, "html.parser"))]


def test_what_stands_below_a_heading_is_its_part() -> None:
    html = (
        "<section class='prose'><h1 id='T'>The <em>title</em></h1><p>Intro with a<b>b</b>c.</p><p>More.</p></section>"
        "<section class='cell'><details class='code'>secret</details><pre>trace</pre></section>"
        "<section class='prose'><h2 id='A'>Part<a class='anchor' href='#A'>#</a></h2><ul><li>one</li><li>two</li></ul>"
        "</section><section class='cell'><div class='scroll'><table><tr><td>3</td><td>4</td></tr></table></div>"
        "<figure><img alt='A square.' src='data:,'></figure><!-- comment --></section>"
    )
    assert parts(html) == [("", "The title", "Intro with abc. More."), ("A", "Part", "one two 3 4 A square.")]


def test_text_before_any_heading_is_found_too() -> None:
    assert parts("<p>Alone.</p><h3 id='x'>Later</h3>") == [("", "", "Alone."), ("x", "Later", "")]


def test_nothing_in_the_index_ends_its_script() -> None:
    text = search.script([("a.html", "A", [Section("x", "</script><b>", ["<!-- é"])])])
    assert "<" not in text
    (entry,) = json.loads(text.removeprefix("const SEARCH = ").rstrip().rstrip(";"))
    assert entry == ["a.html", "A", [["x", "</script><b>", "<!-- é"]]]


def test_every_page_carries_the_index_and_it_leads_to_headings(tmp_path: Path) -> None:
    page = render(
        tmp_path,
        "# Page: a long title\n\nIntro.\n\n## Same\n\n## Same",
        code("x = 1", display({"image/png": png()}, {"image/png": {"alt": "A square."}})),
        code("y", new_output("stream", name="stdout", text="printed")),
        "### Deep & <i>down</i>",
    )
    (script,) = page.select("script")
    found = re.match(r"const SEARCH = (.*);\n", script.text)
    assert found is not None
    first, second = json.loads(found[1])
    assert first[:2] == ["index.html", "Overview"] and second[:2] == ["01_page.html", "Page"]
    assert second[2] == [
        ["", "Page: a long title", "Intro."],
        ["Same", "Same", ""],
        ["Same-2", "Same", "A square."],
        ["Deep-&-down", "Deep & down", ""],
    ]
    for file, _, sections in (first, second):
        ids = {tag["id"] for tag in soup_of(tmp_path / "site" / file).select("[id]")}
        assert {place for place, *_ in sections if place} <= ids
    assert soup_of(tmp_path / "site" / "index.html").script.text == script.text
