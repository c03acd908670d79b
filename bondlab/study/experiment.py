"""An experiment as data, and its finished runs as tidy tables.

Runs carry the labels row (a row of a figure's grid, "N = 8" or ""), series (the legend of a curve),
n, beta and seed. Tables keep rows and series in their order of appearance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pydantic import BaseModel, Field

from bondlab import paths
from bondlab.report.kept import Profile, Results, Tables, runs_table
from bondlab.results import RunFolder
from bondlab.study import rescored, tables
from bondlab.study.claims import Claim
from bondlab.study.sweep import Spec, held_out_bank, sweep

EXAMPLES = 6
# evaluations: `tables.per_prompt` of every run with its labels; baselines: `tables.best_of_n` of
# the reference, n = 1 the reference itself; examples: completions of the first held-out prompts
# before and after training; runs: a row per run, with its manifest. Each has the column profile.
TABLES = ("evaluations", "baselines", "examples", "runs")


class RunSettings(BaseModel):
    """The parameters of a notebook that shows runs: their scale, how many at a time, and whether
    to train one more that is watched (`watch`), where the notebook has that section."""

    profile: Profile
    workers: int = Field(ge=0)
    live: bool = False


def seeds(profile: str) -> tuple[int, ...]:
    """Those of the runs at a profile, where an experiment has no others."""
    return (0, 1, 2) if profile in ("study", "paper") else (0,)


@dataclass(frozen=True)
class Experiment:
    """One notebook's worth of runs.

    Args:
        name: its folder's; title: what it is; notebook: its file's stem.
        specs: the runs of a profile; none where the notebook computes on its own.
        claims: what is to be decided on evaluations.
        runs: folder of the runs; experiments that share one share runs of equal identity.
        trains: the parameters with which the notebook trains a run of its own, and publishes what
            that changed, at "shipped" too; None where it trains nothing there.
        beside: another experiment on the same task, whose runs its claims also read.
    """

    name: str
    title: str
    notebook: str
    specs: Callable[..., Sequence[Spec]] = lambda profile: ()
    claims: Sequence[Claim] = ()
    runs: str = ""
    trains: Mapping[str, Any] | None = None
    beside: str = ""

    @property
    def number(self) -> str:
        """The notebook's: "02", "07b"."""
        return self.notebook.partition("_")[0]

    def run(self, profile: str, workers: int | None = None) -> list[RunFolder]:
        """Compute what is missing of the runs; returns their folders."""
        return self.sweep(self.specs(profile), workers)

    def sweep(self, specs: Sequence[Spec], workers: int | None = None) -> list[RunFolder]:
        """The folders of some runs, computed where they are missing."""
        return sweep(specs, paths.runs_folder() / self.runs, workers or None)

    def results(
        self, settings: RunSettings, further: Callable[..., Tables] = lambda found, *_: found
    ) -> Results:
        """The tables of the runs: computed at a profile, or those that are shipped.

        `further` adds to them, given tables, runs and folders. Raises as `Results.load`.
        """

        def compute() -> Tables:
            specs = self.specs(settings.profile)
            folders = self.sweep(specs, settings.workers)
            return further(collect(specs, folders, settings.profile), specs, folders)

        return Results(self.name, settings.profile).load(TABLES, compute)


def collect(
    specs: Sequence[Spec], folders: Sequence[RunFolder], profile: str, sizes: Collection[int] = ()
) -> Tables:
    """The tables of finished runs of one task; `sizes` are baselines beside the runs' own n."""
    first, parts = rescored.measured(specs[0]), {"evaluations": [], "examples": [], "runs": []}
    task = first.build()
    for spec, folder in zip(specs, folders, strict=True):
        labels = {**spec.labels, "profile": profile}
        k = spec.config.evaluation_bank  # behind the quantile of each completion
        evaluation = rescored.evaluation(spec, folder)
        measured = tables.per_prompt(evaluation, spec.labels["n"], task)
        parts["evaluations"].append(measured.assign(**labels, reference_samples=k))
        parts["examples"].append(_examples(evaluation).assign(**labels))
        parts["runs"].append(runs_table(folder.manifest, **labels))
    every = sorted({1, *sizes, *(spec.labels["n"] for spec in specs)})
    baselines = tables.best_of_n(held_out_bank(first), every, task.model, task)
    found = {name: pd.concat(own, ignore_index=True) for name, own in parts.items()}
    return found | {"baselines": baselines.assign(profile=profile)}


def _examples(evaluation: pd.DataFrame) -> pd.DataFrame:
    chosen = evaluation[
        (evaluation["source"] == "policy")
        & (evaluation["sample"] == 0)
        & (evaluation["prompt"] < EXAMPLES)
        & evaluation["step"].isin([0, evaluation["step"].max()])
    ]
    return chosen[["step", "prompt", "reward", "text"]]
