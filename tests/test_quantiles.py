"""Quantiles from samples, against counting and the paper's constants."""

from __future__ import annotations

import math

import pytest
import torch

from bondlab import quantiles


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
