"""Claims as data: what is measured of each, the bounds that decide it, and since when.

A claim is a list of terms, each a number with an interval that is to lie within bounds. The words
of a rule are made from its terms, so that they say what is computed. What terms read is a table of
evaluations, the evidence (`study.evidence`).

Legend: S seeds, B prompts.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf, isnan, nan

import numpy as np
import pandas as pd

from bondlab.report.intervals import Interval, Scatter, cell_interval
from bondlab.study.cells import NotRun, at, shared

LEAST, MOST = 3, 100  # seeds that a verdict takes; further ones beyond which nobody will go
RULE = (
    "A claim is repeated if each of its 95 % intervals lies inside the range that its rule names; "
    "not repeated if one, widened so that all of the claim's hold at once (Bonferroni), lies "
    f"wholly outside; else it is open. With fewer than {LEAST} seeds there is no verdict: runs "
    "suggest one. Not run: a series or a measure that the rule needs is not there. Further seeds "
    "needed: how many more would settle it, either way, if mean and scatter stay as they are."
)
FIGURE_10 = ("C2a", "C2b", "C3")  # which C4 is about, at N = 4 and 16
YES, NO, OPEN, NOT_RUN = "repeated", "not repeated", "open", "not run"
MARKS = {YES: "yes", NO: "no"}  # of one interval
# When the rules as they stand were committed. Runs that started earlier were seen by whoever made
# them; a changed rule gets a date of its own.
FIXED = datetime.fromisoformat("2026-11-27T03:50:00+00:00")


@dataclass(frozen=True)
class Term:
    """A number that decides a claim.

    Args:
        what: its name, with its unit.
        series: whose evaluations it reads; seeds that one of them lacks do not count.
        measure: from these evaluations to its values of each seed and prompt, [S, B].
        above, below: where its whole interval is to lie; without bounds it is only shown.
    """

    what: str
    series: Sequence[str]
    measure: Callable[[pd.DataFrame], np.ndarray]
    above: float = -inf
    below: float = inf

    @property
    def decides(self) -> bool:
        """Whether it has bounds."""
        return self.above > -inf or self.below < inf

    def values(self, table: pd.DataFrame) -> np.ndarray | None:
        """Its values [S, B]; None where it was not run."""
        try:
            return self.measure(shared(table, self.series))
        except NotRun:
            return None

    def answer(self, values: np.ndarray | None, looks: int) -> str:
        """What it alone says: repeated, not repeated (as one of `looks` intervals), open, not run.

        One that is only shown agrees to everything.
        """
        if not self.decides:
            return YES
        if values is None:
            return NOT_RUN
        found, wide = cell_interval(values), cell_interval(values, looks)
        if found.low > self.above and found.high < self.below:
            return YES
        return NO if wide.high < self.above or wide.low > self.below else OPEN

    def seeds_needed(self, values: np.ndarray, looks: int) -> float:
        """Further seeds until it decides, if its mean and its scatter stay as they are.

        Infinite where `MOST` would not do: more prompts may. NaN where nothing is defined.
        """
        mean, count = float(values.mean()), len(values)
        if isnan(mean):
            return nan
        scatter, inside = Scatter.of(values), self.above < mean < self.below
        for seeds in range(count + 1, count + MOST + 1):
            found = scatter.interval(mean, seeds, 1 if inside else looks)
            clear = [found.high < end or found.low > end for end in (self.above, self.below)]
            if all(clear):
                return seeds - count
        return inf

    @property
    def bounds(self) -> str:
        """Its bounds in words: "above 0.25", "within 0.5 of 0"; "" of one that is only shown."""
        bounds = {f"above {self.above:.3g}": self.above, f"below {self.below:.3g}": self.below}
        if self.above == -self.below:
            bounds = {f"within {self.below:.3g} of 0": self.below}
        return " and ".join(words for words, bound in bounds.items() if np.isfinite(bound))

    def __str__(self) -> str:
        return f"{self.what} {self.bounds or '(shown alone)'}"


@dataclass(frozen=True)
class Decision:
    """What the evidence says of a claim.

    Args:
        verdict: in words.
        intervals: of each term by name; None where it was not run.
        says: of each term by name: yes, no, open or not run; "" of one that is only shown.
        seeds: that every term has; looks: intervals that the answer rests on.
        needed: further seeds, at least, until there is a verdict; NaN where nobody can tell.
    """

    verdict: str
    intervals: dict[str, Interval | None]
    says: dict[str, str]
    seeds: int
    looks: int
    needed: float


@dataclass(frozen=True)
class Claim:
    """A claim, and the terms that decide it.

    Args:
        id: "C2a", "ours-3"; text: the claim; source: where the paper makes it; terms: see `Term`.
        note: what the terms' names leave open.
        fixed: when the rule was committed.
        short: the claim in six words at most, for the front page.
    """

    id: str
    text: str
    source: str
    terms: Sequence[Term]
    note: str = ""
    fixed: datetime = FIXED
    short: str = ""

    @property
    def rule(self) -> str:
        """The rule in words."""
        return f"{'; '.join(map(str, self.terms))}. {self.note}".strip()

    def at(self, row: str) -> Claim:
        """The claim under its number for a figure's row: Figure 2's are C4 at another N than 8."""
        if self.id not in FIGURE_10 or row.startswith("N = 8"):
            return self
        return replace(self, id=f"C4 by {self.id}", source="appendix B.2, Fig. 10")

    def decide(self, table: pd.DataFrame) -> Decision:
        """What the evidence, of one row of a figure, says."""
        looks = sum(term.decides for term in self.terms)
        values = [term.values(table) for term in self.terms]
        pairs = list(zip(self.terms, values, strict=True))
        answers = [term.answer(found, looks) for term, found in pairs]
        answer = next(a for a in (NOT_RUN, NO, OPEN, YES) if a in answers)
        intervals = {t.what: None if found is None else cell_interval(found) for t, found in pairs}
        seeds = min(0 if v is None else len(v) for t, v in pairs if t.decides)
        needed = 0.0
        if seeds < LEAST:
            needed = LEAST - seeds
        elif answer == OPEN:
            unsure = [pair for pair, a in zip(pairs, answers, strict=True) if a == OPEN]
            needed = _needed(unsure, looks)
        said = {
            term.what: MARKS.get(a, a) * term.decides
            for term, a in zip(self.terms, answers, strict=True)
        }
        return Decision(_words(answer, seeds), intervals, said, seeds, looks, needed)


def _needed(unsure: Sequence[tuple[Term, np.ndarray]], looks: int) -> float:
    """Seeds until the first term outside its bounds is clearly there, else until all are inside."""
    needed = [term.seeds_needed(values, looks) for term, values in unsure]
    inside = [term.above < values.mean() < term.below for term, values in unsure]
    outside = [n for n, within in zip(needed, inside, strict=True) if not within]
    return float(np.min(outside) if outside else np.max(needed))


def _words(answer: str, seeds: int) -> str:
    if answer == NOT_RUN or seeds >= LEAST:
        return answer
    said = MARKS.get(answer)
    runs, verb = ("one run", "suggests") if seeds == 1 else (f"{seeds} runs", "suggest")
    return f"{runs}: {f'{verb} {said}' if said else OPEN}"


def described(claims: Sequence[Claim]) -> str:
    """Claims with the rules that decide them."""
    lines = [textwrap.fill(RULE, 96)]
    for claim in claims:
        lines.append(f"{claim.id}. {claim.text} ({claim.source})")
        rule = f"{claim.rule} Fixed {claim.fixed:%Y-%m-%d %H:%M} UTC."
        lines.append(textwrap.fill(rule, 96, initial_indent="   ", subsequent_indent="   "))
    return "\n".join(lines)


def decided(claims: Sequence[Claim], table: pd.DataFrame) -> pd.DataFrame:
    """Claims decided for each row of the figure: a line per claim, below it one per interval.

    Columns claim, row (where the table has several), what (the claim, what was measured), value,
    bounds (where it is to lie), says (the verdict, what each interval says), seeds, needed (further
    ones), fixed (whether the rule was before or after the runs started).
    """
    parts, lines = list(table.groupby("row", sort=False)), []
    for claim in claims:
        for row, part in parts:
            found = claim.decide(part)
            lines.append(
                {"claim": claim.at(row).id, "row": row, "what": claim.text, "value": "",
                 "bounds": "", "says": found.verdict, "seeds": str(found.seeds),
                 "needed": in_words(found),
                 "fixed": when_fixed(claim, part) if found.seeds else "-"}
            )  # fmt: skip
            lines += [
                {"what": f"\u00b7 {term.what}", "value": "-" if interval is None else str(interval),
                 "bounds": term.bounds, "says": found.says[term.what]}
                for term, interval in zip(claim.terms, found.intervals.values(), strict=True)
            ]  # fmt: skip
    found = pd.DataFrame(lines).fillna("")
    return found if any(row for row, _ in parts) else found.drop(columns="row")


def in_words(found: Decision) -> str:
    """The seeds that a decision would still need."""
    if found.needed == inf:
        return f"over {MOST}"
    if isnan(found.needed):
        return "-"
    least = "at least " if found.seeds < LEAST else ""
    return f"{least}{found.needed:.0f}"


def used(claim: Claim, table: pd.DataFrame) -> pd.DataFrame:
    """The runs behind a claim, those of its terms' series: columns run and started, a line each.

    None where the evidence does not say.
    """
    names = {name for term in claim.terms for name in term.series}
    columns = table.reindex(columns=["series", "run", "started"])
    own = columns[columns["series"].isin(names)]
    return own.dropna(subset="run")[["run", "started"]].drop_duplicates()


def when_fixed(claim: Claim, table: pd.DataFrame) -> str:
    """Whether a claim's rule was fixed "before these runs" started or "after"; "-" for none."""
    starts = used(claim, table)["started"]
    if starts.empty:
        return "-"
    when = "after" if datetime.fromisoformat(min(starts)) < claim.fixed else "before"
    return f"{when} these runs"


# -- a term of which there are many ---------------------------------------------------------------


def lead(
    what: str, series: str, other: str, column: str, above: float = -inf, below: float = inf
) -> Term:
    """The term of a measure of one series minus that of another: after the last step, on the same
    prompts."""

    def measure(table: pd.DataFrame) -> np.ndarray:
        return at(table, series, column) - at(table, other, column)

    return Term(what, (series, other), measure, above, below)
