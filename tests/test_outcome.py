"""The box at the top of a notebook says what the ledger says."""

from __future__ import annotations

import re

import pandas as pd

from bondlab.paths import committed_folder
from bondlab.report.outcome import Box, cost, lines
from bondlab.study.experiments import EXPERIMENTS


def ledger(*rows: dict) -> pd.DataFrame:
    common = {"short": "it rises", "where": "XSum", "seeds": "3", "measured": "rise",
              "effect": "0.500", "low": "0.400", "high": "0.600", "says": "yes",
              "command": "python -m bondlab study --profile study --only 02"}  # fmt: skip
    return pd.DataFrame([{**common, **row} for row in rows])


def test_a_claim_stands_in_the_line_of_its_verdict_with_a_number():
    table = ledger(
        {"id": "C1", "verdict": "repeated"},
        {"id": "C2", "verdict": "one run: suggests yes", "seeds": "1"},
        {"id": "C4", "verdict": "one run: suggests yes", "seeds": "1"},
        {"id": "C3", "verdict": "open"},
        {"id": "C3", "verdict": "open", "measured": "fall", "low": "-0.100", "says": "open"},
        {"id": "C5", "verdict": "not run", "seeds": "0", "effect": "", "says": "not run"},
        {"id": "C9", "verdict": "repeated", "command": "--only 03"},
        {"id": "C1", "verdict": "not repeated", "command": "--only 00b", "where": "toy"},
    )
    found = lines(table, "02")
    assert found == {
        "Held": "It rises (C1): rise = 0.500 [0.400, 0.600], 3 seeds.",
        "Did not hold": "nothing so far.",
        "Open": "It rises (C3): fall = 0.500 [-0.100, 0.600], 3 seeds.",
        "Too few seeds for a verdict": "It rises (C2): rise = 0.500 [0.400, 0.600], one seed: "
        "suggests yes. Suggests yes: it rises (C4).",
        "Not run": "It rises (C5).",
        "On the exact toy (00b)": "not repeated: C1.",
    }
    alone = lines(table[table["verdict"].str.startswith("one run")], "02")
    assert [*alone] == ["Too few seeds for a verdict"]  # nothing is said to hold, fail or be open
    assert lines(table, "05") == {} and "On the exact toy (00b)" not in lines(table, "00b")
    assert "<b>Held</b>: It rises (C1)" in Box(found)._repr_html_()


def test_every_claim_of_the_ledger_is_in_its_notebooks_box():
    table = pd.read_csv(committed_folder("report") / "claims.csv", dtype=str, keep_default_na=False)
    boxes = [lines(table, experiment.number) for experiment in EXPERIMENTS.values()]
    told = " ".join(text for box in boxes for text in box.values())
    assert [name for name in table["id"].unique() if not re.search(rf"\({name}[,)]", told)] == []


def test_it_says_how_long_the_runs_took_and_where():
    """Of the folder's own runs: chat's are not Figure 7's; the toy's are in a folder a figure."""
    assert cost("") == "seconds as it opens, on any computer."
    assert " minutes on " in cost("xsum_divergences")
    own, chat = (pd.read_parquet(committed_folder(name) / "results_runs.parquet")
                 for name in ("j_bond", "j_bond/chat"))  # fmt: skip
    assert f"the {own['run'].nunique()} runs shown" in cost("j_bond")
    assert f"the {chat['run'].nunique()} runs shown" in cost("j_bond/chat")
    assert "series of runs shown" in cost("toy", "series of run")
