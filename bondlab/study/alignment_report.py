"""The figures and tables of notebooks 06 and 07."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from bondlab.measures import Interval
from bondlab.study import (
    alignment_tables,
    benchmark_report,
    collected,
    decisions,
    figures,
    frontier,
    plots,
    reports,
)  # fmt: skip
from bondlab.study.collected import Results
from bondlab.study.experiments import RunSettings
from bondlab.study.plots import Level, Panel
from bondlab.study.tradeoff import tradeoff_table

REWARD = Panel("reward", "Reward", "mean reward of the task")
DISTANCE = figures.QUALITY[1]
JUDGE = Panel("judge", "Second judge, not trained on", "mean score of the judge")
WINS = Panel("win_over_1", "Second judge's win rate", "over one reference completion")
PENALISED = Panel("penalised", "What r_J would penalise", "share worse than two draws")
UNIT = "prompt"
LEVELS = (2, 8)  # sampled Best-of-N to compare with; more lines would hide the curves


class AlignmentSettings(RunSettings):
    """The parameters of notebook 06."""

    task: Literal["sentiment", "chat"]
    policy: str


class BaselineSettings(AlignmentSettings):
    """The parameters of notebook 07."""

    other_task: Literal["", "sentiment", "chat"]
    other_baselines: bool


@dataclass(frozen=True)
class Page:
    """The results of one experiment, one task and one policy, and how they are shown.

    Args:
        name: the experiment; settings: the notebook's; found: as `alignment_tables.results`.
    """

    name: str
    settings: AlignmentSettings
    found: Results

    @classmethod
    def of(
        cls, name: str, settings: AlignmentSettings, series: Sequence[str] | None = None
    ) -> Page:
        """The page with its results, computed or shipped; see `alignment_tables.results`."""
        policy, workers = settings.policy or None, settings.workers or None
        chosen = (name, settings.profile, settings.task, policy, workers, series)
        return cls(name, settings, alignment_tables.results(*chosen))

    def only(self, series: Sequence[str]) -> Results:
        """The results of some series, in this order."""
        parts = {f.name: getattr(self.found, f.name) for f in dataclasses.fields(self.found)}
        order = {name: place for place, name in enumerate(series)}
        for name in ("evaluations", "examples", "runs"):
            part = parts[name][parts[name]["series"].isin(order)]
            parts[name] = part.sort_values("series", key=lambda s: s.map(order), kind="stable")
        return Results(**parts)

    def has(self, series: Sequence[str]) -> list[str]:
        """Those of some series that the results hold, in their order."""
        present = set(self.found.evaluations["series"])
        return [name for name in series if name in present]

    # -- figures ----------------------------------------------------------------------------------

    def curves(self, stem: str, series: Sequence[str], panels: Sequence[Panel], title: str) -> None:
        """Measures over training, with lines for the reference's sampled Best-of-N."""
        found = self.only(series)
        table, marks = figures.curve_table(found, panels), figures.anchor_marks(found)
        levels = [line for panel in panels for line in _levels(found, panel)]
        frame = {"title": title, "note": reports.note(found, UNIT)}
        drawn = plots.curves(table, panels, (), levels, marks, **frame)
        self._save(stem, found, drawn, table, _changes(found, panels))
        plots.show(drawn, f"{title}: {', '.join(p.title for p in panels)} against steps")

    def tradeoff(
        self, stem: str, series: Sequence[str], panels: Sequence[Panel], title: str, base: str
    ) -> None:
        """Measures against KL to the reference, with sampled Best-of-N as points.

        The headline is how high the curve of `base` lies above the others'.
        """
        found = self.only(series)
        table = tradeoff_table(found, panels)
        note = f"{reports.note(found, UNIT)} Crosses: intervals after the last step."
        xlabel = "KL to reference (nats per completion, square-root scale)"
        drawn = plots.paths(table, panels, xlabel, title, note, square_root=True)
        self._save(stem, found, drawn, table, _heights(found, base, panels))
        plots.show(drawn, f"{title}: {', '.join(p.title for p in panels)} against KL")

    def growth(self, stem: str, series: str, title: str) -> None:
        """KL over training with its straight line after the warm-up, and what r_J penalises."""
        found = self.only([series])
        panels = (DISTANCE, PENALISED)
        table = pd.concat(
            [figures.curve_table(found, panels), _line(found.evaluations, series)],
            ignore_index=True,
        )
        levels = [
            Level(PENALISED.name, 1 / 3, "the reference itself, in theory"),
            Level(PENALISED.name, 1 / 6, "exact Best-of-2, in theory"),
        ]
        frame = {"title": title, "note": reports.note(found, UNIT)}
        drawn = plots.curves(table, panels, (), levels, **frame)
        grown = frontier.growth(found.evaluations, series)
        parts = [
            ("slope of KL", "nats a step", grown.slope),
            ("R^2 of the line", "", grown.r_squared),
            ("bend", "share of the slope", grown.bend),
        ]
        headline = [reports.entry(found.evaluations, *part) for part in parts]
        self._save(stem, found, drawn, table, headline)
        plots.show(drawn, f"{title}: KL to the reference and penalised share against steps")

    def benchmarks(self, series: Sequence[str]) -> pd.DataFrame:
        """Items of measures that no training saw, of the reference and some series; their figure.

        See `benchmarks` for the measures and columns.
        """
        chosen, found = self.settings, self.only(series)
        items = benchmark_report.of_alignment(
            self.name, chosen.profile, chosen.task, chosen.policy or None, series
        )
        benchmark_report.publish(
            self.name, chosen.profile, items, self._stem("benchmarks"), collected.manifests(found)
        )
        return items

    def _stem(self, stem: str) -> str:
        """A figure's file, told from that of another task or policy."""
        kind = alignment_tables.variant(self.settings.task, self.settings.policy or None)
        return f"{stem}_{kind}" if kind else stem

    def _save(
        self, stem: str, found: Results, drawn: Any, table: pd.DataFrame, headline: list[dict]
    ) -> None:
        profile = self.settings.profile
        figures.save(self.name, self._stem(stem), profile, found, drawn, table, headline, unit=UNIT)

    # -- tables -----------------------------------------------------------------------------------

    def budget(self) -> pd.DataFrame:
        """What each series' runs were given: a line each.

        Rate and every say how the anchor moves at this profile; completions are those drawn for a
        prompt in a step.
        """
        rows = []
        for name, part in self.found.runs.groupby("series", sort=False):
            manifests = [json.loads(text) for text in part["manifest"]]
            config = manifests[0]["config"]["config"]
            rows.append({
                "series": name, **part[["rate", "every"]].iloc[0], "seeds": part["seed"].nunique(),
                "steps": config["steps"], "prompts a step": config["prompts_per_step"],
                "completions": sum(manifests[0]["config"]["algorithm"]["draws"]),
                "minutes a run": sum(m["seconds"] for m in manifests) / len(manifests) / 60,
            })  # fmt: skip
        return pd.DataFrame(rows)

    def last(self, columns: Sequence[str]) -> pd.DataFrame:
        """Reference, sampled Best-of-N and every policy after its last step."""
        sizes = self.found.baselines["n"].unique()
        return reports.last_table(self.found, columns, sizes[sizes > 1])

    def heights(self, base: str, others: Sequence[str], column: str = "reward") -> pd.DataFrame:
        """How high one curve against KL lies above others, up to the KL both reach.

        In the units of `column`, and for the reward also in spreads: standard deviations of the
        reference's rewards within a prompt.
        """
        table, rows = self.found.evaluations, []
        for other in others:
            found = frontier.area(table, base, other, column)
            row = {f"{base} above": other, "up to KL": _reach(table, base, other)}
            row["mean height"] = _text(found)
            if column == "reward":
                scale = 1 / frontier.spread(table)
                row["in spreads"] = _text(frontier.scaled(found, scale))
            rows.append(row)
        return pd.DataFrame(rows)

    def growths(self, series: Sequence[str]) -> pd.DataFrame:
        """Slope, R^2 and bend of each series' KL against steps after the warm-up.

        R^2's estimate may be an end of its interval: see `frontier.interval`.
        """
        rows = []
        for name in series:
            grown = frontier.growth(self.found.evaluations, name)
            rows.append({"series": name, "nats a step": _text(grown.slope, 4),
                         "R^2": _text(grown.r_squared), "bend": _text(grown.bend)})  # fmt: skip
        return pd.DataFrame(rows)


# -- parts of figures and tables -------------------------------------------------------------------


def _levels(found: Results, panel: Panel) -> list[Level]:
    if panel.name not in ("reward", "judge", "win_over_1"):
        return []
    base = found.baselines[found.baselines["profile"].isin(found.evaluations["profile"])]
    return [
        Level(panel.name, base.loc[base["n"] == n, panel.name].mean(), f"sampled Best-of-{n}")
        for n in LEVELS
    ]


def _line(table: pd.DataFrame, series: str) -> pd.DataFrame:
    """The least-squares line of `frontier.growth` as a curve to draw."""
    part = table[table["step"] >= table["warmup"]]
    means = part.groupby("step")[DISTANCE.name].mean()
    slope, offset = np.polyfit(means.index, means, 1)
    return pd.DataFrame({
        "panel": DISTANCE.name, "series": f"{series}: straight line after the warm-up", "row": "",
        "step": means.index, "mean": offset + slope * means.index, "low": np.nan, "high": np.nan,
    })  # fmt: skip


def _changes(found: Results, panels: Sequence[Panel]) -> list[dict]:
    return [
        reports.entry(part, f"change of {panel.title.lower()}", "",
                      decisions.change(part, name, panel.name))
        for name, part in found.evaluations.groupby("series", sort=False)
        for panel in panels
    ]  # fmt: skip


def _heights(found: Results, base: str, panels: Sequence[Panel]) -> list[dict]:
    table = found.evaluations
    own = table[table["series"] == base]
    found = {
        f"{panel.title.lower()} above {other}": frontier.area(table, base, other, panel.name)
        for other in table["series"].unique() if other != base
        for panel in panels
    }  # fmt: skip
    # Curves without a KL in common have no height.
    return [reports.entry(own, what, "", i) for what, i in found.items() if np.isfinite(i.mean)]


def _reach(table: pd.DataFrame, *series: str) -> float:
    means = table.groupby(["series", "step"])[DISTANCE.name].mean()
    return min(means[name].max() for name in series)


def _text(found: Interval, decimals: int = 3) -> str:
    if np.isnan(found.mean):
        return "-"
    mean, low, high = (f"{end:.{decimals}f}" for end in (found.mean, found.low, found.high))
    return f"{mean} [{low}, {high}]"
