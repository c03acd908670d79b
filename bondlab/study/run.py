"""The whole study in stages: fetch, then each experiment's runs and its notebook, then a summary.

Every stage keeps what it finished, so a study that was stopped or failed goes on where it was, and
one that is complete has nothing left to do.
"""

from __future__ import annotations

import ast
import hashlib
import json
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from tqdm import tqdm

from bondlab import _CHAPTERS, _HOMES
from bondlab.paths import figures_folder, repository_root, runs_folder
from bondlab.report import notebook as notebooks

PACKAGE = Path(__file__).parents[1]
TABLES = (".parquet", ".jsonl")


@dataclass(frozen=True)
class Stage:
    """One line of the study: what it says and what it does."""

    title: str
    work: Callable[[], None]


def study(profile: str, only: Sequence[str] = (), workers: int | None = None) -> int:
    """Run the study at one profile; returns the exit code, 1 if a stage failed.

    Args:
        profile: smoke, laptop, study or paper.
        only: experiments by name or by the first letters of their notebook ("02"); empty is all.
        workers: runs at once; None leaves it to the sweep.
    Raises:
        ParameterError: `only` names no experiment, or a notebook does not take the profile.
    """
    from bondlab.study import experiments

    started = time.monotonic()
    chosen = select(experiments.EXPERIMENTS, only)
    for experiment in chosen.values():
        notebooks.check(source(experiment), {"profile": profile})
    # The smoke profile makes its models by code, the paper profile takes its own from the hub.
    stages = [Stage("models and data", _fetch)] if profile in ("laptop", "study") else []
    stages += [
        Stage(experiment.title, _experiment(name, experiment, profile, workers))
        for name, experiment in chosen.items()
    ]
    failed = run_stages(stages)
    print(summary(chosen, profile))
    print(_resources(time.monotonic() - started))
    if failed:
        print(f"Failed: {'; '.join(failed)}. Run the same command again to go on.", file=sys.stderr)
    return 1 if failed else 0


def select(experiments: dict[str, Any], only: Sequence[str]) -> dict[str, Any]:
    """The experiments that `only` names, in the study's order."""
    for word in only:
        if not any(_named(name, e, word) for name, e in experiments.items()):
            known = ", ".join(f"{e.notebook} ({name})" for name, e in experiments.items())
            raise notebooks.ParameterError(f"no experiment is called {word!r}; there are {known}")
    return {
        name: e
        for name, e in experiments.items()
        if not only or any(_named(name, e, word) for word in only)
    }


def _named(name: str, experiment: Any, word: str) -> bool:
    return word == name or experiment.notebook.startswith(word)


def run_stages(stages: Sequence[Stage]) -> list[str]:
    """Do each stage, with a line and a bar for the whole; returns the titles of those that failed.

    A stage that fails does not stop the ones after it: hours may depend on a single notebook.
    """
    failed = []
    # disable=None: no bar where there is no terminal to redraw it; the lines say as much.
    with tqdm(total=len(stages), desc="study", unit="stage", disable=None) as bar:
        for number, stage in enumerate(stages, 1):
            left = ", ".join(s.title for s in stages[number:]) or "nothing"
            bar.write(f"stage {number} of {len(stages)}: {stage.title} (left: {left})")
            try:
                stage.work()
            except Exception as error:  # reported here, and in the exit code
                failed.append(stage.title)
                _report(error)
            bar.update()
    return failed


def _report(error: Exception) -> None:
    """One line for a failing cell, which papermill names; the traceback of anything else."""
    from papermill.exceptions import PapermillExecutionError

    if isinstance(error, PapermillExecutionError):
        print(f"In [{error.exec_count}]: {error.ename}: {error.evalue}", file=sys.stderr)
    else:
        traceback.print_exception(error)


def _fetch() -> None:
    from bondlab import assets

    assets.fetch()


def _experiment(
    name: str, experiment: Any, profile: str, workers: int | None
) -> Callable[[], None]:
    def work() -> None:
        from bondlab.study import experiments

        runs = [folder.path for folder in experiments.run(name, profile, workers)]
        execute(source(experiment), name, profile, runs)

    return work


def source(experiment: Any) -> Path:
    """The committed notebook of an experiment."""
    return repository_root() / "notebooks" / f"{experiment.notebook}.ipynb"


def execute(notebook: Path, experiment: str, profile: str, runs: Sequence[Path]) -> Path:
    """Execute a notebook into the runs folder, unless nothing that it depends on has changed.

    `runs` are the folders whose results it reads. Returns the executed notebook. Its manifest,
    written last, holds the digest of what the notebook was made from and the figures it wrote; if
    both still hold, the notebook is not executed. Raises PapermillExecutionError where a cell
    fails; the executed notebook shows it.
    """
    import papermill

    output = runs_folder() / "notebooks" / profile / notebook.name
    manifest = output.with_suffix(".json")
    inputs = digest(inputs_of(notebook, runs), profile, str(figures_folder(experiment, profile)))
    if output.exists() and _holds(manifest, inputs):
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
    figures = [str(path) for path in _figures(experiment, profile)]
    manifest.write_text(json.dumps({"inputs": inputs, "figures": figures}, indent=2) + "\n")
    return output


def inputs_of(notebook: Path, runs: Sequence[Path]) -> list[Path]:
    """What an executed notebook depends on: itself, the modules it uses, all weights, the runs."""
    tables = [path for run in runs for path in run.iterdir() if path.suffix in TABLES]
    weights = [path for path in PACKAGE.glob("weights/**/*") if path.is_file()]
    return [notebook, *sorted([*modules_of(notebook), *weights]), *sorted(tables)]


def modules_of(notebook: Path) -> set[Path]:
    """The package's modules that a notebook imports, and those that these import, and so on."""
    cells = nbformat.read(notebook, as_version=4).cells
    found, left = set(), [cell.source for cell in cells if cell.cell_type == "code"]
    while left:
        new = _imported(left.pop()) - found
        found |= new
        left += [path.read_text() for path in new]
    return found


def _imported(code: str) -> set[Path]:
    """The package's modules that a piece of code imports, anywhere; all where it does not say.

    That is where the code is no Python (a magic), and where it imports the package alone, whose
    names are looked up when they are used.
    """
    modules = {_dotted(path): path for path in PACKAGE.rglob("*.py")}
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except SyntaxError:
        return set(modules.values())
    names = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    for node in (node for node in nodes if isinstance(node, ast.ImportFrom)):
        names |= {f"{node.module}.{a.name}" for a in node.names}
    if names & {"bondlab", "bondlab.*"}:
        return set(modules.values())
    homes = {f"bondlab.{name}": f"bondlab.{home}" for name, home in (_HOMES | _CHAPTERS).items()}
    words = [homes.get(name, name).split(".") for name in names]
    prefixes = {".".join(each[: i + 1]) for each in words for i in range(len(each))}
    return {path for name, path in modules.items() if name in prefixes}


def _dotted(path: Path) -> str:
    parts = ["bondlab", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def digest(files: Iterable[Path], *words: str) -> str:
    """SHA-256 over words, file names and file contents, in order."""
    total = hashlib.sha256("\0".join(words).encode())
    for path in files:
        total.update(f"\0{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return total.hexdigest()


def _holds(manifest: Path, inputs: str) -> bool:
    try:
        record = json.loads(manifest.read_text())
    except (FileNotFoundError, ValueError):
        return False
    return record["inputs"] == inputs and all(Path(path).exists() for path in record["figures"])


def _figures(experiment: str, profile: str) -> dict[Path, dict[str, Any]]:
    """The provenance of an experiment's figures at one profile, by file.

    Beside them lie records of tables and, in figures/study, figures of a smaller profile.
    """
    files = sorted(figures_folder(experiment, profile).glob("*.json"))
    found = {path: json.loads(path.read_text()) for path in files}
    return {p: r for p, r in found.items() if "paper_figure" in r and r["profile"] == profile}


def headlines(experiments: Iterable[str], profile: str) -> pd.DataFrame:
    """One row a headline number of the figures that exist: its interval and what it rests on."""
    rows = []
    records = {path: r for name in experiments for path, r in _figures(name, profile).items()}
    for path, record in records.items():
        for number in record.get("headline") or [{}]:
            rows.append(
                {
                    "figure": _label(record["paper_figure"]),
                    "file": _short(path.with_suffix(".png")),
                    "what": number.get("what", "-"),
                    "value [95 %]": _interval(number),
                    "samples": number.get("samples", "-"),
                    "seeds": number.get("seeds", "-"),
                }
            )
    return pd.DataFrame(rows)


def _interval(number: dict[str, Any]) -> str:
    if "value" not in number:
        return "-"
    bounds = ""
    if number.get("low") is not None and number.get("high") is not None:
        bounds = f" [{number['low']:.3g}, {number['high']:.3g}]"
    return f"{number['value']:.3g}{bounds} {number.get('unit') or ''}".strip()


def _label(paper_figure: str | None) -> str:
    return f"Figure {paper_figure} of the paper" if paper_figure else "A figure of ours"


def _short(path: Path) -> str:
    root = repository_root()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def summary(experiments: Iterable[str], profile: str) -> str:
    """The closing table: which figure of the paper, which file, which numbers."""
    table = headlines(experiments, profile)
    if table.empty:
        return f"No figure of profile {profile} yet."
    # One line a file, its numbers below it: the path would otherwise fill every row.
    lines = []
    for (figure, file), rows in table.groupby(["figure", "file"], sort=False):
        numbers = rows.drop(columns=["figure", "file"]).to_string(index=False)
        lines += [f"{figure}: {file}", "    " + numbers.replace("\n", "\n    ")]
    return "\n".join(lines)


def _resources(seconds: float) -> str:
    """Wall time, and the memory of the largest process among this one and its children."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    gigabytes = peak / (1e9 if sys.platform == "darwin" else 1e9 / 1024)  # bytes there, KiB here
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s, {gigabytes:.1f} GB in the largest process"
