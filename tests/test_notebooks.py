"""Every notebook runs at profile smoke, and refuses wrong parameters before it does any work.
What it leaves, git ignores.

The notebooks are found, not listed: a new one is tested as soon as it lies in notebooks/. That the
committed ones still print what they show is nbval's part (`make test` runs both).
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config

from bondlab.paths import repository_root
from bondlab.report.notebook import ParameterError, declared
from bondlab.study.experiments import EXPERIMENTS

ROOT = repository_root()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Figures of the study's next runs, which are not shipped yet.
AWAITED = {
    "j_bond/best_at_n",
    "other_baselines/best_at_n",
    "other_baselines/factors",
    "other_baselines/factors_tradeoff",
}
RUN = "runs/*/*/config.json"
UNCLEAN = ("ls-files", "--modified", "--others", "--exclude-standard")
with_git = pytest.mark.skipif(
    not (ROOT / ".git").exists() or not shutil.which("git"),
    reason="a copy without git has no clone to keep clean",
)
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def run(notebook: Path, folder: Path, **parameters: object) -> None:
    """Run a notebook's cells as papermill would, with figures and runs below `folder`.

    In this process, where all that they import is loaded: a kernel takes longer to start than most
    of them to run. That they run in one is seen by nbval, at profile `shipped`, and by a study.
    The run that a reader is to change ("Now yours") has two steps.
    """
    made = parameterize_notebook(load_notebook_node(str(notebook)), parameters)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BONDLAB_FIGURES", str(folder / "figures"))
        environment.setenv("BONDLAB_RUNS", str(folder / "runs"))
        environment.setenv("IPYTHONDIR", str(folder.parent / "ipython"))
        environment.chdir(notebook.parent)
        shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
        try:
            for cell in made.cells:
                if cell.cell_type == "code":
                    source = re.sub(r"(?m)^steps = \d+$", "steps = 2", cell.source)
                    shell.run_cell(source, store_history=True).raise_error()
        finally:
            shell.reset(new_session=False)
            shell.restore_sys_module_state()
            atexit.unregister(shell.atexit_operations)
            InteractiveShell.clear_instance()


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The folder of all smoke runs: each finds what those before it left, as in a study."""
    return tmp_path_factory.mktemp("study")


@dataclass(frozen=True)
class Smoke:
    """A notebook's smoke run: its name, and the folders of the runs that it left."""

    name: str
    runs: list[Path]


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def smoke(request, study) -> Smoke:
    """One smoke run, as the study executes it."""
    (trains,) = (e.trains for e in EXPERIMENTS.values() if e.notebook == request.param.stem)
    # One worker: to start another takes longer than the tiny runs, and what it computes is the same
    # (test_sweep.py).
    wanted, fields = {"live": True, "workers": 1}, declared(request.param).model_fields
    given = {name: value for name, value in wanted.items() if name in fields}
    before, there = sorted(request.param.parent.iterdir()), set(study.glob(RUN))  # where it works
    run(request.param, study, profile="smoke", **given, **(trains or {}))
    assert sorted(request.param.parent.iterdir()) == before
    return Smoke(request.param.stem, [path.parent for path in set(study.glob(RUN)) - there])


def git(folder: Path, *words: str) -> list[str]:
    """The lines that a git command prints."""
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def records(folder: Path, notebook: str) -> dict[str, dict]:
    """Stem of a figure's files, below `folder` -> its provenance, for a notebook's experiments."""
    names = [name for name, experiment in EXPERIMENTS.items() if experiment.notebook == notebook]
    files = [path for name in names for path in sorted((folder / name).glob("*.json"))]
    found = {path.with_suffix(""): json.loads(path.read_text()) for path in files}
    return {str(p.relative_to(folder)): r for p, r in found.items() if "paper_figure" in r}


def test_a_run_draws_the_figures_that_are_shipped(smoke, study):
    """All of them, for the same figure of the paper, each in four files, and no other, but for that
    of a run which is trained on the spot, and those whose table no study has left yet. Every end of
    a headline number's interval that is finite holds it; effective N's may be infinite."""
    folder = study / "figures" / "smoke"
    drawn, shipped = records(folder, smoke.name), records(ROOT / "figures" / "study", smoke.name)
    assert {stem: record["paper_figure"] for stem, record in shipped.items()} == {
        stem: record["paper_figure"]
        for stem, record in drawn.items()
        if not stem.endswith("/trained_here") and (stem in shipped or stem not in AWAITED)
    }  # fmt: skip
    told = [e.trains is not None for e in EXPERIMENTS.values() if e.notebook == smoke.name]
    assert [any(record.get("trained_here") for record in drawn.values())] == told
    for stem, record in drawn.items():
        assert all((folder / f"{stem}{end}").stat().st_size for end in (".svg", ".png"))
        assert len(pd.read_csv(folder / f"{stem}.csv")) > 0
        for number in record["headline"]:
            assert number["what"] and number["unit"] is not None
            low, value, high = (number.get(key) for key in ("low", "value", "high"))
            # 1e-9: an interval may have no width.
            assert low is None or low - 1e-9 <= value
            assert high is None or value <= high + 1e-9


def test_every_run_is_finished_and_its_tables_read(smoke, study):
    """Training leaves a record and evaluations, a measurement its table, exact numbers no run."""
    own = [e for e in EXPERIMENTS.values() if e.notebook == smoke.name]
    assert any(study.glob(RUN)) or not any(e.specs("smoke") for e in own)
    for folder in smoke.runs:
        assert json.loads((folder / "manifest.json").read_text())["status"] == "finished"
        if (folder / "table.parquet").exists():
            assert len(pd.read_parquet(folder / "table.parquet")) > 0
        else:
            evaluation = pd.read_parquet(folder / "evaluation.parquet")
            record = pd.read_json(folder / "record.jsonl", lines=True)
            assert evaluation["step"].max() == record["step"].max()


@with_git
@pytest.mark.usefixtures("smoke")
def test_git_ignores_what_a_run_leaves(study):
    """The runs' folder as a repository with our .gitignore: nothing new, so nothing in
    figures/study, which is committed."""
    shutil.copy(ROOT / ".gitignore", study)
    git(study, "init", "--quiet")
    git(study, "add", ".gitignore")
    assert git(study, *UNCLEAN) == []


@with_git
def test_a_study_leaves_the_clone_clean(tmp_path):
    """The working tree as it would be committed, in a repository with default folders: the command
    draws a notebook's figures anew, with the numbers that came with the clone; git finds nothing
    changed and nothing new, but would find a new figure of the study."""
    clone = tmp_path / "clone"
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard"):
        if (file := ROOT / name).is_file():  # a deletion may not be staged yet
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, clone / name)
    git(clone, "init", "--quiet")
    git(clone, "-c", "core.compression=0", "add", "--all")
    moved = ("BONDLAB_FIGURES", "BONDLAB_RUNS")
    own = {name: value for name, value in os.environ.items() if name not in moved}
    command = [sys.executable, "-m", "bondlab", "study", "--only", "05"]
    environment = own | {"PYTHONPATH": str(clone)}
    subprocess.run(command, cwd=clone, env=environment, check=True, capture_output=True)
    drawn, came = (clone / "figures" / name / "alignment_rewards" for name in ("shipped", "study"))
    assert [p.name for p in drawn.glob("*.csv")] == [p.name for p in came.glob("*.csv")] != []
    for path in came.glob("*.csv"):
        assert (drawn / path.name).read_bytes() == path.read_bytes(), path.name
    (there,) = (clone / "runs" / "notebooks" / "shipped").glob("*.ipynb")
    assert there.stem == "05_chat_and_sentiment_rewards"
    assert git(clone, *UNCLEAN) == []
    figures = [f"figures/{profile}/a.png" for profile in ("shipped", "laptop", "paper", "study")]
    assert git(clone, "check-ignore", *figures) == figures[:3]


@each_notebook
@pytest.mark.usefixtures("runs")
def test_wrong_parameters_stop_it_before_any_work(notebook, tmp_path, monkeypatch):
    """papermill only warns of the first and passes the second on; the cell after refuses both.

    The cells as papermill runs them, its own among them, in this process.
    """
    made = parameterize_notebook(load_notebook_node(str(notebook)), {"profil": "x", "profile": 3})
    code = [cell.source for cell in made.cells if cell.cell_type == "code"]
    code = code[: next(i for i, cell in enumerate(code) if "parameters(globals()" in cell) + 1]
    space = types.ModuleType("cells")  # where pydantic looks up the annotations of a cell's class
    space.In = ["", *code]
    monkeypatch.setitem(sys.modules, "cells", space)
    with pytest.raises(ParameterError, match="`profil` is no parameter") as caught:
        for cell in code:
            exec(cell, vars(space))
    assert "`profile` is 3" in str(caught.value)
    assert not list(tmp_path.iterdir())


@each_notebook
def test_the_committed_notebook_shows_the_shipped_results(notebook):
    """So that it opens, and passes nbval, without computing anything. Each parameter is explained
    on its line, whence papermill reads its help, and nothing printed names a folder of ours."""
    assert declared(notebook).model_fields["profile"].default == "shipped"
    parameters = papermill.inspect_notebook(str(notebook)).values()
    assert [line["name"] for line in parameters if not line["help"]] == []
    cells = nbformat.read(notebook, as_version=4).cells
    printed = [out.get("text", "") for cell in cells for out in cell.get("outputs", [])]
    assert [text for text in printed if re.search(r"\B/(home|root|tmp|Users)/", text)] == []


@each_notebook
def test_links_lead_to_files_and_claims_to_a_box(notebook):
    """A notebook that decides claims says what came out before its first figure."""
    cells = nbformat.read(notebook, as_version=4).cells
    told = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", told) if "://" not in link]
    assert [link for link in links if not (notebook.parent / link).exists()] == []
    if any(e.claims for e in EXPERIMENTS.values() if e.notebook == notebook.stem):
        box = f'outcome.box("{notebook.stem.partition("_")[0]}"'
        assert any(box in cell.source for cell in cells[:6])


@each_notebook
def test_it_is_small_enough_to_be_read_on_the_web(notebook):
    assert notebook.stat().st_size < 1e6
    assert not re.search(r"\d+/\d+ \[[\d:]+<", notebook.read_text()), "a bar that stands still"
