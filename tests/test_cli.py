"""The command line hands its words on, and turns what a user can mend into one line."""

from __future__ import annotations

import subprocess
import sys
import types

import pandas as pd
import pytest

from bondlab import __main__ as cli
from bondlab.assets import AssetError
from bondlab.study.notebook import ParameterError


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """Stand-ins for what the commands call; each appends its name and arguments."""
    made: list[tuple] = []

    def module(name: str, **members) -> None:
        stand_in = types.ModuleType(f"bondlab.{name}")
        vars(stand_in).update(members)
        monkeypatch.setitem(sys.modules, f"bondlab.{name}", stand_in)
        monkeypatch.setattr(f"bondlab.{name}", stand_in, raising=False)

    def note(name: str):
        return lambda *args, **kwargs: made.append((name, *args, *kwargs.values()))

    experiment = types.SimpleNamespace(notebook="02_divergences", title="Figure 2")
    exact = types.SimpleNamespace(notebook="00_exact", title="Figure 8")

    def run(name: str, *args) -> list[types.SimpleNamespace]:
        note("run")(name, *args)
        return [types.SimpleNamespace(path="runs/one")] if name == "divergences" else []

    module("study.experiments", EXPERIMENTS={"divergences": experiment, "exact": exact}, run=run)
    module("making.prepare", prepare=note("prepare"))
    monkeypatch.setattr("bondlab.assets.fetch", lambda names: made.append(("fetch", names)) or [])
    monkeypatch.setattr(
        "bondlab.assets.listing", lambda: pd.DataFrame({"asset": ["xsum"], "sha256": ["ab"]})
    )
    monkeypatch.setattr("bondlab.study.run.study", lambda *args: made.append(("study", *args)) or 0)
    return made


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fetch", ("fetch", None)),
        ("fetch xsum bbc", ("fetch", ["xsum", "bbc"])),
        ("prepare", ("prepare", False, None)),
        ("prepare --retrain --only xsum_reward", ("prepare", True, "xsum_reward")),
        ("run divergences", ("run", "divergences", "laptop", None)),
        ("run 02 --profile study --workers 2", ("run", "divergences", "study", 2)),
        ("study", ("study", "laptop", [], None)),
        ("study --profile smoke --only 00 02", ("study", "smoke", ["00", "02"], None)),
    ],
)
def test_words_arrive_where_they_belong(calls, line, expected):
    assert cli.main(line.split()) == 0
    assert calls == [expected]


def test_assets_are_listed_without_their_digests(calls, capsys):
    assert cli.main(["assets"]) == 0
    assert capsys.readouterr().out.split() == ["asset", "xsum"]


@pytest.mark.parametrize("error", [AssetError("no disk: free some"), ParameterError("no `steps`")])
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(calls, monkeypatch, capsys, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("bondlab.study.run.study", fail)
    assert cli.main(["study"]) == 2
    assert capsys.readouterr().err == f"bondlab: {error}\n"


def test_any_other_error_keeps_its_traceback(calls, monkeypatch):
    def fail(*_):
        raise ValueError("shapes differ")

    monkeypatch.setattr("bondlab.study.run.study", fail)
    with pytest.raises(ValueError, match="shapes differ"):
        cli.main(["study"])


def test_a_failed_study_is_a_failed_command(calls, monkeypatch):
    monkeypatch.setattr("bondlab.study.run.study", lambda *_: 1)
    assert cli.main(["study"]) == 1


def test_ctrl_c_says_that_the_work_is_kept(calls, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bondlab.study.run.study", stop)
    assert cli.main(["study"]) == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["", "studdy", "study --profile big", "prepare --only policy", "run 02 --workers 0"]
)
def test_a_wrong_word_is_refused_by_the_parser(calls, line):
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == 2 and calls == []


@pytest.mark.parametrize(
    ("name", "said"), [("02", "runs/one"), ("exact", "00_exact has no runs of its own: execute")]
)
def test_run_says_where_its_runs_are_or_that_there_are_none(calls, capsys, name, said):
    assert cli.main(["run", name]) == 0
    assert capsys.readouterr().out.startswith(said)


def test_an_unknown_experiment_is_named(calls, capsys):
    assert cli.main(["run", "diverging"]) == 2
    assert "no experiment is called 'diverging'" in capsys.readouterr().err


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "bondlab", "--help"], capture_output=True, text=True, check=True
    )
    assert all(word in done.stdout for word in ("fetch", "assets", "prepare", "run", "study"))
