"""Estimators against enumeration on laws with ties, and their stated biases against simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import toy_objectives

from bondlab import measures, toy
from bondlab.best_of_n import backward_kl, kl_bound, log_pmf, order_weights, pmf, tail_probs
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


@pytest.mark.parametrize("n", [2, 5])
def test_forward_kl_equals_the_order_statistics_form(n):
    """Same number as weighting log ref + (n-1) E[log u_(j)] + log n - log pi by rank j."""
    torch.manual_seed(n)
    log_pi, log_ref, rewards = (-torch.rand(3, 4, 12, dtype=torch.float64)).unbind()
    order = rewards.argsort(-1)
    ratio = (log_ref - log_pi).gather(-1, order)
    rank = torch.arange(1, 13, dtype=torch.float64)
    log_u = torch.special.digamma(rank) - torch.special.digamma(torch.tensor(13.0).double())
    terms = ratio + (n - 1) * log_u + math.log(n)
    expected = (order_weights(12, n) * terms).sum(-1)
    torch.testing.assert_close(measures.forward_kl(log_pi, log_ref, rewards, n), expected)


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


def test_backward_kl_approaches_the_exact_divergence_as_outcomes_multiply():
    """With V equal outcomes of pi = ref, (B) tends to n: KL(ref || BoN) tends to (n-1) - log n."""
    gaps = []
    for outcomes in (50, 500, 5000):
        probs = torch.full((outcomes,), 1 / outcomes, dtype=torch.float64)
        rewards = torch.arange(outcomes, dtype=torch.float64)
        leq = tail_probs(probs, rewards)[1]
        estimate = measures.backward_kl(torch.zeros_like(leq)[None], leq[None], 8)
        exact = (probs * (probs.log() - log_pmf(probs.log(), rewards, 8))).sum()
        gaps.append(abs(estimate.item() - exact.item()))
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 0.01
    assert estimate.item() == pytest.approx(backward_kl(8), abs=0.01)


@pytest.mark.parametrize("n", [2, 4])
def test_estimators_converge_on_the_enumerable_policy(n):
    """Two prompts, 156 sequences of an end-of-sequence toy; 40 000 batches of 8 draws, 4 s.e.

    Backward: the continuous form of the divergence. Forward: the exact one plus the stated excess,
    log n - (n-1)/n less the true KL(pi_BoN || pi_ref)."""
    reference, policy = toy.ToyPolicy(prompts=2, seed=1), toy.ToyPolicy(prompts=2, seed=2)
    log_ref, log_pi = reference.log_probs().detach(), policy.log_probs().detach()
    rewards = torch.randn(log_ref.shape, generator=torch.Generator().manual_seed(n)).double()
    problem = toy.Problem(log_ref, rewards, n)
    exact_forward = (
        toy.forward_kl(log_pi, problem) + kl_bound(n) - toy.kl(problem.log_target, log_ref)
    )

    generator = torch.Generator().manual_seed(3)
    own, drawn = (toy.draw(law.repeat(20_000, 1), 8, generator) for law in (log_pi, log_ref))

    def pick(table, draws):
        return table.repeat(20_000, 1).gather(1, draws)

    backward = measures.backward_kl(
        pick(log_pi - log_ref, own), pick(problem.log_quantiles.exp(), own), n
    )
    forward = measures.forward_kl(
        pick(log_pi, drawn), pick(log_ref, drawn), pick(rewards, drawn), n
    )
    expected = (toy_objectives.backward_kl_continuous(log_pi, problem), exact_forward)
    for estimate, value in zip((backward, forward), expected, strict=True):
        estimate = estimate.view(-1, 2).mean(1)  # one batch: both prompts
        error = estimate.std().item() / math.sqrt(len(estimate))
        assert estimate.mean().item() == pytest.approx(value.item(), abs=4 * error)
        assert error < 0.01


@pytest.mark.parametrize(("m", "inflation"), [(16, 1.009), (32, 1.015)])
def test_backward_kl_of_the_reference_has_the_stated_floor_bias(m, inflation):
    """With pi = ref, the number of m draws below a sample is uniform on 0..m, so
    c = -(log(1/2m) + sum_s log(s/m)) / (m+1) and the mean is (n-1) c - log n; 4 s.e. allowed."""
    n, generator = 8, torch.Generator().manual_seed(m)
    draws = torch.rand(20_000, m + 1, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(20_000, 1)
    estimate = measures.backward_kl(zeros, empirical(draws[:, :1], draws[:, 1:]), n)
    c = -(math.log(1 / (2 * m)) + sum(math.log(s / m) for s in range(1, m + 1))) / (m + 1)
    assert c == pytest.approx(inflation, abs=5e-4)
    error = estimate.std().item() / math.sqrt(len(estimate))
    assert estimate.mean().item() == pytest.approx((n - 1) * c - math.log(n), abs=4 * error)
    assert error < 0.06


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
