"""Figures of lines and of bars: tidy table in, matplotlib Figure out, drawn by seaborn.objects.

A table holds exactly what is drawn, so that its numbers can be saved beside the picture and tested
in its place. Series are told apart by colour (Okabe and Ito's palette, safe for colour-blind
readers) and by line, marker or hatch, in their order of appearance in the whole table, so that a
grey copy still reads. Intervals are drawn wherever the columns low and high have numbers.
"""

from __future__ import annotations

import base64
import io
import json
import os
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn.objects as so
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the same on every machine
    "axes.titlesize": 11,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "bondlab",  # element ids depend on the content only
}
SMALL = {"fontsize": 9, "color": "#444444"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "--")
LEVEL_LINES = ((0, (4, 3)), (0, (1, 2)), (0, (8, 2, 1, 2)))
# What each kind of row is drawn with: seaborn's marks, and the columns that they need besides.
INTERVAL = {"ymin": "low", "ymax": "high"}
WHISKER = so.Range({"capstyle": "butt"}, linestyle="-", linewidth=1.5)
POINTS = ((WHISKER, INTERVAL), (so.Dot(pointsize=5.5), {}))
NAMES = so.Text({"clip_on": False}, halign="right", valign="bottom", **SMALL)
KINDS = {
    "curve": ((so.Band(alpha=0.18), INTERVAL), (so.Line(), {})),
    "formula": ((so.Line(marker=""), {}),),
    "points": POINTS,
    "joined": ((WHISKER, INTERVAL), (so.Line(), {})),
    "path": ((so.Path(), {}),),
    "named": (*POINTS, (NAMES, {"text": "point"})),
}
NEEDS = {"path": ("x_low", "x_high"), "named": ("point",)}


@dataclass(frozen=True)
class Panel:
    """One panel: its value in the column "panel", title and axes; xlabel is for the figure's own.

    Titles and labels may hold formulas between dollar signs.
    """

    name: str
    title: str
    ylabel: str
    xlabel: str = ""


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
) -> Figure:
    """Means and their intervals against x: training steps, N, a quantile or another measure.

    Args:
        table: columns panel, series, `x`, mean, low, high and, with `rows`, row. The column kind
            says how a row is drawn: "curve" (the default: a line, its interval a band), "formula"
            (a line alone), "points" (dots with whiskers), "joined" (these joined in order of x),
            "named" (these with the column point beside each) or "path" (joined in the table's
            order; at the last a cross of its interval and that of x, columns x_low and x_high).
        panels: left to right; each row of the grid shows all of them.
        rows: the rows of the grid, top to bottom, such as "N = 4"; none for a single row.
        scale: the x axis: "" (linear), "log2" (ticks at the x of what is no formula) or "sqrt" (for
            a KL, with whose root a policy gains near its reference; mirrored below 0).
        note: small print under the figure: seeds, sample counts.

    Raises:
        ValueError: the table is empty or lacks columns, a panel has no rows, or there are more
            series than colours.
    """
    table = table if "kind" in table else table.assign(kind="curve")
    needed = {name for kind in table["kind"].unique() for name in NEEDS.get(kind, ())}
    _require(table, needed | {x} | ({"row"} if rows else set()))
    draw = partial(_draw_lines, table, x, scale)
    return _figure(table, panels, draw, rows, levels, marks, xlabel, title, note)


def bars(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    decimals: int | None = 2,
    levels: Sequence[Level] = (),
    ylim: tuple[float, float] | None = None,
    slanted: bool = False,
    logy: float | None = None,
    title: str = "",
    note: str = "",
) -> Figure:
    """Groups of bars from zero with their intervals, the mean written above each.

    Args:
        table: columns panel, group (a place on the x axis; "" alone is nameless), series (a bar in
            each group), mean, low, high. A lone series needs no legend and gets none.
        decimals: digits of the written means; None writes none, where bars stand too close.
        ylim: the y axis of all panels, where they are to be compared.
        slanted: names of groups at an angle, for many of them.
        logy: panels that reach beyond ten times this have a y axis that is linear up to it and
            logarithmic from there.

    Raises:
        ValueError: as `lines`.
    """
    _require(table, {"group"})
    table = table.assign(kind="bar")

    def draw(axes: Axes, part: pd.DataFrame) -> None:
        _draw_bars(table, decimals, axes, part)
        if slanted:
            for label in axes.get_xticklabels():
                label.set(rotation=40, horizontalalignment="right", rotation_mode="anchor")
        if logy and part[["mean", "low", "high"]].abs().max(axis=None) > 10 * logy:
            axes.set_yscale("symlog", linthresh=logy)
            axes.yaxis.set_major_formatter("{x:g}")
        if ylim:
            axes.set_ylim(*ylim)

    return _figure(table, panels, draw, levels=levels, title=title, note=note)


def save(
    figure: Figure, folder: Path | str, stem: str, table: pd.DataFrame, provenance: dict[str, Any]
) -> tuple[Path, ...]:
    """Write stem.svg, .png, .csv (the plotted numbers) and .json (provenance); returns the paths.

    The same content gives the same bytes: no date, no version, numbers of eight digits, sorted
    keys. Each file is replaced as a whole, so that a reader or a kill never meets half a file.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "svg": _render(figure, "svg", {"Date": None, "Creator": "bondlab"}),
        "png": _render(figure, "png", {"Software": "bondlab"}),
        "csv": table.to_csv(index=False, float_format="%.8g", lineterminator="\n").encode(),
        "json": (json.dumps(provenance, indent=2, sort_keys=True) + "\n").encode(),
    }
    paths = tuple(folder / f"{stem}.{kind}" for kind in contents)
    for path, content in zip(paths, contents.values(), strict=True):
        partial_file = path.with_name(f".{path.name}.{os.getpid()}")
        partial_file.write_bytes(content)
        partial_file.replace(path)
    return paths


def show(figure: Figure | Path | str, text: str) -> None:
    """Display a figure, or a saved PNG by its path, in a notebook; `text` describes it in words.

    The text is the output's plain form: what a screen reader says and a notebook test compares.
    """
    from IPython.display import display  # notebooks only

    drawn = isinstance(figure, Figure)
    png = _render(figure, "png", {"Software": "bondlab"}) if drawn else Path(figure).read_bytes()
    display({"image/png": base64.b64encode(png).decode(), "text/plain": text}, raw=True)


def _render(figure: Figure, kind: str, metadata: dict[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, metadata=metadata, dpi=144)
    return buffer.getvalue()


def _require(table: pd.DataFrame, columns: set[str]) -> None:
    missing = sorted((columns | {"panel", "series", "mean", "low", "high"}) - set(table.columns))
    if missing or table.empty:
        raise ValueError(f"The table to plot is empty or lacks the columns {missing}.")
    if (count := table["series"].nunique()) > len(COLOURS):
        raise ValueError(f"{count} series in one figure; it can tell {len(COLOURS)} apart.")


def _figure(
    table: pd.DataFrame,
    panels: Sequence[Panel],
    draw: Callable[[Axes, pd.DataFrame], None],
    rows: Sequence[str] = (),
    levels: Sequence[Level] = (),
    marks: Sequence[Mark] = (),
    xlabel: str = "",
    title: str = "",
    note: str = "",
) -> Figure:
    """The grid of panels, 10 inches wide or 6 with one, each drawn from its part of the table."""
    shape, width = (max(len(rows), 1), len(panels)), 6 if len(panels) == 1 else 10
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 1.1 + 2.7 * shape[0]), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
        note = textwrap.fill(note, int(width * 13.5))
        if note:
            figure.supxlabel(note, x=0.01, ha="left", **SMALL)
        grid = figure.subplots(*shape, squeeze=False, sharex="col")
        for axes, (row, panel) in zip(grid.flat, product(rows or [""], panels), strict=True):
            part = table[(table["panel"] == panel.name) & (not row or table["row"] == row)]
            if part.empty:
                raise ValueError(f"The panel {panel.name!r} {row} has no rows in the table.")
            draw(axes, part)
            _compare(axes, panel.name, row, levels, marks)
            bottom = axes in grid[-1]
            axes.tick_params(labelbottom=bottom)
            axes.set_xlabel((panel.xlabel or xlabel) if bottom else "")
            axes.set(title=f"{row}: {panel.title}" if row else panel.title, ylabel=panel.ylabel)
        _add_legend(figure, table, title)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # computed once: drawing again moves nothing
    return figure


def _plot(
    table: pd.DataFrame, axes: Axes, part: pd.DataFrame, x: str, **looks: Sequence[Any]
) -> so.Plot:
    """A plot of some rows on given axes, each series with its looks in the whole table."""
    names = list(table["series"].unique())
    shown = [name for name in names if name in set(part["series"])]
    scales = {
        look: so.Nominal({name: values[names.index(name)] for name in shown}, order=shown)
        for look, values in looks.items()
    }
    theme = {key: matplotlib.rcParams[key] for key in so.Plot.config.theme}  # not seaborn's own
    plot = so.Plot(part, x=x, y="mean", **dict.fromkeys(looks, "series"))
    return plot.on(axes).theme(theme).scale(**scales)


def _draw_lines(table: pd.DataFrame, x: str, scale: str, axes: Axes, part: pd.DataFrame) -> None:
    for kind, some in part.groupby("kind"):
        plot = _plot(table, axes, some, x, color=COLOURS, linestyle=LINES, marker=MARKERS)
        for mark, columns in KINDS[kind]:
            plot = plot.add(mark, legend=False, **columns)
        if kind == "path":
            ends = some.groupby("series").tail(1)
            across = {"orient": "y", "xmin": "x_low", "xmax": "x_high"}
            plot = plot.add(WHISKER, data=ends, legend=False, **INTERVAL)
            plot = plot.add(WHISKER, data=ends, legend=False, **across)
        plot.plot()
    for line in axes.lines:
        line.set_markevery(max(1, len(line.get_xdata()) // 10))
    # The scale is matplotlib's, for seaborn leaves an interval of x unscaled.
    whole = bool((part[x] % 1 == 0).all())
    locator = MaxNLocator(7, steps=[1, 2, 5, 10], integer=whole and not scale)
    axes.xaxis.set_major_locator(locator)
    if scale == "log2":
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(set(table.loc[table["kind"] != "formula", x])))
    elif scale == "sqrt":
        axes.set_xscale("function", functions=(_root, lambda u: np.sign(u) * np.square(u)))
        reach = max(table[x].max(), 0)
        ticks = np.square(locator.tick_values(0, _root(reach)))  # evenly far apart
        axes.set_xticks(ticks[ticks <= reach])
    if scale:
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    axes.margins(x=0.12 if "named" in set(part["kind"]) else 0.05)  # room for the names


def _root(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * np.sqrt(np.abs(x))


def _draw_bars(table: pd.DataFrame, decimals: int | None, axes: Axes, part: pd.DataFrame) -> None:
    part = part.assign(top=part["high"].fillna(part["mean"]).clip(lower=0))
    bar = so.Bar(alpha=1, edgecolor="white", edgewidth=0.5)
    whisker = so.Range({"capstyle": "butt"}, color="black", linestyle="-", linewidth=1.5)
    beside = so.Dodge(by=["color"])
    plot = _plot(table, axes, part, "group", color=COLOURS)
    plot = plot.add(bar, so.Dodge(by=["color"], gap=0.08), legend=False)
    plot = plot.add(whisker, beside, legend=False, **INTERVAL)
    if decimals is not None:  # + 0.0 turns -0.0 into 0.0
        text = [f"{round(mean, decimals) + 0.0:.{decimals}f}" for mean in part["mean"]]
        above = so.Text(color="black", fontsize=SMALL["fontsize"], valign="bottom", offset=2)
        plot = plot.add(above, beside, legend=False, y="top", text=text)
    plot.plot()
    hatches = dict(zip(map(to_rgb, COLOURS), HATCHES, strict=True))  # seaborn has no such look
    for patch in axes.patches:
        patch.set_hatch(hatches[to_rgb(patch.get_facecolor())])
    axes.margins(y=0.1)  # room for the written mean
    axes.set_xlim(-0.45, part["group"].nunique() - 0.55)
    if not part["group"].any():
        axes.set_xticks([])


def _compare(
    axes: Axes, panel: str, row: str, levels: Sequence[Level], marks: Sequence[Mark]
) -> None:
    labels = list(dict.fromkeys(level.label for level in levels))
    for level in levels:
        if level.panel in ("", panel) and level.row in ("", row):
            look = {"color": "#555555", "linewidth": 1.2, "zorder": 1.5, "label": level.label}
            line = LEVEL_LINES[labels.index(level.label) % len(LEVEL_LINES)]
            axes.axhline(level.value, linestyle=line, **look)
            if level.low is not None and level.high is not None:
                axes.axhspan(level.low, level.high, color="#555555", alpha=0.12, linewidth=0)
    for mark in marks:
        look = {"color": "#999999", "linewidth": 1.2, "zorder": 1.2, "label": mark.label}
        axes.axvline(mark.x, linestyle=(0, (1, 1.5)), **look)


def _add_legend(figure: Figure, table: pd.DataFrame, title: str) -> None:
    """One legend for all panels above them: the series, then levels and marks."""
    entries = {}
    for index, (name, part) in enumerate(table.groupby("series", sort=False)):
        kinds = sorted(part["kind"].unique())
        for kind in kinds:
            line = "none" if kind in ("points", "named") else LINES[index]
            marker = "" if kind == "formula" else MARKERS[index]
            look = {"color": COLOURS[index], "linestyle": line, "marker": marker}
            told = f"{name}, {'simulated' if kind == 'points' else kind}"
            entries[name if len(kinds) == 1 else told] = Line2D([], [], **look)
            if kind == "bar":
                look = {"facecolor": COLOURS[index], "hatch": HATCHES[index]}
                entries[name] = Patch(edgecolor="white", **look)
    if [*table["kind"].unique()] == ["bar"] and len(entries) == 1:
        entries = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    columns = int(figure.get_figwidth() * 11 / (max(map(len, entries), default=0) + 8))
    place = {"loc": "outside upper center", "ncols": min(max(columns, 1), max(len(entries), 1))}
    look = {"frameon": False, "handlelength": 3, "title": title or None, "title_fontsize": 12}
    if entries or title:
        figure.legend([*entries.values()], [*entries], **place, **look)
