"""Iterative BOND on enumerable policies: Best-of-n, round after round, is Best-of-n^t."""

from __future__ import annotations

import json
import math
from functools import partial

import pytest
import torch
from pydantic import ValidationError

from bondlab import toy
from bondlab.study import exact_iteration
from bondlab.study.exact_iteration import Settings

F64 = torch.float64


def free(n: int, seed: int = 1) -> tuple[toy.ToyPolicy, toy.Problem]:
    """A free policy: one token of one context, so any law of 8 outcomes. Rewards have ties."""
    policy = toy.ToyPolicy(2, vocabulary=8, length=1, seed=seed)
    rewards = toy.draw_rewards(policy, 1.0, seed + 1).round()
    assert len(rewards[0].unique()) < 8
    return policy, toy.Problem(policy.log_probs().detach(), rewards, n)


def test_composition_holds_for_six_rounds():
    """Best-of-2 and Best-of-4, up to six times, ties included: Best-of-n^t (eq. 16) to 1e-10."""
    table = exact_iteration.composition(Settings(profile="shipped"))
    assert table["N"].tolist() == [2, 4, 8, 16, 32, 64, 4, 16, 64, 256, 1024, 4096]
    assert table["relative difference"].max() < 1e-10


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [2, 4])
def test_best_of_n_is_the_minimum_of_a_free_policy(n, beta):
    """At Best-of-n of the anchor the divergence is 0, its least value, and so is its gradient by
    every logit; at the anchor itself neither is."""
    policy, problem = free(n)
    logits, objective = policy.logits, partial(toy.jeffreys, problem=problem, beta=beta)
    for target, value in ((False, 1e-3), (True, 1e-12)):
        if target:
            with torch.no_grad():
                logits[:, 0] = problem.log_target
        loss = objective(policy.log_probs())
        slope = torch.autograd.grad(loss, logits)[0].abs().max()
        assert (loss.abs() < value) == (slope < value) == target


@pytest.mark.parametrize("n", [2, 4])
def test_a_free_policy_follows_best_of_n_to_the_t(n):
    """Within 2e-3 nats of it both ways in each of three rounds, where a fixed anchor, whose log
    quantile stays that of Best-of-n, ends more than 0.1 away. (What is left is in the worst
    outcomes: 300 steps of 0.05 move no logit as far as Best-of-64 wants theirs.)"""
    policy, problem = free(n)
    settings = Settings(profile="smoke", rounds=3, steps=300)
    rows = exact_iteration.iterate(policy, problem, "moving", settings)
    assert [row["round"] for row in rows] == [0, 1, 2, 3]
    for row in rows:
        assert max(row["backward_kl"], row["forward_kl"]) < 2e-3
        assert row["log_quantile"] == pytest.approx(row["target_log_quantile"], abs=5e-3)
        assert row["kl_to_reference"] == pytest.approx(row["target_kl_to_reference"], abs=5e-2)
    policy, problem = free(n)
    fixed = exact_iteration.iterate(policy, problem, "fixed", settings)
    assert fixed[3]["log_quantile"] == pytest.approx(rows[1]["target_log_quantile"], abs=5e-3)
    assert fixed[3]["forward_kl"] > 0.1


def test_measures_by_hand():
    """(0.5, 0.3, 0.2), rewards ascending, n = 2: Best-of-2 is (0.25, 0.39, 0.36), p_<= is (0.5,
    0.8, 1). After one round a policy still at the reference has these distances; Best-of-2^0 is
    the reference itself."""
    reference = torch.tensor([[0.5, 0.3, 0.2]], dtype=F64)
    best, log_p = (0.25, 0.39, 0.36), (math.log(0.5), math.log(0.8), 0.0)
    pairs = list(zip(reference[0].tolist(), best, strict=True))
    forward = sum(q * math.log(q / p) for p, q in pairs)
    problem = toy.Problem(reference.log(), torch.tensor([[1.0, 2.0, 3.0]], dtype=F64), 2)
    found = exact_iteration.measure(reference.log(), problem, 1)
    assert found == pytest.approx(
        {
            "round": 1,
            "backward_kl": sum(p * math.log(p / q) for p, q in pairs),
            "forward_kl": forward,
            "log_quantile": sum(p * x for (p, _), x in zip(pairs, log_p, strict=True)),
            "kl_to_reference": 0.0,
            "target_log_quantile": sum(q * x for q, x in zip(best, log_p, strict=True)),
            "target_kl_to_reference": forward,
        },
        abs=1e-12,
    )
    start = exact_iteration.measure(reference.log(), problem, 0)
    assert start["forward_kl"] == pytest.approx(0, abs=1e-12)
    assert start["target_log_quantile"] == pytest.approx(start["log_quantile"])


@pytest.fixture(scope="module")
def records():
    return exact_iteration.rounds(Settings(profile="smoke", steps=60))


def test_a_bigram_policy_follows_closer_when_its_anchor_moves(records):
    """Both start at the reference and share the first round, in which the anchors agree. After the
    second the moving anchor is nearer to Best-of-n^2 in every problem, but not on it."""
    wide = records.set_index(["anchor", "n", "problem", "round"])["forward_kl"].unstack("anchor")
    assert wide.xs(0, level="round").abs().max().max() < 1e-12
    one, two = wide.xs(1, level="round"), wide.xs(2, level="round")
    assert one["moving"].tolist() == one["fixed"].tolist()
    assert (two["moving"] < two["fixed"]).all() and (two["moving"] > 0.01).all()


def test_curves_are_means_over_problems(records):
    """2 sizes, 3 rounds: 3 panels of both policies and 2 of the target, which is on itself."""
    table = exact_iteration.curve_table(records)
    assert len(table) == 2 * 3 * (2 * 3 + 2)
    place = {"row": "n = 4", "series": exact_iteration.SERIES["target"], "panel": "log_quantile"}
    chosen = table[(table[list(place)] == list(place.values())).all(axis=1)]
    own = records[(records["n"] == 4) & (records["anchor"] == "moving") & (records["round"] == 2)]
    found = chosen[chosen["step"] == 2].iloc[0]
    assert found["mean"] == pytest.approx(own["target_log_quantile"].mean())
    assert found["low"] < found["mean"] < found["high"] and found["count"] == 2
    policy = table[(table["series"] == exact_iteration.SERIES["moving"]) & (table["step"] == 2)]
    policy = policy[policy["row"] == "n = 4"].set_index("panel")["mean"]
    for name in ("log_quantile", "kl_to_reference", "forward_kl"):
        assert policy[name] == pytest.approx(own[name].mean())


def test_gaps_pair_policy_and_target(records):
    """One row for each anchor, n, round past the start and measure: policy less target."""
    found = exact_iteration.gaps(records)
    assert len(found) == 2 * 2 * 2 * 4
    own = records[(records["n"] == 2) & (records["anchor"] == "fixed") & (records["round"] == 2)]
    chosen = found[(found["n"] == 2) & (found["anchor"] == "fixed") & (found["round"] == 2)]
    gap = chosen.set_index("measure")["gap"]
    differences = own["log_quantile"] - own["target_log_quantile"]
    assert gap["log_quantile"].mean == pytest.approx(differences.mean())
    assert gap["backward_kl"].mean == pytest.approx(own["backward_kl"].mean())
    assert chosen["N"].unique().tolist() == [4]


def test_figure_is_written_with_its_headline_but_not_when_shipped(records, tmp_path, monkeypatch):
    """Best-of-16 is the second round of n = 4: four measures of two anchors in the record."""
    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path))
    exact_iteration.publish(records, Settings(profile="shipped"), "xsum_iterative")
    assert not list(tmp_path.iterdir())
    exact_iteration.publish(records, Settings(profile="smoke"), "xsum_iterative")
    record = json.loads((tmp_path / "smoke" / "xsum_iterative" / "toy_rounds.json").read_text())
    assert len(record["headline"]) == 8 and record["experiment"] == "xsum_iterative"
    assert record["settings"]["rounds"] == 2


def test_settings_refuse_what_cannot_run():
    with pytest.raises(ValidationError, match="2 or more"):
        Settings(profile="smoke", problems=1)
    assert Settings(profile="smoke").steps < Settings(profile="study").steps
