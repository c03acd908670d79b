"""The command line hands its words on, and turns what a user can mend into one line."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import get_args

import pandas as pd
import pytest

from bondlab import __main__ as cli
from bondlab import assets
from bondlab.assets import AssetError
from bondlab.bench import measure
from bondlab.making import prepare
from bondlab.report.kept import Profile
from bondlab.report.notebook import ParameterError
from bondlab.study import experiments, pages
from bondlab.study import run as study
from bondlab.study.divergences import EXPERIMENT as FIGURE_2


@pytest.mark.parametrize(
    ("line", "module", "name", "expected"),
    [
        ("fetch", assets, "fetch", (None,)),
        ("fetch xsum bbc", assets, "fetch", (["xsum", "bbc"],)),
        ("prepare", prepare, "prepare", (False, None)),
        ("prepare --retrain --only chat_judge", prepare, "prepare", (True, "chat_judge")),
        ("run xsum_divergences", experiments.Experiment, "run", (FIGURE_2, "laptop", None)),
        ("run 02 --workers 2", experiments.Experiment, "run", (FIGURE_2, "laptop", 2)),
        ("tune sentiment", experiments, "tune", ("sentiment", "study", [], None)),
        ("tune chat --only A B", experiments, "tune", ("chat", "study", ["A", "B"], None)),
        ("bench", measure, "bench", ("laptop", [])),
        ("bench --only steps --profile smoke", measure, "bench", ("smoke", ["steps"])),
        ("study", study, "study", ("shipped", [], None)),
        ("report --profile laptop", pages, "write", ("laptop",)),
        ("study --only 00 02", study, "study", ("shipped", ["00", "02"], None)),
        *((f"study --profile {p}", study, "study", (p, [], None)) for p in get_args(Profile)),
    ],
)
def test_a_command_calls_the_library(monkeypatch, line, module, name, expected):
    calls, empty = [], {"tune": pd.DataFrame(), "write": ["page"]}.get(name, [])
    monkeypatch.setattr(module, name, lambda *given: calls.append(given) or empty)
    assert cli.main(line.split()) == 0
    assert calls == [expected]


@pytest.mark.parametrize(
    "line", ["", "studdy", "study --profile big", "run 02 --workers 0", "run 02 --profile shipped"]
)
def test_a_wrong_word_is_refused_by_the_parser(line):
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split())
    assert caught.value.code == 2


def raising(error: BaseException):
    def fail(*_) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (AssetError("no disk: free some"), 2, "bondlab: no disk: free some\n"),
        (ParameterError("no `steps`"), 2, "bondlab: no `steps`\n"),
        (KeyboardInterrupt(), 130, "the same command goes on"),
    ],
)
def test_what_a_user_can_mend_or_stopped_is_told(monkeypatch, capsys, error, code, said):
    monkeypatch.setattr(study, "study", raising(error))
    assert cli.main(["study"]) == code
    assert said in capsys.readouterr().err


def test_any_other_error_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(study, "study", raising(ValueError("shapes differ")))
    with pytest.raises(ValueError, match="shapes differ"):
        cli.main(["study"])


def test_a_failed_study_is_a_failed_command(monkeypatch):
    monkeypatch.setattr(study, "study", lambda *_: 1)
    assert cli.main(["study"]) == 1


def test_assets_are_listed(monkeypatch, capsys):
    monkeypatch.setattr(assets, "listing", lambda: pd.DataFrame({"asset": ["xsum"]}))
    assert cli.main(["assets"]) == 0
    assert capsys.readouterr().out.split() == ["asset", "xsum"]


def test_run_says_where_its_runs_are_or_that_there_are_none(monkeypatch, capsys):
    one = [SimpleNamespace(path="runs/one")]
    monkeypatch.setattr(experiments.Experiment, "run", lambda *_: one)
    cli.main(["run", "02"])
    monkeypatch.setattr(experiments.Experiment, "run", lambda *_: [])
    cli.main(["run", "exact"])
    one, none = capsys.readouterr().out.splitlines()
    assert one == "runs/one"
    assert none.startswith("00_best_of_n_in_exact_numbers has no runs of its own: execute")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("run diverging", "no experiment is called 'diverging'"),
        ("prepare --only policy", "no adapter is called 'policy': choose one of xsum_reference,"),
    ],
)
def test_an_unknown_name_is_told(capsys, line, said):
    assert cli.main(line.split()) == 2
    assert said in capsys.readouterr().err


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "bondlab", "--help"], capture_output=True, text=True, check=True
    )
    assert all(
        word in done.stdout for word in ("fetch", "assets", "prepare", "run", "study", "bench")
    )
