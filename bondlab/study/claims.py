"""The paper's claims as data: what is measured of each, and the bounds that decide it.

A claim is a list of terms, each a number with an interval that is to lie within bounds. The words of
a rule are made from its terms, so that they say what is computed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np
import pandas as pd

from bondlab.report.intervals import Interval, cell_interval, grid

RULE = (
    "A claim is reproduced if every 95 % interval lies wholly where it is said to, not reproduced if "
    "one lies wholly elsewhere, else inconclusive."
)
Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
Measured = np.ndarray | Interval  # [S, B], or what is no mean of such


@dataclass(frozen=True)
class Term:
    """A number that decides a claim.

    Args:
        what: its name, with its unit.
        measure: from the evaluations of one row of a figure (or a benchmark's items) to its values
            of each seed and prompt, [S, B], or to an interval.
        above, below: where its whole interval is to lie; without bounds it is only shown.
    """

    what: str
    measure: Callable[[pd.DataFrame], Measured]
    above: float = -inf
    below: float = inf

    def interval(self, table: pd.DataFrame) -> Interval:
        """The number with its interval."""
        found = self.measure(table)
        return found if isinstance(found, Interval) else cell_interval(found)

    def verdict(self, found: Interval) -> Verdict:
        """What its interval alone decides."""
        shown_alone = self.above == -inf and self.below == inf
        if shown_alone or (found.low > self.above and found.high < self.below):
            return "reproduced"
        failed = found.high < self.above or found.low > self.below
        return "not reproduced" if failed else "inconclusive"

    def __str__(self) -> str:
        bounds = {f"above {self.above:.3g}": self.above, f"below {self.below:.3g}": self.below}
        if self.above == -self.below:
            bounds = {f"within {self.below:.3g} of 0": self.below}
        kept = [words for words, bound in bounds.items() if np.isfinite(bound)]
        return f"{self.what} {' and '.join(kept) or '(shown alone)'}"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, and the terms, fixed before the runs, that decide it.

    Args:
        text: the claim; source: where the paper makes it; terms: see `Term`.
        note: what the terms' names leave open.
    """

    text: str
    source: str
    terms: Sequence[Term]
    note: str = ""

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"{'; '.join(map(str, self.terms))}. {self.note}".strip()

    def decide(self, table: pd.DataFrame) -> tuple[Verdict, dict[str, Interval]]:
        """The verdict and the terms' intervals."""
        found = {term.what: term.interval(table) for term in self.terms}
        verdicts = {term.verdict(found[term.what]) for term in self.terms}
        order = ("not reproduced", "inconclusive", "reproduced")
        return next(verdict for verdict in order if verdict in verdicts), found


def described(claims: Sequence[Claim], first: int = 1) -> str:
    """Claims, numbered from `first`, with the rules that decide them."""
    lines = [textwrap.fill(RULE, 96)]
    for i, claim in enumerate(claims, first):
        lines.append(f"{i}. {claim.text} ({claim.source})")
        lines.append(textwrap.fill(claim.rule, 96, initial_indent="   ", subsequent_indent="   "))
    return "\n".join(lines)


def decided(claims: Sequence[Claim], table: pd.DataFrame, first: int = 1) -> pd.DataFrame:
    """Claims, numbered from `first`, decided for each row of the figure: a line an interval.

    Columns claim, row (where the table has several), verdict, measured, difference.
    """
    parts = table.groupby("row", sort=False) if "row" in table else [("", table)]
    parts, lines = list(parts), []
    for number, claim in enumerate(claims, first):
        for row, part in parts:
            verdict, intervals = claim.decide(part)
            lines += [
                {"claim": number, "row": row, "verdict": verdict, "measured": what,
                 "difference": str(interval)}
                for what, interval in intervals.items()
            ]  # fmt: skip
    found = pd.DataFrame(lines)
    return found if any(row for row, _ in parts) else found.drop(columns="row")


# -- what terms are made of ------------------------------------------------------------------------


def at(table: pd.DataFrame, series: str, column: str, step: int | None = None) -> np.ndarray:
    """A measure after `step` updates, or the last, [S, B]."""
    own = table[table["series"] == series]
    return grid(own[own["step"] == (table["step"].max() if step is None else step)], column)


def rise(table: pd.DataFrame, series: str, column: str, start: int = 0) -> np.ndarray:
    """By how much a measure rose from step `start` to the last, on the same prompts, [S, B]."""
    return at(table, series, column) - at(table, series, column, start)


def gap(table: pd.DataFrame, series: str, other: str, column: str) -> np.ndarray:
    """A measure of one series less that of another after the last step, on the same prompts."""
    return at(table, series, column) - at(table, other, column)


def halves(table: pd.DataFrame, series: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Rise of a measure in each half of the evaluations, [S, B] each."""
    steps = sorted(table["step"].unique())
    first, half, last = (
        at(table, series, column, step) for step in (0, steps[len(steps) // 2], steps[-1])
    )
    return half - first, last - half


def lead(series: str, other: str, column: str) -> Callable[[pd.DataFrame], np.ndarray]:
    """`gap` as a term's measure."""
    return lambda table: gap(table, series, other, column)
