"""Runs on the exact toy: the study's rules on each run alone, exact measures, and every claim."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from bondlab import rules, toy
from bondlab.algorithms import bond, j_bond, online_dpo, reinforce
from bondlab.anchors import Periodic
from bondlab.config import Config
from bondlab.paths import committed_folder
from bondlab.study import on_toy
from bondlab.study.claims import NOT_RUN
from bondlab.toy import runs, training
from bondlab.toy.descents import PROMPTS

CONFIG = Config(steps=30, prompts_per_step=16, evaluate_every=30, learning_rate=0.05)


@pytest.fixture(scope="module")
def world() -> runs.World:
    return runs.World.of(0, 20)


@pytest.mark.parametrize(
    "algorithm", [j_bond(), bond(4, 0.5), bond(4, 1.0), reinforce(0.1), online_dpo(0.1)]
)
def test_the_rule_sees_each_run_by_itself(algorithm):
    sizes = algorithm.anchor_draws, algorithm.policy_draws
    shapes = [(3, 8, k) for k in (*sizes, sizes[1], sizes[1], sizes[0])]
    parts = [torch.rand(shape, dtype=torch.float64) for shape in shapes]
    found = runs.weights(algorithm, tuple(parts), 2.0)
    for run in range(3):
        alone = algorithm.weights(rules.Scores(*(part[run] for part in parts), 2.0))
        torch.testing.assert_close(found[run], alone)


def test_the_loss_is_that_of_the_enumerable_policy():
    """Of one run with each prompt once in a batch: `training.surrogate` of the same draws."""
    world = runs.World.of(3, 1)
    log_policy = (world.log_reference + torch.randn_like(world.log_reference)).log_softmax(-1)
    found = runs.loss(
        j_bond(), world, log_policy, world.log_reference, PROMPTS, False,
        torch.Generator().manual_seed(5),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    drawn = toy.draw(world.log_reference, 2, generator), toy.draw(log_policy, 1, generator)
    problem = toy.Problem(world.log_reference, world.rewards, 2)
    rule = lambda scores: rules.j_bond(scores, 0.5, 0.0)  # noqa: E731
    expected = training.surrogate(rule, log_policy, problem, *drawn, problem.log_quantiles)
    torch.testing.assert_close(found, expected)


def test_measures_are_exact(world):
    start = world.measured(world.log_reference, 4).mean()
    for name in ("reward", "judge", "kl_to_reference"):
        assert start[name] == pytest.approx(0, abs=1e-12)
    assert start["win_over_1"] == pytest.approx(0.5)
    best = world.measured(world.best_of(4), 4)
    assert best[["backward_kl", "forward_kl"]].abs().to_numpy().max() < 1e-12
    assert best["reward"].mean() > 0.9 * world.spread  # 1.03 of normal rewards
    hotter = world.measured(world.cooled(1.0), 4)
    assert hotter["kl_to_reference"].abs().max() < 1e-12
    assert sorted(best["seed"].unique()) == [*range(20)]
    assert best.groupby("seed")["prompt"].nunique().eq(PROMPTS).all()


def test_reward_and_judge_share_what_can_be_learned_and_the_reference_knows_neither(world):
    p, log_p = world.log_reference.exp(), world.log_reference
    surprise = log_p - (p * log_p).sum(1, keepdim=True)
    means = [(p * a * b).sum(1).mean() for a, b in (
        (world.rewards, world.judge), (world.rewards, surprise), (surprise, surprise)
    )]  # fmt: skip
    assert 0.6 < means[0] / world.spread**2 < 0.8
    assert abs(means[1]) < 0.15 * world.spread * means[2].sqrt()


def test_training_follows_the_reward_and_no_noise(world):
    def end(noise: bool, **changed: object) -> torch.Tensor:
        algorithm = reinforce(0.1, **changed)
        return runs.train(algorithm, world, CONFIG, 2, noise).query("step == 30").mean()

    learned, nothing = end(False), end(True)
    assert learned["reward"] > world.spread / 2
    assert abs(nothing["reward"]) < world.spread / 10 and nothing["kl_to_reference"] > 0.02
    copied = end(False, anchor=Periodic(5))  # whose KL is to a policy that follows
    assert copied["kl_to_reference"] > learned["kl_to_reference"]


def test_every_claim_of_the_figures_is_decided_on_it():
    """By the ledger, which test_ledger holds to be what the tables give."""
    found = pd.read_csv(committed_folder("report") / "claims.csv").query("kind == 'toy'")
    assert {c.id for f in on_toy.FIGURES.values() for c in f.claims} <= {*found["id"]}
    assert NOT_RUN not in {*found["verdict"]} and {*found["seeds"]} == {on_toy.PROFILES["study"]}
    for name in on_toy.FIGURES:
        shown = on_toy.results(name, "shipped")
        assert shown["runs"]["learning_rate"].isin(on_toy.RATES).all()
        # No run shares a prompt with another, so that runs are the units of every interval.
        units = {"evaluations": ["row", "series", "step"], "baselines": ["n"],
                 "cooling": ["temperature"]}  # fmt: skip
        for table, keys in units.items():
            assert (shown[table].groupby(keys)["seed"].agg(["size", "nunique"]) == 100).all().all()
