"""What decides: changes since the start, terms of claims and heights between curves.

All are differences on the same prompts, so that how prompts differ is not in their intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product

import pandas as pd

from bondlab.report import plots
from bondlab.report.forests import forest
from bondlab.report.intervals import cell_interval
from bondlab.report.kept import Results
from bondlab.report.plots import Level, Panel
from bondlab.study import evidence, report
from bondlab.study.claims import Claim
from bondlab.study.frontier import gap

SHADED = "Shaded: where the rule wants the whole interval."
HEIGHTS = (
    Panel("reward", "Reward", "mean height (spreads of the reference's reward)"),
    Panel("judge", "Second judge", "mean height (log-odds)"),
)


def draw_change(
    found: Results, stem: str, panels: Sequence[Panel], banded: str, title: str, paper: str
) -> None:
    """Publish by how much measures changed since step 0, with the band of one series alone."""
    if found["evaluations"].empty:
        print(f"{title}: the profile {found.profile} has no such runs.")
        return
    panels = [replace(panel, ylabel=f"change ({panel.unit})") for panel in panels]
    table = report.curve_table(since_start(found, panels), panels)
    drawn = table.assign(low=table["low"].where(table["series"] == banded))
    small = f"{report.note(found)} Changes since step 0, paired by document. Band: {banded} alone."
    rows, zero = report.rows_of(found), [Level("", 0.0, "")]
    figure = plots.lines(drawn, panels, rows=rows, levels=zero, title=title, note=small)
    found.publish(stem, figure, table, panels, paper)


def since_start(found: Results, panels: Sequence[Panel]) -> Results:
    """The results, each evaluation's measures minus those of its run's first, by prompt."""
    table, names = found["evaluations"], [panel.name for panel in panels]
    keys = ["row", "series", "seed", "prompt"]
    first = table.sort_values("step").groupby(keys)[names].transform("first")
    table = table.assign(**table[names] - first)
    return replace(found, tables=found.tables | {"evaluations": table})


def terms(claims: Sequence[Claim], table: pd.DataFrame) -> pd.DataFrame:
    """The intervals that decide claims, of one row of a figure, as `forest` draws them.

    Columns panel, group (claim and term), series, mean, low, high, count, above and below; without
    terms that were not run or are only shown.
    """
    lines = []
    for claim in claims:
        found = claim.decide(table)
        for term in claim.terms:
            interval = found.intervals[term.what]
            if interval is not None and term.decides:
                lines.append(
                    interval.row(panel="term", group=f"{claim.id}: {term.what}", series="interval",
                                 above=term.above, below=term.below)
                )  # fmt: skip
    return pd.DataFrame(lines)


def draw_terms(
    found: Results, stem: str, claims: Sequence[Claim], unit: str, title: str, paper: str
) -> None:
    """Publish the intervals that decide claims; nothing where none of them was run."""
    table, panels = terms(claims, evidence.of(found)), [Panel("term", "", unit)]
    if not table.empty:
        figure = forest(table, panels, title=title, note=f"{report.note(found)} {SHADED}")
        found.publish(stem, figure, table, panels, paper)


def heights(table: pd.DataFrame, base: str, others: Sequence[str]) -> pd.DataFrame:
    """How far one curve lies above each of others, reward and judge: `forest`'s columns.

    See `frontier.area`: NaN where two curves have too little KL in common.
    """
    there = [name for name in others if name in set(table["series"])]
    lines = []
    for panel, other in product(HEIGHTS, there):
        found = cell_interval(gap(table, base, other, panel.name))
        lines.append(found.row(panel=panel.name, group=other, series=other))
    return pd.DataFrame(lines)


def draw_heights(
    found: Results,
    stem: str,
    base: str,
    others: Sequence[str],
    title: str,
    paper: str | None = None,
    words: Mapping[str, str] | None = None,
) -> None:
    """Publish how far one curve of a trade-off lies above others, over the KL both reach."""
    table = heights(found["evaluations"], base, others)
    if table.empty:
        print(f"{title}: the profile {found.profile} has no such runs.")
        return
    panels, words = report.in_units(found, HEIGHTS), report.as_run(found) | (words or {})
    drawn = table.assign(group=table["group"].map(lambda name: words.get(name, name)))
    note = (
        f"{report.note(found, 'prompt')} Right of 0: {words.get(base, base)} has more at the same "
        "KL. Mean height between two curves over the root of the KL, over what both reach."
    )
    found.publish(stem, forest(drawn, panels, title=title, note=note), table, panels, paper)
