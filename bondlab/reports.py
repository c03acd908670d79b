"""An experiment's results: tidy tables, verdicts, and figures with where they come from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bondlab import checkpoints, paths, tables
from bondlab.experiments import Profile, run, specs
from bondlab.sweep import held_out_bank


@dataclass(frozen=True)
class Results:
    """The tidy tables of an experiment at a profile, and where they come from.

    Args:
        evaluations: `tables.per_prompt` of every run, with its labels (n, beta, seed).
        baselines: `tables.best_of_n` of the reference, n = 1 the reference itself.
        runs: a manifest a run, with its labels.
    """

    profile: str
    evaluations: pd.DataFrame
    baselines: pd.DataFrame
    runs: list[dict]


def results(name: str, profile: Profile, workers: int | None = None) -> Results:
    """The results of an experiment: computed at a profile, or those that are shipped.

    Computed ones are also written beside the experiment's figures, from where "shipped" reads
    them: of each N the "study" results where there are any, else the "laptop" results.
    """
    if profile == "shipped":
        return _shipped(name)
    wanted = specs(name, profile)
    folders = run(name, profile, workers)
    parts = [
        tables.per_prompt(folder.evaluation(), spec.labels["n"], spec.build()).assign(**spec.labels)
        for spec, folder in zip(wanted, folders, strict=True)
    ]
    task, sizes = wanted[0].build(), sorted({1, *(spec.labels["n"] for spec in wanted)})
    found = Results(
        profile,
        pd.concat(parts, ignore_index=True),
        tables.best_of_n(held_out_bank(wanted[0]), sizes, task.model, task),
        [dict(spec.labels) | f.manifest for spec, f in zip(wanted, folders, strict=True)],
    )
    _write(paths.figures_folder(name), found)
    return found


def _write(folder: Path, found: Results) -> None:
    stem = f"results_{found.profile}"
    for part, table in (("evaluations", found.evaluations), ("baselines", found.baselines)):
        checkpoints.write_atomically(
            folder / f"{stem}_{part}.parquet", table.to_parquet(index=False)
        )
    text = json.dumps(found.runs, indent=1) + "\n"
    checkpoints.write_atomically(folder / f"{stem}_runs.json", text.encode())


def _read(folder: Path, profile: str) -> Results | None:
    stem = folder / f"results_{profile}"
    if not Path(f"{stem}_runs.json").exists():
        return None
    evaluations, baselines = (
        pd.read_parquet(f"{stem}_{part}.parquet") for part in ("evaluations", "baselines")
    )
    return Results(
        profile, evaluations, baselines, json.loads(Path(f"{stem}_runs.json").read_text())
    )


def _shipped(name: str) -> Results:
    """Of each N the study's results where they exist, else the laptop's; column `profile` says."""
    folder = paths.figures_folder(name)
    found = [r for p in ("study", "laptop") if (r := _read(folder, p)) is not None]
    if not found:
        raise FileNotFoundError(f"{folder} holds no results: run the notebook at profile laptop")
    best, seen = [], set()
    for part in found:
        sizes = set(part.evaluations["n"]) - seen
        seen |= sizes
        chosen = part.evaluations[part.evaluations["n"].isin(sizes)]
        rows = part.baselines[part.baselines["n"].isin(sizes | {1})]
        runs = [r for r in part.runs if r["n"] in sizes]
        best.append((chosen.assign(profile=part.profile), rows.assign(profile=part.profile), runs))
    evaluations, baselines, runs = zip(*best, strict=True)
    return Results("shipped", pd.concat(evaluations), pd.concat(baselines), sum(runs, []))
