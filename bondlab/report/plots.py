"""Figures of lines and of bars: tidy table in, matplotlib Figure out, drawn by seaborn.objects.

A table holds what is drawn. Series differ in colour and in line, marker or hatch (`colours.looks`).
Intervals are drawn wherever the columns low and high have numbers.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, product
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bondlab.report import scales
from bondlab.report.colours import COLOURS, HATCHES, Look, looks
from bondlab.report.files import STYLE, save, show

__all__ = ["Level", "Mark", "Panel", "bars", "lines", "save", "show"]

GREY = {"color": "#666666", "linewidth": 1.2, "zorder": 1.5}
LEVEL_LINES = ((0, (4, 3)), (0, (1, 2)), (0, (8, 2, 1, 2)))
# What each kind of row is drawn with: seaborn's marks and the columns that they need besides.
LINE, DOT = (so.Line(), {}), (so.Dot(pointsize=5.5), {})
WHISKER = so.Range({"capstyle": "butt"}, linestyle="-", linewidth=1.5)
UP = {"ymin": "low", "ymax": "high"}
BAR = (so.Bar(alpha=1, edgecolor="white", edgewidth=0.5), {})
BLACK = so.Range({"capstyle": "butt"}, color="black", linestyle="-", linewidth=1.5)
WRITTEN = so.Text(color="black", fontsize=9, valign="bottom", offset=2)
KINDS = {
    "curve": ((so.Band(alpha=0.18), UP), LINE),
    "formula": ((so.Line(marker=""), {}),),
    "points": ((WHISKER, UP), DOT),
    "joined": ((WHISKER, UP), LINE),
    "bar": (BAR, (BLACK, UP), (WRITTEN, {"y": "top", "text": "point"})),
}
BESIDE = so.Dodge(by=["color"], gap=0.08)
BARE = {"formula": {"marker": ""}, "points": {"linestyle": "none"}}


@dataclass(frozen=True)
class Panel:
    """One panel: its value in the column "panel", title and axes; xlabel, if its own."""

    name: str
    title: str  # this and the labels may hold $formulas$
    ylabel: str
    xlabel: str = ""
    root: bool = False  # y is a KL that goes far: drawn by its square root
    log: bool = False  # y is above 0 and falls by much: drawn by its logarithm

    @property
    def unit(self) -> str:
        """What the y axis says in parentheses, or all that it says."""
        return self.ylabel.partition("(")[2].rstrip(")") or self.ylabel


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with, such as a closed form; with low and high also a band.

    `panel` "" is every panel, `row` limits it to one row of a grid. Equal labels share one line
    style and legend entry; the label "" has no entry.
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


def lines(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    x: str = "step",
    xlabel: str = "training steps",
    rows: Sequence[str] = (),
    levels: Sequence[Level] = (),
    marks: Sequence[Mark] = (),
    scale: str = "",
    title: str = "",
    note: str = "",
    words: Mapping[str, str] | None = None,
    last: Callable[[Axes], None] | None = None,
) -> Figure:
    """Means and their intervals against x: training steps, N, a quantile, another measure.

    Args:
        table: columns panel, series, `x`, mean, low, high and, with `rows`, row. The column kind
            says how a row is drawn: "curve" (the default: a line, its interval a band), "formula"
            (a line alone), "points" (dots with whiskers) or "joined" (these joined in order of x).
        panels: left to right; each of `rows` (top to bottom, such as "N = 4") shows all of them.
        words: what the legend says in place of a series' name.
        scale: of x: "" or "log2" (ticks at the x of what is no formula).
        last: draws one more panel, the last of the first row.

    Raises:
        ValueError: an empty table, missing columns, a panel without rows, more than ten series.
    """
    table = table.assign(kind=table["kind"].fillna("curve") if "kind" in table else "curve")
    _require(table, [x, *(["row"] if rows else [])])
    with mpl.rc_context(STYLE):
        columns = len(panels) + bool(last)
        figure, grid = sheet(len(rows) or 1, columns, note, width=6 if columns == 1 else 10)
        if last:
            last(grid[0, -1])
        grid = grid[:, : len(panels)]
        for axes, (row, panel) in zip(grid.flat, product(rows or [""], panels), strict=True):
            part = table[(table["panel"] == panel.name) & (not row or table["row"] == row)]
            if part.empty:
                raise ValueError(f"The panel {panel.name!r} {row} has no rows in the table.")
            _draw(axes, table, part, x)
            _scale(axes, table, part, x, scale)
            _compare(axes, panel.name, row, levels, marks)
            if panel.root:
                scales.root(axes, "y", axes.dataLim.y0, 1.1 * axes.dataLim.y1, 0.1)
            if panel.log:
                scales.logarithm(axes)
            titled = f"{row}: {panel.title}" if len(rows) > 1 else panel.title
            axes.set(title=titled, ylabel=panel.ylabel)
            axes.set_xlabel((panel.xlabel or xlabel) if axes in grid[-1] else "")
            axes.tick_params(labelbottom=axes in grid[-1])
        _add_legend(figure, table, title, words or {})
        return laid_out(figure)


def bars(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    decimals: int = 2,
    levels: Sequence[Level] = (),
    ylim: tuple[float, float] | None = None,
    slanted: bool = False,
    title: str = "",
    note: str = "",
) -> Figure:
    """Groups of bars from zero with their intervals, the mean written above each.

    Args:
        table: columns panel, group (a place on the x axis; "" alone is nameless), series (a bar in
            each group), mean, low, high. A lone series needs no legend and gets none.
        decimals: digits of the written means.
        ylim: the y axis of all panels, where they are to be compared.
        slanted: names of groups at an angle, for many of them.
    """
    _require(table, ["group"])
    digits = f"{{:z.{decimals}f}}".format
    text, top = table["mean"].map(digits), table["high"].fillna(table["mean"]).clip(lower=0)
    table = table.assign(kind="bar", point=text, top=top)
    figure = lines(table, panels, "group", "", levels=levels, title=title, note=note)
    with mpl.rc_context(STYLE):
        for axes in figure.axes:
            axes.margins(y=0.16)  # room for the written mean
            if ylim:
                axes.set_ylim(*ylim)
            for label in axes.get_xticklabels() if slanted else ():
                label.set(rotation=40, horizontalalignment="right", rotation_mode="anchor")
        return laid_out(figure)


def _require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    kinds = set(table.get("kind", ()))
    if unknown := sorted(kinds - set(KINDS)):
        raise ValueError(f"The table to plot has the unknown kinds {unknown}; use {[*KINDS]}.")
    needed = {*columns, "panel", "series", "mean", "low", "high"}
    if (missing := sorted(needed - set(table.columns))) or table.empty:
        raise ValueError(f"The table to plot is empty or lacks the columns {missing}.")
    if (count := table["series"].nunique()) > len(COLOURS):
        raise ValueError(f"{count} series in one figure; it can tell {len(COLOURS)} apart.")


def sheet(
    rows: int,
    columns: int,
    note: str,
    row_height: float = 2.7,
    width: float = 10,
    tied: Literal["col", "none"] = "col",
) -> tuple[Figure, np.ndarray]:
    """An empty figure, some inches wide, and its axes [rows, columns], their x `tied` or not."""
    figure = Figure(figsize=(width, 1.1 + row_height * rows))
    if note:
        wrapped = textwrap.fill(note, int(width * 13.5))
        figure.supxlabel(wrapped, x=0.01, ha="left", fontsize=9, color="#444444")
    return figure, figure.subplots(rows, columns, squeeze=False, sharex=tied)


def laid_out(figure: Figure) -> Figure:
    """The layout is computed once and kept: drawing again, at any resolution, moves nothing."""
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.06)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    return figure


def _draw(axes: Axes, table: pd.DataFrame, part: pd.DataFrame, x: str) -> None:
    """A part of the table, each series with its looks in the whole of it."""
    found = looks(table["series"])
    here = [name for name in found if name in set(part["series"])]
    parts = {"color": "color", "linestyle": "line", "marker": "marker"}
    scales = {
        key: so.Nominal({n: getattr(look, own) for n, look in found.items()}, order=here)
        for key, own in parts.items()
    }
    theme = {key: mpl.rcParams[key] for key in so.Plot.config.theme}  # in place of seaborn's own
    for kind, some in part.groupby("kind"):
        plot = so.Plot(some, x=x, y="mean", **dict.fromkeys(parts, "series"))
        for mark, columns in KINDS[kind]:
            plot = plot.add(mark, *([BESIDE] if kind == "bar" else []), legend=False, **columns)
        plot.on(axes).theme(theme).scale(**scales).plot()
    hatches = dict(zip((look.color for look in found.values()), HATCHES, strict=False))
    for bar in chain(*axes.containers):  # hatches and spaced markers are not among seaborn's looks
        bar.set_hatch(hatches[mpl.colors.to_hex(bar.get_facecolor())])
    for line in axes.lines:
        line.set_markevery(max(1, len(line.get_xdata()) // 10))


def _scale(axes: Axes, table: pd.DataFrame, part: pd.DataFrame, x: str, scale: str) -> None:
    """The x axis; by matplotlib, for seaborn leaves an interval of x unscaled."""
    if x == "group":
        axes.set_xlim(-0.45, part[x].nunique() - 0.55)
        axes.xaxis.set_visible(part[x].any())
        return
    whole = bool((part[x] % 1 == 0).all())
    locator = mpl.ticker.MaxNLocator(7, steps=[1, 2, 5, 10], integer=whole)
    axes.xaxis.set_major_locator(locator)
    if scale == "log2":
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(set(table.loc[table["kind"] != "formula", x])))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.margins(x=0.05)


def _compare(
    axes: Axes, panel: str, row: str, levels: Sequence[Level], marks: Sequence[Mark]
) -> None:
    labels = dict.fromkeys(level.label for level in levels)
    dashes = dict(zip(labels, cycle(LEVEL_LINES), strict=False))
    for level in levels:
        if level.panel in ("", panel) and level.row in ("", row):
            axes.axhline(level.value, linestyle=dashes[level.label], label=level.label, **GREY)
            if level.low is not None and level.high is not None:
                axes.axhspan(level.low, level.high, color="#666666", alpha=0.14, linewidth=0)
    for mark in marks:
        axes.axvline(mark.x, linestyle=(0, (3, 1, 1, 1)), label=mark.label, **GREY)


def _add_legend(figure: Figure, table: pd.DataFrame, title: str, words: Mapping[str, str]) -> None:
    """One legend for all panels above them: the series, then levels and marks."""
    entries, found = {}, looks(table["series"])
    for name, part in table.groupby("series", sort=False):
        kinds = sorted(part["kind"].unique())
        for kind in kinds:
            told = f", {'simulated' if kind == 'points' else kind}" if len(kinds) > 1 else ""
            entries[f"{words.get(name, name)}{told}"] = handle(found[name], **BARE.get(kind, {}))
    if set(table["kind"]) == {"bar"}:
        bars = zip(found.items(), HATCHES, strict=False) if len(found) > 1 else ()
        patch = partial(mpl.patches.Patch, ec="white")
        entries = {name: patch(fc=look.color, hatch=hatch) for (name, look), hatch in bars}
    for axes in figure.axes:
        entries |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    legend(figure, entries, title)


def handle(look: Look, **changed: Any) -> Line2D:
    """A legend's entry of a series, drawn with other properties where they are given."""
    own = {"color": look.color, "linestyle": look.line, "marker": look.marker}
    return Line2D([], [], **own | changed)


def legend(figure: Figure, entries: Mapping[str, Artist], title: str) -> None:
    """A figure's title, and below it its one legend, outside all panels."""
    columns = max(1, figure.get_figwidth() * 11 // (max(map(len, entries), default=0) + 8))
    rows = math.ceil(len(entries) / columns) or 1  # filled evenly: what belongs together stays
    place = {"loc": "outside upper center", "ncols": math.ceil(len(entries) / rows) or 1}
    own = {"frameon": False, "handlelength": 3, "title": title or None, "title_fontsize": 12}
    figure.legend([*entries.values()], [*entries], **place, **own)
