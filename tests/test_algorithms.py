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
    online_dpo,
    raft,
    reinforce,
    vbon,
    warp,
)
from bondlab.anchors import Frozen, MovingAverage, Periodic
from bondlab.quantiles import Learned
from bondlab.rules import Scores

ALL = {
    "bond": bond(4, 0.5),
    "j_bond": j_bond(),
    "reinforce": reinforce(0.1),
    "warp": warp(0.1, 0.01),
    "raft": raft(4, Periodic(5)),
    "vbon": vbon(4),
    "online_dpo": online_dpo(0.1),
    "bonbon": bonbon(4),
}


def draws(algorithm: Algorithm) -> list[int]:
    """Anchor, policy and quantile draws a prompt."""
    return [algorithm.anchor_draws, algorithm.policy_draws, algorithm.quantile_draws]


def test_j_bond_is_algorithm_2():
    """Two anchor completions and one of the policy a prompt, beta 0.5, no further KL, a moving
    average of rate 0.02, no quantile draws."""
    found = j_bond()
    assert found.rule is rules.j_bond and found.settings == {"beta": 0.5, "gamma": 0.0}
    assert draws(found) == [2, 1, 0] and found.anchor == MovingAverage(0.02)
    assert draws(j_bond(policy_draws=3)) == [2, 3, 0]


def test_reinforce_draws_the_policy_alone():
    """Two completions of the policy, each the other's baseline, rewards in units of their spread,
    and the reference as the anchor; WARP's first stage differs by its anchor alone."""
    found = reinforce(0.1)
    assert draws(found) == [0, 2, 0] and found.scales_rewards
    assert isinstance(found.anchor, Frozen) and found.settings == {"beta_rl": 0.1}
    stage = warp(0.1, 0.01)
    assert stage == reinforce(0.1, anchor=MovingAverage(0.01)) != found


def test_the_ends_of_bond_have_names_of_their_own():
    """RAFT is beta = 0 with an anchor that follows, vBoN beta = 1 with one that stays: the same
    plans, so that runs of equal meaning have one identity."""
    assert raft(8, Periodic(50)).identity == bond(8, 0.0, anchor=Periodic(50)).identity
    assert draws(raft(8, Periodic(50))) == [8, 0, 0]
    assert vbon(8).identity == bond(8, 1.0).identity and draws(vbon(8)) == [0, 2, 16]


def test_pairs_are_drawn_where_their_paper_draws_them():
    """Online DPO ranks two of the policy's completions. BoNBoN takes the best and the worst of n of
    the reference's, and wants the policy's log-probabilities of them."""
    assert draws(online_dpo(0.1)) == [0, 2, 0]
    assert draws(bonbon(8)) == [8, 0, 0] and bonbon(8).scores_anchor_draws
    assert bonbon(8).settings == {"alpha": 0.005}
    assert not any(ALL[name].scores_anchor_draws for name in ALL if name != "bonbon")


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


def scores_of(prompts: int, anchors: int) -> Scores:
    nothing = torch.zeros(prompts, 1)
    return Scores(torch.arange(float(prompts * anchors)).view(prompts, -1), *[nothing] * 3)


def test_weights_of_another_shape_are_refused():
    """One column for two prompts of four and one completions: [2, 5] was expected."""
    with pytest.raises(ValueError, match=r"weights \(2, 1\), expected \[B, N\+K\] = \(2, 5\)"):
        Algorithm(first, anchor_draws=4, policy_draws=1).weights(scores_of(2, 4))


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
        (Algorithm, {"rule": first, "policy_draws": -1}, "policy_draws must not be negative"),
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
    ],
)
def test_a_plan_that_cannot_work_is_refused(make, wrong, named):
    """Before any model is loaded, naming the value to change."""
    with pytest.raises(ValueError, match=named):
        make(**wrong)


@pytest.mark.parametrize("name", [*ALL, "MovingAverage", "Periodic", "Frozen"])
def test_algorithms_and_anchors_are_at_the_library_s_face(name):
    """`from bondlab import j_bond` is all that a notebook needs."""
    assert name in bondlab.__all__
    assert getattr(bondlab, name).__name__ == name
