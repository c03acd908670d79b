"""The whole study in stages: fetch, then each experiment's runs and its notebook, then a summary.

At "shipped" notebooks draw every figure from the tables that came with the clone, and two of them
train; at other profiles all runs are computed. Every stage keeps what it finished, so a study that
was stopped or failed goes on where it was, and one that is complete has nothing left to do.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import papermill
from tqdm import tqdm

from bondlab import assets, results
from bondlab.assets.catalogue import STUDY
from bondlab.paths import committed_folder, figures_folder, repository_root, runs_folder
from bondlab.report.notebook import ParameterError, check
from bondlab.study.experiments import EXPERIMENTS
from bondlab.study.stages import Stage, run_stages

PACKAGE = Path(__file__).parents[1]
TABLES = (".parquet", ".jsonl", "claims.csv")
FETCH = "models and data"
# What a first time took at "shipped", by experiment, on two cores of an Intel Xeon (family 6, model
# 207). The whole takes four times as long at "laptop" (58 minutes), by the times of its runs some
# sixty at "study"; at "paper" nothing is known.
SECONDS = {FETCH: 35.0, "xsum_divergences": 355.0, "xsum_quantiles": 35.0, "own_model": 300.0}
OTHERS, LONGER = 20.0, {"laptop": 4.0, "study": 60.0}


def study(profile: str, only: Sequence[str] = (), workers: int | None = None) -> int:
    """Run the study at one profile; returns the exit code, 1 if a stage failed.

    Args:
        profile: shipped, smoke, laptop, study or paper.
        only: experiments by name, by their notebook's number ("02") or its first letters; empty
            is all.
        workers: runs at once; None leaves it to the sweep.
    Raises:
        ParameterError: `only` names no experiment, or a notebook does not take its parameters.
    """
    started = time.monotonic()
    chosen = select(EXPERIMENTS, only)
    notebooks = {}
    for name, experiment in chosen.items():
        source = repository_root() / "notebooks" / f"{experiment.notebook}.ipynb"
        parameters = {"profile": profile, **(experiment.trains or {})}
        check(source, parameters)
        notebooks[name] = Notebook(name, source, parameters)

    def compute(name: str) -> None:
        found = [] if profile == "shipped" else chosen[name].run(profile, workers)
        notebooks[name].execute([run.path for run in found])

    stages = [Stage(FETCH, assets.fetch, SECONDS[FETCH])] if _lacks_assets(chosen, profile) else []
    for name, notebook in notebooks.items():
        done = profile == "shipped" and notebook.is_done()
        seconds = 0.0 if done else SECONDS.get(name, OTHERS) * LONGER.get(profile, 1.0)
        stages.append(Stage(chosen[name].title, partial(compute, name), seconds))
    failed = run_stages(stages, runs_folder() / "notebooks" / profile / "seconds.json")
    print(summary(chosen, profile))
    print(_resources(time.monotonic() - started))
    if failed:
        print(f"Failed: {'; '.join(failed)}. Run the same command again to go on.", file=sys.stderr)
    return 1 if failed else 0


def _lacks_assets(chosen: Mapping[str, Any], profile: str) -> bool:
    """Whether models and data are needed and not there.

    The smoke profile makes its models by code, the paper profile takes its own from the hub.
    """
    trains = any(e.trains is not None for e in chosen.values())
    needed = profile in ("laptop", "study") or (profile == "shipped" and trains)
    return needed and any(assets.state(name) != "ready" for name in STUDY)


def select(experiments: Mapping[str, Any], only: Sequence[str]) -> dict[str, Any]:
    """The experiments that `only` names, in the study's order."""
    chosen: dict[str, Any] = {}
    for word in only or [""]:
        named = {n: e for n, e in experiments.items() if word in (n, e.number)}
        named |= {n: e for n, e in experiments.items() if not named and e.notebook.startswith(word)}
        if not named:
            known = ", ".join(f"{e.notebook} ({name})" for name, e in experiments.items())
            raise ParameterError(f"no experiment is called {word!r}; there are {known}")
        chosen |= named
    return {name: e for name, e in experiments.items() if name in chosen}


@dataclass(frozen=True)
class Notebook:
    """An experiment's notebook with the parameters to execute it with, and where that goes.

    Beside the executed notebook lies its manifest, written last: the digest of what it was made
    from, and the figures that were there. If both still hold, it is not executed again.
    """

    experiment: str
    source: Path
    parameters: Mapping[str, Any]

    @property
    def profile(self) -> str:
        return self.parameters["profile"]

    @property
    def output(self) -> Path:
        """The executed notebook."""
        return runs_folder() / "notebooks" / self.profile / self.source.name

    def is_done(self, runs: Sequence[Path] = ()) -> bool:
        """Whether it was executed and nothing that it depends on has changed.

        `runs` are the folders whose results it reads.
        """
        manifest = self.output.with_suffix(".json")
        there = self.output.exists() and manifest.exists()
        return there and manifest.read_text() == self._state(runs)

    def execute(self, runs: Sequence[Path] = ()) -> None:
        """Execute it, unless that is done.

        Raises PapermillExecutionError where a cell fails; the executed notebook shows it.
        """
        if self.is_done(runs):
            return
        manifest = self.output.with_suffix(".json")
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.unlink(missing_ok=True)
        tqdm.write(f"{self.source.name} -> {self.output}")
        papermill.execute_notebook(
            self.source,
            self.output,
            parameters=dict(self.parameters),
            cwd=self.source.parent,
            progress_bar={"desc": self.source.stem, "leave": False, "disable": None},
            extra_arguments=["--log-level=ERROR"],  # the kernel's notes on its sockets
        )
        manifest.write_text(self._state(runs))

    def _state(self, runs: Sequence[Path]) -> str:
        # A shipped notebook may read any experiment's tables, and the ledger of them all.
        shown = "" if self.profile == "shipped" else self.experiment
        inputs = digest(self.source, [committed_folder(shown), *runs])
        figures = [str(path) for path in _figures(self.experiment, self.profile)]
        return json.dumps({"inputs": inputs, "figures": figures}, indent=2) + "\n"


def digest(notebook: Path, folders: Iterable[Path]) -> str:
    """Names what an executed notebook depends on: itself, the package, and tables."""
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files += [path for each in folders for path in each.rglob("*") if path.name.endswith(TABLES)]
    files = [notebook, *files]
    return results.digest({str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files})


def _figures(experiment: str, profile: str) -> dict[Path, dict[str, Any]]:
    """The provenance of an experiment's figures at one profile, by file.

    Beside them lie records of tables and, in figures/study, figures of a smaller profile.
    """
    files = sorted(figures_folder(experiment, profile).glob("*.json"))
    found = {path: json.loads(path.read_text()) for path in files}
    return {p: r for p, r in found.items() if "paper_figure" in r and r["profile"] == profile}


def summary(experiments: Iterable[str], profile: str) -> str:
    """The closing table: which figure of the paper, which file, which numbers on what they rest.

    Last what training changed in notebooks that trained, and whether "no change" is excluded.
    """
    lines, effects, root = [], [], repository_root()
    records = {path: r for name in experiments for path, r in _figures(name, profile).items()}
    for path, record in records.items():
        number, file = record["paper_figure"], path.with_suffix(".png")
        label = f"Figure {number} of the paper" if number else "A figure of ours"
        lines.append(f"{label}: {file.relative_to(root) if file.is_relative_to(root) else file}")
        rows = [_row(number) for number in record["headline"]]
        lines += _table(rows, without=["no change"])
        effects += rows if record.get("trained_here") else []
    if effects:
        lines += ["Trained here, after minus before:", *_table(effects)]
    return "\n".join(lines) or f"No figure of profile {profile} yet."


def _table(rows: Sequence[Mapping], without: Sequence[str] = ()) -> list[str]:
    text = pd.DataFrame(rows).drop(columns=without, errors="ignore").to_string(index=False)
    return [textwrap.indent(text, "    ")] if rows else []


def _row(number: Mapping[str, Any]) -> dict[str, Any]:
    low, high = number["low"], number["high"]
    known = low is not None and high is not None
    bounds = f" [{low:.3g}, {high:.3g}]" if known else ""
    return {
        "what": number["what"],
        "value [95 %]": f"{number['value']:.3g}{bounds} {number['unit']}".strip(),
        "samples": number["samples"],
        "seeds": number["seeds"],
        "no change": "excluded" if known and (low > 0 or high < 0) else "not excluded",
    }


def _resources(seconds: float) -> str:
    """Wall time, and the memory of the largest process among this one and its children."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    gigabytes = peak / (1e9 if sys.platform == "darwin" else 1e9 / 1024)  # bytes there, KiB here
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s, {gigabytes:.1f} GB in the largest process"
