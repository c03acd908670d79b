"""The runs of Figures 5, 6 and 7 as data, and the rules that decide their claims."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from bondlab.anchors import Frozen, MovingAverage, Periodic
from bondlab.study import alignment
from bondlab.study import alignment_decisions as series
from bondlab.study.alignment import CONFIGS, PLANS, STRIDES, specs
from bondlab.study.alignment_claims import ANCHOR_CLAIMS, BENCHMARK_CLAIMS, J_BOND_CLAIMS

PROFILES = tuple(CONFIGS)
each_profile = pytest.mark.parametrize("profile", PROFILES)

# -- the runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["sentiment", "chat"])
@pytest.mark.parametrize("experiment", PLANS)
@each_profile
def test_runs_differ_in_their_algorithm_and_seed_alone(experiment, profile, task):
    """One task, one budget, and labels that say the algorithm."""
    found = specs(experiment, profile, task)
    assert len({spec.task for spec in found}) == 1
    for spec in found:
        changed = {"seed": spec.labels["seed"]}
        assert spec.config == found[0].config.model_copy(update=changed)
        anchor, labels = spec.algorithm.anchor, spec.labels
        if labels["every"]:
            assert anchor == Periodic(labels["every"])
        else:
            assert anchor == (MovingAverage(labels["rate"]) if labels["rate"] else Frozen())
        for name in ("gamma", "beta_rl"):
            if name in labels:
                assert spec.algorithm.settings[name] == labels[name]
    names = [(spec.labels["series"], spec.labels["seed"]) for spec in found]
    assert len(set(names)) == len(names)
    assert found[0].task.name == ("tiny_causal" if profile == "smoke" else task)


@each_profile
def test_an_anchor_goes_as_far_in_one_step_as_in_a_stride_of_the_papers(profile):
    """What is left of the old anchor after a step: (1 - eta)^stride; copies at the same distance,
    to half a stride."""
    stride = STRIDES[profile]
    for eta in (0.02, *series.ETAS):
        assert 1 - alignment.rate(profile, eta) == pytest.approx((1 - eta) ** stride, abs=1e-6)
    assert abs(alignment.every(profile) * stride - 50) <= stride / 2


def test_the_papers_values_at_profile_paper():
    """Section 6: batch 128, learning rate 3e-6, 100 warm-up steps, beta 0.5; Figures 5 to 7."""
    by_name = {spec.labels["series"]: spec for spec in specs("anchor_ablations", "paper")}
    assert by_name[series.MOVING].algorithm.anchor == MovingAverage(0.02)
    assert by_name[series.COPY].algorithm.anchor == Periodic(50)
    rates = [by_name[name].algorithm.anchor.rate for name in series.ETA_SERIES]
    assert rates == pytest.approx([0.01, 0.05, 0.1])
    gammas = [by_name[name].algorithm.settings["gamma"] for name in series.GAMMA_SERIES]
    assert gammas == [0, 0.5, 1, 2]
    assert {by_name[name].algorithm.anchor.rate for name in series.GAMMA_SERIES} == {0.05}
    config = by_name[series.MOVING].config
    assert (config.prompts_per_step, config.learning_rate, config.warmup) == (128, 3e-6, 100)
    assert all(spec.algorithm.settings["beta"] == 0.5 for spec in by_name.values())
    seven = {spec.labels["series"]: spec for spec in specs("j_bond", "paper")}
    assert [seven[n].algorithm.settings["beta_rl"] for n in series.REINFORCE_SERIES] == [
        0.001, 0.01, 0.1, 1,
    ]  # fmt: skip
    draws = [(a.anchor_draws, a.policy_draws) for a in (
        seven[series.J_BOND].algorithm, seven[series.REINFORCE_SERIES[0]].algorithm
    )]  # fmt: skip
    assert draws == [(2, 1), (0, 2)]


@each_profile
def test_the_measures_find_what_they_need(profile):
    """Three evaluations after the warm-up for the fit, samples for the largest Best-of-N and for
    stored draws, and (but for smoke) four copies of the policy into the anchor."""
    config = CONFIGS[profile]
    steps = {*range(0, config.steps, config.evaluate_every), config.steps}
    assert len([step for step in steps if step >= config.warmup]) >= 3
    assert config.evaluation_bank >= 8  # which the figures' level lines show
    for spec in (*specs("anchor_ablations", profile), *specs("j_bond", profile)):
        if not (config.fresh or spec.algorithm.anchor_moves):
            wanted = spec.algorithm.anchor_draws + spec.algorithm.quantile_draws
            assert wanted <= config.bank_samples
    assert config.steps // alignment.every(profile) >= (2 if profile == "smoke" else 4)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "study"])
def test_figures_5_and_7_share_a_run(profile):
    """J-BOND with eta 0.02 is computed once."""
    first, second = (specs(name, profile)[0] for name in ("anchor_ablations", "j_bond"))
    assert (first.labels["series"], second.labels["series"]) == (series.MOVING, series.J_BOND)
    alike = dataclasses.replace(second, labels=first.labels)
    assert alike == first


# -- the rules ------------------------------------------------------------------------------------

# Reward and KL after the last of four equal steps from 0, and the judge's last win rate.
FIGURES_5_6 = {
    series.MOVING: (2.0, 1.0),
    series.COPY: (2.0, 2.0),  # the same reward for twice the KL
    **dict(zip(series.ETA_SERIES, [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)], strict=True)),
    **dict(zip(series.GAMMA_SERIES, [(2.0, 2.0), (2.0, 1.5), (2.0, 1.0), (2.0, 0.5)], strict=True)),
}
FIGURE_7 = {
    series.J_BOND: (2.0, 2.0),
    # A larger beta_RL earns and moves less; all earn half a unit a nat, J-BOND earns one.
    **dict(zip(series.REINFORCE_SERIES, [(2, 4.0), (1.5, 3.0), (1.0, 2.0), (0.5, 1.0)],
               strict=True)),
}  # fmt: skip
LINE = np.linspace(0, 1, 5)


def table(ends: dict, noise: float = 0.01, wins: float = 0.7, seeds: int = 1, paths=None):
    """Straight ways to the given ends; `paths` replaces a series' reward or KL by its own way."""
    rng, rows = np.random.default_rng(3), []
    for name, (reward, kl) in ends.items():
        rewards, kls = (paths or {}).get(name, (reward * LINE, kl * LINE))
        rows += [
            {"series": name, "seed": seed, "prompt": prompt, "step": 10 * t, "warmup": 10,
             "spread": 1.0, "reward": rewards[t] + rng.normal(0, noise),
             "kl_to_reference": kls[t] + rng.normal(0, noise) * (t > 0),
             "win_over_1": wins + rng.normal(0, noise)}
            for seed in range(seeds) for prompt in range(30) for t in range(5)
        ]  # fmt: skip
    return pd.DataFrame(rows)


def verdicts(claims, found) -> list[str]:
    return [claim.decide(found)[0] for claim in claims]


@pytest.mark.parametrize("seeds", [1, 3])
def test_results_like_the_papers_reproduce_every_claim(seeds):
    """Every ordering and shape by margins far above the noise."""
    assert verdicts(ANCHOR_CLAIMS, table(FIGURES_5_6, seeds=seeds)) == ["reproduced"] * 6
    assert verdicts(J_BOND_CLAIMS, table(FIGURE_7, seeds=seeds)) == ["reproduced"] * 5


def test_noise_leaves_every_claim_open():
    """A spread of 20 over 30 prompts is ten times what is to be told apart."""
    assert verdicts(ANCHOR_CLAIMS, table(FIGURES_5_6, 20.0)) == ["inconclusive"] * 6
    assert verdicts(J_BOND_CLAIMS, table(FIGURE_7, 20.0)) == ["inconclusive"] * 5


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        (0, {series.COPY: (3.0, 2.0)}),  # copies earn 0.625 more over training; 0.25 is the same
        (1, {series.COPY: (2.0, 0.5)}),  # copies stay nearer
        (2, {series.COPY: (4.0, 1.0)}),  # copies earn twice as much a nat
        (3, {series.ETA_SERIES[0]: (4.0, 1.0)}),  # the slowest anchor earns most
        (4, {series.GAMMA_SERIES[3]: (2.0, 9.0)}),  # the largest gamma goes furthest
        (5, {series.GAMMA_SERIES[2]: (1.0, 2.0)}),  # gamma 1 earns half of gamma 0 a nat
    ],
)
def test_the_opposite_of_figures_5_and_6_is_not_reproduced(claim, changed):
    found = table(FIGURES_5_6 | changed)
    assert ANCHOR_CLAIMS[claim].decide(found)[0] == "not reproduced"


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        (
            0,
            {"ends": {series.REINFORCE_SERIES[3]: (8.0, 8.0)}},
        ),  # goes furthest
        (1, {"paths": {series.J_BOND: (np.array([0, 2, 3, 2, 1.0]), 2 * LINE)}}),  # falls again
        (2, {"paths": {series.J_BOND: (2 * LINE, np.array([0, 1, 2, 2.2, 2.2]))}}),  # saturates
        (3, {"ends": {series.REINFORCE_SERIES[2]: (4.0, 2.0)}}),  # one of the four is above
        (4, {"wins": 0.3}),
    ],
)
def test_the_opposite_of_figure_7_is_not_reproduced(claim, changed):
    changed = dict(changed)
    found = table(FIGURE_7 | changed.pop("ends", {}), **changed)
    assert J_BOND_CLAIMS[claim].decide(found)[0] == "not reproduced"


def test_rewards_are_judged_in_spreads():
    """Five times the reward at five times the spread: the same numbers."""
    found = table(FIGURES_5_6)
    scaled = found.assign(reward=5 * found["reward"], spread=5.0)
    for claim in ANCHOR_CLAIMS:
        for first, second in zip(
            claim.decide(found)[1].values(), claim.decide(scaled)[1].values(), strict=True
        ):
            assert second.mean == pytest.approx(first.mean)


def test_a_trend_is_the_slope_of_the_line():
    """Values 1, 3, 5 at 0, 1, 2 on every prompt: 2, exactly."""
    values = [np.full((2, 4), value) for value in (1.0, 3.0, 5.0)]
    found = series.trend(np.arange(3.0), values)
    assert (found.mean, found.low, found.high) == pytest.approx((2, 2, 2))


# -- benchmarks ------------------------------------------------------------------------------------


def items(gains: dict[str, float], noise: float = 0.01, seeds: int = 1) -> pd.DataFrame:
    """Items of `benchmarks` whose J-BOND policy lies above the reference by `gains` on average.

    Items differ by far more than the gains, and come in another order for the policy; the
    reference is measured once, for whatever seeds.
    """
    rng, rows = np.random.default_rng(5), []
    for measure, gain in gains.items():
        base = rng.normal(0, 3, 40)
        rows += [("reference", 0, measure, f"i{i}", value) for i, value in enumerate(base)]
        rows += [
            (series.J_BOND, seed, measure, f"i{i}", base[i] + gain + rng.normal(0, noise))
            for seed in range(seeds) for i in reversed(range(40))
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["policy", "seed", "measure", "item", "value"])


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ((0.1, 0.1, 0.0), ["reproduced", "reproduced"]),
        ((0.1, -0.1, 0.01), ["not reproduced", "reproduced"]),
        ((-0.1, 0.1, 0.1), ["not reproduced", "not reproduced"]),
        ((0.1, 0.0, 0.02), ["inconclusive", "inconclusive"]),  # at the bounds themselves
    ],
)
def test_benchmark_claims_compare_item_by_item(gains, expected, seeds):
    """Gains in constraints and preferences are good, in bits per byte above 0.02 bad. Unpaired, a
    spread of 3 over 40 items would hide them all."""
    measures = ("constraints", "preferences", "bits_per_byte")
    made = items(dict(zip(measures, gains, strict=True)), 0.02, seeds)
    assert verdicts(BENCHMARK_CLAIMS, made) == expected


def test_benchmark_claims_stay_open_in_noise():
    made = items(dict.fromkeys(("constraints", "preferences", "bits_per_byte"), 0.02), noise=2.0)
    assert verdicts(BENCHMARK_CLAIMS, made) == ["inconclusive"] * 2
