"""Curves of reward against KL, the area between two, and how straight a KL grows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bondlab.report.intervals import cell_interval
from bondlab.study import frontier


def table(series: dict[str, tuple], seeds: int = 1, prompts: int = 20, warmup=0):
    """Runs with reward and KL at steps 0, 10, ... as given, alike for all seeds and prompts."""
    return pd.DataFrame([
        {"series": name, "seed": s, "prompt": p, "step": 10 * t, "warmup": warmup, "reward": r,
         "kl_to_reference": kl}
        for name, (rewards, kls) in series.items()
        for s in range(seeds) for p in range(prompts)
        for t, (kl, r) in enumerate(zip(kls, rewards, strict=True))
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        # y = x above 0 over [0, 1], which both reach: a triangle of height 1.
        (((0, 2), (0, 2)), ((0, 1), (0, 0)), 0.5),
        # The same with the points in another order: a curve goes by its KL.
        (((2, 0), (2, 0)), ((1, 0), (0, 0)), 0.5),
        # Up to 1 and flat from there, over [0, 2]: (1/2 + 1) / 2.
        (((0, 1, 2), (0, 1, 1)), ((0, 2), (0, 0)), 0.75),
        # Crossing lines x and 1 - x over [0, 1]: as much above as below.
        (((0, 1), (0, 1)), ((0, 1), (1, 0)), 0.0),
    ],
)
def test_the_mean_height_is_the_area_over_its_width(first, second, expected):
    """Over the root of the KL: x above is the root."""
    (x, y), (x_other, y_other) = ([np.array(p, float) for p in part] for part in (first, second))
    assert frontier.height(x**2, y, x_other**2, y_other) == pytest.approx(expected)


def test_two_runs_of_one_law_lie_at_one_height():
    """Reward 2 sqrt(KL) seen at many small KL and at few large ones: no difference. Straight in the
    KL itself, the second would run along one chord from 0 to 12 and lie 0.7 below the first."""
    slow, fast = np.arange(4.0), np.array([0.0, 12.0, 30.0])
    found = frontier.height(slow, 2 * slow**0.5, fast, 2 * fast**0.5)
    assert found == pytest.approx(0, abs=1e-12)
    below = np.array([-0.3, 1.0]), np.array([0.0, 2.0])  # an estimate below 0 counts as 0
    assert frontier.height(*below, fast, 2 * fast**0.5) == pytest.approx(0, abs=1e-12)


def test_curves_that_share_no_kl_have_no_height():
    """0.01 nat in common is less than what counts, and resampling cannot give it an interval."""
    near, far = (np.array(x) for x in ((0, 0.01), (0, 3)))
    assert np.isnan(frontier.height(near, near, far, far))
    found = frontier.area(table({"a": ([0, 1], [0, 0.01]), "b": ([0, 1], [0, 3])}), "a", "b")
    assert np.isnan(found).all()


@pytest.mark.parametrize("seeds", [1, 3])
def test_what_a_prompt_does_to_both_curves_cancels(seeds):
    """One curve is 2 above the other on every prompt, whose rewards differ by up to 100."""
    rewards = np.array([0.0, 1, 2])
    found = table({"a": (rewards + 2, [0, 1, 2]), "b": (rewards, [0, 1, 2])}, seeds)
    found["reward"] += 100.0 * (found["prompt"] % 2)
    assert frontier.area(found, "a", "b") == pytest.approx(np.full((seeds, 20), 2.0))
    shown = frontier.heights(found.assign(spread=4.0), "a", ["b"])
    assert shown.loc[0, "in spreads"] == "0.500" and shown.loc[0, "up to KL"] == 2
    assert shown.loc[0, "mean height"] == "2.00"


def test_the_interval_is_as_wide_as_prompts_differ():
    """With offsets d of the prompts the height is mean(d): standard error sd(d) / sqrt(B)."""
    offsets = np.random.default_rng(1).normal(0, 1, 40)
    found = table({"a": ([0.0, 1.0], [0, 1]), "b": ([0.0, 1.0], [0, 1])}, prompts=40)
    found["reward"] += np.where(found["series"] == "a", offsets[found["prompt"]], 0)
    height = cell_interval(frontier.area(found, "a", "b"))
    assert height.mean == pytest.approx(offsets.mean())
    assert height.standard_error == pytest.approx(offsets.std(ddof=1) / 40**0.5)


def test_what_has_no_seeds_is_set_beside_every_seed():
    """The reference at lower temperatures, 1 below on every prompt, beside two seeds."""
    own = table({"a": ([1.0, 2.0], [0, 1])}, seeds=2)
    base = table({"b": ([0.0, 1.0], [0, 1])}).assign(seed=np.nan)
    found = frontier.area(pd.concat([own, base]), "a", "b")
    assert found == pytest.approx(np.ones((2, 20)))


STEPS = np.arange(6)


@pytest.mark.parametrize(
    ("kl", "slope", "bend"),
    [
        (0.3 * STEPS, 0.03, 0.0),  # a line
        (STEPS**2, 0.5, 1.0),  # a square: from slope 2.5 in the first half to 7.5, of mean 5
        (5 * STEPS - STEPS**2 / 2, 0.25, -1.0),  # from 3.75 to 1.25, of mean 2.5
    ],
)
def test_slope_and_bend(kl, slope, bend):
    """Steps are 10 apart, so slopes a step are a tenth of those a place."""
    grown, _ = frontier.growth(table({"a": (0 * STEPS, kl)}), "a")
    assert grown["slope"].mean == pytest.approx(slope)
    assert grown["bend"].mean == pytest.approx(bend, abs=1e-9)
    assert (grown["r_squared"].mean == pytest.approx(1)) == (bend == 0)
    assert all(found.low <= found.mean <= found.high for found in grown.values())


def test_the_warm_up_is_left_out():
    """The line begins at step 20; what comes before does not count, and three points must stay."""
    kl = np.array([0, 5, 2, 3, 4, 5])
    grown, line = frontier.growth(table({"a": (0 * STEPS, kl)}, warmup=20), "a")
    assert line.to_dict() == pytest.approx({20: 2, 30: 3, 40: 4, 50: 5})
    assert grown["slope"].mean == pytest.approx(0.1)
    with pytest.raises(ValueError, match="2 times after its warm-up"):
        frontier.growth(table({"a": (0 * STEPS, kl)}, warmup=40), "a")


def test_a_kl_that_stays_has_no_bend():
    grown, _ = frontier.growth(table({"a": (0 * STEPS, 0 * STEPS)}), "a")
    assert grown["slope"].mean == pytest.approx(0) and np.isnan(grown["bend"].low)
    assert np.isnan(grown["r_squared"].mean)


def test_a_curve_reaches_as_far_as_its_furthest_evaluation():
    """Not its last, where a run came back."""
    found = table({"a": ([0.0, 1, 2], [0, 2, 1]), "b": ([0.0, 1, 2], [0, 1, 3])}).assign(spread=1.0)
    assert frontier.heights(found, "a", ["b"])["up to KL"].tolist() == [2]
