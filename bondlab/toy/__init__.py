"""An enumerable policy: every sequence, probability, divergence and gradient is exact.

A bigram softmax model over a tiny vocabulary. Few enough sequences to list, so the exact Best-of-N
distribution and the objectives of every algorithm are finite sums, and autograd gives their
gradients. It is the test bed of the rules and the subject of notebook 00. Everything is float64,
logs natural.

Legend: B prompts, V sequences, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor, nn

from bondlab import best_of_n, rules

END = 0  # ends a sequence; also stands before its first token


class ToyPolicy(nn.Module):
    """log pi(token | prompt, previous token), free parameters logits [B, vocabulary, vocabulary].

    A sequence ends with token `END` or after `length` tokens. Knowing one token of context only,
    the policy cannot represent Best-of-N exactly, so that the divergences disagree.
    """

    sequences: Tensor
    mask: Tensor

    def __init__(
        self,
        prompts: int = 1,
        vocabulary: int = 6,
        length: int = 3,
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        """Draw the logits from a normal distribution of the given scale; seeded."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        shape = (prompts, vocabulary, vocabulary)
        logits = scale * torch.randn(shape, dtype=torch.float64, generator=generator)
        self.logits = nn.Parameter(logits)
        sequences = torch.tensor(list(_complete(vocabulary, length)))
        ended = (sequences == END).cumsum(1)
        self.register_buffer("sequences", sequences)  # [V, T]
        # The token that ends a sequence counts, the padding behind it does not.
        self.register_buffer("mask", ended - (sequences == END).long() == 0)  # [V, T]

    def log_probs(self) -> Tensor:
        """Exact log-probability of every sequence: [B, V], nats; differentiable."""
        return self.sum_pairs(self.logits.log_softmax(dim=-1))

    def sum_pairs(self, table: Tensor) -> Tensor:
        """Sum of table[b, previous token, token] over each sequence's tokens: [B, V]."""
        previous = nn.functional.pad(self.sequences[:, :-1], (1, 0), value=END)
        return (table[:, previous, self.sequences] * self.mask).sum(dim=-1)


def _complete(vocabulary: int, length: int) -> Iterator[tuple[int, ...]]:
    """Every sequence once: after `END` only padding, written as `END`."""
    for tokens in product(range(vocabulary), repeat=length):
        end = tokens.index(END) if END in tokens else length
        if not any(tokens[end:]):
            yield tokens


def draw(log_probs: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Indices [B, k] of independent draws from distributions [B, V]; k may be 0."""
    if k == 0:
        return torch.empty(len(log_probs), 0, dtype=torch.long)
    return torch.multinomial(log_probs.exp(), k, replacement=True, generator=generator)


def draw_rewards(policy: ToyPolicy, noise: float, seed: int) -> Tensor:
    """A normal score per token pair, summed over the sequence, plus normal noise: [B, V].

    The pairs are what a bigram policy can learn; the noise is what it cannot.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randn(policy.logits.shape, dtype=torch.float64, generator=generator)
    shape = (len(pairs), len(policy.sequences))
    extra = torch.randn(shape, dtype=torch.float64, generator=generator)
    return policy.sum_pairs(pairs) + noise * extra


@dataclass(frozen=True)
class Problem:
    """What a toy policy is to learn: Best-of-n of an anchor under a reward.

    Args:
        log_anchor: log-probabilities of the anchor [B, V], no gradient.
        rewards: reward of every sequence [B, V].
        n: the n of Best-of-n.
    """

    log_anchor: Tensor
    rewards: Tensor
    n: int

    @cached_property
    def log_target(self) -> Tensor:
        """log pi_BoN [B, V] (Theorem 1)."""
        return best_of_n.log_pmf(self.log_anchor, self.rewards, self.n)

    @cached_property
    def log_quantiles(self) -> Tensor:
        """log p_<= of every sequence under the anchor [B, V]."""
        return best_of_n.log_quantiles(self.log_anchor, self.rewards)


# Exact objectives: log_policy [B, V] -> scalar, the mean over prompts, differentiable.


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) in nats, the mean over prompts."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()


def backward_kl(log_policy: Tensor, problem: Problem) -> Tensor:
    """KL(pi || pi_BoN) (section 4.2)."""
    return kl(log_policy, problem.log_target)


def forward_kl(log_policy: Tensor, problem: Problem) -> Tensor:
    """KL(pi_BoN || pi) (eq. 12)."""
    return kl(problem.log_target, log_policy)


def jeffreys(log_policy: Tensor, problem: Problem, beta: float) -> Tensor:
    """(1-beta) forward KL + beta backward KL (eq. 11)."""
    forward, backward = forward_kl(log_policy, problem), backward_kl(log_policy, problem)
    return (1 - beta) * forward + beta * backward


def j_bond(log_policy: Tensor, problem: Problem, beta: float, gamma: float) -> Tensor:
    """What Algorithm 2 descends (section 5): its n is 2.

    (1-beta) KL(Best-of-2 || pi) + beta (E[-r_J] + KL(pi || anchor)) + gamma KL(pi || anchor).
    """
    better = 1 - problem.log_quantiles.exp()
    reward = rules.J_BOND_PENALTY * better**2  # Both anchor draws better: eq. 23
    to_anchor = kl(log_policy, problem.log_anchor)
    expected_reward = (log_policy.exp() * reward).sum(dim=-1).mean()
    forward = kl(best_of_n.log_pmf(problem.log_anchor, problem.rewards, 2), log_policy)
    return (1 - beta) * forward + beta * (to_anchor - expected_reward) + gamma * to_anchor


def reinforce(log_policy: Tensor, problem: Problem, beta_rl: float) -> Tensor:
    """beta_rl KL(pi || anchor) - E[r], the negative of eq. 1."""
    expected_reward = (log_policy.exp() * problem.rewards).sum(dim=-1).mean()
    return beta_rl * kl(log_policy, problem.log_anchor) - expected_reward


def mean_log_quantile(log_policy: Tensor, problem: Problem) -> Tensor:
    """E_pi[log p_<=], the mean over prompts; -1 at the anchor in the continuous limit."""
    return (log_policy.exp() * problem.log_quantiles).sum(dim=-1).mean()
