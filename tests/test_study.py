"""The study does its stages in order, keeps what is finished, and says what failed."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from bondlab import paths
from bondlab.study import run as study
from bondlab.study.notebook import ParameterError

PARAMETERS = 'profile: str = "shipped"\n'
DRAW = """\
import json, os, pathlib
folder = pathlib.Path(os.environ["BONDLAB_FIGURES"]) / profile / "{name}"
folder.mkdir(parents=True, exist_ok=True)
number = dict(what="gain", value=1.23456, low=1, high=1.5, unit="nats", samples=48, seeds=2)
record = dict(paper_figure="{name}", profile=profile, headline=[number])
(folder / "fig.json").write_text(json.dumps(record))
"""


@dataclass(frozen=True)
class Experiment:
    notebook: str
    title: str


class Lab:
    """Stand-ins for the experiments, with their notebooks in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: list[tuple] = []
        self.EXPERIMENTS = {
            "two": Experiment("02_two", "the second figure"),
            "four": Experiment("04_four", "the fourth figure"),
        }
        for name, experiment in self.EXPERIMENTS.items():
            self.write(experiment.notebook, DRAW.format(name=name))

    def write(self, stem: str, code: str, cell: str = PARAMETERS) -> None:
        cells = [nbformat.v4.new_code_cell(cell), nbformat.v4.new_code_cell(code)]
        cells[0].metadata["tags"] = ["parameters"]
        book = nbformat.v4.new_notebook(cells=cells)
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "x", "language": "python"}
        nbformat.write(book, self.folder / "notebooks" / f"{stem}.ipynb")

    def run(self, name: str, profile: str, workers: int | None = None) -> list:
        self.ran.append((name, profile, workers))
        folder = paths.runs_folder() / name / "abc"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.jsonl").write_text('{"step": 1}\n')
        return [types.SimpleNamespace(path=folder)]

    def executed(self, profile: str = "smoke") -> dict[str, int]:
        """When each notebook was last executed, in nanoseconds."""
        folder = paths.runs_folder() / "notebooks" / profile
        return {path.stem: path.stat().st_mtime_ns for path in folder.glob("*.ipynb")}


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Lab:
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("BONDLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(study, "repository_root", lambda: tmp_path)
    (tmp_path / "package" / "weights" / "adapter").mkdir(parents=True)
    monkeypatch.setattr(study, "PACKAGE", tmp_path / "package")
    stand_in = Lab(tmp_path)
    module = types.ModuleType("bondlab.study.experiments")
    module.EXPERIMENTS, module.run = stand_in.EXPERIMENTS, stand_in.run
    monkeypatch.setitem(sys.modules, "bondlab.study.experiments", module)
    monkeypatch.setattr("bondlab.study.experiments", module, raising=False)
    return stand_in


def test_a_study_runs_executes_and_sums_up(lab, capsys):
    assert study.study("smoke", workers=3) == 0
    assert lab.ran == [("two", "smoke", 3), ("four", "smoke", 3)]
    assert set(lab.executed()) == {"02_two", "04_four"}
    out = capsys.readouterr().out
    assert "stage 1 of 2: the second figure (left: the fourth figure)" in out
    assert "Figure two of the paper: figures/smoke/two/fig.png" in out
    assert "1.23 [1, 1.5] nats" in out
    assert "GB in the largest process" in out


def test_nothing_is_executed_twice_until_what_it_depends_on_changes(lab):
    """Results, code, weights, the notebook, its figures, the profile: each is changed in turn. Code
    is what the notebook imports, be it under a condition, and what that imports in turn."""
    uses = DRAW.format(name="two") + "if 0:\n    from bondlab.rules import bond\n"
    lab.write("02_two", uses)
    for file, code in (("rules", "def f():\n    from bondlab import quantiles"), ("quantiles", "")):
        (study.PACKAGE / f"{file}.py").write_text(code)
    study.study("smoke")
    first = lab.executed()
    study.study("smoke")
    assert lab.executed() == first

    (paths.runs_folder() / "two" / "abc" / "evaluation.parquet").write_bytes(b"new")
    study.study("smoke")
    second = lab.executed()
    assert second["02_two"] > first["02_two"] and second["04_four"] == first["04_four"]

    lab.write("04_four", DRAW.format(name="four") + "# edited")
    study.study("smoke")
    third = lab.executed()
    assert third["04_four"] > second["04_four"] and third["02_two"] == second["02_two"]

    (paths.figures_folder("two", "smoke") / "fig.json").unlink()
    study.study("smoke", only=["two"])
    last = lab.executed()["02_two"]
    assert last > third["02_two"]

    (study.PACKAGE / "plots.py").write_text("x = 1")  # which the notebook does not use
    study.study("smoke", only=["two"])
    assert lab.executed()["02_two"] == last

    for file in ("quantiles.py", "rules.py", "weights/adapter/model.safetensors"):
        (study.PACKAGE / file).write_text("x = 1")
        study.study("smoke", only=["two"])
        assert lab.executed()["02_two"] > last
        last = lab.executed()["02_two"]

    study.study("paper", only=["two"])
    assert set(lab.executed("paper")) == {"02_two"}


def imported(code: str) -> set[str]:
    return {path.stem for path in study._imported(code)} - {"__init__"}


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import torch, bondlab.rules\nfrom pydantic import BaseModel", {"rules"}),
        ("from bondlab.study import plots as p, exact\nfrom bondlab.study.notebook import show",
         {"plots", "exact", "notebook"}),
        ("from bondlab import Config, j_bond, train", {"config", "algorithms", "training"}),
        ("from bondlab.assets.cache import AssetError\nimport bondlab.assets.corpora",
         {"cache", "corpora"}),
        ("x = 1", set()),
    ],
)  # fmt: skip
def test_modules_are_found_by_every_form_of_import(code, names):
    """Names of the package's face stand for the modules that they come from."""
    assert imported(code) == names


@pytest.mark.parametrize("code", ["import bondlab", "from bondlab import *", "%time x = 1"])
def test_what_does_not_say_what_it_uses_depends_on_every_module(code):
    assert imported(code) > {"rules", "run", "trainer"}


def test_a_notebook_depends_on_what_it_uses():
    """Notebook 00 draws no run's results; 08 trains, though it imports the package's face alone;
    what decides claims needs nothing that measures benchmarks."""
    folder = paths.repository_root() / "notebooks"
    exact, own = (
        {path.stem for path in study.modules_of(next(folder.glob(f"{number}_*.ipynb")))}
        for number in ("00", "08")
    )
    assert {"exact", "rules", "canvas"} <= exact and "alignment_report" not in exact
    assert {"trainer", "bank", "own_model"} <= own and "exact" not in own
    decides = (study.PACKAGE / "study" / "alignment_decisions.py").read_text()
    assert imported(decides) == {"frontier", "decisions", "measures"}


def test_a_failing_notebook_is_reported_and_the_rest_goes_on(lab, capsys):
    lab.write("02_two", "1 / 0")
    assert study.study("smoke") == 1
    assert "In [3]: ZeroDivisionError: division by zero" in capsys.readouterr().err
    assert set(lab.executed()) == {"02_two", "04_four"}
    lab.write("02_two", DRAW.format(name="two"))
    assert study.study("smoke") == 0


def test_failing_runs_fail_the_study(lab, capsys):
    def run(name, profile, workers):
        raise RuntimeError("out of memory")

    sys.modules["bondlab.study.experiments"].run = run
    assert study.study("smoke", only=["two"]) == 1
    err = capsys.readouterr().err
    assert "out of memory" in err and "Failed: the second figure" in err


def test_a_notebook_that_cannot_take_the_profile_stops_it_before_any_run(lab):
    lab.write("04_four", "", cell="profil: str = 'shipped'")
    with pytest.raises(ParameterError, match="04_four.ipynb: `profile` is no parameter"):
        study.study("smoke")
    assert lab.ran == []


def test_only_takes_names_and_first_letters_and_keeps_the_order(lab):
    assert list(study.select(lab.EXPERIMENTS, ["04", "two"])) == ["two", "four"]
    assert list(study.select(lab.EXPERIMENTS, [])) == ["two", "four"]
    with pytest.raises(ParameterError, match="no experiment is called '03'; there are 02_two"):
        study.select(lab.EXPERIMENTS, ["04", "03"])


def test_an_interrupt_is_not_taken_for_a_failing_stage():
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run_stages([study.Stage("a", stop), study.Stage("b", lambda: None)])


@pytest.mark.parametrize(("profile", "fetches"), [("laptop", 1), ("study", 1), ("paper", 0)])
def test_the_profiles_of_the_embedded_models_fetch_them_first(lab, monkeypatch, profile, fetches):
    fetched = []
    monkeypatch.setattr("bondlab.assets.fetch", lambda: fetched.append(len(lab.ran)))
    study.study(profile, only=["two"])
    assert fetched == [0] * fetches


def test_headlines_show_a_figure_without_numbers_too(lab):
    write("law", paper_figure="8", profile="study")
    write("toy", paper_figure=None, profile="study", headline=[])
    table = study.headlines(["two", "four"], "study")
    assert table["figure"].tolist() == ["Figure 8 of the paper", "A figure of ours"]
    assert table["value [95 %]"].tolist() == ["-", "-"]


def write(stem: str, **record: object) -> None:
    """A figure's record, or a table's, of the experiment "two"."""
    folder = paths.figures_folder("two", "study")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(record))


def test_a_summary_keeps_to_its_profile_and_to_figures(lab):
    """What a smaller profile left in figures/study is no result of the study."""
    write("law", paper_figure="8", profile="study")
    write("of_the_laptop", paper_figure="10", profile="laptop")
    write("results_run", run="0123", profile="study")
    assert study.headlines(["two"], "study")["figure"].tolist() == ["Figure 8 of the paper"]


def test_a_summary_without_figures_says_so(lab):
    assert study.summary(["two"], "smoke") == "No figure of profile smoke yet."


def test_the_folders_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("BONDLAB_RUNS", "there")
    monkeypatch.setenv("BONDLAB_FIGURES", "")
    monkeypatch.chdir(tmp_path)
    assert paths.runs_folder() == tmp_path / "there"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BONDLAB_RUNS", "~/there")
    assert paths.runs_folder() == tmp_path / "home" / "there"
    root = paths.repository_root()
    assert paths.figures_folder("two", "laptop") == root / "figures" / "laptop" / "two"
    assert (root / "bondlab" / "paths.py").exists()


def test_what_is_committed_is_found_wherever_figures_are_drawn(monkeypatch, tmp_path):
    """A scratch disk takes what a profile draws, "study" too; "shipped" stays with git, in the
    folder that "study" refreshes where nothing is moved."""
    monkeypatch.delenv("BONDLAB_FIGURES", raising=False)
    shipped = paths.figures_folder("xsum_divergences", "shipped")
    assert shipped == paths.figures_folder("xsum_divergences", "study")
    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path))
    assert paths.figures_folder("xsum_divergences", "shipped") == shipped
    assert (shipped / "fig02_divergences.png").exists()
    assert paths.figures_folder("two", "study") == tmp_path / "study" / "two"
