"""How sure we are: intervals of means, shares, differences and whatever else is resampled.

Prompts (documents, pages, dialogues) are the independent units, and with several runs their seeds
are too; completions of one prompt share its difficulty. All intervals are at 95 %.

Legend: S seeds, B prompts, R = 1 + RESAMPLES, the estimate itself first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

RESAMPLES = 2000
TAIL = 0.975  # the upper end of a 95 % interval


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; `count` is the number of independent units behind it."""

    mean: float
    low: float
    high: float
    standard_error: float
    count: int

    def __str__(self) -> str:
        return text(self.mean, self.low, self.high)

    def __mul__(self, factor: float) -> Interval:
        """The interval of `factor` (above 0) times the quantity."""
        ends = (self.mean, self.low, self.high, self.standard_error)
        return Interval(*(factor * end for end in ends), self.count)

    def row(self, **labels: object) -> dict:
        """A row of a table that plots draw: the labels, mean, low, high and count."""
        ends = {"mean": self.mean, "low": self.low, "high": self.high, "count": self.count}
        return {**labels, **ends}


def known(value: float) -> Interval:
    """A number without error: a closed form, an enumeration."""
    return Interval(value, math.nan, math.nan, 0.0, 0)


def text(mean: float, low: float = math.nan, high: float = math.nan, decimals: int = 3) -> str:
    """ "0.123 [0.100, 0.150]"; without the ends where there are none, "-" without a number."""
    if math.isnan(mean):
        return "-"
    ends = "" if math.isnan(low) else f" [{low:.{decimals}f}, {high:.{decimals}f}]"
    return f"{mean:.{decimals}f}{ends}"


# -- means, shares, differences --------------------------------------------------------------------


def mean_interval(values: ArrayLike) -> Interval:
    """Student t interval of the mean of one value per prompt, [B]. One prompt alone gives NaN ends.

    Raises ValueError on missing values: average over completions, and drop prompts, knowingly.
    """
    values = _finite(values, dimensions=1)
    count, mean = len(values), float(values.mean())
    if count < 2:
        return Interval(mean, math.nan, math.nan, math.nan, count)
    error = float(values.std(ddof=1)) / math.sqrt(count)
    reach = float(stats.t.ppf(TAIL, count - 1)) * error
    return Interval(mean, mean - reach, mean + reach, error, count)


def cell_interval(values: ArrayLike) -> Interval:
    """Interval of the mean of [S, B]: over seeds and prompts, or t over prompts with one seed."""
    values = _finite(values, dimensions=2)
    return mean_interval(values[0]) if len(values) == 1 else bootstrap_interval(values)


def bootstrap_interval(values: ArrayLike) -> Interval:
    """Two-way bootstrap interval of the mean of [S, B]: seeds and prompts are both resampled.

    The percentile interval of 2 or 3 seeds is rough; with one seed only prompts vary, and it says
    nothing about other seeds. `count` is S times B.
    """
    values = _finite(values, dimensions=2)
    return percentile_interval(resampled(values), values.size)


def paired_difference(first: ArrayLike, second: ArrayLike) -> Interval:
    """Interval of the mean of first - second over the same prompts, [B] or [S, B] each.

    Pairing takes the prompts' difficulty out: usually far shorter than two separate intervals.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape:
        raise ValueError(f"A paired difference needs equal shapes: {first.shape}, {second.shape}.")
    return (mean_interval if first.ndim == 1 else cell_interval)(first - second)


def accuracy_interval(correct: ArrayLike, clusters: ArrayLike | None = None) -> Interval:
    """Share of True among items with Wilson's score interval; also for win rates.

    Items are independent, or, given the cluster of each, count as fewer: as many as would give the
    variance between clusters (Rao and Scott 1992), never more. `count` stays the number of items.
    """
    correct = _finite(correct, dimensions=1)
    share, spread = float(correct.mean()), float(correct.var())
    count = len(correct)
    if clusters is not None and spread > 0:
        sums = np.bincount(np.unique(clusters, return_inverse=True)[1], correct - share)
        variance = _inflate(len(sums)) * float(sums @ sums) / count**2
        count = spread / max(variance, spread / count)
    z = float(stats.norm.ppf(TAIL))
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z * math.sqrt(spread / count + z * z / (4 * count**2)) / (1 + z * z / count)
    error = math.sqrt(spread / count)
    return Interval(share, centre - reach, centre + reach, error, len(correct))


def auc_interval(
    scores: ArrayLike, labels: ArrayLike, clusters: ArrayLike | None = None
) -> Interval:
    """Area under the ROC curve, P(score of a positive > score of a negative), ties count half.

    The interval is DeLong's (1988) or, given the cluster of each item (its page, its document),
    Obuchowski's (1997) extension, which is DeLong's when every item is its own cluster. Clipped to
    [0, 1]; perfect separation gives a zero width, which says only that the sample is too easy.
    """
    scores, labels = _finite(scores, dimensions=1), np.asarray(labels, bool)
    if labels.all() or not labels.any():
        raise ValueError("The AUC needs items of both labels; pass a larger or a mixed sample.")
    items = np.arange(len(scores)) if clusters is None else clusters
    clusters = np.unique(items, return_inverse=True)[1]
    above = _share_of_opposite_below(scores, labels)
    area = float(above[labels].mean())
    sums = [
        np.bincount(clusters, np.where(labels == side, value - area, 0.0))
        for side, value in ((True, above), (False, 1 - above))
    ]
    parts = [len(np.unique(clusters[labels == side])) for side in (True, False)]
    sizes = [labels.sum(), (~labels).sum()]
    variance = 2 * _inflate(len(sums[0])) * (sums[0] @ sums[1]) / (sizes[0] * sizes[1])
    for total, part, size in zip(sums, parts, sizes, strict=True):
        variance += _inflate(part) * (total @ total) / size**2
    error = math.sqrt(max(float(variance), 0.0))
    reach = float(stats.norm.ppf(TAIL)) * error
    return Interval(area, max(area - reach, 0.0), min(area + reach, 1.0), error, len(scores))


def _share_of_opposite_below(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each item the share of the other label's items that score less, ties counted half."""
    ranks = stats.rankdata(scores)
    below = np.empty_like(scores)
    for side in (True, False):
        own = labels == side
        below[own] = (ranks[own] - stats.rankdata(scores[own])) / (~own).sum()
    return below


def _inflate(count: int) -> float:
    return count / (count - 1) if count > 1 else math.nan


def _finite(values: ArrayLike, dimensions: int) -> np.ndarray:
    """The values as float64 of that many dimensions; none missing, none infinite, at least one."""
    values = np.asarray(values, float)
    if values.ndim != dimensions or values.size == 0:
        raise ValueError(f"Expected a non-empty array of {dimensions} axes, not {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("Some values are missing or infinite; drop or repair them first.")
    return values


# -- resampling ------------------------------------------------------------------------------------


def resampled(values: np.ndarray) -> np.ndarray:
    """Means over seeds and prompts of [S, B, ...], their own and `RESAMPLES` bootstrap ones: [R, ...].

    Seeds share prompts and prompts share seeds, so a bootstrap of the cells alone would be far too
    sure. S - 1 seeds and B - 1 prompts are drawn with replacement, which makes each resampled mean
    vary as much as the mean of S seeds or B prompts does (drawing S of S seeds would give 2/3 of
    the variance at S = 3). Arrays of equal S and B are resampled alike: differences are paired.
    """
    generator, shares = np.random.default_rng(0), []
    for count in values.shape[:2]:
        draws = max(count - 1, 1)
        chosen = generator.multinomial(draws, np.full(count, 1 / count), size=RESAMPLES)
        shares.append(chosen / draws)
    again = np.einsum("rs,rb,sb...->r...", *shares, values, optimize=True)
    return np.concatenate([values.mean((0, 1))[None], again])


def percentile_interval(draws: np.ndarray, count: int) -> Interval:
    """The first draw with the percentile interval of the others; no ends if one is not finite.

    Resampling biases some statistics: R^2 is lower in most resamples than in the data. Such an
    estimate can lie outside the percentiles; the nearer end is then the estimate itself, and the
    interval is not corrected for the bias.
    """
    value, others = float(draws[0]), draws[1:]
    if not np.isfinite(draws).all():
        return Interval(value, math.nan, math.nan, math.nan, count)
    low, high = np.quantile(others, [1 - TAIL, TAIL])
    ends = min(float(low), value), max(float(high), value)
    return Interval(value, *ends, float(others.std(ddof=1)), count)


# -- tables ----------------------------------------------------------------------------------------


def grid(table: pd.DataFrame, value: str) -> np.ndarray:
    """A measure as [S, B] (one seed where the column is missing), rows of one prompt averaged.

    NaN where a seed was not evaluated on a prompt.
    """
    seeds = table["seed"] if "seed" in table else pd.Series(0, table.index, name="seed")
    return table.groupby([seeds, "prompt"])[value].mean().unstack().to_numpy(float)


def grouped(table: pd.DataFrame, value: str, by: Sequence[str]) -> pd.DataFrame:
    """One interval per group of an evaluation table: columns `by`, mean, low, high, count.

    The table has the columns `by`, "prompt", `value` and, for several seeds, "seed". `count` is the
    number of prompts times seeds. Raises ValueError where seeds were evaluated on other prompts.
    """
    rows = [
        (*key, *cell_interval(grid(part, value)).row().values())
        for key, part in table.groupby(list(by), sort=False, observed=True)
    ]
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "count"])


def curves(table: pd.DataFrame, values: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """`grouped` of several measures, one after the other: its columns, and panel (the measure)."""
    parts = [grouped(table, value, by).assign(panel=value) for value in values]
    return pd.concat(parts, ignore_index=True)


def cell(table: pd.DataFrame, column: str) -> str:
    """The mean of a measure over seeds and prompts with its interval, as text; "-" for none."""
    if column not in table:
        return "-"
    # A prompt counts where every seed has a value: not every summary holds a number.
    lacking = table.loc[table[column].isna(), "prompt"]
    present = table[~table["prompt"].isin(lacking)]
    if present.empty:
        return "-"
    found = cell_interval(grid(present, column))
    if present[column].nunique() == 1:  # a closed form, or a measure that is the same everywhere
        return text(found.mean)
    return str(found)
