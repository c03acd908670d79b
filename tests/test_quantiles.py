"""Quantiles from samples against counting, the paper's constants and scipy."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import digamma

from bondlab import best_of_n, quantiles


def test_empirical_counts_ties_as_beaten():
    """References (1, 2, 2, 5): 2 is not below three of four, 5 none, 0 all, so floor 1/8."""
    references = torch.tensor([[1.0, 2.0, 2.0, 5.0], [0.0, 0.0, 0.0, 0.0]])
    rewards = torch.tensor([[2.0, 5.0, 0.0], [0.0, -1.0, 9.0]])
    expected = [[0.75, 1.0, 0.125], [1.0, 0.125, 1.0]]
    assert quantiles.empirical(rewards, references).tolist() == expected


@pytest.mark.parametrize(("m", "mean"), [(16, -1.009), (32, -1.015)])
def test_floor_is_nearly_unbiased_for_the_log(m, mean):
    """For a continuous reward the number of references beaten is uniform on 0..m, so rewards in
    each of the m+1 gaps once give the mean of log p_hat exactly: (log(1/2m) + sum log(s/m))/(m+1),
    -1.009 at 16 and -1.015 at 32 beside the true -1."""
    references = torch.arange(1.0, m + 1, dtype=torch.float64).unsqueeze(0)
    gaps = torch.arange(0.5, m + 1, dtype=torch.float64).unsqueeze(0)
    actual = quantiles.empirical(gaps, references).log().mean().item()
    exact = (math.log(1 / (2 * m)) + sum(math.log(s / m) for s in range(1, m + 1))) / (m + 1)
    assert actual == pytest.approx(exact, rel=1e-12)
    assert actual == pytest.approx(mean, abs=5e-4)


def test_empirical_converges_to_the_exact_quantile():
    """10^5 references of a law with ties: within 5 binomial standard errors of p_<=."""
    probs = torch.tensor([0.1, 0.25, 0.15, 0.5], dtype=torch.float64)
    rewards = torch.tensor([3.0, 1.0, 1.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    draws = torch.multinomial(probs, 100_000, True, generator=generator)
    estimate = quantiles.empirical(rewards.unsqueeze(0), rewards[draws].unsqueeze(0))[0]
    _, exact = best_of_n.tail_probs(probs, rewards)
    error = (exact * (1 - exact) / 100_000).sqrt() + 1e-6
    assert ((estimate - exact).abs() < 5 * error).all()


def test_empirical_is_blind_to_reward_scale_and_reference_order():
    """Only comparisons enter: an increasing change of both and a shuffle leave equal bits."""
    generator = torch.Generator().manual_seed(1)
    rewards = torch.randint(0, 5, (3, 4), generator=generator).float()
    references = torch.randint(0, 5, (3, 8), generator=generator).float()
    before = quantiles.empirical(rewards, references)
    after = quantiles.empirical(rewards.exp() - 9, references.flip(1).exp() - 9)
    assert torch.equal(before, after)


def test_empirical_keeps_the_floating_type():
    """Integer rewards give the default type, others their own."""
    for dtype, expected in [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.int64, torch.float32),
    ]:
        rewards = torch.ones(1, 2, dtype=dtype)
        assert quantiles.empirical(rewards, rewards).dtype == expected


def test_empirical_refuses_what_it_cannot_compare():
    """No reference, or references of other prompts."""
    with pytest.raises(ValueError, match="at least one reference"):
        quantiles.empirical(torch.zeros(2, 3), torch.zeros(2, 0))
    with pytest.raises(ValueError, match="same prompts"):
        quantiles.empirical(torch.zeros(2, 3), torch.zeros(1, 4))


@pytest.mark.parametrize("k", [1, 2, 7, 1000])
def test_log_order_quantiles_are_digamma_differences(k):
    """The j-th smallest of k uniforms is Beta(j, k+1-j); its mean log is digamma(j) -
    digamma(k+1). The largest has -1/k exactly."""
    values = quantiles.log_order_quantiles(k)
    j = torch.arange(1, k + 1, dtype=torch.float64)
    expected = torch.from_numpy(digamma(j.numpy())) - digamma(k + 1)
    torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-14)
    assert values[-1].item() == -1 / k


@pytest.mark.parametrize(("k", "n"), [(32, 1), (32, 8), (32, 32), (16, 2)])
def test_order_statistics_give_the_log_quantile_of_best_of_n(k, n):
    """Re-weighting k draws into Best-of-n must keep E[log u] = -1/n, with no bias in k."""
    estimate = best_of_n.order_weights(k, n) @ quantiles.log_order_quantiles(k)
    assert estimate.item() == pytest.approx(-1 / n, rel=1e-13)


def test_log_order_quantiles_need_a_draw():
    """k counts draws."""
    with pytest.raises(ValueError, match="at least 1"):
        quantiles.log_order_quantiles(0)
