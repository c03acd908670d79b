"""Every notebook runs from nothing at profile smoke, and refuses wrong parameters before it works.
What it leaves, git ignores.

The notebooks are found, not listed: a new one is tested as soon as it lies in notebooks/. That the
committed ones still print what they show is nbval's part (`make test` runs both).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import get_args

import pandas as pd
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from bondlab.paths import figures_folder, repository_root
from bondlab.report.notebook import ParameterError, declared
from bondlab.study.experiments import EXPERIMENTS, Profile

NOTEBOOKS = sorted((repository_root() / "notebooks").glob("*.ipynb"))
UNCLEAN = ("ls-files", "--modified", "--others", "--exclude-standard")
with_git = pytest.mark.skipif(
    not (repository_root() / ".git").exists() or not shutil.which("git"),
    reason="a copy without git has no clone to keep clean",
)
each_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def run(notebook: Path, folder: Path, **parameters: object) -> None:
    """Run a notebook as a batch user does, with figures and runs below `folder`."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BONDLAB_FIGURES", str(folder / "figures"))
        environment.setenv("BONDLAB_RUNS", str(folder / "runs"))
        papermill.execute_notebook(
            notebook,
            folder / "executed.ipynb",
            parameters=parameters,
            cwd=notebook.parent,
            progress_bar=False,
            extra_arguments=["--log-level=ERROR"],
        )


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def smoke(request, tmp_path_factory) -> Path:
    """The folder, named after its notebook, that one smoke run left."""
    folder = tmp_path_factory.mktemp(request.param.stem, numbered=False)
    run(request.param, folder, profile="smoke")
    return folder


def git(folder: Path, *words: str) -> list[str]:
    """The lines that a git command prints."""
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def records(smoke: Path) -> list[Path]:
    """The provenance of each figure that a smoke run wrote."""
    files = (smoke / "figures" / "smoke").rglob("*.json")
    return [path for path in files if not path.name.startswith("results_")]


def test_the_promised_figures_come_with_their_numbers_and_provenance(smoke):
    """Four files a figure: picture twice, a table with rows, a record that names the figure."""
    promised = {
        f"{name}/{figure}": paper_figure
        for name, experiment in EXPERIMENTS.items()
        if experiment.notebook == smoke.name
        for figure, paper_figure in experiment.figures.items()
    }
    folder = smoke / "figures" / "smoke"
    written = {str(path.with_suffix("").relative_to(folder)): path for path in records(smoke)}
    assert set(promised) <= set(written)
    for name, path in written.items():
        assert all(path.with_suffix(end).stat().st_size for end in (".svg", ".png"))
        assert len(pd.read_csv(path.with_suffix(".csv"))) > 0
        assert json.loads(path.read_text())["paper_figure"] == promised.get(name)


def test_every_headline_number_lies_in_its_interval(smoke):
    """An end that is not finite, as effective N's may be, is null."""
    for path in records(smoke):
        for number in json.loads(path.read_text())["headline"]:
            assert number["what"] and number["unit"] is not None
            low, value, high = (number.get(key) for key in ("low", "value", "high"))
            # 1e-9: an interval may have no width.
            assert low is None or low - 1e-9 <= value
            assert high is None or value <= high + 1e-9


@with_git
def test_git_ignores_what_a_run_leaves(smoke):
    """The run's folder as a repository with our .gitignore: nothing new, so nothing in
    figures/study, which is committed."""
    shutil.copy(repository_root() / ".gitignore", smoke)
    git(smoke, "init", "--quiet")
    git(smoke, "add", ".gitignore", "executed.ipynb")
    assert git(smoke, *UNCLEAN) == []


@with_git
def test_git_keeps_the_figures_of_the_study_alone(monkeypatch):
    """Of every profile by name, in the default folders; "shipped" reads what "study" writes."""
    monkeypatch.delenv("BONDLAB_FIGURES", raising=False)
    files = {str(figures_folder("j_bond", name) / "a.png"): name for name in get_args(Profile)}
    ignored = git(repository_root(), "check-ignore", *files)
    assert {files[path] for path in ignored} == {"smoke", "laptop", "paper"}


@with_git
def test_a_study_leaves_the_clone_clean(tmp_path):
    """The working tree as it would be committed, in a repository with default folders: after the
    command git finds nothing changed and nothing new."""
    clone = tmp_path / "clone"
    for name in git(repository_root(), "ls-files", "--cached", "--others", "--exclude-standard"):
        if (file := repository_root() / name).is_file():  # a deletion may not be staged yet
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, clone / name)
    git(clone, "init", "--quiet")
    git(clone, "add", "--all")
    moved = ("BONDLAB_FIGURES", "BONDLAB_RUNS")
    own = {name: value for name, value in os.environ.items() if name not in moved}
    subprocess.run(
        [sys.executable, "-m", "bondlab", "study", "--profile", "smoke", "--only", "00"],
        cwd=clone, env=own | {"PYTHONPATH": str(clone)}, check=True, capture_output=True,
    )  # fmt: skip
    assert (clone / "figures" / "smoke" / "exact" / "fig_bestofn_law.svg").exists()
    assert (clone / "runs" / "notebooks" / "smoke" / NOTEBOOKS[0].name).exists()
    assert git(clone, *UNCLEAN) == []


def test_every_run_is_finished_and_its_tables_read(smoke):
    """Training leaves a record, measuring alone does not, exact mathematics leaves no run."""
    for folder in (path.parent for path in (smoke / "runs").glob("*/*/config.json")):
        assert json.loads((folder / "manifest.json").read_text())["status"] == "finished"
        evaluation = pd.read_parquet(folder / "evaluation.parquet")
        assert len(evaluation) > 0
        if (folder / "record.jsonl").exists():
            record = pd.read_json(folder / "record.jsonl", lines=True)
            assert evaluation["step"].max() == record["step"].max()


@each_notebook
def test_wrong_parameters_stop_it_before_any_work(notebook, tmp_path, monkeypatch):
    """papermill only warns of the first and passes the second on; the second cell refuses both.

    The two cells as papermill runs them, its own between them, in this process.
    """
    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("BONDLAB_RUNS", str(tmp_path / "runs"))
    made = parameterize_notebook(load_notebook_node(str(notebook)), {"profil": "x", "profile": 3})
    code = [cell.source for cell in made.cells if cell.cell_type == "code"][:3]
    assert code[1].startswith("# Parameters")
    space = types.ModuleType("cells")  # where pydantic looks up the annotations of a cell's class
    space.In = ["", *code]
    monkeypatch.setitem(sys.modules, "cells", space)
    with pytest.raises(ParameterError, match="did you mean `profile`") as caught:
        for cell in code:
            exec(cell, vars(space))
    assert "`profile` is 3" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_wrong_parameter_stops_a_batch_run(tmp_path):
    """One notebook as a batch user runs it: the error is papermill's last word."""
    with pytest.raises(PapermillExecutionError) as caught:
        run(NOTEBOOKS[0], tmp_path, profil="smoke", profile=3)
    assert caught.value.ename == "ParameterError"
    assert not (tmp_path / "figures").exists() and not (tmp_path / "runs").exists()


@each_notebook
def test_the_committed_notebook_shows_the_shipped_results(notebook):
    """So that it opens, and passes nbval, without computing anything."""
    assert declared(notebook).model_fields["profile"].default == "shipped"


@each_notebook
def test_every_parameter_is_explained(notebook):
    """papermill reads a parameter's help from the comment on its line."""
    unexplained = [
        name for name, line in papermill.inspect_notebook(str(notebook)).items() if not line["help"]
    ]
    assert unexplained == []
