"""An enumerable policy: every sequence, law, divergence and gradient is exact.

A bigram softmax model over a tiny vocabulary. Few enough sequences to list, so the exact Best-of-N
law and the objectives of every algorithm are finite sums, and autograd gives their gradients. It
is the test bed of the rules and the subject of notebook 00. Everything is float64, logs natural.

Legend: B prompts, V sequences, T tokens, N anchor and K policy completions a prompt, M reference
samples behind a quantile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor, nn

from bondlab import best_of_n, quantiles, rules

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
        """Draw the logits from a normal law of the given scale; seeded."""
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
        table = self.logits.log_softmax(dim=-1)
        previous = nn.functional.pad(self.sequences[:, :-1], (1, 0), value=END)
        return (table[:, previous, self.sequences] * self.mask).sum(dim=-1)

    @torch.no_grad()
    def sample(self, k: int, generator: torch.Generator) -> Tensor:
        """Indices into `sequences` of k independent completions a prompt: [B, k]."""
        return draw(self.log_probs(), k, generator)


def _complete(vocabulary: int, length: int) -> Iterator[tuple[int, ...]]:
    """Every sequence once: after `END` only padding, written as `END`."""
    for tokens in product(range(vocabulary), repeat=length):
        end = tokens.index(END) if END in tokens else length
        if not any(tokens[end:]):
            yield tokens


def draw(log_probs: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Indices [B, k] of independent draws from laws [B, V]."""
    return torch.multinomial(log_probs.exp(), k, replacement=True, generator=generator)


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


def backward_kl_continuous(log_policy: Tensor, problem: Problem) -> Tensor:
    """Backward KL to the density of a continuous maximum, n p_<=^(n-1) pi_anchor (A.2).

    What the rule really descends, since the paper drops the collision term (B) of Theorem 1.
    """
    n = problem.n
    log_n = torch.tensor(float(n), dtype=torch.float64).log()
    return kl(log_policy, problem.log_anchor + (n - 1) * problem.log_quantiles + log_n)


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


def entropy(log_policy: Tensor) -> Tensor:
    """Entropy of the policy in nats, the mean over prompts."""
    return -(log_policy.exp() * log_policy).sum(dim=-1).mean()


# The rules on the toy. A rule here is scores -> weights, its hyperparameters bound.

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
    )
    draws = torch.cat([anchor_draws, policy_draws], dim=1)
    return -(rule(scores) * log_policy.gather(1, draws)).sum() / len(draws)


def expected_surrogate(
    rule: Rule, log_policy: Tensor, problem: Problem, n: int, k: int, log_quantiles: Tensor
) -> Tensor:
    """Its expectation over all joint draws of n anchor and k policy completions a prompt.

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
    """Exact measures of a toy policy after `step` updates; nats, means over prompts."""

    step: int
    backward_kl: float
    forward_kl: float
    mean_log_quantile: float
    kl_to_reference: float
    entropy: float


@torch.no_grad()
def measure(policy: ToyPolicy, problem: Problem, step: int) -> Record:
    """Measure the policy against the problem's target and anchor, by enumeration."""
    log_policy = policy.log_probs()
    return Record(
        step=step,
        backward_kl=backward_kl(log_policy, problem).item(),
        forward_kl=forward_kl(log_policy, problem).item(),
        mean_log_quantile=mean_log_quantile(log_policy, problem).item(),
        kl_to_reference=kl(log_policy, problem.log_anchor).item(),
        entropy=entropy(log_policy).item(),
    )


def descend(
    policy: ToyPolicy,
    problem: Problem,
    loss: Callable[[Tensor], Tensor],
    steps: int,
    lr: float,
    every: int = 1,
) -> list[Record]:
    """Train the policy in place with Adam and measure it exactly every `every` steps.

    Args:
        loss: from log_policy [B, V] to a scalar: an exact objective, or `sampled_surrogate` with
            its draws bound.

    Returns:
        Records from step 0 on; the last step is always among them.
    """
    optimizer = torch.optim.Adam(policy.parameters(), lr=lr)
    records = [measure(policy, problem, step=0)]
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss(policy.log_probs()).backward()
        optimizer.step()
        if step % every == 0 or step == steps:
            records.append(measure(policy, problem, step))
    return records
