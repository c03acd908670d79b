"""The reference at lower temperatures, and how trade-off figures show it."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

from bondlab import measures
from bondlab.report.plots import Panel
from bondlab.study import alignment, cooling, j_bond, report
from bondlab.study.cooling import PROFILES, SAMPLES
from bondlab.study.j_bond import J_BOND, NOISE
from bondlab.study.judge import tiny_judge

TEMPERATURES = PROFILES["smoke"]
PANELS = (Panel("reward", "Reward", "r"), Panel("judge", "Judge", "j"))


@pytest.fixture(scope="module")
def found(shared_folders):
    """J-BOND on noise at profile smoke, which comes with the table."""
    settings = alignment.AlignmentSettings(profile="smoke", task="sentiment", policy="", workers=1)
    return alignment.results(j_bond.EXPERIMENT, settings, NOISE[:1])


def test_each_temperature_is_measured_as_a_policy_is(found):
    """At temperature 1 it is the reference itself: no KL, and about the task's own reward of it."""
    table = found["cooling"]
    assert len(table) == len(TEMPERATURES) * 4 and table[["reward", "judge"]].notna().all(axis=None)
    means = table.groupby("temperature")[["kl_to_reference", "entropy", "reward"]].mean()
    assert means.index.tolist() == sorted(TEMPERATURES)
    assert means.loc[0.7, "entropy"] < means.loc[1.0, "entropy"]
    assert means.loc[1.0, "kl_to_reference"] == pytest.approx(0, abs=1e-4)
    bank = found["baselines"].query("n == 1")["reward"].mean()
    assert means.loc[1.0, "reward"] == pytest.approx(bank, abs=0.1)


def test_it_is_a_path_in_every_tradeoff_whichever_series_are_shown(found):
    table = report.tradeoff(found.where(series=NOISE), PANELS)
    path = table[(table["series"] == report.COOLED) & (table["panel"] == "reward")]
    assert path["point"].tolist() == [f"T = {t:g}" for t in TEMPERATURES]
    means = found["cooling"].groupby("temperature")[["reward", "kl_to_reference"]].mean()
    expected = means.loc[list(TEMPERATURES)]
    assert path["mean"].tolist() == pytest.approx(expected["reward"].tolist())
    assert path["x"].tolist() == pytest.approx(expected["kl_to_reference"].tolist())
    bare = {name: part for name, part in found.tables.items() if name != "cooling"}
    without = report.tradeoff(type(found)(found.experiment, "smoke", tables=bare), PANELS)
    assert report.COOLED not in set(without["series"])


def test_a_cold_reference_is_far_away_and_what_was_measured_is_kept(found):
    """At 0.02 a completion is nearly certain: its log ratio to the reference, which finds 100 words
    about as likely, is log 100 a token."""
    run = next(s for s in j_bond.EXPERIMENT.specs("smoke") if s.labels["series"] == J_BOND)
    drawn, manifest = cooling.evaluation(run, 0.02)
    own = drawn.query("source == 'policy'")
    assert manifest["config"]["temperature"] == 0.02
    gap = (own["log_prob"] - own["reference_log_prob"]) / own["tokens"]
    assert len(own) == 4 * SAMPLES and gap.mean() > 3
    again = cooling.measured(run, "smoke")
    pd.testing.assert_frame_equal(again, found["cooling"])
    model = run.build().model
    cold = cooling.cooled(model, 0.7)
    assert (cold.temperature, model.temperature) == (0.7, 1.0) and cold.model is model.model


def test_what_is_measured_once_is_named_by_temperature_and_prompts(monkeypatch):
    run = j_bond.EXPERIMENT.specs("smoke")[0]
    fewer = replace(run, task=run.task.model_copy(update={"evaluate": 3}))
    monkeypatch.setattr(cooling, "once", lambda kind, name, measure: name)
    names = [str(cooling.evaluation(*of)) for of in ((run, 0.7), (run, 0.9), (fewer, 0.7))]
    assert len({*names}) == 3


def test_its_measures_are_means_over_a_prompts_completions(found):
    """The judge's, and the backward KL to Best-of-n at the run's own n."""
    run = j_bond.EXPERIMENT.specs("smoke")[0]
    drawn, _ = cooling.evaluation(run, 0.7)
    own = drawn[drawn["source"] == "policy"].pivot(index="prompt", columns="sample")
    table = found["cooling"].query("temperature == 0.7").sort_values("prompt")
    given = tiny_judge(run.build().eval_prompts, own["text"].to_numpy().tolist())
    assert table["judge"].tolist() == pytest.approx(given.mean(1).tolist())
    kl, quantile = (torch.tensor(own[name].to_numpy(float)) for name in ("kl", "quantile"))
    expected = measures.backward_kl(kl, quantile, int(run.labels["n"]))
    assert table["backward_kl"].tolist() == pytest.approx(expected.tolist())
