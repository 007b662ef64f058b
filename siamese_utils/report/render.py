"""Executed notebooks as HTML that fetches nothing."""

from __future__ import annotations

import base64
import copy
import mimetypes
import re
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup, Tag
from jinja2 import pass_context
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode

from siamese_utils.report.equations import equation
from siamese_utils.report.execute import NBVAL_MARKER, numbered_notebooks
from siamese_utils.report.tidy import tidy_notebook

TEMPLATES = Path(__file__).parent / "templates"

LEFT_OUT = {"remove-cell", "frame"}
SOURCE_NAMES = {"cifar100": "CIFAR-100", "synthetic": "synthetic"}
_SOURCE_MARKER = re.compile(r"""data-siamese-source=["']([^"']+)["']""")
_NUMBER = re.compile(r"[-+−]?[\d,. ]*\d[\d,.]*(e[-+]?\d+)?( ?%)?( ?± ?[\d.]+)?|nan|NaN|–|", re.IGNORECASE)


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
    cell.source = "" if "remove-input" in tags else NBVAL_MARKER.sub("", cell.source)
    comment = re.match(r"#+\s*(\S.*)", cell.source)
    cell.metadata["siamese_summary"] = comment.group(1) if comment else ""
    cell.metadata["siamese_open"] = "show-input" in tags


def _remove_active_parts(soup: BeautifulSoup) -> None:
    """Drop what would run or fetch: scripts, frames, style sheets from elsewhere, event handlers."""
    for tag in soup.select("script, noscript, iframe, object, embed, link, base, meta, style[scoped]"):
        tag.decompose()
    for style in soup.select("style"):
        if fetches(style.get_text()):
            style.decompose()
    for tag in soup.find_all(True):
        for name in [name for name in tag.attrs if name.startswith("on")]:
            del tag[name]


def fetches(css: str) -> bool:
    """Whether a style would make a browser fetch something."""
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
