"""What is kept of an experiment: tables computed once or shipped, figures with their provenance."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from bondlab import paths
from bondlab.paths import repository_root
from bondlab.report import plots
from bondlab.report.intervals import Interval
from bondlab.report.kept import Results, once, runs_table
from bondlab.report.plots import Panel


@pytest.fixture
def folder(runs, tmp_path, monkeypatch):
    """A clone without results of its own."""
    monkeypatch.setattr(paths, "repository_root", lambda: tmp_path)
    return tmp_path


def unwanted():
    raise AssertionError("computed, where there is a table")


def test_tables_are_computed_once_kept_and_shipped(folder):
    both = pd.DataFrame({"series": ["one", "two"], "x": [1.0, 2.0]})
    tables = {"evaluations": both, "runs": both.assign(y=3)}
    shipped, laptop = (Results("some", profile, "chat") for profile in ("shipped", "laptop"))
    with pytest.raises(FileNotFoundError, match="holds no evaluations: run the notebook .* laptop"):
        shipped.load(tables, unwanted)
    found = laptop.load(tables, lambda: tables).load(["more"], lambda: {"more": both})
    assert set(found.tables) == {"evaluations", "runs", "more"}
    # Some series are returned, but no table of more of them is lost; other series replace both.
    part = {name: table[:1] for name, table in tables.items()}
    with pytest.warns(match="keeps its tables: these lack some of their series"):
        assert laptop.load(tables, lambda: part)["evaluations"]["series"].tolist() == ["one"]
    (folder / "figures" / "laptop").rename(folder / "figures" / "study")
    for name, table in tables.items():
        pd.testing.assert_frame_equal(shipped.load(tables, unwanted)[name], table)
    more = {name: pd.concat([table, table.assign(series="x")]) for name, table in tables.items()}
    Results("some", "study", "chat").load(tables, lambda: more)
    assert shipped.load(tables, unwanted)["runs"]["series"].tolist() == ["one", "two"] + ["x"] * 2
    # In the values' order; a table without the column stays whole.
    chosen = Results("some", "laptop", tables=tables).where(series=["two", "one"], y=[3])
    assert chosen["runs"]["series"].tolist() == ["two", "one"] and len(chosen["evaluations"]) == 2

    made = []

    def measure() -> pd.DataFrame:
        made.append(len(made))
        if len(made) == 1:
            raise KeyboardInterrupt
        return both

    with pytest.raises(KeyboardInterrupt):
        once("kind", {"of": "it"}, measure)
    for _ in range(2):
        table, manifest = once("kind", {"of": "it"}, measure)
        pd.testing.assert_frame_equal(table, both)
    assert made == [0, 1] and manifest["status"] == "finished"
    assert (folder / "runs" / "kind" / manifest["run"] / "table.parquet").exists()
    once("kind", {"of": "another"}, measure)
    assert len(made) == 3


def test_a_figure_is_published_with_its_numbers_and_where_they_come_from(folder, monkeypatch):
    """The last number with an interval of each row and series; effective N may have no upper end,
    which strict JSON cannot say."""
    shown, panels = [], [Panel("n", "Effective N", "draws")]
    formula = [Panel("n", r"KL($\pi$ || $\pi_{BoN}$)", "nats")]
    monkeypatch.setattr(plots, "show", lambda figure, text: shown.append(text))
    table = pd.DataFrame({"series": ["a", "a", "b", "b"], "step": [0, 9, 0, 9], "count": 8})
    table = table.assign(panel="n", row="N = 4", mean=[1.0, 2, 3, 4], low=[0.5, 1.5, 2, math.nan])
    table["high"] = [1.5, math.inf, 4, math.nan]
    manifests = [{"run": "01", "seconds": 2}, {"run": "02"}]
    runs = pd.concat(runs_table(m, series="a", seed=i) for i, m in enumerate(manifests))
    runs["eta"] = math.nan  # a label of other series
    figure = plots.lines(table.fillna(9).replace(math.inf, 9), panels, title="Two\nlines")
    made = {"stem": "fig", "figure": figure, "table": table, "panels": panels, "paper": "4"}
    Results("some", "shipped", tables={"runs": runs}).publish(**made)
    Results("some", "shipped").publish(
        "formula", plots.lines(table.fillna(9).replace(math.inf, 9), formula), table, formula
    )
    words = [
        "Two lines: Effective N against training steps",
        "KL(π || π_BoN) against training steps",
    ]
    assert shown == words
    assert [path.name for path in (folder / "figures").iterdir()] == ["shipped"]
    Results("some", "smoke", tables={"runs": runs}).publish(**made, settings={"k": 1})
    written = folder / "figures" / "smoke" / "some"
    names = [f"fig.{kind}" for kind in ("csv", "json", "png", "svg")]
    assert sorted(path.name for path in written.iterdir()) == names
    record = json.loads((written / "fig.json").read_text(), parse_constant=pytest.fail)
    labels = [{"series": "a", "seed": i, "run": m["run"]} for i, m in enumerate(manifests)]
    end = {"value": 2, "low": 1.5, "high": None, "unit": "draws", "samples": 8, "seeds": 2}
    start = {"value": 3, "low": 2, "high": 4, "unit": "draws", "samples": 8, "seeds": 2}
    assert record == {
        "experiment": "some",
        "paper_figure": "4",
        "profile": "smoke",
        "headline": [
            {"what": "N = 4, a: Effective N", **end},
            {"what": "N = 4, b: Effective N", **start},
        ],
        "runs": [label | {"manifest": m} for label, m in zip(labels, manifests, strict=True)],
        "settings": {"k": 1},
    }
    numbers = {"a gap": (Interval(0.5, 0.4, 0.6, 0.1, 7), "nats")}
    Results("some", "smoke", "chat").publish(**made, numbers=numbers)
    record = json.loads((written / "fig_chat.json").read_text())
    (line,) = record["headline"]
    assert (line["what"], line["value"], line["seeds"]) == ("a gap", 0.5, 1)
    assert record["runs"] == []
    everything = Interval(math.inf, 1, math.inf, math.inf, 7)
    Results("some", "smoke").publish(**made, numbers={"no number": (everything, "draws")})
    assert json.loads((written / "fig.json").read_text())["headline"] == []


def test_what_is_committed_is_strict_json():
    """Other readers of JSON know no NaN."""
    for path in (repository_root() / "figures" / "study").rglob("*.json"):
        json.loads(path.read_text(), parse_constant=pytest.fail)
