"""The algorithms as plans: who is sampled, under which name, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
import json

import pytest
import torch

import bondlab
from bondlab import rules
from bondlab.algorithms import (
    Algorithm,
    bonbon,
    bond,
    j_bond,
    max_at_k,
    online_dpo,
    qrpo,
    raft,
    reinforce,
    vbon,
    warp,
    wind,
)
from bondlab.anchors import Frozen, MovingAverage, Periodic
from bondlab.quantiles import Learned
from bondlab.rules import Scores

FIFTH = Periodic(5)
ALL = {
    "bond": bond(4, 0.5),
    "j_bond": j_bond(),
    "reinforce": reinforce(0.1),
    "warp": warp(0.1, 0.01),
    "raft": raft(4, FIFTH),
    "vbon": vbon(4),
    "online_dpo": online_dpo(0.1),
    "bonbon": bonbon(4),
    "wind": wind(0.1),
    "qrpo": qrpo(0.3),
    "max_at_k": max_at_k(4, 0.1),
}


@pytest.mark.parametrize(
    ("plan", "rule", "draws", "settings", "anchor"),
    [
        (bond(8, 0.5), rules.jeffreys, (8, 2, 16), {"n": 8, "beta": 0.5}, Frozen()),
        (j_bond(), rules.j_bond, (2, 1, 0), {"beta": 0.5, "gamma": 0.0}, MovingAverage(0.02)),
        (j_bond(0, 1, FIFTH, 3), rules.j_bond, (2, 3, 0), {"beta": 0, "gamma": 1}, FIFTH),
        (reinforce(0.1), rules.reinforce, (0, 2, 0), {"beta_rl": 0.1}, Frozen()),
        (warp(0.1, 0.01), rules.reinforce, (0, 2, 0), {"beta_rl": 0.1}, MovingAverage(0.01)),
        (raft(8, FIFTH), rules.jeffreys, (8, 0, 0), {"n": 8, "beta": 0.0}, FIFTH),
        (vbon(8), rules.jeffreys, (0, 2, 16), {"n": 8, "beta": 1.0}, Frozen()),
        (online_dpo(0.1), rules.online_dpo, (0, 2, 0), {"beta_dpo": 0.1}, Frozen()),
        (bonbon(8), rules.bonbon, (8, 0, 0), {"alpha": 0.005}, Frozen()),
        (wind(0.1), rules.wind, (0, 2, 0), {"beta": 0.1}, Frozen()),
        (qrpo(0.3, 4), rules.qrpo, (4, 0, 0), {"beta": 0.3}, Frozen()),
        (max_at_k(4, 0.1), rules.max_at_k, (0, 8, 0), {"k": 4, "beta_rl": 0.1}, Frozen()),
    ],
)
def test_a_plan_is_what_its_paper_says(plan, rule, draws, settings, anchor):
    """Completions a prompt of the anchor, of the policy and behind quantiles (Algorithm 2: two, one
    and none), the papers' settings, and how the anchor follows. REINFORCE and
    max@k want rewards in units of their spread, BoNBoN and QRPO the policy's log-probabilities of
    the anchor's draws. RAFT and vBoN are the
    ends of BOND, under BOND's own names."""
    assert plan.rule is rule and plan.settings == settings and plan.anchor == anchor
    assert (plan.anchor_draws, plan.policy_draws, plan.quantile_draws) == draws
    assert plan.scales_rewards == (rule in (rules.reinforce, rules.max_at_k))
    assert plan.scores_anchor_draws == (rule in (rules.bonbon, rules.qrpo))


def first(scores: Scores, share: float = 1.0) -> torch.Tensor:
    """A rule of a user's own: the first anchor completion alone."""
    return share * scores.log_ratio.new_ones(len(scores.log_ratio), 1)


@dataclasses.dataclass
class Every:
    """An anchor of a user's own."""

    times: int

    def update(self, anchor, policy, step) -> None:
        return None


def test_every_part_of_a_plan_is_in_its_identity():
    """Each field changed, and a rule of the same name with other code, arguments or outer values;
    what is made anew from equal parts has one name."""
    plan = {"rule": first, "anchor_draws": 4, "policy_draws": 2, "quantile_draws": 3}

    def rule(number: int):
        def first(scores: Scores) -> torch.Tensor:
            return scores.log_ratio * number

        return first

    def other(scores: Scores, share: float = 1.0) -> torch.Tensor:
        return share + scores.log_ratio

    other.__name__ = "first"
    changes = [
        {}, {"rule": other}, {"rule": rule(1)}, {"rule": rule(2)},
        {"rule": functools.partial(first, share=0.5)}, {"rule": functools.partial(first, share=1)},
        {"settings": {"share": 0.5}}, {"settings": {"draws": 3}}, {"settings": {"rule": "x"}},
        {"settings": {"shares": torch.ones(2)}}, {"settings": {"shares": torch.zeros(2)}},
        {"anchor_draws": 5}, {"policy_draws": 3}, {"quantile_draws": 4},
        {"anchor": MovingAverage(0.1)}, {"anchor": Every(1)}, {"anchor": Every(2)},
        {"quantile_model": Learned()}, {"quantile_model": Learned(floor=0.1)},
        {"scores_anchor_draws": True}, {"scales_rewards": True},
    ]  # fmt: skip
    names = [json.dumps(Algorithm(**(plan | change)).identity) for change in changes]
    assert len(set(names)) == len(changes)
    assert names == [json.dumps(Algorithm(**(plan | change)).identity) for change in changes]
    assert bond(8, 0.5).identity["rule"].startswith("jeffreys@")
    assert bond(8, 0.5).identity["draws"] == [8, 2, 16]


def test_weights_of_another_shape_are_refused():
    """One column for two prompts of four and one completions: [2, 5] was expected."""
    scores = Scores(torch.zeros(2, 4), *[torch.zeros(2, 1)] * 3)
    with pytest.raises(ValueError, match=r"weights \(2, 1\), expected \[B, N\+K\] = \(2, 5\)"):
        Algorithm(first, anchor_draws=4, policy_draws=1).weights(scores)


@pytest.mark.parametrize("name", ALL)
def test_weights_have_the_type_of_the_log_ratio(name):
    """Rewards come in float64, for their ranks; the same weights as from float32 rewards."""
    plan, generator = ALL[name], torch.Generator().manual_seed(0)
    shapes = [(3, plan.anchor_draws), *[(3, plan.policy_draws)] * 3, (3, plan.anchor_draws)]
    given = [torch.rand(shape, generator=generator) for shape in shapes]
    expected = plan.weights(Scores(*given))
    given[:3] = [x.double() for x in given[:3]]
    found = plan.weights(Scores(*given))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "wrong", "named"),
    [
        (Algorithm, {"rule": first, "policy_draws": -1}, "policy_draws must be a whole number"),
        *((Algorithm, {"rule": first, "anchor_draws": x}, "anchor_draws must be a whole number")
          for x in (2.5, 4.0, "2", None)),
        *((j_bond, {"anchor": x}, "such as MovingAverage") for x in (0.1, Frozen, Periodic, None)),
        (bond, {"n": 1, "beta": 0.5}, "Best-of-1"),
        (bond, {"n": 8, "beta": 1.5}, "beta is the share"),
        (bond, {"n": 8, "beta": -0.1}, "beta is the share"),
        (bond, {"n": 8, "beta": 0.5, "policy_draws": 0}, "policy_draws"),
        (bond, {"n": 8, "beta": 0.5, "quantile_draws": 0}, "quantile_draws"),
        (j_bond, {"beta": 1.5}, "beta is the share"),
        (j_bond, {"gamma": -0.1}, "gamma must not be negative"),
        (j_bond, {"policy_draws": 0}, "policy_draws"),
        (reinforce, {"beta_rl": -1.0}, "beta_rl must not be negative"),
        (reinforce, {"beta_rl": 0.1, "policy_draws": 1}, "policy_draws of 2 or more"),
        (warp, {"beta_rl": 0.1, "rate": 2.0}, "rate must lie"),
        (raft, {"n": 1, "anchor": Periodic(1)}, "Best-of-1"),
        (vbon, {"n": 4, "quantile_draws": 0}, "quantile_draws"),
        (online_dpo, {"beta_dpo": 0.0}, "beta_dpo must be above 0"),
        (online_dpo, {"beta_dpo": 0.1, "policy_draws": 1}, "policy_draws of 2 or more"),
        (bonbon, {"n": 1}, "n of 2 or more"),
        (bonbon, {"n": 4, "alpha": 1.5}, "alpha is the share"),
        (wind, {"beta": -0.1}, "beta must not be negative"),
        (wind, {"beta": 0.1, "policy_draws": 1}, "policy_draws of 2 or more"),
        (qrpo, {"beta": 0.0}, "beta must be above 0"),
        (qrpo, {"beta": 0.1, "n": 1}, "n of 2 or more"),
        (max_at_k, {"k": 0, "beta_rl": 0.1}, "k must be 1 or more"),
        (max_at_k, {"k": 2, "beta_rl": -1.0}, "beta_rl must not be negative"),
        (max_at_k, {"k": 9, "beta_rl": 0.1}, "best of 9 needs policy_draws of 9 or more"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_work_is_refused(make, wrong, named):
    """Before any model is loaded, naming the value to change."""
    with pytest.raises(ValueError, match=named):
        make(**wrong)


@pytest.mark.parametrize("name", [*ALL, "MovingAverage", "Periodic", "Frozen"])
def test_algorithms_and_anchors_are_at_the_library_s_face(name):
    """`from bondlab import j_bond` is all that a notebook needs."""
    assert name in bondlab.__all__ and name in dir(bondlab)
    assert getattr(bondlab, name).__name__ == name
