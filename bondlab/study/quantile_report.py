"""Calibration and cost of the runs of Figure 9: tables and figures of notebook 04."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bondlab import paths
from bondlab.study import calibration as measured
from bondlab.study import (
    canvas,
    collected,
    drawing,
    experiments,
    plots,
    provenance,
    quantile_cost,
)
from bondlab.study import sample_size_xsum as xsum
from bondlab.study.experiments import Profile
from bondlab.study.plots import Panel
from bondlab.study.quantile_cost import LEARNED
from bondlab.study.sample_size_xsum import EXPERIMENT

TITLES = {"policy": "the policy's summaries", "reference": "the reference's summaries"}
PARTS = ("predictions", "steps")
COST = [
    Panel("calls", "Reward calls", "calls per step"),
    Panel("completions", "Completions drawn", "completions per step"),
    Panel("seconds", "Time", "median seconds per step"),
]


@dataclass(frozen=True)
class Results:
    """What the runs of Figure 9 say beside their curves.

    Args:
        profile: of the runs; never "shipped".
        predictions: `calibration.observed` of the learned runs.
        steps: `quantile_cost.steps` of all runs.
        shipped: read, not computed here.
    """

    profile: str
    predictions: pd.DataFrame
    steps: pd.DataFrame
    shipped: bool = False


def results(profile: Profile, workers: int | None = None) -> Results:
    """The predictions and costs of the runs at a profile, or those that are shipped.

    Raises:
        FileNotFoundError: "shipped" was asked for and nothing is.
    """
    folder = paths.figures_folder(EXPERIMENT, profile)
    if profile == "shipped":
        kept = [collected.shipped_part(folder, part) for part in PARTS]
        return Results(kept[0]["profile"].iloc[0], *kept, shipped=True)
    specs = experiments.specs(EXPERIMENT, profile)
    runs = experiments.run(EXPERIMENT, profile, workers)
    predictions = [
        measured.observed(run.evaluation(), spec.labels["seed"])
        for spec, run in zip(specs, runs, strict=True)
        if spec.algorithm.quantile_model
    ]
    steps = quantile_cost.steps(specs, runs)
    found = Results(profile, pd.concat(predictions, ignore_index=True), steps)
    for part in PARTS:
        collected.keep_part(folder, profile, part, getattr(found, part))
    return found


# -- calibration -----------------------------------------------------------------------------------


def calibration(found: Results) -> Figure:
    """Reliability at the first and last step, and the squared error of p against steps."""
    table = calibration_table(found.predictions)
    seeds, prompts = (found.predictions[name].nunique() for name in ("seed", "prompt"))
    note = (
        f"Profile {found.profile}, {seeds} seed{'s' * (seeds > 1)}, {prompts} held-out documents; "
        "95 % intervals over documents. Left: completions in ten bins of predicted p; at step 0 "
        "the model says 1/2 of each. Right: the bank's own noise is subtracted."
    )
    look = {name: index for index, name in enumerate(table["series"].unique())}
    with matplotlib.rc_context(canvas.STYLE):
        figure, grid = canvas.new_figure(2, 2, "Learned quantiles against the bank", note)
        for row, source in zip(grid, measured.SOURCES, strict=True):
            own = table[table["row"] == source]
            for axes, (panel, part) in zip(row, own.groupby("panel", sort=False), strict=True):
                for series, curve in part.groupby("series", sort=False):
                    stroke = drawing.points if panel == "reliability" else drawing.curve
                    stroke(axes, curve["x"], curve, series, look[series])
            row[0].plot([0, 1], [0, 1], color="#555555", linestyle=":", label="calibrated")
            row[0].set(title=f"Reliability: {TITLES[source]}", ylabel="share at or below")
            row[1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
            row[1].set(title=f"Error: {TITLES[source]}", ylabel="mean squared error of p")
        grid[1, 0].set_xlabel("predicted p")
        grid[1, 1].set_xlabel("training steps")
        figure = canvas.finish(figure, {"calibrated"})
    last = measured.summary(found.predictions, [found.predictions["step"].max()])
    headline = [
        number(f"{row.source}: {row.measure}, last step", row, "p", prompts, seeds)
        for row in last[last["measure"].str.startswith("mean squared")].itertuples()
    ]
    return saved(found, "calibration", figure, table, headline, _runs(found, LEARNED))


def calibration_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """The plotted numbers: row, panel, series, x, mean, low, high, count."""
    ends = sorted({predictions["step"].min(), predictions["step"].max()})
    bins = measured.reliability(predictions[predictions["step"].isin(ends)])
    bins["series"] = [f"learned, step {step}" for step in bins["step"]]
    errors = measured.error_curves(predictions).rename(columns={"step": "x"})
    table = pd.concat([bins.assign(panel="reliability"), errors.assign(panel="error")])
    table = table.rename(columns={"source": "row"})
    return table[["row", "panel", "series", "x", "mean", "low", "high", "count"]]


def calibration_summary(found: Results) -> pd.DataFrame:
    """`calibration.summary` at the last step, policy and reference side by side."""
    table = measured.summary(found.predictions, [found.predictions["step"].max()])
    wide = {
        source: [cell(row) for row in part.itertuples()]
        for source, part in table.groupby("source", sort=False)
    }
    return pd.DataFrame({"measure": table["measure"].unique(), **wide})


# -- cost ------------------------------------------------------------------------------------------


def cost(found: Results) -> Figure:
    """Reward calls, completions and seconds a step of the three ways to a quantile."""
    table = quantile_cost.table(found.steps)
    plan = found.steps.iloc[0]
    note = (
        f"Profile {found.profile}, {plan['prompts']} documents a step. A bank is drawn once; here "
        f"it is spread over the {plan['steps']} steps of a run. Seconds: median, 95 % bootstrap "
        "interval over steps."
    )
    figure = plots.bars_with_intervals(table, COST, decimals=1, note=note)
    seconds = table[table["panel"] == "seconds"]
    headline = [
        number(f"seconds a step, {row.series}", row, "s", row.count, found.steps["seed"].nunique())
        for row in seconds.rename(columns={"mean": "value"}).itertuples(index=False, name="Row")
    ]
    return saved(found, "quantile_cost", figure, table, headline, _runs(found))


def break_even(found: Results, real: xsum.Results) -> pd.DataFrame:
    """`quantile_cost.break_even` with the seconds of a reward call measured on the same task."""
    seconds = real.manifest["seconds a sample"]
    measured_now = [
        {"what": f"{name} a reference sample, alone", "value": value, "low": np.nan, "high": np.nan}
        for name, value in seconds.items()
    ]
    ties = quantile_cost.break_even(found.steps, seconds["scoring"])
    table = pd.concat([pd.DataFrame(measured_now), ties], ignore_index=True)
    return table.rename(columns={"value": "seconds"})


# -- numbers and files -----------------------------------------------------------------------------


def cell(row: Any, value: str = "value") -> str:
    """A number with its interval, "-" where there is none."""
    middle = getattr(row, value)
    if np.isnan(middle):
        return "-"
    ends = "" if np.isnan(row.low) else f" [{row.low:.3f}, {row.high:.3f}]"
    return f"{middle:.3f}{ends}"


def number(what: str, row: Any, unit: str, samples: int, seeds: int) -> dict:
    """A headline number of a row with value, low and high."""
    return provenance.number(what, row.value, row.low, row.high, unit, samples, seeds)


def _runs(found: Results, series: str | None = None) -> dict[str, Sequence[str]]:
    chosen = found.steps if series is None else found.steps[found.steps["series"] == series]
    return {"runs": sorted(chosen["run"].unique())}


def saved(
    found: Results | xsum.Results,
    stem: str,
    figure: Figure,
    table: pd.DataFrame,
    headline: Sequence[dict],
    made_by: dict,
) -> Figure:
    """The figure, written beside its table unless the results were only read."""
    if not found.shipped:
        provenance.write(EXPERIMENT, stem, found.profile, figure, table, headline, **made_by)
    return figure
