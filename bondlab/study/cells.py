"""What terms of claims are made of: measures of some series, a value a seed and prompt.

Legend: S seeds, B prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bondlab.report.intervals import grid

NAMES = {"backward_kl": "backward KL", "forward_kl": "forward KL", "log_quantile": "log quantile"}


class NotRun(LookupError):
    """The evidence lacks a series or a measure."""


def shared(table: pd.DataFrame, series: Sequence[str]) -> pd.DataFrame:
    """The evaluations of some series, of the seeds that all trained ones have; or `NotRun`."""
    own = table[table["series"].isin(series)]
    if lacking := {*series} - {*own["series"].unique()}:
        raise NotRun(f"no evaluations of {', '.join(sorted(lacking))}")
    trained = own.dropna(subset="seed").groupby("series")["seed"].unique()
    seeds = set.intersection(*map(set, trained))
    if not seeds:
        raise NotRun(f"no seed that all have: {', '.join(series)}")
    return own[own["seed"].isin(seeds) | own["seed"].isna()]


def evaluations(table: pd.DataFrame, series: str, column: str) -> pd.DataFrame:
    """The evaluations of one series; `NotRun` without any, or without values of a measure."""
    own = table[table["series"] == series]
    if own.empty or column not in own or own[column].isna().all():
        raise NotRun(f"no {column} of {series}")
    return own


def at(table: pd.DataFrame, series: str, column: str, step: int | None = None) -> np.ndarray:
    """A measure after `step` updates, or its last, [S, B]; [1, B] of what has no seeds."""
    own = evaluations(table, series, column)
    own = own[own["step"] == (own["step"].max() if step is None else step)]
    return grid(own.fillna({"seed": 0}), column)


def rise(table: pd.DataFrame, series: str, column: str) -> np.ndarray:
    """By how much a measure rose from the first step to the last, on the same prompts, [S, B]."""
    return at(table, series, column) - at(table, series, column, 0)


def halves(table: pd.DataFrame, series: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Rise of a measure in each half of the evaluations, [S, B] each."""
    steps = sorted(evaluations(table, series, column)["step"].unique())
    first, half, last = (
        at(table, series, column, step) for step in (0, steps[len(steps) // 2], steps[-1])
    )
    return half - first, last - half
