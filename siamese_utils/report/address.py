"""The address of the repository, which stands in one place, ``pyproject.toml``, and what follows from it elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from siamese_utils.errors import ConfigError
from siamese_utils.report.execute import numbered_notebooks, read
from siamese_utils.system.files import write_text_atomically

_ADDRESS = re.compile(r"https://github\.com/(?P<owner>[A-Za-z0-9-]+)/(?P<name>[A-Za-z0-9._-]+?)(?:\.git)?/?")
_IN_PROJECT = re.compile(r'^(Repository = )"(.*)"$', re.MULTILINE)
_PART = r"[^/\s\"')]+"
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CITATION.cff")
"""Files besides the notebooks that name the repository, where they are there."""


@dataclass(frozen=True)
class Repository:
    """A repository on GitHub.

    Attributes:
        owner: person or organisation.
        name: of the repository.
    """

    owner: str
    name: str

    @classmethod
    def parse(cls, address: str) -> Repository:
        """From an address such as ``https://github.com/owner/name``.

        Raises:
            ConfigError: it has another form.
        """
        if not (found := _ADDRESS.fullmatch(address.strip())):
            raise ConfigError(f"{address!r} is no repository; write it as https://github.com/owner/name.")
        return cls(found["owner"], found["name"])

    @classmethod
    def of(cls, root: Path) -> Repository:
        """As ``pyproject.toml`` of a checkout names it.

        Raises:
            ConfigError: it names none.
        """
        file = root / "pyproject.toml"
        found = _IN_PROJECT.search(file.read_text(encoding="utf-8")) if file.is_file() else None
        if found is None:
            raise ConfigError(
                f'{file} names no repository; add Repository = "https://github.com/owner/name" to its urls.'
            )
        return cls.parse(found[2])

    @property
    def url(self) -> str:
        """The repository's page."""
        return f"https://github.com/{self.owner}/{self.name}"

    @property
    def report(self) -> str:
        """The published report."""
        home = f"{self.owner.lower()}.github.io"
        return f"https://{home}/" if self.name.lower() == home else f"https://{home}/{self.name}/"

    @property
    def frame(self) -> str:
        """The first code cell of every notebook: fetches the project where it is not installed."""
        return f"""# Where the project is not installed, as on Colab, fetch it first
from importlib.util import find_spec

if find_spec("siamese_utils") is None:
    !test -d {self.name} || git clone -q --depth=1 {self.url}
    %pip install -q -r {self.name}/requirements.txt
    __import__("site").addsitedir("{self.name}")"""

    def in_text(self, text: str) -> str:
        """The text with its links to the repository, to Colab and to the published report pointing here.

        The same goes for the commands that clone it or install from it.
        """
        for pattern, address in (
            (rf"https://colab\.research\.google\.com/github/{_PART}/{_PART}/blob/", f"{self._colab}/blob/"),
            (rf"https://github\.com/{_PART}/{_PART}/(?=actions/|issues|releases|compare/|tree/)", f"{self.url}/"),
            (
                rf"git clone https://github\.com/{_PART}/{_PART} && cd {_PART}",
                f"git clone {self.url} && cd {self.name}",
            ),
            (rf"git\+https://github\.com/{_PART}/{_PART}", f"git+{self.url}"),
            (r"(?<=report\]\()https://[^)\s]+(?=\))", self.report),
            (r"(?m)(?<=^repository-code: )\S+$", self.url),
            (r"(?m)(?<=^url: )\S+$", self.report),
        ):
            text = re.sub(pattern, address, text)
        return text

    @property
    def _colab(self) -> str:
        return f"https://colab.research.google.com/github/{self.owner}/{self.name}"


def set_address(root: Path, address: str) -> None:
    """Write another address of the repository to ``pyproject.toml``; ``update_links`` brings the rest in line.

    Raises:
        ConfigError: the address has another form than ``https://github.com/owner/name``.
    """
    new = Repository.parse(address)
    Repository.of(root)
    file = root / "pyproject.toml"
    text = _IN_PROJECT.sub(lambda found: f'{found[1]}"{new.url}"', file.read_text(encoding="utf-8"))
    write_text_atomically(file, text)


def update_links(root: Path) -> list[Path]:
    """Bring badges, links, the citation file and the first cells of notebooks in line with ``pyproject.toml``.

    Returns:
        the files that were changed.

    Raises:
        ConfigError: ``pyproject.toml`` names no repository.
        ReportError: a notebook is missing or cannot be read.
    """
    repository = Repository.of(root)
    new = {
        file: repository.in_text(file.read_text(encoding="utf-8"))
        for file in map(root.joinpath, PAGES)
        if file.is_file()
    }
    new |= {path: _notebook(path, repository) for path in numbered_notebooks(root / "notebooks")}
    changed = {file: text for file, text in new.items() if text != file.read_text(encoding="utf-8")}
    for file, text in changed.items():
        write_text_atomically(file, text)
    return list(changed)


def _notebook(path: Path, repository: Repository) -> str:
    """The text of a notebook's file with its badge and its first cell as they are to be; outputs stay."""
    text, notebook = path.read_text(encoding="utf-8"), read(path)
    for cell in notebook.cells:
        frame = "frame" in cell.metadata.get("tags", ())
        new = repository.frame if frame else repository.in_text(cell.source) if cell.cell_type == "markdown" else ""
        if new and new != cell.source:
            text = text.replace(_lines(cell.source), _lines(new))
    return text


def _lines(source: str) -> str:
    """A cell's source as it stands in the file, one line of JSON a line of it."""
    return ",\n".join(f"    {json.dumps(line, ensure_ascii=False)}" for line in source.splitlines(keepends=True))
