"""How far the policy is from Best-of-N: estimators.

They take tensors and return one number per prompt, because prompts, not completions, are the
independent units (`bondlab.report.intervals`). All logs are natural, so divergences are in nats,
and every log-probability is that of a whole completion.

Legend: B prompts, K policy samples per prompt, M reference samples per prompt, n the Best-of-n
size.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from bondlab.best_of_n import kl_bound, order_weights


def log_bon_ratio(quantiles: Tensor, n: int) -> Tensor:
    """log pi_BoN(y) - log pi_ref(y) in nats, from the quantile of y under the reference.

    This is Theorem 1 (eq. 4) with the collision term at its large-vocabulary limit (B) = n, the
    form the paper trains on. The estimator the paper evaluates with is not stated; chosen because
    (B) cannot be estimated from samples of a language model, and is n but for repeated completions.
    """
    return (n - 1) * quantiles.double().log() + math.log(n)


def backward_kl(kl: Tensor, quantiles: Tensor, n: int) -> Tensor:
    """KL(pi || pi_BoN) per prompt from policy samples (first part of eq. 14). [B, K] x 2 -> [B]

    `kl` is what each sample says of KL(pi || pi_ref): its log pi - log pi_ref, or with less
    variance the divergences of the next token along it (`LanguageModel.score_beside`). Unbiased in
    it and, up to the collision term, with exact quantiles. Those of M draws, floored at 1/(2M),
    make it 1 to 5 % too large at the start: a policy equal to the reference scores
    (n - 1) c - log n, with c = 1.015 at M = 32 and 1.009 at 16 in place of 1. At n = 1 it is
    KL(pi || pi_ref).
    """
    _require_shape(kl, quantiles)
    return (kl.double() - log_bon_ratio(quantiles, n)).mean(-1)


def forward_kl(log_pi: Tensor, log_ref: Tensor, rewards: Tensor, n: int) -> Tensor:
    """KL(pi_BoN || pi) per prompt from M reference samples (eq. 12). [B, M] x 3 -> [B]

    Re-weights the reference samples to Best-of-n. The mean of `log_bon_ratio` over pi_BoN is
    log n - (n-1)/n whatever the rewards, so it is put in as a number: only log pi_ref - log pi is
    left to estimate, without bias for any M >= n. Where completions repeat, that number is an upper
    bound, and this estimate too large by as much.
    """
    _require_shape(log_pi, log_ref, rewards)
    return best_of_n_value(log_ref.double() - log_pi.double(), rewards, n) + kl_bound(n)


def best_of_n_value(values: Tensor, rewards: Tensor, n: int) -> Tensor:
    """Expected value of a completion chosen by Best-of-n among the given ones. [B, M] x 2 -> [B]

    The mean over all size-n subsets of the M samples, by `order_weights`; samples of equal reward
    share their ranks' weight, so that the order of the draws does not matter. Unbiased for any
    value: reward, length, log-probability.
    """
    _require_shape(values, rewards)
    if torch.isnan(rewards).any():
        raise ValueError("A reward is NaN: Best-of-n cannot rank it. Check the reward function.")
    mass = torch.nn.functional.pad(order_weights(rewards.shape[-1], n).cumsum(0), (1, 0))
    ordered = rewards.sort(-1).values
    below = torch.searchsorted(ordered, rewards.contiguous(), right=False)
    up_to = torch.searchsorted(ordered, rewards.contiguous(), right=True)
    mass = mass.to(rewards.device)
    return ((mass[up_to] - mass[below]) / (up_to - below) * values.double()).sum(-1)


def effective_n(mean_log_quantile: float, k: int) -> float:
    """The real N whose Best-of-N, measured alike, has this mean log quantile in nats.

    "Alike" is with k reference samples and p_hat floored at 1/(2k), so that the reference itself
    has N = 1 exactly, although it measures -1.015 at k = 32. For large k this is -1 over the mean
    log quantile. Increasing, hence an interval's ends may be put in as they are: log(1/(2k)), which
    a policy below every reference sample measures, and less give 0; 0 and more give inf; NaN NaN.
    """
    if math.isnan(mean_log_quantile):
        return math.nan

    def excess(log_n: float) -> float:
        return _measured_log_quantile(math.exp(log_n), k) - mean_log_quantile

    if excess(-30.0) >= 0:  # nearer to the ends than rounding tells
        return 0.0
    return math.exp(optimize.brentq(excess, -30.0, 30.0)) if excess(30.0) > 0 else math.inf


def _measured_log_quantile(n: float, k: int) -> float:
    """E log max(S/k, 1/(2k)), where S of k reference samples score no higher than a Best-of-n.

    Its quantile is Beta(n, 1), so P(S = k) = n/(n+k) and P(S = s-1) = P(S = s) s/(n+s-1), which
    also holds for n that is no integer and loses no digits.
    """
    s = np.arange(k, 0, -1)
    chances = n / (n + k) * np.cumprod(np.r_[1.0, s / (n + (s - 1))])  # of S = k, k-1, ..., 0
    return float(chances @ np.log(np.r_[s, 0.5] / k))


def _require_shape(*tensors: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(set(shapes)) > 1:
        raise ValueError(f"Expected tensors of one shape [prompts, samples], not {shapes}.")
