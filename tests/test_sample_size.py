"""Bias and variance of the update from k reference samples, against enumeration and simulation."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from bondlab import quantiles, rules, toy
from bondlab.toy.sample_size import (
    COMPLETIONS,
    add_one,
    estimate_moments,
    floored,
    gradients_of,
    of_policy,
    update_error,
)

F64 = torch.float64
N = 3
# Outcomes of two prompts, unsorted, one pair tied: reference and rewards.
REFERENCE = torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]], dtype=F64)
REWARDS = torch.tensor([[2.0, 1.0, 3.0], [1.0, 0.0, 1.0]], dtype=F64)
QUANTILES = torch.tensor([[0.5, 0.3, 1.0], [1.0, 0.6, 1.0]], dtype=F64)


def test_floored_is_what_training_uses():
    """s of 5 reference samples at reward 0, the rest above: the share s/5, and 1/10 for none."""
    for s, value in enumerate(floored(5)):
        references = torch.tensor([[0.0] * s + [1.0] * (5 - s)])
        found = quantiles.empirical(torch.tensor([[0.5]], dtype=F64), references)
        assert found.log().item() == pytest.approx(value.item(), rel=1e-12)


@pytest.mark.parametrize("smoothing", [floored, add_one])
def test_moments_equal_those_of_all_reference_samples(smoothing):
    """All 3^4 sets of 4 reference samples with their chances, counted one by one."""
    mean, covariance = estimate_moments(QUANTILES, 4, smoothing)
    for b in range(2):
        values, chances = [], []
        for sample in product(range(3), repeat=4):
            beaten = (REWARDS[b][list(sample)].unsqueeze(1) <= REWARDS[b]).sum(dim=0)
            values.append(smoothing(4)[beaten])
            chances.append(REFERENCE[b][list(sample)].prod())
        values, chances = torch.stack(values), torch.stack(chances)
        expected = chances @ values
        off = values - expected
        torch.testing.assert_close(mean[b], expected, rtol=1e-12, atol=1e-13)
        products = (off * chances.unsqueeze(1)).T @ off
        torch.testing.assert_close(covariance[b], products, rtol=1e-10, atol=1e-13)


def test_moments_of_many_samples_approach_the_truth():
    """Delta method: at k = 4096 the mean errs by -(1-p)/(2pk), the variance is (1-p)/(pk), each
    to within a hundredth; one outcome counts alone."""
    p = torch.tensor([0.5], dtype=F64)
    mean, covariance = estimate_moments(p, 4096, floored)
    assert (mean - p.log()).item() == pytest.approx(-0.5 / 4096, rel=0.01)
    assert covariance.item() == pytest.approx(1 / 4096, rel=0.01)


def tiny() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two prompts of three outcomes, gradients of shared parameters with E[g] = 0."""
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(2, 3, dtype=F64, generator=generator)
    probs = probs / probs.sum(dim=1, keepdim=True)
    gradients = torch.randn(2, 3, 4, dtype=F64, generator=generator)
    centre = (probs.unsqueeze(2) * gradients).sum(dim=1, keepdim=True)
    weights, errors = torch.randn(2, 6, dtype=F64, generator=generator)
    root = torch.randn(2, 3, 3, dtype=F64, generator=generator)
    return gradients - centre, probs, weights, errors, torch.block_diag(*(root @ root.mT))


def test_update_error_equals_all_joint_draws():
    """All 3^4 joint draws of 2 completions for 2 prompts: the mean update, its bias, its variance,
    and the mean over draws of the variance given them. A batch of 2 has half of a prompt's."""
    gradients, probs, weights, errors, covariance = tiny()
    found = update_error(gradients, probs, weights, errors, covariance)
    gradients, probs = gradients.flatten(0, 1), probs.flatten()
    chances, updates, biases, given = [], [], [], []
    for one in product(range(3), range(3), range(3, 6), range(3, 6)):
        y = list(one)
        chances.append(probs[y].prod())
        updates.append(weights[y] @ gradients[y] / 4)
        biases.append(errors[y] @ gradients[y] / 4)
        products = covariance[y][:, y] * (gradients[y] @ gradients[y].T)
        given.append(products.sum() / 16)
    chances, updates = torch.stack(chances), torch.stack(updates)
    mean, bias = chances @ updates, chances @ torch.stack(biases)
    spread = chances @ (updates - mean).square().sum(dim=1)
    assert found.update == pytest.approx(mean.square().sum().item(), rel=1e-10)
    assert found.bias == pytest.approx(bias.square().sum().item(), rel=1e-10)
    assert found.drawing / 2 == pytest.approx(spread.item(), rel=1e-10)
    assert found.estimating / 2 == pytest.approx((chances @ torch.stack(given)).item(), rel=1e-10)
    assert found.relative_bias == pytest.approx((found.bias / found.update) ** 0.5)


def test_update_error_matches_the_rule_with_sampled_quantiles():
    """The rule itself on 3000 batches of 2 x 64 prompts, quantiles from 4 sampled references:
    its mean differs from that with exact quantiles by the bias, in each of 18 coordinates within
    5 standard errors, and both variances lie within 5 standard errors of theirs and of the 1/128
    that the baseline adds. Half the squared difference of two updates with the same completions
    and other references has for its mean the variance from estimating."""
    anchor, policy = toy.ToyPolicy(2, 3, 2, seed=1), toy.ToyPolicy(2, 3, 2, seed=2)
    reference, log_policy = anchor.log_probs().detach(), policy.log_probs().detach()
    problem = toy.Problem(reference, toy.draw_rewards(anchor, 0.5, 3), N)
    gradients = gradients_of(policy)
    mean, covariance = estimate_moments(problem.log_quantiles.exp(), 4, floored)
    errors = (N - 1) * (mean - problem.log_quantiles)
    moments = mean.flatten(), torch.block_diag(*covariance)
    found = of_policy(policy, problem, moments, N)
    generator, copies = torch.Generator().manual_seed(4), 64
    which = torch.arange(2).repeat(copies)

    def one(draws: torch.Tensor, log_quantiles: torch.Tensor) -> torch.Tensor:
        ratio = (log_policy - reference)[which].gather(1, draws)
        empty, rewards = ratio.new_zeros(len(which), 0), problem.rewards[which].gather(1, draws)
        batch = rules.Scores(empty, rewards, log_quantiles.gather(1, draws).exp(), ratio)
        weights = rules.backward_kl(batch, N)
        terms = weights.unsqueeze(-1) * gradients[which.unsqueeze(1), draws]
        return terms.sum((0, 1)) / len(which)

    def estimate() -> torch.Tensor:
        references = toy.draw(reference[which], 4, generator)
        rewards = problem.rewards[which]
        beaten = (rewards.gather(1, references).unsqueeze(1) <= rewards.unsqueeze(2)).sum(-1)
        return floored(4)[beaten]

    rows = []
    for _ in range(3000):
        draws = toy.draw(log_policy[which], COMPLETIONS, generator)
        each = problem.log_quantiles[which], estimate(), estimate()
        rows.append(torch.stack([one(draws, log_quantiles) for log_quantiles in each]))
    plain, first, second = torch.stack(rows).unbind(1)
    off = (first + second) / 2 - plain
    bias = ((log_policy.exp() * errors).unsqueeze(2) * gradients).sum((0, 1)) / 2
    assert found.bias == pytest.approx(bias.square().sum().item(), rel=1e-10)
    error = off.std(0) / 3000**0.5
    assert bias.abs().max() > 20 * error.max()
    assert ((off.mean(0) - bias).abs() < 5 * error + 1e-12).all()
    checks = {
        "drawing": (plain - plain.mean(0)).square().sum(1) * 3000 / 2999,
        "estimating": (first - second).square().sum(1) / 2,
    }
    for name, squares in checks.items():
        expected = getattr(found, name) / (2 * copies)
        within = 5 * squares.std().item() / 3000**0.5 + 2 * expected / (2 * copies)
        assert squares.mean().item() == pytest.approx(expected, abs=within)
        assert within < 0.15 * expected
