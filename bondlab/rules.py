"""The algorithms, each a pure function from scores to one weight a completion.

    loss = -(1/B) sum_b sum_j weights[b, j] * log pi(y[b, j] | x[b])

Every rule returns weights [B, N+K]: the anchor's N completions first, then the policy's K. A mean
over K samples carries its 1/K in the weights. Weights never carry a gradient. Shapes are static
and nothing waits for the device, so rewards must have been checked for NaN before.

Legend: B prompts, N anchor completions (Best-of-N draws), K policy completions a prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# E[r_J] = alpha (1 - p)^2 meets log p at the median: alpha / 4 = log(1/2)   (A.4, eq. 23-24)
J_BOND_PENALTY = -math.log(16.0)


@dataclass(frozen=True)
class Scores:
    """What every rule sees of one batch.

    Args:
        anchor_rewards: rewards of the anchor's completions [B, N]; N may be 0.
        policy_rewards: rewards of the policy's completions [B, K]; K may be 0.
        quantiles: p_<= of the policy's completions under the anchor [B, K], never 0.
        log_ratio: log pi(y|x) - log pi_anchor(y|x) of the policy's completions [B, K], nats.

    Raises:
        ValueError: the shapes do not fit each other.
    """

    anchor_rewards: Tensor
    policy_rewards: Tensor
    quantiles: Tensor
    log_ratio: Tensor

    def __post_init__(self) -> None:
        shape = self.policy_rewards.shape
        if not (len(shape) == 2 and shape == self.quantiles.shape == self.log_ratio.shape):
            raise ValueError(
                "policy_rewards, quantiles and log_ratio must share one shape [B, K], got "
                f"{tuple(shape)}, {tuple(self.quantiles.shape)}, {tuple(self.log_ratio.shape)}."
            )
        if self.anchor_rewards.dim() != 2 or self.anchor_rewards.shape[0] != shape[0]:
            raise ValueError(
                f"anchor_rewards must be [B, N] with B = {shape[0]}, "
                f"got {tuple(self.anchor_rewards.shape)}."
            )


@torch.no_grad()
def forward_kl(scores: Scores) -> Tensor:
    """Maximum likelihood on the best of the N anchor draws (eq. 12-13): weights [B, N+K]."""
    return torch.cat([_best(scores), torch.zeros_like(scores.log_ratio)], dim=1)


@torch.no_grad()
def backward_kl(scores: Scores, n: int) -> Tensor:
    """Policy gradient of KL(pi || Best-of-n of the anchor) (eq. 14-15): weights [B, N+K].

    The return is (n-1) log p_hat - log(pi/pi_anchor). The factor n-1 of eq. 15 is kept, since
    without it the Jeffreys mix would change with n; section 4.2 prints the reward without its
    logarithm, a slip. The baseline is the mean return of all other generations of the batch.
    """
    return torch.cat([_no_anchor(scores), _backward(scores, n)], dim=1)


@torch.no_grad()
def jeffreys(scores: Scores, n: int, beta: float) -> Tensor:
    """(1-beta) forward KL + beta backward KL (eq. 11): weights [B, N+K].

    A side whose share is 0 needs no completions: N may be 0 at beta = 1, K at beta = 0.
    """
    _check_share(beta)
    best = _best(scores) if beta < 1 else _no_anchor(scores)
    return torch.cat([(1 - beta) * best, beta * _backward(scores, n)], dim=1)


@torch.no_grad()
def j_bond(scores: Scores, beta: float, gamma: float) -> Tensor:
    """J-BOND (Algorithm 2), with two anchor completions a prompt: weights [B, 2+K].

    (1-beta) on the better anchor completion; beta (R - baseline) - gamma log(pi/pi_anchor) on
    the policy's, with R = r_J - log(pi/pi_anchor). G_Reg carries a plus sign as a descent
    gradient: the minus that v1 prints would push the policy away from its anchor.
    """
    _check_share(beta)
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, got {gamma}.")
    returns = j_bond_reward(scores.policy_rewards, scores.anchor_rewards) - scores.log_ratio
    pull = beta * (returns - leave_one_out(returns)) - gamma * scores.log_ratio
    return torch.cat([(1 - beta) * _best(scores), pull / _policy_count(scores)], dim=1)


@torch.no_grad()
def reinforce(scores: Scores, beta_rl: float) -> Tensor:
    """REINFORCE on reward - beta_rl log(pi/pi_anchor), leave-one-out (RLOO): weights [B, N+K].

    The baseline is the mean return of the same prompt's other completions (Ahmadian et al. 2024,
    arXiv:2402.14740); the paper's Figure 7 uses K = 2. With K = 1 there is none.
    """
    returns = scores.policy_rewards - beta_rl * scores.log_ratio  # Eq. 1
    weights = (returns - _mean_of_others(returns, dim=1)) / _policy_count(scores)
    return torch.cat([_no_anchor(scores), weights], dim=1)


@torch.no_grad()
def j_bond_reward(policy_rewards: Tensor, anchor_rewards: Tensor) -> Tensor:
    """-log 16 where a completion is worse than both anchor completions, else 0 (eq. 17).

    Args:
        policy_rewards: [B, K].
        anchor_rewards: [B, 2].

    Returns:
        [B, K]. "Worse" is strict, as in eq. 17, so a tie is not penalised.
    """
    if anchor_rewards.shape[-1] != 2:
        raise ValueError(
            f"J-BOND compares with 2 anchor completions, got {anchor_rewards.shape[-1]}."
        )
    worst = anchor_rewards.amin(dim=-1, keepdim=True)
    dtype = torch.result_type(policy_rewards, 1.0)
    return (policy_rewards < worst).to(dtype) * J_BOND_PENALTY


@torch.no_grad()
def leave_one_out(returns: Tensor) -> Tensor:
    """Mean return of all the other generations in the batch [B, K]; 0 if there are none."""
    return _mean_of_others(returns.flatten(), dim=0).view(returns.shape)


def _mean_of_others(returns: Tensor, dim: int) -> Tensor:
    count = returns.shape[dim]
    if count < 2:
        return torch.zeros_like(returns)
    return (returns.sum(dim, keepdim=True) - returns) / (count - 1)


def _best(scores: Scores) -> Tensor:
    """1 on the first best anchor completion, 0 on the others: [B, N]."""
    if scores.anchor_rewards.shape[1] == 0:
        raise ValueError("The forward KL needs anchor completions: sample at least one a prompt.")
    best = scores.anchor_rewards.argmax(dim=1, keepdim=True)
    return _no_anchor(scores).scatter(1, best, 1.0)


def _backward(scores: Scores, n: int) -> Tensor:
    returns = (n - 1) * scores.quantiles.log() - scores.log_ratio  # Eq. 15
    return (returns - leave_one_out(returns)) / _policy_count(scores)


def _no_anchor(scores: Scores) -> Tensor:
    """Zeros [B, N] in the type of the log ratio."""
    return scores.log_ratio.new_zeros(scores.anchor_rewards.shape)


def _policy_count(scores: Scores) -> int:
    """K, but 1 for an empty side, whose weights are empty anyway."""
    return max(scores.log_ratio.shape[1], 1)


def _check_share(beta: float) -> None:
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is the share of the backward KL and lies in [0, 1], got {beta}.")
