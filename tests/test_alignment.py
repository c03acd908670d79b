"""Figures 5, 6 and 7: their runs, the rules of their claims, and what two tiny runs give."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from bondlab import paths, rules
from bondlab.anchors import Frozen, MovingAverage, Periodic
from bondlab.rules import J_BOND_PENALTY
from bondlab.study import alignment, anchor_ablations, j_bond, report, tuning
from bondlab.study.alignment import SCALES, STRIDES, BaselineSettings
from bondlab.study.anchor_ablations import COPY, ETAS, FACTORS, GAMMAS, MOVING, RAW
from bondlab.study.j_bond import J_BOND, NOISE, OTHERS, REINFORCE, RLOO
from bondlab.study.judge import tiny_judge
from bondlab.tasks import tiny

ANCHORS, BASELINE = anchor_ablations.EXPERIMENT, j_bond.EXPERIMENT
SLOWEST, *_ = ETAS
GAMMA_0, GAMMA_HALF, GAMMA_1, GAMMA_2 = GAMMAS
OTHER = list(REINFORCE)[2]
each_profile = pytest.mark.parametrize("profile", SCALES)


@pytest.fixture(autouse=True)
def rates(monkeypatch):
    """A learning rate for every method of the profile study: each has one of its own."""
    known: dict[tuple[str, str], float] = {}
    chosen = lambda task, series: known.setdefault((task, series), 1e-4 * (len(known) + 1))  # noqa: E731
    monkeypatch.setattr(tuning, "chosen_rate", chosen)


# -- the runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["sentiment", "chat"])
@pytest.mark.parametrize("experiment", [ANCHORS, BASELINE])
@each_profile
def test_runs_differ_in_their_algorithm_and_seed_alone(experiment, profile, task):
    """One task, one budget, and labels that say the algorithm, the reward and whose the learning
    rate is."""
    found, rates = experiment.specs(profile, task), {}
    for spec in found:
        reward = spec.labels["reward_name"] or None
        assert spec.task == found[0].task.model_copy(update={"reward": reward})
        rate = rates.setdefault(spec.labels["tuned"], spec.config.learning_rate)
        changed = {n: spec.labels[n] for n in ("seed", "fresh")} | {"learning_rate": rate}
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
    assert len(set(names)) == len(names) and len({*rates.values()}) in (1, len(rates))
    seeds = {seed for _, seed in names}
    assert seeds == ({0, 1, 2} if profile in ("study", "paper") else {0})
    assert len(names) == len(seeds) * len({series for series, _ in names})
    assert found[0].task.name == ("tiny_causal" if profile == "smoke" else task)


@each_profile
def test_an_anchor_goes_as_far_in_one_step_as_in_a_stride_of_the_papers(profile):
    """What is left of the old anchor after a step: (1 - eta)^stride; copies at the same distance,
    to half a stride."""
    stride = STRIDES[profile]
    for eta in (0.02, *ETAS.values()):
        assert 1 - alignment.rate(profile, eta) == pytest.approx((1 - eta) ** stride, abs=1e-6)
    (copies,) = {s.labels["every"] for s in ANCHORS.specs(profile) if s.labels["every"]}
    assert abs(copies * stride - 50) <= stride / 2
    assert SCALES[profile][0].steps // copies >= (2 if profile == "smoke" else 4)


def test_the_papers_values_at_profile_paper():
    """Section 6: batch 128, learning rate 3e-6, 100 warm-up steps, beta 0.5; Figures 5 to 7."""
    by_name = {spec.labels["series"]: spec for spec in ANCHORS.specs("paper")}
    assert by_name[MOVING].algorithm.anchor == MovingAverage(0.02)
    assert by_name[COPY].algorithm.anchor == Periodic(50)
    rates = [by_name[name].algorithm.anchor.rate for name in ETAS]
    assert rates == pytest.approx([0.01, 0.05, 0.1])
    gammas = [by_name[name].algorithm.settings["gamma"] for name in GAMMAS]
    assert gammas == [0, 0.5, 1, 2]
    assert {by_name[name].algorithm.anchor.rate for name in GAMMAS} == {0.05}
    config = by_name[MOVING].config
    assert (config.prompts_per_step, config.learning_rate, config.warmup) == (128, 3e-6, 100)
    paper = [MOVING, COPY, *ETAS, *GAMMAS]
    assert all(by_name[name].algorithm.settings["beta"] == 0.5 for name in paper)
    assert by_name[MOVING].task.policy == "google/gemma-2b"
    seven = {spec.labels["series"]: spec for spec in BASELINE.specs("paper", "chat", "my/model")}
    assert seven[J_BOND].task.policy == "my/model"
    betas = [seven[name].algorithm.settings["beta_rl"] for name in REINFORCE]
    assert betas == [0.001, 0.01, 0.1, 1]
    algorithms = seven[J_BOND].algorithm, seven[OTHER].algorithm
    assert [(a.anchor_draws, a.policy_draws) for a in algorithms] == [(2, 1), (0, 2)]


@each_profile
def test_the_measures_find_what_they_need(profile):
    """Three evaluations after the warm-up for the fit, samples for the largest Best-of-N shown and
    for stored draws."""
    config = SCALES[profile][0]
    steps = {*range(0, config.steps, config.evaluate_every), config.steps}
    assert len([step for step in steps if step >= config.warmup]) >= 3
    assert config.evaluation_bank >= 8  # which the figures' level lines show
    for spec in (*ANCHORS.specs(profile), *BASELINE.specs(profile)):
        if not (config.fresh or spec.algorithm.anchor_moves):
            wanted = spec.algorithm.anchor_draws + spec.algorithm.quantile_draws
            assert wanted <= config.bank_samples
    assert len(BASELINE.specs("laptop")) == 5  # minutes: without the other baselines


@pytest.mark.parametrize("profile", ["smoke", "laptop", "study"])
def test_figures_5_and_7_share_a_run(profile):
    """J-BOND with eta 0.02 is computed once."""
    first, second = (experiment.specs(profile)[0] for experiment in (ANCHORS, BASELINE))
    assert (first.labels["series"], second.labels["series"]) == (MOVING, J_BOND)
    assert dataclasses.replace(second, labels=first.labels) == first
    assert ANCHORS.runs == BASELINE.runs


def test_controls_of_figure_7_and_whose_learning_rate_each_run_has():
    """Noise runs differ in the reward alone, RLOO draws what J-BOND does; a rate of each method."""
    found = {s.labels["series"]: s for s in BASELINE.specs("study") if not s.labels["seed"]}
    for name, real in zip(NOISE, (J_BOND, OTHER), strict=True):
        assert found[name].task.reward == "noise" and found[name].algorithm == found[real].algorithm
        assert found[name].config == found[real].config
    algorithms = [found[name].algorithm for name in (RLOO, J_BOND)]
    draws = [a.anchor_draws + a.policy_draws + a.quantile_draws for a in algorithms]
    assert draws == [3, 3] and found[RLOO].algorithm.settings["beta_rl"] == 0.1
    small, smaller, *larger = ({n: found[n].labels["tuned"] for n in REINFORCE}).values()
    assert (small, smaller, larger) == (list(REINFORCE)[1], list(REINFORCE)[1], [OTHER] * 2)
    assert {found[n].labels["tuned"] for n in (RLOO, *OTHERS)} == {RLOO, *OTHERS}


def test_j_bond_is_taken_apart_one_part_at_a_time():
    """Anchor frozen or not, reward raw or by ranks, half of imitation or none: six plans."""
    found = {s.labels["series"]: s for s in ANCHORS.specs("study") if not s.labels["seed"]}
    plans = {}
    for name in FACTORS:
        algorithm, config = found[name].algorithm, found[name].config
        imitates = algorithm.anchor_draws and algorithm.settings["beta"] < 1
        plans[name] = (algorithm.anchor_moves, algorithm.rule is rules.j_bond, bool(imitates))
        assert algorithm.anchor in (MovingAverage(0.02), Frozen())
        assert config.fresh or algorithm.anchor_moves or not algorithm.anchor_draws
    moving, frozen, rank_moving, rank, raw_moving, raw = plans.values()
    assert (moving, frozen) == ((True, True, True), (False, True, True))
    assert (rank_moving, rank) == ((True, True, False), (False, True, False))
    assert (raw_moving, raw) == ((True, False, False), (False, False, False))
    seven = {s.labels["series"]: s for s in BASELINE.specs("study") if not s.labels["seed"]}
    for name in (RAW, NOISE[0]):  # computed once
        assert dataclasses.replace(seven[name], labels=found[name].labels) == found[name]


# -- the rules -------------------------------------------------------------------------------------

# Reward and KL after the last of four equal steps from 0, and the judge's last win rate.
FIGURES_5_6 = {
    MOVING: (2.0, 1.0),
    COPY: (2.0, 2.0),  # the same reward for twice the KL
    **dict(zip(ETAS, [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)], strict=True)),
    **dict(zip(GAMMAS, [(2.0, 2.0), (2.0, 1.5), (2.0, 1.0), (2.0, 0.5)], strict=True)),
}
FIGURE_7 = {
    J_BOND: (2.0, 2.0),
    # A larger beta_RL earns and moves less; all earn half a unit a nat, J-BOND earns one.
    **dict(zip(REINFORCE, [(2, 4.0), (1.5, 3.0), (1.0, 2.0), (0.5, 1.0)], strict=True)),
}
LINE = np.linspace(0, 1, 5)


def table(ends: dict, noise: float = 0.01, wins: float = 0.7, seeds: int = 1, paths=None):
    """Straight ways to the given ends; `paths` replaces a series' reward and KL by its own way."""
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


@pytest.mark.parametrize(
    ("noise", "seeds", "expected"),
    [
        (0.01, 1, "reproduced"),  # like the paper's, by margins far above the noise
        (0.01, 3, "reproduced"),
        (20.0, 1, "inconclusive"),  # over 30 prompts: ten times what is to be told apart
    ],
)
@pytest.mark.parametrize(("experiment", "ends"), [(ANCHORS, FIGURES_5_6), (BASELINE, FIGURE_7)])
def test_results_like_the_papers_and_noise(experiment, ends, noise, seeds, expected):
    found = table(ends, noise, seeds=seeds)
    assert {claim.decide(found)[0] for claim in experiment.claims} == {expected}


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        (0, {COPY: (3.0, 2.0)}),  # copies earn 0.625 more over training; 0.25 is the same
        (1, {COPY: (2.0, 0.5)}),  # copies stay nearer
        (2, {COPY: (4.0, 1.0)}),  # copies earn twice as much a nat
        (3, {SLOWEST: (4.0, 1.0)}),  # the slowest anchor earns most
        (4, {GAMMA_2: (2.0, 9.0)}),  # the largest gamma goes furthest
        (5, {GAMMA_1: (1.0, 2.0)}),  # gamma 1 earns half of gamma 0 a nat
    ],
)
def test_the_opposite_of_figures_5_and_6_is_not_reproduced(claim, changed):
    assert ANCHORS.claims[claim].decide(table(FIGURES_5_6 | changed))[0] == "not reproduced"


@pytest.mark.parametrize(
    ("claim", "ends", "more"),
    [
        (0, {list(REINFORCE)[3]: (8.0, 8.0)}, {}),  # goes furthest
        (1, {}, {"paths": {J_BOND: (np.array([0, 2, 3, 2, 1.0]), 2 * LINE)}}),  # falls again
        (2, {}, {"paths": {J_BOND: (2 * LINE, np.array([0, 1, 2, 2.2, 2.2]))}}),  # saturates
        (3, {OTHER: (4.0, 2.0)}, {}),  # one of the four is above
        (4, {}, {"wins": 0.3}),
    ],
)
def test_the_opposite_of_figure_7_is_not_reproduced(claim, ends, more):
    assert BASELINE.claims[claim].decide(table(FIGURE_7 | ends, **more))[0] == "not reproduced"


def test_rewards_are_judged_in_spreads():
    """Five times the reward at five times the spread: the same numbers."""
    found = table(FIGURES_5_6)
    scaled = found.assign(reward=5 * found["reward"], spread=5.0)
    for claim in ANCHORS.claims:
        first, second = (claim.decide(part)[1].values() for part in (found, scaled))
        assert [i.mean for i in second] == pytest.approx([i.mean for i in first])


def test_a_trend_is_the_slope_of_the_line():
    """Values 1, 3, 5 at 0, 1, 2 on every prompt: 2, exactly."""
    values = [np.full((2, 4), value) for value in (1.0, 3.0, 5.0)]
    assert alignment.trend([0, 1, 2], values) == pytest.approx(np.full((2, 4), 2.0))


# -- results ---------------------------------------------------------------------------------------

SETTINGS = BaselineSettings(
    profile="smoke", task="sentiment", policy="", other_task="", other_baselines=False, workers=1
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """J-BOND, one REINFORCE run and J-BOND on noise at profile smoke."""
    with pytest.MonkeyPatch.context() as environment:
        for name in ("BONDLAB_RUNS", "BONDLAB_FIGURES"):
            environment.setenv(name, str(tmp_path_factory.mktemp(name)))
        yield alignment.results(BASELINE, SETTINGS, [J_BOND, OTHER, NOISE[0]])


def test_every_evaluation_has_its_judge(found):
    """Five evaluations of four prompts a run; the judge's share lies in [0, 1], and so do rates."""
    table = found["evaluations"]
    assert len(table) == 3 * 5 * 4 and table["spread"].nunique() == 1
    columns = ["judge", "penalised", *(f"win_over_{n}" for n in alignment.SIZES)]
    assert table[columns].stack().between(0, 1).all() and table[columns].notna().all(axis=None)
    base = found["baselines"].groupby("n")[["reward", "win_over_1"]].mean()
    assert base.index.tolist() == [1, 2, 4, 8, 16]
    assert base.loc[1, "win_over_1"] == pytest.approx(0.5)
    assert base["reward"].is_monotonic_increasing


def test_a_judges_score_is_that_of_the_step_and_prompt(found):
    """Against the judge of each step's and prompt's own texts, one list at a time."""
    (spec,) = alignment.chosen(BASELINE, SETTINGS, [OTHER])
    own = spec.folder(paths.runs_folder() / BASELINE.runs).evaluation()
    texts = own[own["source"] == "policy"].groupby(["step", "prompt"])["text"].apply(list)
    prompts = spec.build().eval_prompts
    table = found["evaluations"].query("series == @OTHER").set_index(["step", "prompt"])["judge"]
    expected = [tiny_judge([prompts[p]], [texts[step, p]]).mean().item() for step, p in table.index]
    assert table.tolist() == pytest.approx(expected)


def test_the_start_and_the_budget_are_set_beside_their_theory(found):
    """1/3 and -log(16)/3 of the same share; J-BOND draws 1 + 2 a prompt, REINFORCE 2."""
    start = alignment.starts(found).set_index("measure")
    assert start["theory"].tolist() == pytest.approx([1 / 3, -0.924], abs=1e-3)
    ratio = start.loc["mean r_J", "mean"] / start.loc["penalised share", "mean"]
    assert ratio == pytest.approx(J_BOND_PENALTY)
    drawn = report.budget(found, "prompt").set_index("series")["completions"]
    assert drawn.to_dict() == {J_BOND: 3, OTHER: 2, NOISE[0]: 3}


def test_a_part_of_the_series_does_not_replace_more(found):
    """Asked for J-BOND alone, the kept tables go on holding both runs."""
    alone = alignment.results(BASELINE, SETTINGS, [J_BOND])
    assert set(alone["evaluations"]["series"]) == {J_BOND}
    kept = pd.read_parquet(found.folder / "results_evaluations.parquet")
    assert set(kept["series"]) == {J_BOND, OTHER, NOISE[0]}


def test_a_run_on_noise_is_measured_by_the_tasks_reward(found):
    """All start as the reference, with the same texts: equal rewards, quantiles and divergences,
    though one run saw other rewards; and it ends elsewhere, with rewards of texts of its own."""
    table = found["evaluations"].set_index(["series", "step", "prompt"])
    columns = ["reward", "log_quantile", "forward_kl", "judge", "penalised", "win_over_4"]
    real, noise = (table.loc[name, columns] for name in (J_BOND, NOISE[0]))
    pd.testing.assert_frame_equal(real.loc[0], noise.loc[0], rtol=1e-6)
    (spec,) = alignment.chosen(BASELINE, SETTINGS, [NOISE[0]])
    own = spec.folder(paths.runs_folder() / BASELINE.runs).evaluation()
    own = own[(own["source"] == "policy") & (own["step"] == 4)]
    prompts = spec.build().eval_prompts
    expected = [
        tiny.reward([prompts[p]], [[t]]).item()
        for p, t in zip(own["prompt"], own["text"], strict=True)
    ]
    assert noise["reward"].loc[4].mean() == pytest.approx(np.mean(expected), rel=1e-6)
    assert abs(own["reward"].mean() - np.mean(expected)) > 0.1


@pytest.mark.parametrize(
    ("task", "policy", "expected"),
    [
        ("sentiment", "", ""),
        ("chat", "", "chat"),
        ("sentiment", "google/gemma-2b", "sentiment_google--gemma-2b"),
        ("sentiment", "chat", "sentiment_chat"),
        ("chat", "gemma3", "chat_gemma3"),
    ],
)
def test_other_tasks_and_policies_have_results_of_their_own(monkeypatch, task, policy, expected):
    """A policy called chat is not the task; two owners' models of one name are two policies."""
    monkeypatch.setattr(alignment.Results, "load", lambda self, names, compute: self)
    asked = SETTINGS.model_copy(update={"task": task, "policy": policy})
    assert alignment.results(BASELINE, asked).variant == expected


def test_shipped_results_are_those_of_the_study():
    """Of Figure 7 on both tasks, with what every claim needs."""
    for task in ("sentiment", "chat"):
        asked = SETTINGS.model_copy(update={"profile": "shipped", "task": task})
        shipped = alignment.results(BASELINE, asked)
        assert set(shipped["evaluations"]["profile"]) == {"study"}
        assert all(len(claim.decide(shipped["evaluations"])[1]) for claim in BASELINE.claims)
