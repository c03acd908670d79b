"""Measures against the KL to the reference: runs as paths with a direction, Best-of-N as a curve.

What decides lies near the reference, so a figure whose runs go far is drawn twice: as far as one
series goes, and whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bondlab.report import scales
from bondlab.report.colours import BEST, Look, looks
from bondlab.report.files import STYLE
from bondlab.report.plots import Panel, handle, laid_out, legend, sheet

ARROW = 0.075  # of an axis, at least, has a step with an arrow
WIDE = 0.75  # of the whole axis: a closer look would show the same
HOW = (
    "x axis: square root of the KL. Arrows: the course of training. Crosses: 95 % intervals after "
    "the last step. Black: Best-of-N of the reference, N doubling up to the one named."
)
ROOM = 1.06  # beyond the last point


def draw(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    base: str,
    xlabel: str,
    title: str = "",
    note: str = "",
    words: Mapping[str, str] | None = None,
    whole: Sequence[str] = (),
) -> Figure:
    """Each panel's measure against the KL to the reference.

    Args:
        table: columns panel, series, kind, point, x, x_low, x_high (the KL, nats), mean, low, high.
            Of kind "path" are runs, in the order of their steps: an arrow a step, at the end a
            cross of both intervals. "named" is sampled Best-of-N, a black curve with its band and
            each point's name. "formula" is a line alone.
        base: the series as far as whose KL, or Best-of-N's, the closer look goes.
        words: what the legend says in place of a series' name.
        whole: panels of which another picture shows the whole.

    Raises:
        ValueError: a panel without rows.
    """
    if lacking := [panel.name for panel in panels if panel.name not in set(table["panel"])]:
        raise ValueError(f"The panels {lacking} have no rows in the table.")
    found, ends = looks(table["series"]), _ends(table, base)
    note += " Shaded area: the range near the reference." * (len(ends) > 1)
    with mpl.rc_context(STYLE):
        places = [(p, end) for p in panels for end in ends if end < ends[-1] or p.name not in whole]
        shape = (2, 2) if len(places) == 4 else (1, len(places))
        figure, grid = sheet(*shape, note, 3.0, 6 if len(places) == 1 else 10, "none")
        for axes, (panel, end) in zip(grid.flat, places, strict=True):
            part, close = table[table["panel"] == panel.name], end == ends[0]
            _draw(axes, part, end, found, close)
            if not close:
                axes.axvspan(axes.get_xlim()[0], ends[0], color="#000000", alpha=0.05, zorder=0)
            part_of = [panel.title, "near the reference" if close else "full range"]
            joined = (":\n" if shape[1] > 2 else ": ").join(part_of[: len(ends)])
            axes.set(title=joined, ylabel=panel.ylabel)
            axes.set_xlabel(xlabel if axes in grid[-1] else "")
        told = words or {}
        entries = {told.get(name, name): handle(look) for name, look in found.items()}
        legend(figure, entries, title)
        return laid_out(figure)


def panel(
    axes: Axes, table: pd.DataFrame, own: Panel, xlabel: str, words: Mapping[str, str]
) -> None:
    """One measure, over the whole range of the KL, as a panel of another figure (`plots.lines`).

    Args:
        table: as `draw`'s, of this measure alone; words: as `draw`'s.
    """
    found, end = looks(table["series"]), _ends(table, "")[-1]
    _draw(axes, table, end, found, close=False)
    axes.set(title=f"{own.title} against KL", ylabel=own.ylabel, xlabel=xlabel)
    for name, look in found.items():
        axes.add_line(handle(look, label=words.get(name, name)))


def _draw(
    axes: Axes, part: pd.DataFrame, end: float, found: Mapping[str, Look], close: bool
) -> None:
    """On a square-root axis, mirrored below 0, as high as what is seen of the panel."""
    apart = max(0.075, 0.04 * axes.get_gridspec().ncols)
    scales.root(axes, "x", part["x"].min(), end, apart)
    seen = part[part["x"] <= end]
    crossed = seen[(seen["kind"] == "named") | ~seen["series"].duplicated(keep="last")]
    heights = np.concatenate([seen["mean"], crossed["low"], crossed["high"]])
    low, high = np.nanmin(heights), np.nanmax(heights)
    axes.set_ylim(low - 0.06 * (high - low), high + 0.12 * (high - low))
    for name, own in part.groupby("series", sort=False):
        _series(axes, own, found[name], close)


def _ends(table: pd.DataFrame, base: str) -> list[float]:
    """How far the panels go, nats: near the reference, then the whole; one if they are alike."""
    measured = table[table["kind"] != "formula"]
    near = measured[(measured["series"] == base) | (measured["kind"] == "named")]
    close, whole = (ROOM * part[["x", "x_high"]].max().max() for part in (near, measured))
    return [close, whole] if close < WIDE**2 * whole else [whole]


def _series(axes: Axes, own: pd.DataFrame, look: Look, close: bool) -> None:
    kind = own["kind"].iloc[0]
    if kind == "formula":
        axes.plot(own["x"], own["mean"], color=look.color, linestyle=look.line)
    elif kind == "named":
        axes.fill_between(own["x"], own["low"], own["high"], color=BEST.color, alpha=0.1, lw=0)
        axes.plot(own["x"], own["mean"], color=BEST.color, marker=BEST.marker, zorder=4)
        aside = {"xytext": (-4, 4), "ha": "right"} if close else {"xytext": (0, 8), "ha": "center"}
        for place in own.itertuples() if close else own.tail(1).itertuples():  # none on another
            point = (place.x, place.mean)
            axes.annotate(place.point, point, textcoords="offset points", fontsize=9, **aside)
    else:
        _path(axes, own, look)


def _path(axes: Axes, own: pd.DataFrame, look: Look) -> None:
    """A faint path with the direction of its steps, and its last point with both intervals."""
    drawn = {"color": look.color, "linestyle": look.line}
    axes.plot(own["x"], own["mean"], marker=look.marker, markersize=3, alpha=0.5, **drawn)
    end = own.iloc[-1]
    down, left = end["mean"] - end["low"], end["x"] - end["x_low"]
    up, right = end["high"] - end["mean"], end["x_high"] - end["x"]
    cross = {"xerr": [[left], [right]], "yerr": [[down], [up]], "elinewidth": 1.5}
    mark = {"marker": look.marker, "markersize": 7, "zorder": 4.5}
    axes.errorbar(end["x"], end["mean"], color=look.color, **cross, **mark)
    to_axes = axes.transData + axes.transAxes.inverted()
    places = to_axes.transform(own[["x", "mean"]].to_numpy())
    for start, stop in zip(places[:-1], places[1:], strict=True):
        middle = (start + stop) / 2
        if np.linalg.norm(stop - start) > ARROW and np.all((middle > 0) & (middle < 1)):
            head = {"arrowstyle": "-|>", "color": look.color, "linewidth": 0, "shrinkA": 0}
            near = {"xycoords": "axes fraction", "textcoords": "axes fraction"}
            axes.annotate("", middle, start, arrowprops=head | {"shrinkB": 0}, **near)
