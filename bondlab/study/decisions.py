"""How each claim of the paper is decided: from evaluations to a verdict and its numbers.

The claims, and their rules in words, stand in `xsum_runs`. Tables are `tables.per_prompt`'s with
the runs' labels: series (the curve), seed, step, prompt and the measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bondlab import best_of_n, measures
from bondlab.measures import Interval

Verdict = Literal["reproduced", "not reproduced", "inconclusive"]
Decision = tuple[Verdict, dict[str, Interval]]

AS_GOOD = 0.1  # nats of mean log quantile, a tenth of the way from the reference (-1) to the best
OBJECTIVES = {
    0.0: "beta = 0 (forward KL)",
    0.5: "beta = 0.5 (Jeffreys)",
    1.0: "beta = 1 (backward KL)",
}
FORWARD, JEFFREYS, BACKWARD = OBJECTIVES.values()
REFERENCE = "reference"  # as tables of policies name the one before training


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and the rule, fixed before the runs, that decides it.

    Args:
        text: the claim; source: where the paper makes it; rule: the rule in words.
        decide: from the evaluations of one row of the figure (or a benchmark's items) to the
            verdict and its intervals.
    """

    text: str
    source: str
    rule: str
    decide: Callable[[pd.DataFrame], Decision]


def at(table: pd.DataFrame, series: str, column: str, step: int) -> np.ndarray:
    """A measure after `step` updates, [seeds, prompts]."""
    chosen = table[(table["series"] == series) & (table["step"] == step)]
    return chosen.pivot(index="seed", columns="prompt", values=column).to_numpy()


def interval(values: np.ndarray) -> Interval:
    """Interval of the mean of [seeds, prompts]: over both, or over prompts if there is one seed."""
    return (
        measures.mean_interval(values[0])
        if len(values) == 1
        else (measures.bootstrap_interval(values))
    )


def change(
    table: pd.DataFrame, series: str, column: str, start: int = 0, end: int | None = None
) -> Interval:
    """By how much a measure rose from step `start` to `end` (the last), on the same prompts."""
    end = table["step"].max() if end is None else end
    return interval(at(table, series, column, end) - at(table, series, column, start))


def gap(table: pd.DataFrame, series: str, other: str, column: str) -> Interval:
    """A measure of one series less that of another after the last step, on the same prompts."""
    end = table["step"].max()
    return interval(at(table, series, column, end) - at(table, other, column, end))


def all_above_zero(found: dict[str, Interval]) -> Decision:
    """Reproduced if every interval lies above 0, not reproduced if one lies below."""
    if all(i.low > 0 for i in found.values()):
        return "reproduced", found
    failed = any(i.high < 0 for i in found.values())
    return "not reproduced" if failed else "inconclusive", found


def all_within(found: dict[str, Interval], reach: dict[str, float]) -> Decision:
    """Reproduced if every interval lies within its reach of 0, not if one lies wholly outside."""
    if all(-reach[k] < i.low and i.high < reach[k] for k, i in found.items()):
        return "reproduced", found
    failed = any(i.low > reach[k] or i.high < -reach[k] for k, i in found.items())
    return "not reproduced" if failed else "inconclusive", found


# -- Figures 2 and 10 ------------------------------------------------------------------------------


def both_fall(table: pd.DataFrame) -> Decision:
    """Both divergences fall under Jeffreys."""
    found = {}
    for name in ("backward_kl", "forward_kl"):
        end = table["step"].max()
        values = at(table, JEFFREYS, name, 0) - at(table, JEFFREYS, name, end)
        found[f"{name} before - after, beta 0.5"] = interval(values)
    return all_above_zero(found)


def each_worse_on_the_other(table: pd.DataFrame) -> Decision:
    """The pure objectives end above Jeffreys on the divergence they do not train."""
    return all_above_zero({
        "backward_kl, beta 0 - beta 0.5": gap(table, FORWARD, JEFFREYS, "backward_kl"),
        "forward_kl, beta 1 - beta 0.5": gap(table, BACKWARD, JEFFREYS, "forward_kl"),
    })  # fmt: skip


def quantiles_rank(table: pd.DataFrame) -> Decision:
    """Jeffreys ends above forward, and not far below backward, in log quantile."""
    lead = gap(table, JEFFREYS, FORWARD, "log_quantile")
    beside = gap(table, JEFFREYS, BACKWARD, "log_quantile")
    found = {"log quantile, beta 0.5 - beta 0": lead, "log quantile, beta 0.5 - beta 1": beside}
    if lead.low > 0 and beside.low > -AS_GOOD:
        return "reproduced", found
    failed = lead.high < 0 or beside.high < -AS_GOOD
    return "not reproduced" if failed else "inconclusive", found


# -- Figure 4 --------------------------------------------------------------------------------------


def gains(table: pd.DataFrame, series: str) -> tuple[np.ndarray, np.ndarray]:
    """Rise of the log quantile in each half of the evaluations, [seeds, prompts] each."""
    steps = sorted(table["step"].unique())
    first, half, last = (
        at(table, series, "log_quantile", step) for step in (0, steps[len(steps) // 2], steps[-1])
    )
    return half - first, last - half


def saturate(table: pd.DataFrame) -> Decision:
    """A fixed N gains less later than early, and a small one less later than a large one."""
    found = {}
    for series in ("N = 4", "N = 16"):
        early, late = gains(table, series)
        found[f"early gain - late gain, {series}"] = interval(early - late)
    late = gains(table, "N = 16")[1] - gains(table, "N = 4")[1]
    return all_above_zero({**found, "late gain, N = 16 - N = 4": interval(late)})


def keep_improving(table: pd.DataFrame) -> Decision:
    """Iterative runs gain late where N = 4 does not, and the larger n is ahead."""
    small, large = "iterative, n = 2", "iterative, n = 4"
    still = gains(table, "N = 4")[1]
    return all_above_zero({
        "late gain, iterative n = 2 - N = 4": interval(gains(table, small)[1] - still),
        "late gain, iterative n = 4 - N = 4": interval(gains(table, large)[1] - still),
        "log quantile, n = 4 - n = 2": gap(table, large, small, "log_quantile"),
    })  # fmt: skip


def one_trade_off(table: pd.DataFrame) -> Decision:
    """Each run ends near the curve a + b sqrt(KL) through the other runs' evaluations."""
    means = table.groupby(["series", "step"])[["kl_to_reference", "log_quantile"]].mean()
    # Near the reference a small KL of size e^2 buys a log quantile of size e.
    root = means["kl_to_reference"].clip(lower=0) ** 0.5
    end, found = table["step"].max(), {}
    for series in table["series"].unique():
        others = root.index.get_level_values("series") != series
        slope, offset = np.polyfit(root[others], means.loc[others, "log_quantile"], 1)
        expected = offset + slope * root[(series, end)]
        values = at(table, series, "log_quantile", end) - expected
        found[f"log quantile off the common curve, {series}"] = interval(values)
    return all_within(found, dict.fromkeys(found, AS_GOOD))


# -- Figure 9 --------------------------------------------------------------------------------------

CLOSE = 0.1  # share of what a divergence is before training by its formula


def learned_is_close(table: pd.DataFrame) -> Decision:
    """Learned and counted quantiles end near each other on all three measures."""
    counted, learned = "Monte Carlo, stored samples", "learned"
    (n,) = table["n"].unique()
    found = {
        name: gap(table, learned, counted, name)
        for name in ("backward_kl", "forward_kl", "log_quantile")
    }
    reach = {
        "backward_kl": CLOSE * best_of_n.reverse_kl(int(n)),
        "forward_kl": CLOSE * best_of_n.kl_bound(int(n)),
        "log_quantile": AS_GOOD,
    }
    return all_within(
        {f"{name}, learned - counted": i for name, i in found.items()},
        {f"{name}, learned - counted": r for name, r in reach.items()},
    )
