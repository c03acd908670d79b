"""The study does its stages in order, keeps what is finished, and says what failed."""

from __future__ import annotations

import json
import os
import time
import types
from functools import partial
from pathlib import Path

import nbformat
import papermill
import pytest

from bondlab import paths
from bondlab.report.notebook import ParameterError
from bondlab.results import RunFolder
from bondlab.study import run as study
from bondlab.study import stages
from bondlab.study.experiments import EXPERIMENTS
from bondlab.study.stages import Stage, run_stages

NUMBER = {"what": "gain", "value": 1.23456, "low": 1, "high": 1.5, "unit": "nats", "samples": 48}


class Lab:
    """Stands in for the experiments: two of them, with notebooks in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: list[tuple] = []
        self.EXPERIMENTS = {
            name: types.SimpleNamespace(
                notebook=f"{number}_{name}",
                number=number,
                title=f"the {name}",
                trains=None,
                run=partial(self.run, name),
            )
            for name, number in (("two", "02"), ("four", "04"))
        }
        for name in self.EXPERIMENTS:
            self.write(name, f"print(profile, '{name}')")

    def write(self, name: str, code: str, cell: str = 'profile: str = "shipped"') -> None:
        cells = [nbformat.v4.new_code_cell(cell), nbformat.v4.new_code_cell(code)]
        cells[0].metadata["tags"] = ["parameters"]
        kernel = {"name": "python3", "display_name": "x", "language": "python"}
        book = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        path = self.folder / "notebooks" / f"{self.EXPERIMENTS[name].notebook}.ipynb"
        nbformat.write(book, path)

    def run(self, name: str, profile: str, workers: int | None = None) -> list:
        self.ran.append((name, profile, workers))
        folder = paths.runs_folder() / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "record.jsonl").write_text('{"step": 1}\n')
        return [types.SimpleNamespace(path=folder)]

    def study(self, profile: str = "smoke", **settings) -> int:
        return study.study(profile, **settings)


@pytest.fixture
def lab(runs, tmp_path, monkeypatch) -> Lab:
    monkeypatch.setattr(study, "repository_root", lambda: tmp_path)
    monkeypatch.setattr(paths, "repository_root", lambda: tmp_path)
    monkeypatch.setattr(study, "PACKAGE", tmp_path / "package")
    for folder in ("notebooks", "package/weights"):
        (tmp_path / folder).mkdir(parents=True)
    lab = Lab(tmp_path)
    monkeypatch.setattr(study, "EXPERIMENTS", lab.EXPERIMENTS)
    return lab


@pytest.fixture
def executed(lab, monkeypatch) -> list[str]:
    """The notebooks that were executed, each by a stand-in that draws a figure."""
    done: list[str] = []

    def execute(notebook: Path, output: Path, parameters: dict, **_: object) -> None:
        done.append(notebook.stem)
        output.write_text(json.dumps(parameters))
        name, profile = notebook.stem.partition("_")[2], parameters["profile"]
        draw("law", name, profile, paper_figure="8", headline=[])

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    return done


def draw(stem: str, name: str = "two", profile: str = "study", **record: object) -> Path:
    """Write a figure's record, or a table's."""
    folder = paths.figures_folder(name, profile)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps({"profile": profile, **record}))
    return folder / f"{stem}.json"


def test_a_study_runs_executes_and_sums_up_what_a_failing_cell_leaves(lab, capsys):
    """Kernels execute; the first notebook fails and is named, the second goes on; then neither."""
    lab.write("two", "1 / 0")
    draw("fig", "four", "smoke", paper_figure="4", headline=[NUMBER | {"seeds": 2}])
    assert lab.study(workers=3) == 1
    assert lab.ran == [("two", "smoke", 3), ("four", "smoke", 3)]
    printed = capsys.readouterr()
    assert "stage 2 of 2: the four (less than a minute left)" in printed.out
    assert "In [3]: ZeroDivisionError: division by zero" in printed.err
    assert "Failed: the two. Run the same command again to go on." in printed.err
    assert "Figure 4 of the paper: figures/smoke/four/fig.png" in printed.out
    assert "gain 1.23 [1, 1.5] nats       48      2" in printed.out
    assert "GB in the largest process" in printed.out
    four = lab.folder / "runs" / "notebooks" / "smoke" / "04_four.ipynb"
    assert nbformat.read(four, 4).cells[-1].outputs[0].text == "smoke four\n"
    lab.write("two", "1 / 1")
    assert lab.study() == 0


def test_nothing_is_executed_twice_until_what_it_depends_on_changes(lab, executed):
    """Its results, text, figures and manifest are a notebook's own; code and weights are all's."""
    assert lab.study() == 0
    both, package = ["02_two", "04_four"], study.PACKAGE
    assert executed == both
    runs, figures = paths.runs_folder(), paths.figures_folder("two", "smoke")
    for change, expected in (
        (lambda: (runs / "two" / "evaluation.parquet").write_bytes(b"new"), both[:1]),
        (lambda: lab.write("four", "edited"), both[1:]),
        (lambda: (figures / "law.json").unlink(), both[:1]),
        (lambda: (runs / "notebooks" / "smoke" / "04_four.json").write_text("{"), both[1:]),
        (lambda: (package / "rules.py").write_text("x = 1"), both),
        (lambda: (package / "rules.py").write_text("x = 2"), both),
        (lambda: (package / "weights" / "model.safetensors").write_bytes(b"new"), both),
    ):
        executed.clear()
        lab.study()
        assert executed == []
        change()
        lab.study()
        assert executed == expected
    lab.study("paper", only=["two"])
    assert executed == [*both, "02_two"]


def test_failing_runs_fail_the_study(lab, executed, capsys):
    def run(*_):
        raise RuntimeError("out of memory")

    lab.EXPERIMENTS["two"].run = run
    assert lab.study(only=["two"]) == 1
    assert "RuntimeError: out of memory" in capsys.readouterr().err and executed == []


def test_a_notebook_that_cannot_take_the_profile_stops_it_before_any_run(lab):
    lab.write("four", "", cell="profil: str = 'shipped'")
    with pytest.raises(ParameterError, match="04_four.ipynb: `profile` is no parameter"):
        lab.study()
    assert lab.ran == []


def test_only_takes_names_and_first_letters_and_keeps_the_order(lab):
    assert list(study.select(lab.EXPERIMENTS, ["04", "two"])) == ["two", "four"]
    assert list(study.select(lab.EXPERIMENTS, [])) == ["two", "four"]
    assert list(study.select(EXPERIMENTS, ["07"])) == ["j_bond"]  # neither 07b nor 07c
    assert list(study.select(EXPERIMENTS, ["07b_"])) == ["other_baselines"]
    with pytest.raises(ParameterError, match="no experiment is called '03'; there are 02_two"):
        study.select(lab.EXPERIMENTS, ["04", "03"])


def test_an_interrupt_is_not_taken_for_a_failing_stage(tmp_path):
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stages([Stage("a", stop, 1.0), Stage("b", stop, 1.0)], tmp_path / "seconds.json")


@pytest.fixture
def clock(monkeypatch, runs) -> types.SimpleNamespace:
    """The time of stages, which the test sets; runs lie in a folder of its own."""
    clock = types.SimpleNamespace(now=time.time())
    monkeypatch.setattr(stages, "time", types.SimpleNamespace(time=lambda: clock.now))
    return clock


def test_the_time_left_follows_the_pace_and_the_steps(clock, runs):
    """Of 120 + 480 expected seconds; a minute on both sides of the pace. The first stage took twice
    its time: 480 * (240 + 60) / (120 + 60) s = 13.3 min. In the second the clock says 60 of 480 s
    before its run's first step, and never more than half; 8 of 32 steps are a quarter of the rest.
    """
    found = stages.Clock(600.0)
    assert found.left == "about 10 min left"
    found.begin(120.0)
    clock.now += 240
    assert found.position == pytest.approx(0.99 * 120)  # a late stage is never quite done
    assert found.end() == 240 and found.left == "about 13 min left"
    found.begin(480.0)
    clock.now += 60
    folder = RunFolder.of(runs / "library", {"config": {"steps": 32}})
    RunFolder.of(runs / "texts", {"settings": {}})  # a measurement, which has no steps
    for path in runs.glob("*/*/config.json"):
        os.utime(path, (clock.now, clock.now))
    clock.now += 600
    assert found.position == pytest.approx(120 + 240)
    clock.now -= 600
    assert found.position == pytest.approx(120 + 60)
    for step in range(8):
        folder.append({"step": step})
    assert stages.steps(clock.now - 1) == (8, 32)
    assert found.position == pytest.approx(120 + 60 + (0.99 - 60 / 480) / 4 * 480)
    assert stages.steps(clock.now + 3600) == (0, 0)


def test_a_stage_is_expected_to_take_what_it_last_took(clock, tmp_path, capsys):
    """Without a terminal the lines tell the time left; one that was done before says nothing of it,
    nor one that failed."""

    def take(seconds: float, fail: bool = False) -> None:
        clock.now += seconds
        if fail:
            raise OSError

    kept = tmp_path / "seconds.json"

    def said(*given: tuple) -> list[str]:
        made = [Stage(name, partial(take, *did), 60.0) for name, *did in given]
        run_stages(made, kept)
        return [line.partition("(")[2] for line in capsys.readouterr().out.splitlines()]

    assert said(("a", 300), ("b", 1200, True)) == ["about 2 min left)", "about 3 min left)"]
    assert said(("a", 3), ("b", 60)) == ["about 6 min left)", "less than a minute left)"]
    assert json.loads(kept.read_text()) == {"a": 300, "b": 60}


@pytest.mark.parametrize(
    ("profile", "trains", "fetches"),
    [("laptop", None, 1), ("study", None, 1), ("paper", {}, 0), ("shipped", None, 0),
     ("shipped", {}, 1)],
)  # fmt: skip
def test_who_needs_the_embedded_models_fetches_them_first(
    lab, executed, monkeypatch, profile, trains, fetches
):
    """Unless they are there."""
    fetched, lab.EXPERIMENTS["two"].trains = [], trains
    monkeypatch.setattr("bondlab.assets.state", lambda name: "ready" if fetched else "absent")
    monkeypatch.setattr("bondlab.assets.fetch", lambda: fetched.append(len(executed)))
    lab.study(profile, only=["two"])
    lab.study(profile, only=["two"])
    assert fetched == [0] * fetches


def test_shipped_draws_what_is_committed_and_trains_what_is_told_to(lab, executed, capsys):
    """No run is computed beside the notebooks, which depend on all tables and on the ledger: one
    draws another's. What training changed comes last, and is told from no change where its interval
    leaves out 0."""
    lab.write("two", "", cell="profile: str = 'shipped'\ntrain_here: bool = False")
    lab.EXPERIMENTS["two"].trains = {"train_here": True}
    gains = [NUMBER | {"seeds": 1}, NUMBER | {"what": "loss", "low": -1, "seeds": 1}]
    draw("here", "two", "shipped", paper_figure=None, headline=gains, trained_here=True)
    table = paths.committed_folder("four") / "chat" / "results_runs.parquet"
    ledger = paths.committed_folder("report") / "claims.csv"
    both, steps = ["02_two", "04_four"], ((table, b"old"), (table, b"new"), (ledger, b"new"))
    for file, content in steps:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        for expected in (both, []):  # once
            executed.clear()
            assert lab.study("shipped") == 0
            assert executed == expected and lab.ran == []
    given = lab.folder / "runs" / "notebooks" / "shipped" / "02_two.ipynb"
    assert json.loads(given.read_text()) == {"profile": "shipped", "train_here": True}
    *_, head, names, gain, loss, _ = capsys.readouterr().out.splitlines()
    assert head == "Trained here, after minus before:" and names.split()[-2:] == ["no", "change"]
    assert gain.split() == ["gain", "1.23", "[1,", "1.5]", "nats", "48", "1", "excluded"]
    assert loss.split()[-2:] == ["not", "excluded"]


def test_a_summary_keeps_to_its_profile_and_to_figures(lab):
    """What a smaller profile left in figures/study is no result of the study; a figure without
    numbers is one, and so is one that the paper does not have."""
    assert study.summary(["two"], "study") == "No figure of profile study yet."
    draw("law", paper_figure="8", headline=[])
    draw("toy", paper_figure=None, headline=[])
    draw("results_run", run="0123")
    draw("of_the_laptop", paper_figure="10").write_text('{"paper_figure": 10, "profile": "laptop"}')
    assert study.summary(["two", "four"], "study").splitlines() == [
        "Figure 8 of the paper: figures/study/two/law.png",
        "A figure of ours: figures/study/two/toy.png",
    ]


def test_the_folders_follow_the_environment(monkeypatch, tmp_path):
    """A scratch disk takes what a profile draws, "study" too; what is committed stays with git, in
    the folder that "study" refreshes where nothing is moved."""
    committed = paths.repository_root() / "figures" / "study" / "exact"
    monkeypatch.setenv("BONDLAB_FIGURES", "")
    assert paths.figures_folder("exact", "study") == committed
    assert (committed / "fig_bestofn_law.png").exists()
    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path))
    assert paths.committed_folder("exact") == committed
    for profile in ("shipped", "study"):
        assert paths.figures_folder("exact", profile) == tmp_path / profile / "exact"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for setting, folder in (("there", "there"), ("~/there", "home/there")):
        monkeypatch.setenv("BONDLAB_RUNS", setting)
        assert paths.runs_folder() == tmp_path / folder
