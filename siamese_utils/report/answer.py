"""What the report's first page says, made from ``results/``: the question, what came out, its cost and its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.experiments import store
from siamese_utils.experiments.seeds import cell
from siamese_utils.report.readme import headline_rows, in_words, several_draws
from siamese_utils.studies.budgets import findings as budgets
from siamese_utils.studies.cifar10 import findings as cifar10
from siamese_utils.studies.drawing import findings as drawing
from siamese_utils.studies.ensembles import draws_findings as class_draws
from siamese_utils.studies.ensembles import findings as ensembles
from siamese_utils.studies.faces import findings as faces
from siamese_utils.studies.faces.study import FACES
from siamese_utils.studies.imprinting import findings as imprinting
from siamese_utils.studies.imprinting.study import IMPRINTING_MOVED
from siamese_utils.studies.networks import findings as networks
from siamese_utils.studies.networks.study import ENCODERS_EQUAL_IMAGES, ENCODERS_EQUAL_TIME, EQUAL_MINUTES
from siamese_utils.studies.objectives import findings as objectives
from siamese_utils.studies.objectives.systems import stored_systems
from siamese_utils.studies.own_images import findings as own_images
from siamese_utils.studies.recipe import findings as recipe
from siamese_utils.studies.reference import seed_reference
from siamese_utils.studies.splits import findings as splits
from siamese_utils.system.project import results_dir
from siamese_utils.training.recipes import DEFAULT_RECIPE, LONG_RECIPES

SPLIT = "90-10"
QUESTION = (
    "People recognise a new kind of thing from one example. Can a network do the same? A Siamese network learns from "
    "some classes of images to tell whether two of them show the same class; it is then given **one example each of "
    "classes it has never seen**, and asked which of them another image shows."
)


@dataclass(frozen=True)
class KeyFinding:
    """A finding of the first page.

    Attributes:
        claim: what came out, in a few words; Markdown.
        text: its numbers; Markdown.
        pages: names of the notebooks that show it.
    """

    claim: str
    text: str
    pages: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What the first page says before it lists the pages; all texts are Markdown.

    Attributes:
        question: what was asked.
        findings: what came out.
        cost: what it took.
        limits: what it does not show.
    """

    question: str
    findings: list[KeyFinding]
    cost: list[str]
    limits: list[str]


def answer() -> Answer:
    """The answer from what is stored; a part whose numbers are missing says in their place how to make them."""
    found = []
    for claim, text, pages in FINDINGS:
        try:
            found.append(KeyFinding(claim, text(), pages))
        except ResultsError as error:
            found.append(KeyFinding("Not stored yet.", str(error), pages))
    return Answer(QUESTION, found, list(_told(COST)), list(_told(LIMITS)))


def _told(texts: tuple[Callable[[], str], ...]) -> Iterator[str]:
    for text in texts:
        try:
            yield text()
        except ResultsError as error:
            yield f"*Not stored yet.* {error}"


def _headline(metric: str, split: str = SPLIT) -> pd.Series:
    """A row of ``headline_rows``."""
    return store.result(headline_rows(), split=split, metric=metric)


# ---------------------------------------------------------------------------------------------- five findings


def one_example() -> str:
    """How often one example is enough, and how often five are."""
    one, five = _headline("acc_5w1s"), _headline("acc_5w5s")
    return (
        f"After learning {one.classes} classes of CIFAR-100, the network names an image of one of five unseen classes "
        f"right **{cell(one.value, one.ci95)}%** of the time from one example each, and "
        f"{cell(five.value, five.ci95)}% from five. Guessing gives 20%; the published weights of the *seed project*, "
        f"from which this one grew, reach {one.reference:.1f}%."
    )


def more_classes() -> str:
    """What learning more classes brings, over all draws, and what of it is not merely more images."""
    draws, spread = splits.over_draws("acc_5w1s"), budgets.accuracy_by_classes()
    first, last, few, many = draws.iloc[0], draws.iloc[-1], spread.iloc[0], spread.iloc[-1]
    return (
        f"Accuracy on unseen classes goes from {first['mean']:.1f}% with {first.learned} classes learned to "
        f"**{last['mean']:.1f}%** with {last.learned}, the mean of {in_words(last.draws)} draws of the classes. It is "
        f"not merely more images: the same number of them teaches more when it is spread over {many.classes:.0f} "
        f"classes ({many['mean']:.1f}%) than over {few.classes:.0f} ({few['mean']:.1f}%)."
    )


def objective() -> str:
    """What the objective decides in short trainings and in a whole one."""
    kinds = objectives.objective_results().dropna(subset="mean").groupby("kind", sort=False)["mean"].max()
    both, alone = (
        [store.result(stored_systems(), recipe=name, metric=f"acc_5w{shots}s").value for shots in (1, 5)]
        for name in (DEFAULT_RECIPE, "muon-triplet")
    )
    return (
        f"In trainings of minutes a learned proxy for each class leads: {kinds['proxies']:.1f}% at best with proxies, "
        f"{kinds['pairs']:.1f}% with pairs, {kinds['triplets']:.1f}% with triplets, on validation classes. In a whole "
        f"training, one of each, triplets alone reach **{alone[0]:.1f}%** on test classes, proxies and triplets "
        f"together {both[0]:.1f}%; at five shots {alone[1]:.1f} and {both[1]:.1f}%."
    )


def one_more_class() -> str:
    """What imprinting a class reaches for a point of old accuracy, by the shots."""
    shots = imprinting.SHOTS
    reached = ", ".join(f"{imprinting.for_points(1.0, k):.0f}% with {k}" for k in shots[1:])
    return (
        "The mean embedding of a few examples becomes a classifier's weights for their class. For one point of "
        "accuracy on 40 old classes, the new one is recognised in "
        f"**{imprinting.for_points(1.0, shots[0]):.0f}%** of its images with one example, {reached}."
    )


def faces_and_drawings() -> str:
    """What the same way of learning reaches on faces and drawings."""
    right = faces.ensemble("embedding")["acc_test_half"]
    symbols, people = drawing.official_accuracy().value["both"], drawing.PUBLISHED[0]
    return (
        f"Of pairs of photographs of people never learned, **{cell(right.value, right.ci95)}%** are called right by "
        f"{in_words(_seeds('embedding'))} small networks together. Of letters from alphabets never learned, drawn by "
        f"hand, **{symbols:.1f}%** are named from one example among twenty; people reach {people.accuracy:.1f}%."
    )


def _seeds(system: str) -> int:
    table = FACES.table()
    return int(table[table.system == system].seed.nunique())


FINDINGS: tuple[tuple[str, Callable[[], str], tuple[str, ...]], ...] = (
    ("One example goes a long way.", one_example, ("05_one_shot_evaluation",)),
    ("What is learned from many classes carries over to others.", more_classes, ("04_split_sweep",)),
    ("The objective decides most where the training is short.", objective, ("03a_objectives",)),
    ("A classifier learns one more class without training.", one_more_class, ("06_imprinted_weights",)),
    ("It works for faces and drawings too.", faces_and_drawings, ("07_face_verification", "08_drawing_demo")),
)


# --------------------------------------------------------------------------------------------- cost and limits


def training_cost() -> str:
    """What the network of the first finding took, beside the seed project's."""
    record = store.load_json(f"cifar100-{SPLIT}-draw0")
    hours = store.result(seed_reference(), split=SPLIT, metric="training_hours").value
    return (
        f"The network of the first finding trained for **{record['seconds'] / 60:.0f} minutes** on "
        f"{in_words(record['provenance']['threads'])} processor cores, without a GPU; the seed project's loop takes "
        f"some {hours:.0f} hours for its weights, on two cores of another processor."
    )


def whole_cost() -> str:
    """Core-hours of every stored training and trial."""
    spent = seconds_spent()
    return (
        f"All {sum(seconds > 0 for seconds in spent)} stored trainings and trials of this report together took some "
        f"**{sum(spent) / 3600:.0f} hours** of one processor core. Nothing is trained again to make these pages."
    )


def seconds_spent() -> list[float]:
    """Core-seconds of each stored training and trial."""
    files = sorted([*(results_dir() / "runs").glob("*.json"), *(results_dir() / "studies").glob("*/*.json")])
    # Classes that are added in seconds, a hundred of them, count as one.
    records = [store.read_record(file) for file in files if file.parent.name != IMPRINTING_MOVED.name]
    spent = [_seconds(record) * record["provenance"].get("threads", 1) for record in records]
    return [*spent, float(IMPRINTING_MOVED.table().seconds.sum())]


def _seconds(record: Mapping[str, object]) -> float:
    if "seconds" in record:
        return float(record["seconds"])  # type: ignore[arg-type]
    history = record.get("history", [])
    return sum(float(row.get("seconds", 0)) for row in history)  # type: ignore[attr-defined]


COST = (training_cost, whole_cost)


def other_classes() -> str:
    """How far other classes move the first number."""
    spread = several_draws()
    if spread is None:
        raise ResultsError("One draw of the classes alone is stored; run `python -m siamese_utils sweep`.")
    of = spread.loc[SPLIT]
    return (
        "**Other classes, other numbers.** Intervals are over the sampling of episodes, not over classes or another "
        f"training. With other classes left unseen the first number lies between {of.low:.1f} and {of.high:.1f}%; the "
        f"mean of {in_words(of.draws)} draws is {of['mean']:.1f}%."
    )


def many_to_choose_from() -> str:
    """How far accuracy falls where all unseen classes are asked for at once."""
    ten, ninety = _headline("acc_allway_1s"), _headline("acc_allway_1s", "10-90")
    return (
        f"**Five is few.** Among all {in_words(100 - ten.classes)} unseen classes the same network is right "
        f"{ten.value:.1f}% of the time; one that learned {in_words(ninety.classes)} classes, among the other "
        f"{100 - ninety.classes}, {ninety.value:.1f}%."
    )


def small_pictures() -> str:
    """What images of 32 × 32 pixels cannot show."""
    return (
        "**Small pictures of one data set.** CIFAR-100 has 32 × 32 pixels: expect a fox to be told from a bus, not one "
        "fox from another. Faces and drawings come from one data set each too, and the face network is not for "
        "decisions about people."
    )


def not_the_best() -> str:
    """How far larger networks and longer trainings are ahead on CIFAR-FS."""
    ours, longer = ensembles.by_members("cifar-fs").iloc[-1], ensembles.Way.best(ensembles.DEEP)
    best = ensembles.published().sort_values("acc_5w1s").iloc[-1]
    return (
        "**Not the best that is known.** On CIFAR-FS larger networks that train longer reach up to "
        f"{best.acc_5w1s:.1f}% ({best.source.split(', arXiv')[0]}); {in_words(ours.members)} networks of the report's "
        f"recipe together reach {ours.together:.1f}%, and {in_words(longer.count)} that learned for longer, with "
        f"features of two stages, {longer.one_shot[0]:.1f}%."
    )


def old_metric() -> str:
    """Why the seed project's own metric is not among the findings."""
    blind = store.result(splits.swept(), split=SPLIT, draw=0, seed=0, metric="legacy_always_different").value
    seed = store.result(seed_reference(), split=SPLIT, metric="legacy_few_shot", source="published").value
    return (
        f"**Not comparable with “few-shot accuracy” over unbalanced pairs.** The seed project reports {seed:.1f}% on "
        f"{SPLIT}; a program that always answers *different* scores {blind:.1f}% there."
    )


LIMITS = (other_classes, many_to_choose_from, small_pictures, not_the_best, old_metric)


# ------------------------------------------------------------------------------------------- one finding a page


def encoders() -> str:
    """Who leads at equal time and from equal images."""
    time, images = networks.ranking(ENCODERS_EQUAL_TIME), networks.ranking(ENCODERS_EQUAL_IMAGES)
    most = f"it is `{images.best}`"
    if images.is_level:
        most = f"`{images.best}` and `{images.second}` do, with nothing to choose between them"
    reached = networks.by_trial(ENCODERS_EQUAL_TIME).set_index("trial")["mean"]
    return (
        f"In {in_words(EQUAL_MINUTES)} minutes of one core the small `{time.best}` learns most of {time.encoders} "
        f"networks and reaches **{reached[time.best]:.1f}%**; from the same number of images, {most}."
    )


def told_apart() -> str:
    """The area under the curve for pairs of unseen and of seen classes."""
    sweep = splits.swept()
    unseen, seen = (
        store.result(sweep, split=SPLIT, draw=0, seed=0, metric=f"pair_auc_{part}") for part in ("unseen", "seen")
    )
    return (
        "Whether two images show one class is told almost as well for classes never learned as for learned ones: area "
        f"under the ROC curve **{cell(unseen.value, unseen.ci95)}%** and {cell(seen.value, seen.ci95)}%."
    )


def objectives_compared() -> str:
    """Who leads in short trainings, and what collapses."""
    table = objectives.objective_results()
    best, triplets = table.iloc[0], table[table.kind == objectives.TRIPLETS].iloc[0]
    lost = int((table.collapsed == table.runs).sum())
    return (
        f"Trained for minutes, {best.label} come first of {len(table)} objectives with **{best['mean']:.1f}%**, the "
        f"best triplets alone reach {triplets['mean']:.1f}%, and {in_words(lost)} objectives collapse in every run."
    )


def recipe_found() -> str:
    """What mattered most in the search for the recipe."""
    return recipe.search_reading().splitlines()[0].removeprefix("- ")


def several_networks() -> str:
    """What networks of other seeds reach together."""
    rows = ensembles.by_members(SPLIT)
    last = rows.iloc[-1]
    return (
        f"{in_words(last.members).capitalize()} networks that differ in their seed alone reach together "
        f"**{cell(last.together, last.ci95)}%** on {SPLIT}, {last.together - rows.alone.mean():.1f} points more than "
        f"one of them.{_longer_training()}"
    )


def _longer_training() -> str:
    """What an hour of one core brings on 90-10 over all class draws; nothing before they are stored."""
    usual, longer = (
        class_draws.OverDraws.read(name, class_draws.AS_IT_IS, "acc_5w1s").mean
        for name in (DEFAULT_RECIPE, LONG_RECIPES[-1])
    )
    if usual is None or longer is None:
        return ""
    return (
        f" An hour of one core for a single one takes the mean over class draws from {usual.value:.1f} to "
        f"{longer.value:.1f}%."
    )


def growth() -> str:
    """The mean over draws with few and with many classes, and how many steps lead up."""
    draws, steps = splits.over_draws("acc_5w1s"), splits.steps("acc_5w1s")
    up = int((steps.change > steps.ci95).sum())
    return (
        f"From {draws.learned.iloc[0]} classes learned to {draws.learned.iloc[-1]}, accuracy on unseen ones grows from "
        f"{draws['mean'].iloc[0]:.1f} to **{draws['mean'].iloc[-1]:.1f}%** on average; {up} of {len(steps)} steps lead "
        "clearly up."
    )


def named_from_one() -> str:
    """Accuracy among five and among all unseen classes."""
    five, all_ways = _headline("acc_5w1s"), _headline("acc_allway_1s")
    return (
        f"From one example each, **{cell(five.value, five.ci95)}%** of images are named right among five unseen "
        f"classes, and {cell(all_ways.value, all_ways.ci95)}% among all {in_words(100 - five.classes)}."
    )


def one_class_added() -> str:
    """What the first shot and what all of them reach for one point."""
    shots = imprinting.SHOTS
    return (
        f"A new class is recognised in **{imprinting.for_points(1.0, shots[0]):.0f}%** of its images from one example "
        f"and in {imprinting.for_points(1.0, shots[-1]):.0f}% from {in_words(shots[-1])}, for one point of accuracy on "
        "the old ones."
    )


def people_told_apart() -> str:
    """The network that learned people beside the assignment's."""
    table = FACES.table()
    mean = table[table.metric == "acc_test"].groupby("system")["value"].mean()
    return (
        f"A small network that learned people calls **{mean['embedding']:.1f}%** of the test pairs right, the large "
        f"one of the assignment, which learned from pairs, {mean['koch']:.1f}%: means over "
        f"{in_words(_seeds('embedding'))} seeds."
    )


def symbols_named() -> str:
    """Accuracy on Omniglot's official runs, beside people."""
    found, people = drawing.official_accuracy().loc["both"], drawing.PUBLISHED[0]
    return (
        f"**{found.value:.1f}%** of Omniglot's one-shot tasks are solved, with letters of alphabets never learned (95% "
        f"interval {found.low:.1f} to {found.high:.1f}); people solve {people.accuracy:.1f}%."
    )


def own_photographs() -> str:
    """What is recognised of photographs by published features, beside the report's own encoder."""
    one, five = (own_images.value("head", "acc", shots=shots).value for shots in (1, 5))
    own = own_images.value("photos", "acc").value
    return (
        f"Of five classes of photographs, **{one:.1f}%** are recognised from one example and {five:.1f}% from five "
        f"by features that ImageNet taught, which may know them; by the report's own encoder for them {own:.1f}%."
    )


def second_tower() -> str:
    """The lead of two towers over one in the slides' ratio of updates, and at equal ones."""
    table = cifar10.gains()
    own, equal = cifar10.lead(table, "own ratio"), cifar10.lead(table, "equal updates")
    return (
        f"Two towers name **{own}** points more of CIFAR-10's images right than one that is trained half as long, and "
        f"**{equal}** with as many updates for both ({own.seeds_told})."
    )


@dataclass(frozen=True)
class OnPage:
    """What the first page shows of a page.

    Attributes:
        sentence: gives its finding, Markdown; ``None`` takes the text that the page's cell tagged ``finding`` displays.
        picture: file in ``figures/`` without its ending.
    """

    sentence: Callable[[], str] | None
    picture: str


ON_PAGE: dict[str, OnPage] = {
    "01_data_exploration": OnPage(None, "01_near_duplicates"),
    "02_backbone_comparison": OnPage(encoders, "02_speed_accuracy"),
    "03_triplet_training": OnPage(told_apart, "03_similarities"),
    "03a_objectives": OnPage(objectives_compared, "03_objectives"),
    "03b_recipe": OnPage(recipe_found, "03_search"),
    "03c_ensembles": OnPage(several_networks, "03_ensembles"),
    "04_split_sweep": OnPage(growth, "04_growth"),
    "05_one_shot_evaluation": OnPage(named_from_one, "05_episode"),
    "06_imprinted_weights": OnPage(one_class_added, "06_one_class"),
    "07_face_verification": OnPage(people_told_apart, "07_accuracy"),
    "08_drawing_demo": OnPage(symbols_named, "08_draw_pairs"),
    "09_siamese_or_plain": OnPage(second_tower, "09_parts"),
    "10_own_images": OnPage(own_photographs, "10_shots"),
}


def page_finding(name: str) -> str | None:
    """The finding of a page in one sentence, Markdown; ``None`` where its text tells it, or where it is not stored."""
    on_page = ON_PAGE.get(name)
    if on_page is None or on_page.sentence is None:
        return None
    try:
        return on_page.sentence()
    except ResultsError:
        return None


def page_picture(name: str, figures: Path) -> Path | None:
    """The PNG file of a page's picture, where there is one with its description."""
    on_page = ON_PAGE.get(name)
    file = figures / f"{on_page.picture if on_page else ''}.png"
    return file if file.is_file() and file.with_name(f"{file.stem}.alt.txt").is_file() else None
