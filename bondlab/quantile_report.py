"""Tables and figures of notebook 04 beside the paper's own: calibration, cost, how many samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from bondlab import calibration as measured
from bondlab import canvas, checkpoints, drawing, experiments, paths, plots, quantile_cost
from bondlab import sample_size_xsum as xsum
from bondlab.experiments import Profile
from bondlab.measures import Interval
from bondlab.plots import Panel
from bondlab.quantile_cost import LEARNED
from bondlab.sample_size_toy import PANELS
from bondlab.sample_size_xsum import EXPERIMENT

TITLES = {"policy": "the policy's summaries", "reference": "the reference's summaries"}
COST = [
    Panel("calls", "Reward calls", "calls per step"),
    Panel("completions", "Completions drawn", "completions per step"),
    Panel("seconds", "Time", "median seconds per step"),
]
SAMPLE_SIZE = [*PANELS, Panel("weights", "Bias of the weights alone", "share of their spread")]


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
    folder = paths.figures_folder(EXPERIMENT)
    if profile == "shipped":
        for scale in ("study", "laptop"):
            if (folder / f"results_{scale}_predictions.parquet").exists():
                return Results(scale, *(pd.read_parquet(f) for f in _files(scale)), shipped=True)
        raise FileNotFoundError(f"{folder} holds no results: run the notebook at profile laptop")
    specs = experiments.specs(EXPERIMENT, profile)
    runs = experiments.run(EXPERIMENT, profile, workers)
    predictions = [
        measured.observed(run.evaluation(), spec.labels["seed"])
        for spec, run in zip(specs, runs, strict=True)
        if spec.algorithm.quantile_model
    ]
    steps = quantile_cost.steps(specs, runs)
    found = Results(profile, pd.concat(predictions, ignore_index=True), steps)
    for file, table in zip(_files(profile), (found.predictions, found.steps), strict=True):
        checkpoints.write_atomically(file, table.to_parquet(index=False))
    return found


def _files(profile: str) -> list[Path]:
    folder = paths.figures_folder(EXPERIMENT)
    return [folder / f"results_{profile}_{name}.parquet" for name in ("predictions", "steps")]


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
            row[1].set(title=f"Error: {TITLES[source]}", ylabel="mean squared error of p")
        grid[1, 0].set_xlabel("predicted p")
        grid[1, 1].set_xlabel("training steps")
        figure = canvas.finish(figure, {"calibrated"})
    last = measured.summary(found.predictions, [found.predictions["step"].max()])
    headline = [
        _number(f"{row.source}: {row.measure}, last step", row, "p", prompts, seeds)
        for row in last[last["measure"].str.startswith("mean squared")].itertuples()
    ]
    return _saved(found, "calibration", figure, table, headline, _runs(found, LEARNED))


def calibration_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """The plotted numbers: row, panel, series, x, mean, low, high, count."""
    ends = sorted({predictions["step"].min(), predictions["step"].max()})
    bins = measured.reliability(predictions[predictions["step"].isin(ends)])
    bins["series"] = [f"learned, step {step}" for step in bins["step"]]
    errors = measured.error_curves(predictions).rename(columns={"step": "x"})
    table = pd.concat([bins.assign(panel="reliability"), errors.assign(panel="error")])
    table = table.rename(columns={"source": "row"})
    return table[["row", "panel", "series", "x", "mean", "low", "high", "count"]]


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
        _number(f"seconds a step, {row.series}", row, "s", row.count, found.steps["seed"].nunique())
        for row in seconds.rename(columns={"mean": "value"}).itertuples(index=False, name="Row")
    ]
    return _saved(found, "quantile_cost", figure, table, headline, _runs(found))


# -- how many samples ------------------------------------------------------------------------------


def sample_size(found: xsum.Results) -> Figure:
    """Bias and variance of the update against k, for the real model and reward."""
    table = sample_size_table(found.errors)
    settings = found.manifest["config"]["settings"]
    documents = settings["task"]["train"]
    note = (
        f"Profile {found.profile}: {documents} documents, {settings['policy_samples']} completions "
        f"with gradients of each, {settings['bank_samples']} samples as the law of the reference; "
        "before the first step, where N has no effect on shares. 95 % intervals: jackknife over "
        "documents; no bias is shown where without some document no update stands out from noise."
    )
    figure = plots.curves(
        table, SAMPLE_SIZE, xlabel="k, reference samples (log scale)", log2=True,
        title="How many reference samples are enough? (XSum)", note=note,
    )  # fmt: skip
    chosen = table[table["step"] == 16].rename(columns={"mean": "value"})
    headline = [
        _number(f"k = 16, {row.series}: {row.panel}", row, "", documents, 1)
        for row in chosen.dropna(subset="value").itertuples(index=False)
    ]
    made_by = {name: found.manifest[name] for name in ("run", "config", "packages")}
    return _saved(found, "sample_size_xsum", figure, table, headline, made_by)


def sample_size_table(errors: pd.DataFrame) -> pd.DataFrame:
    """The plotted numbers: panel, series, step (k), mean, low, high, count."""
    squares = errors.assign(
        bias=errors["bias"] / errors["update"].where(errors["update"] > 0),  # else only noise
        variance=errors["estimating"] / errors["drawing"],
    )
    rows = []
    for panel in SAMPLE_SIZE:
        for (series, k), part in squares.groupby(["smoothing", "k"], sort=False):
            found = jackknife(part.set_index("left_out")[panel.name])
            ends = np.array([found.mean, found.low, found.high])
            if panel.name == "bias":  # a square that is unbiased, hence at times below 0
                ends = np.sqrt(ends.clip(min=0))
            rows.append((panel.name, series, k, *ends, found.count))
    columns = ["panel", "series", "step", "mean", "low", "high", "count"]
    return pd.DataFrame(rows, columns=columns)


def jackknife(values: pd.Series) -> Interval:
    """A statistic with its 95 % t interval: index -1 is of all units, i leaves out unit i.

    All NaN where one of them is: the statistic then hangs on a single unit.
    """
    value, rest = float(values.loc[-1]), values.drop(-1).to_numpy()
    count = len(rest)
    if values.isna().any():
        return Interval(*[float("nan")] * 4, count)
    error = float(np.sqrt((count - 1) * rest.var()))
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    return Interval(value, value - reach, value + reach, error, count)


# -- files -----------------------------------------------------------------------------------------


def _number(what: str, row: object, unit: str, samples: int, seeds: int) -> dict:
    """A headline number; its ends are null where it has no interval."""
    low, high = (None if np.isnan(end) else float(end) for end in (row.low, row.high))
    value = float(row.value)
    return {"what": what, "value": value, "low": low, "high": high, "unit": unit,
            "samples": int(samples), "seeds": int(seeds)}  # fmt: skip


def _runs(found: Results, series: str | None = None) -> dict[str, Sequence[str]]:
    chosen = found.steps if series is None else found.steps[found.steps["series"] == series]
    return {"runs": sorted(chosen["run"].unique())}


def _saved(
    found: Results | xsum.Results,
    stem: str,
    figure: Figure,
    table: pd.DataFrame,
    headline: Sequence[dict],
    made_by: dict,
) -> Figure:
    """The figure, written beside its table unless the results were only read."""
    if not found.shipped:
        provenance = {
            "paper_figure": experiments.EXPERIMENTS[EXPERIMENT].figures[stem],
            "experiment": EXPERIMENT,
            "profile": found.profile,
            "headline": list(headline),
            **made_by,
        }
        folder = paths.figures_folder(EXPERIMENT)
        plots.save_figure(figure, folder, f"{stem}_{found.profile}", table, provenance)
    return figure
