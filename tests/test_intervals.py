"""Intervals against their definitions and their coverage, and the tables that are made of them."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from bondlab.report import intervals


def test_mean_interval_is_students():
    """1..5: mean 3, standard error sqrt(2.5/5) = 0.7071, t(0.975; 4) = 2.7764, reach 1.9633."""
    interval = intervals.mean_interval([1, 2, 3, 4, 5])
    assert interval.standard_error == pytest.approx(math.sqrt(0.5))
    assert (interval.low, interval.high) == pytest.approx((3 - 1.9633, 3 + 1.9633), abs=1e-4)
    assert str(interval) == "3.00 [1.04, 4.96]" and interval.count == 5
    assert math.isnan(intervals.mean_interval([2.0]).low)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [[1.0, 2.0]]])
def test_mean_interval_refuses_missing_values(values):
    with pytest.raises(ValueError):
        intervals.mean_interval(values)


@pytest.mark.parametrize(
    ("of_seeds", "of_prompts"),
    [(1, 0.1), (1, 1), (0.3, 1), (0.19, 0.34), (0.1, 3)],  # beside what is left, of deviation 1
)
def test_an_interval_over_three_seeds_covers_whatever_dominates(of_seeds, of_prompts):
    """Standard deviations of seeds, prompts and cells; 3 seeds of 40 prompts, true mean 0. Of 2,500
    worlds 93 to 97.7 % are covered (binomial error 0.4 %); the percentiles of a bootstrap over
    both, or t with the cells as units, cover 73 % and less where seeds dominate."""
    world = np.random.default_rng(0)
    size, covered, errors = 2500, 0, []
    values = of_seeds * world.normal(size=(size, 3, 1)) + of_prompts * world.normal(
        size=(size, 1, 40)
    )
    for value in values + world.normal(size=(size, 3, 40)):
        interval = intervals.cell_interval(value)
        covered += interval.low < 0 < interval.high
        errors.append(interval.standard_error)
    assert 0.93 < covered / size < 0.977
    error = math.sqrt(of_seeds**2 / 3 + of_prompts**2 / 40 + 1 / 120)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(error, rel=0.1)


def test_scatter_by_hand_and_of_more_seeds_and_looks():
    """Additive values, of seeds 0, 1, 2 and prompts -1, 1: one seed's mean has variance 1, prompts
    give 2 / 2. t(0.975) is 4.303 with 2 and 12.706 with 1 degree of freedom, weighted 1/3 to 1."""
    values = np.array([[0.0], [1.0], [2.0]]) + np.array([[-1.0, 1.0]])
    scatter = intervals.Scatter.of(values)
    assert (scatter.of_a_seed, scatter.of_prompts) == pytest.approx((1, 1))
    found = intervals.cell_interval(values)
    assert found.standard_error == pytest.approx(math.sqrt(4 / 3)) and found.count == 6
    assert found.high - 1 == pytest.approx((4.3027 / 3 + 12.7062) / math.sqrt(4 / 3), rel=1e-4)
    more = scatter.interval(1.0, 1000)
    assert more.standard_error == pytest.approx(1, rel=1e-3)  # prompts stay
    two = intervals.mean_interval([1, 2, 3, 4, 5], looks=2)  # t(0.9875; 4) = 3.4954
    assert two.high - 3 == pytest.approx(3.4954 * math.sqrt(0.5), abs=1e-4)
    with pytest.raises(ValueError, match="2 axes"):
        intervals.cell_interval(values[0])
    assert math.isnan(intervals.cell_interval(np.full((3, 2), math.nan)).high)


def test_runs_with_prompts_of_their_own_are_given_as_their_means():
    """Then the runs are the units: Student's interval of their means or, of a statistic that is no
    mean, of what it is of each run; and what further runs would give follows from their scatter."""
    values = np.random.default_rng(4).normal(1, 1, (5, 1))
    found = intervals.cell_interval(values)
    assert found == intervals.mean_interval(values[:, 0])
    assert intervals.influence(lambda x: x**2, values) == pytest.approx(values**2)
    again = intervals.Scatter.of(values).interval(found.mean, 5)
    assert (again.low, again.high) == pytest.approx((found.low, found.high))


def test_influence_of_a_mean_is_its_values_and_of_a_ratio_the_delta_methods():
    """A mean: the values themselves. x / y of one seed: the ratio r + (x - r y) / mean(y), to the
    order of 1/B; the seeds' own ratios are kept exactly."""
    world = np.random.default_rng(3)
    x, y = 5 + world.normal(size=(2, 60)), 2 + 0.3 * world.normal(size=(2, 60))
    assert intervals.influence(float, x) == pytest.approx(x)
    found = intervals.influence(lambda a, b: a / b, x, y)
    ratio = x.mean(1, keepdims=True) / y.mean(1, keepdims=True)
    assert found.mean(1, keepdims=True) == pytest.approx(ratio)
    assert found == pytest.approx(ratio + (x - ratio * y) / y.mean(1, keepdims=True), abs=0.05)
    assert np.isnan(intervals.influence(lambda a: math.nan, x)).all()


def test_paired_difference_removes_what_prompts_share():
    """Both series share a prompt effect of standard deviation 5 and differ by 0.5 + noise of 0.1:
    the paired error is about 0.1 sqrt(2/50) = 0.02, the unpaired one above 0.5."""
    world = np.random.default_rng(2)
    shared = 5 * world.normal(size=50)
    second = shared + 0.1 * world.normal(size=50)
    first = shared + 0.5 + 0.1 * world.normal(size=50)
    interval = intervals.paired_difference(first, second)
    assert interval.standard_error < 0.04 and interval.low < 0.5 < interval.high
    with pytest.raises(ValueError, match="equal shapes"):
        intervals.paired_difference(first, second[:3])


def tidy(seeds: int, prompts: int) -> pd.DataFrame:
    """Two completions a prompt, of values v - 1 and v + 1; v = 10 step + prompt + seed / 10."""
    keys = itertools.product([0, 5], range(seeds), range(prompts), [-1, 1])
    rows = [(step, s, p, 10 * step + p + s / 10 + side) for step, s, p, side in keys]
    return pd.DataFrame(rows, columns=["step", "seed", "prompt", "kl"])


def test_grouped_treat_prompts_as_the_units():
    """One seed: the completions average to v = 0..3 at step 0, whose t interval is expected."""
    found = intervals.grouped(tidy(1, 4), "kl", ["step"])
    expected = intervals.mean_interval([0, 1, 2, 3])
    assert found.columns.tolist() == ["step", "mean", "low", "high", "count"]
    assert found.loc[0, ["mean", "low", "high", "count"]].tolist() == pytest.approx(
        [expected.mean, expected.low, expected.high, 4]
    )
    assert found["mean"].tolist() == pytest.approx([1.5, 51.5])


def test_grouped_of_seeds_are_the_interval_over_both():
    found = intervals.grouped(tidy(3, 4), "kl", ["step"])
    grid = np.arange(4)[None] + np.arange(3)[:, None] / 10
    expected = intervals.cell_interval(grid)
    assert found.loc[0, ["low", "high"]].tolist() == pytest.approx([expected.low, expected.high])
    assert found["count"].tolist() == [12, 12]
    uneven = tidy(3, 4).query("not (seed == 1 and prompt == 2)")
    with pytest.raises(ValueError, match="missing"):
        intervals.grouped(uneven, "kl", ["step"])


def test_auc_and_its_error_are_delongs():
    """var = var(V10)/m + var(V01)/k, V the placements, from a double loop over pairs, some tied."""
    world = np.random.default_rng(3)
    scores, labels = world.normal(size=30).round(1), world.random(30) < 0.4
    pairs = np.array(
        [[float(p > q) + 0.5 * float(p == q) for q in scores[~labels]] for p in scores[labels]]
    )
    rows, columns = pairs.mean(1), pairs.mean(0)
    variance = rows.var(ddof=1) / len(rows) + columns.var(ddof=1) / len(columns)
    interval = intervals.auc_interval(scores, labels, np.arange(30))
    assert interval.mean == pytest.approx(pairs.mean())
    assert interval.standard_error == pytest.approx(math.sqrt(variance))
    with pytest.raises(ValueError, match="both labels"):
        intervals.auc_interval([1, 2], [1, 1], [0, 1])


def test_auc_of_repeated_items_is_no_surer_when_they_are_clustered():
    """Every item twice, each pair one cluster: same area and error as the items once."""
    world = np.random.default_rng(4)
    scores, labels = world.normal(size=40), np.arange(40) % 2 == 0
    once = intervals.auc_interval(scores, labels, np.arange(40))
    twice = intervals.auc_interval(
        np.tile(scores, 2), np.tile(labels, 2), np.tile(np.arange(40), 2)
    )
    assert twice.standard_error == pytest.approx(once.standard_error)


def test_auc_of_clusters_with_both_labels_covers_the_truth():
    """Scores = label + page effect + noise, three positives and three negatives a page: the page
    effect cancels within a page only, and the error must match the spread over 300 worlds."""
    world = np.random.default_rng(5)
    labels, pages = np.tile([True] * 3 + [False] * 3, 25), np.repeat(np.arange(25), 6)
    found = []
    for _ in range(300):
        noise = world.normal(size=150) + 2 * world.normal(size=25)[pages]
        found.append(intervals.auc_interval(labels + noise, labels, pages))
    spread = np.std([interval.mean for interval in found])
    stated = np.mean([interval.standard_error for interval in found])
    assert stated == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize(("hits", "count"), [(8, 10), (0, 5), (5, 5), (60, 100)])
def test_accuracy_interval_inverts_the_score_test(hits, count):
    """Both ends solve |share - p| = 1.96 sqrt(p (1 - p) / count), even at 0 or 1."""
    interval = intervals.accuracy_interval([1] * hits + [0] * (count - hits))
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
    interval = intervals.accuracy_interval(correct, clusters)
    centre, reach = 0.8134 / 1.4268, 1.96 * math.sqrt(0.24 / 9 + 0.4268 / 36) / 1.4268
    assert interval.low == pytest.approx(centre - reach, abs=1e-3)
    assert interval.high == pytest.approx(centre + reach, abs=1e-3)
    assert interval.count == 50
    alone = intervals.accuracy_interval(correct)
    assert alone.high - alone.low < 0.5 * (interval.high - interval.low)


def test_intervals_become_rows_and_words():
    found = 10 * np.array([0.123, 0.1, 0.15])
    row = (intervals.Interval(0.123, 0.1, 0.15, 0.01, 5) * 10).row(n=4)
    assert row == {"n": 4, "count": 5} | dict(zip(("mean", "low", "high"), found, strict=True))
    assert intervals.text(0.123, 0.1, 0.15) == "0.123 [0.100, 0.150]"
    assert intervals.text(0.027, 0.025, 0.03) == "0.027 [0.025, 0.030]"
    assert intervals.text(62.13, 59.5, 64.82) == "62.1 [59.5, 64.8]"
    assert str(intervals.known(0.5)) == "0.500" and intervals.text(math.nan) == "-"


def test_a_cell_counts_the_prompts_that_have_a_value_with_every_seed():
    """Prompt 2 lacks a value with the first seed: the rest are 1, 2 and 3, 4, of mean 2.5. What is
    the same everywhere has no interval."""
    table = pd.DataFrame({"seed": [0, 0, 0, 1, 1, 1], "prompt": [0, 1, 2] * 2})
    table = table.assign(x=[1, 2, None, 3, 4, 5], same=-0.125, none=None)
    cells = [intervals.cell(table, column) for column in ("x", "same", "none", "absent")]
    assert cells[0].startswith("2.5 [") and cells[1:] == ["-0.125", "-", "-"]
    known = table[table["prompt"] < 2]
    found = intervals.curves(known, ["x", "same"], ["seed"])
    assert found["panel"].tolist() == ["x", "x", "same", "same"]
    assert found["mean"].tolist() == [1.5, 3.5, -0.125, -0.125]


def test_clusters_that_vary_less_than_chance_are_no_surer_than_independent_items():
    """Right and wrong in each cluster alike."""
    correct, clusters = [1, 0] * 10, np.repeat(np.arange(10), 2)
    found, alone = (intervals.accuracy_interval(correct, c) for c in (clusters, None))
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))
