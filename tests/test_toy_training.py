"""Where training the enumerable policy ends, by exact gradients and by samples."""

from __future__ import annotations

from functools import partial

import torch

from bondlab import rules, toy
from bondlab.toy import training


def test_descend_shows_what_each_divergence_does():
    """Figure 2 on the toy: each objective ends lowest in itself, the pure ones above Jeffreys in
    the other divergence, and the forward KL lags in log quantile."""
    ends = {}
    for beta in (0.0, 0.5, 1.0):
        policy = toy.ToyPolicy(2, 6, 3, seed=1)
        problem = toy.Problem(policy.log_probs().detach(), toy.draw_rewards(policy, 0.5, 2), 8)
        loss = partial(toy.jeffreys, problem=problem, beta=beta)
        found = dict(training.descend(policy, loss, steps=300, lr=0.05))
        assert [*found] == [*range(301)] and found[300].equal(policy.log_probs())
        assert training.measure(found[0], problem).kl_to_reference == 0
        ends[beta] = training.measure(found[300], problem)
    assert ends[1.0].backward_kl < ends[0.5].backward_kl < ends[0.0].backward_kl
    assert ends[0.0].forward_kl < ends[0.5].forward_kl < ends[1.0].forward_kl
    mixed = {beta: end.backward_kl + end.forward_kl for beta, end in ends.items()}
    assert mixed[0.5] < min(mixed[0.0], mixed[1.0])
    assert ends[0.0].mean_log_quantile < ends[0.5].mean_log_quantile


def test_descend_by_samples_approaches_the_exact_optimum():
    """The rule with 8 + 8 draws a step ends within 10 % of exact descent's Jeffreys divergence."""
    generator = torch.Generator().manual_seed(2)
    rewards = torch.randn(4, 156, dtype=torch.float64, generator=generator)
    values = []
    for sampled in (False, True):
        policy = toy.ToyPolicy(4, 6, 3, seed=1)
        problem = toy.Problem(policy.log_probs().detach(), rewards, 4)
        loss = partial(toy.jeffreys, problem=problem, beta=0.5)
        if sampled:
            rule = partial(rules.jeffreys, n=4, beta=0.5)
            generator = torch.Generator().manual_seed(8)
            draws = {"n": 4, "k": 8, "m": 0, "generator": generator}
            loss = partial(training.sampled_surrogate, rule, problem=problem, **draws)
        *_, (_, log_policy) = training.descend(policy, loss, steps=400, lr=0.03)
        end = training.measure(log_policy, problem)
        values.append((end.backward_kl + end.forward_kl) / 2)
    assert values[0] < values[1] < 1.1 * values[0]
