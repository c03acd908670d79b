"""How many reference samples a quantile needs: their bias and variance in the backward-KL update.

The update is the mean over prompts and completions of w(y) g(y), with g(y) = grad log pi(y), the
return R(y) = (n-1) log p_hat(y) - log(pi/pi_anchor)(y) and w(y) = R(y) - baseline (eq. 15). An
estimate p_hat from k reference samples errs in two ways. E[log p_hat] is not log p, which turns
the mean update: its *bias*. And p_hat scatters, which adds *variance* to that of drawing y.

Given y the returns alone are random, and linear in log p_hat, so that its mean and covariance say
everything. The k samples of a prompt serve all its completions, hence a covariance. Two prompts
share nothing. The leave-one-out baseline stands at its expectation: that changes no mean, and in a
batch of B prompts leaves out a share of about 1/B of either variance.

Legend: B prompts, K completions per prompt in a batch, S = all outcomes of all prompts, k reference
samples per prompt, V outcomes of one prompt, D parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from bondlab import toy
from bondlab.toy import descents, training

# -- the estimate ----------------------------------------------------------------------------------


def floored(k: int) -> Tensor:
    """log p_hat [k+1] when 0, 1, ..., k of k samples are beaten: S/k, at least 1/(2k).

    What `quantiles.empirical` returns.
    """
    share = torch.arange(k + 1, dtype=torch.float64) / k
    return share.clamp(min=1 / (2 * k)).log()


def add_one(k: int) -> Tensor:
    """log p_hat [k+1] with one more, beaten sample: (S+1)/(k+1)."""
    return (torch.arange(1, k + 2, dtype=torch.float64) / (k + 1)).log()


Smoothing = Callable[[int], Tensor]
SMOOTHINGS: dict[str, Smoothing] = {"floor 1/(2k)": floored, "add-one": add_one}
SIZES = (2, 4, 8, 16, 32, 64)  # k; the paper's are 16 in training and 32 in evaluation


def estimate_moments(quantiles: Tensor, k: int, smoothing: Smoothing) -> tuple[Tensor, Tensor]:
    """Exact mean [..., V] and covariance [..., V, V] of log p_hat from k shared samples.

    The number beaten is binomial (eq. 10). Of s samples that a better outcome beats, a worse one
    beats a binomial number, with the ratio of their quantiles for its chance.

    Args:
        quantiles: true p_<= of the outcomes of a prompt under the reference [..., V], above 0.
        k: number of reference samples, at least 1.
        smoothing: log p_hat of each count, such as `floored`.
    """
    values = smoothing(k)
    mean = _binomial_means(quantiles, values)[..., k]
    ratio = quantiles.unsqueeze(-1) / quantiles.unsqueeze(-2)  # [..., i, j]: p_i / p_j
    given = _binomial_means(ratio.clamp(max=1.0), values)  # E[value_i | count_j]: [..., V, V, k+1]
    counts = torch.distributions.Binomial(k, quantiles.clamp(max=1.0).unsqueeze(-1))
    chance = counts.log_prob(torch.arange(k + 1, dtype=torch.float64)).exp()  # [..., V, k+1]
    product = torch.einsum("...ijs,...js->...ij", given, chance * values)
    product = torch.where(ratio > 1, product.mT, product)  # the better comes second
    return mean, product - mean.unsqueeze(-1) * mean.unsqueeze(-2)


def _binomial_means(chance: Tensor, values: Tensor) -> Tensor:
    """E[values[S]], S ~ Binomial(s, chance), for s = 0..k: [..., k+1].

    One toss at a time: E_s[f(S)] = E_(s-1)[(1-chance) f(S) + chance f(S+1)]; only averages are
    taken, so nothing cancels.
    """
    chance = chance.unsqueeze(-1)
    row = values.expand(*chance.shape[:-1], len(values))
    means = [row[..., 0]]
    for _ in range(len(values) - 1):
        row = torch.lerp(row[..., :-1], row[..., 1:], chance)
        means.append(row[..., 0])
    return torch.stack(means, dim=-1)


# -- the update ------------------------------------------------------------------------------------

COMPLETIONS = 2  # K: policy samples per prompt, as `algorithms.bond`


@dataclass(frozen=True)
class UpdateError:
    """How far estimated quantiles move the update of given prompts.

    Args:
        update: squared norm of the mean update with exact quantiles.
        bias: squared norm of what estimated quantiles add to it.
        drawing: trace of the variance with exact quantiles, from drawing K completions; the mean
            over prompts. A batch of B prompts has 1/B of it, and of `estimating`.
        estimating: trace of the variance given the completions, from estimating their quantiles.
    """

    update: float
    bias: float
    drawing: float
    estimating: float

    @property
    def relative_bias(self) -> float:
        """Norm of the bias as a share of the norm of the exact update."""
        return math.sqrt(self.bias / self.update)

    @property
    def relative_variance(self) -> float:
        """Variance due to estimated quantiles as a share of that of drawing y."""
        return self.estimating / self.drawing


def update_error(
    gradients: Tensor, probs: Tensor, weights: Tensor, errors: Tensor, covariance: Tensor
) -> UpdateError:
    """Bias and variance of the mean of w(y) g(y) when the weights are estimates.

    Args:
        gradients: of log pi of every outcome of each prompt [B, V, D].
        probs: pi(y) [B, V].
        weights: w(y) with exact quantiles [S]: return minus the mean of the returns.
        errors: E[estimated w(y)] - w(y) given y [S].
        covariance: of the estimated weights given the ys [S, S]; used within each prompt only.
    """
    flat, chance = gradients.flatten(0, 1), probs.flatten() / len(probs)
    gram = flat @ flat.T
    norms, mean = chance * gram.diagonal(), chance.outer(chance) * gram
    prompt = torch.arange(len(probs)).repeat_interleave(probs.shape[1])
    own = len(probs) * mean * (prompt.unsqueeze(1) == prompt)  # both draws of one prompt
    at_once = (COMPLETIONS - 1) * (own * covariance).sum()  # they share their reference samples
    return UpdateError(
        update=(weights @ mean @ weights).item(),
        bias=(errors @ mean @ errors).item(),
        drawing=((norms @ weights.square() - weights @ own @ weights) / COMPLETIONS).item(),
        estimating=((norms @ covariance.diagonal() + at_once) / COMPLETIONS).item(),
    )


# -- on the toy policy, where every sequence is listed ---------------------------------------------

BEST_OF = (2, 8)  # iterative BOND's n, and Figure 9's
# Chosen because at n = 8 the log quantile is then about half way to where training ends.
STEPS_PART_WAY = {"at the reference": 0, "part-way trained": 10}


def errors(problems: int, sizes: Sequence[int]) -> pd.DataFrame:
    """Bias and variance of the backward-KL update on toy problems, with each k of `sizes`.

    Returns a row for each n, policy ("at the reference", "part-way trained"), smoothing, k and
    problem: the fields of `UpdateError`, its shares as `bias` and `variance`, and the labels of a
    figure's curve: row, series, step (k).
    """
    return pd.DataFrame([row for seed in range(problems) for row in _of_problem(seed, sizes)])


def _of_problem(seed: int, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    policies = {place: _policy(*place, seed) for place in product(BEST_OF, STEPS_PART_WAY)}
    _, problem = descents.problem_of(BEST_OF[0], seed)  # reference and rewards of any n
    for (name, smoothing), k in product(SMOOTHINGS.items(), sizes):
        mean, covariance = estimate_moments(problem.log_quantiles.exp(), k, smoothing)
        moments = mean.flatten(), torch.block_diag(*covariance)
        for (n, place), policy in policies.items():
            found = of_policy(policy, problem, moments, n)
            yield {
                "n": n, "policy": place, "smoothing": name, "k": k, "problem": seed, **vars(found),
                "bias": found.relative_bias, "variance": found.relative_variance,
                "row": f"n = {n}", "series": f"{name}, {place}", "step": k,
            }  # fmt: skip


def _policy(n: int, place: str, seed: int) -> toy.ToyPolicy:
    policy, problem = descents.problem_of(n, seed)
    loss, steps = partial(toy.jeffreys, problem=problem, beta=0.5), STEPS_PART_WAY[place]
    for _ in training.descend(policy, loss, steps, descents.LEARNING_RATE):
        pass
    return policy


def of_policy(
    policy: toy.ToyPolicy, problem: toy.Problem, moments: tuple[Tensor, Tensor], n: int
) -> UpdateError:
    """`update_error` of the backward KL's returns (eq. 15), towards Best-of-n of the anchor.

    Args:
        problem: with the anchor and rewards; its own n is not used.
        moments: mean and covariance of log p_hat of all sequences of all prompts [B V], [B V, B V].
    """
    log_policy = policy.log_probs().detach()
    probs = log_policy.exp()
    log_ratio = (log_policy - problem.log_anchor).flatten()
    exact, (mean, covariance) = problem.log_quantiles.flatten(), moments

    def centred(values: Tensor) -> Tensor:
        return values - probs.flatten() / len(probs) @ values  # the expected baseline of returns

    weights, errors = centred((n - 1) * exact - log_ratio), centred((n - 1) * (mean - exact))
    return update_error(gradients_of(policy), probs, weights, errors, (n - 1) ** 2 * covariance)


def gradients_of(policy: toy.ToyPolicy) -> Tensor:
    """Gradients of log pi of every sequence of every prompt, by all parameters: [B, V, D]."""

    def log_probs(logits: Tensor) -> Tensor:
        return policy.sum_pairs(logits.log_softmax(dim=-1))

    return torch.func.jacrev(log_probs)(policy.logits.detach()).flatten(2)
