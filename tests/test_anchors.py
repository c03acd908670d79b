"""Anchors against the formulas of their updates."""

from __future__ import annotations

import warnings

import pytest
import torch

from bondlab.anchors import Frozen, MovingAverage, Periodic, followed, warn_if_stuck


def parameters(seed: int) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(3, 4), (5,)]]


def equal(left, right) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def test_periodic_copies_on_multiples_only():
    """every = 3: the anchor changes after updates 3 and 6, and is the policy then."""
    anchor, policy = parameters(0), parameters(1)
    copied = []
    for step in range(1, 8):
        with torch.no_grad():
            policy[0] += 1
        before = [p.detach().clone() for p in anchor]
        Periodic(3).update(anchor, policy, step)
        if not equal(anchor, before):
            assert equal(anchor, policy)
            copied.append(step)
    assert copied == [3, 6]


@pytest.mark.parametrize(("rate", "seed"), [(0.0, 0), (1.0, 1)])
def test_moving_average_at_its_ends(rate, seed):
    """Rate 0 keeps the anchor and rate 1 copies the policy, bit for bit."""
    anchor = parameters(0)
    MovingAverage(rate).update(anchor, parameters(1), 1)
    assert equal(anchor, parameters(seed))


def test_moving_average_forgets_geometrically():
    """With a policy that stands still, anchor_s = policy + (1-rate)^s (anchor_0 - policy)."""
    anchor, policy, rate = parameters(0), parameters(1), 0.02
    for step in range(1, 51):
        MovingAverage(rate).update(anchor, policy, step)
    for a, start, p in zip(anchor, parameters(0), policy, strict=True):
        torch.testing.assert_close(a.data, p.data + 0.98**50 * (start.data - p.data))


@pytest.mark.parametrize("anchor_rule", [Frozen(), Periodic(3), MovingAverage(0.3)])
def test_an_anchor_says_how_much_of_a_steady_policys_way_it_has_behind_it(anchor_rule):
    """Steps of one length in one direction: what is said is what is measured. MovingAverage(0)
    has nothing behind it."""
    start, anchor, policy = parameters(0), parameters(0), parameters(0)
    for step in range(1, 8):
        with torch.no_grad():
            for p, direction in zip(policy, parameters(1), strict=True):
                p += direction
        anchor_rule.update(anchor, policy, step)
        found = followed(anchor, policy, start).item()
        assert found == pytest.approx(anchor_rule.share(step), abs=1e-5)
    assert MovingAverage(0.0).share(7) == 0
    assert followed(parameters(0), parameters(0), parameters(0)) == 1  # of no way


def test_anchors_keep_parameters_and_policy():
    """Updates are in place, leave the policy alone, record no gradient, and copy values: what the
    policy does later changes no anchor."""
    for anchor_rule in (Frozen(), Periodic(1), MovingAverage(0.5)):
        anchor, policy = parameters(0), parameters(1)
        places = [p.data_ptr() for p in anchor]
        anchor_rule.update(anchor, policy, 1)
        assert [p.data_ptr() for p in anchor] == places
        assert all(p.is_leaf and p.grad_fn is None for p in anchor)
        assert equal(policy, parameters(1))
        before = [p.detach().clone() for p in anchor]
        with torch.no_grad():
            policy[0] += 1
        assert equal(anchor, before)


@pytest.mark.parametrize(
    ("make", "value", "said"),
    [(Periodic, value, "every must be") for value in (0, -2, 1.5)]
    + [(MovingAverage, value, "rate must lie") for value in (-0.1, 1.1, float("nan"))],
)
def test_a_pace_that_is_none_is_refused(make, value, said):
    with pytest.raises(ValueError, match=said):
        make(value)


def test_a_stuck_anchor_is_told_by_what_a_steady_policy_leaves_it_by_then():
    with pytest.warns(match="hardly follows"):
        warn_if_stuck(MovingAverage(0.1), 0.2, 50)  # 0.82
    with warnings.catch_warnings(action="error"):
        warn_if_stuck(MovingAverage(0.1), 0.2, 2)  # 0.15
