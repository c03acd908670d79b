"""What a panel is drawn with: curves, points with whiskers, bars, and lines to compare with.

Every stroke takes the index of its series, which fixes its colour, line, marker or hatch in every
panel. Tables have the columns mean, low, high; x is given beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import ScalarFormatter

from bondlab.study.canvas import NOTE_SIZE

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "--")
LEVEL_LINES = ((0, (4, 3)), (0, (1, 2)), (0, (8, 2, 1, 2)))


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with, such as a closed form; with low and high also a band.

    `row` limits it to one row of a grid; equal labels share one line style and legend entry.
    """

    panel: str
    value: float
    label: str
    row: str = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Mark:
    """A vertical line in every panel, such as a step at which something changes."""

    x: float
    label: str


def curve(axes: Axes, x: pd.Series, part: pd.DataFrame, name: str, index: int) -> None:
    """A mean line with its interval band."""
    look = {"color": COLOURS[index], "linestyle": LINES[index], "marker": MARKERS[index]}
    every = max(1, len(part) // 10)
    axes.plot(x, part["mean"], label=name, markevery=every, **look)
    axes.fill_between(x, part["low"], part["high"], color=COLOURS[index], alpha=0.18, linewidth=0)


def line(axes: Axes, x: pd.Series, part: pd.DataFrame, name: str, index: int) -> None:
    """A line alone: a closed form."""
    axes.plot(x, part["mean"], label=name, color=COLOURS[index], linestyle=LINES[index])


def points(
    axes: Axes, x: pd.Series, part: pd.DataFrame, name: str, index: int, linestyle: Any = "none"
) -> None:
    """Markers with whiskers."""
    look = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": linestyle}
    axes.errorbar(x, part["mean"], yerr=_reach(part), label=name, capsize=3, **look)


def named_points(axes: Axes, x: pd.Series, part: pd.DataFrame, name: str, index: int) -> None:
    """Markers with whiskers, and the column point written beside each.

    To the left: what these points are compared with, a run of the same KL, lies below or right.
    """
    points(axes, x, part, name, index)
    for place, mean, text in zip(x, part["mean"], part["point"], strict=True):
        offset = {"xytext": (-6, 3), "textcoords": "offset points", "ha": "right"}
        axes.annotate(text, (place, mean), fontsize=NOTE_SIZE, color="#444444", **offset)


def path(axes: Axes, x: pd.Series, part: pd.DataFrame, name: str, index: int) -> None:
    """Points joined in the table's order; a cross of both intervals (x_low, x_high too) ends it."""
    colour = COLOURS[index]
    look = {"color": colour, "linestyle": LINES[index], "marker": MARKERS[index]}
    axes.plot(x, part["mean"], label=name, **look)
    end, place = part.iloc[-1:], x.iloc[-1:]
    across = np.stack([place - end["x_low"], end["x_high"] - place]).clip(min=0)
    cross = {"yerr": _reach(end), "xerr": across, "linestyle": "none", "capsize": 3}
    axes.errorbar(place, end["mean"], color=colour, elinewidth=1.2, **cross)


def bars(
    axes: Axes,
    x: np.ndarray,
    part: pd.DataFrame,
    width: float,
    name: str,
    index: int,
    decimals: int | None,
) -> None:
    """Bars from zero with whiskers and, unless decimals is None, their means written above."""
    look = {"color": COLOURS[index], "hatch": HATCHES[index], "edgecolor": "white"}
    axes.bar(x, part["mean"], 0.92 * width, label=name, **look)
    axes.errorbar(x, part["mean"], yerr=_reach(part), linestyle="none", color="black", capsize=3)
    if decimals is None:
        return
    tops = part["high"].fillna(part["mean"]).clip(lower=0)
    for place, top, mean in zip(x, tops, part["mean"], strict=True):
        text = f"{round(mean, decimals) + 0.0:.{decimals}f}"  # + 0.0 turns -0.0 into 0.0
        offset = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center"}
        axes.annotate(text, (place, top), fontsize=NOTE_SIZE, **offset)


def _reach(part: pd.DataFrame) -> np.ndarray:
    """Distances from the mean down to low and up to high, [2, points]; NaN draws no whisker."""
    return np.stack([part["mean"] - part["low"], part["high"] - part["mean"]]).clip(min=0)


def draw_levels(axes: Axes, levels: Sequence[Level], panel: str, row: str) -> None:
    """The levels of one panel and row."""
    labels = list(dict.fromkeys(level.label for level in levels))
    for level in levels:
        if level.panel == panel and level.row in ("", row):
            look = LEVEL_LINES[labels.index(level.label) % len(LEVEL_LINES)]
            style = {"linestyle": look, "linewidth": 1.2, "label": level.label, "zorder": 1.5}
            axes.axhline(level.value, color="#555555", **style)
            if level.low is not None and level.high is not None:
                axes.axhspan(level.low, level.high, color="#555555", alpha=0.12, linewidth=0)


def draw_marks(axes: Axes, marks: Sequence[Mark]) -> None:
    """Dotted vertical lines behind the data."""
    for mark in marks:
        look = {"color": "#999999", "linestyle": (0, (1, 1.5)), "linewidth": 1.2, "zorder": 1.2}
        axes.axvline(mark.x, label=mark.label, **look)


def log2(axes: Axes, ticks: pd.Series) -> None:
    """A base-2 x axis with these ticks alone."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(ticks)), minor=False)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()


def slant(axes: Axes) -> None:
    """The names on the x axis at an angle, each ending at its tick."""
    for label in axes.get_xticklabels():
        label.set(rotation=40, horizontalalignment="right", rotation_mode="anchor")


def square_root(axes: Axes, ticks: Sequence[float]) -> None:
    """A square-root x axis, with these ticks; values below 0, as an estimate may be, mirrored."""
    axes.set_xscale("function", functions=(_root, _square))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def square_ticks(reach: float) -> list[float]:
    """At most eight squares of evenly spaced numbers, from 0 to `reach`."""
    root = max(reach, 0.0) ** 0.5
    steps = (digit * 10.0**power for power in range(-3, 4) for digit in (1, 2, 5))
    step = next(step for step in steps if root / step < 8)
    return [round((i * step) ** 2, 10) for i in range(int(root / step) + 1)]


def _root(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.sqrt(np.abs(x))


def _square(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.square(x)
