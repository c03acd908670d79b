"""Calibration and cost of Figure 9's runs: collected once, drawn, and written where they belong."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from test_calibration import evaluation

from bondlab.study import calibration, quantile_report, sample_size_xsum
from bondlab.study.quantile_cost import FRESH, LEARNED, STORED
from bondlab.study.quantile_report import Results


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("BONDLAB_RUNS", str(tmp_path / "runs"))
    return tmp_path / "figures"


def made_up(shipped: bool = False) -> Results:
    """Two evaluations of 20 documents, and four steps of each series."""
    predictions = pd.concat(
        [calibration.observed(evaluation(prompts=20, step=step)) for step in (0, 6)]
    )
    plan = {"seed": 0, "policy": 16, "reference": 0, "bank": 1280, "steps": 10, "prompts": 8,
            "documents": 40}  # fmt: skip
    rows = [
        {
            "run": f"run {draws} {seconds:g}",
            "series": series,
            "step": step,
            "seconds": seconds,
            "draws": draws,
        }
        | plan
        for series, seconds, draws in ((STORED, 2.0, 24), (FRESH, 5.0, 24), (LEARNED, 3.0, 9))
        for step in range(1, 5)
    ]
    return Results("laptop", predictions, pd.DataFrame(rows), shipped)


def test_the_calibration_table_has_both_ends_and_every_step(folder):
    table = quantile_report.calibration_table(made_up().predictions)
    points = table[table["panel"] == "reliability"]
    assert set(points["series"]) == {"learned, step 0", "learned, step 6"}
    curves = table[table["panel"] == "error"].groupby(["row", "series"])["x"].apply(list)
    assert len(curves) == 6 and all(steps == [0, 6] for steps in curves)


def test_figures_are_written_unless_shipped(folder):
    quantile_report.calibration(made_up(shipped=True))
    quantile_report.cost(made_up(shipped=True))
    assert not folder.exists()
    quantile_report.calibration(made_up())
    quantile_report.cost(made_up())
    all_runs = ["run 24 2", "run 24 5", "run 9 3"]
    for stem, runs in (("calibration", all_runs[2:]), ("quantile_cost", all_runs)):
        record = json.loads((folder / "laptop" / "xsum_quantiles" / f"{stem}.json").read_text())
        assert record["paper_figure"] is None and record["headline"]
        assert record["runs"] == runs
        for number in record["headline"]:
            assert number["low"] <= number["value"] <= number["high"]


def test_the_drawn_points_are_the_tables(folder):
    """Left panels hold the bins' shares, right panels the three errors, both by source."""
    found = made_up(shipped=True)
    figure = quantile_report.calibration(found)
    table = quantile_report.calibration_table(found.predictions)
    for row, source in enumerate(calibration.SOURCES):
        own = table[table["row"] == source]
        drawn = [axes.get_lines() for axes in figure.axes[2 * row : 2 * row + 2]]
        for lines, (_, part) in zip(drawn, own.groupby("panel", sort=False), strict=True):
            values = np.concatenate([np.asarray(line.get_ydata(), float) for line in lines])
            assert set(part["mean"].round(9)) <= set(values.round(9))


def test_the_measured_reward_call_enters_the_tie(folder):
    """0.05 s a call, 1 s added for 15 x 8 samples saved, of 3/192 s each."""
    real = sample_size_xsum.Results(
        "laptop", pd.DataFrame(), {"seconds a sample": {"drawing": 0.2, "scoring": 0.05}}
    )
    found = quantile_report.break_even(made_up(), real).set_index("what")["seconds"]
    assert found["tie, fresh samples: a reward call"] == pytest.approx(0.05 + 1 / 120 - 3 / 192)
    assert found["scoring a reference sample, alone"] == 0.05


def test_the_smoke_runs_are_collected_and_then_shipped(folder, monkeypatch):
    """Three runs of two steps; predictions of the learned one alone, at its three evaluations."""
    found = quantile_report.results("smoke", workers=1)
    assert found.steps.groupby("series")["step"].apply(list).to_dict() == dict.fromkeys(
        (STORED, FRESH, LEARNED), [1, 2]
    )
    assert sorted(found.predictions["step"].unique()) == [0, 1, 2]
    start = found.predictions[found.predictions["step"] == 0]
    assert (start["predicted"] == 0.5).all()  # the head starts at zero
    monkeypatch.setattr(quantile_report.paths, "repository_root", lambda: folder.parent)
    with pytest.raises(FileNotFoundError, match="run the notebook"):
        quantile_report.results("shipped")
    (folder / "smoke").rename(folder / "study")
    shipped = quantile_report.results("shipped")
    assert shipped.shipped and shipped.profile == "smoke"
    kept = shipped.predictions.drop(columns="profile")
    pd.testing.assert_frame_equal(kept, found.predictions)
    table = quantile_report.calibration_summary(shipped)
    assert table["measure"].is_unique and list(table.columns) == ["measure", "policy", "reference"]
