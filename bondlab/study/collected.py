"""An experiment's results as tidy tables: collected from its runs, kept beside its figures.

Runs carry the labels row (a row of a figure's grid, "N = 8" or ""), series (the legend of a curve),
n, beta and seed. Tables keep rows and series in their order of appearance. What the profile "study"
keeps is committed and is what the profile "shipped" reads; of rows that the study does not compute
it may hold those of a smaller profile.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from bondlab import paths
from bondlab.results import RunFolder, write_atomically
from bondlab.study import tables
from bondlab.study.experiments import Profile, run, specs
from bondlab.study.sweep import Spec, held_out_bank

EXAMPLES = 6


@dataclass(frozen=True)
class Results:
    """The tidy tables of an experiment, and where they come from.

    Args:
        evaluations: `tables.per_prompt` of every run, with its labels and profile.
        baselines: `tables.best_of_n` of the reference, n = 1 the reference itself, with profile.
        examples: summaries of the first held-out documents before and after training.
        runs: a row a run: its labels, profile and manifest.
    """

    evaluations: pd.DataFrame
    baselines: pd.DataFrame
    examples: pd.DataFrame
    runs: pd.DataFrame

    def of(self, sizes: Sequence[int]) -> Results:
        """The part that concerns some Best-of-N sizes (and the reference)."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return Results(**{k: v[v["n"].isin([1, *sizes])] for k, v in parts.items()})


def results(name: str, profile: Profile, workers: int | None = None) -> Results:
    """The results of an experiment: computed at a profile, or those that are shipped.

    Computed ones are also written beside the experiment's figures; see `write`.

    Raises:
        FileNotFoundError: "shipped" was asked for and nothing is.
    """
    folder = paths.figures_folder(name, profile)
    if profile == "shipped":
        return shipped(folder)
    wanted = specs(name, profile)
    found = collect(wanted, run(name, profile, workers), profile)
    write(folder, profile, found)
    return found


def collect(
    wanted: Sequence[Spec],
    folders: Sequence[RunFolder],
    profile: str,
    sizes: Collection[int] = (),
) -> Results:
    """The tables of finished runs of one task; `sizes` are baselines beside the runs' own n."""
    task, evaluations, examples, runs = wanted[0].build(), [], [], []
    for spec, folder in zip(wanted, folders, strict=True):
        labels = {**spec.labels, "profile": profile}
        evaluation = folder.evaluation()
        evaluations.append(tables.per_prompt(evaluation, spec.labels["n"], task).assign(**labels))
        examples.append(_examples(evaluation).assign(**labels))
        runs.append({**labels, "run": folder.path.name, "manifest": json.dumps(folder.manifest)})
    every = sorted({1, *sizes, *(spec.labels["n"] for spec in wanted)})
    baselines = tables.best_of_n(held_out_bank(wanted[0]), every, task.model, task)
    return Results(
        pd.concat(evaluations, ignore_index=True),
        baselines.assign(profile=profile),
        pd.concat(examples, ignore_index=True),
        pd.DataFrame(runs),
    )


def _examples(evaluation: pd.DataFrame) -> pd.DataFrame:
    chosen = evaluation[
        (evaluation["source"] == "policy")
        & (evaluation["sample"] == 0)
        & (evaluation["prompt"] < EXAMPLES)
        & evaluation["step"].isin([0, evaluation["step"].max()])
    ]
    return chosen[["step", "prompt", "reward", "text"]]


def write(folder: Path, profile: str, found: Results) -> None:
    """Keep the tables of a profile beside its figures.

    They take the place of what was kept, but for rows of another profile that they lack: the study
    leaves the laptop's Figure 10, while curves drawn together come from one profile.
    """
    if (kept := _read(folder)) is not None:
        found = _over(kept, found, profile)
    for field in fields(found):
        _keep(folder, field.name, getattr(found, field.name))


def _over(kept: Results, found: Results, profile: str) -> Results:
    """The results, and the kept rows of other profiles that they lack, in the kept order."""
    rows = kept.evaluations.loc[kept.evaluations["profile"] != profile, "row"]
    stay = set(rows) - set(found.evaluations["row"])
    order = list(dict.fromkeys([*kept.evaluations["row"], *found.evaluations["row"]]))

    def chosen(name: str) -> pd.DataFrame:
        old, new = getattr(kept, name), getattr(found, name)
        both = pd.concat([old[old["row"].isin(stay)], new], ignore_index=True)
        return both.sort_values("row", key=lambda s: s.map(order.index), kind="stable")

    profiles = kept.evaluations.loc[kept.evaluations["row"].isin(stay), "profile"]
    baselines = [kept.baselines[kept.baselines["profile"].isin(profiles)], found.baselines]
    return Results(chosen("evaluations"), pd.concat(baselines), chosen("examples"), chosen("runs"))


def keep_part(folder: Path, profile: str, part: str, table: pd.DataFrame) -> None:
    """Keep one table beside an experiment's results, for `shipped_part` to read."""
    _keep(folder, part, table.assign(profile=profile))


def _keep(folder: Path, part: str, table: pd.DataFrame) -> None:
    write_atomically(_file(folder, part), table.to_parquet(index=False))


def _file(folder: Path, part: str) -> Path:
    return folder / f"results_{part}.parquet"


def covers(folder: Path, profile: str, found: Results) -> bool:
    """Whether the results hold every series that a profile's kept tables hold, if there are any."""
    kept = _read(folder)
    if kept is None:
        return True
    own = kept.runs.loc[kept.runs["profile"] == profile, "series"]
    return set(own) <= set(found.runs["series"])


def _read(folder: Path) -> Results | None:
    files = {f.name: _file(folder, f.name) for f in fields(Results)}
    if not all(path.exists() for path in files.values()):
        return None
    return Results(**{name: pd.read_parquet(path) for name, path in files.items()})


def shipped(folder: Path) -> Results:
    """The tables kept in a folder.

    Raises:
        FileNotFoundError: there are none.
    """
    return Results(**{f.name: shipped_part(folder, f.name) for f in fields(Results)})


def shipped_part(folder: Path, part: str) -> pd.DataFrame:
    """A table kept beside an experiment's results, with its profile.

    Raises:
        FileNotFoundError: there is none.
    """
    return pd.read_parquet(paths.committed(_file(folder, part)))


def manifests(found: Results) -> list[dict[str, Any]]:
    """A line a run, with its labels and its manifest: where a figure comes from."""
    return [
        row | {"manifest": json.loads(row["manifest"])} for row in found.runs.to_dict("records")
    ]
