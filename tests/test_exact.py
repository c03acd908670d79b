"""The tables of notebook 00: exact values where they are known, intervals that hold them."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest
from pydantic import ValidationError

from bondlab.measures import Interval
from bondlab.study import exact, exact_toy
from bondlab.study.exact import Settings


def settings(**changes: object) -> Settings:
    chosen = {"profile": "smoke", "seed": 0, "n": 4, "sizes": [1, 2, 8], "draws": 0}
    return Settings(**{**chosen, "problems": 0, "steps": 0, **changes})


def test_counts_follow_from_the_profile_unless_given():
    """smoke is small; a count that is given stays."""
    assert (settings().draws, settings().problems, settings().steps) == (500, 2, 3)
    assert settings(draws=7).draws == 7
    assert settings(profile="shipped").draws > 500


@pytest.mark.parametrize(
    "changes", [{"sizes": []}, {"sizes": [0]}, {"n": 1}, {"draws": 1}, {"profile": "big"}]
)
def test_settings_refuse_what_cannot_run(changes):
    with pytest.raises(ValidationError):
        settings(**changes)


def test_law_has_theorem_1_beside_its_simulation():
    """(0.5, 0.3, 0.2) at n = 2 gives (0.25, 0.39, 0.36); 20,000 rounds come within 0.02, 5.7
    standard errors."""
    table = exact.law("a", [0.5, 0.3, 0.2], [1, 2, 3], 2, settings(draws=20_000))
    law = table[table["series"].str.contains("Theorem")]["mean"].tolist()
    assert law == pytest.approx([0.25, 0.39, 0.36])
    simulated = table[table["series"].str.contains("simulated")]
    assert simulated["mean"].tolist() == pytest.approx(law, abs=0.02)
    assert ((simulated["low"] < simulated["mean"]) & (simulated["mean"] < simulated["high"])).all()


def test_divergences_hold_the_formulas_and_the_bound():
    """Continuous: log n - (n-1)/n. 8 values at n = 2: sum (2i+1)/64 log((2i+1)/8), below it. Every
    simulated mean lies within 5 of its standard errors (interval half-widths / 1.96) of its
    formula, and n = 1 changes nothing."""
    table = exact.divergences(settings(draws=20_000))
    wide = table.set_index(["panel", "series", "x", "kind"]).sort_index()
    two = wide.loc[("forward", "continuous reward", 2, "formula"), "mean"]
    assert two == pytest.approx(math.log(2) - 0.5)
    coarse = sum((2 * i + 1) / 64 * math.log((2 * i + 1) / 8) for i in range(8))
    assert wide.loc[("forward", "8 reward values", 2, "formula"), "mean"] == pytest.approx(coarse)
    assert coarse < two
    for panel, series, n in set(wide.index.droplevel("kind")):
        if n not in (1, 2, 8):
            continue
        formula = wide.loc[(panel, series, n, "formula"), "mean"]
        found = wide.loc[(panel, series, n, "simulated")]
        assert abs(found["mean"] - formula) <= 5 / 1.96 * (found["high"] - found["mean"]) + 1e-12
        if n == 1:
            assert formula == pytest.approx(0.5 if panel == "win" else 0, abs=1e-12)


def test_values_are_read_beside_their_simulation():
    """One row for each simulated value, with the exact one from its own row of the table."""
    chosen = settings(draws=20_000)
    table = exact.divergences(chosen)
    both = exact.beside(table, ["panel", "series", "x"])
    assert len(both) == 3 * 2 * 3
    row = both[(both["panel"] == "win") & (both["series"] == "continuous reward")].iloc[-1]
    assert row["exact"] == pytest.approx(8 / 9)
    assert row["inside"] == (row["low"] <= 8 / 9 <= row["high"])
    found = exact.simulated(table, chosen, panel="win", series="continuous reward", x=8)
    assert (found.mean, found.low, found.count) == (row["simulated"], row["low"], 20_000)
    law = exact.law("a", [0.5, 0.3, 0.2], [1, 2, 3], 2, chosen)
    assert exact.beside(law, ["group"])["exact"].tolist() == pytest.approx([0.25, 0.39, 0.36])


def test_j_bond_reward_follows_its_parabola():
    """-log 16 (1-p)^2 at every simulated p, 5 standard errors of a binary reward."""
    table = exact.j_bond_reward(settings(draws=20_000))
    binary = table[(table["series"] == "J-BOND reward") & (table["kind"] == "simulated")]
    for p, mean in zip(binary["x"], binary["mean"], strict=True):
        share = (1 - p) ** 2
        error = math.log(16) * (share * (1 - share) / 20_000) ** 0.5
        assert mean == pytest.approx(-math.log(16) * share, abs=5 * error + 1e-12)


def test_a_third_is_penalised_at_the_start():
    """Of three equally distributed rewards the policy's is the lowest in a third of all rounds."""
    found = exact.penalised_share(settings(draws=20_000))
    assert found.mean == pytest.approx(1 / 3, abs=5 * (2 / 9 / 20_000) ** 0.5)


def test_composition_holds():
    """Best-of-2 three times is Best-of-8 (eq. 16), to rounding."""
    assert exact.composition_error(2, 3) < 1e-12


def test_every_rule_has_the_exact_gradient():
    table = exact_toy.identities(settings())
    assert table["equal"].all() and len(table) == 5


def test_starts_are_near_the_formulas():
    """156 sequences: each divergence below its continuous value and within a tenth of it."""
    for _, row in exact_toy.starts(settings()).iterrows():
        assert 0.9 * row["backward, formula"] < row["backward, toy"] < row["backward, formula"]
        assert 0.9 * row["forward, formula"] < row["forward, toy"] < row["forward, formula"]


def test_formulas_are_where_each_panel_starts():
    """N = 4: 3 - log 4, log 4 - 3/4, -1; the toy's exact start is within a tenth of each."""
    start = exact_toy.starts(settings(sizes=[4])).iloc[0]
    levels = {level.panel: level.value for level in exact_toy.formulas(settings())}
    assert levels == pytest.approx(
        {
            "backward_kl": 3 - math.log(4),
            "forward_kl": math.log(4) - 0.75,
            "mean_log_quantile": -1,
        }
    )
    assert start["log quantile, toy"] == pytest.approx(levels["mean_log_quantile"], rel=0.1)


def test_descents_start_at_the_reference_and_pair_problems():
    """Both ways and all objectives start from the same policies; a paired difference at the last
    step is the mean over problems of one objective's value less the other's."""
    records = exact_toy.descents(settings(steps=3))
    starts = records[records["step"] == 0]
    assert (starts["kl_to_reference"] == 0).all()
    assert (starts.groupby("problem")["backward_kl"].nunique() == 1).all()
    curves = exact_toy.curves_of(records)
    assert set(curves["panel"]) == set(exact_toy.MEASURES)
    assert (curves["count"] == 2).all()
    found = exact_toy.gaps(records)[exact_toy.ROWS[0], "forward_kl, beta 1 - beta 0.5"]
    ends = curves[(curves["step"] == 3) & (curves["panel"] == "forward_kl")]
    ends = ends[ends["row"] == exact_toy.ROWS[0]].set_index("series")["mean"]
    difference = ends["beta = 1 (backward KL)"] - ends["beta = 0.5 (Jeffreys)"]
    assert found.mean == pytest.approx(difference)


def test_figures_are_written_but_not_for_shipped_results(tmp_path, monkeypatch):
    """Four files with the headline in the record; nothing when the files are there already."""
    from bondlab.study import plots

    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path))
    table = exact.law("a", [0.5, 0.5], [1, 2], 2, settings(draws=100))
    figure = plots.bars_with_intervals(table, [plots.Panel("a", "Law", "probability")])
    numbers = [exact.headline("share", Interval(0.5, 0.4, 0.6, 0.05, 100), "")]
    exact.save(figure, "fig_a", table, numbers, settings(profile="shipped"))
    assert list(tmp_path.iterdir()) == []
    exact.save(figure, "fig08_j_bond_reward", table, numbers, settings())
    folder, stem = tmp_path / "smoke" / "exact", "fig08_j_bond_reward"
    written = sorted(path.name for path in folder.iterdir())
    assert written == [f"{stem}.{kind}" for kind in ("csv", "json", "png", "svg")]
    record = json.loads((folder / f"{stem}.json").read_text())
    assert record["paper_figure"] == "8" and record["headline"][0]["samples"] == 100
    assert len(pd.read_csv(folder / f"{stem}.csv")) == len(table)
