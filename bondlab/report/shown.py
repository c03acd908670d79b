"""Tables as a notebook shows them: HTML for readers, and the same as plain text.

Code names become words with units, numbers have three digits, repeated labels are left out, and
verdicts are coloured. Both are the same on every machine, so that they can be compared.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd

from bondlab.report.intervals import text

WORDS = {
    "backward_kl": "backward KL (nats)",
    "forward_kl": "forward KL (nats)",
    "kl_to_reference": "KL to reference (nats)",
    "kl_to_anchor": "log ratio to anchor (nats)",
    "kl": "KL to reference (nats)",
    "log_quantile": "log quantile (nats)",
    "mean_log_quantile": "log quantile (nats)",
    "entropy": "entropy (nats)",
    "anchor_share": "anchor's share of the policy's way",
    "success": "success (share)",
    "arm": "variant",
    "auc": "AUC",
    "p_reward": "p(entailment)",
    "win_over_1": "preferred to reference (share)",
    **{f"win_over_{n}": f"preferred to Best-of-{n} (share)" for n in (2, 4, 8, 16)},
    "longest_copied_span": "longest copy (words)",
    **{f"novel_{n}s": f"new {n}s (share)" for n in ("unigram", "bigram", "trigram")},
    "repetition": "repeated trigrams (share)",
    "empty": "without a word (share)",
    "numbers_faithful": "numbers from the article (share)",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "bits_per_byte": "bits per byte",
    "penalised": "penalised (share)",
    "constraints": "constraints met (share)",
    "preferences": "better reply likelier (share)",
    "margin": "margin (nats)",
    "bounds": "must be",
    "needed": "further seeds needed",
    "fixed": "rule fixed",
    "says": "verdict",
    "log_bias": "bias of log p (nats)",
    "log_variance": "variance of log p (nats²)",
}
TINTS = {
    **dict.fromkeys(("repeated", "reached", "yes", "excluded"), "#d3ebd8"),
    **dict.fromkeys(("not repeated", "missed", "no", "not excluded"), "#f5d4cf"),
    **dict.fromkeys(("one run: suggests yes", "2 runs: suggest yes"), "#eaf5ec"),
    **dict.fromkeys(("one run: suggests no", "2 runs: suggest no"), "#faeae7"),
}
CELL = re.compile("<td>(.*?)</td>", re.DOTALL)
WRAPPED = 60  # characters beyond which a cell is a text, in several lines
DIGITS = 3  # of a number, and at most as many decimals, unless a column's are all small


def show(table: pd.DataFrame, decimals: int | None = None) -> None:
    """Show a table with readable names; numbers have `DIGITS` digits, or so many `decimals`.

    A number that rounds to zero has no sign; a missing one is `-`. Columns low and high become an
    interval behind the number on their left.
    """
    from IPython.display import display  # notebooks only

    display(Shown(table, decimals))


class Shown:
    """A table that Jupyter displays as HTML and everything else as text."""

    def __init__(self, table: pd.DataFrame, decimals: int | None = None) -> None:
        named = _with_intervals(table).rename(columns=WORDS)
        named = named.map(lambda x: WORDS.get(x, x) if isinstance(x, str) else x)
        self.index = not isinstance(table.index, pd.RangeIndex)
        cells = {
            place: column.map(partial(_written, most=_most(column), decimals=decimals))
            for place, (_, column) in enumerate(named.items())
        }
        self.cells = pd.DataFrame(cells).set_axis(named.columns, axis=1).set_axis(named.index)
        if not self.index:
            self.cells = _grouped(self.cells)

    def __repr__(self) -> str:
        cells = self.cells
        if cells.columns.nlevels == 1:
            cells = pd.concat([_padded(cells.iloc[:, i]) for i in range(cells.shape[1])], axis=1)
        return "\n".join(line.rstrip() for line in cells.to_string(index=self.index).splitlines())

    def _repr_html_(self) -> str:
        with pd.option_context("display.max_colwidth", None):  # a text in full
            html = self.cells.to_html(index=self.index, border=0)
        return f'<div style="overflow-x:auto">\n{_styled(html, self.cells.shape[1])}\n</div>'


def _with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    if not {"low", "high"} <= set(table.columns):
        return table
    number = table.columns[table.columns.get_loc("low") - 1]
    values = table[[number, "low", "high"]].astype(float)
    values = values.mask(values.round(_most(values.stack())) == 0, 0.0)
    told = [text(*row) for row in values.itertuples(index=False)]
    return table.assign(**{number: told}).drop(columns=["low", "high"])


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"|-|[-+]?[\d.,]+( \[.*\])?", cell) is not None


def _padded(column: pd.Series) -> pd.Series:
    """Words, and what they stand under, begin on the left."""
    if column.map(_is_number).all():
        return column
    width = max(len(str(column.name)), column.str.len().max())
    return column.str.ljust(width).rename(str(column.name).ljust(width))


def _styled(html: str, columns: int) -> str:
    """A plain table's HTML, numbers on the right, columns with words on the left, as their heads.

    Looks are each cell's own: JupyterLab has its own for cells, which would wrap an interval.
    """
    head, body = html.split("</thead>")
    cells = CELL.findall(body)
    words = [not all(map(_is_number, cells[i::columns])) for i in range(columns)]
    top = any(len(cell) > WRAPPED for cell in cells)  # beside a text of several lines
    body = CELL.sub(partial(_cell, left=itertools.cycle(words), top=top), body)
    if head.count("<th>") == columns:
        tags = iter(['<th style="text-align:left">' if left else "<th>" for left in words])
        head = re.sub("<th>", lambda _: next(tags), head)
    return f"{head}</thead>{body}"


def _cell(found: re.Match, left: Iterator[bool], top: bool) -> str:
    """A long text in several lines, anything else in one; a verdict in its colour."""
    cell = found[1]
    looks = ["text-align:left"] * next(left) + ["vertical-align:top"] * top
    if len(cell) > WRAPPED:
        looks += ["white-space:normal", f"min-width:{WRAPPED // 3}em"]
    elif re.search(r"\S[ -]", cell):  # where a line could break
        looks.append("white-space:nowrap")
    if cell in TINTS:
        looks.append(f"background:{TINTS[cell]}")
    return f'<td style="{"; ".join(looks)}">{cell}</td>' if looks else found[0]


def _most(column: pd.Series) -> int:
    """Decimals that a column's floats may have: `DIGITS`, or more where all are small."""
    if column.dtype.kind != "f":
        return DIGITS
    largest = column.abs().replace(np.inf, np.nan).max()
    return max(DIGITS, _places(largest)) if largest > 0 else DIGITS


def _places(value: float) -> int:
    """Decimals with which a number has `DIGITS` digits."""
    return max(DIGITS - 1 - math.floor(math.log10(value)), 0)


def _written(value: object, most: int, decimals: int | None) -> str:
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "-"
    if not isinstance(value, (float, np.floating)):
        return str(value)
    if decimals is None:
        decimals = min(_places(abs(value)), most) if value and np.isfinite(value) else 0
    return f"{round(value, decimals) + 0.0:.{decimals}f}"  # + 0.0 turns -0.0 into 0.0


def _grouped(cells: pd.DataFrame) -> pd.DataFrame:
    """Without labels that repeat those of the line above, from the left on."""
    shown, same = cells.copy(), np.ones(len(cells), dtype=bool)
    for place in range(cells.shape[1] - 1):
        column = cells.iloc[:, place]
        same &= (column == column.shift()).to_numpy()
        if not same.any():
            break
        shown.isetitem(place, column.mask(pd.Series(same, index=column.index), ""))
    return shown
