"""One function per kind of figure: tidy table in, matplotlib Figure out.

A table holds exactly what is drawn, so that its numbers can be saved beside the picture and tested
in its place. Every function takes the series in their order of appearance and tells them apart by
colour (Okabe and Ito's palette, safe for colour-blind readers) and by line, marker or hatch, so
that a grey copy still reads. Intervals are drawn wherever the columns low and high have numbers.

Figures are 10 inches wide, or 6 with one panel, in type of 9 points and more. `show` displays one
in a notebook, `save_figure` writes it; both come from `bondlab.canvas`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from bondlab.canvas import NOTE_SIZE, STYLE, finish, new_figure, save_figure, show

__all__ = ["Level", "Panel", "bars_with_intervals", "curves", "headroom", "lines"]
__all__ += ["save_figure", "show"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "--")
LEVEL_LINES = ((0, (4, 3)), (0, (1, 2)), (0, (8, 2, 1, 2)))


@dataclass(frozen=True)
class Panel:
    """One panel: its value in the table's column "panel", its title, its y axis with the unit.

    Titles and labels may hold formulas between dollar signs.
    """

    name: str
    title: str
    ylabel: str


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


def curves(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    rows: Sequence[str] = (),
    levels: Sequence[Level] = (),
    xlabel: str = "training steps",
    title: str = "",
    note: str = "",
) -> Figure:
    """Measures over training: a mean line with its interval band for each series (Figures 2, 10).

    Args:
        table: columns panel, series, step, mean, low, high and, with `rows`, row.
        panels: left to right; each row of the grid shows all of them.
        rows: the rows of the grid, top to bottom, such as "N = 4"; none for a single row.
        levels: horizontal lines: the formula's starting value, a bound, sampled Best-of-N.
        note: small print under the figure: seeds, sample counts.
    """
    _require(table, ["panel", "series", "step", *(["row"] if rows else [])])
    with matplotlib.rc_context(STYLE):
        figure, grid = new_figure(max(len(rows), 1), len(panels), title, note)
        for axes, row, panel in _cells(grid, rows, panels):
            chosen = table[table["panel"] == panel.name]
            chosen = chosen[chosen["row"] == row] if row else chosen
            for index, name, part in _series(table, chosen):
                part = part.sort_values("step")
                _curve(axes, part["step"], part, name, index)
            _draw_levels(axes, levels, panel.name, row)
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        _label(grid, xlabel)
        return finish(figure, {level.label for level in levels})


def lines(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    xlabel: str,
    log2: bool = False,
    levels: Sequence[Level] = (),
    title: str = "",
    note: str = "",
) -> Figure:
    """Closed forms as lines and their simulation as points with intervals, in one colour each.

    For Figure 8, and for the divergence and win rate of Best-of-N against their formulas.

    Args:
        table: columns panel, series, kind ("formula" or "simulated"), x, mean, low, high.
        log2: a base-2 x axis whose ticks are the simulated x.
    """
    _require(table, ["panel", "series", "kind", "x"])
    with matplotlib.rc_context(STYLE):
        figure, grid = new_figure(1, len(panels), title, note)
        for axes, row, panel in _cells(grid, (), panels):
            for index, name, part in _series(table, table[table["panel"] == panel.name]):
                for kind, half in part.sort_values("x").groupby("kind"):  # the formula first
                    draw = _line if kind == "formula" else _points
                    draw(axes, half["x"], half, f"{name}, {kind}", index)
            _draw_levels(axes, levels, panel.name, row)
            if log2:
                _log2(axes, table.loc[table["kind"] == "simulated", "x"])
        _label(grid, xlabel)
        return finish(figure, {level.label for level in levels})


def headroom(
    table: pd.DataFrame,
    ylabel: str,
    levels: Sequence[Level] = (),
    title: str = "",
    note: str = "",
) -> Figure:
    """What Best-of-N gains: the value of the chosen completion against N on a base-2 axis.

    Args:
        table: columns series, n, mean, low, high.
        levels: horizontal lines; their panel is "".
    """
    _require(table, ["series", "n"])
    with matplotlib.rc_context(STYLE):
        figure, grid = new_figure(1, 1, title, note)
        axes = grid[0, 0]
        for index, name, part in _series(table, table):
            part = part.sort_values("n")
            _points(axes, part["n"], part, name, index, linestyle=LINES[index])
        _draw_levels(axes, levels, "", "")
        _log2(axes, table["n"])
        axes.set_ylabel(ylabel)
        _label(grid, "N, completions to choose from (log scale)")
        return finish(figure, {level.label for level in levels})


def bars_with_intervals(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    decimals: int = 2,
    title: str = "",
    note: str = "",
) -> Figure:
    """Groups of bars from zero with their intervals, the mean written above each.

    Args:
        table: columns panel, group (a place on the x axis), series (a bar in each group), mean,
            low, high. A lone series needs no legend and gets none.
        decimals: digits of the written means.
    """
    _require(table, ["panel", "group", "series"])
    with matplotlib.rc_context(STYLE):
        figure, grid = new_figure(1, len(panels), title, note)
        for axes, _, panel in _cells(grid, (), panels):
            chosen = table[table["panel"] == panel.name]
            groups = list(chosen["group"].unique())
            width = 0.8 / chosen["series"].nunique()
            for place, (index, name, part) in enumerate(_series(table, chosen)):
                left = np.array([groups.index(group) for group in part["group"]]) - 0.4
                _bars(axes, left + width * (place + 0.5), part, width, name, index, decimals)
            axes.set_xticks(range(len(groups)), groups)
            axes.margins(y=0.1)  # room for the written mean
            axes.grid(False, axis="x")
        return finish(figure, legend=table["series"].nunique() > 1)


def _cells(
    grid: np.ndarray, rows: Sequence[str], panels: Sequence[Panel]
) -> Iterator[tuple[Axes, str, Panel]]:
    """Each panel of the grid with its row and title set."""
    for axes, (row, panel) in zip(grid.flat, product(rows or ("",), panels), strict=True):
        axes.set_title(f"{row}: {panel.title}" if row else panel.title)
        axes.set_ylabel(panel.ylabel)
        yield axes, row, panel


def _series(table: pd.DataFrame, chosen: pd.DataFrame) -> Iterator[tuple[int, str, pd.DataFrame]]:
    """The chosen rows by series, with the series' index in the whole table: its look everywhere."""
    names = list(table["series"].unique())
    if len(names) > len(COLOURS):
        raise ValueError(f"{len(names)} series in one figure; it can tell {len(COLOURS)} apart.")
    if chosen.empty:
        raise ValueError(
            "A panel has no rows in the table: compare its name with the column panel."
        )
    for index, name in enumerate(names):
        part = chosen[chosen["series"] == name]
        if len(part):
            yield index, name, part


def _curve(axes: Axes, x: pd.Series, part: pd.DataFrame, name: str, index: int) -> None:
    look = {"color": COLOURS[index], "linestyle": LINES[index], "marker": MARKERS[index]}
    every = max(1, len(part) // 10)
    axes.plot(x, part["mean"], label=name, markevery=every, **look)
    axes.fill_between(x, part["low"], part["high"], color=COLOURS[index], alpha=0.18, linewidth=0)


def _line(axes: Axes, x: pd.Series, part: pd.DataFrame, name: str, index: int) -> None:
    axes.plot(x, part["mean"], label=name, color=COLOURS[index], linestyle=LINES[index])


def _points(
    axes: Axes, x: pd.Series, part: pd.DataFrame, name: str, index: int, linestyle: Any = "none"
) -> None:
    look = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": linestyle}
    axes.errorbar(x, part["mean"], yerr=_reach(part), label=name, capsize=3, **look)


def _bars(
    axes: Axes,
    x: np.ndarray,
    part: pd.DataFrame,
    width: float,
    name: str,
    index: int,
    decimals: int,
) -> None:
    look = {"color": COLOURS[index], "hatch": HATCHES[index], "edgecolor": "white"}
    axes.bar(x, part["mean"], 0.92 * width, label=name, **look)
    axes.errorbar(x, part["mean"], yerr=_reach(part), linestyle="none", color="black", capsize=3)
    tops = part["high"].fillna(part["mean"]).clip(lower=0)
    for place, top, mean in zip(x, tops, part["mean"], strict=True):
        text = f"{mean:.{decimals}f}"
        offset = {"xytext": (0, 3), "textcoords": "offset points", "ha": "center"}
        axes.annotate(text, (place, top), fontsize=NOTE_SIZE, **offset)


def _reach(part: pd.DataFrame) -> np.ndarray:
    """Distances from the mean down to low and up to high, [2, points]; NaN draws no whisker."""
    return np.stack([part["mean"] - part["low"], part["high"] - part["mean"]]).clip(min=0)


def _draw_levels(axes: Axes, levels: Sequence[Level], panel: str, row: str) -> None:
    labels = list(dict.fromkeys(level.label for level in levels))
    for level in levels:
        if level.panel == panel and level.row in ("", row):
            look = LEVEL_LINES[labels.index(level.label) % len(LEVEL_LINES)]
            line = {"linestyle": look, "linewidth": 1.2, "label": level.label, "zorder": 1.5}
            axes.axhline(level.value, color="#555555", **line)
            if level.low is not None and level.high is not None:
                axes.axhspan(level.low, level.high, color="#555555", alpha=0.12, linewidth=0)


def _log2(axes: Axes, ticks: pd.Series) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(set(ticks)), minor=False)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()


def _label(grid: np.ndarray, xlabel: str) -> None:
    for axes in grid[-1]:
        axes.set_xlabel(xlabel)


def _require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = sorted({*columns, "mean", "low", "high"} - set(table.columns))
    if missing or table.empty:
        raise ValueError(f"The table to plot is empty or lacks the columns {missing}.")
