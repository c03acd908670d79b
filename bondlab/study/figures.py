"""The figures of an experiment: measures against training steps, with where they come from.

Companion of `bondlab.study.reports`: the results, their numbers and the small print are from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bondlab import best_of_n, measures
from bondlab.study import collected, plots, provenance, reports
from bondlab.study.collected import Results
from bondlab.study.experiments import Profile
from bondlab.study.plots import Level, Mark, Panel

DIVERGENCES = (
    Panel("backward_kl", r"Backward KL($\pi$ || $\pi_{BoN}$)", "nats per summary"),
    Panel("forward_kl", r"Forward KL($\pi_{BoN}$ || $\pi$)", "nats per summary"),
    Panel("log_quantile", "Reward log quantile", "mean log quantile (nats)"),
)
QUALITY = (
    Panel("p_reward", "Reward", "mean p(entailment)"),
    Panel("kl_to_reference", "Distance from the reference", "KL to reference (nats)"),
    Panel("entropy", "Entropy", "nats per summary"),
)
TEXT = (
    Panel("words", "Length", "words per summary"),
    Panel("longest_copied_span", "Copying", "longest copied span (words)"),
    Panel("rougeL", "Likeness to human text", "ROUGE-L F1"),
)
GAINS = (QUALITY[0], DIVERGENCES[2])  # Figure 4, left and middle


def curve_table(found: Results, panels: Sequence[Panel]) -> pd.DataFrame:
    """The plotted numbers: row, series, step, mean, low, high, count, panel.

    By row of the grid, then panel, then series, then step, each in order of appearance.
    """
    by = ["row", "series", "step"]
    parts = [
        measures.grouped_intervals(part, panel.name, by).assign(panel=panel.name)
        for _, part in found.evaluations.groupby("row", sort=False)
        for panel in panels
    ]
    return pd.concat(parts, ignore_index=True)


def figure(found: Results, panels: Sequence[Panel], title: str) -> tuple[Figure, pd.DataFrame]:
    """Measures against training steps: a row of the grid for each row, a panel for each measure."""
    table = curve_table(found, panels)
    levels = [
        level
        for _, part in found.evaluations.groupby("row", sort=False)
        for panel in panels
        for level in _levels(part, found.baselines, panel)
    ]
    rows = list(found.evaluations["row"].unique())
    frame = {"title": title, "note": reports.note(found)}
    return plots.curves(table, panels, rows, levels, anchor_marks(found), **frame), table


def _levels(part: pd.DataFrame, baselines: pd.DataFrame, panel: Panel) -> list[Level]:
    """What a panel of one N is compared with: theory at the start, and sampled Best-of-N."""
    if part["n"].nunique() > 1:  # a line for each N would hide the curves
        return []
    row, n, profile = part[["row", "n", "profile"]].iloc[0]
    theory = {"backward_kl": best_of_n.reverse_kl(n), "forward_kl": best_of_n.kl_bound(n)}
    if panel.name in theory:
        return [Level(panel.name, theory[panel.name], "theory at the start", row)]
    if panel.name not in baselines:
        return []
    chosen = baselines[(baselines["profile"] == profile) & (baselines["n"] == n)]
    band = measures.mean_interval(chosen[panel.name].to_numpy())
    return [Level(panel.name, band.mean, "sampled Best-of-N", row, band.low, band.high)]


def anchor_marks(found: Results) -> list[Mark]:
    """The steps at which a moving anchor becomes the policy (label `every`), but for the last."""
    if "every" not in found.evaluations:
        return []
    last, periods = found.evaluations["step"].max(), set(found.evaluations["every"]) - {0}
    steps = {step for every in periods for step in range(every, last, every)}
    return [Mark(step, "the anchor moves") for step in sorted(steps)]


def save(
    name: str,
    stem: str,
    profile: Profile,
    found: Results,
    drawn: Figure,
    table: pd.DataFrame,
    headline: list[dict[str, Any]] | None = None,
    unit: str = "document",
) -> None:
    """Write a figure's files with their provenance; shipped figures are there already.

    `headline` is by default the change of the log quantile and of the divergences that are drawn.
    """
    if profile == "shipped":
        return
    if headline is None:
        headline = reports.headline(found, set(table["panel"]))
    note = reports.note(found, unit)
    runs = collected.manifests(found)
    provenance.write(name, stem, profile, drawn, table, headline, note=note, runs=runs)


def publish(
    name: str, stem: str, profile: Profile, found: Results, panels: Sequence[Panel], title: str
) -> None:
    """Draw a figure, write its files and show it; a line of text where there are no such runs."""
    if found.evaluations.empty:
        print(f"The profile {profile} has no runs of this N.")
        return
    drawn, table = figure(found, panels, title)
    save(name, stem, profile, found, drawn, table)
    heading = ", ".join(filter(None, (title, *found.evaluations["row"].unique())))
    plots.show(drawn, f"{heading}: {', '.join(p.title for p in panels)} against steps")
