"""Executes the numbered notebooks and renders them as a static site that needs no network.

:func:`build_report` executes, renders and writes the site; :func:`execute_in_place` executes and stores the
outputs back in the notebooks; :func:`check_site` walks a finished site and lists what is wrong with it.

The text of a page is made by nbconvert with the template in ``templates/siamese_report``. Equations become
MathML while rendering, images become data URIs, and a content security policy in each page forbids every
request; without JavaScript only the button that unfolds all code is missing.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import mimetypes
import os
import platform
import re
import sys
import time
import urllib.parse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup, Tag
from ipykernel.kernelspec import get_kernel_dict
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager, KernelManager
from latex2mathml.converter import convert as latex_to_mathml
from markupsafe import Markup
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments.formatters import HtmlFormatter
from tqdm import tqdm

from siamese_utils.errors import SiameseError, unknown
from siamese_utils.system.devices import processor_name
from siamese_utils.system.files import reason, write_text_atomically
from siamese_utils.system.provenance import git_commit, package_version

TEMPLATES = Path(__file__).parent / "templates"
PROFILES = ("smoke", "report", "full")
DEFAULT_TITLE = "Siamese networks for one-shot recognition"
CELL_TIMEOUT = 1800
"""Seconds a cell may take in the profiles that retrain nothing; ``full`` has no limit."""

LEFT_OUT = {"remove-cell", "frame"}
SOURCE_NAMES = {"cifar100": "CIFAR-100", "synthetic": "synthetic"}
_SOURCE_MARKER = re.compile(r"""data-siamese-source=["']([^"']+)["']""")
_NUMBERED = re.compile(r"\d+[a-z]?_.+\.ipynb")
_PROGRESS_BAR = re.compile(r"\d+%\|.*\||\d+it \[\d+:\d\d")
_NBVAL_MARKER = re.compile(r"^#\s*NBVAL_\w+.*\n?", re.MULTILINE)
_NUMBER = re.compile(r"[-+−]?[\d,. ]*\d[\d,.]*(e[-+]?\d+)?( ?%)?( ?± ?[\d.]+)?|nan|NaN|–|", re.IGNORECASE)
# What nbconvert writes where a figure has no alt text: as good as none.
_NO_ALT = "No description has been provided for this image"


class ReportError(SiameseError, RuntimeError):
    """The report cannot be built: no notebooks, a failing cell, or a figure without a description."""


@dataclass(frozen=True)
class Heading:
    """One line of a page's table of contents."""

    level: int
    id: str
    text: Markup


@dataclass
class Page:
    """A rendered notebook, ready to be put into the page template.

    Attributes:
        name: the notebook's file name without its suffix.
        title: its first heading, as plain text.
        summary: its first paragraph, as inline HTML.
        contents: headings of levels 2 and 3, for the table of contents.
        body: the rendered cells.
        seconds: how long the execution took; None where stored outputs were rendered.
        sources: data sources that its outputs name (``data-siamese-source``), sorted.
        profile: the profile it ran in.
    """

    name: str
    title: str
    summary: Markup
    contents: list[Heading]
    body: str
    seconds: float | None = None
    sources: list[str] = field(default_factory=list)
    profile: str = "report"

    @property
    def file(self) -> str:
        """Name of the page's file, relative to the index."""
        return f"{self.name}.html"

    @property
    def seconds_text(self) -> str:
        """Seconds of the execution, for a table."""
        return "–" if self.seconds is None else f"{self.seconds:.0f}"

    @property
    def data_text(self) -> str:
        """Data that the live cells used, for a table."""
        return ", ".join(SOURCE_NAMES.get(source, source) for source in self.sources) or "–"

    @property
    def facts(self) -> list[str]:
        """What the line above the page's text says of its execution."""
        ran = "Stored outputs" if self.seconds is None else f"Ran in {self.seconds:.0f} s"
        data = [f"Data: {self.data_text}"] if self.sources else []
        return [ran, *data, f"Profile: {self.profile}"]


# --- the three entry points ---------------------------------------------------------------------------------


def build_report(
    notebooks_dir: str | Path = "notebooks",
    out_dir: str | Path = "build/report",
    profile: str = "report",
    *,
    execute: bool = True,
) -> Path:
    """Execute the numbered notebooks in order and write the report as a static site.

    The notebooks themselves stay as they are. When a cell fails, the pages of the notebooks before it and an
    index that says so are written before the error is raised.

    Args:
        notebooks_dir: folder with ``NN_name.ipynb``; the kernel runs in it.
        out_dir: where the site goes; pages of the same name are replaced.
        profile: what SIAMESE_PROFILE is in the kernels: ``smoke``, ``report`` or ``full``.
        execute: False renders the outputs stored in the notebooks, which takes seconds.

    Returns:
        The path of the site's index page.

    Raises:
        ReportError: no notebooks, a failing cell (the text names notebook, cell and error), a headline figure
            without its description, or a folder that cannot be written.
        UnknownNameError: a profile that does not exist.
    """
    notebooks = numbered_notebooks(notebooks_dir)
    _check_profile(profile)
    out = Path(out_dir)
    root = Path(notebooks_dir).resolve().parent
    headline = _headline(root / "figures")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in notebooks:
            # A page of an earlier run must not pass for one of this run.
            (out / f"{path.stem}.html").unlink(missing_ok=True)
    except OSError as error:
        raise ReportError(f"The report cannot be written to {out} ({error}); name another folder.") from error

    pages: list[Page] = []
    failure = ""
    try:
        for path in notebooks:
            if execute:
                notebook, seconds = execute_notebook(path, profile)
            else:
                notebook, seconds = _read(path), None
            page = render_notebook(notebook, path)
            page.seconds, page.profile = seconds, profile
            pages.append(page)
    except BaseException as error:
        failure = (
            str(error) if isinstance(error, ReportError) else f"The run ended with {type(error).__name__}."
        )
        raise
    finally:
        index = _write_site(pages, out, root=root, headline=headline, failure=failure)
    for problem in check_site(out):
        print(f"warning: {problem}", file=sys.stderr)
    print(f"The report is at {index}")
    return index


def execute_in_place(
    notebooks_dir: str | Path = "notebooks", profile: str = "report", only: Sequence[str] = ()
) -> list[Path]:
    """Execute the numbered notebooks and store their outputs in them, in a form that gives small diffs.

    Each notebook is replaced in one step once it has run through; a failing one stays as it was.

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
    _check_profile(profile)
    notebooks = numbered_notebooks(notebooks_dir, only)
    for path in notebooks:
        notebook, _ = execute_notebook(path, profile)
        tidy_notebook(notebook, path.resolve().parent.parent)
        _write(path, nbformat.writes(notebook) + "\n")
    return notebooks


def check_site(out_dir: str | Path) -> list[str]:
    """List what is wrong with a rendered site, a sentence each; an empty list is a clean one.

    Looked for: images without alt text, anything a browser would fetch, links that lead nowhere, equations
    that could not be set.
    """
    out = Path(out_dir)
    parsed = {
        path.name: BeautifulSoup(path.read_text("utf-8"), "html.parser")
        for path in sorted(out.glob("*.html"))
    }
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


# --- executing ----------------------------------------------------------------------------------------------


def numbered_notebooks(notebooks_dir: str | Path, only: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks named ``NN_name.ipynb`` in order; ``only`` keeps those whose name begins so.

    Raises:
        ReportError: the folder or the notebooks are missing.
    """
    folder = Path(notebooks_dir)
    if not folder.is_dir():
        raise ReportError(
            f"There is no folder {folder}; run this in the project's root or name the notebooks' folder."
        )
    found = sorted(path for path in folder.glob("*.ipynb") if _NUMBERED.fullmatch(path.name))
    if not found:
        raise ReportError(f"The folder {folder} has no numbered notebook such as 01_data_exploration.ipynb.")
    for start in only:
        if not any(path.name.startswith(start) for path in found):
            raise ReportError(f"No notebook in {folder} begins with {start!r}; there are {_listing(found)}.")
    return [path for path in found if not only or path.name.startswith(tuple(only))]


class _ThisPython(KernelSpecManager):
    """Answers every kernel name with the interpreter that runs now, whatever kernels are registered."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        spec = get_kernel_dict()
        spec["argv"][0] = sys.executable
        return KernelSpec(**spec)


class _Client(NotebookClient):
    def create_kernel_manager(self) -> KernelManager:
        self.km = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=_ThisPython(parent=self))
        return self.km


def execute_notebook(path: Path, profile: str) -> tuple[NotebookNode, float]:
    """Execute one notebook in a fresh kernel of this interpreter, in the notebook's folder.

    Returns:
        The notebook with its outputs, and the seconds that took.

    Raises:
        ReportError: a cell failed, took too long or ended its kernel.
    """
    notebook = _read(path)
    cells = notebook.cells
    current = 0
    bar = tqdm(total=len(cells), desc=path.stem, unit="cell", leave=False, disable=not sys.stderr.isatty())

    def started(cell: NotebookNode, cell_index: int) -> None:
        nonlocal current
        current = cell_index
        bar.update(cell_index - bar.n)

    client = _Client(
        notebook,
        timeout=None if profile == "full" else CELL_TIMEOUT,
        resources={"metadata": {"path": str(path.resolve().parent)}},
        store_widget_state=False,
        record_timing=False,
        # Kernels warn at each start that they talk over the loopback interface; errors still come through.
        extra_arguments=["--IPKernelApp.log_level=40"],
        on_cell_start=started,
    )
    begin = time.perf_counter()
    try:
        with bar:
            client.execute(env=_kernel_environment(profile))
    except CellExecutionError as error:
        raise ReportError(_failure(path, cells, current, error.ename, error.evalue)) from None
    except CellTimeoutError:
        limit = f"took longer than {CELL_TIMEOUT} seconds"
        raise ReportError(_failure(path, cells, current, "time-out", limit)) from None
    except (DeadKernelError, RuntimeError) as error:
        lost = f"the kernel ended, perhaps for want of memory ({error})"
        raise ReportError(_failure(path, cells, current, "no answer", lost)) from None
    seconds = time.perf_counter() - begin
    print(f"{path.stem}: {len(cells)} cells, {seconds:.1f} s", flush=True)
    return notebook, seconds


def _kernel_environment(profile: str) -> dict[str, str]:
    environment = dict(os.environ)
    environment["SIAMESE_PROFILE"] = profile
    # Progress bars are for people who wait; stored, they are noise that differs in every run.
    environment["TQDM_DISABLE"] = "1"
    environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    package_root = Path(__file__).resolve().parents[2]
    if package_root.name not in ("site-packages", "dist-packages"):
        # The notebooks import this copy of the package, also where it has not been installed.
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([str(package_root), *([known] if known else [])])
    return environment


def _failure(path: Path, cells: list[NotebookNode], index: int, name: str, text: str) -> str:
    def first_line(lines: str) -> str:
        return next((line.strip() for line in lines.splitlines() if line.strip()), "")

    source = first_line(_NBVAL_MARKER.sub("", cells[index].source))[:80]
    reason = first_line(_ansi_free(text))[:400].rstrip(".")
    where = f"cell {index + 1} of {len(cells)} (“{source}”)"
    return f"Notebook {path.name} failed in {where} with {name}: {reason}."


def _ansi_free(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _check_profile(profile: str) -> None:
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)


def _read(path: Path) -> NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise ReportError(f"{path} cannot be read as a notebook ({error}); restore it from git.") from error


def _write(path: Path, text: str) -> None:
    try:
        write_text_atomically(path, text)
    except OSError as error:
        raise ReportError(f"{path} cannot be written ({reason(error)}); make room or name another folder.") from error


def _listing(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in paths)


# --- tidying ------------------------------------------------------------------------------------------------


def tidy_notebook(notebook: NotebookNode, root: Path) -> None:
    """Remove, in place, what differs between runs and machines or only works in a live kernel.

    That is: timings, editor settings, widget state, progress bars, scripts, and absolute paths (those below
    ``root`` become relative, the home folder becomes ``~``).
    """
    kept = {"accelerator"} & notebook.metadata.keys()
    notebook.metadata = NotebookNode(
        {
            **{key: notebook.metadata[key] for key in kept},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        kept = {"tags", "alt", "jupyter"} & cell.metadata.keys()
        cell.metadata = NotebookNode({key: cell.metadata[key] for key in sorted(kept)})
        if cell.cell_type == "code":
            tidied = (_tidy_output(output, root) for output in cell.outputs)
            cell.outputs = [output for output in tidied if output is not None]


def _tidy_output(output: NotebookNode, root: Path) -> NotebookNode | None:
    """Return the output without progress bars, widgets and private paths; None when nothing is left."""
    if output.output_type == "stream":
        lines = re.split(r"(?<=\n)|\r", output.text)
        text = "".join(line for line in lines if not _PROGRESS_BAR.search(line))
        if not text.strip():
            return None
        output.text = _without_paths(text, root)
    elif output.output_type == "error":
        output.traceback = [_without_paths(line, root) for line in output.traceback]
    else:
        live_only = ("application/vnd.jupyter.widget-view+json", "application/javascript")
        if any(kind in output.data for kind in live_only):
            if "text/html" not in output.data:
                return None
            for kind in live_only:
                output.data.pop(kind, None)
        for kind, content in output.data.items():
            if kind.startswith("text/") and isinstance(content, str):
                output.data[kind] = _without_paths(content, root)
    return output


def _without_paths(text: str, root: Path) -> str:
    text = re.sub(r"[^\s'\"<>]*ipykernel_\d+[/\\]\d+\.py", "<cell>", text)
    for folder, short in ((root.resolve(), "."), (Path.home(), "~")):
        if len(folder.parts) > 1:
            text = re.sub(rf"(?<![\w.]){re.escape(str(folder))}(?![\w.-])", short, text)
    return text


# --- rendering a notebook -----------------------------------------------------------------------------------


def equation(latex: str, *, block: bool) -> str:
    r"""Return LaTeX mathematics as MathML that browsers set without help.

    What cannot be translated, such as an unknown command, is shown as it was written and marked
    ``class="tex-error"``, which :func:`check_site` reports.

    Args:
        latex: the formula without its dollar signs.
        block: whether it stands on a line of its own.
    """
    source = latex.strip()
    text = re.sub(r"\\(begin|end)\{(aligned|split|align|eqnarray\*?)\}", r"\\\1{align*}", source)
    text = re.sub(r"\\(begin|end)\{equation\*?\}|\\label\{[^}]*\}|\\nonumber|\\displaystyle", "", text)
    # The converter knows the common functions, but not these.
    text = re.sub(r"\\(arg|sgn|sign)(?![a-zA-Z])", r"\\operatorname{\1}", text)
    try:
        soup = BeautifulSoup(latex_to_mathml(text, display="block" if block else "inline"), "html.parser")
    except Exception:  # the converter raises many kinds; whichever it was, the reader gets the source
        return _untranslated(source)
    if any(leaf.startswith("\\") or leaf == "&" for leaf in soup.stripped_strings):
        return _untranslated(source)
    math = soup.find("math")
    assert isinstance(math, Tag)
    math["alttext"] = source
    del math["xmlns"]
    for operator in math.select("mo"):
        # As an operator, "max" would get the wide spaces of a relation on both sides.
        if len(operator.text) > 1 and operator.text.isalpha() and not operator.has_attr("movablelimits"):
            operator.name = "mi"
    for letter in math.select("[mathvariant]"):
        _embolden(letter)
    for cell in math.select("mtd[columnalign]"):
        # MathML Core has no columnalign; the style does the same.
        cell["style"] = f"text-align: {cell['columnalign']}"
        del cell["columnalign"]
    return f'<span class="equation">{math}</span>' if block else str(math)


def _embolden(letter: Tag) -> None:
    """Write a bold letter as Unicode's own bold character, since MathML Core knows no bold variant."""
    starts = {
        "bold": (0x1D400, 0x1D41A, 0x1D7CE, 0x1D6C2),
        "bold-italic": (0x1D468, 0x1D482, 0x1D7CE, 0x1D736),
    }
    text, variant = letter.get_text(), str(letter["mathvariant"])
    if variant in starts and len(text) == 1:
        for first, last, start in zip("Aa0α", "Zz9ω", starts[variant]):
            if first <= text <= last:
                letter.string = chr(start + ord(text) - ord(first))
                del letter["mathvariant"]


def _untranslated(latex: str) -> str:
    return f'<code class="tex-error">{Markup.escape(latex)}</code>'


class _Renderer(IPythonRenderer):
    """Markdown to HTML with equations as MathML."""

    def block_math(self, body: str) -> str:
        return equation(body, block=True)

    def inline_math(self, body: str) -> str:
        return equation(body, block=False)

    def latex_environment(self, name: str, body: str) -> str:
        return equation(f"\\begin{{{name}}}{body}\\end{{{name}}}", block=True)


class _Exporter(HTMLExporter):
    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        attachments = context.get("cell", {}).get("attachments", {})
        renderer = _Renderer(escape=False, attachments=attachments, exclude_anchor_links=True)
        return MarkdownWithMath(renderer=renderer).render(source)


def render_notebook(notebook: NotebookNode, path: Path) -> Page:
    """Render the cells of an executed notebook.

    Cells tagged ``remove-cell`` and those tagged ``frame``, which fetch the project on Colab, are left out;
    ``remove-input`` drops the code, ``show-input`` unfolds it.

    Args:
        notebook: with its outputs; it is not changed.
        path: where it lies; local images and links are taken from there.
    """
    notebook = copy.deepcopy(notebook)
    tidy_notebook(notebook, path.resolve().parent.parent)
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    html_outputs = [
        output.data["text/html"]
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "text/html" in output.get("data", {})
    ]
    sources = sorted({source for html in html_outputs for source in _SOURCE_MARKER.findall(html)})
    notebook.cells = [cell for cell in notebook.cells if not LEFT_OUT & set(cell.metadata.get("tags", ()))]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            _prepare_code(cell)

    exporter = _Exporter(extra_template_basedirs=[str(TEMPLATES)], template_name="siamese_report")
    body, _ = exporter.from_notebook_node(notebook)
    soup = BeautifulSoup(body, "html.parser")
    _remove_active_parts(soup)
    _embed_images(soup, path.parent)
    _mend_links(soup, {other.stem for other in numbered_notebooks(path.parent)})
    _frame_tables(soup)
    contents = _number_headings(soup)
    heading = soup.find("h1")
    return Page(
        name=path.stem,
        title=heading.get_text(" ", strip=True) if heading else path.stem.replace("_", " "),
        summary=_first_paragraph(soup),
        contents=contents,
        body=str(soup),
        sources=sources,
    )


def _prepare_code(cell: NotebookNode) -> None:
    tags = cell.metadata.get("tags", ())
    cell.source = "" if "remove-input" in tags else _NBVAL_MARKER.sub("", cell.source)
    comment = re.match(r"#+\s*(\S.*)", cell.source)
    cell.metadata["siamese_summary"] = comment.group(1) if comment else ""
    cell.metadata["siamese_open"] = "show-input" in tags


def _remove_active_parts(soup: BeautifulSoup) -> None:
    """Drop what would run or fetch: scripts, frames, style sheets from elsewhere, event handlers."""
    for tag in soup.select("script, noscript, iframe, object, embed, link, base, meta, style[scoped]"):
        tag.decompose()
    for style in soup.select("style"):
        if _fetches(style.get_text()):
            style.decompose()
    for tag in soup.find_all(True):
        for name in [name for name in tag.attrs if name.startswith("on")]:
            del tag[name]


def _fetches(css: str) -> bool:
    return "@import" in css or re.search(r"url\(\s*['\"]?(?!data:|#)", css) is not None


def _embed_images(soup: BeautifulSoup, folder: Path) -> None:
    for image in soup.select("img"):
        source = str(image.get("src", ""))
        if source.startswith("data:"):
            continue
        file = folder / urllib.parse.unquote(source)
        if "://" not in source and file.is_file():
            image["src"] = data_uri(file)
        else:
            # An image from elsewhere, such as a badge, would be a request; its description says the same.
            image.replace_with(str(image.get("alt") or source))


def data_uri(file: Path) -> str:
    """Return an image file as a URI that holds its bytes."""
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"


def _mend_links(soup: BeautifulSoup, pages: set[str]) -> None:
    """Point links between notebooks at their pages, and unlink files that are not part of the site."""
    for link in soup.select("a[href]"):
        target = urllib.parse.urlsplit(str(link["href"]))
        if target.scheme or target.netloc:
            link["rel"] = "noopener"
            continue
        file = Path(urllib.parse.unquote(target.path))
        if file.suffix == ".ipynb" and file.stem in pages and len(file.parts) == 1:
            link["href"] = f"{file.stem}.html" + (f"#{target.fragment}" if target.fragment else "")
        elif target.path:
            link.name = "span"
            link.attrs = {"title": target.path.lstrip("./")}


def _frame_tables(soup: BeautifulSoup) -> None:
    """Let wide tables scroll by themselves; lay coloured ones on a light card, which their colours need."""
    coloured = any("#T_" in style.get_text() for style in soup.select("style"))
    for table in soup.select("table"):
        del table["border"]
        attributes = {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "Table"}
        frame = soup.new_tag("div", attrs=attributes)
        if coloured and str(table.get("id", "")).startswith("T_"):
            frame["class"] = "scroll light"
        table.wrap(frame)
        if "dataframe" in table.get("class", ()):
            _align_columns(table)


def _align_columns(table: Tag) -> None:
    """Set columns of a pandas table that hold text to the left; numbers stay at the right."""
    body = [row.find_all(["th", "td"]) for row in table.select("tbody tr")]
    if not body or len({len(row) for row in body}) != 1:
        return  # merged cells: positions in a row do not name columns
    header = [row.find_all(["th", "td"]) for row in table.select("thead tr")]
    for column, cells in enumerate(zip(*body)):
        if any(cell.name == "td" and not _NUMBER.fullmatch(cell.get_text(strip=True)) for cell in cells):
            for row in [*header, *body]:
                if len(row) == len(body[0]):
                    row[column]["class"] = "words" if len(row[column].get_text()) > 24 else "words short"


def _number_headings(soup: BeautifulSoup) -> list[Heading]:
    """Give each heading an id of its own by Jupyter's rule (spaces become hyphens); list levels 2 and 3."""
    taken: set[str] = set()
    contents = []
    for heading in soup.select("h1, h2, h3, h4"):
        base = re.sub(r"\s+", "-", heading.get_text(" ", strip=True)) or "section"
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}-{count}"
        taken.add(name)
        heading["id"] = name
        level = int(heading.name[1])
        if level in (2, 3):
            contents.append(Heading(level, name, _inline(heading)))
        if level > 1:
            attributes = {"class": "anchor", "href": f"#{name}", "aria-label": "Link to this part"}
            anchor = soup.new_tag("a", attrs=attributes)
            anchor.string = "#"
            heading.append(anchor)
    return contents


def _inline(tag: Tag) -> Markup:
    """Return the contents of a tag without links, to be shown inside another link or elsewhere."""
    twin = copy.copy(tag)
    for link in twin.select("a"):
        link.unwrap()
    return Markup(twin.decode_contents().strip())  # the markup is nbconvert's own, already escaped


def _first_paragraph(soup: BeautifulSoup) -> Markup:
    """Return the first paragraph of prose that is more than a row of links or badges."""
    for paragraph in soup.select(".prose > p"):
        linked = "".join(link.get_text() for link in paragraph.select("a")).strip()
        text = paragraph.get_text().strip()
        if text and len(linked) < len(text) / 2:
            return _inline(paragraph)
    return Markup("")


# --- writing the site ---------------------------------------------------------------------------------------


def _write_site(
    pages: list[Page], out: Path, *, root: Path, headline: dict[str, str] | None, failure: str = ""
) -> Path:
    """Write the index and one page a notebook; return the index's path."""
    script = (TEMPLATES / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    shared = {
        "site_title": _site_title(root),
        "css": _style_sheet(),
        "script": script,
        "script_hash": f"sha256-{digest}",
        "pages": pages,
        "synthetic": [page.title for page in pages if "synthetic" in page.sources],
        "provenance": provenance(root),
        "headline": headline,
        "failure": failure,
    }
    for number, page in enumerate(pages):
        neighbours = {
            "previous": pages[number - 1] if number else None,
            "following": pages[number + 1] if number + 1 < len(pages) else None,
        }
        html = environment.get_template("page.html.j2").render(shared, current=page, **neighbours)
        _write(out / page.file, html)
    index = out / "index.html"
    _write(index, environment.get_template("index.html.j2").render(shared, current=None))
    return index


def _style_sheet() -> str:
    light = HtmlFormatter(style="default").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    code = f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
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


def provenance(root: Path) -> list[str]:
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


# --- checking -----------------------------------------------------------------------------------------------


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
        if _fetches(str(tag.get("style", ""))) or (tag.name == "style" and _fetches(tag.get_text())):
            problems.append(f"a style of <{tag.name}> fetches something.")
    for formula in soup.select(".tex-error"):
        problems.append(f"the equation {formula.get_text()} cannot be set; use other LaTeX commands.")
    return problems
