"""The numbers behind the figures over training and of the trade-off, from tables made by hand."""

from __future__ import annotations

import json
import math
from itertools import product

import pandas as pd
import pytest

from bondlab import best_of_n, measures
from bondlab.study import figures, plots, tradeoff
from bondlab.study.collected import Results
from bondlab.study.figures import DIVERGENCES, GAINS

STEPS, PROMPTS = (0, 20, 40), (0, 1, 2)
RUNS = (("N = 8", 8, 0), ("iterative, n = 2", 2, 20))


def results(row: str = "", runs: tuple = RUNS, seeds: int = 1) -> Results:
    """The run of index i has, at step s and on prompt p, the value i + s / 100 + p / 10 of every
    measure, but a log quantile that lies 3 lower."""
    manifest = {"profile": "laptop", "run": "0123", "manifest": "{}"}
    labels = [
        {"row": row, "series": series, "n": n, "every": every, "seed": seed, "index": i}
        for seed in range(seeds) for i, (series, n, every) in enumerate(runs)
    ]  # fmt: skip
    lines = [
        {**label, "step": step, "prompt": prompt,
         "value": label["index"] + step / 100 + prompt / 10}
        for label, step, prompt in product(labels, STEPS, PROMPTS)
    ]  # fmt: skip
    table = pd.DataFrame(lines).assign(profile="laptop", reference_samples=1)
    for name in ("p_reward", "backward_kl", "forward_kl", "kl_to_reference"):
        table[name] = table["value"]
    table["log_quantile"] = table["value"] - 3
    base = pd.DataFrame([
        {"n": n, "prompt": p, "p_reward": n + p / 10, "profile": profile,
         "kl_to_reference": best_of_n.kl_bound(n), "log_quantile": -1 / n}
        for n in (1, 2, 8) for p in PROMPTS for profile in ("laptop", "study")
    ])  # fmt: skip
    return Results(table, base, table.head(0), pd.DataFrame([label | manifest for label in labels]))


def test_curves_keep_rows_series_and_steps_in_their_order_of_appearance():
    """The mean of i + s / 100 + (0, 0.1, 0.2) is i + s / 100 + 0.1; the half width is that of
    three values 0.1 apart."""
    runs = [("zebra", 8, 0), ("ant", 8, 0)]
    parts = [results(row, runs, seeds=2).evaluations for row in ("N = 8", "N = 4")]
    found = results()
    found = Results(pd.concat(parts), found.baselines, found.examples, found.runs)
    table = figures.curve_table(found, GAINS)
    expected = list(
        product(["N = 8", "N = 4"], ["p_reward", "log_quantile"], ["zebra", "ant"], STEPS)
    )
    assert list(table[["row", "panel", "series", "step"]].itertuples(index=False)) == expected
    first = table.query("row == 'N = 4' and panel == 'log_quantile' and series == 'ant'")
    assert first["mean"].tolist() == pytest.approx([1 - 2.9, 1.2 - 2.9, 1.4 - 2.9])
    assert first["count"].tolist() == [6, 6, 6]
    alone = figures.curve_table(results(), GAINS).iloc[0]
    band = measures.mean_interval([0, 0.1, 0.2])
    assert (alone["low"], alone["high"]) == pytest.approx((band.low, band.high))


def test_a_row_of_one_n_is_compared_with_theory_and_best_of_n():
    """Backward 7 - log 8, forward log 8 - 7/8; log quantile -1/8 of its own profile's samples."""
    drawn, _ = figures.figure(results("N = 8", RUNS[:1]), DIVERGENCES, "title")
    levels = [axes.lines[1].get_ydata()[0] for axes in drawn.axes]
    assert levels == pytest.approx([7 - math.log(8), math.log(8) - 7 / 8, -1 / 8])
    assert [axes.get_title()[:7] for axes in drawn.axes] == ["N = 8: "] * 3


def test_a_row_of_several_n_shows_when_the_anchor_moves_instead():
    """`every` = 20 over 40 steps: at step 20; a copy after the last step changes nothing drawn."""
    drawn, _ = figures.figure(results(), GAINS, "title")
    for axes in drawn.axes:
        assert [line.get_xdata()[0] for line in axes.lines[2:]] == [20]
    assert figures.anchor_marks(results(runs=RUNS[:1])) == []


def test_the_trade_off_pairs_each_measure_with_the_distance():
    """By hand: x is i + s / 100 + 0.1 on both panels, and so is the reward."""
    table = tradeoff.tradeoff_table(results())
    own = table[(table["kind"] == "path") & (table["series"] == "iterative, n = 2")]
    for panel, shift in (("p_reward", 0), ("log_quantile", -3)):
        part = own[own["panel"] == panel]
        assert part["x"].tolist() == pytest.approx([1.1, 1.3, 1.5])
        assert (part["mean"] - part["x"]).tolist() == pytest.approx([shift] * 3)
        assert (part["x_high"] - part["x"]).tolist() == pytest.approx(part["high"] - part["mean"])
        assert part["point"].tolist() == ["step 0", "step 20", "step 40"]
    assert table["series"].unique().tolist() == [
        "N = 8", "iterative, n = 2", "Best-of-N, sampled", "Best-of-N, formula",
    ]  # fmt: skip


def test_sampled_best_of_n_stands_at_the_bound():
    """Rewards n, n + 0.1, n + 0.2 over one profile's three documents, KL log n - (n-1)/n."""
    table = tradeoff.tradeoff_table(results())
    points = table[table["kind"] == "points"].set_index(["panel", "point"])
    reward = points.loc[("p_reward", "N = 8")]
    band = measures.mean_interval([8, 8.1, 8.2])
    assert reward["x"] == reward["x_low"] == reward["x_high"] == pytest.approx(math.log(8) - 7 / 8)
    assert [reward[end] for end in ("mean", "low", "high")] == pytest.approx(
        [band.mean, band.low, band.high]
    )
    assert points.loc[("log_quantile", "N = 2"), "mean"] == pytest.approx(-0.5)
    assert points.index.get_level_values("point").unique().tolist() == ["N = 2", "N = 8"]


def test_the_bound_runs_from_the_reference_through_best_of_n_past_every_run():
    """At N = e its KL is 1 - (e-1)/e = 1/e; the runs reach a KL of 1.5."""
    table = tradeoff.tradeoff_table(results())
    bound = table[table["kind"] == "formula"]
    assert set(bound["panel"]) == {"log_quantile"}
    assert bound.iloc[0][["x", "mean"]].tolist() == [0, -1]
    assert bound["x"].is_monotonic_increasing and bound["x"].iloc[-1] >= 1.5
    for size in (2, 8, math.e):
        near = (bound["mean"] + 1 / size).abs().idxmin()
        assert bound.loc[near, "x"] == pytest.approx(tradeoff.kl_of(size), abs=0.03)
        assert tradeoff.kl_of(size) == pytest.approx(math.log(size) - (size - 1) / size)


def one_sample_results() -> Results:
    """Log quantiles -log 2 / (N + 1) for N = 1, 2, 3 on the three steps: with k = 1 these are
    the measured ones of Best-of-N."""
    found = results()
    sizes = found.evaluations["step"] / 20 + 1
    noise = 0.01 * (found.evaluations["prompt"] - 1)
    found.evaluations["log_quantile"] = -math.log(2) / (sizes + 1) + noise
    return found


def test_effective_n_inverts_the_mean_and_the_intervals_ends():
    table = tradeoff.effective_n(one_sample_results())
    assert table["series"].unique().tolist() == ["N = 8", "iterative, n = 2"]
    assert table["mean"].tolist() == pytest.approx([1, 2, 3] * 2)
    band = measures.mean_interval([-math.log(2) / 2 + x for x in (-0.01, 0, 0.01)])
    expected = [-math.log(2) / end - 1 for end in (band.low, band.high)]
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx(expected)


def test_the_effective_n_table_sets_the_distance_spent_beside_the_one_needed():
    """After the last step N = 3, whose KL is log 3 - 2/3; spent are 0.5 and 1.5 on average."""
    table = tradeoff.effective_n_table(one_sample_results())
    assert table["series"].tolist() == ["N = 8", "iterative, n = 2"]
    assert [text.split(" ")[0] for text in table["effective N"]] == ["3.00", "3.00"]
    assert [text.split(" ")[0] for text in table["KL to reference"]] == ["0.500", "1.500"]
    assert table["KL of that Best-of-N"].tolist() == pytest.approx([math.log(3) - 2 / 3] * 2)


@pytest.mark.parametrize(
    ("publish", "what", "value"),
    [
        (tradeoff.publish_tradeoff, "N = 8: KL to reference after the last step", 0.5),
        (tradeoff.publish_effective_n, "N = 8: effective N after the last step", 3.0),
    ],
)
def test_a_published_figure_has_its_last_numbers_as_headline(
    publish, what, value, tmp_path, monkeypatch
):
    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path))
    monkeypatch.setattr(plots, "show", lambda drawn, text: None)
    publish("xsum_iterative", "effective_n", "shipped", one_sample_results(), "title")
    assert list(tmp_path.iterdir()) == []  # shipped figures are there already
    publish("xsum_iterative", "effective_n", "smoke", one_sample_results(), "title")
    record = json.loads((tmp_path / "smoke" / "xsum_iterative" / "effective_n.json").read_text())
    first = record["headline"][0]
    assert first["what"] == what and first["value"] == pytest.approx(value)
    assert first["low"] < value < first["high"]
    assert (first["samples"], first["seeds"]) == (3, 1)


def test_a_figure_without_runs_is_a_line_of_text(capsys):
    found = results().of([16])
    figures.publish("xsum_divergences", "fig10_divergences", "study", found, GAINS, "title")
    assert capsys.readouterr().out == "The profile study has no runs of this N.\n"
