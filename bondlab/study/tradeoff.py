"""What a policy gains for its distance from the reference, and the N its log quantile amounts to.

Tables and figures of notebook 03, for results with one row: Figure 4, right, and effective N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bondlab import measures
from bondlab.study import figures, plots, reports
from bondlab.study.collected import Results
from bondlab.study.experiments import Profile
from bondlab.study.figures import GAINS, QUALITY
from bondlab.study.plots import Level, Panel

BY = ["row", "series", "step"]
DISTANCE = QUALITY[1]
EFFECTIVE_N = Panel("effective_n", "Effective N", "effective N")
SAMPLED = "Best-of-N, sampled"
BOUND = "Best-of-N, formula"


def tradeoff_table(found: Results, panels: Sequence[Panel] = GAINS) -> pd.DataFrame:
    """Measures, one a panel, against KL to the reference, as `plots.paths` draws them.

    A path for each series over its evaluations; sampled Best-of-N with its measures' intervals, at
    the KL log N - (N-1)/N and the log quantile -1/N; and, where log quantiles are drawn, the curve
    of these two for real N.

    Returns:
        panel, series, kind, point (the step or N in words), x, x_low, x_high (KL to the reference,
        nats), mean, low, high (the panel's measure), and for the paths row, step and count.
    """
    distance = measures.grouped_intervals(found.evaluations, DISTANCE.name, BY)
    ends = {"mean": "x", "low": "x_low", "high": "x_high"}
    runs = figures.curve_table(found, panels).merge(
        distance.drop(columns="count").rename(columns=ends), on=BY, how="left"
    )
    runs = runs.assign(kind="path", point=[f"step {step}" for step in runs["step"]])
    parts = [runs, sampled := _sampled(found, panels)]
    if any(panel.name == "log_quantile" for panel in panels):
        parts.append(_bound(np.nanmax([runs["x"].max(), sampled["x"].max()])))
    return pd.concat(parts, ignore_index=True)


def _sampled(found: Results, panels: Sequence[Panel]) -> pd.DataFrame:
    """Best-of-N of the reference's own samples, for every N of the baselines."""
    base = found.baselines[found.baselines["n"] > 1]
    base = base[base["profile"].isin(found.evaluations["profile"])]
    parts = [
        measures.grouped_intervals(base, panel.name, ["n"]).assign(panel=panel.name)
        for panel in panels
    ]
    table = pd.concat(parts, ignore_index=True)
    distance = table["n"].map(base.groupby("n")["kl_to_reference"].first())
    points = [f"N = {n}" for n in table["n"]]
    table = table.assign(x=distance, x_low=distance, x_high=distance, point=points)
    return table.drop(columns=["n", "count"]).assign(series=SAMPLED, kind="points")


def _bound(reach: float) -> pd.DataFrame:
    """-1/N against log N - (N-1)/N, from the reference (N = 1) to a KL of `reach` nats at least.

    No law has a higher mean log quantile at its KL: the highest is the reference tilted by a power
    of the quantile, which is Best-of-N for a real N.
    """
    n = np.exp(np.linspace(0, 1 + reach, 100))  # log N - 1 + 1/N >= reach at the end
    table = pd.DataFrame({"x": kl_of(n), "mean": -1 / n, "panel": "log_quantile"})
    return table.assign(series=BOUND, kind="formula", point="")


def kl_of(n: float | np.ndarray) -> float | np.ndarray:
    """KL(Best-of-N || reference) in nats for real N > 0 and a continuous reward."""
    return np.log(n) - 1 + 1 / n


def effective_n(found: Results) -> pd.DataFrame:
    """`measures.effective_n` of each mean log quantile: row, series, step, mean, low, high, count.

    The interval is the log quantile's with its ends transformed.
    """
    table = measures.grouped_intervals(
        found.evaluations, "log_quantile", [*BY, "reference_samples"]
    )
    for end in ("mean", "low", "high"):
        pairs = zip(table[end], table["reference_samples"], strict=True)
        table[end] = [measures.effective_n(value, k) for value, k in pairs]
    return table.drop(columns="reference_samples")


def effective_n_table(found: Results) -> pd.DataFrame:
    """After the last step of each series: log quantile, effective N, KL spent and KL needed.

    Needed is the KL to the reference of the Best-of-N with that effective N.
    """
    rows = []
    for line in reports.ends(effective_n(found)).itertuples():
        part = reports.ends(found.evaluations)
        part = part[(part["row"] == line.row) & (part["series"] == line.series)]
        rows.append({
            "series": line.series, "log quantile": reports.cell(part, "log_quantile"),
            "effective N": f"{line.mean:.2f} [{line.low:.2f}, {line.high:.2f}]",
            "KL to reference": reports.cell(part, "kl_to_reference"),
            "KL of that Best-of-N": kl_of(line.mean) if line.mean > 0 else math.inf,
        })  # fmt: skip
    return pd.DataFrame(rows)


def publish_tradeoff(name: str, stem: str, profile: Profile, found: Results, title: str) -> None:
    """Draw the trade-off, write its files and show it."""
    table = tradeoff_table(found)
    note = (
        f"{reports.note(found)} Crosses: intervals after the last step. Dotted: the highest log "
        "quantile that any law can have at its KL, which is Best-of-N's."
    )
    xlabel = "KL to reference (nats per summary)"
    drawn = plots.paths(table, GAINS, xlabel, title=title, note=note)
    distance = measures.grouped_intervals(found.evaluations, DISTANCE.name, BY)
    headline = _last(found, distance, "KL to reference after the last step", "nats")
    figures.save(name, stem, profile, found, drawn, table, headline)
    plots.show(drawn, f"{title}: reward and log quantile against the KL to the reference")


def publish_effective_n(name: str, stem: str, profile: Profile, found: Results, title: str) -> None:
    """Draw effective N and KL to the reference over training, write the files and show it."""
    sizes = effective_n(found).assign(panel=EFFECTIVE_N.name)
    table = pd.concat([sizes, figures.curve_table(found, [DISTANCE])], ignore_index=True)
    k = ", ".join(map(str, found.evaluations["reference_samples"].unique()))
    note = (
        f"{reports.note(found)} Effective N: the N whose Best-of-N has the same mean log quantile, "
        f"measured alike, with k = {k} reference samples."
    )
    panels, levels = (EFFECTIVE_N, DISTANCE), [Level(EFFECTIVE_N.name, 1.0, "the reference")]
    marks = figures.anchor_marks(found)
    drawn = plots.curves(table, panels, (), levels, marks, title=title, note=note)
    headline = _last(found, sizes, "effective N after the last step", "")
    figures.save(name, stem, profile, found, drawn, table, headline)
    plots.show(drawn, f"{title}: effective N and KL to the reference against steps")


def _last(found: Results, table: pd.DataFrame, what: str, unit: str) -> list[dict]:
    """Headline numbers: the last line of each series in a table of intervals."""
    series = found.evaluations.groupby(["row", "series"])
    return [
        reports.entry(series.get_group((line.row, line.series)), what, unit, line)
        for line in reports.ends(table).itertuples()
    ]
