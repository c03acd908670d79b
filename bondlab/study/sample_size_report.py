"""How many reference samples the real policy needs: the tables and figure of `sample_size_xsum`."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from bondlab.measures import Interval
from bondlab.study import plots, sample_size_toy
from bondlab.study.plots import Panel
from bondlab.study.quantile_report import cell, number, saved
from bondlab.study.sample_size_toy import HEADLINE
from bondlab.study.sample_size_xsum import Results
from bondlab.toy.sample_size import SIZES

# The toy's panels, and one for what the gradients have no part in.
WEIGHTS = Panel("weights", "Bias of the weights alone", "share of their spread")
PANELS = [*sample_size_toy.PANELS, WEIGHTS]


def figure(found: Results) -> Figure:
    """Bias and variance of the update against k, for the real model and reward."""
    table = table_of(found.errors)
    settings = found.manifest["config"]["settings"]
    documents = settings["task"]["train"]
    note = (
        f"Profile {found.profile}: {documents} documents, {settings['policy_samples']} completions "
        f"with gradients of each, {settings['bank_samples']} samples as the law of the reference; "
        "before the first step, where N has no effect on shares. 95 % intervals: jackknife over "
        "documents; no bias is shown where without some document no update stands out from noise."
    )
    drawn = plots.curves(
        table, PANELS, xlabel="k, reference samples (log scale)", log2=True,
        title="How many reference samples are enough? (XSum)", note=note,
    )  # fmt: skip
    for axes in drawn.axes:  # a panel may be empty
        axes.set_xlim(min(SIZES) / 1.2, max(SIZES) * 1.2)
    chosen = table[table["step"] == HEADLINE].rename(columns={"mean": "value"})
    headline = [
        number(f"k = {HEADLINE}, {row.series}: {row.panel}", row, "", documents, 1)
        for row in chosen.dropna(subset="value").itertuples(index=False)
    ]
    made_by = {name: found.manifest[name] for name in ("run", "config", "packages")}
    return saved(found, "sample_size_xsum", drawn, table, headline, made_by)


def table_of(errors: pd.DataFrame) -> pd.DataFrame:
    """The plotted numbers: panel, series, step (k), mean, low, high, count."""
    squares = errors.assign(
        bias=errors["bias"] / errors["update"].where(errors["update"] > 0),  # else only noise
        variance=errors["estimating"] / errors["drawing"],
    )
    rows = []
    for panel in PANELS:
        for (series, k), part in squares.groupby(["smoothing", "k"], sort=False):
            found = jackknife(part.set_index("left_out")[panel.name])
            ends = np.array([found.mean, found.low, found.high])
            if panel.name == "bias":  # a square that is unbiased, hence at times below 0
                ends = np.sqrt(ends.clip(min=0))
            rows.append((panel.name, series, k, *ends, found.count))
    columns = ["panel", "series", "step", "mean", "low", "high", "count"]
    return pd.DataFrame(rows, columns=columns)


def summary(found: Results) -> pd.DataFrame:
    """The figure's numbers with their intervals, and the moments of log p_hat, a row a k."""
    table = table_of(found.errors)
    cells = table.assign(cell=[cell(row, "mean") for row in table.itertuples()])
    wide = cells.pivot(index=["series", "step"], columns="panel", values="cell").reset_index()
    moments = found.errors[found.errors["left_out"] == -1]
    moments = moments.rename(columns={"smoothing": "series", "k": "step"})
    chosen = moments[["series", "step", "log_bias", "log_variance"]]
    return wide.merge(chosen, on=["series", "step"]).rename(columns={"step": "k"})


def jackknife(values: pd.Series) -> Interval:
    """A statistic with its 95 % t interval: index -1 is of all units, i leaves out unit i.

    All NaN where one of them is: the statistic then hangs on a single unit.
    """
    value, rest = float(values.loc[-1]), values.drop(-1).to_numpy()
    count = len(rest)
    if values.isna().any():
        return Interval(*[math.nan] * 4, count)
    error = float(np.sqrt((count - 1) * rest.var()))
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    return Interval(value, value - reach, value + reach, error, count)
