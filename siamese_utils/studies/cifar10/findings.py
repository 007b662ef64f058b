"""What the study of one tower and two has found, from whatever seeds are stored. Missing runs raise ResultsError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from siamese_utils.data.cifar import CIFAR10_CLASSES
from siamese_utils.errors import ResultsError
from siamese_utils.experiments import store
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import Paired, cell
from siamese_utils.experiments.study import stored
from siamese_utils.studies.cifar10.data import HELD_OUT
from siamese_utils.studies.cifar10.fit import FitConfig
from siamese_utils.studies.cifar10.networks import Plain, TwoTowers
from siamese_utils.studies.cifar10.new_classes import CIFAR10_NEW_CLASSES
from siamese_utils.studies.cifar10.study import CIFAR10, LONG_UPDATES, OWN, SYSTEMS, UPDATES
from siamese_utils.system.project import results_dir


@dataclass(frozen=True)
class Slides:
    """What the slides, and the code that they link to, say of one share of the training images."""

    plain: float
    siamese: float
    f1: tuple[float, float]
    updates: tuple[int, int]
    passes: int  # of the plain network over its images


SLIDES: Mapping[int, Slides] = {
    100: Slides(78.90, 81.33, (78.43, 81.16), (19_600, 39_396), 200),
    50: Slides(75.46, 77.58, (75.41, 77.47), (14_700, 44_100), 300),
    10: Slides(63.55, 64.46, (63.14, 64.22), (4_000, 14_700), 400),
}
SLIDES_BATCH = 512
TRAIN_IMAGES = 50_000
SLIDES_SOURCE = "M. Dobrzański, G. Sroka, Siamese networks, AGH Kraków, 24 January 2022"
WAYS = {
    "equal images": "as many images",
    "equal updates": "as many updates",
    "own ratio": "updates in the slides' ratio",
}
NAMES = {name: system.told for name, system in SYSTEMS.items()} | {"ensemble": "two separate towers, answers averaged"}


# -------------------------------------------------------------------------------- what is stored, and pairs of it


def by_seed(
    system: str, updates: int, share: int = 100, training: str = "short", metric: str = "accuracy"
) -> pd.Series:
    """One number a stored seed; the system may be ``ensemble`` too.

    Raises:
        ResultsError: nothing of it is stored.
    """
    table = CIFAR10.table()
    if system == "ensemble":
        system, metric = "plain", f"ensemble_{metric}"
    rows = table[
        (table.system == system)
        & (table.share == share)
        & (table.training == training)
        & (table.updates == updates)
        & (table.metric == metric)
    ]
    if rows.empty:
        raise ResultsError(
            f"{system} with {share}% of the images ({training}) is not stored yet; run `python -m siamese_utils study "
            "cifar10`."
        )
    return rows.set_index("seed").value


def difference(one: pd.Series, other: pd.Series) -> Paired:
    """The first less the second, seed by seed.

    Raises:
        ResultsError: they have no seed in common.
    """
    return Paired.of((one - other).dropna())


def seeds_table() -> Table:
    """How many runs are planned and stored, by what they are for."""
    kinds = {
        "all systems, all images": lambda key: key["training"] == "short" and key["share"] == 100,
        "half, a tenth and a hundredth of the images": lambda key: key["share"] < 100,
        "with shifted and mirrored images": lambda key: key["training"] == "shifted",
        "the slides' number of updates": lambda key: key["training"] == "long",
    }
    runs = [(run, stored(CIFAR10, run) == "yes") for run in CIFAR10.runs()]
    rows = []
    for kind, fits in kinds.items():
        some = [(run, done) for run, done in runs if fits(run.key)]
        rows.append(_progress(kind, some))
    new = [(run, stored(CIFAR10_NEW_CLASSES, run) == "yes") for run in CIFAR10_NEW_CLASSES.runs()]
    rows.append(_progress("classes never learned", new))
    return Table(
        pd.DataFrame(rows), "Runs planned and stored so far; a seed counts as whole where all its runs are stored"
    )


def _progress(kind: str, runs: Sequence[tuple]) -> dict[str, object]:
    seeds = {int(run.key["seed"]) for run, _ in runs}
    whole = [seed for seed in seeds if all(done for run, done in runs if run.key["seed"] == seed)]
    return {"what": kind, "runs": len(runs), "stored": sum(done for _, done in runs), "whole seeds": len(whole)}


# ------------------------------------------------------------------------------------------ the slides, and ours


def setting_table() -> Table:
    """In what the slides' two networks differ besides being one tower and two, and how far ours are trained."""
    sizes = {name: sum(w.numel() for w in make().parameters()) for name, make in (("p", Plain), ("s", TwoTowers))}
    rows = [("parameters", f"{sizes['p']:,}", f"{sizes['s']:,}", f"{sizes['s'] / sizes['p']:.1f}", "–", "–")]
    for share, slides in SLIDES.items():
        plain, siamese = slides.updates
        updates = (f"{plain:,}", f"{siamese:,}", f"{siamese / plain:.1f}")
        rows.append((f"updates, {share}% of the images", *updates, f"{slides.passes}", f"{passes(share):.0f}"))
    columns = ["", "one tower", "two towers", "times", "passes of one tower", "passes here"]
    return Table(
        pd.DataFrame(rows, columns=columns),
        f"What differs between the two networks ({SLIDES_SOURCE}, and its code); and how often one tower sees each "
        f"training image, theirs in batches of {SLIDES_BATCH} and ours of {FitConfig((1,)).batch}",
    )


def passes(share: int, updates: int | None = None) -> float:
    """How often our plain network sees each training image in its own number of updates, or in another."""
    learned = TRAIN_IMAGES * (1 - HELD_OUT) * share / 100
    return (updates or OWN[share][0]) * FitConfig((1,)).batch / learned


def slides_table() -> Table:
    """Their accuracies beside ours in the same ratio of updates."""
    rows = []
    for share in UPDATES:
        row: dict[str, object] = {"training images": f"{share}%"}
        for name, place in (("plain", 0), ("siamese", 1)):
            told = SLIDES.get(share)
            row[f"slides, {NAMES[name]}"] = f"{getattr(told, name):.1f}" if told else "–"
            row[f"here, {NAMES[name]}"] = _shown(name, OWN[share][place], share)
        rows.append(row)
    row = {"training images": "all, with as many updates as theirs"}
    for name, place in (("plain", 1), ("siamese", 2)):
        row[f"slides, {NAMES[name]}"] = f"{getattr(SLIDES[100], name):.1f}"
        row[f"here, {NAMES[name]}"] = _shown(name, LONG_UPDATES[place], 100, "long")
    rows.append(row)
    return Table(
        pd.DataFrame(rows),
        "CIFAR-10, accuracy on the test images in percent; theirs is one run each, ours the mean of the stored seeds "
        "± 95% interval over seeds",
    )


def _shown(system: str, updates: int, share: int, training: str = "short") -> str:
    try:
        found = Paired.of(by_seed(system, updates, share, training))
    except ResultsError:
        return "–"
    return cell(found.mean, found.half)


def gains() -> pd.DataFrame:
    """The lead of the Siamese network over the plain one, by share and by what is held equal.

    Columns: ``share``, ``way`` (in ``WAYS``), ``training``, ``plain`` and ``siamese`` (updates), ``lead`` (Paired),
    ``single`` (the lead of each seed).

    Raises:
        ResultsError: nothing is stored.
    """
    rows = []
    for share, judged in UPDATES.items():
        ours, twice, last = judged[1], judged[2], judged[-1]
        ways = {"equal images": (twice, ours), "equal updates": (last, last), "own ratio": (ours, last)}
        rows += _leads(share, "short", ways)
        if share == 100:
            rows += _leads(share, "shifted", ways)
            _, full, double = LONG_UPDATES
            long = {"equal images": (double, full), "equal updates": (double, double), "own ratio": (full, double)}
            rows += _leads(share, "long", long)
    if not rows:
        raise ResultsError("The study cifar10 has no pair of runs yet; run `python -m siamese_utils study cifar10`.")
    return pd.DataFrame(rows)


def _leads(share: int, training: str, ways: Mapping[str, tuple[int, int]]) -> list[dict[str, object]]:
    rows = []
    for way, (plain, siamese) in ways.items():
        try:
            one, two = by_seed("plain", plain, share, training), by_seed("siamese", siamese, share, training)
            lead = difference(two, one)
        except ResultsError:
            continue
        row = {"share": share, "way": way, "training": training, "plain": plain, "siamese": siamese}
        rows.append({**row, "lead": lead, "single": (two - one).dropna().tolist()})
    return rows


_RUNS = {
    "short": "These runs",
    "shifted": "The runs with shifted and mirrored images",
    "long": "The runs with the slides' number of updates",
}


def lead(table: pd.DataFrame, way: str, share: int = 100, training: str = "short") -> Paired:
    """One lead of ``gains``.

    Raises:
        ResultsError: it is not stored.
    """
    rows = table[(table.way == way) & (table.share == share) & (table.training == training)]
    if rows.empty:
        raise ResultsError(f"{_RUNS[training]} are not stored yet; run `python -m siamese_utils study cifar10`.")
    return rows.lead.iloc[0]


def gains_table() -> Table:
    """``gains`` as a table, one row a share."""
    table = gains()
    kinds = {"short": "", "shifted": ", shifted and mirrored", "long": ", the slides' number of updates"}
    rows = []
    for (share, training), some in table.groupby(["share", "training"], sort=False):
        row: dict[str, object] = {"training images": f"{share}%{kinds[str(training)]}"}
        row |= {WAYS[one.way]: str(one.lead) for one in some.itertuples()}
        row["over two separate towers, averaged"] = str(over) if (over := _over_ensemble(share, training)) else "–"
        rows.append({**row, "seeds": some.lead.iloc[0].seeds})
    return Table(
        pd.DataFrame(rows),
        "By how many points of accuracy two towers lead one, seed by seed; ± 95% interval over seeds where there are "
        "two or more",
    )


def _over_ensemble(share: int, training: str = "short") -> Paired | None:
    """The lead of the Siamese network over two plain ones, averaged, of as many updates; none if it is not stored."""
    last = LONG_UPDATES[-1] if training == "long" else UPDATES[share][-1]
    try:
        return difference(by_seed("siamese", last, share, training), by_seed("ensemble", last, share, training))
    except ResultsError:
        return None


def gain_sentence() -> str:
    """What the lead is in the slides' ratio of updates, and what is left of it at equal ones; Markdown."""
    table = gains()
    own, updates, images = (lead(table, way) for way in ("own ratio", "equal updates", "equal images"))
    told = (
        f"With all images and updates in the slides' ratio, two towers lead one by **{own}** points ({own.seeds_told}; "
        f"in the slides by {SLIDES[100].siamese - SLIDES[100].plain:.1f}). With as many updates for both it is "
        f"**{updates}**, and with as many images **{images}**"
    )
    ours, last = OWN[100]
    longer = difference(by_seed("plain", last), by_seed("plain", ours))
    return f"{told}. Twice the updates alone bring one tower {longer}."


def long_sentence() -> str:
    """The same where both have as many updates as in the slides; Markdown."""
    table = gains()
    own, updates = (lead(table, way, training="long") for way in ("own ratio", "equal updates"))
    return (
        f"With as many updates as the slides have, {LONG_UPDATES[1]:,} and {LONG_UPDATES[2]:,}, which are "
        f"{passes(100, LONG_UPDATES[1]):.0f} passes of one tower where theirs makes {SLIDES[100].passes}, the lead is "
        f"**{own}** points, and **{updates}** where one tower has {LONG_UPDATES[2]:,} as well"
        f"{_told_over_ensemble('long')} ({own.seeds_told})."
    )


def _told_over_ensemble(training: str) -> str:
    over = _over_ensemble(100, training)
    return f"; over two separate towers, averaged, it is {over}" if over else ""


def data_sentence() -> str:
    """Whether two towers stand less data better; Markdown."""
    table = gains()
    some = table[(table.way == "own ratio") & (table.training == "short")]
    told = ", ".join(f"{row.lead} points at {row.share}%" for row in some.itertuples())
    equal = table[(table.way == "equal updates") & (table.training == "short")]
    told_equal = ", ".join(f"{row.lead} at {row.share}%" for row in equal.itertuples())
    overs = [(share, over) for share in UPDATES if (over := _over_ensemble(share))]
    told_over = ", ".join(f"{over} at {share}%" for share, over in overs)
    return (
        f"In the slides' ratio the lead is {told} of the images; with as many updates {told_equal}; and over two "
        f"separate towers of as many updates, averaged, {told_over}."
    )


def shifted_sentence() -> str:
    """Whether the answer is another one with augmentation; Markdown."""
    table = gains()
    before, after = (lead(table, "equal updates", training=kind) for kind in ("short", "shifted"))
    last = UPDATES[100][-1]
    gained = difference(by_seed("plain", last, training="shifted"), by_seed("plain", last))
    return (
        f"Shifted and mirrored images change one tower by {gained} points after {last:,} updates, and the lead of two "
        f"towers at equal updates from {before} to **{after}**{_told_over_ensemble('shifted')} ({after.seeds_told})."
    )


# --------------------------------------------------------------------------------------- the lead taken apart


def parts() -> pd.DataFrame:
    """One row a control with all images: ``system``, ``updates``, ``parameters``, ``accuracy``, ``gain``, ``left``.

    ``gain`` is over one tower with half the updates, ``left`` what the Siamese network has more; both Paired. Controls
    that are not stored are left out.

    Raises:
        ResultsError: the two networks of the question are not stored.
    """
    ours, last = OWN[100]
    base, siamese = by_seed("plain", ours), by_seed("siamese", last)
    sizes = {name: sum(w.numel() for w in system.make(10).parameters()) for name, system in SYSTEMS.items()}
    sizes["ensemble"] = 2 * sizes["plain"]
    rows = []
    for name, updates in [("plain", ours), *((name, last) for name in _CONTROLS)]:
        try:
            found = by_seed(name, updates)
            gain, left = difference(found, base), difference(siamese, found)
        except ResultsError:
            continue
        row = {"system": name, "updates": updates, "parameters": sizes[name], "accuracy": Paired.of(found)}
        rows.append({**row, "gain": gain, "left": left, "single": (found - base).dropna().tolist()})
    return pd.DataFrame(rows)


_CONTROLS = ("plain", "wide", "ensemble", "shared", "same-image", "other-image", "siamese")


def parts_table() -> Table:
    """``parts`` as a table."""
    rows = [
        {
            "network": NAMES[row.system],
            "parameters": f"{row.parameters:,}",
            "updates": f"{row.updates:,}",
            "accuracy": cell(row.accuracy.mean, row.accuracy.half),
            "over one tower": "–" if row.system == "plain" and row.updates == OWN[100][0] else str(row.gain),
            "two towers lead by": "–" if row.system == "siamese" else str(row.left),
            "seeds": row.gain.seeds,
        }
        for row in parts().itertuples()
    ]
    return Table(
        pd.DataFrame(rows),
        "All training images: accuracy in percent and differences in points, seed by seed, ± 95% interval over seeds "
        "where there are two or more",
    )


def parts_sentence() -> str:
    """What each control brings, and what of the lead none of them explains; Markdown."""
    table = parts().set_index(["system", "updates"])
    last = OWN[100][1]
    whole = table.gain[("siamese", last)]
    told = []
    for name, words in (
        ("plain", "twice the updates alone bring {}"),
        ("wide", "these and as many parameters in one tower {}"),
        ("ensemble", "two towers that were trained apart and vote {}"),
    ):
        if (name, last) in table.index:
            told.append(words.format(table.gain[(name, last)]))
    left = {name: table.left[(name, last)] for name in ("wide", "ensemble") if (name, last) in table.index}
    if not left:
        raise ResultsError("No control of two towers is stored yet; run `python -m siamese_utils study cifar10`.")
    leads = ", ".join(f"over {NAMES[name]} **{rest}**" for name, rest in left.items())
    unclear = [name for name, rest in left.items() if not rest.is_clear]
    ending = f"; these seeds do not tell from nothing the lead over {_all_of(unclear, left)}" if unclear else ""
    return (
        f"Of the {whole} points ({whole.seeds_told}), {', '.join(told)}. At equal updates and equal parameters the "
        f"lead is, {leads}{ending}."
    )


def _all_of(some: Sequence[str], every: Mapping[str, object]) -> str:
    if len(some) < len(every):
        return " and ".join(NAMES[name] for name in some)
    return "either" if len(some) > 1 else "it"


def halves_sentence() -> str:
    """What each half of the Siamese network knows by itself; Markdown."""
    last = OWN[100][1]
    whole, plain = by_seed("siamese", last), by_seed("plain", last)
    halves = [by_seed("siamese", last, metric=f"{side}_half_accuracy") for side in ("left", "right")]
    each = Paired.of(pd.concat(halves).groupby("seed").mean())
    lost, beside = difference(whole, sum(halves) / 2), difference(sum(halves) / 2, plain)
    return (
        f"Cut in two, with a new last layer fitted on each half as it is, a half names **{each.mean:.1f}%** of the "
        f"test images ({each.seeds_told}): {lost.mean:.1f} points less than the whole, and {beside} beside one "
        "tower that learned alone for as many updates."
    )


def confusion(system: str) -> pd.DataFrame:
    """How many test images of a class (row) are named which (column), all images learned, summed over seeds.

    Raises:
        ResultsError: the system is not stored.
    """
    table = store.read_table(results_dir() / "cifar10_confusion.csv", key=CIFAR10.key)
    rows = table[(table.system == system) & (table.share == 100) & (table.training == "short")]
    if rows.empty:
        raise ResultsError("The confusion matrices are not stored yet; run `python -m siamese_utils study cifar10`.")
    return rows.groupby("shown")[list(CIFAR10_CLASSES)].sum().loc[list(CIFAR10_CLASSES)]


def class_table() -> Table:
    """Precision and recall of each class, of one tower and of two, mean over seeds; one row a class."""
    columns: dict[str, list[float]] = {"class": list(CIFAR10_CLASSES)}
    for name in ("plain", "siamese"):
        counts = confusion(name).to_numpy()
        columns[f"precision, {NAMES[name]}"] = list(100 * np.diag(counts) / np.maximum(counts.sum(0), 1))
        columns[f"recall, {NAMES[name]}"] = list(100 * np.diag(counts) / counts.sum(1))
    return Table(
        pd.DataFrame(columns),
        f"Precision and recall in percent after {OWN[100][1]:,} updates with all images, over the test images of all "
        "stored seeds",
        1,
    )


def f1_table() -> Table:
    """Macro and weighted F1 of both, as the slides give them; one row a share."""
    rows = []
    for share in UPDATES:
        row: dict[str, object] = {"training images": f"{share}%"}
        for name, place in (("plain", 0), ("siamese", 1)):
            for metric, told in (("f1_macro", "macro F1"), ("f1_weighted", "F1 weighed by answers")):
                try:
                    found = Paired.of(by_seed(name, OWN[share][place], share, metric=metric))
                    row[f"{told}, {NAMES[name]}"] = cell(found.mean, found.half)
                except ResultsError:
                    row[f"{told}, {NAMES[name]}"] = "–"
        rows.append(row)
    return Table(
        pd.DataFrame(rows),
        "F1 in percent, updates in the slides' ratio, mean over the stored seeds ± 95% interval; weighed by answers as "
        "in the slides, where it is called weighted",
    )
