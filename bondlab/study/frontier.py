"""What reward a run has at each KL to the reference, and how its KL grows with its steps.

A run's curve goes through its evaluations in order of their KL. Two curves are compared over the
KL that both reach: a run is not better for having gone further. Between evaluations a curve is
straight in the root of the KL, as the reward of a policy near its reference is. Straight in the KL
itself, it would lie below its own law, the further the fewer points it has, and the slower run
would win. Intervals resample seeds and prompts, the same for both curves, so what a seed or prompt
does to both cancels.

Legend: R = 1 + RESAMPLES, the estimate itself first, S seeds, T evaluations, B prompts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from bondlab import measures
from bondlab.measures import Interval

KL = "kl_to_reference"
RESAMPLES = 2000
NARROW = 0.02  # nats: over less, a difference between curves is the noise of their start


@dataclass(frozen=True)
class Growth:
    """KL to the reference against steps, after the learning rate's warm-up.

    Args:
        slope: of the least-squares line, nats a step.
        r_squared: share of the variance of the mean KL over evaluations that the line explains;
            its interval is a rough one, see `interval`.
        bend: change of the slope from the first half to the second over its mean, of the
            least-squares parabola: 0 for a line, 1 for a square, below 0 where growth slows down.
    """

    slope: Interval
    r_squared: Interval
    bend: Interval


def grid(table: pd.DataFrame, series: str, column: str) -> np.ndarray:
    """A measure of one series' runs, [S, T, B], steps in ascending order."""
    wide = table[table["series"] == series].pivot(
        index=["seed", "step"], columns="prompt", values=column
    )
    return wide.to_numpy().reshape(wide.index.levshape[0], -1, wide.shape[1])


def area(table: pd.DataFrame, series: str, other: str, column: str = "reward") -> Interval:
    """Mean height of one curve above another over their common KL, in the units of `column`.

    The area between the curves, over the root of the KL as figures have it, over its width. NaN
    where they have less than `NARROW` in common.

    Args:
        table: columns series, seed, step, prompt, kl_to_reference and `column`.
    """
    curves = [
        (resampled(grid(table, name, KL)), resampled(grid(table, name, column)))
        for name in (series, other)
    ]
    (x, y), (x_other, y_other) = curves
    heights = [height(*curve) for curve in zip(x, y, x_other, y_other, strict=True)]
    return interval(np.array(heights), grid(table, series, KL)[:, 0].size)


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


def growth(table: pd.DataFrame, series: str) -> Growth:
    """How the KL of one series grows; needs three evaluations after the warm-up.

    Steps of the warm-up are left out: while the learning rate rises, so must the slope.

    Args:
        table: columns series, seed, step, prompt, kl_to_reference, warmup.
    Raises:
        ValueError: fewer than three evaluations after the warm-up.
    """
    part = table[(table["series"] == series) & (table["step"] >= table["warmup"])]
    steps = np.sort(part["step"].unique()).astype(float)
    if len(steps) < 3:
        raise ValueError(f"{series} was evaluated {len(steps)} times after its warm-up, not 3")
    values = grid(part, series, KL)
    means, count = resampled(values), values[:, 0].size
    slope, offset = np.polyfit(steps, means.T, 1)
    residual = means - (slope[:, None] * steps + offset[:, None])
    spread = means - means.mean(1, keepdims=True)
    square, linear, _ = np.polyfit(steps - steps.mean(), means.T, 2)
    with np.errstate(divide="ignore", invalid="ignore"):  # a KL that stays still has no bend
        explained = 1 - (residual**2).sum(1) / (spread**2).sum(1)
        bend = square * (steps[-1] - steps[0]) / linear
    return Growth(*(interval(draws, count) for draws in (slope, explained, bend)))


def resampled(values: np.ndarray) -> np.ndarray:
    """Means over seeds and prompts of [S, T, B], their own and `RESAMPLES` bootstrap ones: [R, T].

    Seeds and prompts are resampled as in `measures.bootstrap_interval`, and arrays of equal shape
    alike, so that differences between them are paired.
    """
    generator = np.random.default_rng(0)
    seeds, prompts = (
        measures.resampling_shares(count, RESAMPLES, generator) for count in values.shape[::2]
    )
    means = np.einsum("rs,stb,rb->rt", seeds, values, prompts, optimize=True)
    return np.concatenate([values.mean((0, 2))[None], means])


def interval(draws: np.ndarray, count: int) -> Interval:
    """The first draw, with the percentile interval of the others; no ends if one is not finite.

    Resampling biases some statistics: R^2 is lower in most resamples than in the data. Such an
    estimate can lie outside the percentiles; the nearer end is then the estimate itself, and the
    interval is not corrected for the bias.
    """
    value, others = float(draws[0]), draws[1:]
    if not np.isfinite(draws).all():
        return Interval(value, np.nan, np.nan, np.nan, count)
    low, high = np.quantile(others, [0.025, 0.975])
    low, high = min(low, value), max(high, value)
    return Interval(value, float(low), float(high), float(others.std(ddof=1)), count)


def scaled(found: Interval, factor: float) -> Interval:
    """The interval of `factor` (above 0) times the quantity."""
    ends = (found.mean, found.low, found.high, found.standard_error)
    return Interval(*(factor * end for end in ends), found.count)


def spread(table: pd.DataFrame) -> float:
    """Standard deviation of the reference's rewards within a prompt (column of the table)."""
    (value,) = table["spread"].unique()
    return float(value)
