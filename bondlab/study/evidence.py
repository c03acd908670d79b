"""The evidence that claims are decided on: evaluations, and beside them what needs no training.

A row per evaluation of a prompt: those of an experiment's runs with run, started (ISO 8601) and
anew (whether the reference or anchor drew new samples at every step); sampled Best-of-n as a
series of its own in each row of a figure, without a seed; and, where they are kept, the runs of
the experiment beside it, and the reference at lower temperatures (`report.COOLED`, its step).
"""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd

from bondlab.report.kept import Results, of_same_profiles
from bondlab.study.alignment import FIRST
from bondlab.study.items import REFERENCE
from bondlab.study.report import COOLED, OWN_BEST, best_name, drawn_anew

KEYS = ["row", "series", "seed"]


def of(found: Results, beside: str = "") -> pd.DataFrame:
    """The evidence of an experiment's results.

    Args:
        beside: the experiment on the same task whose runs are added, series of other names alone;
            not those that were measured on other prompts, by which nothing can be paired.
    """
    tables = [_trained(found["evaluations"], found["runs"])]
    if beside:
        folder = replace(found, experiment=beside).folder
        paths = [folder / f"results_{name}.parquet" for name in ("evaluations", "runs")]
        if all(path.exists() for path in paths):
            other = _trained(*map(pd.read_parquet, paths))
            own = tables[0]
            alike = other["spread"].isin(own["spread"]) & other["prompt"].isin(own["prompt"])
            if alike.all():
                tables.append(other[~other["series"].isin(own["series"].unique())])
    cooled = found.folder / "results_cooling.parquet"
    for row, part in tables[0].groupby("row", sort=False):
        tables.append(_best(part, found["baselines"]).assign(row=row))
        if cooled.exists():
            made = ["run", "manifest"]  # of no training
            table = pd.read_parquet(cooled).drop(columns=made, errors="ignore")
            table = of_same_profiles(table, part)
            labels = {"row": row, "series": COOLED, "step": table["temperature"]}
            tables.append(table.assign(**labels))
    return pd.concat(tables, ignore_index=True)


def of_items(items: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The evidence of measured items (`items`): policies are series, the reference has no seed."""
    table = items.rename(columns={"policy": "series"})
    table = table.merge(_runs(runs).drop(columns="row"), on=["series", "seed"], how="left")
    return table.assign(row="", seed=table["seed"].where(table["series"] != REFERENCE))


def _trained(evaluations: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    known = _runs(runs)
    keys = [key for key in KEYS if key in known]
    return evaluations.merge(known, on=keys, how="left", validate="many_to_one")


def _runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Of each run with that of its first steps: names, start, whether samples were drawn anew."""
    manifests = [json.loads(text) for text in runs["manifest"]]
    table = runs.assign(
        series=runs["series"].str.removesuffix(FIRST),
        started=[m["started"] for m in manifests],
        anew=[drawn_anew(m["config"]) for m in manifests],
    )
    groups = table.groupby([key for key in KEYS if key in runs], sort=False, as_index=False)
    return groups.agg({"run": " ".join, "started": "min", "anew": "all"})


def _best(part: pd.DataFrame, baselines: pd.DataFrame) -> pd.DataFrame:
    """Sampled Best-of-n under its own name, and under `OWN_BEST` where a row has one n."""
    base = of_same_profiles(baselines, part)
    tables = [base.assign(series=base["n"].map(best_name))]
    if part["n"].nunique() == 1:
        tables.append(base[base["n"] == part["n"].iloc[0]].assign(series=OWN_BEST))
    return pd.concat(tables).assign(step=0)
