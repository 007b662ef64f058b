"""Executes the numbered notebooks and renders them as a static site that needs no network.

:func:`build_report` executes, renders and writes the site; :func:`execute_in_place` executes and stores the
outputs back in the notebooks; :func:`check_site` walks a finished site and lists what is wrong with it.

The text of a page is made by nbconvert with the template in ``templates/siamese_report``. Equations become
MathML while rendering, images become data URIs, and a content security policy in each page forbids every
request; without JavaScript only the search and the buttons that unfold and copy code are missing. The first page
opens with the answer (:mod:`siamese_utils.report.answer`), and every page carries the index that it is searched with.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import re
import sys
import urllib.parse
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter

from siamese_utils.report import answer, search
from siamese_utils.report.execute import ReportError, check_profile, execute_notebooks, numbered_notebooks, read, write
from siamese_utils.report.render import (
    TEMPLATES,
    HtmlPage,
    data_uri,
    fetches,
    inline_markdown,
    picture,
    render_notebook,
)
from siamese_utils.report.tidy import tidy_notebook
from siamese_utils.system.devices import processor_name
from siamese_utils.system.project import project_root
from siamese_utils.system.provenance import git_commit, package_version

DEFAULT_TITLE = "Siamese networks for one-shot recognition"
# What nbconvert writes where a figure has no alt text: as good as none.
_NO_ALT = "No description has been provided for this image"


def build_report(
    notebooks_dir: str | Path = "notebooks",
    out_dir: str | Path = "build/report",
    profile: str = "report",
    *,
    execute: bool = True,
) -> Path:
    """Execute the numbered notebooks in order and write the report as a static site.

    The notebooks themselves stay as they are. When a cell fails, the pages of the other notebooks and an index that
    says so are written before the error is raised.

    Args:
        notebooks_dir: folder with ``NN_name.ipynb``; the kernel runs in it.
        out_dir: where the site goes; pages of the same name are replaced.
        profile: what SIAMESE_PROFILE is in the kernels: ``smoke``, ``report``, ``full`` or ``anew``.
        execute: False renders the outputs stored in the notebooks, which takes seconds.

    Returns:
        The path of the site's index page.

    Raises:
        ReportError: no notebooks, a failing cell (the text names notebook, cell and error), a headline figure
            without its description, or a folder that cannot be written.
        UnknownNameError: a profile that does not exist.
    """
    notebooks = numbered_notebooks(notebooks_dir)
    check_profile(profile)
    out = Path(out_dir)
    root = Path(notebooks_dir).resolve().parent
    if profile == "anew" and not execute:
        raise ReportError("What is stored in the notebooks is what is published, and nothing anew; leave out --stored.")
    # Answer, headline and pictures are those of what is published.
    published = profile != "anew" and _is_project(root)
    headline = _headline(root / "figures") if profile != "anew" else None
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in notebooks:
            # A page of an earlier run must not pass for one of this run.
            (out / f"{path.stem}.html").unlink(missing_ok=True)
    except OSError as error:
        raise ReportError(f"The report cannot be written to {out} ({error}); name another folder.") from error

    pages: list[HtmlPage] = []
    failure = ""
    try:
        ended: Iterable[tuple[Path, NotebookNode, float | None]]
        ended = execute_notebooks(notebooks, profile) if execute else ((path, read(path), None) for path in notebooks)
        for path, notebook, seconds in ended:
            page = render_notebook(notebook, path)
            page.seconds, page.profile = seconds, profile
            pages.append(page)
    except BaseException as error:
        failure = str(error) if isinstance(error, ReportError) else f"The run ended with {type(error).__name__}."
        raise
    finally:
        index = _write_site(pages, out, root=root, published=published, headline=headline, failure=failure)
    for problem in check_site(out):
        print(f"warning: {problem}", file=sys.stderr)
    print(f"The report is at {index}")
    return index


def execute_in_place(
    notebooks_dir: str | Path = "notebooks", profile: str = "report", only: Sequence[str] = ()
) -> list[Path]:
    """Execute the numbered notebooks and store their outputs in them, in a form that gives small diffs.

    Each notebook is replaced in one step once it has run through; a failing one stays as it was, and the others go on.

    Args:
        notebooks_dir: folder with ``NN_name.ipynb``.
        profile: what SIAMESE_PROFILE is in the kernels.
        only: beginnings of names, such as ``["03"]``; empty for all.

    Returns:
        The notebooks written.

    Raises:
        ReportError: no such notebook, or a failing cell.
        UnknownNameError: a profile that does not exist.
    """
    check_profile(profile)
    if profile == "anew":
        raise ReportError(
            "The notebooks keep the outputs of what is published, and the profile anew shows results of one's own; "
            "leave out --in-place."
        )
    notebooks = numbered_notebooks(notebooks_dir, only)
    for path, notebook, _ in execute_notebooks(notebooks, profile, in_place=True):
        tidy_notebook(notebook, path.resolve().parent.parent)
        write(path, nbformat.writes(notebook) + "\n")
    return notebooks


def check_site(out_dir: str | Path) -> list[str]:
    """List what is wrong with a rendered site, a sentence each; an empty list is a clean one.

    Looked for: images without alt text, anything a browser would fetch, links that lead nowhere, equations
    that could not be set.
    """
    out = Path(out_dir)
    parsed = {path.name: BeautifulSoup(path.read_text("utf-8"), "html.parser") for path in sorted(out.glob("*.html"))}
    anchors = {name: {tag["id"] for tag in soup.select("[id]")} for name, soup in parsed.items()}
    problems: list[str] = []
    for name, soup in parsed.items():
        problems += [f"{name}: {problem}" for problem in _page_problems(soup)]
        for link in soup.select("a[href]"):
            target = urllib.parse.urlsplit(str(link["href"]))
            if target.scheme or target.netloc:
                continue
            page = urllib.parse.unquote(target.path) or name
            if page not in parsed and not (out / page).is_file():
                problems.append(f"{name}: the link to {link['href']} leads nowhere.")
            elif target.fragment and urllib.parse.unquote(target.fragment) not in anchors.get(page, set()):
                problems.append(f"{name}: the link to {link['href']} names a heading that is not there.")
    return problems


def _write_site(
    pages: list[HtmlPage], out: Path, *, root: Path, published: bool, headline: dict[str, str] | None, failure: str = ""
) -> Path:
    """Write the index and one page a notebook; return the index's path."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    for page in pages:
        _tell(page, root, published)
    shared: dict[str, Any] = {
        "site_title": _site_title(root),
        "css": _style_sheet(),
        "pages": pages,
        "answer": answer.answer() if published else None,
        "synthetic": [page.short for page in pages if "synthetic" in page.sources],
        "provenance": made_by(root),
        "headline": headline,
        "failure": failure,
        "inline": inline_markdown,
    }
    first = environment.get_template("opening.html.j2").render(shared)
    script = _script(pages, first)
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    shared |= {"opening": Markup(first), "script": script, "script_hash": f"sha256-{digest}"}
    for number, page in enumerate(pages):
        neighbours = {
            "previous": pages[number - 1] if number else None,
            "following": pages[number + 1] if number + 1 < len(pages) else None,
        }
        html = environment.get_template("page.html.j2").render(shared, current=page, **neighbours)
        write(out / page.file, html)
    index = out / "index.html"
    write(index, environment.get_template("index.html.j2").render(shared, current=None))
    return index


def _is_project(root: Path) -> bool:
    """Whether stored results are those of the project whose pages these are."""
    return (root / "results").is_dir() and root == project_root().resolve()


def _tell(page: HtmlPage, root: Path, published: bool) -> None:
    """Give a page its finding and its picture: by its name, or else as its own text and figures tell them."""
    if "synthetic" not in page.sources:
        page.finding = page.told
    if published:
        page.finding = inline_markdown(answer.page_finding(page.name) or "") or page.finding
        if file := answer.page_picture(page.name, root / "figures"):
            page.picture = picture(file.read_bytes(), file.with_name(f"{file.stem}.alt.txt").read_text("utf-8"))
    if page.finding:
        head, end, rest = page.body.partition("</section>")  # of the title and the question
        page.body = f'{head}{end}\n<p class="in-short"><strong>In short.</strong> {page.finding}</p>{rest}'


def _script(pages: list[HtmlPage], first: str) -> str:
    """What runs in every page: the index for the search, the search, and the buttons."""
    index = [("index.html", "Overview", search.sections(BeautifulSoup(first, "html.parser")))]
    index += [(page.file, page.short, page.sections) for page in pages]
    return search.script(index) + "".join((TEMPLATES / name).read_text("utf-8") for name in ("search.js", "page.js"))


def _style_sheet() -> str:
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    code = f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    # Ours comes last, so that its background wins over those of the two schemes.
    return code + (TEMPLATES / "style.css").read_text("utf-8")


def _site_title(root: Path) -> str:
    readme = root / "README.md"
    text = readme.read_text("utf-8") if readme.is_file() else ""
    heading = re.search(r"^#\s+(.+?)\s*#*$", text, re.MULTILINE)
    return heading.group(1) if heading else DEFAULT_TITLE


def _headline(figures: Path) -> dict[str, str] | None:
    """Return the README's headline figure with its description, or None where there is none."""
    candidates = (figures / name for name in ("headline.svg", "headline.png"))
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        return None
    description = figures / "headline.alt.txt"
    alt = description.read_text("utf-8").strip() if description.is_file() else ""
    if not alt:
        raise ReportError(f"{file} has no description; say in {description} what the figure shows.")
    return {"src": data_uri(file), "alt": " ".join(alt.split())}


def made_by(root: Path) -> list[str]:
    """Say what made the report: package, commit, date, versions and processor, one short text each."""
    facts = [f"siamese_utils {package_version('siamese_utils')}"]
    commit = git_commit(root)
    if commit:
        facts.append(f"commit {commit}")
    facts.append(datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"))
    facts.append(f"Python {platform.python_version()}")
    facts.append(f"PyTorch {package_version('torch')}")
    facts.append(f"{processor_name()}, {os.cpu_count()} logical cores")
    return facts


def _page_problems(soup: BeautifulSoup) -> list[str]:
    problems = []
    for number, image in enumerate(soup.select("img"), start=1):
        alt = str(image.get("alt", "")).strip()
        if not alt or alt == _NO_ALT:
            remedy = "display it with IPython.display.Image(data=..., alt='what it shows')"
            problems.append(f"image {number} has no alt text; {remedy}.")
    for tag in soup.find_all(True):
        for name in ("src", "srcset", "poster", "data", "background", "xlink:href"):
            value = str(tag.get(name, ""))
            if value and not value.startswith(("data:", "#")):
                problems.append(f"<{tag.name} {name}> fetches {value}.")
        target = str(tag.get("href", "#"))
        if tag.name in ("link", "image", "use") and not target.startswith(("data:", "#")):
            problems.append(f"<{tag.name} href> fetches {target}.")
        if fetches(str(tag.get("style", ""))) or (tag.name == "style" and fetches(tag.get_text())):
            problems.append(f"a style of <{tag.name}> fetches something.")
    for formula in soup.select(".tex-error"):
        problems.append(f"the equation {formula.get_text()} cannot be set; use other LaTeX commands.")
    return problems
