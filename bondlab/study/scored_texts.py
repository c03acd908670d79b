"""Texts scored once and kept in one table: how the notebooks on rewards and judges keep results.

A table is computed in a run's folder and copied beside the figures; a notebook that shows
committed results reads the committed copy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from bondlab import paths
from bondlab.results import RunFolder, write_atomically
from bondlab.study import provenance
from bondlab.task import Reward, score

PAIRS_AT_ONCE = 256  # scored together; rewards sort them by length
TABLE, RUN = "results_texts.parquet", "results_run.json"


@dataclass(frozen=True)
class Results:
    """Every scored text, and how the table was made.

    Args:
        profile: whose settings they are; never "shipped".
        table: a row a text; has the columns source, prompt, sample and reward.
        manifest: the run's manifest (settings, weights, machine, seconds) and its profile.
        shipped: read, not computed here.
    """

    profile: str
    table: pd.DataFrame
    manifest: dict
    shipped: bool = False

    def of(self, source: str) -> pd.DataFrame:
        """The rows of one source."""
        return self.table[self.table["source"] == source]


def computed(
    experiment: str, profile: str, identity: dict, measure: Callable[[], pd.DataFrame]
) -> Results:
    """The results of a profile: measured now, unless that was done before.

    Args:
        identity: everything that determines the table.
        measure: makes it.
    """
    run = RunFolder.of(paths.runs_folder() / experiment, identity)
    if not run.finished:
        with run.lock():
            _compute(run, measure)
    table, manifest = run.evaluation().drop(columns="step"), run.manifest | {"profile": profile}
    found = Results(profile, table, manifest)
    folder = paths.figures_folder(experiment, profile)
    write_atomically(folder / TABLE, found.table.to_parquet(index=False))
    text = json.dumps(found.manifest, indent=1) + "\n"
    write_atomically(folder / RUN, text.encode())
    return found


def _compute(run: RunFolder, measure: Callable[[], pd.DataFrame]) -> None:
    started = time.perf_counter()
    run.mark("running", 0.0)
    if not run.evaluated(0):
        table = measure()
        run.append({"step": 0, "texts": len(table), "seconds": time.perf_counter() - started})
        run.add_evaluation(table.assign(step=0))  # the models stand still: one step, number 0
    run.mark("finished", time.perf_counter() - started)


def shipped(experiment: str) -> Results:
    """What is committed.

    Raises:
        FileNotFoundError: nothing is.
    """
    folder = paths.figures_folder(experiment, "shipped")
    table = pd.read_parquet(paths.committed(folder / TABLE))
    manifest = json.loads(paths.committed(folder / RUN).read_text())
    return Results(manifest["profile"], table, manifest, shipped=True)


def scores(reward: Reward, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
    """The reward of each text, one a prompt."""
    prompts, values = list(prompts), []
    rows = [[text] for text in texts]
    for start in tqdm(range(0, len(rows), PAIRS_AT_ONCE), desc="scoring", leave=False):
        part = slice(start, start + PAIRS_AT_ONCE)
        values += score(reward, prompts[part], rows[part])[:, 0].tolist()
    return values


def headline(table: pd.DataFrame, unit: str, label: Callable[[Any], str]) -> list[dict]:
    """The rows of a figure's table as headline numbers; `label` names one."""
    return [
        provenance.number(
            " ".join(label(row).split()), row.mean, row.low, row.high, unit, row.count, seeds=1
        )
        for row in table.itertuples(index=False, name="Row")
    ]


def saved(
    experiment: str,
    stem: str,
    found: Results,
    figure: Figure,
    table: pd.DataFrame,
    headline: Iterable[dict],
) -> Figure:
    """The figure, written beside its table unless the results were only read."""
    if not found.shipped:
        made_by = {name: found.manifest[name] for name in ("run", "config", "packages")}
        provenance.write(experiment, stem, found.profile, figure, table, headline, **made_by)
    return figure
