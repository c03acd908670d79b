"""What figures draw as decisive: paired changes, terms of claims, heights; and names as run."""

from __future__ import annotations

from itertools import product

import pandas as pd
import pytest

from bondlab.report.kept import Results
from bondlab.report.plots import Panel
from bondlab.study import decisive, report
from bondlab.study.claims import Claim, lead
from bondlab.study.probes import PROBES, told

PANELS = (Panel("reward", "Reward", "mean reward (log-odds)"),)


def evaluations() -> pd.DataFrame:
    """Two series, three prompts and steps: `a` earns the root of its KL, `b` half of it less 1."""
    table = pd.DataFrame(product("ab", (0, 4, 9), range(3)), columns=["series", "step", "prompt"])
    root = table["step"] ** 0.5
    table["reward"] = root.where(table["series"] == "a", root / 2 - 1) + 10 * table["prompt"]
    table = table.assign(kl_to_reference=table["step"].astype(float), spread=2.0, warmup=0)
    return table.assign(row="", seed=0, judge=table["reward"], profile="laptop")


def results() -> Results:
    return Results("some", "laptop", tables={"evaluations": evaluations()})


def test_changes_since_the_start_are_paired_by_prompt():
    """Prompts differ by 10, their changes not at all."""
    table = report.curve_table(decisive.since_start(results(), PANELS), PANELS)
    own = table[table["series"] == "b"]
    assert own["mean"].tolist() == pytest.approx([0, 1, 1.5])
    assert own["low"].tolist() == pytest.approx(own["high"].tolist())
    assert PANELS[0].unit == "log-odds" and Panel("a", "A", "nats").unit == "nats"


def test_terms_have_their_interval_and_bounds_and_what_was_not_run_none():
    terms = [
        lead("log quantile, a - b", "a", "b", "reward", above=0.5),
        lead("shown", "a", "b", "reward"),
        lead("not run", "a", "c", "reward", above=0),
    ]
    table = decisive.terms([Claim("C1", "A claim.", "here", terms)], evaluations())
    (line,) = table.to_dict("records")
    assert line["group"] == "C1: log quantile, a - b"
    assert (line["mean"], line["above"], line["below"]) == (pytest.approx(2.5), 0.5, float("inf"))


def test_heights_are_those_between_the_curves():
    """Over roots from 0 to 3 the gap is 1 + x / 2: 1.75 on average, or 0.875 spreads."""
    table = decisive.heights(evaluations(), "a", ["b", "absent"])
    assert table["panel"].tolist() == ["reward", "judge"] and set(table["group"]) == {"b"}
    assert table["mean"].tolist() == pytest.approx([0.875, 1.75])


def test_series_are_named_by_what_was_run_with_the_papers_value_beside():
    names = ["moving average, eta = 0.02", "copy every 50 steps", "eta = 0.05", "J-BOND"]
    table = pd.DataFrame({"series": names, "rate": [0.146, 0, 0.05, 0.146], "every": [0, 6, 0, 0]})
    found = report.as_run(Results("some", "laptop", tables={"evaluations": table}))
    shown = ["moving average, eta = 0.02 (here 0.15)", "copy every 50 steps (here 6)"]
    assert [found[name] for name in names] == [*shown, "eta = 0.05", "J-BOND"]
    assert report.as_run(results()) == {"a": "a", "b": "b"}


def test_probes_are_shown_as_their_text_those_first_that_please_the_reward_alone():
    keys = ["panel", "group", "series", "mean"]
    rows = [("chat", "refuses", 10, 90), ("chat", "empty", 0, 0), ("chat", "agrees", 90, 10)]
    parts = [
        (p, g, s, m) for p, g, *both in rows for s, m in zip(["reward", "judge"], both, strict=True)
    ]
    shown = told(pd.DataFrame(parts, columns=keys))["group"].unique().tolist()
    quoted = [f'"{PROBES["chat"][name]("", [])}"' for name in ("agrees", "refuses")]
    assert shown == [quoted[0], "nothing at all", quoted[1]]


def test_a_change_is_since_the_first_step_of_the_same_seed():
    """In whatever order the rows come."""
    other = evaluations().assign(seed=1, reward=lambda t: t["reward"] + 5)
    table = pd.concat([evaluations(), other]).iloc[::-1].reset_index(drop=True)
    found = Results("some", "laptop", tables={"evaluations": table})
    start = decisive.since_start(found, PANELS)["evaluations"].query("step == 0")
    assert len(start) and (start["reward"] == 0).all()
