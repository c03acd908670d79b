"""Learned quantiles: predictions held against a noisy bank, and what learning costs and saves."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from bondlab.algorithms import bond
from bondlab.config import Config
from bondlab.quantiles import Learned
from bondlab.results import RunFolder
from bondlab.study import calibration, learned_quantiles
from bondlab.study.calibration import CONSTANT, COUNTED
from bondlab.study.experiment import RunSettings
from bondlab.study.learned_quantiles import FRESH, LEARNED, STORED
from bondlab.study.sweep import Spec
from bondlab.tasks import TaskSettings


def evaluation(
    predict=lambda p: p, prompts: int = 400, k: int = 32, own: int = 4, step: int = 0, seed: int = 0
) -> pd.DataFrame:
    """An evaluation whose rewards are their own true quantiles: uniform, for reference and policy.

    `predict` makes the predicted quantile of the true one.
    """
    rng = np.random.default_rng(seed)
    parts = []
    for source, count in (("policy", own), ("reference", k)):
        reward = rng.random((prompts, count))
        prompt, sample = (index.ravel() for index in np.indices(reward.shape))
        table = pd.DataFrame({"prompt": prompt, "sample": sample, "reward": reward.ravel()})
        table["predicted_quantile"] = predict(reward).ravel()
        parts.append(table.assign(step=step, source=source))
    return pd.concat(parts, ignore_index=True)


def of_policy(*arguments, **named) -> pd.DataFrame:
    """What is observed of the policy's completions."""
    return calibration.observed(evaluation(*arguments, **named)).query("source == 'policy'")


def errors(table: pd.DataFrame) -> pd.Series:
    found = calibration.squared_errors(table)
    return found.groupby(["source", "series"])["squared_error"].mean()


# -- shares and squared errors ---------------------------------------------------------------------


def test_shares_by_hand():
    """Bank 1, 2, 2, 4: a policy reward of 2 has 3 of 4 at or below, of 0.5 none; of the bank's own
    samples 1 has none of the other three, each 2 has the 1 and the other 2, and 4 has all three.
    """
    rows = [("policy", 2.0), ("policy", 0.5)] + [("reference", r) for r in (1.0, 2.0, 2.0, 4.0)]
    table = pd.DataFrame(rows, columns=["source", "reward"])
    table = table.assign(step=0, prompt=0, sample=range(6), predicted_quantile=0.5)
    found = calibration.observed(table, seed=3)
    assert found["share"].tolist() == pytest.approx([3 / 4, 0, 0, 2 / 3, 2 / 3, 1])
    assert found["draws"].tolist() == [4, 4, 3, 3, 3, 3]
    assert set(found["seed"]) == {3}


def test_runs_without_predictions_or_with_too_few_samples_are_refused():
    table = evaluation(prompts=2)
    lacking = table.assign(predicted_quantile=table["predicted_quantile"].mask(table.index == 3))
    few = table[(table["source"] == "policy") | (table["sample"] < 2)]
    for wrong in (table.drop(columns="predicted_quantile"), lacking, few):
        with pytest.raises(ValueError, match="calibration needs"):
            calibration.observed(wrong)


@pytest.mark.parametrize("k", [4, 32])
def test_squared_errors_are_unbiased_whatever_the_bank(k):
    """With p uniform: a prediction of the truth has error 0, counting 16 samples E p(1-p)/16 =
    1/96, and 1/2 has the variance of p, 1/12. Without the correction the first would be 1/(6k).
    """
    found = errors(calibration.observed(evaluation(prompts=1500, k=k)))
    for source in ("policy", "reference"):
        assert found[source, LEARNED] == pytest.approx(0, abs=0.002)
        assert found[source, COUNTED] == pytest.approx(1 / 96, rel=0.05)
        assert found[source, CONSTANT] == pytest.approx(1 / 12, rel=0.05)


def test_the_error_of_a_prediction_is_its_bias_and_its_noise():
    """p + 0.2 throughout: 0.04. Counting in 16 further samples has the error of COUNTED."""
    found = errors(of_policy(lambda p: p + 0.2, prompts=1500))
    assert found["policy", LEARNED] == pytest.approx(0.04, abs=0.003)
    rng = np.random.default_rng(1)
    found = errors(of_policy(lambda p: rng.binomial(16, p) / 16, prompts=1500))
    assert found["policy", LEARNED] == pytest.approx(found["policy", COUNTED], abs=0.002)


# -- reliability -----------------------------------------------------------------------------------


def test_a_calibrated_model_lies_on_the_diagonal():
    """Truth predicted: nearly all of ten bins' intervals hold the bin's mean prediction, and the
    calibration error is what chance gives.
    """
    table = of_policy()
    bins = calibration.reliability(table)
    assert len(bins) == 10 and bins["count"].sum() == len(table)
    assert bins["x"].between(bins["low"], bins["high"]).sum() >= 8
    error, chance = calibration.calibration_error(table)
    assert error.mean == pytest.approx(chance, rel=0.5) and error.low < chance < error.high


def test_an_overconfident_model_leaves_it():
    """Predicting 0 below and 1 above the median: half of [0, 1/2] is 1/4, so the gap is 1/4."""
    table = of_policy(lambda p: np.where(p < 0.5, 0.0, 1.0))
    bins = calibration.reliability(table)
    assert bins["x"].tolist() == [0, 1]
    assert bins["mean"].tolist() == pytest.approx([0.25, 0.75], abs=0.03)
    assert bins["low"].iloc[0] > 0.2 and bins["high"].iloc[1] < 0.8
    error, chance = calibration.calibration_error(table)
    assert error.mean == pytest.approx(0.25, abs=0.02) and error.low > 5 * chance


def test_completions_of_one_document_do_not_count_as_independent():
    """Twenty copies of each completion leave the interval as wide as it was."""
    table = of_policy(lambda p: np.where(p < 0.5, 0.0, 1.0), prompts=60)
    copies = pd.concat([table] * 20, ignore_index=True)
    once, often = (calibration.reliability(t) for t in (table, copies))
    columns = ["low", "high"]
    assert often[columns].to_numpy() == pytest.approx(once[columns].to_numpy())


def test_intervals_of_the_calibration_error_cover_a_known_gap():
    """Predicting p/2: the gap is the mean of p/2, 1/4; of 60 studies some 95 % cover it."""
    hits = 0
    for seed in range(60):
        error, _ = calibration.calibration_error(of_policy(lambda p: p / 2, prompts=30, seed=seed))
        hits += error.low <= 0.25 <= error.high
    assert hits >= 52  # 57 expected; fewer than 52 has a chance below 1 %


# -- order and tables ------------------------------------------------------------------------------


def test_order_within_prompts_is_told_from_order_across():
    """Predictions that know the prompt alone (its mean share) order nothing within it; those that
    follow the truth do both; reversed ones do the opposite; constant ones neither.
    """
    table = of_policy(prompts=60)
    right = calibration.rank_correlations(table)
    assert all(interval.low > 0.7 for interval in right.values())
    wrong = calibration.rank_correlations(table.assign(predicted=1 - table["predicted"]))
    assert all(interval.high < -0.7 for interval in wrong.values())
    means = table.groupby("prompt")["share"].transform("mean")
    prompt_only = calibration.rank_correlations(table.assign(predicted=means))
    assert np.isnan(prompt_only["within prompts"].mean)
    assert 0.2 < prompt_only["across prompts"].low < prompt_only["across prompts"].mean < 0.7
    constant = calibration.rank_correlations(table.assign(predicted=0.5))
    assert all(np.isnan(interval.mean) for interval in constant.values())


def test_tables_hold_both_sources_at_every_step():
    """Bins at the last step with the diagonal, all completions in each histogram, errors at each
    step; the summary is of the last, where p + 0.2 has the squared error 0.04 (0.03 and more in 20
    prompts)."""
    parts = []
    for step, seed in product((0, 1, 2), (0, 1)):
        table = evaluation(lambda p, s=step: p + s / 10, 20, step=step, seed=seed)
        parts.append(calibration.observed(table, seed))
    table = pd.concat(parts)
    found = calibration.curve_table(table)
    bins = found[found["panel"] == "reliability"].groupby(["row", "kind"])["series"].unique()
    for source in ("policy", "reference"):
        assert bins[source, "joined"].tolist() == ["learned"]
        assert bins[source, "formula"].tolist() == ["calibrated"]
    shares = found[found["panel"] == "predicted"].groupby(["row", "series"])["mean"].sum()
    assert len(shares) == 4 and shares.tolist() == pytest.approx([100] * 4)
    steps = found[found["panel"] == "error"].groupby(["row", "series"])["x"].apply(list)
    assert len(steps) == 6 and all(x == [0, 1, 2] for x in steps)
    words = calibration.summary(table).set_index("measure")
    assert words.columns.tolist() == ["policy", "reference"] and len(words) == 7
    assert 0.03 < float(words.loc["mean squared error of p, learned", "policy"].split()[0]) < 0.05


# -- what a step costs -----------------------------------------------------------------------------

STEPS, PROMPTS, DOCUMENTS = 10, 8, 40
ALGORITHMS = {
    STORED: (bond(8, 0.5), False),
    FRESH: (bond(8, 0.5), True),
    LEARNED: (bond(8, 0.5, quantile_model=Learned()), False),
}
SECONDS = {STORED: 2.0, FRESH: 5.0, LEARNED: 3.0}


def steps(folder, seconds: dict[str, float] = SECONDS, noise: float = 0.0) -> pd.DataFrame:
    """`learned_quantiles.steps` of made-up records; a sample takes 0.2 s to draw, 0.01 to score."""
    rng, parts = np.random.default_rng(0), []
    for series, (algorithm, fresh) in ALGORITHMS.items():
        config = Config(steps=STEPS, prompts_per_step=PROMPTS, bank_samples=32, fresh=fresh)
        task = TaskSettings(name="tiny", train=DOCUMENTS, evaluate=2)
        run = RunFolder.of(folder, {"series": series})
        for step in range(1, STEPS + 1):
            taken = seconds[series] + noise * rng.normal()
            run.append({"step": step, "loss": 0.0, "seconds": taken})
        spec = Spec(task, algorithm, config, {"series": series, "seed": 0})
        parts.append(learned_quantiles.steps(spec, run))
    return pd.concat(parts).assign(drawing=0.2, scoring=0.01)


def test_counts_of_a_step(tmp_path):
    """8 documents, 2 completions of the policy each. Drawn anew come 8 for Best-of-8 and 16 for the
    quantile, 8 x 24; stored 40 x 32 samples over 10 steps are 128 a step. One slow step of
    ten moves no median."""
    taken = steps(tmp_path)
    taken.iloc[4, taken.columns.get_loc("seconds")] = 60.0
    found = learned_quantiles.cost_table(taken)
    counts = found.set_index(["panel", "series", "group"])["mean"].sort_index()
    own, anew, store = learned_quantiles.PARTS
    assert counts["completions", own].to_dict() == dict.fromkeys(ALGORITHMS, 16)
    assert counts["completions", anew].to_dict() == {STORED: 0, FRESH: 192, LEARNED: 0}
    assert counts["completions", store].to_dict() == {STORED: 128, FRESH: 0, LEARNED: 128}
    assert counts["seconds", "the whole step"].to_dict() == SECONDS


def test_break_even_by_hand(tmp_path):
    """The model adds 1 s. A fresh sample costs (5 - 2) s / 192. Learning saves 15 samples for each
    of 8 documents a step, or of 40 documents in 10 steps: ties at 1/120 and 1/60 s a sample. The
    reward call, 0.01 s of it, must be dearer by the difference to 3/192. Ten times the noise makes
    intervals ten times as wide; the first row's is that of a bootstrap of our own.
    """
    found = learned_quantiles.break_even(steps(tmp_path / "exact"))["seconds"].tolist()
    assert found[:4] == pytest.approx([0.2, 0.01, 1, 3 / 192])
    ties = [[tie, 0.01 + tie - 3 / 192] for tie in (1 / 120, 1 / 60)]
    assert found[4:] == pytest.approx(ties[0] + ties[1])
    taken = [steps(tmp_path / str(noise), noise=noise) for noise in (0.05, 0.5)]
    noisy = [learned_quantiles.break_even(table)[2:] for table in taken]
    assert all(x["seconds"].between(x["low"], x["high"]).all() for x in noisy)
    widths = [(x["high"] - x["low"]).to_numpy() for x in noisy]
    assert widths[1] == pytest.approx(10 * widths[0])
    rng, seconds = np.random.default_rng(9), taken[0].set_index("series")["seconds"]
    own = [np.median(rng.choice(seconds[s], (4000, STEPS)), axis=1) for s in (LEARNED, STORED)]
    expected = np.quantile(own[0] - own[1], [0.025, 0.975])
    found = noisy[0].iloc[0][["low", "high"]].tolist()
    assert found == pytest.approx(expected, abs=0.1 * np.ptp(expected))


@pytest.mark.usefixtures("runs")
def test_the_smoke_runs_bring_predictions_and_times():
    """Three runs of two steps; predictions of the learned one alone, at its three evaluations."""
    experiment, settings = learned_quantiles.EXPERIMENT, RunSettings(profile="smoke", workers=1)
    found = learned_quantiles.beside(experiment.results(settings), settings)
    taken = found["steps"].groupby("series")["step"].apply(list).to_dict()
    assert taken == dict.fromkeys((STORED, FRESH, LEARNED), [1, 2])
    assert (found["steps"][["drawing", "scoring"]] > 0).all(axis=None)
    assert sorted(found["predictions"]["step"].unique()) == [0, 1, 2]
    start = found["predictions"].query("step == 0")
    assert (start["predicted"] == 0.5).all()  # the head starts at zero
    assert len(found.manifests) == 3 and len(found["evaluations"]) == 3 * 3 * 4


def test_the_error_of_a_calibrated_model_is_what_chance_gives():
    """Over ten studies."""
    found = [calibration.calibration_error(of_policy(prompts=100, seed=s)) for s in range(10)]
    ratio = np.mean([error.mean for error, _ in found]) / np.mean([chance for _, chance in found])
    assert ratio == pytest.approx(1, abs=0.2)


def test_intervals_of_calibration_go_by_prompts_and_are_of_the_ratio():
    """Seeds of one prompt are no further prompts; what does not scatter has no width."""
    two = pd.concat([of_policy(prompts=30), of_policy(prompts=30).assign(seed=1)])
    assert calibration.rank_correlations(two)["within prompts"].count == 30
    same = of_policy(prompts=60).assign(predicted=lambda t: t["share"])
    assert calibration.rank_correlations(same)["across prompts"].low == pytest.approx(1)
    found = calibration.reliability(of_policy(prompts=60).assign(share=0.5))
    assert found[["mean", "low", "high"]].to_numpy() == pytest.approx(0.5)
