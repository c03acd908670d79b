"""Estimators against enumeration on laws with ties; effective N against simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from bondlab import measures
from bondlab.best_of_n import kl_bound, log_pmf, pmf, tail_probs
from bondlab.quantiles import empirical
from bondlab.report.intervals import mean_interval

# A law of five outcomes, two of them with equal rewards, and another policy on it.
REF = torch.tensor([0.4, 0.1, 0.2, 0.25, 0.05], dtype=torch.float64)
PI = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15], dtype=torch.float64)
REWARDS = torch.tensor([0.0, 2.0, 1.0, 1.0, 3.0], dtype=torch.float64)


def every_draw(probs: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All ways to draw `count` outcomes: indices [V^count, count] and their probabilities."""
    draws = torch.tensor(list(itertools.product(range(len(probs)), repeat=count)))
    return draws, probs[draws].prod(1)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_forward_kl_of_the_reference_is_exact_for_every_prompt(n):
    """With pi = ref only log n - (n-1)/n remains, with no sampling error: design, invariants."""
    rewards = torch.randn(7, 32, generator=torch.Generator().manual_seed(n))
    log_ref = -10 * torch.rand(7, 32)
    estimate = measures.forward_kl(log_ref, log_ref, rewards, n)
    torch.testing.assert_close(estimate, torch.full((7,), kl_bound(n), dtype=torch.float64))


@pytest.mark.parametrize(("n", "m"), [(1, 3), (2, 2), (2, 4), (3, 4)])
def test_forward_kl_is_unbiased_with_ties(n, m):
    """Over all draws of m, the mean is sum pi_BoN (log ref - log pi) + log n - (n-1)/n exactly."""
    draws, chance = every_draw(REF, m)
    estimate = measures.forward_kl(PI.log()[draws], REF.log()[draws], REWARDS[draws], n)
    expected = (pmf(REF, REWARDS, n) * (REF / PI).log()).sum() + kl_bound(n)
    torch.testing.assert_close((chance * estimate).sum(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_backward_kl_with_exact_quantiles_misses_only_the_collision_term(n):
    """E_pi over all pairs of draws = sum pi (log pi - log pi_BoN) + sum pi log((B)/n), with
    (B) = pi_BoN / (ref p_<=^(n-1)) from the exact law (eq. 4)."""
    draws, chance = every_draw(PI, 2)
    leq = tail_probs(REF, REWARDS)[1]
    estimate = measures.backward_kl((PI.log() - REF.log())[draws], leq[draws], n)
    log_bon = log_pmf(REF.log(), REWARDS, n)
    collisions = log_bon - REF.log() - (n - 1) * leq.log()
    expected = (PI * (PI.log() - log_bon + collisions - math.log(n))).sum()
    torch.testing.assert_close((chance * estimate).sum(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 3), (4, 4)])
def test_best_of_n_value_is_unbiased_with_ties(n, m):
    """Over all draws of m, the mean value of the chosen one is sum pi_BoN values (Theorem 1)."""
    values = torch.tensor([3.0, -1.0, 7.0, 2.0, 5.0], dtype=torch.float64)
    draws, chance = every_draw(REF, m)
    estimate = measures.best_of_n_value(values[draws], REWARDS[draws], n)
    expected = (pmf(REF, REWARDS, n) * values).sum()
    torch.testing.assert_close((chance * estimate).sum(), expected, rtol=0, atol=1e-12)


def test_best_of_n_value_ignores_the_order_of_draws():
    rewards = torch.tensor([[1.0, 1.0, 0.0, 2.0]])
    values = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    order = torch.tensor([1, 3, 0, 2])
    first = measures.best_of_n_value(values, rewards, 2)
    second = measures.best_of_n_value(values[:, order], rewards[:, order], 2)
    torch.testing.assert_close(first, second)
    # ranks 1, 2, 3, 4 weigh 0, 1/6, 2/6, 3/6; the tied pair shares 3/6
    torch.testing.assert_close(first, torch.tensor([0.5 * 15 + 0.5 * 40], dtype=torch.float64))


def test_estimators_refuse_what_they_cannot_rank():
    ones = torch.ones(2, 3)
    with pytest.raises(ValueError, match="one shape"):
        measures.backward_kl(ones, ones[:, :2], 2)
    with pytest.raises(ValueError, match="NaN"):
        measures.best_of_n_value(ones, ones * math.nan, 2)


@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize("k", [16, 32])
def test_effective_n_of_simulated_best_of_n_is_n(n, k):
    """40,000 prompts, one Best-of-n of uniform rewards each, its quantile estimated from k others:
    the effective N of the mean, less and plus four standard errors, holds n and little else."""
    generator = torch.Generator().manual_seed(100 * n + k)
    draws = torch.rand(40_000, n + k, generator=generator, dtype=torch.float64)
    best = draws[:, :n].amax(1, keepdim=True)
    found = mean_interval(empirical(best, draws[:, n:]).log().squeeze(1).numpy())
    reach = 4 * found.standard_error
    low, high = (measures.effective_n(found.mean + side * reach, k) for side in (-1, 1))
    assert low < n < high
    assert high - low < 0.06 * n


def test_effective_n_by_hand_with_one_reference_sample():
    """k = 1: S = 1 with chance n/(n+1), else the floor 1/2, so E = -log 2 / (n+1) for any real n;
    the reference (n = 1) measures -log(2)/2 and is still N = 1."""
    for n in (0.25, 1, 2.5, 8):
        assert measures.effective_n(-math.log(2) / (n + 1), 1) == pytest.approx(n)


@pytest.mark.parametrize("n", [0.5, 1, 2, 8])
def test_effective_n_with_many_reference_samples_is_one_over_the_log_quantile(n):
    """E[log u] = -1/n under Beta(n, 1); k = 10,000 draws change it by some 1e-4."""
    assert measures.effective_n(-1 / n, 10_000) == pytest.approx(n, rel=0.01)


def test_effective_n_rises_with_the_log_quantile_between_its_ends():
    """From the floor log(1/64) of k = 32, where it is 0, to 0, where no N is large enough."""
    values = [measures.effective_n(value, 32) for value in np.linspace(math.log(1 / 64), 0, 200)]
    assert values[0] == 0 and values[-1] == math.inf
    assert all(one < two for one, two in itertools.pairwise(values))
    assert measures.effective_n(-100.0, 32) == 0 and measures.effective_n(1.0, 32) == math.inf
    assert math.isnan(measures.effective_n(math.nan, 32))
