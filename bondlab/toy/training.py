"""Training the enumerable policy: by exact gradients, or by the rules from sampled draws.

Legend: B prompts, V sequences, N anchor and K policy completions per prompt, M reference samples
behind a quantile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from bondlab import quantiles, rules, toy
from bondlab.toy import Problem, ToyPolicy, draw

# A rule with its hyperparameters bound.
Rule = Callable[[rules.Scores], Tensor]


def surrogate(
    rule: Rule,
    log_policy: Tensor,
    problem: Problem,
    anchor_draws: Tensor,
    policy_draws: Tensor,
    log_quantiles: Tensor,
) -> Tensor:
    """The loss -(1/B) sum w log pi of given draws [B, N] and [B, K], scalar.

    Args:
        log_quantiles: what the rule takes for log p_hat, of every sequence [B, V].
    """
    log_ratio = (log_policy - problem.log_anchor).detach()
    scores = rules.Scores(
        anchor_rewards=problem.rewards.gather(1, anchor_draws),
        policy_rewards=problem.rewards.gather(1, policy_draws),
        quantiles=log_quantiles.gather(1, policy_draws).exp(),
        log_ratio=log_ratio.gather(1, policy_draws),
        anchor_log_ratio=log_ratio.gather(1, anchor_draws),
    )
    draws = torch.cat([anchor_draws, policy_draws], dim=1)
    return -(rule(scores) * log_policy.gather(1, draws)).sum() / len(draws)


def expected_surrogate(
    rule: Rule, log_policy: Tensor, problem: Problem, n: int, k: int, log_quantiles: Tensor
) -> Tensor:
    """Its expectation over all joint draws of n anchor and k policy completions per prompt.

    Its gradient is the rule's expected update. Enumerates V^((n+k) B) draws: for tiny toys.
    """
    prompts, outcomes = log_policy.shape
    rows = torch.arange(prompts).unsqueeze(1)
    total = log_policy.new_zeros(())
    for indices in product(range(outcomes), repeat=(n + k) * prompts):
        draws = torch.tensor(indices).view(prompts, n + k)
        anchor_draws, policy_draws = draws[:, :n], draws[:, n:]
        log_chance = problem.log_anchor[rows, anchor_draws].sum()
        log_chance = log_chance + log_policy.detach()[rows, policy_draws].sum()
        loss = surrogate(rule, log_policy, problem, anchor_draws, policy_draws, log_quantiles)
        total = total + log_chance.exp() * loss
    return total


def sampled_surrogate(
    rule: Rule,
    log_policy: Tensor,
    problem: Problem,
    n: int,
    k: int,
    m: int,
    generator: torch.Generator,
) -> Tensor:
    """The loss of one batch of fresh draws, as in training; m reference samples a quantile.

    m = 0 takes the exact p_<= instead of an estimate.
    """
    log_quantiles = problem.log_quantiles
    if m > 0:
        references = problem.rewards.gather(1, draw(problem.log_anchor, m, generator))
        log_quantiles = quantiles.empirical(problem.rewards, references).log()
    anchor_draws = draw(problem.log_anchor, n, generator)
    policy_draws = draw(log_policy.detach(), k, generator)
    return surrogate(rule, log_policy, problem, anchor_draws, policy_draws, log_quantiles)


@dataclass(frozen=True)
class Record:
    """Exact measures of a toy policy; nats, means over prompts."""

    backward_kl: float
    forward_kl: float
    mean_log_quantile: float
    kl_to_reference: float


def measure(log_policy: Tensor, problem: Problem) -> Record:
    """Measure a policy [B, V] against the problem's target and anchor, by enumeration."""
    return Record(
        backward_kl=toy.backward_kl(log_policy, problem).item(),
        forward_kl=toy.forward_kl(log_policy, problem).item(),
        mean_log_quantile=toy.mean_log_quantile(log_policy, problem).item(),
        kl_to_reference=toy.kl(log_policy, problem.log_anchor).item(),
    )


def descend(
    policy: ToyPolicy, loss: Callable[[Tensor], Tensor], steps: int, lr: float
) -> Iterator[tuple[int, Tensor]]:
    """Train the policy in place with Adam.

    Args:
        loss: from log_policy [B, V] to a scalar: an exact objective, or `sampled_surrogate` with
            its draws bound.

    Yields:
        The number of updates made, from 0 to `steps`, and the log_policy [B, V] that they made.
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=lr)
    for step in range(steps + 1):
        log_policy = policy.log_probs()
        yield step, log_policy.detach()
        if step < steps:
            optimizer.zero_grad()
            loss(log_policy).backward()
            optimizer.step()
