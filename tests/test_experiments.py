"""The experiments as data, and the rules that decide the paper's claims."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bondlab.anchors import Periodic
from bondlab.study import decisions, experiments
from bondlab.study.decisions import OBJECTIVES
from bondlab.study.experiments import EXPERIMENTS
from bondlab.study.xsum_runs import DIVERGENCE_CLAIMS, ITERATIVE_CLAIMS, QUANTILE_CLAIMS

# Before training, and after it for each beta, in the order backward KL, forward KL, log quantile.
START = (5.0, 1.2, -1.0)
PAPER = {0.0: (4.5, 0.7, -0.7), 0.5: (3.0, 0.8, -0.4), 1.0: (2.9, 1.5, -0.39)}
COLUMNS = ("backward_kl", "forward_kl", "log_quantile")


def table(after: dict[float, tuple], seeds: int = 3, prompts: int = 30, noise: float = 0.01):
    """Evaluations at steps 0 and 10 whose means are `START` and `after`, with a little noise."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "n": 8, "series": name, "seed": seed, "prompt": prompt, "step": step,
            **{c: v + rng.normal(0, noise) for c, v in zip(COLUMNS, values, strict=True)},
        }
        for beta, name in OBJECTIVES.items() for seed in range(seeds) for prompt in range(prompts)
        for step, values in ((0, START), (10, after[beta]))
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("seeds", [1, 3])
def test_results_like_the_papers_reproduce_every_claim(seeds):
    """PAPER has every ordering of Figure 2 by margins far above the noise."""
    verdicts = [claim.decide(table(PAPER, seeds))[0] for claim in DIVERGENCE_CLAIMS]
    assert verdicts == ["reproduced"] * 3


@pytest.mark.parametrize(
    ("claim", "beta", "values"),
    [
        (0, 0.5, (3.0, 1.5, -0.4)),  # the forward divergence rises
        (1, 0.0, (2.0, 0.7, -0.7)),  # pure forward is the better one on the backward divergence
        (2, 0.0, (4.5, 0.7, -0.2)),  # pure forward leads on quantiles
        (2, 1.0, (2.9, 1.5, -0.2)),  # beta 1 is better by 0.2, twice the margin of "as good"
    ],
)
def test_the_opposite_is_not_reproduced(claim, beta, values):
    verdict, intervals = DIVERGENCE_CLAIMS[claim].decide(table({**PAPER, beta: values}))
    assert verdict == "not reproduced"
    assert len(intervals) == 2


def test_noise_leaves_a_claim_open():
    """With a spread of 5 nats over 30 prompts no difference of a few tenths shows."""
    verdicts = [claim.decide(table(PAPER, noise=5.0))[0] for claim in DIVERGENCE_CLAIMS]
    assert verdicts == ["inconclusive"] * 3


def test_a_difference_pairs_seeds_and_prompts():
    """Difficulty that varies by 100 between prompts cancels: the change is -2 exactly for each."""
    found = table(PAPER, noise=0.0)
    found["backward_kl"] += 100 * found["prompt"]
    change = decisions.change(found, decisions.JEFFREYS, "backward_kl")
    assert change.mean == pytest.approx(-2) and change.high - change.low == pytest.approx(0)


# -- Figure 4 -------------------------------------------------------------------------------------

# Log quantile at steps 0, 5 and 10, and KL to the reference after step 10.
FIGURE_4 = {
    "N = 4": ((-1.0, -0.5, -0.45), 0.3),
    "N = 8": ((-1.0, -0.45, -0.35), 0.42),
    "N = 16": ((-1.0, -0.4, -0.25), 0.56),
    "iterative, n = 2": ((-1.0, -0.55, -0.4), 0.36),
    "iterative, n = 4": ((-1.0, -0.4, -0.2), 0.64),
}


def figure_4(changed: dict | None = None, noise: float = 0.01) -> pd.DataFrame:
    """Every run on log quantile = -1 + sqrt(KL): -0.2 at KL 0.64, whose root is 0.8."""
    rng, rows = np.random.default_rng(0), []
    for series, (levels, _) in (FIGURE_4 | (changed or {})).items():
        for step, level in zip((0, 5, 10), levels, strict=True):
            rows += [
                {"series": series, "seed": 0, "prompt": prompt, "step": step, "n": 4,
                 "log_quantile": level + rng.normal(0, noise),
                 "kl_to_reference": (1 + FIGURE_4[series][0][(0, 5, 10).index(step)]) ** 2}
                for prompt in range(30)
            ]  # fmt: skip
    return pd.DataFrame(rows)


def test_figure_4_like_the_papers_reproduces_every_claim():
    """Late gains 0.05, 0.15 (N = 4, 16) and 0.15, 0.20 (n = 2, 4); n = 4 ends 0.2 ahead of n = 2;
    all on one curve."""
    assert [c.decide(figure_4())[0] for c in ITERATIVE_CLAIMS] == ["reproduced"] * 3


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        (0, {"N = 16": ((-1.0, -0.25, -0.25), 0.56)}),  # no late gain, N = 4 has 0.05
        (1, {"iterative, n = 2": ((-1.0, -0.4, -0.4), 0.36)}),  # flat, N = 4 is not
        (1, {"iterative, n = 4": ((-1.0, -0.7, -0.6), 0.64)}),  # behind n = 2
        (2, {"iterative, n = 4": ((-1.0, -0.8, -0.7), 0.64)}),  # 0.5 below at the same KL
    ],
)
def test_the_opposite_of_figure_4_is_not_reproduced(claim, changed):
    assert ITERATIVE_CLAIMS[claim].decide(figure_4(changed))[0] == "not reproduced"


def test_noise_leaves_figure_4_open():
    assert [c.decide(figure_4(noise=5.0))[0] for c in ITERATIVE_CLAIMS] == ["inconclusive"] * 3


# -- Figure 9 -------------------------------------------------------------------------------------


def figure_9(learned: tuple, noise: float = 0.01) -> pd.DataFrame:
    """Counted at backward 3, forward 1, log quantile -0.5 after the last step; learned as given."""
    rng = np.random.default_rng(0)
    plans = {"Monte Carlo, stored samples": (3.0, 1.0, -0.5), "learned": learned}
    return pd.DataFrame([
        {"series": series, "n": 8, "seed": 0, "prompt": prompt, "step": step,
         **{c: v + rng.normal(0, noise) for c, v in zip(COLUMNS, values, strict=True)}}
        for series, ends in plans.items() for prompt in range(30)
        for step, values in ((0, START), (10, ends))
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("learned", "noise", "verdict"),
    [
        # Within 10 % of 4.92 and of 1.204, and within 0.1 nat.
        ((3.4, 1.1, -0.45), 0.01, "reproduced"),
        ((3.6, 1.0, -0.5), 0.01, "not reproduced"),
        ((3.0, 0.8, -0.5), 0.01, "not reproduced"),
        ((3.0, 1.0, -0.7), 0.01, "not reproduced"),
        ((3.0, 1.0, -0.5), 5.0, "inconclusive"),
    ],
)
def test_learned_quantiles_are_close_or_not(learned, noise, verdict):
    (claim,) = QUANTILE_CLAIMS
    assert claim.decide(figure_9(learned, noise))[0] == verdict


# -- the runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["smoke", "laptop", "study", "paper"])
@pytest.mark.parametrize("name", [n for n, e in EXPERIMENTS.items() if e.runs == "xsum"])
def test_runs_that_are_compared_differ_in_what_is_compared_alone(name, profile):
    """One seed's runs share task, budget and random numbers; their labels say their algorithm."""
    specs = experiments.specs(name, profile)
    assert len({spec.task for spec in specs}) == 1
    for spec in specs:
        changed = {"seed": spec.labels["seed"], "fresh": spec.config.fresh}
        assert spec.config == specs[0].config.model_copy(update=changed)
        assert spec.algorithm.settings == {"n": spec.labels["n"], "beta": spec.labels["beta"]}
        assert spec.config.bank_samples >= spec.labels["n"] + 16  # disjoint draws fit
        said = "samples" in spec.labels["series"] or "anew" in spec.labels["row"]
        assert spec.config.fresh == specs[0].config.fresh or said
    labels = [(s.labels["row"], s.labels["series"], s.labels["seed"]) for s in specs]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "study", "paper"])
def test_at_least_four_rounds_fit(profile):
    """The anchor of iterative BOND is replaced four times or more, and Jeffreys is trained."""
    for spec in experiments.specs("xsum_iterative", profile):
        assert spec.labels["beta"] == 0.5
        every = spec.labels["every"]
        assert spec.algorithm.anchor_moves == (every > 0)
        if every:
            assert spec.algorithm.anchor == Periodic(every)
            assert spec.config.steps // every >= 4


@pytest.mark.parametrize("profile", ["laptop", "study"])
def test_figures_share_the_run_they_have_in_common(profile):
    """N = 8, beta 0.5, seed 0 of Figure 2 is a run of Figures 4 and 9 too: computed once."""
    chosen = [
        (spec.task, spec.algorithm, spec.config)
        for name in ("xsum_divergences", "xsum_iterative", "xsum_quantiles")
        for spec in experiments.specs(name, profile)
        if spec.labels["series"] in (decisions.JEFFREYS, "N = 8", "Monte Carlo, stored samples")
        and (spec.labels["n"], spec.labels["seed"], spec.config.fresh) == (8, 0, False)
    ]
    assert len(chosen) == 3 and chosen[0] == chosen[1] == chosen[2]
    assert len({experiments.EXPERIMENTS[n].runs for n in EXPERIMENTS if "xsum_" in n}) == 2


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="xsum_divergences"):
        experiments.specs("xsum_divergence", "laptop")
    with pytest.raises(ValueError, match="laptop"):
        experiments.specs("xsum_divergences", "labtop")
    assert experiments.specs("exact", "laptop") == ()
