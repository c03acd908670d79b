"""The tables of the enumerable policy: exact values where they are known, intervals that hold them.

Rounds of Best-of-n are Best-of-n^t; how many reference samples are enough, against autograd.
"""

from __future__ import annotations

import math
from functools import partial

import pandas as pd
import pytest
import torch
import toy_objectives
from pydantic import ValidationError

from bondlab import toy
from bondlab.toy import descents, exact, rounds, sample_size
from bondlab.toy.rounds import Scale
from bondlab.toy.sample_size import add_one, estimate_moments, floored

F64 = torch.float64


def settings(**changes: object) -> exact.Settings:
    chosen = {"profile": "smoke", "seed": 0, "n": 4, "sizes": [1, 2, 8], "draws": 0}
    return exact.Settings(**{**chosen, "problems": 0, "steps": 0, **changes})


def rows(table: pd.DataFrame, **labels: object) -> pd.DataFrame:
    return table[(table[list(labels)] == list(labels.values())).all(axis=1)]


# -- Best-of-N and J-BOND's reward -----------------------------------------------------------------


def test_counts_follow_from_the_profile_unless_given_and_must_make_sense():
    assert (settings().draws, settings().problems, settings().steps) == (500, 2, 3)
    assert settings(draws=7).draws == 7 and settings(profile="shipped").draws > 500
    for wrong in ({"sizes": []}, {"sizes": [0]}, {"n": 1}, {"draws": 1}, {"profile": "big"}):
        with pytest.raises(ValidationError):
            settings(**wrong)


def test_the_distribution_has_theorem_1_beside_its_simulation():
    """(0.5, 0.3, 0.2) at n = 2 gives (0.25, 0.39, 0.36); 20,000 rounds come within 0.02, 5.7
    standard errors."""
    table = exact.distribution("a", [0.5, 0.3, 0.2], [1, 2, 3], 2, settings(draws=20_000))
    both = exact.beside(table, ["group"])
    assert both["exact"].tolist() == pytest.approx([0.25, 0.39, 0.36])
    assert both["simulated"].tolist() == pytest.approx([0.25, 0.39, 0.36], abs=0.02)
    assert ((both["low"] < both["simulated"]) & (both["simulated"] < both["high"])).all()
    assert rows(table, series="one draw")["mean"].tolist() == [0.5, 0.3, 0.2]


def test_divergences_hold_the_formulas_and_the_bound():
    """Continuous: log n - (n-1)/n, and 8 wins of 9. 8 values at n = 2: sum (2i+1)/64 log((2i+1)/8),
    below it. Every simulated mean lies within 5 of its standard errors (interval half-widths /
    1.96) of its formula, and n = 1 changes nothing."""
    table = exact.divergences(settings(draws=20_000))
    both = exact.beside(table, ["panel", "series", "x"])
    assert len(both) == 3 * 2 * 3
    value = both.set_index(["panel", "series", "x"])["exact"]
    fine, coarse = "continuous reward", "8 reward values"
    assert value["forward", fine, 2] == pytest.approx(math.log(2) - 0.5)
    assert value["win", fine, 8] == pytest.approx(8 / 9)
    expected = sum((2 * i + 1) / 64 * math.log((2 * i + 1) / 8) for i in range(8))
    assert value["forward", coarse, 2] == pytest.approx(expected)
    assert expected < value["forward", fine, 2]
    error = (both["high"] - both["simulated"]) / 1.96
    assert ((both["simulated"] - both["exact"]).abs() <= 5 * error + 1e-12).all()
    for panel, start in (("forward", 0), ("backward", 0), ("win", 0.5)):
        assert value[panel, fine, 1] == pytest.approx(start, abs=1e-12)
        assert value[panel, coarse, 1] == pytest.approx(start, abs=1e-12)


def test_j_bond_reward_follows_its_parabola():
    """-log 16 (1-p)^2 at every simulated p, 5 standard errors of a binary reward; of three equally
    distributed rewards the policy's is the lowest in a third of all rounds."""
    table = exact.j_bond_reward(settings(draws=20_000))
    binary = rows(table, series="J-BOND reward", kind="points")
    assert len(binary) == 11
    for p, mean in zip(binary["x"], binary["mean"], strict=True):
        share = (1 - p) ** 2
        error = math.log(16) * (share * (1 - share) / 20_000) ** 0.5
        assert mean == pytest.approx(-math.log(16) * share, abs=5 * error + 1e-12)
    found = exact.penalised_share(settings(draws=20_000))
    assert found.mean == pytest.approx(1 / 3, abs=5 * (2 / 9 / 20_000) ** 0.5)


# -- objectives and rules --------------------------------------------------------------------------


def test_every_rule_has_the_exact_gradient():
    table = descents.identities(settings())
    assert (table["update equals gradient"] == "yes").all() and len(table) == 5


def test_the_toy_starts_near_the_formulas():
    """N = 4: 3 - log 4, log 4 - 3/4, -1. 156 sequences: each divergence below its continuous value,
    and everything within a tenth of it."""
    levels = {"backward": 3 - math.log(4), "forward": math.log(4) - 0.75}
    table = descents.starts(settings(sizes=[4, 1])).iloc[0]
    assert table["N"] == 4
    for side, level in levels.items():
        formula = table[f"{side}, formula"]
        assert formula == pytest.approx(level)
        assert 0.9 * formula < table[f"{side}, toy"] < formula
    assert table["log quantile, toy"] == pytest.approx(-1, rel=0.1)


def test_descents_start_at_the_reference_and_pair_problems():
    """Both ways and all objectives start from the same policies; a paired difference at the last
    step is the mean over problems of one objective's value less the other's."""
    records = descents.descents(settings())
    starts = records[records["step"] == 0]
    assert (starts["kl_to_reference"] == 0).all()
    assert (starts.groupby("problem")["backward_kl"].nunique() == 1).all()
    table = descents.over_problems(records)
    assert set(table["panel"]) == set(descents.MEASURES) and (table["count"] == 2).all()
    gaps = descents.gaps(records)
    assert len(gaps) == 2 * 3 * 2
    for panel, one, other in (("forward_kl", 1, 0.5), ("mean_log_quantile", 0.5, 0)):
        ends = rows(table, step=3, panel=panel, row="sampled").set_index("series")["mean"]
        difference = ends[descents.OBJECTIVES[one]] - ends[descents.OBJECTIVES[other]]
        gap = gaps["sampled", f"{panel}, beta {one} - beta {other}"]
        assert gap.mean == pytest.approx(difference)


# -- rounds ----------------------------------------------------------------------------------------


def free(n: int, seed: int = 1) -> tuple[toy.ToyPolicy, toy.Problem]:
    """A free policy: one token of one context, so any law of 8 outcomes. Rewards have ties."""
    policy = toy.ToyPolicy(2, vocabulary=8, length=1, seed=seed)
    rewards = toy.draw_rewards(policy, 1.0, seed + 1).round()
    assert len(rewards[0].unique()) < 8
    return policy, toy.Problem(policy.log_probs().detach(), rewards, n)


def test_composition_holds_for_six_rounds():
    """Best-of-2 and Best-of-4, up to six times, ties included: Best-of-n^t (eq. 16) to 1e-10."""
    table = rounds.composition(Scale.of("shipped"))
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
    scale = Scale(rounds=3, steps=300)
    found = rounds.iterate(*free(n), "moving", scale)
    assert [row["round"] for row in found] == [0, 1, 2, 3]
    for row in found:
        assert max(row["backward_kl"], row["forward_kl"]) < 2e-3
        assert row["log_quantile"] == pytest.approx(row["target_log_quantile"], abs=5e-3)
        assert row["kl_to_reference"] == pytest.approx(row["target_kl_to_reference"], abs=5e-2)
    fixed = rounds.iterate(*free(n), "fixed", scale)
    assert fixed[3]["log_quantile"] == pytest.approx(found[1]["target_log_quantile"], abs=5e-3)
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
    expected = {
        "round": 1,
        "backward_kl": sum(p * math.log(p / q) for p, q in pairs),
        "forward_kl": forward,
        "log_quantile": sum(p * x for (p, _), x in zip(pairs, log_p, strict=True)),
        "kl_to_reference": 0.0,
        "target_log_quantile": sum(q * x for q, x in zip(best, log_p, strict=True)),
        "target_kl_to_reference": forward,
    }
    found = rounds.measure(reference.log(), problem, 1)
    assert found == pytest.approx(expected, abs=1e-12)
    start = rounds.measure(reference.log(), problem, 0)
    assert start["forward_kl"] == pytest.approx(0, abs=1e-12)
    assert start["target_log_quantile"] == pytest.approx(start["log_quantile"])


@pytest.fixture(scope="module")
def records():
    return rounds.rounds(Scale(2, 2, 60))


def test_a_bigram_policy_follows_closer_when_its_anchor_moves(records):
    """Both start at the reference and share the first round, in which the anchors agree. After the
    second the moving anchor is nearer to Best-of-n^2 in every problem, but not on it."""
    wide = records.set_index(["anchor", "n", "problem", "round"])["forward_kl"].unstack("anchor")
    assert wide.xs(0, level="round").abs().max().max() < 1e-12
    one, two = wide.xs(1, level="round"), wide.xs(2, level="round")
    assert one["moving"].tolist() == one["fixed"].tolist()
    assert (two["moving"] < two["fixed"]).all() and (two["moving"] > 0.01).all()


def test_curves_and_gaps_are_means_over_problems(records):
    """2 sizes, 3 rounds: 3 panels of both policies and 2 of the target. Best-of-16 is the second
    round of n = 4: four gaps of each anchor."""
    table, found = rounds.curve_table(records), rounds.gaps(records)
    assert len(table) == 2 * 3 * (2 * 3 + 2) and len(found) == 2 * 4
    assert (table["count"] == 2).all()
    for anchor in ("moving", "fixed"):
        own = rows(records, n=4, round=2, anchor=anchor)
        series = rounds.SERIES[anchor], rounds.SERIES["target"]
        means, target = (
            rows(table, row="n = 4", step=2, series=name).set_index("panel")["mean"]
            for name in series
        )
        assert means.to_dict() == pytest.approx(own[list(rounds.MEASURES)].mean().to_dict())
        for name in target.index:
            assert target[name] == pytest.approx(own[f"target_{name}"].mean())
            gap, unit = found[f"{anchor} anchor, n = 4, round 2: {name}"]
            assert gap.mean == pytest.approx(means[name] - target[name]) and unit == "nats"
        gap, _ = found[f"{anchor} anchor, n = 4, round 2: backward_kl"]
        assert gap.mean == pytest.approx(own["backward_kl"].mean())


# -- how many reference samples --------------------------------------------------------------------


def case(n: int) -> tuple[toy.ToyPolicy, toy.Problem]:
    """A policy that has left its anchor; 2 prompts, 7 sequences."""
    anchor, policy = toy.ToyPolicy(2, 3, 2, seed=1), toy.ToyPolicy(2, 3, 2, seed=2)
    rewards = toy.draw_rewards(anchor, 0.5, 3).round()
    return policy, toy.Problem(anchor.log_probs().detach(), rewards, n)


def moments(problem: toy.Problem, k: int, smoothing=floored):
    mean, covariance = estimate_moments(problem.log_quantiles.exp(), k, smoothing)
    return mean.flatten(), torch.block_diag(*covariance)


def squared(policy: toy.ToyPolicy, objective: torch.Tensor) -> float:
    return torch.autograd.grad(objective, policy.logits)[0].square().sum().item()


@pytest.mark.parametrize("smoothing", [floored, add_one])
@pytest.mark.parametrize("n", [2, 8])
def test_update_and_bias_are_gradients_of_objectives(n, smoothing):
    """The exact update is the gradient of the continuous backward KL, the one that the rule
    descends; with E[log p_hat] for log p_<= it turns by the gradient of the mean return's error."""
    policy, problem = case(n)
    mean, covariance = moments(problem, 4, smoothing)
    found = sample_size.of_policy(policy, problem, (mean, covariance), n)
    exact = squared(policy, toy_objectives.backward_kl_continuous(policy.log_probs(), problem))
    error = (n - 1) * (mean.view(2, 7) - problem.log_quantiles)
    bias = squared(policy, (policy.log_probs().exp() * error).sum(dim=1).mean())
    assert found.update == pytest.approx(exact, rel=1e-10)
    assert found.bias == pytest.approx(bias, rel=1e-10)
    assert found.bias > 0 and found.estimating > 0


def test_errors_vanish_with_the_number_of_samples():
    """With log p_<= itself and no scatter both shares are 0. Twice the samples halve both, to a
    tenth, once k is large against 1/p."""
    policy, problem = case(4)
    exact = problem.log_quantiles.flatten(), torch.zeros(14, 14, dtype=F64)
    found = sample_size.of_policy(policy, problem, exact, 4)
    assert found.relative_bias < 1e-12 and found.relative_variance == 0
    estimates = [moments(problem, k) for k in (512, 1024)]
    few, many = (sample_size.of_policy(policy, problem, m, 4) for m in estimates)
    assert few.relative_variance / many.relative_variance == pytest.approx(2, rel=0.1)
    assert few.relative_bias / many.relative_bias == pytest.approx(2, rel=0.1)


def test_the_table_of_errors_is_of_the_toy_problems():
    """A row again, from the problem of its seed. At the reference the log ratio is 0, so that n - 1
    scales everything alike; part-way trained it is not 0, and n matters."""
    found = sample_size.errors(2, [2, 4])
    assert len(found) == 2**5
    policy, problem = descents.problem_of(8, 1)
    again = sample_size.of_policy(policy, problem, moments(problem, 4, add_one), 8)
    where = {"row": "n = 8", "series": "add-one, at the reference", "step": 4, "problem": 1}
    row = rows(found, **where)
    assert row["bias"].item() == pytest.approx(again.relative_bias, rel=1e-9)
    assert row["variance"].item() == pytest.approx(again.relative_variance, rel=1e-9)
    for column in ("bias", "variance"):
        keys = ["policy", "smoothing", "k", "problem", "n"]
        wide = found.set_index(keys)[column].unstack("n")
        start, later = (wide.xs(place, level="policy") for place in sample_size.STEPS_PART_WAY)
        assert start[2].tolist() == pytest.approx(start[8].tolist(), rel=1e-9)
        assert (abs(later[2] / later[8] - 1) > 0.01).all()
