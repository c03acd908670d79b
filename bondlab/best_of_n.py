"""The distribution of Best-of-N sampling: draw N times, keep the first best draw.

Sessa et al., "BOND: Aligning LLMs with Best-of-N Distillation", section 3 and appendix A. All
logarithms are natural. Equal rewards are true ties: Theorem 1 stays exact with them, because
`select` keeps the first maximum.

Legend: V outcomes, K completions of a prompt, `...` leading batch axes, p_< and p_<= the
probability that one draw scores below, or not above, an outcome.
"""

from __future__ import annotations

import math
import operator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

LOG_HALF = -math.log(2.0)
# Wide enough for a float32 softmax over many outcomes; masses are normalised afterwards.
MASS_TOLERANCE = 1e-5


class _Tails(NamedTuple):
    """Masses [..., V] of each outcome, below, tied with, up to and above it; plain or logs."""

    mass: Tensor
    less: Tensor
    tie: Tensor
    leq: Tensor
    greater: Tensor

    def log(self) -> _Tails:
        return _Tails(*(mass.log() for mass in self))


def pmf(probs: Tensor, rewards: Tensor, n: int) -> Tensor:
    """Probability of each outcome under Best-of-n (Theorem 1, eq. 4), ties included.

    Args:
        probs: probabilities of one draw [..., V], summing to 1 over the last axis.
        rewards: rewards [..., V]; only their order matters.
        n: number of draws, at least 1.

    Returns:
        float64 [..., V], relatively accurate down to the underflow; no gradient.

    Raises:
        ValueError: a NaN reward, a mass that is no probability distribution, or a bad n.
    """
    n = _draws(n)
    tails = _tails(probs, rewards)
    return torch.where(tails.mass > 0, tails.mass * _log_gain(tails.log(), n).exp(), 0.0)


def log_pmf(log_probs: Tensor, rewards: Tensor, n: int) -> Tensor:
    """Logarithm of `pmf` from log-probabilities [..., V]; finite where `pmf` underflows.

    Same arguments, errors and source as `pmf`; float64 [..., V], no gradient.
    """
    n = _draws(n)
    tails = _tails(log_probs, rewards, logs=True)
    return torch.where(tails.mass > -math.inf, tails.mass + _log_gain(tails, n), -math.inf)


def tail_probs(probs: Tensor, rewards: Tensor) -> tuple[Tensor, Tensor]:
    """p_< and p_<= of each outcome (eq. 2-3): two float64 tensors [..., V]; errors as `pmf`."""
    tails = _tails(probs, rewards)
    return tails.less, tails.leq


def log_quantiles(log_probs: Tensor, rewards: Tensor) -> Tensor:
    """log p_<= of each outcome from log-probabilities: float64 [..., V]; errors as `log_pmf`.

    Relatively accurate also near p_<= = 1, where it is computed from the mass above.
    """
    return _log_leq(_tails(log_probs, rewards, logs=True))


def bond_reward(probs: Tensor, rewards: Tensor, n: int) -> Tensor:
    """The reward whose KL-regularised optimum is Best-of-n, strength 1/(n-1) (eq. 8).

    log p_<= plus log (B) / (n-1), with (B) the collision term of eq. 4. Arguments and errors as
    `pmf`, with n at least 2; float64 [..., V]; -inf where p_<= is 0.
    """
    if _draws(n) < 2:
        raise ValueError("bond_reward needs n of at least 2: with n = 1 nothing is preferred.")
    tails = _tails(probs, rewards).log()
    return _log_leq(tails) + _log_collisions(tails, n) / (n - 1)  # Eq. 8


def select(rewards: Tensor) -> Tensor:
    """Index [...] of the first maximum of rewards [..., K]: what Best-of-K returns.

    Raises:
        ValueError: a NaN among the rewards, or no completion to choose from.
    """
    if rewards.shape[-1] == 0:
        raise ValueError("select needs at least one reward on the last axis.")
    _check_rewards(rewards)
    return rewards.argmax(dim=-1)


def order_weights(k: int, n: int) -> Tensor:
    """Probability that rank j = 1..k, ascending, is the best of a random n-subset of k draws.

    C(j-1, n-1) / C(k, n), from exact integers: float64 [k], summing to 1. It turns k draws into
    an estimate for Best-of-n without sub-grouping noise; tied draws may be ranked in any order.

    Raises:
        ValueError: n is not an integer from 1 to k.
    """
    n = _draws(n)
    if n > k:
        raise ValueError(f"Best-of-{n} needs {n} draws or more, got k = {k}: draw more or lower n.")
    counts = [0] * (n - 1) + [1]
    for j in range(n + 1, k + 1):
        counts.append(counts[-1] * (j - 1) // (j - n))
    subsets = math.comb(k, n)
    return torch.tensor([count / subsets for count in counts], dtype=torch.float64)


def kl_bound(n: int) -> float:
    """Forward KL, KL(Best-of-n || base), in nats for a continuous reward; a bound for any."""
    return math.log(_draws(n)) - (n - 1) / n


def backward_kl(n: int) -> float:
    """Backward KL, KL(base || Best-of-n), for a continuous reward, nats: where training starts."""
    return (n - 1) - math.log(_draws(n))


def win_rate(n: int) -> float:
    """P(Best-of-n scores above one draw) for a continuous reward: its mean quantile, n/(n+1)."""
    return _draws(n) / (n + 1)


def _log_gain(tails: _Tails, n: int) -> Tensor:
    """log(pmf / probs): factors (A) and (B) of eq. 4."""
    factor_a = (n - 1) * _log_leq(tails) if n > 1 else torch.zeros_like(tails.leq)
    return factor_a + _log_collisions(tails, n)


def _log_leq(tails: _Tails) -> Tensor:
    """log p_<=. Above one half it comes from the mass above: a power n would amplify the
    rounding of a number near 1 by n, but not that of its distance from 1."""
    return torch.where(tails.greater < LOG_HALF, torch.log1p(-tails.greater.exp()), tails.leq)


def _log_collisions(tails: _Tails, n: int) -> Tensor:
    """log (B), B = sum_i q^(i-1) = (1 - q^n) / t, with q = p_</p_<= and t = 1 - q = tie/p_<=.

    Neither q nor t is formed as a difference; where t is the smaller, log q comes from it.
    """
    massless = tails.tie == -math.inf
    log_t = torch.where(massless, -math.inf, tails.tie - tails.leq).clamp(max=0.0)
    log_q = torch.where(massless, 0.0, tails.less - tails.leq).clamp(max=0.0)
    log_q = torch.where(log_t < LOG_HALF, torch.log1p(-log_t.exp()), log_q)
    power = n * log_q
    log_rest = torch.where(
        power < LOG_HALF, torch.log1p(-power.exp()), torch.log(-torch.expm1(power))
    )
    # Once n*t is below the rounding of 1, B is n, also where t itself underflows.
    return torch.where(log_t + math.log(n) < -40.0, math.log(n), log_rest - log_t)


def _tails(mass: Tensor, rewards: Tensor, logs: bool = False) -> _Tails:
    """Tails of checked and normalised masses, plain or logs, by sorting."""
    mass, rewards = _law(mass, rewards, logs)
    add, zero = (torch.logaddexp, -math.inf) if logs else (torch.add, 0.0)

    def running(mass: Tensor, start: Tensor) -> Tensor:
        """Sum of mass[..., start_i : i+1] by doubling: log2(V) roundings instead of V, so that
        Best-of-10000 still keeps its digits."""
        position, step = torch.arange(mass.shape[-1], device=mass.device), 1
        while step < mass.shape[-1]:
            earlier = pad(mass[..., :-step], (step, 0), value=zero)
            mass = add(mass, torch.where(position - step >= start, earlier, zero))
            step *= 2
        return mass

    ordered, order = rewards.sort(dim=-1)
    first = torch.searchsorted(ordered, rewards)
    last = torch.searchsorted(ordered, rewards, right=True)
    upwards, start = mass.gather(-1, order), first.gather(-1, order)
    everything = torch.zeros_like(start)
    below = pad(running(upwards, everything), (1, 0), value=zero)
    above = pad(running(upwards.flip(-1), everything).flip(-1), (0, 1), value=zero)
    return _Tails(
        mass,
        less=below.gather(-1, first),
        tie=running(upwards, start).gather(-1, last - 1),
        leq=below.gather(-1, last),
        greater=above.gather(-1, last),
    )


def _law(mass: Tensor, rewards: Tensor, logs: bool) -> tuple[Tensor, Tensor]:
    """Checked, broadcast and normalised float64 masses with their rewards."""
    _check_rewards(rewards)
    mass, rewards = torch.broadcast_tensors(mass.detach().double(), rewards.detach())
    total = mass.logsumexp(-1, keepdim=True) if logs else mass.sum(-1, keepdim=True)
    off = (total if logs else total - 1).abs()
    if not ((off < MASS_TOLERANCE).all() and (logs or (mass >= 0).all())):
        what = "log_probs must be logarithms of masses" if logs else "probs must be masses"
        raise ValueError(f"{what}, not negative, that sum to 1 over the last axis.")
    return mass - total if logs else mass / total, rewards.contiguous()


def _check_rewards(rewards: Tensor) -> None:
    if bool(rewards.isnan().any()):
        raise ValueError("A reward is NaN: Best-of-n needs comparable rewards; score it again.")


def _draws(n: int) -> int:
    try:
        n = operator.index(n)
    except TypeError:
        raise ValueError(f"n must be an integer number of draws, got {n!r}.") from None
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}.")
    return n
