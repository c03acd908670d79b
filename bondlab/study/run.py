"""The whole study in stages: fetch, then each experiment's runs and its notebook, then a summary.

Every stage keeps what it finished, so a study that was stopped or failed goes on where it was, and
one that is complete has nothing left to do.
"""

from __future__ import annotations

import functools
import hashlib
import json
import resource
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import papermill
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from bondlab import assets
from bondlab.paths import figures_folder, repository_root, runs_folder
from bondlab.report.notebook import ParameterError, check

PACKAGE = Path(__file__).parents[1]
TABLES = (".parquet", ".jsonl")


def study(
    profile: str, only: Sequence[str] = (), workers: int | None = None, experiments: Any = None
) -> int:
    """Run the study at one profile; returns the exit code, 1 if a stage failed.

    Args:
        profile: smoke, laptop, study or paper.
        only: experiments by name or by the first letters of their notebook ("02"); empty is all.
        workers: runs at once; None leaves it to the sweep.
        experiments: what has `EXPERIMENTS` and `run`; None is `bondlab.study.experiments`.
    Raises:
        ParameterError: `only` names no experiment, or a notebook does not take the profile.
    """
    if experiments is None:
        from bondlab.study import experiments
    started = time.monotonic()
    chosen = select(experiments.EXPERIMENTS, only)
    folder = repository_root() / "notebooks"
    sources = {name: folder / f"{e.notebook}.ipynb" for name, e in chosen.items()}
    for notebook in sources.values():
        check(notebook, {"profile": profile})

    def compute(name: str) -> None:
        runs = [folder.path for folder in experiments.run(name, profile, workers)]
        execute(sources[name], name, profile, runs)

    # The smoke profile makes its models by code, the paper profile takes its own from the hub.
    stages = {"models and data": assets.fetch} if profile in ("laptop", "study") else {}
    stages |= {e.title: functools.partial(compute, name) for name, e in chosen.items()}
    failed = run_stages(stages)
    print(summary(chosen, profile))
    print(_resources(time.monotonic() - started))
    if failed:
        print(f"Failed: {'; '.join(failed)}. Run the same command again to go on.", file=sys.stderr)
    return 1 if failed else 0


def select(experiments: Mapping[str, Any], only: Sequence[str]) -> dict[str, Any]:
    """The experiments that `only` names, in the study's order."""
    chosen: dict[str, Any] = {}
    for word in only or [""]:
        named = {n: e for n, e in experiments.items() if word == n or e.notebook.startswith(word)}
        if not named:
            known = ", ".join(f"{e.notebook} ({name})" for name, e in experiments.items())
            raise ParameterError(f"no experiment is called {word!r}; there are {known}")
        chosen |= named
    return {name: e for name, e in experiments.items() if name in chosen}


def run_stages(stages: Mapping[str, Callable[[], object]]) -> list[str]:
    """Do each stage, with a line and a bar for the whole; returns the titles of those that failed.

    A stage that fails does not stop the ones after it: hours may depend on a single notebook.
    """
    titles, failed = list(stages), []
    # disable=None: no bar where there is no terminal to redraw it; the lines say as much.
    with tqdm(total=len(titles), desc="study", unit="stage", disable=None) as bar:
        for number, title in enumerate(titles, 1):
            left = ", ".join(titles[number:]) or "nothing"
            bar.write(f"stage {number} of {len(titles)}: {title} (left: {left})")
            try:
                stages[title]()
            except PapermillExecutionError as error:  # a failing cell, which it names
                failed.append(title)
                print(f"In [{error.exec_count}]: {error.ename}: {error.evalue}", file=sys.stderr)
            except Exception:
                failed.append(title)
                traceback.print_exc()
            bar.update()
    return failed


def execute(notebook: Path, experiment: str, profile: str, runs: Sequence[Path]) -> Path:
    """Execute a notebook into the runs folder, unless nothing that it depends on has changed.

    `runs` are the folders whose results it reads. Returns the executed notebook. Its manifest,
    written last, holds the digest of what the notebook was made from and the figures that were
    there; if both still hold, the notebook is not executed. Raises PapermillExecutionError where a
    cell fails; the executed notebook shows it.
    """
    output = runs_folder() / "notebooks" / profile / notebook.name
    manifest = output.with_suffix(".json")
    inputs = digest(notebook, runs)

    def state() -> str:
        figures = [str(path) for path in _figures(experiment, profile)]
        return json.dumps({"inputs": inputs, "figures": figures}, indent=2) + "\n"

    if output.exists() and manifest.exists() and manifest.read_text() == state():
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    manifest.unlink(missing_ok=True)
    tqdm.write(f"{notebook.name} -> {output}")
    papermill.execute_notebook(
        notebook,
        output,
        parameters={"profile": profile},
        cwd=notebook.parent,
        progress_bar={"desc": notebook.stem, "leave": False, "disable": None},
        extra_arguments=["--log-level=ERROR"],  # the kernel's notes on its sockets
    )
    manifest.write_text(state())
    return output


def digest(notebook: Path, runs: Iterable[Path]) -> str:
    """SHA-256 over what an executed notebook depends on: itself, the package, its runs' tables."""
    files = [path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    files += [path for run in runs for path in run.iterdir() if path.suffix in TABLES]
    total = hashlib.sha256()
    for path in [notebook, *sorted(files)]:
        total.update(f"{path}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\0".encode())
    return total.hexdigest()


def _figures(experiment: str, profile: str) -> dict[Path, dict[str, Any]]:
    """The provenance of an experiment's figures at one profile, by file.

    Beside them lie records of tables and, in figures/study, figures of a smaller profile.
    """
    files = sorted(figures_folder(experiment, profile).glob("*.json"))
    found = {path: json.loads(path.read_text()) for path in files}
    return {p: r for p, r in found.items() if "paper_figure" in r and r["profile"] == profile}


def summary(experiments: Iterable[str], profile: str) -> str:
    """The closing table: which figure of the paper, which file, which numbers on what they rest."""
    lines, root = [], repository_root()
    records = {path: r for name in experiments for path, r in _figures(name, profile).items()}
    for path, record in records.items():
        number, file = record["paper_figure"], path.with_suffix(".png")
        label = f"Figure {number} of the paper" if number else "A figure of ours"
        lines.append(f"{label}: {file.relative_to(root) if file.is_relative_to(root) else file}")
        rows = [(n["what"], _interval(n), n["samples"], n["seeds"]) for n in record["headline"]]
        table = pd.DataFrame(rows, columns=["what", "value [95 %]", "samples", "seeds"])
        if rows:
            lines.append(textwrap.indent(table.to_string(index=False), "    "))
    return "\n".join(lines) or f"No figure of profile {profile} yet."


def _interval(number: dict[str, Any]) -> str:
    low, high = number.get("low"), number.get("high")
    bounds = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
    return f"{number['value']:.3g}{bounds} {number['unit']}".strip()


def _resources(seconds: float) -> str:
    """Wall time, and the memory of the largest process among this one and its children."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    gigabytes = peak / (1e9 if sys.platform == "darwin" else 1e9 / 1024)  # bytes there, KiB here
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s, {gigabytes:.1f} GB in the largest process"
