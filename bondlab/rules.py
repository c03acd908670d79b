"""The algorithms, each a pure function from scores to one weight per completion.

    loss = -(1/B) sum_b sum_j weights[b, j] * log pi(y[b, j] | x[b])

Every rule returns weights [B, N+K]: the anchor's N completions first, then the policy's K. A mean
over K samples carries its 1/K in the weights. Weights never carry a gradient. Shapes are static
and no value is looked at, so rewards must have been checked for NaN before.

Legend: B prompts, N anchor completions (Best-of-N draws), K policy completions per prompt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bondlab.best_of_n import order_weights

# E[r_J] = alpha (1 - p)^2 meets log p at the median: alpha / 4 = log(1/2)   (A.4, eq. 23-24)
J_BOND_PENALTY = -math.log(16.0)


@dataclass(frozen=True)
class Scores:
    """What every rule sees of one batch.

    Args:
        anchor_rewards: rewards of the anchor's completions [B, N]; N may be 0.
        policy_rewards: rewards of the policy's completions [B, K]; K may be 0.
        quantiles: p_<= of the policy's completions under the anchor [B, K], never 0; None where
            the rule needs none.
        log_ratio: log pi(y|x) - log pi_anchor(y|x) of the policy's completions [B, K], nats.
        anchor_log_ratio: the same of the anchor's completions [B, N]; None where the rule needs
            none.
        reward_scale: one standard deviation of the reference's rewards within a prompt, for rules
            that do not go by ranks.

    Raises:
        ValueError: the shapes do not fit each other, or a scale not above 0.
    """

    anchor_rewards: Tensor
    policy_rewards: Tensor
    quantiles: Tensor | None
    log_ratio: Tensor
    anchor_log_ratio: Tensor | None = None
    reward_scale: float = 1.0

    def __post_init__(self) -> None:
        check("reward_scale must be above 0", self.reward_scale > 0, self.reward_scale)
        shape, anchor = self.policy_rewards.shape, self.anchor_rewards.shape
        given = self.policy_rewards, self.quantiles, self.log_ratio
        shapes = [x.shape for x in given if x is not None]
        check(
            "policy_rewards, quantiles and log_ratio must share one shape [B, K]",
            len(shape) == 2 and len({*shapes}) == 1,
            shapes,
        )
        fits = len(anchor) == 2 and anchor[0] == shape[0]
        check(f"anchor_rewards must be [B, N] with B = {shape[0]}", fits, anchor)
        if (ratio := self.anchor_log_ratio) is not None:
            fits = ratio.shape == anchor
            check("anchor_log_ratio must have the shape of anchor_rewards", fits, ratio.shape)


@torch.no_grad()
def forward_kl(scores: Scores) -> Tensor:
    """Maximum likelihood on the best of the N anchor draws (eq. 12-13): weights [B, N+K]."""
    return _joined(scores, anchors=_best(scores))


@torch.no_grad()
def backward_kl(scores: Scores, n: int) -> Tensor:
    """Policy gradient of KL(pi || Best-of-n of the anchor) (eq. 14-15): weights [B, N+K].

    The return is (n-1) log p_hat - log(pi/pi_anchor). The factor n-1 of eq. 15 is kept, since
    without it the Jeffreys mix would change with n; section 4.2 prints the reward without its
    logarithm, a slip. The baseline is the mean return of all other generations of the batch.
    """
    return _joined(scores, policy=_backward(scores, n))


@torch.no_grad()
def jeffreys(scores: Scores, n: int, beta: float) -> Tensor:
    """(1-beta) forward KL + beta backward KL (eq. 11): weights [B, N+K].

    A side whose share is 0 needs no completions: N may be 0 at beta = 1, K at beta = 0.
    """
    check_share(beta)
    anchors = (1 - beta) * _best(scores) if beta < 1 else None
    return _joined(scores, anchors, beta * _backward(scores, n))


@torch.no_grad()
def j_bond(scores: Scores, beta: float, gamma: float) -> Tensor:
    """J-BOND (Algorithm 2), with two anchor completions per prompt: weights [B, 2+K].

    (1-beta) on the better anchor completion; beta (R - baseline) - gamma log(pi/pi_anchor) on
    the policy's, with R = r_J - log(pi/pi_anchor). G_Reg carries a plus sign as a descent
    gradient: the minus that v1 prints would push the policy away from its anchor.
    """
    check_share(beta)
    check("gamma must not be negative", gamma >= 0, gamma)
    returns = j_bond_reward(scores.policy_rewards, scores.anchor_rewards) - scores.log_ratio
    pull = beta * (returns - leave_one_out(returns)) - gamma * scores.log_ratio
    return _joined(scores, (1 - beta) * _best(scores), pull / pull.shape[1])


@torch.no_grad()
def reinforce(scores: Scores, beta_rl: float) -> Tensor:
    """REINFORCE on reward - beta_rl log(pi/pi_anchor), leave-one-out (RLOO): weights [B, N+K].

    Rewards count in units of `reward_scale`, so beta_rl is relative to their spread. The baseline
    is the mean return of the same prompt's other completions (Ahmadian et al. 2024,
    arXiv:2402.14740); the paper's Figure 7 uses K = 2. With K = 1 there is none.
    """
    returns = scores.policy_rewards / scores.reward_scale - beta_rl * scores.log_ratio  # Eq. 1
    return _joined(scores, policy=(returns - leave_one_out(returns, dim=1)) / returns.shape[1])


@torch.no_grad()
def online_dpo(scores: Scores, beta_dpo: float) -> Tensor:
    """DPO on the best and the worst of the policy's completions: weights [B, N+K].

    The loss -log sigmoid(beta_dpo (h_best - h_worst)), h = log(pi/pi_anchor), has the gradient
    -beta_dpo sigmoid(-beta_dpo (h_best - h_worst)) (grad log pi_best - grad log pi_worst), with
    the pair taken as given (Rafailov et al. 2023; Guo et al. 2024, arXiv:2402.04792). Completions
    that all score alike are no pair.
    """
    pair = _best_and_worst(scores.policy_rewards, scores.log_ratio.dtype)
    margin = (pair * scores.log_ratio).sum(dim=1, keepdim=True)
    return _joined(scores, policy=beta_dpo * (-beta_dpo * margin).sigmoid() * pair)


@torch.no_grad()
def bonbon(scores: Scores, alpha: float) -> Tensor:
    """BoNBoN on the best and the worst of the anchor's N draws: weights [B, N+K].

    alpha (-log pi_best) + (1-alpha) (h_best - h_worst - g)^2, h = log(pi/pi_anchor), where Best-of-
    N itself has the mean gap g = (N-1) H_{N-1} (Gui et al. 2024, arXiv:2406.00832). The square's
    gradient is linear in the gap that is missing. Draws that all score alike are no pair.

    Raises:
        ValueError: fewer than 2 draws, or no `anchor_log_ratio`.
    """
    n = scores.anchor_rewards.shape[1]
    enough = n > 1 and scores.anchor_log_ratio is not None
    check("BoNBoN needs 2 or more anchor completions and their anchor_log_ratio", enough, n)
    pair = _best_and_worst(scores.anchor_rewards, scores.log_ratio.dtype)
    margin = (pair * scores.anchor_log_ratio).sum(dim=1, keepdim=True)
    pull = 2 * (bonbon_gap(n) - margin) * pair
    return _joined(scores, anchors=alpha * _best(scores) + (1 - alpha) * pull)


@torch.no_grad()
def wind(scores: Scores, beta: float) -> Tensor:
    """WIND's squared loss at the policy that drew (arXiv:2410.20727): weights [B, N+K].

    Iterative BOND as a game: the pi that maximises P(pi beats pi) - beta KL(pi || pi_anchor)
    against itself, by mirror steps of size eta. A step regresses log pi, up to a constant, on
    (log pi_t + beta eta log pi_anchor + eta 1{y beats y'}) / (1 + beta eta), y and y' of pi_t;
    there its gradient is 2 eta / (1 + beta eta), left to the learning rate, times these weights:
    win rate among the K, ties half, minus 1/2, its mean; minus beta log(pi/pi_anchor), centred.
    The loss is derived from the game: of the paper no more than the abstract could be read, so
    its equations are unchecked. Deviation: one gradient step a sample.
    """
    rewards, count = scores.policy_rewards, scores.policy_rewards.shape[1]
    check("a win rate needs 2 or more policy completions", count > 1, count)
    ahead = (rewards.unsqueeze(2) - rewards.unsqueeze(1)).sign()  # [B, K, K]
    margin, h = ahead.sum(2) / (2 * (count - 1)), scores.log_ratio
    pull = margin.to(h.dtype) - beta * (h - leave_one_out(h, dim=1))
    return _joined(scores, policy=pull / count)


@torch.no_grad()
def qrpo(scores: Scores, beta: float) -> Tensor:
    """QRPO (arXiv:2507.08068) on the anchor's N draws alone, offline: weights [B, N+K].

    The loss (q - beta log Z - beta log(pi/pi_anchor))^2 has its minimum where pi is optimal for
    the reward q = p_<= at strength beta; q is uniform, so Z = beta (e^(1/beta) - 1), which the
    paper's eq. 11 simplifies to log Z = log beta + 1/beta. Of each draw q is its share of the
    other N-1 that score no higher, an estimate without bias; the authors' code counts separate
    draws, and its completions may come from anywhere.

    Raises:
        ValueError: fewer than 2 draws, or no `anchor_log_ratio`.
    """
    rewards, count = scores.anchor_rewards, scores.anchor_rewards.shape[1]
    enough = count > 1 and scores.anchor_log_ratio is not None
    check("QRPO needs 2 or more anchor completions and their anchor_log_ratio", enough, count)
    beaten = (rewards.unsqueeze(1) <= rewards.unsqueeze(2)).sum(2) - 1  # not itself
    quantiles = (beaten / (count - 1)).to(scores.log_ratio.dtype)  # [B, N]
    log_z = math.log(beta) + 1 / beta + math.log1p(-math.exp(-1 / beta))
    miss = quantiles - beta * log_z - beta * scores.anchor_log_ratio
    return _joined(scores, anchors=2 * beta * miss / count)


@torch.no_grad()
def max_at_k(scores: Scores, k: int, beta_rl: float) -> Tensor:
    """Policy gradient of E[best of k rewards] - beta_rl KL(pi || pi_anchor): weights [B, N+K].

    A completion weighs what it adds: the mean best of all k-subsets of the K, minus that of the
    others alone, which sums to 0 over a prompt (of max@k, PKPO, arXiv:2505.15201, whose baselines
    are others). Where K = k the others' best of k-1 stands in, and it does not. At k = 1 it is
    `reinforce`.
    """
    count, h = scores.policy_rewards.shape[1], scores.log_ratio
    check(f"leaving one out of {k} needs more policy completions", count >= max(k, 2), count)
    rewards = scores.policy_rewards / scores.reward_scale
    others = torch.tensor([[j for j in range(count) if j != i] for i in range(count)])
    added = _mean_best(rewards, k).unsqueeze(1) - _mean_best(rewards[:, others], min(k, count - 1))
    return _joined(scores, policy=added.to(h.dtype) - beta_rl * (h - leave_one_out(h, 1)) / count)


def _mean_best(rewards: Tensor, k: int) -> Tensor:
    """Mean over all k-subsets of the last axis of their best reward: [...]."""
    weights = order_weights(rewards.shape[-1], k).to(rewards.device)
    return rewards.double().sort(dim=-1).values @ weights


def bonbon_gap(n: int) -> float:
    """(n-1) H_{n-1} nats: mean of h_best - h_worst of n anchor draws where pi is Best-of-n.

    h = log n + (n-1) log u in the limit of continuous rewards, and the best and the worst of n
    uniforms have E[log u] = -1/n and -H_n. 18.15 at n = 8.
    """
    return (n - 1) * sum(1 / k for k in range(1, n))


@torch.no_grad()
def j_bond_reward(policy_rewards: Tensor, anchor_rewards: Tensor) -> Tensor:
    """-log 16 where a completion is worse than both anchor completions, else 0 (eq. 17).

    Args:
        policy_rewards: [B, K].
        anchor_rewards: [B, 2].

    Returns:
        [B, K]. "Worse" is strict, as in eq. 17, so a tie is not penalised.
    """
    n = anchor_rewards.shape[-1]
    check("J-BOND compares with 2 anchor completions", n == 2, n)
    worst = anchor_rewards.amin(dim=-1, keepdim=True)
    return (policy_rewards < worst).to(torch.result_type(worst, 1.0)) * J_BOND_PENALTY


@torch.no_grad()
def leave_one_out(returns: Tensor, dim: int | None = None) -> Tensor:
    """Mean of all the other returns [B, K] of the batch, or along `dim`; 0 if there are none."""
    count = returns.numel() if dim is None else returns.shape[dim]
    total = returns.sum() if dim is None else returns.sum(dim, keepdim=True)
    return (total - returns) / max(count - 1, 1)


def _joined(scores: Scores, anchors: Tensor | None = None, policy: Tensor | None = None) -> Tensor:
    """Weights [B, N+K] of two sides, 0 on one that is left out, in the type of the log ratio."""
    if anchors is None:
        anchors = torch.zeros_like(scores.anchor_rewards, dtype=scores.log_ratio.dtype)
    if policy is None:
        policy = torch.zeros_like(scores.log_ratio)
    return torch.cat([anchors, policy], dim=1)


def _best(scores: Scores) -> Tensor:
    """1 on the first best anchor completion, 0 on the others: [B, N]."""
    rewards = scores.anchor_rewards
    if rewards.shape[1] == 0:
        raise ValueError("The forward KL needs anchor completions: sample at least one a prompt.")
    return _marked(rewards, rewards.argmax(dim=1), scores.log_ratio.dtype)


def _best_and_worst(rewards: Tensor, dtype: torch.dtype) -> Tensor:
    """+1 on the first best, -1 on the first worst, which cancel if all tie, 0 elsewhere: [B, K]."""
    best, worst = rewards.argmax(dim=1), rewards.argmin(dim=1)
    return _marked(rewards, best, dtype) - _marked(rewards, worst, dtype)


def _marked(rewards: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """1 at an index [B] of each row, 0 elsewhere."""
    return torch.zeros_like(rewards, dtype=dtype).scatter(1, index.unsqueeze(1), 1.0)


def _backward(scores: Scores, n: int) -> Tensor:
    if scores.quantiles is None:
        raise ValueError("The backward KL needs quantiles: take quantile_draws of 1 or more.")
    returns = (n - 1) * scores.quantiles.log() - scores.log_ratio  # Eq. 15
    return (returns - leave_one_out(returns)) / returns.shape[1]


def check_share(beta: float) -> None:
    """Raise ValueError unless beta lies in [0, 1]."""
    check("beta is the share of the backward KL and lies in [0, 1]", 0 <= beta <= 1, beta)


def check(demand: str, met: bool, value: object) -> None:
    """Raise ValueError, saying what was demanded and the value that does not meet it."""
    if not met:
        raise ValueError(f"{demand}, not {value!r}")
