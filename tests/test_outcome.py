"""The box at the top of a notebook says what the ledger says."""

from __future__ import annotations

import pandas as pd

from bondlab.paths import committed_folder
from bondlab.report.outcome import Box, cost, lines
from bondlab.study.experiments import EXPERIMENTS


def ledger(*rows: dict) -> pd.DataFrame:
    common = {"claim": "It rises.", "where": "toy", "seeds": "3", "measured": "rise",
              "effect": "0.500", "low": "0.400", "high": "0.600",
              "command": "python -m bondlab study --profile study --only 02"}  # fmt: skip
    return pd.DataFrame([{**common, **row} for row in rows])


def test_a_claim_stands_in_the_line_of_its_verdict_with_a_number():
    table = ledger(
        {"id": "C1", "verdict": "repeated"},
        {"id": "C2", "verdict": "one run: suggests yes", "seeds": "1"},
        {"id": "C3", "verdict": "open"},
        {"id": "C3", "verdict": "open", "measured": "fall", "low": "-0.100"},
        {"id": "C9", "verdict": "repeated", "command": "--only 03"},
    )
    found = lines(table, "02")
    assert found == {
        "Held": "It rises (C1, toy) - rise: 0.500 [0.400, 0.600], 3 seeds.",
        "Did not hold": "nothing so far.",
        "Open": "It rises (C3, toy) - fall: 0.500 [-0.100, 0.600], 3 seeds. "
        "One run: suggests yes: C2 (toy).",
    }
    assert lines(table, "05") == {}
    assert "<b>Held</b>: It rises (C1, toy)" in Box(found)._repr_html_()


def test_every_claim_of_the_ledger_is_in_its_notebooks_box():
    table = pd.read_csv(committed_folder("report") / "claims.csv", dtype=str, keep_default_na=False)
    boxes = [lines(table, experiment.number) for experiment in EXPERIMENTS.values()]
    told = " ".join(text for box in boxes for text in box.values())
    assert [
        name for name in table["id"].unique() if f"{name} (" not in told and f"({name}," not in told
    ] == []


def test_it_says_how_long_the_runs_took_and_where():
    assert cost("") == "seconds as it opens, on any computer."
    assert " minutes on " in cost("xsum_divergences")
