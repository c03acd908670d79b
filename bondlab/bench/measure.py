"""Measure the cases and keep one table of every turn, with the machine and versions behind it.

    figures/<profile>/bench/<cpu or cuda>/results_measurements.parquet   a row a side and turn
                                          results_runs.parquet           a section's manifest
    runs/bench/<identity>/                a section, measured once for a machine and a source

Columns of measurements: section, case, side, turn, seconds; where they were measured length (mean
tokens of a completion), memory (bytes), operations, bytes; and the case's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pydantic import BaseModel
from tqdm.auto import tqdm

from bondlab import device
from bondlab.bench import cases, floor, reading, sampling, steps, workload
from bondlab.bench.cases import SEED, SIZES, Case, Sizes
from bondlab.report.kept import Profile, Results, Tables, once, runs_table
from bondlab.report.notebook import show

NAME = "bench"
TABLES = ("measurements", "runs")
PACKAGE = Path(__file__).parents[1]


class Section(NamedTuple):
    """What is asked, who measures it at a profile, and what is printed of the measurements."""

    cases: Callable[[Sizes], list[Case]]
    measure: Callable[[Iterable[Case], str, Sizes], list[dict[str, Any]]]
    printed: tuple[Callable[[pd.DataFrame], pd.DataFrame], ...]


SECTIONS = {
    "sampling": Section(cases.sampling, sampling.measure, (reading.sampling,)),
    "steps": Section(cases.steps, steps.measure, (reading.steps,)),
    "floor": Section(cases.floor, floor.measure, (reading.rates, reading.parts)),
    "growth": Section(cases.growth, steps.grown, (reading.growth,)),
}


class Settings(BaseModel):
    """The notebook's parameters. `laptop`, `study` and `paper` measure the same."""

    profile: Profile


def results(profile: Profile, only: Sequence[str] = ()) -> Results:
    """Every turn of the sections asked for, or of all; measured here where they were not yet.

    "shipped" has those of all machines that were committed, told apart by the column machine.

    Raises:
        FileNotFoundError: "shipped" was asked for and nothing is.
    """
    shipped = Results(NAME, profile)
    if profile != "shipped":
        here = Results(NAME, profile, device.place().type)
        found = here.load(TABLES, partial(_measured, here, only or [*SECTIONS]))
        return replace(shipped, tables=found.tables)
    folders = sorted(path.parent.name for path in shipped.folder.glob("*/results_runs.parquet"))
    parts = [Results(NAME, profile, name).load(TABLES, dict).tables for name in folders or ["cpu"]]
    return replace(
        shipped, tables={k: pd.concat([p[k] for p in parts], ignore_index=True) for k in TABLES}
    )


def _measured(here: Results, only: Sequence[str]) -> Tables:
    """The tables of some sections, beside what is there of the others."""
    sizes = SIZES["smoke" if here.profile == "smoke" else "cpu" if here.variant == "cpu" else "gpu"]
    labels = {"machine": here.variant, "profile": here.profile}
    parts, runs = [], []
    for section in only:
        identity = _identity(here.profile, section, sizes)
        table, manifest = once(NAME, identity, partial(_section, section, sizes, here.profile))
        parts.append(table.assign(**labels))
        runs.append(runs_table(manifest, section=section, **labels))
    found = dict(zip(TABLES, (pd.concat(parts), pd.concat(runs)), strict=True))
    for name in TABLES:
        if (path := here.folder / f"results_{name}.parquet").exists():
            kept = pd.read_parquet(path)
            found[name] = pd.concat([kept[~kept["section"].isin(only)], found[name]])
    return {name: table.reset_index(drop=True) for name, table in found.items()}


def _section(section: str, sizes: Sizes, profile: str) -> pd.DataFrame:
    listed = SECTIONS[section].cases(sizes)
    bar = tqdm(listed, desc=section, unit="case", leave=False)
    table = pd.DataFrame(SECTIONS[section].measure(bar, profile, sizes))
    own = [asdict(case) for case in listed]
    own = [{"section": section, "case": c.pop("name"), **c.pop("shape"), **c} for c in own]
    if section == "floor":  # one case, whose parts are rows
        return table.merge(pd.DataFrame(own).drop(columns="case"), how="cross")
    return pd.DataFrame(own).merge(table, on="case")


def _identity(profile: str, section: str, sizes: Sizes) -> dict[str, Any]:
    """All that a section's numbers depend on but the moment: another of these is measured anew."""
    source = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(PACKAGE.rglob("*.py"))))
    packages = "torch", "transformers", "trl"
    return {
        "section": section,
        "cases": [asdict(case) for case in SECTIONS[section].cases(sizes)],
        "repeats": sizes.repeats,
        "rates": [sizes.matrix, sizes.buffer],
        "weights": {own: workload.weights(m, profile) for m, own in workload.EMBEDDED.items()},
        "precision": device.resolve("auto"),
        "seed": SEED,
        "machine": device.describe(),
        "versions": {name: version(name) if find_spec(name) else None for name in packages},
        "source": source.hexdigest()[:12],
    }


def bench(profile: Profile, only: Sequence[str] = ()) -> None:
    """Measure what was not measured yet, here and with this source; print it beside the targets."""
    found = results(profile, only)
    table = found["measurements"]
    show(reading.machines(found["runs"]))
    for section in only or SECTIONS:
        print(f"\n{section}")
        for read in SECTIONS[section].printed:
            show(read(table), 2)
    if "steps" in (only or SECTIONS) and steps.PEER not in set(table["side"]):
        print(steps.MISSING)
    print("\ntargets")
    show(reading.targets(table))
    print(f"\ntables: {found.folder / device.place().type}")
