"""The algorithms as plans: who is sampled, under which name, and what is refused."""

from __future__ import annotations

import pytest

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
    """Anchor, policy, quantile and trained draws a prompt."""
    names = ("anchor_draws", "policy_draws", "quantile_draws", "trained_draws")
    return [getattr(algorithm, name) for name in names]


def test_j_bond_is_algorithm_2():
    """Two anchor completions and one of the policy a prompt, beta 0.5, no further KL, a moving
    average of rate 0.02, no quantile draws; the better anchor completion alone is trained on, and
    none at beta = 1."""
    found = j_bond()
    assert found.rule is rules.j_bond and found.settings == {"beta": 0.5, "gamma": 0.0}
    assert draws(found) == [2, 1, 0, 1] and found.anchor == MovingAverage(0.02)
    assert draws(j_bond(beta=1, policy_draws=3)) == [2, 3, 0, 0]


def test_reinforce_draws_the_policy_alone():
    """Two completions of the policy, each the other's baseline, rewards in units of their spread,
    and the reference as the anchor; WARP's first stage differs by its anchor alone."""
    found = reinforce(0.1)
    assert draws(found) == [0, 2, 0, 0] and found.scales_rewards
    assert isinstance(found.anchor, Frozen) and found.settings == {"beta_rl": 0.1}
    stage = warp(0.1, 0.01)
    assert stage == reinforce(0.1, anchor=MovingAverage(0.01)) != found


def test_the_ends_of_bond_have_names_of_their_own():
    """RAFT is beta = 0 with an anchor that follows, vBoN beta = 1 with one that stays: the same
    plans, so that runs of equal meaning have one identity."""
    assert raft(8, Periodic(50)).identity == bond(8, 0.0, anchor=Periodic(50)).identity
    assert draws(raft(8, Periodic(50))) == [8, 0, 0, 1]
    assert vbon(8).identity == bond(8, 1.0).identity and draws(vbon(8)) == [0, 2, 16, 0]


def test_pairs_are_drawn_where_their_paper_draws_them():
    """Online DPO ranks two of the policy's completions. BoNBoN takes the best and the worst of n of
    the reference's, both trained on, and wants the policy's log-probabilities of them."""
    assert draws(online_dpo(0.1)) == [0, 2, 0, 0]
    assert draws(bonbon(8)) == [8, 0, 0, 2] and bonbon(8).scores_anchor_draws
    assert bonbon(8).settings == {"alpha": 0.005}
    assert not any(ALL[name].scores_anchor_draws for name in ALL if name != "bonbon")


def test_an_identity_names_what_changes_the_numbers():
    """Eight plans, eight names; a changed hyper-parameter, anchor or number of draws is another."""
    others = [
        j_bond(beta=0.25),
        j_bond(gamma=1.0),
        j_bond(anchor=MovingAverage(0.05)),
        j_bond(anchor=Periodic(50)),
        j_bond(policy_draws=2),
        reinforce(1.0),
        reinforce(0.1, policy_draws=4),
        warp(0.1, 0.02),
        online_dpo(0.2),
        bonbon(4, alpha=0.5),
    ]
    identities = [repr(a.identity) for a in (*ALL.values(), *others)]
    assert len(set(identities)) == len(identities)


def test_the_identity_of_bond_stays():
    """Finished runs are found by it, so what other algorithms need must not show in it."""
    assert bond(8, 0.5).identity == {
        "rule": "jeffreys",
        "n": 8,
        "beta": 0.5,
        "draws": [8, 2, 16],
        "anchor": "Frozen()",
        "quantiles": "'counted'",
    }


@pytest.mark.parametrize(
    ("make", "wrong", "named"),
    [
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
