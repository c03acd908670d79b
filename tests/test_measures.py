"""Estimators against enumeration, intervals against their definitions and their coverage."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch

from bondlab import measures, toy
from bondlab.best_of_n import kl_bound, log_pmf, order_weights, pmf, reverse_kl, tail_probs
from bondlab.quantiles import empirical

# A law of five outcomes, two of them with equal rewards, and another policy on it.
REF = torch.tensor([0.4, 0.1, 0.2, 0.25, 0.05], dtype=torch.float64)
PI = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15], dtype=torch.float64)
REWARDS = torch.tensor([0.0, 2.0, 1.0, 1.0, 3.0], dtype=torch.float64)


def every_draw(probs: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All ways to draw `count` outcomes: indices [V^count, count] and their probabilities."""
    draws = torch.tensor(list(itertools.product(range(len(probs)), repeat=count)))
    return draws, probs[draws].prod(1)


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_forward_kl_of_the_reference_is_exact_for_every_prompt(n):
    """With pi = ref only log n - (n-1)/n remains, with no sampling error: design, invariants."""
    rewards = torch.randn(7, 32, generator=torch.Generator().manual_seed(n))
    log_ref = -10 * torch.rand(7, 32)
    estimate = measures.forward_kl(log_ref, log_ref, rewards, n)
    torch.testing.assert_close(estimate, torch.full((7,), kl_bound(n), dtype=torch.float64))


@pytest.mark.parametrize(("n", "m"), [(1, 3), (2, 2), (2, 4), (3, 4)])
def test_forward_kl_is_unbiased_with_ties(n, m):
    """Over all draws of m, the mean is sum pi_BoN (log ref - log pi) + log n - (n-1)/n exactly."""
    draws, chance = every_draw(REF, m)
    estimate = measures.forward_kl(PI.log()[draws], REF.log()[draws], REWARDS[draws], n)
    expected = (pmf(REF, REWARDS, n) * (REF / PI).log()).sum() + kl_bound(n)
    torch.testing.assert_close((chance * estimate).sum(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [2, 5])
def test_forward_kl_equals_the_order_statistics_form(n):
    """Same number as weighting log ref + (n-1) E[log u_(j)] + log n - log pi by rank j."""
    torch.manual_seed(n)
    log_pi, log_ref, rewards = (-torch.rand(3, 4, 12, dtype=torch.float64)).unbind()
    order = rewards.argsort(-1)
    ratio = (log_ref - log_pi).gather(-1, order)
    rank = torch.arange(1, 13, dtype=torch.float64)
    log_u = torch.special.digamma(rank) - torch.special.digamma(torch.tensor(13.0).double())
    terms = ratio + (n - 1) * log_u + math.log(n)
    expected = (order_weights(12, n) * terms).sum(-1)
    torch.testing.assert_close(measures.forward_kl(log_pi, log_ref, rewards, n), expected)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_backward_kl_with_exact_quantiles_misses_only_the_collision_term(n):
    """E_pi over all pairs of draws = sum pi (log pi - log pi_BoN) + sum pi log((B)/n), with
    (B) = pi_BoN / (ref p_<=^(n-1)) from the exact law (eq. 4)."""
    draws, chance = every_draw(PI, 2)
    leq = tail_probs(REF, REWARDS)[1]
    estimate = measures.backward_kl(PI.log()[draws], REF.log()[draws], leq[draws], n)
    log_bon = log_pmf(REF.log(), REWARDS, n)
    collisions = log_bon - REF.log() - (n - 1) * leq.log()
    expected = (PI * (PI.log() - log_bon + collisions - math.log(n))).sum()
    torch.testing.assert_close((chance * estimate).sum(), expected, rtol=0, atol=1e-12)


def test_backward_kl_approaches_the_exact_divergence_as_outcomes_multiply():
    """With V equal outcomes of pi = ref, (B) tends to n: KL(ref || BoN) tends to (n-1) - log n."""
    gaps = []
    for outcomes in (50, 500, 5000):
        probs = torch.full((outcomes,), 1 / outcomes, dtype=torch.float64)
        rewards = torch.arange(outcomes, dtype=torch.float64)
        leq = tail_probs(probs, rewards)[1]
        estimate = measures.backward_kl(probs.log()[None], probs.log()[None], leq[None], 8)
        exact = (probs * (probs.log() - log_pmf(probs.log(), rewards, 8))).sum()
        gaps.append(abs(estimate.item() - exact.item()))
    assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 0.01
    assert estimate.item() == pytest.approx(reverse_kl(8), abs=0.01)


@pytest.mark.parametrize("n", [2, 4])
def test_estimators_converge_on_the_enumerable_policy(n):
    """Two prompts, 156 sequences of an end-of-sequence toy; 40 000 batches of 8 draws, 4 s.e.

    Backward: the continuous form of the divergence. Forward: the exact one plus the stated excess,
    log n - (n-1)/n less the true KL(pi_BoN || pi_ref)."""
    reference, policy = toy.ToyPolicy(prompts=2, seed=1), toy.ToyPolicy(prompts=2, seed=2)
    log_ref, log_pi = reference.log_probs().detach(), policy.log_probs().detach()
    rewards = torch.randn(log_ref.shape, generator=torch.Generator().manual_seed(n)).double()
    problem = toy.Problem(log_ref, rewards, n)
    exact_forward = (
        toy.forward_kl(log_pi, problem) + kl_bound(n) - toy.kl(problem.log_target, log_ref)
    )

    generator = torch.Generator().manual_seed(3)
    own, drawn = (toy.draw(law.repeat(20_000, 1), 8, generator) for law in (log_pi, log_ref))

    def pick(table, draws):
        return table.repeat(20_000, 1).gather(1, draws)

    backward = measures.backward_kl(
        pick(log_pi, own), pick(log_ref, own), pick(problem.log_quantiles.exp(), own), n
    )
    forward = measures.forward_kl(
        pick(log_pi, drawn), pick(log_ref, drawn), pick(rewards, drawn), n
    )
    expected = (toy_objectives.backward_kl_continuous(log_pi, problem), exact_forward)
    for estimate, value in zip((backward, forward), expected, strict=True):
        estimate = estimate.view(-1, 2).mean(1)  # one batch: both prompts
        error = estimate.std().item() / math.sqrt(len(estimate))
        assert estimate.mean().item() == pytest.approx(value.item(), abs=4 * error)
        assert error < 0.01


@pytest.mark.parametrize(("m", "inflation"), [(16, 1.009), (32, 1.015)])
def test_backward_kl_of_the_reference_has_the_stated_floor_bias(m, inflation):
    """With pi = ref, the number of m draws below a sample is uniform on 0..m, so
    c = -(log(1/2m) + sum_s log(s/m)) / (m+1) and the mean is (n-1) c - log n; 4 s.e. allowed."""
    n, generator = 8, torch.Generator().manual_seed(m)
    draws = torch.rand(20_000, m + 1, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(20_000, 1)
    estimate = measures.backward_kl(zeros, zeros, empirical(draws[:, :1], draws[:, 1:]), n)
    c = -(math.log(1 / (2 * m)) + sum(math.log(s / m) for s in range(1, m + 1))) / (m + 1)
    assert c == pytest.approx(inflation, abs=5e-4)
    error = estimate.std().item() / math.sqrt(len(estimate))
    assert estimate.mean().item() == pytest.approx((n - 1) * c - math.log(n), abs=4 * error)
    assert error < 0.06


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 3), (4, 4)])
def test_best_of_n_value_is_unbiased_with_ties(n, m):
    """Over all draws of m, the mean value of the chosen one is sum pi_BoN values (Theorem 1)."""
    values = torch.tensor([3.0, -1.0, 7.0, 2.0, 5.0], dtype=torch.float64)
    draws, chance = every_draw(REF, m)
    estimate = measures.best_of_n_value(values[draws], REWARDS[draws], n)
    expected = (pmf(REF, REWARDS, n) * values).sum()
    torch.testing.assert_close((chance * estimate).sum(), expected, rtol=0, atol=1e-12)


def test_best_of_n_value_ignores_the_order_of_draws():
    rewards = torch.tensor([[1.0, 1.0, 0.0, 2.0]])
    values = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    order = torch.tensor([1, 3, 0, 2])
    first = measures.best_of_n_value(values, rewards, 2)
    second = measures.best_of_n_value(values[:, order], rewards[:, order], 2)
    torch.testing.assert_close(first, second)
    # ranks 1, 2, 3, 4 weigh 0, 1/6, 2/6, 3/6; the tied pair shares 3/6
    torch.testing.assert_close(first, torch.tensor([0.5 * 15 + 0.5 * 40], dtype=torch.float64))


def test_estimators_refuse_what_they_cannot_rank():
    ones = torch.ones(2, 3)
    with pytest.raises(ValueError, match="one shape"):
        measures.backward_kl(ones, ones, ones[:, :2], 2)
    with pytest.raises(ValueError, match="NaN"):
        measures.best_of_n_value(ones, ones * math.nan, 2)


def test_mean_interval_is_students():
    """1..5: mean 3, standard error sqrt(2.5/5) = 0.7071, t(0.975; 4) = 2.7764, reach 1.9633."""
    interval = measures.mean_interval([1, 2, 3, 4, 5])
    assert interval.standard_error == pytest.approx(math.sqrt(0.5))
    assert (interval.low, interval.high) == pytest.approx((3 - 1.9633, 3 + 1.9633), abs=1e-4)
    assert str(interval) == "3.000 [1.037, 4.963]" and interval.count == 5
    assert math.isnan(measures.mean_interval([2.0]).low)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_mean_interval_refuses_missing_values(values):
    with pytest.raises(ValueError):
        measures.mean_interval(values)


def test_bootstrap_covers_seed_and_prompt_variation():
    """values = seed effect + prompt effect + small noise, of standard deviations 1, 2 and 0.1:
    the mean of 6 x 40 varies by sqrt(1/6 + 4/40) = 0.52. The root mean square of the bootstrap's
    error is that within 10%, and its 95% interval covers 0 in 84% to 99% of 300 worlds (6 seeds
    are few); an interval over the 240 cells alone would cover about 40%."""
    world = np.random.default_rng(0)
    covered, cells, errors = 0, 0, []
    for _ in range(300):
        values = world.normal(size=(6, 1)) + 2 * world.normal(size=(1, 40))
        values = values + 0.1 * world.normal(size=(6, 40))
        interval = measures.bootstrap_interval(values, resamples=400)
        covered += interval.low < 0 < interval.high
        errors.append(interval.standard_error)
        naive = measures.mean_interval(values.ravel())
        cells += naive.low < 0 < naive.high
    assert 0.84 < covered / 300 < 0.99
    assert cells / 300 < 0.6
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(math.sqrt(1 / 6 + 4 / 40), rel=0.1)


def test_bootstrap_is_reproducible_and_needs_a_grid():
    values = np.random.default_rng(1).normal(size=(3, 10))
    assert measures.bootstrap_interval(values) == measures.bootstrap_interval(values)
    assert measures.bootstrap_interval(values, seed=1) != measures.bootstrap_interval(values)
    with pytest.raises(ValueError, match="2 axes"):
        measures.bootstrap_interval(values[0])


def test_paired_difference_removes_what_prompts_share():
    """Both series share a prompt effect of standard deviation 5 and differ by 0.5 + noise of 0.1:
    the paired error is about 0.1 sqrt(2/50) = 0.02, the unpaired one above 0.5."""
    world = np.random.default_rng(2)
    shared = 5 * world.normal(size=50)
    second = shared + 0.1 * world.normal(size=50)
    first = shared + 0.5 + 0.1 * world.normal(size=50)
    interval = measures.paired_difference(first, second)
    assert interval.standard_error < 0.04 and interval.low < 0.5 < interval.high
    grid = measures.paired_difference(np.tile(first, (3, 1)), np.tile(second, (3, 1)))
    assert grid.mean == pytest.approx(interval.mean) and grid.count == 150
    with pytest.raises(ValueError, match="equal shapes"):
        measures.paired_difference(first, second[:3])


def tidy(seeds: int, prompts: int) -> pd.DataFrame:
    """Two completions a prompt, of values v - 1 and v + 1; v = 10 step + prompt + seed / 10."""
    keys = itertools.product([0, 5], range(seeds), range(prompts), [-1, 1])
    rows = [(step, s, p, 10 * step + p + s / 10 + side) for step, s, p, side in keys]
    return pd.DataFrame(rows, columns=["step", "seed", "prompt", "kl"])


def test_grouped_intervals_treat_prompts_as_the_units():
    """One seed: the completions average to v = 0..3 at step 0, whose t interval is expected."""
    found = measures.grouped_intervals(tidy(1, 4), "kl", ["step"])
    expected = measures.mean_interval([0, 1, 2, 3])
    assert found.columns.tolist() == ["step", "mean", "low", "high", "count"]
    assert found.loc[0, ["mean", "low", "high", "count"]].tolist() == pytest.approx(
        [expected.mean, expected.low, expected.high, 4]
    )
    assert found["mean"].tolist() == pytest.approx([1.5, 51.5])


def test_grouped_intervals_of_seeds_are_the_two_way_bootstrap():
    found = measures.grouped_intervals(tidy(3, 4), "kl", ["step"])
    grid = np.arange(4)[None] + np.arange(3)[:, None] / 10
    expected = measures.bootstrap_interval(grid)
    assert found.loc[0, ["low", "high"]].tolist() == pytest.approx([expected.low, expected.high])
    assert found["count"].tolist() == [12, 12]
    uneven = tidy(3, 4).query("not (seed == 1 and prompt == 2)")
    with pytest.raises(ValueError, match="missing"):
        measures.grouped_intervals(uneven, "kl", ["step"])


def test_auc_counts_pairs():
    """Positives 3, 1 against negatives 2, 1: wins 1, 1, 0 and a tie 1/2 give 2.5 / 4."""
    interval = measures.auc_interval([3, 1, 2, 1], [True, True, False, False])
    assert interval.mean == pytest.approx(2.5 / 4)
    with pytest.raises(ValueError, match="both labels"):
        measures.auc_interval([1, 2], [1, 1])


def test_auc_error_is_delongs():
    """var = var(V10)/m + var(V01)/k, V the placements, from a double loop over pairs."""
    world = np.random.default_rng(3)
    scores, labels = world.normal(size=30).round(1), world.random(30) < 0.4
    pairs = np.array(
        [[float(p > q) + 0.5 * float(p == q) for q in scores[~labels]] for p in scores[labels]]
    )
    rows, columns = pairs.mean(1), pairs.mean(0)
    variance = rows.var(ddof=1) / len(rows) + columns.var(ddof=1) / len(columns)
    interval = measures.auc_interval(scores, labels)
    assert interval.mean == pytest.approx(pairs.mean())
    assert interval.standard_error == pytest.approx(math.sqrt(variance))


def test_auc_of_repeated_items_is_no_surer_when_they_are_clustered():
    """Every item twice, each pair one cluster: same area and error as the items once."""
    world = np.random.default_rng(4)
    scores, labels = world.normal(size=40), np.arange(40) % 2 == 0
    once = measures.auc_interval(scores, labels)
    twice = measures.auc_interval(np.tile(scores, 2), np.tile(labels, 2), np.tile(np.arange(40), 2))
    assert twice.standard_error == pytest.approx(once.standard_error)


def test_auc_of_clusters_with_both_labels_covers_the_truth():
    """Scores = label + page effect + noise, three positives and three negatives a page: the page
    effect cancels within a page only, and the error must match the spread over 300 worlds."""
    world = np.random.default_rng(5)
    labels, pages = np.tile([True] * 3 + [False] * 3, 25), np.repeat(np.arange(25), 6)
    found = []
    for _ in range(300):
        noise = world.normal(size=150) + 2 * world.normal(size=25)[pages]
        found.append(measures.auc_interval(labels + noise, labels, pages))
    spread = np.std([interval.mean for interval in found])
    stated = np.mean([interval.standard_error for interval in found])
    assert stated == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize(("hits", "count"), [(8, 10), (0, 5), (5, 5), (60, 100)])
def test_accuracy_interval_inverts_the_score_test(hits, count):
    """Both ends solve |share - p| = 1.96 sqrt(p (1 - p) / count), even at 0 or 1."""
    interval = measures.accuracy_interval([1] * hits + [0] * (count - hits))
    share = hits / count
    for end in (interval.low, interval.high):
        expected = 1.959964 * math.sqrt(max(end * (1 - end), 0) / count)
        assert abs(share - end) == pytest.approx(expected, abs=1e-6)
    assert interval.mean == share


def test_accuracy_interval_counts_copies_of_an_item_once():
    """Ten items, six right, each five times as a cluster of its own.

    Variance between clusters: 10/9 * sum((5 (x - 0.6))^2) / 50^2 = 0.24 / 9, that of nine items,
    so Wilson's interval is that of nine: z = 1.96, z^2/9 = 0.4268, centre
    (0.6 + 0.2134) / 1.4268, reach 1.96 sqrt(0.24/9 + 0.4268/36) / 1.4268.
    """
    correct, clusters = np.repeat([1] * 6 + [0] * 4, 5), np.repeat(np.arange(10), 5)
    interval = measures.accuracy_interval(correct, clusters)
    centre, reach = 0.8134 / 1.4268, 1.96 * math.sqrt(0.24 / 9 + 0.4268 / 36) / 1.4268
    assert interval.low == pytest.approx(centre - reach, abs=1e-3)
    assert interval.high == pytest.approx(centre + reach, abs=1e-3)
    assert interval.count == 50
    alone = measures.accuracy_interval(correct)
    assert alone.high - alone.low < 0.5 * (interval.high - interval.low)


@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize("k", [16, 32])
def test_effective_n_of_simulated_best_of_n_is_n(n, k):
    """40,000 prompts, one Best-of-n of uniform rewards each, its quantile estimated from k others:
    the effective N of the mean, less and plus four standard errors, holds n and little else."""
    generator = torch.Generator().manual_seed(100 * n + k)
    draws = torch.rand(40_000, n + k, generator=generator, dtype=torch.float64)
    best = draws[:, :n].amax(1, keepdim=True)
    found = measures.mean_interval(empirical(best, draws[:, n:]).log().squeeze(1).numpy())
    reach = 4 * found.standard_error
    low, high = (measures.effective_n(found.mean + side * reach, k) for side in (-1, 1))
    assert low < n < high
    assert high - low < 0.06 * n


def test_effective_n_by_hand_with_one_reference_sample():
    """k = 1: S = 1 with chance n/(n+1), else the floor 1/2, so E = -log 2 / (n+1) for any real n;
    the reference (n = 1) measures -log(2)/2 and is still N = 1."""
    for n in (0.25, 1, 2.5, 8):
        assert measures.effective_n(-math.log(2) / (n + 1), 1) == pytest.approx(n)


@pytest.mark.parametrize("n", [0.5, 1, 2, 8])
def test_effective_n_with_many_reference_samples_is_one_over_the_log_quantile(n):
    """E[log u] = -1/n under Beta(n, 1); k = 10,000 draws change it by some 1e-4."""
    assert measures.effective_n(-1 / n, 10_000) == pytest.approx(n, rel=0.01)


def test_effective_n_rises_with_the_log_quantile_between_its_ends():
    """From the floor log(1/64) of k = 32, where it is 0, to 0, where no N is large enough."""
    values = [measures.effective_n(value, 32) for value in np.linspace(math.log(1 / 64), 0, 200)]
    assert values[0] == 0 and values[-1] == math.inf
    assert all(one < two for one, two in itertools.pairwise(values))
    assert measures.effective_n(-100.0, 32) == 0 and measures.effective_n(1.0, 32) == math.inf
    assert math.isnan(measures.effective_n(math.nan, 32))
