"""No number in the prose without a source: README, docs, the notebooks' text, and the sentences in their code.

Where a page's sentences stand in the package, ``SENTENCES`` names the modules, and they are read as the page's own.

Numbers that a notebook prints are computed by it, and the tables of README and docs are made from ``results/``, as
``test_readme`` checks. What is left was typed by hand. There, every number that could be a measurement (one with a
decimal point, a unit or three digits, or in words before a unit) must lie in a sentence that ``SOURCED`` names, with a
reason. Where the number follows from ``results/`` or from the code, the entry has a gap, which is filled by computing
the number.
"""

from __future__ import annotations

import ast
import fnmatch
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import mistune
import nbformat
import pytest

from siamese_utils.data import symbols
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.evaluation.protocol import evaluate_split
from siamese_utils.experiments import store as results
from siamese_utils.recognition.cache import MOST_BYTES
from siamese_utils.studies.budgets import study as budgets
from siamese_utils.studies.cifar10 import pair_findings
from siamese_utils.studies.cifar10.study import CIFAR10
from siamese_utils.studies.drawing import study as drawing_study
from siamese_utils.studies.faces import koch
from siamese_utils.studies.imprinting.study import IMPRINTING_MOVED
from siamese_utils.studies.networks.study import DISTANCES
from siamese_utils.studies.own_images.checks import WRONG
from siamese_utils.studies.own_images.study import LONGER
from siamese_utils.studies.validation import JUDGED_IMAGES, trial_runs

ROOT = Path(__file__).resolve().parents[1]
SPAN = r"(?:percent|(?:percentage )?points?|hours?|minutes?|seconds?|days?|times)\b"
UNIT = rf"(?:%|{SPAN}|(?:s|ms|[kMG]B|images/s|images a second)\b)"
FIGURES = re.compile(rf"(?<![\w.,-])(?P<number>\d[\d,]*(?:\.\d+)?)(?P<unit>\s?{UNIT})?")
WORDS = (
    "half an?|quarters? of an|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|twenty|thirty"
    "|forty|fifty|sixty|seventy|eighty|ninety|hundred"
)
SPELLED = re.compile(rf"\b(?:{WORDS})[ -]{SPAN}", re.IGNORECASE)
SENTENCES = {
    "01": ("exploration/findings.py", "exploration/figures.py"),
    "02": ("networks/findings.py", "networks/figures.py"),
    "03_": ("objectives/findings.py", "objectives/figures.py", "budgets/findings.py", "budgets/figures.py"),
    "03a": ("objectives/findings.py", "objectives/figures.py"),
    "03b": ("recipe/findings.py", "recipe/figures.py"),
    "03c": (
        "ensembles/findings.py",
        "ensembles/figures.py",
        "ensembles/draws_findings.py",
        "ensembles/teaching_findings.py",
        "ensembles/five_shots_findings.py",
        "ensembles/half_hour_findings.py",
        "ensembles/depths_findings.py",
    ),
    "04_": (
        "splits/findings.py",
        "splits/two_recipes.py",
        "splits/figures.py",
        "budgets/findings.py",
        "budgets/figures.py",
    ),
    "05": ("splits/one_shot.py",),
    "06": ("imprinting/findings.py", "imprinting/figures.py", "imprinting/base_findings.py"),
    "07": ("faces/findings.py", "faces/figures.py"),
    "08": ("drawing/findings.py", "drawing/figures.py"),
    "09": (
        "cifar10/findings.py",
        "cifar10/pair_findings.py",
        "cifar10/figures.py",
        "cifar10/strong_findings.py",
        "drawing/letter_findings.py",
    ),
    "10": (
        "own_images/findings.py",
        "own_images/figures.py",
        "own_images/checks_findings.py",
        "own_images/training_findings.py",
        "own_images/demonstrations.py",
    ),
}
"""Modules of ``siamese_utils/studies`` that hold sentences of a page, by how the page's name begins."""


# ------------------------------------------------------------------------------------- sources of numbers


def value(table: str, **key: Any) -> float:
    """The value of the one row of ``results/<table>.csv`` with this key."""
    return float(results.result(results.read_table(ROOT / "results" / f"{table}.csv"), **key).value)


def hours_of(runs: str) -> float:
    """Time of stored trainings on two processor cores, on which two runs of one thread go side by side."""
    total = 0.0
    for path in (ROOT / "results" / "runs").glob(f"{runs}.json"):
        record = results.read_record(path)
        total += record["seconds"] * record["provenance"]["threads"] / 2
    return total / 3600


def hours_alone() -> float:
    """What the network that is not taught takes of one processor core."""
    return value("teaching", trial="alone", seed=0, metric="core_minutes") / 60


def hours_of_imprinting() -> float:
    """The base networks, classes added in every way, and those added with an encoder that moves, on one thread."""
    return hours_of("imprinting*") + IMPRINTING_MOVED.table().seconds.sum() / 2 / 3600


def about(words: str, hours: float) -> str:
    """A duration in words, if the time that was measured is not far from it."""
    meant = {"half an hour": 0.5, "an hour": 1.0, "two hours": 2.0, "three hours": 3.0}[words]
    assert meant / 2.5 < hours < meant * 2.5, f"{words!r} for {hours:.2f} hours"
    return words


def lowest_python() -> str:
    found = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def trials_on_omniglot() -> str:
    table = results.read_table(ROOT / "results" / "drawing.csv")
    (count,) = table[table.metric == "acc_20w1s_runs"].n.unique()
    return str(count)


def face_count(part: str) -> int:
    return results.read_record(ROOT / "results" / "runs" / "faces-embedding-seed0.json")["faces"][part]


@dataclass(frozen=True)
class Sourced:
    """A piece of prose whose numbers are accounted for.

    Attributes:
        file: where it stands, as a pattern: ``README.md``, ``03_*``, or ``*`` for all.
        text: as it reads, without mark-up; ``{}`` where a computed number stands.
        source: why the number is what it is.
        compute: gives the texts of the gaps.
    """

    file: str
    text: str
    source: str
    compute: Callable[[], tuple[str, ...]] = tuple

    @property
    def filled(self) -> str:
        """The text with its gaps filled."""
        return self.text.format(*self.compute())


def computed(file: str, text: str, *numbers: Callable[[], str], source: str = "computed") -> Sourced:
    """An entry with gaps."""
    return Sourced(file, text, source, lambda: tuple(number() for number in numbers))


EPISODES = f"{inspect.signature(evaluate_split).parameters['episodes'].default:,}"
SOURCED: tuple[Sourced, ...] = (
    # Conventions of the whole report
    *(
        Sourced("*", text, "every interval is a 95% interval")
        for text in ("95% interval", "95 percent interval", "Intervals are 95%")
    ),
    *(
        Sourced("*", text, "threshold of the seed project's metric, fixed in the protocol")
        for text in ("exceeds 0.2", "stays below 0.2", "threshold of 0.2", "the seed's 0.2")
    ),
    *(
        Sourced("*", text, "CIFAR-100 has 500 training images of each of its 100 classes")
        for text in (
            "all 100 classes",
            "the rest of the 100 are unseen",
            "500 images of each class",
            "all 500 training images",
            "10-90 to 100-0",
            "Split 100-0 learns all classes",
        )
    ),
    computed("*", "protocol takes {}", lambda: EPISODES),
    # README
    computed("README.md", "Python {} or newer", lowest_python),
    Sourced("docs/commands.md", "169 MB", "size of cifar-100-python.tar.gz"),
    Sourced("docs/commands.md", "| 170 MB", "size of cifar-10-python.tar.gz"),
    Sourced("docs/commands.md", "| 561 MB", "size of EMNIST's gzip.zip"),
    Sourced("docs/commands.md", "| 233 MB", "size of lfw-funneled.tgz"),
    Sourced("docs/commands.md", "12 MB, 3 MB", "sizes of MNIST's four files and of Omniglot's three archives"),
    Sourced("docs/sources.md", "Caltech 101, 2003", "name of a data set, and its year"),
    Sourced("docs/sources.md", "CC BY 4.0", "name of a licence"),
    *(
        Sourced("03c_ensembles.ipynb", words, "what was expected beforehand, as the study's records have it")
        for words in (
            "68.7 and 81.8 percent on the validation classes, 75.7 and 86.4 on the test classes",
            "the other recipe half a point more than that",
            "since the four were thought to be four points ahead",
            "three quarters at five was expected of one network",
            "Half a point at one shot and",
            "level at one shot and half a point ahead at five",
            "Of the former half a point",
        )
    ),
    Sourced("04_split_sweep.ipynb", "about two points everywhere", "what was expected beforehand"),
    Sourced("04_split_sweep.ipynb", "for half an hour of one core", "what the recipe is for; see notebook 03c"),
    *(
        computed("03c_ensembles.ipynb", words, lambda: about("half an hour", hours_alone()))
        for words in (
            "One that learns for {} of one core",
            "Does {} of one core come further",
            "themselves, and {} leaves no room",
            "{} of one core, not taught",
        )
    ),
    Sourced("docs/sources.md", "94% on CIFAR-10 in 3.29 seconds", "title of a paper"),
    Sourced("README.md", "CC BY 4.0", "name of a licence"),
    computed("10_own_images.ipynb", "with {}% of labels planted wrong", lambda: round(100 * WRONG)),
    computed("docs/commands.md", "at most about {} GB", lambda: MOST_BYTES // 2**30),
    Sourced("docs/sources.md", "Science 350, 2015", "volume of a journal"),
    Sourced("docs/sources.md", "cosine triplet loss, 150 epochs", "setting of the seed project"),
    computed("README.md", "{} a class draw", lambda: about("three hours", hours_of("cifar100-*-draw0"))),
    computed(
        "README.md", "none of them? | a minute | {}", lambda: about("an hour", hours_of(f"*90-10-draw0-seed0-{LONGER}"))
    ),
    computed("README.md", "when it is not? | a minute | {}", lambda: about("half an hour", hours_of("*90-10-draw0"))),
    computed("README.md", "cost the old ones? | a minute | {}", lambda: about("two hours", hours_of_imprinting())),
    computed("README.md", "a page to draw on. | a minute | {}", lambda: about("half an hour", hours_of("drawing*"))),
    # The first page
    Sourced("answer.py", "Guessing gives 20%", "chance among five classes"),
    *(
        Sourced("answer.py", text, "the price that the accuracy is asked for, chosen, not measured")
        for text in ("For one point of accuracy on 40 old classes", "for one point of accuracy on the old ones")
    ),
    # 01
    *(Sourced("01_*", text, "pixels are bytes") for text in ("1 to 254", "0 to 255", "exactly 0 or 255")),
    Sourced("01_*", "holds all below 0.25", "edge of a histogram's first bar"),
    Sourced("01_*", "Guessing names 20%", "chance among five classes"),
    # 02
    *(
        computed("02_*", text, lambda: str(Encoder("resnet9-16").embedding_dim))
        for text in ("maps the {} features of", "no projection: the {} features")
    ),
    computed(
        "02_*",
        "cosine, margin {}, semi-hard",
        lambda: str(trial_runs(DISTANCES)["cosine-margin"].config.terms[0].margin),
    ),
    # 03
    computed("03_*", "with 4 images each holds 256 · 3 · 252 = {} triplets", lambda: f"{256 * 3 * 252:,}"),
    computed("03_*", "{} triplets for 256 images", lambda: f"{256 * 3 * 252:,}"),
    Sourced("03_*", "all embeddings into one point", "no measurement"),
    Sourced("03_*", "mapped them to one point", "no measurement"),
    computed("03b_*", "judged on {} training images", lambda: str(JUDGED_IMAGES)),
    # 04
    computed("04_*", "90 classes bring {} times the images of 10", lambda: {9: "nine"}[90 // 10]),
    computed("04_*", "Here {} training images", lambda: f"{budgets.TOTAL_IMAGES:,}"),
    computed(
        "04_*",
        "10, 20, 50 and 90 classes: {} images of each class, or {}",
        lambda: str(budgets.TOTAL_IMAGES // 10),
        lambda: str(budgets.TOTAL_IMAGES // 90),
    ),
    # 05
    Sourced("05_*", "Chance is 100/N percent", "chance among N classes"),
    Sourced("05_*", "chance at 20 percent", "chance among five classes"),
    Sourced("05_*", "falls to 50 percent", "balanced accuracy where every pair is called different"),
    Sourced("05_*", "over 200 random supports", "number of supports in the cell below it"),
    # 06
    Sourced("06_*", "to tell 50 or 100 classes apart", "40 old classes with 10 or 60 more"),
    *(
        Sourced("06_*", text, "the budget, or a point of a curve: chosen, not measured")
        for text in (
            "half a point of old-class accuracy",
            "half a point of old accuracy",
            "have for one point",
            "worth half a point",
            "at one point lost",
            "one point of old accuracy",
            "for one point of",
            "For four points",
            "spare four points",
        )
    ),
    # 07
    computed(
        "07_*",
        "{} million parameters that learn from {} pairs",
        lambda: f"{koch.PUBLISHED_PARAMETERS['total'] / 1e6:.0f}",
        lambda: f"{face_count('training pairs'):,}",
    ),
    *(
        Sourced("07_*", text, "sizes of a photograph and of its window, see siamese_utils/data/faces.py")
        for text in ("window of 150 × 130 of their 250 × 250 pixels", "105 × 105, pixels 0 to 255")
    ),
    computed("07_*", "branches end in {} features", lambda: f"{koch.KochConfig().features:,}"),
    *(
        Sourced("07_*", text, "the assignment's setting, see siamese_utils/studies/faces/koch.py")
        for text in (
            "10 × 10, 7 × 7, 4 × 4, 4 × 4 with 64, 128, 128, 256 channels",
            "0.4 of the distances",
            "mean 0 and deviation 0.01; biases around 0.5",
            "loss lower by 0.1",
        )
    ),
    Sourced("07_*", "1,000 test pairs", "pairs of LFW's development test list"),
    computed("07_*", "rests on {} validation pairs", lambda: str(face_count("validation pairs"))),
    computed("07_*", "some {} people", lambda: f"{round(face_count('training people'), -2):,}"),
    Sourced("07_*", "about 77% of the images show men and 83% white people", "Han and Jain, 2014"),
    Sourced("07_*", "NISTIR 8280, 2019", "number of a report"),
    # 08
    *(Sourced("08_*", text, "size of the images") for text in ("105 × 105",)),
    Sourced("08_*", "a pen of 2.4 pixels in a box of 20", "median stroke of MNIST, see siamese_utils/data/symbols.py"),
    computed("08_*", "finer pen ({} pixels)", lambda: str(symbols.STROKE_WIDTH)),
    computed("08_*", "chosen on {} training images", lambda: f"{10 * drawing_study.DIGITS.held_out_images:,}"),
    Sourced("08_*", "chance level stays at 50%", "chance on balanced pairs"),
    *(
        computed("08_*", text, trials_on_omniglot)
        for text in ("{} trials, chance 5%", "over {} trials", "The 20 official runs, {} trials")
    ),
    Sourced("08_*", "the aim was 99%", "aim that was set beforehand"),
    Sourced("08_*", "one point a run", "no measurement"),
    *(
        Sourced("08_*", text, "size of Omniglot's parts (Lake et al., 2015)")
        for text in ("with 242 letters", "242 letters with twenty drawings", "with 964 letters")
    ),
    Sourced(
        "09_*",
        "batches of {} images where they have 512",
        "the configuration, and the slides' code",
        lambda: (str(CIFAR10.runs()[0].config.batch),),
    ),
    Sourced(
        "09_*",
        "is right in {}% of them, with an F1 of 0",
        "one pair of test images in ten is of one class",
        lambda: (f"{pair_findings.blind()['accuracy']:.0f}",),
    ),
    Sourced("09_*", "judged on 5,000 training images held out", "a tenth of the training images, by definition"),
    Sourced("08_*", "60,000 and 90,000 letters shown", "earlier runs, of which nothing is stored"),
)


# -------------------------------------------------------------------------------------- reading the prose


def leaves(tokens: list[dict[str, Any]]) -> Iterator[str]:
    """What a reader reads of parsed markdown: no code, no formulas, no addresses."""
    for token in tokens:
        kind = token["type"]
        if kind in ("text", "inline_math") or kind.endswith("break"):
            yield token.get("raw", " ") if kind == "text" else " "
        elif "children" in token:
            yield from leaves(token["children"])
            yield {"table_cell": " | ", "list_item": " ", "paragraph": " ", "block_text": " "}.get(kind, "")


def readable(markdown: str) -> list[str]:
    """The paragraphs, headings and rows of a markdown text, as they read."""
    generated = r"<!-- (\w+): made by .*?<!-- end of \1 -->"
    parse = mistune.create_markdown(renderer="ast", plugins=["table", "math"])
    blocks = parse(re.sub(generated, "", markdown, flags=re.DOTALL))
    return [" ".join("".join(leaves([block])).split()) for block in blocks]  # type: ignore[list-item]


def sentences_in(code: str) -> list[str]:
    """Texts of four words or more in code, but no docstrings; what is computed in between is left out."""
    lines = [line for line in code.splitlines() if not line.lstrip().startswith(("%", "!"))]
    nodes = list(ast.walk(ast.parse("\n".join(lines))))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    parts = []
    for node in nodes:
        if id(node) in docstrings:
            continue
        if isinstance(node, ast.JoinedStr):
            parts.append("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts.append(node.value)
    return [" ".join(part.replace("*", "").replace("`", "").split()) for part in parts if len(part.split()) > 3]


@cache
def prose() -> tuple[tuple[str, str], ...]:
    """File and text of every passage."""
    pages = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    found = [
        (page.relative_to(ROOT).as_posix(), text)
        for page in pages
        for text in readable(page.read_text(encoding="utf-8"))
    ]
    code = (ROOT / "siamese_utils" / "report" / "answer.py").read_text(encoding="utf-8")
    found += [("answer.py", text) for text in sentences_in(code)]
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            read = readable if cell.cell_type == "markdown" else sentences_in
            found += [(path.name, text) for text in read(cell.source)]
        for module in chain(*(SENTENCES[page] for page in SENTENCES if path.name.startswith(page))):
            code = (ROOT / "siamese_utils" / "studies" / module).read_text(encoding="utf-8")
            found += [(path.name, text) for text in sentences_in(code)]
    return tuple(found)


def measured(text: str) -> list[tuple[int, int]]:
    """Begin and end of every number that could be a measurement."""
    spans = []
    for match in FIGURES.finditer(text):
        number = match["number"].rstrip(",")
        digits = number.replace(",", "")
        year = re.fullmatch(r"(19|20)\d\d", number) is not None and not match["unit"]
        if match["unit"] or "." in digits or "," in number or (len(digits) > 2 and not year):
            spans.append((match.start(), match.start("number") + len(number)))
    return spans + [match.span() for match in SPELLED.finditer(text)]


def unsourced(file: str, text: str, sources: tuple[Sourced, ...] = SOURCED) -> list[str]:
    """Numbers of a passage that no entry accounts for, each with the words around it."""
    allowed = [
        match.span()
        for entry in sources
        if fnmatch.fnmatch(file, entry.file)
        for match in re.finditer(rf"(?<![\d.,]){re.escape(filled(entry))}", text)
    ]
    return [
        f"{file}: …{text[max(0, begin - 50) : end + 40]}…"
        for begin, end in measured(text)
        if not any(first <= begin and end <= last for first, last in allowed)
    ]


@cache
def filled(entry: Sourced) -> str:
    return entry.filled


# ------------------------------------------------------------------------------------------------ tests


def test_every_module_that_says_something_is_read() -> None:
    studies = ROOT / "siamese_utils" / "studies"
    written = {path.relative_to(studies).as_posix() for path in studies.glob("*/fi[gn]*s.py")}
    assert {"splits/figures.py", "faces/findings.py"} < written
    assert written - set(chain(*SENTENCES.values())) == set(), "name these modules in SENTENCES, at their page"


def test_every_number_in_the_prose_has_a_source() -> None:
    missing = [line for file, text in prose() for line in unsourced(file, text)]
    assert not missing, "compute these numbers, or name their source in SOURCED:\n" + "\n".join(missing)


@pytest.mark.parametrize("entry", SOURCED, ids=lambda entry: f"{entry.file} {entry.text}"[:50])
def test_every_source_is_used(entry: Sourced) -> None:
    """A sentence that has changed must not leave its excuse behind."""
    texts = [text for file, text in prose() if fnmatch.fnmatch(file, entry.file)]
    if texts:
        assert any(filled(entry) in text for text in texts), f"{filled(entry)!r} stands nowhere"


@pytest.mark.parametrize(
    "planted",
    [
        "Accuracy is 76.9%.",
        "It took 45 hours.",
        "A gain of 3 points.",
        "With 7,345 images",
        "AUC 0.91",
        "It has 1234 rows.",
        "The network needs five minutes.",
        "An interval of ± 0.25",
        "It is half an hour faster.",
        "Twice, 2 times as fast.",
    ],
)
def test_a_planted_number_is_found(planted: str) -> None:
    assert len(unsourced("03_triplet_training.ipynb", planted)) == 1
    (text,) = readable(f"**{planted}** [link](https://example.org/99.9)")
    assert len(unsourced("README.md", text)) == 1
    assert len(unsourced("README.md", sentences_in(f"print(f'and so on, {{x}} {planted}')")[0])) == 1
    assert sentences_in(f'"""A docstring and {planted}"""') == []


@pytest.mark.parametrize(
    "harmless",
    [
        "In 2015, five classes of notebook 05.",
        "`value = 0.25` and $x = 0.25$",
        "Split 90-10, draw 0, 5-way 1-shot",
        "![](https://example.org/1.5.png)",
        "resnet9-16 has 64 classes",
    ],
)
def test_what_measures_nothing_is_passed_over(harmless: str) -> None:
    assert [unsourced("README.md", text) for text in readable(harmless)] in ([[]], [])


def test_a_wrong_number_in_a_sourced_sentence_is_found() -> None:
    """The sentence is there, but the results say something else."""
    (entry,) = [entry for entry in SOURCED if entry.text.startswith("judged on {} training")]
    right = filled(entry)
    assert right == "judged on 300 training images" and unsourced("03b_recipe.ipynb", right) == []
    assert unsourced("03b_recipe.ipynb", right.replace("300", "301"))
    planted = f"9{trials_on_omniglot()} trials, chance 5%"  # no part of a longer number
    assert unsourced("08_drawing_demo.ipynb", planted[1:]) == [] and unsourced("08_drawing_demo.ipynb", planted)
