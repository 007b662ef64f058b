"""Executed notebooks as HTML that fetches nothing."""

from __future__ import annotations

import base64
import copy
import io
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
from PIL import Image

from siamese_utils.report.equations import equation
from siamese_utils.report.execute import NBVAL_MARKER, numbered_notebooks
from siamese_utils.report.search import Section, sections
from siamese_utils.report.tidy import tidy_notebook

TEMPLATES = Path(__file__).parent / "templates"

LEFT_OUT = {"remove-cell", "frame"}
FINDING = "finding"
PICTURE = (820, 560)
SOURCE_NAMES = {"cifar100": "CIFAR-100", "synthetic": "synthetic"}
_SOURCE_MARKER = re.compile(r"""data-siamese-source=["']([^"']+)["']""")
_NUMBER = re.compile(r"[-+−]?[\d,. ]*\d[\d,.]*(e[-+]?\d+)?( ?%)?( ?± ?[\d.]+)?|nan|NaN|–|", re.IGNORECASE)


@dataclass(frozen=True)
class Heading:
    """One line of a page's table of contents."""

    level: int
    id: str
    text: Markup


@dataclass(frozen=True)
class Picture:
    """A figure as the first page shows it.

    Attributes:
        src: its bytes as a data URI.
        alt: what it shows, for those who cannot see it.
        width: in pixels.
        height: in pixels.
    """

    src: str
    alt: str
    width: int
    height: int


@dataclass
class HtmlPage:
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
        sections: its parts, for the search.
        told: text that a cell tagged ``finding`` displays: its first sentence, as inline HTML.
        picture: its first figure.
        finding: what it found, for the first page and above its text.
    """

    name: str
    title: str
    summary: Markup
    contents: list[Heading]
    body: str
    seconds: float | None = None
    sources: list[str] = field(default_factory=list)
    profile: str = "report"
    sections: list[Section] = field(default_factory=list)
    told: str = ""
    picture: Picture | None = None
    finding: str = ""

    @property
    def short(self) -> str:
        """The title up to its colon, for lists."""
        return self.title.split(":")[0]

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


def render_notebook(notebook: NotebookNode, path: Path) -> HtmlPage:
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
    return HtmlPage(
        name=path.stem,
        title=heading.get_text(" ", strip=True) if heading else path.stem.replace("_", " "),
        summary=_first_paragraph(soup),
        contents=contents,
        body=str(soup),
        sources=sources,
        sections=sections(soup),
        told=_told(notebook),
        picture=_first_figure(soup),
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
                    text = row[column].get_text()
                    value = " value" if _NUMBER.fullmatch(text.strip()) or re.fullmatch(r"\S{,14}", text) else ""
                    row[column]["class"] = "words" if len(text) > 24 else f"words short{value}"


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
            attributes = {
                "class": "anchor",
                "href": f"#{name}",
                "aria-label": f"Link to: {heading.get_text(' ', strip=True)}",
            }
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


def inline_markdown(source: str) -> Markup:
    """A sentence of Markdown as HTML, without the paragraph around it."""
    html = MarkdownWithMath(renderer=_Renderer(escape=True, exclude_anchor_links=True)).render(source).strip()
    return Markup(html.removeprefix("<p>").removesuffix("</p>"))


def _told(notebook: NotebookNode) -> Markup:
    """The first sentence of what the cell tagged ``finding`` displays."""
    for cell in notebook.cells:
        if FINDING in cell.metadata.get("tags", ()):
            texts = [
                output.data["text/markdown"] for output in cell.outputs if "text/markdown" in output.get("data", {})
            ]
            if texts:
                return inline_markdown(re.split(r"(?<=[^\W\d]\.)\s|\n\s*\n", texts[0])[0])
    return Markup("")


def _first_figure(soup: BeautifulSoup) -> Picture | None:
    for image in soup.select("figure img[alt]"):
        kind, _, payload = str(image["src"]).partition(";base64,")
        if kind in ("data:image/png", "data:image/jpeg") and image["alt"]:
            return picture(base64.b64decode(payload), str(image["alt"]))
    return None


def picture(data: bytes, alt: str) -> Picture:
    """An image file as a picture of the first page's list: at most twice as large as it is shown."""
    with Image.open(io.BytesIO(data)) as opened:
        image = opened.convert("RGBA")
    image.thumbnail(PICTURE)
    small = Image.new("RGB", image.size, "white")
    small.paste(image, mask=image)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=86, method=6)
    src = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
    return Picture(src, " ".join(alt.split()), *small.size)


def _first_paragraph(soup: BeautifulSoup) -> Markup:
    """Return the first paragraph of prose that is more than a row of links or badges."""
    for paragraph in soup.select(".prose > p"):
        linked = "".join(link.get_text() for link in paragraph.select("a")).strip()
        text = paragraph.get_text().strip()
        if text and len(linked) < len(text) / 2:
            return _inline(paragraph)
    return Markup("")
