"""What reward a run has at each KL to the reference, and how its KL grows with its steps.

A run's curve goes through its evaluations in order of their KL. Two curves are compared over the
KL that both reach: a run is not better for having gone further. Between evaluations a curve is
straight in the root of the KL, as the reward of a policy near its reference is: straight in the KL
itself, the run with fewer points would lose. Intervals resample seeds and prompts, the same for
both curves, so what a seed or prompt does to both cancels.

Tables are evaluations: series, seed, step, prompt, kl_to_reference, the measure, warmup and spread.
Legend: T evaluations.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bondlab.report.intervals import Interval, percentile_interval, resampled

KL = "kl_to_reference"
NARROW = 0.02  # nats: over less, a difference between curves is the noise of their start


def area(table: pd.DataFrame, series: str, other: str, column: str = "reward") -> Interval:
    """Mean height of one curve above another over their common KL, in the units of `column`.

    Of the area between them over the root of the KL. NaN where less than `NARROW` is common.
    """
    values = [_grid(table, name, measure) for name in (series, other) for measure in (KL, column)]
    heights = [height(*draw) for draw in zip(*map(resampled, values), strict=True)]
    return percentile_interval(np.array(heights), values[0][..., 0].size)


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


def _grid(table: pd.DataFrame, series: str, column: str) -> np.ndarray:
    """A measure of one series' runs, [S, B, T], steps in ascending order."""
    own = table[table["series"] == series]
    wide = own.pivot(index=["seed", "prompt"], columns="step", values=column)
    return wide.to_numpy().reshape(wide.index.levshape[0], -1, wide.shape[1])


def spread(table: pd.DataFrame) -> float:
    """Standard deviation of the reference's rewards within a prompt (column of the table)."""
    (value,) = table["spread"].unique()
    return float(value)


def heights(
    table: pd.DataFrame, base: str, others: Sequence[str], column: str = "reward"
) -> pd.DataFrame:
    """`area` of one curve above each of some others, a line each; the reward also in spreads."""
    reach, lines = table.groupby(["series", "step"])[KL].mean().groupby("series").max(), []
    for other in others:
        found = area(table, base, other, column)
        line = {f"{base} above": other, "up to KL": min(reach[base], reach[other])}
        line["mean height"] = str(found)
        if column == "reward":
            line["in spreads"] = str(found * (1 / spread(table)))
        lines.append(line)
    return pd.DataFrame(lines)


def growth(table: pd.DataFrame, series: str) -> tuple[dict[str, Interval], pd.Series]:
    """How the KL of one series grows with its steps, and the least-squares line by step, in nats.

    Steps of the warm-up are left out: while the learning rate rises, so must the slope.

    Returns:
        slope of the line, nats a step; r_squared, the share of the variance of the mean KL over
        evaluations that the line explains, whose interval is rough (`percentile_interval`); bend,
        the change of the slope from the first half to the second over its mean, of the
        least-squares parabola: 0 for a line, 1 for a square, below 0 where growth slows down.

    Raises:
        ValueError: fewer than three evaluations after the warm-up.
    """
    part = table[(table["series"] == series) & (table["step"] >= table["warmup"])]
    steps = np.sort(part["step"].unique())
    if len(steps) < 3:
        raise ValueError(f"{series} was evaluated {len(steps)} times after its warm-up, not 3")
    values = _grid(part, series, KL)
    means, count = resampled(values), values[..., 0].size
    slope, offset = np.polyfit(steps, means.T, 1)
    lines = slope[:, None] * steps + offset[:, None]
    around = means - means.mean(1, keepdims=True)
    square, linear, _ = np.polyfit(steps - steps.mean(), means.T, 2)
    with np.errstate(divide="ignore", invalid="ignore"):  # a KL that stays still has no bend
        explained = 1 - ((means - lines) ** 2).sum(1) / (around**2).sum(1)
        bend = square * (steps[-1] - steps[0]) / linear
    draws = {"slope": slope, "r_squared": explained, "bend": bend}
    found = {name: percentile_interval(values, count) for name, values in draws.items()}
    return found, pd.Series(lines[0], steps)
