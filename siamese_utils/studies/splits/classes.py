"""What the split sweep says of single classes: how hard each is, and whether a known relative helps it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from siamese_utils.data.cifar import CIFAR100_CLASSES, CIFAR100_SUPERCLASS_OF
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import class_split
from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store
from siamese_utils.studies.splits.study import SPLIT_SWEEP, of_the_sweep
from siamese_utils.system.project import results_dir
from siamese_utils.training.recipes import DEFAULT_RECIPE


def stored_class_accuracies(
    class_names: Sequence[str] = CIFAR100_CLASSES, superclass_of: Sequence[int] = CIFAR100_SUPERCLASS_OF
) -> pd.DataFrame:
    """The accuracies of single classes by the report's recipe: one row a class of a split that does not learn it.

    Columns: ``split``, ``draw``, ``learned``, ``label``, ``superclass``, ``relatives`` (classes of its superclass that
    the split learns, 0 to 4), ``value`` and ``ci95`` (percent).

    Raises:
        ResultsError: nothing is stored.
    """
    path = results_dir() / "class_accuracy.csv"
    table = of_the_sweep(store.read_table(path, SPLIT_SWEEP.all_columns, SPLIT_SWEEP.key), DEFAULT_RECIPE, path)
    label_of = {name: label for label, name in enumerate(class_names)}
    rows = []
    for (split, draw), part in table.groupby(["split", "draw"], sort=False):
        seen = class_split(split, int(draw), len(class_names)).seen
        known = np.bincount([superclass_of[label] for label in seen], minlength=max(superclass_of) + 1)
        for row in part.itertuples():
            label = label_of[row.metric]
            group = superclass_of[label]
            rows.append((split, draw, len(seen), label, group, int(known[group]), row.value, row.ci95))
    columns = ["split", "draw", "learned", "label", "superclass", "relatives", "value", "ci95"]
    return pd.DataFrame(rows, columns=columns)


def relative_effect(table: pd.DataFrame, resamples: int = 500, seed: int = 0) -> Estimate:
    """Percentage points that one more learned relative adds to a class's accuracy, all else equal.

    Some classes are easier than others, and every class gains when more classes of any kind are learned. So a class is
    compared with itself and a split with itself: accuracy = a(class, draw) + b(split, draw) + effect x relatives,
    fitted by least squares (two-way fixed effects). The interval comes from drawing whole superclasses with
    replacement (a cluster bootstrap: members of a superclass gain and lose relatives together).

    Args:
        table: as ``stored_class_accuracies`` gives it.
        resamples: bootstrap samples.
        seed: seeds the bootstrap.

    Returns:
        The effect in points a relative; ``n`` is the number of rows.

    Raises:
        ResultsError: no class is seen with different numbers of relatives, so that there is nothing to compare.
    """
    products = _products(table)
    value = _slope(products.sum(axis=0))
    if not np.isfinite(value):
        raise ResultsError("The stored splits give no class more relatives in one than in another; store more splits.")
    rng = named_rng(seed, "relative effect")
    numbers = rng.integers(len(products), size=(resamples, len(products)))
    slopes = np.array([_slope(products[drawn].sum(axis=0)) for drawn in numbers])
    low, high = np.percentile(slopes[np.isfinite(slopes)], [2.5, 97.5])
    return Estimate(float(value), float(high - low) / 2, len(table))


def class_effects(table: pd.DataFrame) -> pd.Series:
    """How much easier each class is to recognise than the average one, whatever split it is asked in.

    A class is unseen in some splits of some draws, easy ones or hard ones, so its mean alone would be unfair. Fitted by
    least squares: accuracy = a(class) + b(draw, split), the mean of a over the classes being 0.

    Args:
        table: as ``stored_class_accuracies`` gives it.

    Returns:
        a in percentage points by ``label``, hardest class first.

    Raises:
        ResultsError: there are no rows.
    """
    if table.empty:
        raise ResultsError("No accuracies of classes are stored; run `python -m siamese_utils sweep`.")
    labels, classes = np.unique(table.label, return_inverse=True)
    splits = table.groupby(["draw", "split"], sort=False).ngroup().to_numpy()
    value = table.value.to_numpy(dtype=np.float64)
    of_class = np.zeros(len(labels))
    for _ in range(2000):
        of_split = np.bincount(splits, value - of_class[classes]) / np.bincount(splits)
        new = np.bincount(classes, value - of_split[splits]) / np.bincount(classes)
        new -= new.mean()
        if np.abs(new - of_class).max() < 1e-9:
            break
        of_class = new
    return pd.Series(new, index=pd.Index(labels, name="label"), name="effect").sort_values()


def _products(table: pd.DataFrame) -> NDArray[np.float64]:
    """Sums of products of value, relatives and split dummies, less their means over each class, (G, K, K).

    One table for each superclass in each draw. A superclass that is drawn twice counts twice, as classes of its own;
    their means are the same, so a sample is fitted from the sum of its tables, and its rows need not be gone through.
    """
    splits = pd.get_dummies(table.groupby(["draw", "split"], sort=False).ngroup(), dtype=np.float64)
    columns = pd.concat([table[["value", "relatives"]].astype(np.float64), splits], axis=1)
    columns -= columns.groupby([table.draw, table.label]).transform("mean")
    parts = (part.to_numpy() for _, part in columns.groupby([table.draw, table.superclass]))
    return np.stack([part.T @ part for part in parts])


def _slope(products: NDArray[np.float64]) -> float:
    """Slope of the first column on the second, given all others (Frisch and Waugh, 1933); NaN where they explain it."""
    pair, others = products[:2, :2], products[2:, :2]
    (_, with_value), (_, variation) = pair - others.T @ np.linalg.pinv(products[2:, 2:], 1e-10, hermitian=True) @ others
    return float(with_value / variation) if variation > 1e-9 * max(1.0, pair[1, 1]) else float("nan")
