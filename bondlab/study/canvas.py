"""The sheet that plots are drawn on: one style, a layout with legend and note, files, display.

Figures are made without pyplot: no window, no global state, nothing to close.
"""

from __future__ import annotations

import base64
import io
import json
import os
import textwrap
from collections.abc import Collection
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the same on every machine
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "bondlab",  # element ids depend on the content only
    "savefig.dpi": 144,
}
NOTE_SIZE = 9
TITLE_SIZE = 12


def new_figure(rows: int, columns: int, title: str, note: str) -> tuple[Figure, np.ndarray]:
    """An empty figure and its grid of axes [rows, columns], 10 inches wide, or 6 with one column.

    `note` is small print under the figure. Use within `matplotlib.rc_context(STYLE)`, and close
    with `finish`.
    """
    width = 6.0 if columns == 1 else 10.0
    figure = Figure(figsize=(width, 1.1 + 2.7 * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
    grid = figure.subplots(rows, columns, squeeze=False, sharex="col")
    if title:
        figure.suptitle(title, fontsize=TITLE_SIZE)
    if note:
        wrapped = textwrap.fill(note, int(width * 13.5))
        figure.supxlabel(wrapped, x=0.01, ha="left", fontsize=NOTE_SIZE, color="#444444")
    return figure, grid


def finish(figure: Figure, last: Collection[str] = (), legend: bool = True) -> Figure:
    """Add one legend for all panels above them, each label once, those of `last` at the end.

    The layout is then computed once and kept, so that drawing the figure again, at any resolution,
    moves nothing.
    """
    if legend:
        _add_legend(figure, last)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def _add_legend(figure: Figure, last: Collection[str]) -> None:
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    labels = sorted(entries, key=lambda label: label in last)  # a stable sort
    columns = max(1, int(figure.get_figwidth() * 11 / (max(map(len, labels)) + 8)))
    title = figure.get_suptitle()
    figure.suptitle("")  # the layout would put it on top of the legend: let the legend carry it
    figure.legend(
        [entries[label] for label in labels],
        labels,
        loc="outside upper center",
        frameon=False,
        ncols=min(columns, len(labels)),
        handlelength=3,
        title=title or None,
        title_fontsize=TITLE_SIZE,
    )


def save_figure(
    figure: Figure, folder: Path | str, stem: str, table: pd.DataFrame, provenance: dict[str, Any]
) -> tuple[Path, ...]:
    """Write stem.svg, .png, .csv (the plotted numbers) and .json (provenance); returns the paths.

    The same figure, table and provenance give the same bytes: no date and no version is written,
    numbers have eight digits, keys are sorted. Each file is replaced as a whole, so that a reader
    or a kill in between never meets half a file.
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
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_bytes(content)
        partial.replace(path)
    return paths


def show(figure: Figure | Path | str, text: str) -> None:
    """Display a figure, or a saved PNG by its path, in a notebook; `text` describes it in words.

    The text is the output's plain form: what a screen reader says, and what a notebook test
    compares in place of an object's address.
    """
    from IPython.display import display  # notebooks only

    if isinstance(figure, Figure):
        png = _render(figure, "png", {"Software": "bondlab"})
    else:
        png = Path(figure).read_bytes()
    data = {"image/png": base64.b64encode(png).decode(), "text/plain": text}
    display(data, raw=True)


def _render(figure: Figure, kind: str, metadata: dict[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
