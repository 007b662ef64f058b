"""The report: what its pages hold, that they fetch nothing, and how a failing notebook ends."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from siamese_utils.errors import SiameseError, UnknownNameError
from siamese_utils.report import PROFILES, RETRAINING
from siamese_utils.report import execute as execution
from siamese_utils.report import site as report
from siamese_utils.report.equations import equation
from siamese_utils.report.execute import ReportError, execute_notebooks

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


def png(colour: str = "navy") -> str:
    """A small PNG file, in base64 as notebooks store it."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def display(data: dict[str, str], metadata: dict[str, object] | None = None) -> NotebookNode:
    return new_output("display_data", data=data, metadata=metadata or {})


def code(source: str, *outputs: NotebookNode, tags: tuple[str, ...] = ()) -> NotebookNode:
    cell = new_code_cell(source, outputs=list(outputs))
    cell.metadata["tags"] = list(tags)
    return cell


def write(path: Path, *cells: NotebookNode | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells]
    nbformat.write(new_notebook(cells=made), path)
    return path


def soup_of(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


def render(tmp_path: Path, *cells: NotebookNode | str) -> BeautifulSoup:
    """Render one notebook from stored outputs and return its page."""
    write(tmp_path / "notebooks" / "01_page.ipynb", *cells)
    report.build_report(tmp_path / "notebooks", tmp_path / "site", execute=False)
    return soup_of(tmp_path / "site" / "01_page.html")


# --- executing: one run of two notebooks, looked at from all sides ------------------------------------------


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportError, str]:
    """The site of a project whose second notebook fails, the error, and what the first notebook printed."""
    root = tmp_path_factory.mktemp("project")
    marker = "<div class='siamese-banner' data-siamese-source='synthetic'>Synthetic data.</div>"
    figure = f"Image(data=base64.b64decode('{png()}'), alt='A navy square.', width=80)"
    write(
        root / "notebooks" / "01_first.ipynb",
        "# First page\n\n[Badge](https://example.org)\n\nWhat the *first* page shows.\n\n$$a^2 + b^2 = c^2$$",
        code(f"import base64, os, sys\nfrom IPython.display import HTML, Image\nHTML({marker!r})"),
        code(
            "get = os.environ.get\nprint(sys.executable, os.getcwd(), get('SIAMESE_PROFILE'), get('SIAMESE_IN_PLACE'))"
        ),
        code(figure),
        code("from tqdm import tqdm\nlist(tqdm(range(3)))\nlist(tqdm(range(3), disable=False))"),
    )
    failing = code("# Fails\nlimit = 1 / 0\n")
    write(root / "notebooks" / "02_second.ipynb", "# Second", "Text.", failing, code("1"))
    write(root / "notebooks" / "03_third.ipynb", "# Third")
    (root / "notebooks" / "scratch.ipynb").write_text("not a notebook, and not numbered")
    site = root / "site"
    site.mkdir()
    (site / "02_second.html").write_text("a page of an earlier run")
    with pytest.raises(ReportError) as caught:
        report.build_report(root / "notebooks", site, profile="smoke")
    printed = soup_of(site / "01_first.html").select_one("pre.text")
    assert printed is not None
    return site, caught.value, printed.text


def test_kernel_is_this_interpreter_in_the_notebooks_folder(executed: tuple[Path, ReportError, str]) -> None:
    _, _, printed = executed
    interpreter, folder, profile, in_place = printed.split()
    home = str(Path.home())
    assert interpreter.replace("~", home, 1) in (sys.executable, str(Path(sys.executable).resolve()))
    assert folder == "./notebooks", "private paths are shortened"
    assert profile == "smoke"
    assert in_place == "0", "a report leaves what git follows as it is"


@pytest.mark.parametrize("deaths", [0, 2, 3])
def test_a_kernel_that_ends_before_its_first_cell_is_started_again(
    deaths: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, starts = write(tmp_path / "notebooks" / "01_page.ipynb", "# Page", code("print(40 + 2)")), 0
    real = execution._Client.create_kernel_manager

    def create(client: Any) -> Any:
        nonlocal starts
        starts += 1
        manager = real(client)
        if starts <= deaths:
            broken = {
                "argv": [sys.executable, "-c", "import sys; sys.exit(1)"],
                "display_name": "x",
                "language": "python",
            }
            manager._kernel_spec = execution.KernelSpec(**broken)
        return manager

    monkeypatch.setattr(execution._Client, "create_kernel_manager", create)
    if deaths < execution.STARTS:
        notebook, _ = execution.execute_notebook(path, "report")
        assert notebook.cells[1].outputs[0].text == "42\n" and starts == deaths + 1
    else:
        with pytest.raises(ReportError, match="the kernel ended"):
            execution.execute_notebook(path, "report")
        assert starts == execution.STARTS


def test_a_kernel_that_ends_in_a_cell_is_not_started_again(tmp_path: Path) -> None:
    count = tmp_path / "count"
    once = f"open({str(count)!r}, 'a').write('x')\nimport os\nos._exit(1)"
    path = write(tmp_path / "notebooks" / "01_page.ipynb", "# Page", code(once))
    with pytest.raises(ReportError, match="the kernel ended"):
        execution.execute_notebook(path, "report")
    assert count.read_text() == "x"


def test_trainings_have_the_machine_to_themselves_and_one_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIAMESE_RUNS", "mine")
    threads = {profile: "OMP_NUM_THREADS" in execution._kernel_environment(profile, False) for profile in PROFILES}
    assert threads == {"smoke": True, "report": True, "full": False, "anew": False}
    assert execution._kernel_environment("anew", False)["SIAMESE_RUNS"] == str(tmp_path.resolve() / "mine")


@pytest.mark.parametrize("profile", PROFILES)
def test_trainings_come_one_after_the_other_and_are_never_what_was_kept(
    profile: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    paths = [write(tmp_path / "notebooks" / f"0{number}_page.ipynb", f"# Page {number}") for number in (1, 2, 3)]
    now, most, executed = 0, 0, []

    def run(path: Path, *_: Any) -> tuple[Any, float]:
        nonlocal now, most
        now += 1
        most = max(most, now)
        time.sleep(0.1)
        now -= 1
        executed.append(path.stem)
        return execution.read(path), 0.1

    monkeypatch.setattr(execution, "execute_notebook", run)
    for _ in range(2):
        assert len(list(execute_notebooks(paths, profile))) == 3
    retrains = profile in RETRAINING
    assert len(executed) == (6 if retrains else 3) and most == (1 if retrains else execution.AT_ONCE)


def test_pages_of_ones_own_stand_without_the_published_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path
    (root / "notebooks").mkdir()
    write(root / "notebooks" / "01_page.ipynb", "# Page", "Words.")
    for name in ("results", "siamese_utils", "figures"):
        (root / name).mkdir()
    monkeypatch.chdir(root)
    asked: list[str] = []
    monkeypatch.setattr(report.answer, "answer", lambda: asked.append("answer"))
    monkeypatch.setattr(report.answer, "page_finding", lambda name: asked.append(name))
    monkeypatch.setattr(
        report, "execute_notebooks", lambda paths, profile: [(p, execution.read(p), 1.0) for p in paths]
    )
    report.build_report(root / "notebooks", root / "own", "anew")
    assert not asked
    report.build_report(root / "notebooks", root / "site", "report")
    assert asked == ["01_page", "answer"]
    with pytest.raises(ReportError, match="leave out --stored"):
        report.build_report(root / "notebooks", root / "own", "anew", execute=False)


def test_failing_cell_is_named_in_one_sentence(executed: tuple[Path, ReportError, str]) -> None:
    text = str(executed[1])
    assert isinstance(executed[1], SiameseError)
    for part in ("02_second.ipynb", "cell 3 of 4", "# Fails", "ZeroDivisionError", "division by zero"):
        assert part in text
    assert "\n" not in text and len(text) < 300


def test_a_failing_notebook_stops_no_other(executed: tuple[Path, ReportError, str]) -> None:
    site, error, _ = executed
    assert {path.name for path in site.iterdir()} == {"index.html", "01_first.html", "03_third.html"}
    assert str(error) in soup_of(site / "index.html").get_text()
    assert report.check_site(site) == []


def test_all_that_failed_is_told_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["01_a", "02_b", "03_c", "04_d"]
    for name in names:
        write(tmp_path / "notebooks" / f"{name}.ipynb", f"# {name}")

    def execute(path: Path, *_: Any) -> tuple[NotebookNode, float]:
        if path.stem in ("01_a", "04_d"):
            raise ReportError(f"{path.stem} failed.")
        return execution.read(path), 1.0

    monkeypatch.setattr(execution, "execute_notebook", execute)
    monkeypatch.setattr(report, "tidy_notebook", lambda notebook, _: notebook.metadata.update(tidy="yes"))
    with pytest.raises(ReportError, match=r"^01_a failed\. 04_d failed\.$"):
        report.execute_in_place(tmp_path / "notebooks", "full")
    stored = [execution.read(tmp_path / "notebooks" / f"{name}.ipynb").metadata.get("tidy", "no") for name in names]
    assert stored == ["no", "yes", "yes", "no"]
    assert capsys.readouterr().err.splitlines() == ["01_a failed. The others go on."]


def test_synthetic_data_is_announced_on_every_page(executed: tuple[Path, ReportError, str]) -> None:
    for page in executed[0].glob("*.html"):
        banner = soup_of(page).select_one("main > .banner")
        assert banner is not None and "Synthetic data." in banner.text


def test_index_lists_the_pages(executed: tuple[Path, ReportError, str]) -> None:
    soup = soup_of(executed[0] / "index.html")
    card, third = soup.select(".cards > li")
    assert third.a["href"] == "03_third.html"
    assert (card.a["href"], card.a.text.strip(), card.p.text) == (
        "01_first.html",
        "First page",
        "What the first page shows.",
    )
    (picture,) = card.select("img")
    assert (picture["alt"], picture["width"], picture["height"]) == ("A navy square.", "8", "8")
    assert not soup.select(".findings"), "a folder without results has no answer"
    assert soup.select_one("a[rel=next]")["href"] == "01_first.html"
    facts = [fact.text for fact in soup_of(executed[0] / "01_first.html").select(".facts span")]
    assert facts[0].startswith("Ran in") and facts[1:] == ["Data: synthetic", "Profile: smoke"]
    assert f"Python {sys.version.split()[0]}" in soup.footer.text


def test_progress_bars_leave_no_trace(executed: tuple[Path, ReportError, str]) -> None:
    assert "it/s" not in (executed[0] / "01_first.html").read_text("utf-8")


def test_figure_keeps_its_alt_text_and_width(executed: tuple[Path, ReportError, str]) -> None:
    (image,) = soup_of(executed[0] / "01_first.html").select("figure img")
    assert (image["alt"], image["width"]) == ("A navy square.", "80")
    assert image["src"] == f"data:image/png;base64,{png()}"


def test_in_place_execution_stores_stable_notebooks(tmp_path: Path) -> None:
    printing = "import os; print('loss', 0.5 * int(os.environ['SIAMESE_IN_PLACE']))"
    cell = code(f"{printing}\nimport warnings; warnings.warn('few images')")
    cell.metadata.update({"tags": ["show-input"], "vscode": {"languageId": "python"}, "collapsed": True})
    path = write(tmp_path / "notebooks" / "01_a.ipynb", "# A", cell)
    other = write(tmp_path / "notebooks" / "02_b.ipynb", "# B", code("1/0"))
    before = other.read_bytes()
    assert report.execute_in_place(tmp_path / "notebooks", "smoke", only=["01"]) == [path]
    assert other.read_bytes() == before
    stored = nbformat.read(path, as_version=4)
    assert stored.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert stored.cells[1].metadata == {"tags": ["show-input"]} and stored.cells[1].execution_count == 1
    assert stored.cells[1].outputs[0].text == "loss 0.5\n"
    assert stored.cells[1].outputs[1].text.startswith("<cell>:2: UserWarning: few images")
    assert not list(path.parent.glob(".*.tmp"))


def test_what_was_executed_is_kept_until_something_it_rests_on_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = "import pathlib; log = pathlib.Path('../log'); log.open('a').write('{}'); print(log.read_text())"
    paths = [write(tmp_path / "notebooks" / f"0{n}_page.ipynb", f"# {n}", code(counted.format(n))) for n in (1, 2, 3)]
    (tmp_path / "results").mkdir()

    def executed_now() -> str:
        """Which notebooks were executed, in whatever order two at a time end."""
        (tmp_path / "log").write_text("")
        given = [(path, notebook.metadata) for path, notebook, _ in execute_notebooks(paths, "smoke")]
        assert [path for path, _ in given] == paths and not any("siamese_seconds" in data for _, data in given)
        return "".join(sorted((tmp_path / "log").read_text()))

    assert executed_now() == "123"
    assert executed_now() == ""
    write(paths[1], "# 2", code(counted.format(2) + "; 'changed'"))
    assert executed_now() == "2"
    (tmp_path / "results" / "table.csv").write_text("value\n1\n")
    assert executed_now() == "123"
    (tmp_path / "results" / "table.csv").write_text("value\n2\n")
    assert executed_now() == "123"
    monkeypatch.setenv("SIAMESE_DATA", str(tmp_path / "data"))
    assert executed_now() == "123"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "images.bin").write_text("other data")
    assert executed_now() == "123" and executed_now() == ""
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "table.csv").write_text("value\n3\n")  # what notebooks elsewhere read
    monkeypatch.setattr(execution, "results_dir", lambda: tmp_path / "project")
    assert executed_now() == "123" and executed_now() == ""
    assert len(list((tmp_path / "build" / "executed").iterdir())) == 3  # older ones do not pile up


# --- rendering stored outputs: no kernel needed -------------------------------------------------------------


def test_nothing_is_fetched(tmp_path: Path) -> None:
    soup = render(
        tmp_path,
        "# Page\n\n![badge](https://example.org/badge.svg) <script src='https://example.org/x.js'></script>\n\n"
        "<link rel='stylesheet' href='https://example.org/x.css'>\n\n<p onclick='f()'>Prose.</p>",
        code(
            "x",
            display({"text/html": "<script>f()</script><style>@import 'https://example.org/f';</style><b>kept</b>"}),
            display({"text/html": "<iframe src='https://example.org'></iframe>"}),
            display({"application/javascript": "f()", "text/plain": "<Javascript object>"}),
        ),
    )
    assert report.check_site(tmp_path / "site") == []
    assert not soup.select("iframe, script[src], link[href^=http], img[src^=http], [onclick]")
    assert len(soup.select("script")) == 1, "only the page's own, named in the security policy"
    assert "default-src 'none'" in soup.select_one("meta[http-equiv]")["content"]
    text = soup.article.get_text()
    assert "badge" in text and "kept" in text and "Javascript object" not in text
    for name in ("src", "href"):
        outside = [tag for tag in soup.select(f"[{name}]") if "://" in tag[name] and tag.name != "a"]
        assert not outside


def test_equations_become_mathml(tmp_path: Path) -> None:
    soup = render(
        tmp_path,
        "# Page\n\nInline $d(u, v) < m$ and\n\n$$\\max\\bigl(0, m\\bigr)$$\n\n"
        "\\begin{align}\na &= \\arg\\max_k b \\\\\n&= \\mathbf{x}\n\\end{align}\n\nIt cost \\$5, code `$x$`.",
    )
    formulas = soup.select("article math")
    assert [formula["display"] for formula in formulas] == ["inline", "block", "block"]
    assert formulas[0]["alttext"] == "d(u, v) < m" and formulas[0].get_text() == "d(u,v)<m"
    assert "𝐱" in formulas[2].get_text() and formulas[2].select("mtable")
    assert not soup.select(".tex-error")
    assert "$5, code $x$" in soup.article.get_text()


@pytest.mark.parametrize(
    "latex",
    [
        r"\mathcal{L} = \frac{1}{N}\sum_{i=1}^{N} \log \frac{e^{s_i/\tau}}{\sum_j e^{s_j/\tau}}",
        r"\underset{k}{\arg\min}\; \lVert z_q - \boldsymbol{\mu}_k \rVert_2^2",
        r"\hat p \pm 1.96\sqrt{\tfrac{\hat p(1-\hat p)}{n}}",
        r"y = \begin{cases} 1 & \text{same} \\ 0 & \text{different} \end{cases}",
        r"\begin{aligned} a &= b \\ &\le c \end{aligned}",
        r"z \in \mathbb{R}^{D}, \quad \operatorname{AUC} \approx 84.5\,\%",
    ],
)
def test_equations_of_the_field_are_understood(latex: str) -> None:
    html = equation(latex, block=True)
    assert "<math" in html and "tex-error" not in html
    assert "\\" not in BeautifulSoup(html, "html.parser").get_text()


def test_equation_that_cannot_be_set_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soup = render(tmp_path, "# Page\n\n$\\nosuchcommand{x}$")
    assert soup.select_one(".tex-error").text == r"\nosuchcommand{x}"
    assert any("nosuchcommand" in problem for problem in report.check_site(tmp_path / "site"))
    assert "nosuchcommand" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "described"),
    [
        (display({"image/png": png()}, {"image/png": {"alt": "A square."}}), True),
        (display({"image/jpeg": png()}, {"image/jpeg": {"alt": "A square."}}), True),
        (display({"image/svg+xml": "<svg/>"}, {"image/svg+xml": {"alt": "A square."}}), True),
        (display({"image/png": png()}), False),
        (display({"image/svg+xml": "<svg/>"}), False),
        (display({"text/html": f"<img src='data:image/png;base64,{png()}'>"}), False),
        (display({"text/html": f"<img alt=' ' src='data:image/png;base64,{png()}'>"}), False),
    ],
)
def test_figures_without_alt_text_are_reported(tmp_path: Path, output: NotebookNode, described: bool) -> None:
    soup = render(tmp_path, "# Page", code("figure", output))
    problems = report.check_site(tmp_path / "site")
    assert [bool(re.search("no alt text", problem)) for problem in problems] == ([] if described else [True])
    if described:
        assert soup.select_one("article img")["alt"] == "A square."


def test_local_images_are_embedded_and_links_followed(tmp_path: Path) -> None:
    notebooks = tmp_path / "notebooks"
    notebooks.mkdir()
    (notebooks / "square.png").write_bytes(base64.b64decode(png()))
    write(notebooks / "02_next.ipynb", "# Next", "## A part")
    soup = render(
        tmp_path,
        "# Page\n\n![A square](square.png) [next](02_next.ipynb#A-part) [code](../losses.py)\n\n"
        "## Same\n\n## Same\n\n[second](#Same-2) [paper](https://arxiv.org/abs/1503.03832)",
    )
    assert soup.select_one("img")["src"].startswith("data:image/png;base64,")
    targets = {link.text: link["href"] for link in soup.select("article .prose p a")}
    assert targets == {
        "next": "02_next.html#A-part",
        "second": "#Same-2",
        "paper": "https://arxiv.org/abs/1503.03832",
    }, "a file that is not part of the site is named, not linked"
    assert report.check_site(tmp_path / "site") == []
    assert soup.select_one("a[rel=next]")["href"] == "02_next.html"
    assert [link["href"] for link in soup.select(".side .contents a")] == ["#Same", "#Same-2"]


def test_check_site_finds_broken_links_and_requests(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        "<a href='b.html'>b</a> <a href='#no'>no</a> <img alt='x' src='x.png'> <link href='https://example.org/x.css'>"
        "<p style='background: url(https://example.org/x)'>"
    )
    found = "\n".join(report.check_site(tmp_path))
    for part in ("b.html leads nowhere", "#no names a heading", "fetches x.png", "x.css", "a style of <p>"):
        assert part in found
    assert len(report.check_site(tmp_path)) == 5


def test_code_is_folded_unless_the_cell_says_otherwise(tmp_path: Path) -> None:
    soup = render(
        tmp_path,
        "# Page",
        code("# NBVAL_CHECK_OUTPUT\n# Count the classes\n%matplotlib inline\nlen(classes)"),
        code("shown", tags=("show-input",)),
        code("hidden", new_output("stream", name="stdout", text="only output"), tags=("remove-input",)),
        code("gone", tags=("remove-cell",)),
        code("!git clone", tags=("frame",)),
    )
    blocks = soup.select("details.code")
    assert [block.has_attr("open") for block in blocks] == [False, True]
    assert blocks[0].summary.span.text == "Count the classes"
    text = soup.article.get_text()
    assert "only output" in text
    assert not [word for word in ("NBVAL", "hidden", "gone", "clone") if word in text]


def test_widgets_and_progress_bars_are_dropped_but_warnings_stay(tmp_path: Path) -> None:
    bar = "epochs:  10%|█  | 1/10 [00:00<00:03,  2.9it/s]\repochs: 100%|███| 10/10 [00:03<00:00,  2.9it/s]\n"
    soup = render(
        tmp_path,
        "# Page",
        code(
            "train()",
            new_output("stream", name="stderr", text=bar + "UserWarning: few images\n"),
            display({"application/vnd.jupyter.widget-view+json": "{}", "text/plain": "HBox(children=...)"}),
        ),
    )
    assert [block.text for block in soup.select("article pre.text")] == ["UserWarning: few images\n"]


def test_text_columns_of_tables_are_set_left(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    columns = {"metric": ["acc_5w1s", "auc"], "value": [73.6, -1e-3], "n": ["73.6 ± 0.3", "1,000"]}
    table = pandas.DataFrame(columns)
    soup = render(tmp_path, "# Page", code("table", display({"text/html": table.to_html()})))
    rows = [row.find_all(["th", "td"]) for row in soup.select("tr")]
    classes = [[" ".join(cell.get("class", ())) for cell in row] for row in rows]
    assert classes == [["", "words short value", "", ""]] * 3  # a value is not broken
    assert soup.select_one(".scroll > table") and not soup.select("table[border]")


def test_source_of_real_data_shows_no_banner(tmp_path: Path) -> None:
    output = display({"text/html": '<p data-siamese-source="cifar100">Real.</p>'})
    soup = render(tmp_path, "# Page", code("x", output))
    assert not soup.select(".banner")
    assert "Data: CIFAR-100" in soup.select_one(".facts").text


def test_headline_figure_needs_a_description(tmp_path: Path) -> None:
    write(tmp_path / "notebooks" / "01_page.ipynb", "# Page")
    figures = tmp_path / "figures"
    figures.mkdir()
    (figures / "headline.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    with pytest.raises(ReportError, match=r"headline\.alt\.txt"):
        report.build_report(tmp_path / "notebooks", tmp_path / "site", execute=False)
    (figures / "headline.alt.txt").write_text("Accuracy\nby split.\n")
    (tmp_path / "README.md").write_text("# The title\n")
    index = report.build_report(tmp_path / "notebooks", tmp_path / "site", execute=False)
    image = soup_of(index).select_one(".headline img")
    assert image["alt"] == "Accuracy by split." and image["src"].startswith("data:image/svg+xml;base64,")
    assert soup_of(index).h1.text == "The title"


def test_bad_requests_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="There is no folder"):
        report.build_report(tmp_path / "none", tmp_path / "site")
    (tmp_path / "notebooks").mkdir()
    with pytest.raises(ReportError, match="no numbered notebook"):
        report.build_report(tmp_path / "notebooks", tmp_path / "site")
    path = write(tmp_path / "notebooks" / "01_page.ipynb", "# Page")
    with pytest.raises(UnknownNameError, match="'report'"):
        report.build_report(tmp_path / "notebooks", tmp_path / "site", profile="reprot")
    with pytest.raises(ReportError, match=r"01_page\.ipynb"):
        report.execute_in_place(tmp_path / "notebooks", only=["07"])
    with pytest.raises(ReportError, match="results of one's own"):
        report.execute_in_place(tmp_path / "notebooks", "anew")
    path.write_text(path.read_text()[:40])
    with pytest.raises(ReportError, match=r"01_page\.ipynb cannot be read"):
        report.build_report(tmp_path / "notebooks", tmp_path / "site", execute=False)


def test_importing_the_package_does_not_import_the_report() -> None:
    """The report's libraries are for those who build it; users of an encoder should not wait for them."""
    program = "import sys, siamese_utils; print('siamese_utils.report.site' in sys.modules)"
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(NOTEBOOKS.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "False"


# --- the project's own notebooks ----------------------------------------------------------------------------


@pytest.mark.skipif(not NOTEBOOKS.is_dir(), reason="no notebooks here")
def test_stored_notebooks_render_without_a_flaw(tmp_path: Path) -> None:
    """Every figure has its alt text, every equation is set, every link leads somewhere."""
    report.build_report(NOTEBOOKS, tmp_path, execute=False)
    assert report.check_site(tmp_path) == []
