"""An experiment's claims in words, and what its results decide of them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import pandas as pd

from bondlab.study import reports
from bondlab.study.collected import Results
from bondlab.study.decisions import Claim
from bondlab.study.experiments import EXPERIMENTS


def rules(name: str) -> str:
    """The experiment's claims and the rules that decide them."""
    return described(EXPERIMENTS[name].claims)


def described(claims: Sequence[Claim], first: int = 1) -> str:
    """Claims, numbered from `first`, with the rules that decide them."""
    return "\n".join(
        f"{i}. {claim.text} ({claim.source})\n"
        + textwrap.fill(claim.rule, 96, initial_indent="   ", subsequent_indent="   ")
        for i, claim in enumerate(claims, first)
    )


def of(name: str, found: Results) -> pd.DataFrame:
    """Each claim of the experiment, decided by its rule for each row: verdict and intervals."""
    parts = [
        decided(EXPERIMENTS[name].claims, part).assign(row=row)
        for row, part in found.evaluations.groupby("row", sort=False)
    ]
    whole = pd.concat(parts).sort_values("claim", kind="stable", ignore_index=True)
    return reports.tidy(whole[["claim", "row", "verdict", "measured", "difference"]])


def decided(claims: Sequence[Claim], table: pd.DataFrame, first: int = 1) -> pd.DataFrame:
    """Claims, numbered from `first`, decided on one table: a line an interval.

    Columns claim, verdict, measured, difference.
    """
    rows = []
    for number, claim in enumerate(claims, first):
        verdict, intervals = claim.decide(table)
        rows += [
            {"claim": number, "verdict": verdict, "measured": what, "difference": str(interval)}
            for what, interval in intervals.items()
        ]
    return pd.DataFrame(rows)
