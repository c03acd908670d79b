"""What reward a run has at each KL to the reference, and how its KL grows with its steps.

A run's curve goes through its evaluations in order of their KL. Two curves are compared over the
KL that both reach: a run is not better for having gone further. Between evaluations a curve is
straight in the root of the KL, as the reward of a policy near its reference is: straight in the KL
itself, the run with fewer points would lose. Each seed has its own curves; intervals are those of
`intervals.influence`, seeds and prompts the same for both curves, so what they do to both cancels.

Tables are evaluations: series, seed, step, prompt, kl_to_reference, the measure, warmup and spread.
Legend: S seeds, B prompts, T evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bondlab.report.intervals import Interval, cell_interval, influence
from bondlab.study.cells import evaluations, shared

KL = "kl_to_reference"
NARROW = 0.02  # nats: over less, a difference between curves is the noise of their start


def area(table: pd.DataFrame, series: str, other: str, column: str = "reward") -> np.ndarray:
    """Mean height of one curve above another over their common KL, in the units of `column`.

    Of the area between them over the root of the KL, [S, B] (`influence`), of the seeds that both
    have. NaN where less than `NARROW` is common.
    """
    table = shared(table, (series, other))
    arrays = [curve(table, name, measure) for name in (series, other) for measure in (KL, column)]
    seeds = max(map(len, arrays))  # what was not trained has none
    arrays = [np.broadcast_to(array, (seeds, *array.shape[1:])) for array in arrays]
    return influence(height, *arrays)


def gap(table: pd.DataFrame, series: str, other: str, column: str = "reward") -> np.ndarray:
    """`area` in the `unit` of the measure, [S, B]."""
    return area(table, series, other, column) / unit(table, column)


def height(x: np.ndarray, y: np.ndarray, x_other: np.ndarray, y_other: np.ndarray) -> float:
    """Mean of y - y_other over the root of the KL x that two curves share; [T] each.

    Exact: curves are piecewise linear in the root, so their difference is linear between
    neighbouring points of either. An estimate of a KL below 0 counts as 0.
    """
    x, x_other = (np.sqrt(np.clip(kl, 0, None)) for kl in (x, x_other))
    low, high = max(x.min(), x_other.min()), min(x.max(), x_other.max())
    if high**2 - low**2 < NARROW:
        return np.nan
    points = np.unique(np.concatenate([x, x_other, [low, high]]))
    points = points[(points >= low) & (points <= high)]
    gap = _at(points, x, y) - _at(points, x_other, y_other)
    return float(np.trapezoid(gap, points) / (high - low))


def _at(points: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    order = np.argsort(x, kind="stable")
    return np.interp(points, x[order], y[order])


def curve(table: pd.DataFrame, series: str, column: str) -> np.ndarray:
    """A measure of one series' runs, [S, B, T], steps in ascending order; S = 1 without seeds."""
    own = evaluations(table, series, column).fillna({"seed": 0})
    wide = own.pivot(index=["seed", "prompt"], columns="step", values=column)
    return wide.to_numpy().reshape(wide.index.levshape[0], -1, wide.shape[1])


def unit(table: pd.DataFrame, column: str) -> float:
    """What a measure's changes are told in: spreads of the reward, else its own unit."""
    return spread(table) if column == "reward" else 1.0


def spread(table: pd.DataFrame) -> float:
    """Standard deviation of the reference's rewards within a prompt (column of the table)."""
    (value,) = table["spread"].dropna().unique()
    return float(value)


def heights(
    table: pd.DataFrame, base: str, others: Sequence[str], column: str = "reward"
) -> pd.DataFrame:
    """`area` of one curve above each of some others, a line each; the reward also in spreads."""
    reach, lines = table.groupby(["series", "step"])[KL].mean().groupby("series").max(), []
    for other in others:
        found = cell_interval(area(table, base, other, column))
        line = {f"{base} above": other, "up to KL": min(reach[base], reach[other])}
        line["mean height"] = str(found)
        if column == "reward":
            line["in spreads"] = str(found * (1 / spread(table)))
        lines.append(line)
    return pd.DataFrame(lines)


def growth(table: pd.DataFrame, series: str) -> tuple[dict[str, Interval], pd.Series]:
    """`shape` of the KL of one series with intervals, and its straight line by step, in nats.

    Raises:
        ValueError: fewer than three evaluations after the warm-up.
    """
    steps, values = grown(table, series)
    found = {name: cell_interval(shape(name, steps, values)) for name in SHAPE}
    line = np.polyfit(steps, values.mean((0, 1)), 1)
    return found, pd.Series(np.polyval(line, steps), steps)


def grown(table: pd.DataFrame, series: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps after the warm-up [T] and the KL there [S, B, T].

    Before its end, while the learning rate rises, so must the slope.
    """
    part = table[(table["series"] == series) & (table["step"] >= table["warmup"])]
    steps = np.sort(part["step"].unique())
    if 0 < len(steps) < 3:
        raise ValueError(f"{series} was evaluated {len(steps)} times after its warm-up, not 3")
    return steps, curve(part, series, KL)


def shape(name: str, steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How a KL [S, B, T] grows with the steps [T], [S, B]: one of `SHAPE`.

    slope of the least-squares line, nats per step; r_squared, the share of the variance over
    evaluations that the line explains; bend, the change of the slope from the first half to the
    second over its mean, of the least-squares parabola: 0 for a line, 1 for a square, below 0 where
    growth slows down. NaN where a KL stays still, which has no bend.
    """
    return influence(lambda means: SHAPE[name](steps, means), values)


def _r_squared(steps: np.ndarray, means: np.ndarray) -> float:
    off = means - np.polyval(np.polyfit(steps, means, 1), steps)
    around = means - means.mean()
    return float(1 - off @ off / (around @ around)) if around.any() else np.nan


def _bend(steps: np.ndarray, means: np.ndarray) -> float:
    square, linear, _ = np.polyfit(steps - steps.mean(), means, 2)
    return float(square * (steps[-1] - steps[0]) / linear) if means.any() else np.nan


SHAPE = {
    "slope": lambda steps, means: float(np.polyfit(steps, means, 1)[0]),
    "r_squared": _r_squared,
    "bend": _bend,
}
