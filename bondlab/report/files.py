"""A figure's files, the same bytes for the same content, and its display in a notebook."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from bondlab.results import write_atomically

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


def save(
    figure: Figure, folder: Path, stem: str, table: pd.DataFrame, provenance: dict[str, Any]
) -> tuple[Path, ...]:
    """Write stem.svg, .png, .csv (the plotted numbers) and .json (provenance); returns the paths.

    The same content gives the same bytes: no date, no version, numbers of eight digits, sorted
    keys.
    """
    contents = {
        "svg": _render(figure, "svg", {"Date": None, "Creator": "bondlab"}),
        "png": _png(figure),
        "csv": table.to_csv(index=False, float_format="%.8g", lineterminator="\n").encode(),
        "json": (json.dumps(provenance, indent=2, sort_keys=True, allow_nan=False) + "\n").encode(),
    }
    for kind, content in contents.items():
        write_atomically(folder / f"{stem}.{kind}", content)
    return tuple(folder / f"{stem}.{kind}" for kind in contents)


def show(figure: Figure | Path, text: str) -> None:
    """Display a figure, or a saved PNG by its path, in a notebook; `text` describes it in words.

    The text is the output's plain form: what a screen reader says and a notebook test compares.
    """
    from IPython.display import display  # notebooks only

    png = _png(figure) if isinstance(figure, Figure) else figure.read_bytes()
    display({"image/png": base64.b64encode(png).decode(), "text/plain": text}, raw=True)


def _png(figure: Figure) -> bytes:
    """With a palette of 256 colours a third of the size: notebooks stay readable on the web.

    Least error: maximum coverage, then one pass of k-means; no colour is off by more than a
    fifteenth of its range, and hardly a pixel by half of that.
    """
    image = Image.open(io.BytesIO(_render(figure, "png", {"Software": None})))
    method, dither = Image.Quantize.MAXCOVERAGE, Image.Dither.NONE
    small, buffer = image.convert("RGB").quantize(256, method, 1, dither=dither), io.BytesIO()
    small.save(buffer, "png", optimize=True, dpi=image.info["dpi"])
    return buffer.getvalue()


def _render(figure: Figure, kind: str, metadata: dict[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format=kind, metadata=metadata, dpi=144)
    return buffer.getvalue()
