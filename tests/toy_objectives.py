"""Exact objectives of the toy policy that only tests descend: [B, V] -> scalar, as in `toy`."""

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


def wind(log_policy: Tensor, problem: Problem, beta: float, eta: float = 0.7) -> Tensor:
    """WIND's squared loss over pairs y, y' of the policy that draws, which is this one, held fixed.

    E[(log pi(y) - (log pi_t + beta eta log anchor + eta 1{y beats y'}) / (1 + beta eta))^2], over
    2 eta / (1 + beta eta): whatever eta, the gradient at pi = pi_t is one.
    """
    drawn, rewards = log_policy.detach(), problem.rewards
    wins = (1 + (rewards.unsqueeze(-1) - rewards.unsqueeze(-2)).sign()) / 2  # [B, V, V]
    target = (drawn + beta * eta * problem.log_anchor).unsqueeze(-1) + eta * wins
    miss = log_policy.unsqueeze(-1) - target / (1 + beta * eta)
    chance = drawn.exp().unsqueeze(-1) * drawn.exp().unsqueeze(-2)
    return (1 + beta * eta) / (2 * eta) * (chance * miss**2).sum(dim=(-2, -1)).mean()


def qrpo(log_policy: Tensor, problem: Problem, beta: float) -> Tensor:
    """E[(p_<= - beta log Z - beta log(pi/anchor))^2] of anchor draws, with the exact Z."""
    z = beta * (torch.tensor(1 / beta).double().exp() - 1)
    target = problem.log_quantiles.exp() - beta * z.log()
    miss = target - beta * (log_policy - problem.log_anchor)
    return (problem.log_anchor.exp() * miss**2).sum(dim=-1).mean()


def max_at_k(log_policy: Tensor, problem: Problem, k: int, beta_rl: float) -> Tensor:
    """beta_rl KL(pi || anchor) - E[best reward of k draws]: enumerates the V^k draws."""
    draws = torch.cartesian_prod(*[torch.arange(log_policy.shape[1])] * k).view(-1, k)
    chance = log_policy.exp()[:, draws].prod(dim=-1)  # [B, V^k]
    best = (chance * problem.rewards[:, draws].amax(dim=-1)).sum(dim=-1).mean()
    return beta_rl * kl(log_policy, problem.log_anchor) - best
