"""The experiments as data, and the rules that decide the paper's claims."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bondlab import experiments
from bondlab.experiments import BETAS, DIVERGENCE_CLAIMS, difference

# Before training, and after it for each beta, in the order backward KL, forward KL, log quantile.
START = (5.0, 1.2, -1.0)
PAPER = {0.0: (4.5, 0.7, -0.7), 0.5: (3.0, 0.8, -0.4), 1.0: (2.9, 1.5, -0.39)}
COLUMNS = ("backward_kl", "forward_kl", "log_quantile")


def table(after: dict[float, tuple], seeds: int = 3, prompts: int = 30, noise: float = 0.01):
    """Evaluations at steps 0 and 10 whose means are `START` and `after`, with a little noise."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "n": 8, "beta": beta, "seed": seed, "prompt": prompt, "step": step,
            **{c: v + rng.normal(0, noise) for c, v in zip(COLUMNS, values, strict=True)},
        }
        for beta in BETAS for seed in range(seeds) for prompt in range(prompts)
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
    change = difference(found, 0.5, "backward_kl", 10, 0)
    assert change.mean == pytest.approx(-2) and change.high - change.low == pytest.approx(0)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "study", "paper"])
def test_runs_that_are_compared_differ_in_what_is_compared_alone(profile):
    """One seed's runs share task, budget and random numbers; their labels say their algorithm."""
    specs = experiments.specs("xsum_divergences", profile)
    assert len({spec.task for spec in specs}) == 1
    for spec in specs:
        assert spec.config == specs[0].config.model_copy(update={"seed": spec.labels["seed"]})
        assert spec.algorithm.settings == {"n": spec.labels["n"], "beta": spec.labels["beta"]}
        assert spec.config.bank_samples >= spec.labels["n"] + 16  # disjoint draws fit
    labels = [tuple(spec.labels.values()) for spec in specs]
    assert len(set(labels)) == len(labels)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="xsum_divergences"):
        experiments.specs("xsum_divergence", "laptop")
    with pytest.raises(ValueError, match="laptop"):
        experiments.specs("xsum_divergences", "labtop")
    assert experiments.specs("exact", "laptop") == ()
