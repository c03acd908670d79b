"""How far the policy is from Best-of-N, and how sure we are: estimators and intervals.

The estimators take tensors and return one number per prompt, because prompts, not completions, are
the independent units: completions of one prompt share its difficulty. The intervals then treat each
prompt (and each seed) as a cluster. All logs are natural, so divergences are in nats, and every
log-probability is that of a whole completion.

Legend: B prompts, K policy samples a prompt, M reference samples a prompt, n the Best-of-n size,
S seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from scipy import optimize, stats
from torch import Tensor

from bondlab.best_of_n import kl_bound, order_weights


def log_bon_ratio(quantiles: Tensor, n: int) -> Tensor:
    """log pi_BoN(y) - log pi_ref(y) in nats, from the quantile of y under the reference.

    This is Theorem 1 (eq. 4) with the collision term at its large-vocabulary limit (B) = n, the
    form the paper trains on. The estimator the paper evaluates with is not stated; chosen because
    (B) cannot be estimated from samples of a language model, and is n but for repeated completions.
    """
    return (n - 1) * quantiles.double().log() + math.log(n)


def backward_kl(log_pi: Tensor, log_ref: Tensor, quantiles: Tensor, n: int) -> Tensor:
    """KL(pi || pi_BoN) per prompt from policy samples (first part of eq. 14). [B, K] x 3 -> [B]

    Unbiased in the log-probabilities and, up to the collision term, with exact quantiles. With
    quantiles estimated from M draws and floored at 1/(2M), a policy equal to the reference scores
    (n - 1) c - log n, c = 1.015 at M = 32 and 1.009 at M = 16, in place of (n - 1) - log n: the
    floor makes the estimate about 1% too large at the start. At n = 1 it is KL(pi || pi_ref).
    """
    _require_shape(log_pi, log_ref, quantiles)
    return (log_pi.double() - log_ref.double() - log_bon_ratio(quantiles, n)).mean(-1)


def forward_kl(log_pi: Tensor, log_ref: Tensor, rewards: Tensor, n: int) -> Tensor:
    """KL(pi_BoN || pi) per prompt from M reference samples (eq. 12). [B, M] x 3 -> [B]

    Re-weights the reference samples to Best-of-n. The mean of `log_bon_ratio` over pi_BoN is
    log n - (n-1)/n whatever the rewards, so it is put in as a number: only log pi_ref - log pi is
    left to estimate, without bias for any M >= n. (Taking E[log u] of each order statistic gives
    the same number.) Where completions repeat, log n - (n-1)/n is an upper bound, and so, by the
    same amount, is this estimate too large.
    """
    _require_shape(log_pi, log_ref, rewards)
    return best_of_n_value(log_ref.double() - log_pi.double(), rewards, n) + kl_bound(n)


def best_of_n_value(values: Tensor, rewards: Tensor, n: int) -> Tensor:
    """Expected value of a completion chosen by Best-of-n among the given ones. [B, M] x 2 -> [B]

    The mean over all size-n subsets of the M samples: the sample of ascending rank j counts with
    probability C(j-1, n-1) / C(M, n); samples of equal reward share their ranks' weight, so that
    the order of the draws does not matter. Unbiased for any value: reward, length, log-probability.
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


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; `count` is the number of independent units behind it."""

    mean: float
    low: float
    high: float
    standard_error: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student t interval of the mean of one value per prompt, [B]. One prompt alone gives NaN ends.

    Raises ValueError on missing values: average over completions, and drop prompts, knowingly.
    """
    values = _finite(values, dimensions=1)
    if len(values) < 2:
        return Interval(float(values.mean()), math.nan, math.nan, math.nan, len(values))
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    reach = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * error
    mean = float(values.mean())
    return Interval(mean, mean - reach, mean + reach, error, len(values))


def bootstrap_interval(
    values: ArrayLike, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Two-way bootstrap interval of the mean of values[S, B]: seeds and prompts are both resampled.

    Seeds share prompts and prompts share seeds, so a bootstrap of the cells alone would be far too
    sure. S - 1 seeds and B - 1 prompts are drawn with replacement, which makes each resampled mean
    vary as much as the mean of S seeds or B prompts does (drawing S of S seeds would give 2/3 of
    the variance at S = 3). The percentile interval of 2 or 3 seeds remains rough. With one seed
    only prompts vary, and the interval says nothing about other seeds. `count` is S times B.
    """
    values = _finite(values, dimensions=2)
    generator = np.random.default_rng(seed)
    seeds, prompts = (resampling_shares(count, resamples, generator) for count in values.shape)
    means = ((seeds @ values) * prompts).sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    error = float(means.std(ddof=1))
    return Interval(float(values.mean()), float(low), float(high), error, values.size)


def paired_difference(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Interval:
    """Interval of the mean of first - second over the same prompts, [B] or [S, B] each.

    Pairing takes the prompts' difficulty out: usually far shorter than two separate intervals.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape:
        raise ValueError(f"A paired difference needs equal shapes: {first.shape}, {second.shape}.")
    method = mean_interval if first.ndim == 1 else bootstrap_interval
    return method(first - second, level)


def grouped_intervals(
    table: pd.DataFrame, value: str, by: Sequence[str], level: float = 0.95
) -> pd.DataFrame:
    """One interval per group of an evaluation table: columns `by`, mean, low, high, count.

    The table has the columns `by`, "prompt", `value` and, for several seeds, "seed"; rows of one
    prompt (its completions) are averaged first. Several seeds give the two-way bootstrap, one seed
    the t interval over prompts. `count` is the number of prompts times seeds.
    Raises ValueError where seeds were not evaluated on the same prompts.
    """
    units = ["seed", "prompt"] if "seed" in table else ["prompt"]
    cells = table.groupby([*by, *units], sort=False, observed=True)[value].mean()
    rows = []
    for key, group in cells.groupby(level=list(by), sort=False, observed=True):
        grid = group.droplevel(list(by))
        grid = grid.unstack("prompt").to_numpy() if len(units) == 2 else grid.to_numpy()[None]
        several = len(grid) > 1
        interval = bootstrap_interval(grid, level) if several else mean_interval(grid[0], level)
        ends = (interval.mean, interval.low, interval.high, interval.count)
        rows.append((*(key if isinstance(key, tuple) else (key,)), *ends))
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "count"])


def auc_interval(
    scores: ArrayLike, labels: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """Area under the ROC curve, P(score of a positive > score of a negative), ties count half.

    The interval is DeLong's (1988) or, given the cluster of each item (its page, its document),
    Obuchowski's (1997) extension, which is DeLong's when every item is its own cluster. Clipped to
    [0, 1]; perfect separation gives a zero width, which says only that the sample is too easy.
    """
    scores, labels = _finite(scores, dimensions=1), np.asarray(labels, bool)
    if labels.all() or not labels.any():
        raise ValueError("The AUC needs items of both labels; pass a larger or a mixed sample.")
    items = np.arange(len(scores)) if clusters is None else clusters
    clusters = np.unique(items, return_inverse=True)[1]
    above = _share_of_opposite_below(scores, labels)
    area = float(above[labels].mean())
    sums = [
        np.bincount(clusters, np.where(labels == side, value - area, 0.0))
        for side, value in ((True, above), (False, 1 - above))
    ]
    parts = [len(np.unique(clusters[labels == side])) for side in (True, False)]
    sizes = [labels.sum(), (~labels).sum()]
    variance = 2 * _inflate(len(sums[0])) * (sums[0] @ sums[1]) / (sizes[0] * sizes[1])
    for total, part, size in zip(sums, parts, sizes, strict=True):
        variance += _inflate(part) * (total @ total) / size**2
    error = math.sqrt(max(float(variance), 0.0))
    reach = float(stats.norm.ppf((1 + level) / 2)) * error
    return Interval(area, max(area - reach, 0.0), min(area + reach, 1.0), error, len(scores))


def accuracy_interval(
    correct: ArrayLike, clusters: ArrayLike | None = None, level: float = 0.95
) -> Interval:
    """Share of True among items with Wilson's score interval; also for win rates.

    Items are independent, or, given the cluster of each, count as fewer: as many as would give the
    variance between clusters (Rao and Scott 1992), never more. `count` stays the number of items.
    """
    correct = _finite(correct, dimensions=1)
    share, spread = float(correct.mean()), float(correct.var())
    count = len(correct)
    if clusters is not None and spread > 0:
        sums = np.bincount(np.unique(clusters, return_inverse=True)[1], correct - share)
        variance = _inflate(len(sums)) * float(sums @ sums) / count**2
        count = spread / max(variance, spread / count)
    z = float(stats.norm.ppf((1 + level) / 2))
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    reach = z * math.sqrt(spread / count + z * z / (4 * count**2)) / (1 + z * z / count)
    error = math.sqrt(spread / count)
    return Interval(share, centre - reach, centre + reach, error, len(correct))


def _require_shape(*tensors: Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(set(shapes)) > 1:
        raise ValueError(f"Expected tensors of one shape [prompts, samples], not {shapes}.")


def _finite(values: ArrayLike, dimensions: int) -> np.ndarray:
    """The values as float64 of that many dimensions; none missing, none infinite, at least one."""
    values = np.asarray(values, float)
    if values.ndim != dimensions or values.size == 0:
        raise ValueError(f"Expected a non-empty array of {dimensions} axes, not {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("Some values are missing or infinite; drop or repair them first.")
    return values


def resampling_shares(count: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Bootstrap weights [resamples, count], rows summing to 1: count - 1 draws each."""
    draws = max(count - 1, 1)
    return generator.multinomial(draws, np.full(count, 1 / count), size=resamples) / draws


def _share_of_opposite_below(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each item the share of the other label's items that score less, ties counted half."""
    ranks = stats.rankdata(scores)
    below = np.empty_like(scores)
    for side in (True, False):
        own = labels == side
        below[own] = (ranks[own] - stats.rankdata(scores[own])) / (~own).sum()
    return below


def _inflate(count: int) -> float:
    return count / (count - 1) if count > 1 else math.nan
