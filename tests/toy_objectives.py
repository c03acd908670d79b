"""Exact objectives of the toy policy that only tests descend. [B, V] -> scalar, as those of `toy`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bondlab import rules
from bondlab.toy import Problem, kl


def backward_kl_continuous(log_policy: Tensor, problem: Problem) -> Tensor:
    """Backward KL to the density of a continuous maximum, n p_<=^(n-1) pi_anchor (A.2).

    What the rule really descends, since the paper drops the collision term (B) of Theorem 1.
    """
    n = problem.n
    log_n = torch.tensor(float(n), dtype=torch.float64).log()
    return kl(log_policy, problem.log_anchor + (n - 1) * problem.log_quantiles + log_n)


def online_dpo(log_policy: Tensor, problem: Problem, beta_dpo: float) -> Tensor:
    """E[-log sigmoid(beta_dpo (h_better - h_worse))], h = log(pi/anchor), over pairs of the policy.

    Their law is held fixed, as the algorithm's gradient does; pairs of equal reward count nothing.
    """
    h = log_policy - problem.log_anchor
    law, rewards = log_policy.detach().exp(), problem.rewards
    chance = law.unsqueeze(-1) * law.unsqueeze(-2)  # [B, V, V], the first index the better's
    loss = -nn.functional.logsigmoid(beta_dpo * (h.unsqueeze(-1) - h.unsqueeze(-2)))
    better = rewards.unsqueeze(-1) > rewards.unsqueeze(-2)
    return 2 * (chance * better * loss).sum(dim=(-2, -1)).mean()  # either may be drawn first


def bonbon(log_policy: Tensor, problem: Problem, alpha: float) -> Tensor:
    """alpha E[-log pi(best)] + (1-alpha) E[(h_best - h_worst - gap)^2] of n anchor draws.

    Enumerates the V^n ordered draws, first index first where rewards tie: for n of 2 or tiny toys.
    Draws of equal reward have no pair.
    """
    law, rewards = problem.log_anchor.exp(), problem.rewards
    outcomes, n = law.shape[1], problem.n
    draws = torch.cartesian_prod(*[torch.arange(outcomes)] * n)  # [V^n, n]
    chance, drawn = law[:, draws].prod(dim=-1), rewards[:, draws]  # [B, V^n], [B, V^n, n]
    index = draws.expand(len(law), -1, -1)
    best, worst = (
        index.gather(2, place.unsqueeze(-1)).squeeze(-1)
        for place in (drawn.argmax(dim=-1), drawn.argmin(dim=-1))
    )
    h = log_policy - problem.log_anchor
    miss = h.gather(1, best) - h.gather(1, worst) - rules.bonbon_gap(n)
    apart = drawn.amax(dim=-1) > drawn.amin(dim=-1)
    loss = -alpha * log_policy.gather(1, best) + (1 - alpha) * (apart * miss**2)
    return (chance * loss).sum(dim=-1).mean()


