"""What is kept of an experiment: measurements, tables, and figures with where they come from.

    runs/<kind>/<identity>/                 a measurement, made once
    figures/<profile>/<experiment>/         results_<table>.parquet; <figure>.svg .png .csv .json

`paths` says which of it is committed.
"""

from __future__ import annotations

import json
import math
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from matplotlib.figure import Figure

from bondlab import paths
from bondlab.report import plots
from bondlab.report.intervals import Interval
from bondlab.report.plots import Panel
from bondlab.results import RunFolder, write_table

Profile = Literal["shipped", "smoke", "laptop", "study", "paper"]
Tables = dict[str, pd.DataFrame]


def once(
    kind: str, identity: Mapping[str, Any], measure: Callable[[], pd.DataFrame]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A measurement's table and manifest: read where it was made before, else made now.

    Args:
        kind: folder of such measurements, below that of the runs.
        identity: everything that determines the table.
    """
    run = RunFolder.of(paths.runs_folder() / kind, identity)
    path = run.path / "table.parquet"
    with run.lock():
        if not run.finished:
            started = time.perf_counter()
            run.mark("running", 0.0)
            write_table(path, measure())
            run.mark("finished", time.perf_counter() - started)
    return pd.read_parquet(path), run.manifest


def runs_table(manifest: Mapping[str, Any], **labels: Any) -> pd.DataFrame:
    """A row of the table `runs`: a measurement's labels, run and manifest."""
    return pd.DataFrame([{**labels, "run": manifest["run"], "manifest": json.dumps(manifest)}])


@dataclass(frozen=True)
class Results:
    """The tables of an experiment at a profile, `found["evaluations"]`, and its figures.

    Args:
        experiment: its name, a folder's.
        profile: what was asked for; "shipped" reads what is committed.
        variant: results of another task or policy than the experiment's own; a folder's name.
        tables: by name. "runs" has a row per run or measurement, with its manifest and labels;
            every table may have the column profile, of those rows' settings.
    """

    experiment: str
    profile: Profile
    variant: str = ""
    tables: Tables = field(default_factory=dict)

    def __getitem__(self, name: str) -> pd.DataFrame:
        return self.tables[name]

    @property
    def folder(self) -> Path:
        """Where the tables are; figures lie in its experiment's folder."""
        if self.profile == "shipped":
            return paths.committed_folder(self.experiment) / self.variant
        return paths.figures_folder(self.experiment, self.profile) / self.variant

    def load(self, names: Iterable[str], compute: Callable[[], Tables]) -> Results:
        """These results with further tables: computed and kept, or those that are shipped.

        Some of an experiment's series never take the place of more of them.

        Raises:
            FileNotFoundError: "shipped" was asked for and they are not there.
        """
        files = {name: self.folder / f"results_{name}.parquet" for name in names}
        if self.profile == "shipped":
            if lacking := [name for name, path in files.items() if not path.exists()]:
                raise FileNotFoundError(
                    f"{self.folder} holds no {lacking[0]}: run the notebook at profile laptop, "
                    "which computes it"
                )
            found = {name: pd.read_parquet(path) for name, path in files.items()}
            return replace(self, tables=self.tables | found)
        found = compute()
        if all(_covers(found[name], path) for name, path in files.items()):
            for name, path in files.items():
                write_table(path, found[name])
        else:
            told = f"{self.folder} keeps its tables: these lack some of their series"
            warnings.warn(told, stacklevel=2)
        return replace(self, tables=self.tables | found)

    def where(self, **columns: Iterable[Any]) -> Results:
        """The rows whose columns have one of the given values, in the values' order."""
        return replace(self, tables={k: _chosen(v, columns) for k, v in self.tables.items()})

    @property
    def manifests(self) -> list[dict[str, Any]]:
        """A line per run, with the labels that it has and its manifest."""
        rows = self.tables["runs"].to_dict("records") if "runs" in self.tables else []
        return [
            {name: value for name, value in row.items() if not pd.isna(value)}
            | {"manifest": json.loads(row["manifest"])}
            for row in rows
        ]

    def publish(
        self,
        stem: str,
        figure: Figure,
        table: pd.DataFrame,
        panels: Sequence[Panel],
        paper: str | None = None,
        numbers: Mapping[str, tuple[Interval, str]] | None = None,
        **made_by: Any,
    ) -> None:
        """Show a figure in the notebook, and write its files.

        Args:
            stem: name of the files.
            table: the plotted numbers.
            paper: the paper's figure that it corresponds to.
            numbers: what the study's closing table says of it, intervals with their unit by name;
                by default where each series ends.
            made_by: what else the provenance holds beside the runs: settings, notes, and
                `trained_here=True` where the numbers are what training changed in this notebook.
        """
        seeds = [t["seed"].nunique() for t in self.tables.values() if "seed" in t]
        found = _ends(table, panels) if numbers is None else numbers
        provenance = {
            "experiment": self.experiment,
            "paper_figure": paper,
            "profile": self.profile,
            "headline": [
                _number(what, *each, max(seeds, default=1))
                for what, each in found.items()
                if math.isfinite(each[0].mean)
            ],
            "runs": self.manifests,
            **made_by,
        }
        name = f"{stem}_{self.variant}" if self.variant else stem
        folder = paths.figures_folder(self.experiment, self.profile)
        _, png, *_ = plots.save(figure, folder, name, table, provenance)
        plots.show(png, _described(figure))


def of_same_profiles(table: pd.DataFrame, shown: pd.DataFrame) -> pd.DataFrame:
    """The rows of a table that have a profile of another's, whose prompts they share."""
    return table[table["profile"].isin(shown["profile"].unique())]


def _chosen(table: pd.DataFrame, columns: Mapping[str, Iterable[Any]]) -> pd.DataFrame:
    for name, values in columns.items():
        if name in table:
            order = {value: place for place, value in enumerate(values)}
            table = table[table[name].isin(order)]
            table = table.sort_values(name, key=lambda s, o=order: s.map(o), kind="stable")
    return table


def _covers(table: pd.DataFrame, path: Path) -> bool:
    """Whether the table holds every series of the one that it would replace, if there is one."""
    if "series" not in table or not path.exists():
        return True
    return set(pd.read_parquet(path, columns=["series"])["series"]) <= set(table["series"])


def _ends(table: pd.DataFrame, panels: Sequence[Panel]) -> dict[str, tuple[Interval, str]]:
    """Where each series of each panel ends, among what has an interval, with the panel's unit."""
    found = {}
    keys = [key for key in ("row", "group", "series") if key in table]
    for panel in panels:
        own = table[(table["panel"] == panel.name) & table["low"].notna()]
        for place, part in own.groupby(keys, sort=False):
            end = part.iloc[-1]
            ends = (float(end[name]) for name in ("mean", "low", "high"))
            what = f"{', '.join(' '.join(part.split()) for part in place if part)}: {panel.title}"
            found[what] = Interval(*ends, math.nan, int(end.get("count", 0))), panel.ylabel
    return found


def _number(what: str, found: Interval, unit: str, seeds: int) -> dict[str, Any]:
    """A headline number. An end that is not finite is None: strict JSON has no Infinity or NaN."""
    low, high = (end if math.isfinite(end) else None for end in (found.low, found.high))
    value = {"what": what, "value": float(found.mean), "low": low, "high": high, "unit": unit}
    return {**value, "samples": int(found.count), "seeds": seeds}


def _described(figure: Figure) -> str:
    """A figure in words: its title, panels and x axis; what nbval compares in its place."""
    title = figure.get_suptitle() or next((x.get_title().get_text() for x in figure.legends), "")
    panels = ", ".join(dict.fromkeys(axes.get_title() for axes in figure.axes))
    below = {axes.get_xlabel() for axes in figure.axes} - {""}
    x = below.pop() if len(below) == 1 else ""  # of all panels, or of none
    against = f" against {x}" if x else ""
    words = f"{title + ': ' if title else ''}{panels}{against}"
    return " ".join(re.sub(r"[${}]|\\(?=[a-z])", "", words.replace(r"\pi", "π")).split())
