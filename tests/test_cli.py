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
from bondlab.making import prepare
from bondlab.report.kept import Profile
from bondlab.report.notebook import ParameterError
from bondlab.study import experiments
from bondlab.study import run as study

PROFILES = [name for name in get_args(Profile) if name != "shipped"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fetch", {"names": []}),
        ("fetch xsum bbc", {"names": ["xsum", "bbc"]}),
        ("assets", {}),
        ("prepare", {"retrain": False, "only": None}),
        ("prepare --retrain --only xsum_reward", {"retrain": True, "only": "xsum_reward"}),
        ("run divergences", {"experiment": "divergences", "profile": "laptop", "workers": None}),
        ("run 02 --workers 2", {"experiment": "02", "profile": "laptop", "workers": 2}),
        ("study", {"profile": "laptop", "only": [], "workers": None}),
        ("study --only 00 02", {"profile": "laptop", "only": ["00", "02"], "workers": None}),
        *(
            (f"study --profile {name}", {"profile": name, "only": [], "workers": None})
            for name in PROFILES
        ),
    ],
)
def test_words_arrive_where_they_belong(line, expected):
    calls = []
    assert cli.main(line.split(), {line.split()[0]: lambda **given: calls.append(given)}) == 0
    assert calls == [expected]


@pytest.mark.parametrize("line", ["", "studdy", "study --profile big", "run 02 --workers 0"])
def test_a_wrong_word_is_refused_by_the_parser(line):
    with pytest.raises(SystemExit) as caught:
        cli.main(line.split(), {})
    assert caught.value.code == 2


def failing(error: BaseException) -> dict:
    def fail(**_) -> None:
        raise error

    return {"study": fail}


@pytest.mark.parametrize("error", [AssetError("no disk: free some"), ParameterError("no `steps`")])
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(capsys, error):
    assert cli.main(["study"], failing(error)) == 2
    assert capsys.readouterr().err == f"bondlab: {error}\n"


def test_any_other_error_keeps_its_traceback():
    with pytest.raises(ValueError, match="shapes differ"):
        cli.main(["study"], failing(ValueError("shapes differ")))


def test_ctrl_c_says_that_the_work_is_kept(capsys):
    assert cli.main(["study"], failing(KeyboardInterrupt())) == 130
    assert "the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "module", "name", "expected"),
    [
        ("fetch", assets, "fetch", (None,)),
        ("fetch xsum", assets, "fetch", (["xsum"],)),
        ("prepare --only chat_judge", prepare, "prepare", (False, "chat_judge")),
        ("study --only 00", study, "study", ("laptop", ["00"], None)),
        ("run 02", experiments, "run", ("xsum_divergences", "laptop", None)),
    ],
)
def test_a_command_calls_the_library(monkeypatch, line, module, name, expected):
    """What the library gives back is printed, or is the exit code."""
    calls = []
    monkeypatch.setattr(module, name, lambda *given: calls.append(given) or [])
    assert not cli.main(line.split())
    assert calls == [expected]


def test_a_failed_study_is_a_failed_command(monkeypatch):
    monkeypatch.setattr(study, "study", lambda *_: 1)
    assert cli.main(["study"]) == 1


def test_assets_are_listed_without_their_digests(monkeypatch, capsys):
    table = pd.DataFrame({"asset": ["xsum"], "sha256": ["ab"]})
    monkeypatch.setattr(assets, "listing", lambda: table)
    assert cli.main(["assets"]) == 0
    assert capsys.readouterr().out.split() == ["asset", "xsum"]


def test_run_says_where_its_runs_are_or_that_there_are_none(monkeypatch, capsys):
    monkeypatch.setattr(experiments, "run", lambda *_: [SimpleNamespace(path="runs/one")])
    cli.main(["run", "02"])
    monkeypatch.setattr(experiments, "run", lambda *_: [])
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
    assert all(word in done.stdout for word in cli.COMMANDS)
