"""An experiment's results as tidy tables: collected from its runs, kept beside its figures.

Runs carry the labels row (a row of a figure's grid, "N = 8" or ""), series (the legend of a curve),
n, beta and seed. Tables keep rows and series in their order of appearance. What is kept is what the
profile "shipped" reads: the study's tables where there are any, else the laptop's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from bondlab import checkpoints, paths, tables
from bondlab.experiments import Profile, run, specs
from bondlab.results import RunFolder
from bondlab.sweep import Spec, held_out_bank

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

    Computed ones are also written beside the experiment's figures, from where "shipped" reads
    them: of each row the "study" results where there are any, else the "laptop" results, so that
    curves drawn together come from one profile.

    Raises:
        FileNotFoundError: "shipped" was asked for and nothing is.
    """
    folder = paths.figures_folder(name)
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
    """Keep the tables of a profile, for `shipped` to read."""
    for field in fields(found):
        keep_part(folder, profile, field.name, getattr(found, field.name))


def keep_part(folder: Path, profile: str, part: str, table: pd.DataFrame) -> None:
    """Keep one table beside an experiment's results, for `shipped_part` to read."""
    path = folder / f"results_{profile}_{part}.parquet"
    checkpoints.write_atomically(path, table.to_parquet(index=False))


def covers(folder: Path, profile: str, found: Results) -> bool:
    """Whether the results hold every series that a profile's kept tables hold, if there are any."""
    kept = _read(folder, profile)
    return kept is None or set(kept.runs["series"]) <= set(found.runs["series"])


def _read(folder: Path, profile: str) -> Results | None:
    files = {f.name: folder / f"results_{profile}_{f.name}.parquet" for f in fields(Results)}
    if not all(path.exists() for path in files.values()):
        return None
    return Results(**{name: pd.read_parquet(path) for name, path in files.items()})


def shipped(folder: Path) -> Results:
    """Of each row the "study" results of a folder where there are any, else the "laptop" ones.

    Raises:
        FileNotFoundError: there are neither.
    """
    parts = {p: part for p in ("laptop", "study") if (part := _read(folder, p)) is not None}
    if not parts:
        raise FileNotFoundError(f"{folder} holds no results: run the notebook at profile laptop")
    # A study row takes the laptop row's place.
    origin = {row: p for p, part in parts.items() for row in part.evaluations["row"].unique()}

    def chosen(table: str) -> pd.DataFrame:
        sources = [(row, getattr(parts[p], table)) for row, p in origin.items()]
        return pd.concat([t[t["row"] == row] for row, t in sources], ignore_index=True)

    used = dict.fromkeys(origin.values())
    baselines = pd.concat([parts[p].baselines for p in used], ignore_index=True)
    return Results(chosen("evaluations"), baselines, chosen("examples"), chosen("runs"))


def manifests(found: Results) -> list[dict[str, Any]]:
    """A line a run, with its labels and its manifest: where a figure comes from."""
    return [
        row | {"manifest": json.loads(row["manifest"])} for row in found.runs.to_dict("records")
    ]


def shipped_part(folder: Path, part: str) -> pd.DataFrame:
    """A table beside an experiment's results: the study's where there is one, else the laptop's.

    Raises:
        FileNotFoundError: there is neither.
    """
    for profile in ("study", "laptop"):
        path = folder / f"results_{profile}_{part}.parquet"
        if path.exists():
            return pd.read_parquet(path)
    raise FileNotFoundError(f"{folder} holds no {part}: run the notebook at profile laptop")
