"""Numbers in the prose, made from ``results/`` by code: the README's headline, and the speeds in docs/numbers.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from siamese_utils.data.splits import SPLIT_NAMES
from siamese_utils.errors import ResultsError
from siamese_utils.experiments import plotting
from siamese_utils.experiments import store as results
from siamese_utils.experiments.findings import Table
from siamese_utils.studies import reference as studies_reference
from siamese_utils.studies.ensembles.draws import CLASS_DRAWS
from siamese_utils.studies.ensembles.draws_findings import WAYS, OverDraws
from siamese_utils.studies.ensembles.study import ENSEMBLES, TOGETHER
from siamese_utils.studies.objectives.systems import SPLIT, TRIPLET_SYSTEMS
from siamese_utils.studies.own_images import findings as own_images
from siamese_utils.studies.splits.findings import over_draws, swept
from siamese_utils.studies.splits.study import SPLIT_SWEEP
from siamese_utils.system import project
from siamese_utils.system.files import write_text_atomically
from siamese_utils.training.recipes import DEFAULT_RECIPE, LONG_RECIPES

HEADLINE_METRICS = {
    "acc_5w1s": "5-way 1-shot",
    "acc_5w5s": "5-way 5-shot",
    "acc_allway_1s": "all-way 1-shot",
    "pair_auc_unseen": "pair AUC",
}
_WORDS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_MEASURE = "run it with `make bench OUT=results/benchmarks.csv`"
_NUMBER_WORDS = dict(enumerate(_WORDS, start=2)) | {20: "twenty"}
# benchmark, first side (the alternative), our side, and what is compared, in words
_SPEEDS = (
    (
        "training_throughput",
        "seed loop",
        "engine, batch 256",
        "training the same ResNet-56",
        "the seed project's loop (float32, NCHW, three passes of 128)",
    ),
    (
        "training_throughput_24px",
        "seed loop",
        "engine, 24 x 24 pixels",
        "the same with images of 24 × 24 pixels",
        "the seed project's loop at 32 × 32",
    ),
    (
        "augmentation",
        "torchvision on PIL images, 2 workers",
        "siamese_utils.augment_batch",
        "shift, mirror and normalise images",
        "torchvision, image by image, in a DataLoader of two workers",
    ),
    (
        "augmentation",
        "torchvision v2 on tensors, 2 workers",
        "siamese_utils.augment_batch",
        "the same",
        "torchvision v2 on tensors, in a DataLoader of two workers",
    ),
    (
        "evaluation_5w1s",
        "easyfsl, episodes given",
        "siamese_utils, episodes given",
        "judging 10,000 5-way 1-shot episodes",
        "easyfsl, the same accuracies for the same episodes",
    ),
    (
        "evaluation_5w1s",
        "easyfsl, episodes given",
        "siamese_utils, with drawing the episodes",
        "drawing and judging them",
        "easyfsl, which is given the episodes",
    ),
)


def in_words(number: int) -> str:
    """A small number as a word, others in digits."""
    return _NUMBER_WORDS.get(int(number), str(number))


def headline_rows() -> pd.DataFrame:
    """One row a split of class draw 0 that has results: ours and the seed's, by metric; percent.

    Columns: ``split``, ``classes`` (learned), ``metric``, ``value``, ``ci95``, ``reference``, ``reference_ci95``.

    Raises:
        ResultsError: nothing is stored by the report's recipe.
    """
    ours = swept()
    ours = ours[(ours.draw == 0) & (ours.seed == 0) & ours.metric.isin(HEADLINE_METRICS)]
    reference = studies_reference.seed_reference()
    reference = reference[reference.source == "measured"].rename(
        columns={"value": "reference", "ci95": "reference_ci95"}
    )
    rows = ours.merge(reference[["split", "metric", "reference", "reference_ci95"]], on=["split", "metric"], how="left")
    rows = rows.assign(classes=rows.split.str.split("-").str[0].astype(int))
    return rows.sort_values("classes")[["split", "classes", "metric", "value", "ci95", "reference", "reference_ci95"]]


def several_draws() -> pd.DataFrame | None:
    """5-way 1-shot accuracy over the class draws that are whole, by split; ``None`` where there is only one.

    See ``over_draws`` for the columns.
    """
    table = over_draws("acc_5w1s").set_index("split")
    return table if table.draws.min() > 1 else None


def headline_table() -> str:
    """The README's table, in Markdown: unseen classes, ours with 95% intervals, the seed's weights in brackets.

    The last column is the mean over class draws, with the smallest and the largest, where there are several.
    """
    rows, spread = headline_rows(), several_draws()
    headings = [*HEADLINE_METRICS.values()]
    if spread is not None:
        headings.append(f"5-way 1-shot, {in_words(spread.draws.max())} draws")
    lines = ["| classes learned – unseen | " + " | ".join(headings) + " |", "|---" * (1 + len(headings)) + "|"]
    for split in SPLIT_NAMES:
        of_split = rows[rows.split == split].set_index("metric")
        if of_split.empty:
            continue
        cells = []
        for metric in HEADLINE_METRICS:
            row = of_split.loc[metric]
            seed = "" if pd.isna(row.reference) else f" ({row.reference:.1f})"
            cells.append(f"**{row.value:.1f}** ± {row.ci95:.1f}{seed}")
        if spread is not None:
            of_draws = spread.loc[split]
            cells.append(_of_draws(of_draws["mean"], of_draws.low, of_draws.high))
        lines.append(f"| {split} | " + " | ".join(cells) + " |")
    for other in _other_systems():
        cells = [f"{other.rows.value[metric]:.1f} ± {other.rows.ci95[metric]:.1f}" for metric in HEADLINE_METRICS]
        lines.append(
            f"| {other.label} | " + " | ".join([*cells, *([other.draws] if spread is not None else [])]) + " |"
        )
    return "\n".join(lines)


class OtherSystem(NamedTuple):
    """What was trained otherwise than the sweep's networks.

    Attributes:
        label: of its row.
        note: what it is.
        page: where more stands.
        rows: values and intervals by metric.
        draws: 5-way 1-shot over the class draws, as the table's last column has it.
    """

    label: str
    note: str
    page: str
    rows: pd.DataFrame
    draws: str = "–"


OTHER_RECIPES = {
    "muon-triplet": ("by triplets alone", "the same training by the triplet loss without proxies"),
    "muon-proxy-then-triplet": ("by triplets after proxies", "by proxies first and then by triplets alone"),
}


def _other_systems() -> list[OtherSystem]:
    """What was trained otherwise on 90-10 and is stored: by triplets alone, several networks, and for longer."""
    found = []
    if TRIPLET_SYSTEMS.path.exists():
        table = TRIPLET_SYSTEMS.table()
        for recipe_name, (label, note) in OTHER_RECIPES.items():
            rows = table[table.recipe == recipe_name].set_index("metric")
            if not rows.empty:
                found.append(OtherSystem(f"{SPLIT}, {label}", note, "03a_objectives", rows))
    if ENSEMBLES.path.exists():
        table = ENSEMBLES.table()
        table = table[(table.task == "90-10") & (table.recipe == DEFAULT_RECIPE)]
        last = table[(table.seed == table.seed.max()) & table.metric.str.endswith(TOGETHER)]
        if not last.empty and last.seed.iloc[0]:
            label = f"90-10, {in_words(last.seed.iloc[0] + 1)} networks together"
            rows = last.assign(metric=last.metric.str.removesuffix(TOGETHER)).set_index("metric")
            note = "networks of other seeds, their similarities averaged"
            found.append(OtherSystem(label, note, "03c_ensembles", rows))
    return [*found, *_longer()]


def _longer() -> Iterator[OtherSystem]:
    """90-10 by each recipe that trains for longer, and by both as one would judge by CIFAR-FS's validation classes."""
    if not CLASS_DRAWS.path.exists():
        return
    for networks, views in WAYS[1:]:
        reached = {name: OverDraws.read(networks, views, name) for name in HEADLINE_METRICS}
        if not all(0 in one.of for one in reached.values()):
            continue
        first = {name: {"value": one.of[0].value, "ci95": one.of[0].ci95} for name, one in reached.items()}
        rows, one_shot = pd.DataFrame(first).T, reached["acc_5w1s"]
        values = [estimate.value for estimate in one_shot.of.values()]
        draws = "–" if one_shot.mean is None else _of_draws(one_shot.mean.value, min(values), max(values))
        label, note = (
            (f"`{networks}`", "other recipes that train for an hour of one processor core")
            if networks in LONG_RECIPES
            else ("both of these", f"both together, over {views} views")
        )
        yield OtherSystem(f"{SPLIT}, {label}", note, "03c_ensembles", rows, draws)


def _of_draws(mean: float, low: float, high: float) -> str:
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def headline_text() -> str:
    """The README's headline block: a sentence with the main numbers, the table, and what it was computed with."""
    rows = headline_rows()
    best = rows[rows.metric == "acc_5w1s"].iloc[-1]
    run = results.load_json(f"cifar100-{best.split}-draw0")
    if run["recipe"] != DEFAULT_RECIPE:
        raise ResultsError(
            f"The record of {best.split} names the recipe {run['recipe']}, but {SPLIT_SWEEP.path} another one; restore "
            "both from version control."
        )
    computed = run["provenance"]
    hours = results.result(studies_reference.seed_reference(), split=best.split, metric="training_hours").value
    sentence = (
        f"After learning {best.classes} classes for {run['seconds'] / 60:.0f} minutes on {computed['threads']} "
        "processor cores, the network names an image of one of five *unseen* classes right "
        f"**{best.value:.1f} ± {best.ci95:.1f}%** of the time from a single example of each "
        f"({best.reference:.1f}% with the seed project's weights, for which its loop takes some {hours:.0f} hours; "
        "chance is 20%)."
    )
    note = (
        "Percent on unseen classes of the CIFAR-100 test set, class draw 0, with 95% intervals over episodes, supports "
        "or images; in brackets the seed project's published weights under the same protocol. All-way: among all "
        "unseen classes at once. Pair AUC: area under the ROC curve, pairs of one class against pairs of two (chance "
        "is 50). "
    )
    if (spread := several_draws()) is not None:
        of_draws = spread.loc[best.split]
        sentence += (
            f" Which classes are left unseen matters too: over {in_words(of_draws.draws)} draws of the classes it "
            f"is {of_draws['mean']:.1f}% on average, between {of_draws.low:.1f} and {of_draws.high:.1f}."
        )
        note += "The last column: mean of all class draws, with the lowest and the highest. "
    if others := _other_systems():
        told = dict.fromkeys(
            f"{one.note} ([notebook {one.page.split('_')[0]}](notebooks/{one.page}.ipynb))" for one in others
        )
        note += f"Last rows: {'; '.join(told)}. "
    note += f"Recipe `{run['recipe']}`, {computed['processor']}, {computed['precision']} (draw 0)."
    return f"{sentence}\n\n{headline_table()}\n\n{note}"


def _latest_benchmarks() -> tuple[pd.DataFrame, pd.Series]:
    """Rows of the processor and number of threads that were measured last, and the newest of them."""
    table = results.read_table(project.results_dir() / "benchmarks.csv")
    latest = table.sort_values("date", kind="stable").iloc[-1]
    return table[(table.processor == latest.processor) & (table.threads == latest.threads)], latest


def benchmark_table(benchmark: str, caption: str) -> Table:
    """One row a side of a benchmark: what it is, its rate, and its ratio to the first; both with half their range.

    A side that was timed once has no range.

    Raises:
        ResultsError: the benchmark has not been run on the processor that was measured last.
    """
    table, _ = _latest_benchmarks()
    rows = table[table.benchmark == benchmark]
    if rows.empty:
        raise ResultsError(
            f"The benchmark {benchmark} is not stored; run it with `make bench OUT=results/benchmarks.csv`."
        )

    def ranged(value: str, half: str, repeats: int) -> str:
        return f"{value} ± {half}" if repeats > 1 else value

    rates = [
        f"{ranged(f'{row.value:,.0f}', f'{row.spread:,.0f}', row.repeats)} {row.unit}" for row in rows.itertuples()
    ]
    ratios = [ranged(f"{row.ratio:.2f}", f"{row.ratio_spread:.2f}", row.repeats) for row in rows.itertuples()]
    return Table(pd.DataFrame({"side": rows.side.tolist(), "rate": rates, "ratio": ratios}), caption)


def speed_text() -> str:
    """The table of speeds, in Markdown: ours and the alternative, timed in turn in one run.

    Raises:
        ResultsError: a benchmark has not been run.
    """
    table, latest = _latest_benchmarks()
    lines = ["| what | against | ratio |", "|---|---|---|"]
    for benchmark, other, ours, what, against in _SPEEDS:
        sides = table[table.benchmark == benchmark].set_index("side")
        if other not in sides.index or ours not in sides.index:
            raise ResultsError(
                f"The benchmark {benchmark} is not complete; run it with `make bench OUT=results/benchmarks.csv`."
            )
        ratio = sides.loc[ours, "ratio"] / sides.loc[other, "ratio"]  # both are medians against the first side
        rates = f"{sides.loc[ours, 'value']:,.0f} : {sides.loc[other, 'value']:,.0f} {sides.loc[ours, 'unit']}"
        lines.append(f"| {what} | {against} | **{ratio:.{0 if ratio >= 10 else 1}f}** ({rates}) |")
    note = (
        f"{latest.processor}, {latest.threads} threads, torch {latest.torch}; medians over rounds run in turn, "
        "the ratio taken round by round. Make your own with `make bench`."
    )
    return "\n".join([*lines, "", note])


def _marks(block: str) -> tuple[str, str]:
    return f"<!-- {block}: made by `python -m siamese_utils readme` -->", f"<!-- end of {block} -->"


def update_readme(readme: Path) -> bool:
    """Put what is made from the results between its markers: the headline in the README, the speeds in its docs/.

    Returns:
        whether that changed a file.

    Raises:
        ResultsError: a file lacks its markers; none is changed then.
    """
    numbers = readme.parent / "docs" / "numbers.md"
    blocks = {"headline": headline_text(), "photographs": own_images.readme_text()}
    new = {readme: _with_blocks(readme, blocks), numbers: _with_blocks(numbers, {"speed": speed_text()})}
    changed = {file: text for file, text in new.items() if text != file.read_text(encoding="utf-8")}
    for file, text in changed.items():
        write_text_atomically(file, text)
    return bool(changed)


def _with_blocks(file: Path, blocks: Mapping[str, str]) -> str:
    """The file's text with each block's between its markers."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    for block, made in blocks.items():
        begin, end = _marks(block)
        before, found, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not (found and ended):
            raise ResultsError(f"{file} has no {block} markers; put {begin} and {end} where the block belongs.")
        text = f"{before}{begin}\n{made}\n{end}{after}"
    return text


def headline_figure() -> tuple[Figure, str]:
    """Few-shot accuracy against the number of classes learned: the figure and its alternative text."""
    reference = studies_reference.seed_reference().query("metric == 'acc_5w1s' and source == 'measured'")
    seed_classes = reference.split.str.split("-").str[0].astype(int)
    ours = headline_rows().query("metric == 'acc_5w1s'")
    figure, axis = plt.subplots(figsize=(9, 4.6))
    axis.errorbar(seed_classes, reference.value, reference.ci95, fmt="s-", ms=5, color=plotting.SEED, capsize=2)
    complete = set(seed_classes) <= set(ours.classes)  # a line over missing splits would invent them
    fmt = "o-" if complete else "o"
    axis.errorbar(ours.classes, ours.value, ours.ci95, fmt=fmt, ms=9, color=plotting.UNSEEN, capsize=3)
    if (spread := several_draws()) is not None:
        axis.fill_between(spread.learned, spread.low, spread.high, color=plotting.UNSEEN, alpha=0.18, lw=0)
        axis.text(
            0.02,
            0.86,
            f"shaded: range of {in_words(spread.draws.max())} class draws; line: draw 0",
            transform=axis.transAxes,
            color=plotting.UNSEEN,
        )
    axis.axhline(20, color=plotting.SEED, ls="--", lw=1)
    for row in ours.itertuples():
        axis.annotate(
            f"{row.value:.1f}",
            (row.classes, row.value),
            (0, 9),
            textcoords="offset points",
            ha="center",
            color=plotting.UNSEEN,
            fontweight="bold",
            fontsize=12,
        )
    axis.text(
        0.02, 0.92, "this project", transform=axis.transAxes, color=plotting.UNSEEN, fontweight="bold", fontsize=12
    )
    axis.annotate(
        "seed project's weights,\nsame protocol",
        (seed_classes.iloc[5], reference.value.iloc[5]),
        (4, -34),
        textcoords="offset points",
        color=plotting.SEED,
        fontweight="bold",
    )
    axis.annotate("chance", (10, 20), (0, 5), textcoords="offset points", color=plotting.SEED)
    axis.set(
        xlabel="classes of CIFAR-100 learned",
        ylabel="accuracy on unseen classes (%)",
        xlim=(5, 97),
        ylim=(0, 100),
        xticks=range(10, 100, 10),
        title="Naming one of five unseen classes from one example of each",
    )
    figure.tight_layout()
    gains = ", ".join(
        f"{row.value:.1f} against {row.reference:.1f} percent at {row.split}" for row in ours.itertuples()
    )
    first, final = reference.value.iloc[0], reference.value.iloc[-1]
    alt = (
        "Five-way one-shot accuracy on unseen CIFAR-100 classes against the number of classes learned. The seed "
        f"project's weights rise from {first:.1f} percent at 10 classes to {final:.1f} at 90; this project reaches "
        f"{gains}; chance is 20 percent."
    )
    if spread is not None:
        apart = spread.high - spread.low
        alt += (
            f" A band shows the range of {in_words(spread.draws.max())} class draws, {apart.min():.1f} to "
            f"{apart.max():.1f} points wide."
        )
    return figure, alt
