"""Notebook 00's further sections: modes, the bound, rewards that tie; 06c's autopsy on the toy."""

from __future__ import annotations

import math

import pytest
import torch

from bondlab import best_of_n, toy
from bondlab.toy import autopsy, limits, modes
from bondlab.toy.exact import Settings

SETTINGS = Settings(profile="smoke", seed=0, n=8, sizes=[2], draws=4000, problems=0, steps=0)

# -- modes -----------------------------------------------------------------------------------------


def test_the_target_keeps_both_modes_as_the_reference_has_them():
    """Equal rewards: Best-of-N keeps their proportion. Entropy by hand at masses 3 : 1."""
    _, problem, pair = modes.problem_of(modes.Scale(problems=4), seed=0)
    before, after = (modes.mode_entropy(x, pair) for x in (problem.log_anchor, problem.log_target))
    torch.testing.assert_close(after, before)
    assert (problem.rewards.topk(2, dim=1).indices.sort(dim=1).values == pair.sort().values).all()
    three_to_one = torch.tensor([[0.3, 0.6, 0.1]]).double().log()
    expected = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    assert modes.mode_entropy(three_to_one, torch.tensor([0, 2])).item() == pytest.approx(expected)


def test_the_direction_decides_only_where_the_policy_cannot_be_the_target():
    """A free policy at the reference is the reference, and keeps the target's entropy by either
    divergence; a bigram policy keeps more by the forward, with less of its mass on the modes."""
    policy, problem, _ = modes.problem_of(modes.Scale(problems=4), seed=0)
    free = modes.free(problem.log_anchor)
    torch.testing.assert_close(free.log_probs(), policy.log_probs())
    records = modes.descents(modes.Scale(problems=20, steps=120, early=10), seed=0)
    gaps = modes.gaps(records)
    assert [*gaps] == [(kind, step) for kind in modes.POLICIES for step in (10, 120)]
    assert abs(gaps["free", 120].mean) < 0.01 < 0.1 < gaps["bigram", 120].low
    table = modes.gap_table(records).set_index(["policy", "steps"])
    assert table.loc[("bigram", 120), "mass, beta 0"] < table.loc[("bigram", 120), "mass, beta 0.5"]
    assert len(modes.bar_table(records)) == 2 * 2 * 3


# -- the bound, and rewards that tie ---------------------------------------------------------------


def test_the_true_kl_by_hand():
    """Two equally likely outcomes, n = 2: Best-of-2 is (1/4, 3/4), so log(1/2)/4 + 3 log(3/2)/4."""
    even = torch.tensor([0.5, 0.5]).double()
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert limits.true_kl(even, torch.arange(2), 2).item() == pytest.approx(expected)


def test_the_bound_holds_and_ties_count_as_one_outcome():
    """No share above 1; within a group that ties Best-of-n is the reference, so k groups are k
    outcomes; with 10,000 outcomes the bound is all but reached."""
    table = limits.bound(SETTINGS)
    assert table["mean"].max() <= 1 + 1e-9
    tied, even = (table[table["series"] == s].set_index("x")["mean"]
                  for s in (limits.TIED, f"n = {limits.TIED_N}"))  # fmt: skip
    assert len(tied) > 3 and tied.to_numpy() == pytest.approx(even[tied.index].to_numpy())
    assert table[table["x"] == 10_000]["mean"].min() > 0.99
    assert limits.fair(table).set_index("series").loc["n = 8", "fewest with 0.95"] == "8"


def test_how_often_the_penalty_fires():
    """At most 4/27, at 2/3; of two equally likely values 1/8. Simulations lie by the formulas."""
    most = max(range(1001), key=lambda i: limits.binary_firing(i / 1000)) / 1000
    assert most == pytest.approx(2 / 3, abs=1e-3)
    assert limits.binary_firing(2 / 3) == pytest.approx(4 / 27)
    table = limits.firing(SETTINGS).query("series == 'penalty fires'")
    both = table.pivot_table(index=["panel", "x"], columns="kind", values="mean").dropna()
    assert len(both) == 9 + 7 and (both["formula"] - both["points"]).abs().max() < 0.03
    assert both.loc[("values", 2), "formula"] == pytest.approx(1 / 8)
    shares = limits.firing_table().set_index("reward")["of the 1/3 without ties"]
    assert shares[shares.index.str.startswith("yes")].max() == pytest.approx(4 / 9)


# -- the autopsy -----------------------------------------------------------------------------------


def test_a_share_is_along_the_policys_way():
    """Half way and as far to the side: half."""
    zero = torch.zeros(1, 2)
    policy, anchor = torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    assert autopsy.share(anchor, policy, zero).tolist() == [0.5]


def test_an_average_in_bfloat16_loses_small_changes():
    """After 200 averages 1 - 0.98^200 of the way in float32; of a change of 1 % hardly any in
    bfloat16, whose unit in the last place is 0.4 to 0.8 %; of 100 % most."""
    table = autopsy.lost().set_index("change of a weight")
    coarse, fine = (table[f"share of it followed in {name}"] for name in ("bfloat16", "float32"))
    assert fine.to_numpy() == pytest.approx(1 - 0.98**200, abs=2e-3)
    assert coarse["1.0%"] < 0.05 and coarse["100.0%"] > 0.7


def test_the_first_mending_is_the_one_that_tells():
    """All arms start at the reference. With a dead anchor success stays below Best-of-2's; the
    printed sign pushes away, so that its mending brings the policy nearer."""
    scale = autopsy.Scale(problems=4, steps=160)
    records = autopsy.runs(scale)
    assert records.query("step == 0")["kl"].abs().max() < 1e-12
    last = records.query("step == 160").groupby("series", sort=False).mean()
    assert [*last.index] == [arm.name for arm in autopsy.ARMS]
    best = autopsy.ceiling(scale)
    assert autopsy.began(records) < last["success"].iloc[0] < best < last["success"].iloc[1:].min()
    assert last["anchor_share"].iloc[0] < 0.3 < 0.5 < last["anchor_share"].iloc[1:].min()
    assert last["kl"].iloc[2] < last["kl"].iloc[1]
    gains = dict(autopsy.gains(records))
    assert gains["+ float32 anchor"].mean > 0.3


def test_best_of_2_of_a_yes_or_no_reward():
    """`ceiling` by the chance that one of two is right, 1 - (1-p)^2, averaged over problems."""
    scale = autopsy.Scale(problems=3)
    policy = toy.ToyPolicy(3, 6, 3, seed=0)
    log_probs = policy.log_probs().detach()
    ranks = best_of_n.log_quantiles(log_probs, toy.draw_rewards(policy, 0.5, 1)).exp()
    p = (log_probs.exp() * (ranks > 0.75)).sum(1)
    assert autopsy.ceiling(scale) == pytest.approx((1 - (1 - p) ** 2).mean().item())
