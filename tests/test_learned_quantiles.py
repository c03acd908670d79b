"""Predictions held against the bank: unbiased for a known truth, and blind to no kind of error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bondlab import quantiles
from bondlab.study import calibration
from bondlab.study.calibration import CONSTANT, COUNTED, LEARNED


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
        index = np.indices(reward.shape)
        parts.append(pd.DataFrame({
            "step": step, "source": source, "prompt": index[0].ravel(), "sample": index[1].ravel(),
            "reward": reward.ravel(), "predicted_quantile": predict(reward).ravel(),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def one_source(table: pd.DataFrame, source: str) -> pd.DataFrame:
    return table[table["source"] == source]


def errors(table: pd.DataFrame) -> pd.Series:
    found = calibration.error_curves(table)
    return found.set_index(["source", "series"])["mean"]


# -- shares ----------------------------------------------------------------------------------------


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


def test_a_policys_share_is_the_quantile_that_training_takes():
    """Where at least one bank sample is beaten, so that no floor is used."""
    import torch

    table = evaluation(prompts=6)
    found = one_source(calibration.observed(table), "policy").sort_values(["prompt", "sample"])
    grids = [
        torch.tensor(one_source(table, s).pivot(index="prompt", columns="sample", values="reward")
                     .to_numpy())
        for s in ("policy", "reference")
    ]  # fmt: skip
    expected = quantiles.empirical(*grids).flatten().numpy()
    beaten = found["share"].to_numpy() > 0
    assert beaten.any() and found["share"][beaten].tolist() == pytest.approx(expected[beaten])


@pytest.mark.parametrize("damage", ["column", "value", "bank"])
def test_runs_without_predictions_are_refused(damage):
    table = evaluation(prompts=2)
    if damage == "column":
        table = table.drop(columns="predicted_quantile")
    elif damage == "value":
        table.loc[3, "predicted_quantile"] = np.nan
    else:
        table = table[(table["source"] == "policy") | (table["sample"] < 2)]
    with pytest.raises(ValueError, match="calibration needs"):
        calibration.observed(table)


# -- squared errors --------------------------------------------------------------------------------


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


def test_a_biased_prediction_has_the_square_of_its_bias():
    """p + 0.2 throughout: 0.04."""
    found = errors(calibration.observed(evaluation(lambda p: p + 0.2, prompts=1500)))
    assert found["policy", LEARNED] == pytest.approx(0.04, abs=0.003)


def test_counting_16_samples_is_simulated():
    """Predictions that are counted in 16 further samples have the error of the series COUNTED."""
    rng = np.random.default_rng(1)
    table = evaluation(lambda p: rng.binomial(16, p) / 16, prompts=1500)
    found = errors(calibration.observed(table))
    assert found["policy", LEARNED] == pytest.approx(found["policy", COUNTED], abs=0.002)


# -- reliability -----------------------------------------------------------------------------------


def test_a_calibrated_model_lies_on_the_diagonal():
    """Truth predicted: nearly all of ten bins' intervals hold the bin's mean prediction, and the
    calibration error is what chance gives.
    """
    table = one_source(calibration.observed(evaluation()), "policy")
    bins = calibration.reliability(table)
    assert len(bins) == 10 and bins["count"].sum() == len(table)
    inside = (bins["low"] <= bins["x"]) & (bins["x"] <= bins["high"])
    assert inside.sum() >= 8
    error, chance = calibration.calibration_error(table)
    assert error.mean == pytest.approx(chance, rel=0.5) and error.low < chance < error.high


def test_an_overconfident_model_leaves_it():
    """Predicting 0 below and 1 above the median: half of [0, 1/2] is 1/4, so the gap is 1/4."""
    table = calibration.observed(evaluation(lambda p: np.where(p < 0.5, 0.0, 1.0)))
    bins = calibration.reliability(one_source(table, "policy"))
    assert bins["x"].tolist() == [0, 1]
    assert bins["mean"].tolist() == pytest.approx([0.25, 0.75], abs=0.03)
    assert bins["low"].iloc[0] > 0.2 and bins["high"].iloc[1] < 0.8
    error, chance = calibration.calibration_error(one_source(table, "policy"))
    assert error.mean == pytest.approx(0.25, abs=0.02) and error.low > 5 * chance


def test_completions_of_one_document_do_not_count_as_independent():
    """Twenty copies of each completion leave the interval as wide as it was."""
    table = one_source(calibration.observed(evaluation(prompts=60)), "policy")
    copies = pd.concat([table] * 20, ignore_index=True)
    once, often = (calibration.reliability(t, bins=2) for t in (table, copies))
    assert (often["high"] - often["low"]).tolist() == pytest.approx(
        (once["high"] - once["low"]).tolist()
    )


def test_intervals_of_the_calibration_error_cover_a_known_gap():
    """Predicting p/2: the gap is the mean of p/2, 1/4; of 60 studies some 95 % cover it."""
    hits = 0
    for seed in range(60):
        table = calibration.observed(evaluation(lambda p: p / 2, prompts=30, seed=seed))
        error, _ = calibration.calibration_error(one_source(table, "policy"))
        hits += error.low <= 0.25 <= error.high
    assert hits >= 52  # 57 expected; fewer than 52 has a chance below 1 %


# -- order -----------------------------------------------------------------------------------------


def test_order_within_prompts_is_told_from_order_across():
    """Predictions that know the prompt alone (its mean share) order nothing within it; those that
    follow the truth do both; reversed ones do the opposite.
    """
    table = calibration.observed(evaluation(prompts=60))
    table = one_source(table, "policy").copy()
    right = calibration.rank_correlations(table)
    assert all(interval.low > 0.7 for interval in right.values())
    wrong = calibration.rank_correlations(table.assign(predicted=1 - table["predicted"]))
    assert all(interval.high < -0.7 for interval in wrong.values())
    means = table.groupby("prompt")["share"].transform("mean")
    prompt_only = calibration.rank_correlations(table.assign(predicted=means))
    assert np.isnan(prompt_only["within prompts"].mean)
    assert 0.2 < prompt_only["across prompts"].low < prompt_only["across prompts"].mean < 0.7


def test_nothing_is_said_of_a_constant_prediction():
    table = calibration.observed(evaluation(lambda p: 0 * p + 0.5, prompts=20))
    found = calibration.rank_correlations(one_source(table, "policy"))
    assert all(np.isnan(interval.mean) for interval in found.values())


def test_the_summary_has_every_measure_of_both_sources():
    tables = [
        calibration.observed(evaluation(prompts=20, step=step, seed=seed), seed)
        for step in (0, 2) for seed in (0, 1)
    ]  # fmt: skip
    found = calibration.summary(pd.concat(tables), [0, 2])
    assert found.groupby(["source", "step"])["measure"].count().tolist() == [7] * 4
    assert found["value"].notna().all()
