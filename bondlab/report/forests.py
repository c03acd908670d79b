"""Dots with intervals, a row each, with the bounds that decide them; and stacked bars, a row each.

Names stand at their rows, so that nothing is looked up in a legend but what a row has several of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bondlab.report import scales
from bondlab.report.colours import HATCHES, Look, looks
from bondlab.report.files import STYLE
from bondlab.report.intervals import text
from bondlab.report.plots import Panel, handle, laid_out, legend, sheet

ROW, BESIDE = 0.3, 0.26  # inches a row; of a row, between series
BOUND = {"color": "#009e73", "alpha": 0.13, "linewidth": 0, "zorder": 0}


def forest(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    at: float = 0.0,
    title: str = "",
    note: str = "",
) -> Figure:
    """Means with their intervals, a row each, around the line `at`.

    Args:
        table: columns panel, group (the row's name), series (its look; several share a row), mean,
            low, high, and where a row has bounds above and below, within which its interval is to
            lie: shaded. Rows are in order of appearance, from the top.
        panels: left to right where one has all rows of the others, in their order, else one below
            another; ylabel is the values' axis here. A lone one has its values written beside it.

    Raises:
        ValueError: an empty table, or a panel without rows.
    """
    found = looks(table["series"])
    rows = {panel.name: _rows(table, panel.name) for panel in panels}
    most = max(rows.values(), key=len)
    shared = all([row for row in most if row in own] == own for own in rows.values())
    rows = dict.fromkeys(rows, most) if shared else rows
    several = bool(table.duplicated(["panel", "group"]).any())
    with mpl.rc_context(STYLE):
        height = 0.7 + ROW * max(1.5, *map(len, rows.values())) * (1.3 if several else 1)
        shape = (1, len(panels)) if shared else (len(panels), 1)
        figure, grid = sheet(*shape, note, height, tied="none")
        for axes, panel in zip(grid.flat, panels, strict=True):
            part = table[table["panel"] == panel.name]
            _dots(axes, part, rows[panel.name], found)
            axes.axvline(at, color="#444444", linewidth=1, zorder=1)
            if panel.root:
                scales.root(axes, "x", axes.dataLim.x0, 1.2 * axes.dataLim.x1, 0.18)
            _bounds(axes, part, rows[panel.name])
            axes.tick_params(labelleft=axes in grid[:, 0])
            axes.set(title=panel.title, xlabel=panel.ylabel)
        entries = {name: handle(look, linestyle="none") for name, look in found.items()}
        rows_of_each = table.groupby("series")["group"].nunique()
        # A lone one needs no name, and others none that have a row each, whose name says it.
        told = len(found) > 1 and (several or rows_of_each.max() > 1)
        legend(figure, entries if told else {}, title)
        if len(panels) == 1 and not several:
            _written(grid[0, 0], table, rows[panels[0].name])
        return laid_out(figure)


def stacked(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    totals: Mapping[str, str],
    title: str = "",
    note: str = "",
) -> Figure:
    """Bars of parts that add up, a row per group, their sum written at the end.

    Args:
        table: columns panel, group (the row), series (the part; a lone one of a panel needs no
            legend), mean.
        totals: how each panel's sum is written, such as "{:.0f}".
    """
    found, rows = looks(table["series"]), list(table["group"].unique())
    hatches = dict(zip(found, HATCHES, strict=False))
    with mpl.rc_context(STYLE):
        figure, grid = sheet(1, len(panels), note, 0.6 + 1.4 * ROW * len(rows))
        for axes, panel in zip(grid[0], panels, strict=True):
            part = table[table["panel"] == panel.name]
            wide = part.pivot(index="group", columns="series", values="mean").reindex(rows)
            wide = wide.reindex(columns=[name for name in found if name in wide]).fillna(0)
            left = wide.cumsum(axis=1) - wide
            for name, values in wide.items():
                look = {"color": found[name].color, "hatch": hatches[name], "edgecolor": "white"}
                last = axes.barh(range(len(rows)), values, left=left[name], height=0.6, **look)
            sums = wide.sum(axis=1).map(totals[panel.name].format)
            axes.bar_label(last, sums, padding=4, fontsize=9)
            _named_rows(axes, rows)
            axes.margins(x=0.18)
            axes.tick_params(labelleft=axes in grid[:, 0])
            axes.set(title=panel.title, xlabel=panel.ylabel)
        parts = table.groupby("panel")["series"].unique()
        told = [name for name in found if any(name in own and len(own) > 1 for own in parts)]
        patches = {n: Patch(fc=found[n].color, hatch=hatches[n], ec="white") for n in told}
        legend(figure, patches, title)
        return laid_out(figure)


def _rows(table: pd.DataFrame, panel: str) -> list[str]:
    found = list(table.loc[table["panel"] == panel, "group"].unique())
    if not found:
        raise ValueError(f"The panel {panel!r} has no rows in the table.")
    return found


def _named_rows(axes: Axes, rows: Sequence[str]) -> None:
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _dots(axes: Axes, part: pd.DataFrame, rows: Sequence[str], found: Mapping[str, Look]) -> None:
    beside = part.groupby("group").cumcount()
    several = part.groupby("group")["series"].transform("size")
    places = part["group"].map(rows.index) + (beside - (several - 1) / 2) * BESIDE
    for name, own in part.groupby("series", sort=False):
        look, y = found[name], places[own.index]
        axes.hlines(y, own["low"], own["high"], color=look.color, linewidth=1.5)
        axes.plot(own["mean"], y, color=look.color, marker=look.marker, ls="none", ms=6)
    _named_rows(axes, rows)


def _bounds(axes: Axes, part: pd.DataFrame, rows: Sequence[str]) -> None:
    """Shade where each row's interval is to lie; the axis does not reach out for it."""
    if "above" not in part:
        return
    limits = axes.get_xlim()
    for row in part.dropna(subset=["above", "below"]).itertuples():
        if np.isfinite([row.above, row.below]).any():
            ends = np.clip([row.above, row.below], *limits)
            place = rows.index(row.group)
            axes.fill_betweenx([place - 0.42, place + 0.42], *ends, **BOUND)
    axes.set_xlim(limits)


def _written(axes: Axes, table: pd.DataFrame, rows: Sequence[str]) -> None:
    to_row = axes.get_yaxis_transform()
    for row in table.itertuples():
        words = text(row.mean, row.low, row.high)
        axes.text(1.02, rows.index(row.group), words, transform=to_row, va="center", fontsize=9)
