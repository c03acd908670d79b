"""One function per kind of figure: tidy table in, matplotlib Figure out.

A table holds exactly what is drawn, so that its numbers can be saved beside the picture and tested
in its place. Every function takes the series in their order of appearance and tells them apart by
colour (Okabe and Ito's palette, safe for colour-blind readers) and by line, marker or hatch, so
that a grey copy still reads. Intervals are drawn wherever the columns low and high have numbers.

Figures are 10 inches wide, or 6 with one panel, in type of 9 points and more. `show` displays one
in a notebook, `save_figure` writes it; both come from `bondlab.study.canvas`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bondlab.study import drawing
from bondlab.study.canvas import STYLE, finish, new_figure, save_figure, show
from bondlab.study.drawing import Level, Mark

__all__ = ["Level", "Mark", "Panel", "bars_with_intervals", "curves", "headroom", "lines", "paths"]
__all__ += ["save_figure", "show"]


@dataclass(frozen=True)
class Panel:
    """One panel: its value in the table's column "panel", its title, its y axis with the unit.

    Titles and labels may hold formulas between dollar signs.
    """

    name: str
    title: str
    ylabel: str


def curves(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    rows: Sequence[str] = (),
    levels: Sequence[Level] = (),
    marks: Sequence[Mark] = (),
    xlabel: str = "training steps",
    title: str = "",
    note: str = "",
    log2: bool = False,
) -> Figure:
    """Measures over training: a mean line with its interval band for each series (Figures 2, 10).

    Args:
        table: columns panel, series, step, mean, low, high and, with `rows`, row.
        panels: left to right; each row of the grid shows all of them.
        rows: the rows of the grid, top to bottom, such as "N = 4"; none for a single row.
        levels: horizontal lines: the formula's starting value, a bound, sampled Best-of-N.
        marks: vertical lines in every panel: steps at which the anchor is renewed.
        note: small print under the figure: seeds, sample counts.
        log2: a base-2 x axis whose ticks are the steps, for a size in the place of training.
    """
    _require(table, ["panel", "series", "step", *(["row"] if rows else [])])
    with matplotlib.rc_context(STYLE):
        figure, grid = new_figure(max(len(rows), 1), len(panels), title, note)
        for axes, row, panel in _cells(grid, rows, panels):
            chosen = table[table["panel"] == panel.name]
            chosen = chosen[chosen["row"] == row] if row else chosen
            for index, name, part in _series(table, chosen):
                part = part.sort_values("step")
                drawing.curve(axes, part["step"], part, name, index)
            drawing.draw_levels(axes, levels, panel.name, row)
            drawing.draw_marks(axes, marks)
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
            if log2:
                drawing.log2(axes, table["step"])
        _label(grid, xlabel)
        return finish(figure, {line.label for line in (*levels, *marks)})


def paths(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    xlabel: str,
    title: str = "",
    note: str = "",
    square_root: bool = False,
) -> Figure:
    """Measures against another measure: each run's way through the plane (Figure 4, right).

    Args:
        table: columns panel, series, kind, point, x, x_low, x_high, mean, low, high. A series is of
            one kind: "path" (points joined in the table's order, with both intervals at the last),
            "points" (with whiskers, and `point` written beside each) or "formula" (a line).
        square_root: a square-root x axis: near its reference, a policy gains with the root of the
            KL, and runs that end at very different KL have room beside each other.
    """
    _require(table, ["panel", "series", "kind", "point", "x", "x_low", "x_high"])
    strokes = {"path": drawing.path, "points": drawing.named_points, "formula": drawing.line}
    with matplotlib.rc_context(STYLE):
        figure, grid = new_figure(1, len(panels), title, note)
        for axes, _, panel in _cells(grid, (), panels):
            for index, name, part in _series(table, table[table["panel"] == panel.name]):
                strokes[part["kind"].iloc[0]](axes, part["x"], part, name, index)
            if square_root:
                drawing.square_root(axes, drawing.square_ticks(table["x"].max()))
        _label(grid, xlabel)
        return finish(figure, set(table.loc[table["kind"] != "path", "series"]))


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
                    draw = drawing.line if kind == "formula" else drawing.points
                    draw(axes, half["x"], half, f"{name}, {kind}", index)
            drawing.draw_levels(axes, levels, panel.name, row)
            if log2:
                drawing.log2(axes, table.loc[table["kind"] == "simulated", "x"])
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
            drawing.points(axes, part["n"], part, name, index, linestyle=drawing.LINES[index])
        drawing.draw_levels(axes, levels, "", "")
        drawing.log2(axes, table["n"])
        axes.set_ylabel(ylabel)
        _label(grid, "N, completions to choose from (log scale)")
        return finish(figure, {level.label for level in levels})


def bars_with_intervals(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    decimals: int | None = 2,
    title: str = "",
    note: str = "",
    slanted: bool = False,
) -> Figure:
    """Groups of bars from zero with their intervals, the mean written above each.

    Args:
        table: columns panel, group (a place on the x axis), series (a bar in each group), mean,
            low, high. A lone series needs no legend and gets none.
        decimals: digits of the written means; None writes none, where bars stand too close.
        slanted: names of groups at an angle, for many of them.
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
                drawing.bars(axes, left + width * (place + 0.5), part, width, name, index, decimals)
            axes.set_xticks(range(len(groups)), groups)
            if slanted:
                drawing.slant(axes)
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
    if len(names) > len(drawing.COLOURS):
        raise ValueError(
            f"{len(names)} series in one figure; it can tell {len(drawing.COLOURS)} apart."
        )
    if chosen.empty:
        raise ValueError(
            "A panel has no rows in the table: compare its name with the column panel."
        )
    for index, name in enumerate(names):
        part = chosen[chosen["series"] == name]
        if len(part):
            yield index, name, part


def _label(grid: np.ndarray, xlabel: str) -> None:
    for axes in grid[-1]:
        axes.set_xlabel(xlabel)


def _require(table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = sorted({*columns, "mean", "low", "high"} - set(table.columns))
    if missing or table.empty:
        raise ValueError(f"The table to plot is empty or lacks the columns {missing}.")
