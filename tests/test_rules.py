"""The rules against worked examples, the constants of the paper and the laws they obey.

Expected updates are compared with exact gradients in test_toy.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bondlab import rules
from bondlab.rules import Scores

F64 = torch.float64

FIELDS = ("anchor_rewards", "policy_rewards", "quantiles", "log_ratio", "anchor_log_ratio")

RANK_RULES = {
    "forward_kl": rules.forward_kl,
    "backward_kl": partial(rules.backward_kl, n=4),
    "jeffreys": partial(rules.jeffreys, n=4, beta=0.5),
    "j_bond": partial(rules.j_bond, beta=0.5, gamma=0.3),
    "online_dpo": partial(rules.online_dpo, beta_dpo=0.4),
    "bonbon": partial(rules.bonbon, alpha=0.2),
    "wind": partial(rules.wind, beta=0.3),
    "qrpo": partial(rules.qrpo, beta=0.3),
}
ALL_RULES = {
    **RANK_RULES,
    "reinforce": partial(rules.reinforce, beta_rl=0.1),
    "max_at_k": partial(rules.max_at_k, k=2, beta_rl=0.1),
}


def scores_of(seed: int = 0, b: int = 3, n: int = 2, k: int = 2, dtype=F64) -> Scores:
    """Random scores; rewards on a coarse grid, so that ties occur."""
    generator = torch.Generator().manual_seed(seed)

    def grid(width: int) -> torch.Tensor:
        return torch.randint(0, 6, (b, width), generator=generator).to(dtype)

    quantiles = torch.rand(b, k, generator=generator, dtype=F64).clamp(min=1 / 32).to(dtype)
    log_ratio = torch.randn(b, k, generator=generator, dtype=F64).to(dtype)
    anchor, policy = grid(n), grid(k)
    anchor_log_ratio = torch.randn(b, n, generator=generator, dtype=F64).to(dtype)
    return Scores(anchor, policy, quantiles, log_ratio, anchor_log_ratio)


def changed(scores: Scores, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Scores:
    """The scores with change(name, tensor) in the place of every tensor."""
    new = {name: change(name, getattr(scores, name)) for name in FIELDS}
    return replace(scores, **new)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64).unsqueeze(1)


def test_forward_kl_marks_the_first_best():
    """Weight 1 on the first maximum of the anchor's draws, 0 elsewhere (eq. 12-13)."""
    anchor = torch.tensor([[1.0, 4.0, 4.0], [0.0, -1.0, -2.0]])
    one = torch.ones(2, 1)
    weights = rules.forward_kl(Scores(anchor, one, one, one))
    assert weights.tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]


def test_backward_kl_worked_example():
    """n = 3, p_hat = (1, e^-1), log ratio (0.5, 0): R = 2 log p_hat - log ratio = (-0.5, -2),
    minus the other's return: (1.5, -1.5)."""
    none = torch.zeros(2, 0, dtype=F64)
    scores = Scores(none, column(7, 8), column(1, math.exp(-1)), column(0.5, 0))
    weights = rules.backward_kl(scores, n=3)
    torch.testing.assert_close(weights, column(1.5, -1.5))


def test_jeffreys_mixes_the_two():
    """(1-beta) forward + beta backward, whatever beta (eq. 11)."""
    scores = scores_of()
    for beta in (0.0, 0.25, 1.0):
        forward, backward = rules.forward_kl(scores), rules.backward_kl(scores, n=5)
        expected = (1 - beta) * forward + beta * backward
        torch.testing.assert_close(rules.jeffreys(scores, n=5, beta=beta), expected)


def test_jeffreys_ends_need_one_side_only():
    """beta = 1 never looks at Best-of-N draws, beta = 0 never at policy samples."""
    policy_only, anchor_only = scores_of(n=0), scores_of(k=0)
    backward = rules.backward_kl(policy_only, n=4)
    assert torch.equal(rules.jeffreys(policy_only, n=4, beta=1), backward)
    forward = rules.forward_kl(anchor_only)
    assert torch.equal(rules.jeffreys(anchor_only, n=4, beta=0), forward)
    with pytest.raises(ValueError, match="anchor completions"):
        rules.jeffreys(policy_only, n=4, beta=0.5)


def test_reinforce_is_leave_one_out_over_the_prompt():
    """beta_RL = 0.5, rewards (3, 1), log ratios (2, -2): returns (2, 2), so no preference; with
    rewards (5, 1) returns (4, 2) and weights +-2, halved for K = 2. Prompts do not mix."""
    rewards = torch.tensor([[3.0, 1.0], [5.0, 1.0]])
    log_ratio = torch.tensor([[2.0, -2.0], [2.0, -2.0]])
    none = torch.zeros(2, 0)
    scores = Scores(none, rewards, torch.ones(2, 2), log_ratio)
    assert rules.reinforce(scores, beta_rl=0.5).tolist() == [[0, 0], [1, -1]]


def test_reinforce_counts_rewards_in_units_of_their_spread():
    """Rewards ten times as far apart, with a spread ten times as large, change nothing."""
    scores = scores_of()
    wide = changed(scores, lambda name, x: 10 * x if "rewards" in name else x)
    wide = replace(wide, reward_scale=10.0)
    rule = partial(rules.reinforce, beta_rl=0.1)
    torch.testing.assert_close(rule(wide), rule(scores))
    assert not torch.allclose(rule(wide), rule(replace(wide, reward_scale=1.0)))


def test_j_bond_worked_example():
    """beta = 0.25, gamma = 2, rewards 0 and 1.5 against (1, 2) and (2, 1), log ratios 0.1, -0.2.
    r_J = (-log 16, 0), R = (-log16 - 0.1, 0.2); each baseline is the other's return D apart,
    D = log16 + 0.3. Policy weights 0.25 (-D) - 2 (0.1) and 0.25 D + 2 (0.2); 0.75 on the better."""
    anchor = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=F64)
    scores = Scores(anchor, column(0, 1.5), None, column(0.1, -0.2))
    gap = math.log(16) + 0.3
    expected = [[0, 0.75, -0.25 * gap - 0.2], [0.75, 0, 0.25 * gap + 0.4]]
    torch.testing.assert_close(
        rules.j_bond(scores, beta=0.25, gamma=2), torch.tensor(expected, dtype=F64)
    )


def test_j_bond_reward_is_strict():
    """Worse than both: -log 16. Equal to the worse, between, or better: 0 (eq. 17)."""
    rewards = torch.tensor([[0.9, 1.0, 1.5, 3.0]])
    anchor = torch.tensor([[2.0, 1.0]])
    expected = torch.tensor([[-math.log(16), 0, 0, 0]])
    torch.testing.assert_close(rules.j_bond_reward(rewards, anchor), expected)


def test_online_dpo_worked_example():
    """beta = 0.5. Rewards (1, 3), log ratios (0.4, -1.6): the margin of the second over the first
    is -2, so the weights are -+ 0.5 sigmoid(1). Of three (2, 7, 5) the second and the first are the
    pair: margin 1 - 3. Equal rewards are no pair."""
    two = Scores(torch.zeros(1, 0), torch.tensor([[1.0, 3.0]]), None, torch.tensor([[0.4, -1.6]]))
    pull = 0.5 / (1 + math.exp(-1))
    weights = rules.online_dpo(two, beta_dpo=0.5)
    torch.testing.assert_close(weights, torch.tensor([[-pull, pull]]))
    three = Scores(
        torch.zeros(1, 0), torch.tensor([[2.0, 7.0, 5.0]]), None, torch.tensor([[3.0, 1.0, 9.0]])
    )
    weights = rules.online_dpo(three, beta_dpo=0.5)
    torch.testing.assert_close(weights, torch.tensor([[-pull, pull, 0.0]]))
    tied = replace(two, policy_rewards=torch.tensor([[3.0, 3.0]]))
    assert rules.online_dpo(tied, beta_dpo=0.5).tolist() == [[0, 0]]


def test_bonbon_worked_example():
    """n = 3, so the gap is 2 (1 + 1/2) = 3. The pair's margin is 0.5 - (-0.5) = 1, the square's
    pull 2 (3 - 1) = 4; alpha = 0.25 gives 0.25 + 3 on the best and -3 on the worst. Equal rewards
    are no pair, and keep the likelihood of the first."""
    anchor = torch.tensor([[5.0, 1.0, 9.0], [2.0, 2.0, 2.0]])
    ratio = torch.tensor([[0.0, -0.5, 0.5], [1.0, 2.0, 3.0]])
    none = torch.zeros(2, 0)
    weights = rules.bonbon(Scores(anchor, none, None, none, ratio), alpha=0.25)
    torch.testing.assert_close(weights, torch.tensor([[0, -3, 3.25], [0.25, 0, 0]]))


def test_wind_worked_example():
    """Rewards (1, 3, 3): win rates among the others 0, 3/4, 3/4, less 1/2. Log ratios (2, 0, 1)
    less the others' mean: 1.5, -1.5, 0. At beta = 0.2: -0.8, 0.55, 0.25, each a third."""
    scores = Scores(
        torch.zeros(1, 0), torch.tensor([[1.0, 3.0, 3.0]]), None, torch.tensor([[2.0, 0.0, 1.0]])
    )
    weights = rules.wind(scores, beta=0.2)
    torch.testing.assert_close(weights, torch.tensor([[-0.8, 0.55, 0.25]]) / 3)


def test_qrpo_worked_example():
    """Rewards (5, 1, 5): two, none, two of the others score no higher, q = 1, 0, 1. At beta = 1
    log Z = log(e - 1) = 0.5413; log ratios (0, -0.5, 0.4587): misses 0.4587, -0.0413, 0; each
    counts 2 beta / 3. The optimum for q has none: its log ratio is q - log Z."""
    log_z = math.log(math.e - 1)
    ratio = torch.tensor([[0.0, -0.5, 1 - log_z]], dtype=F64)
    none = torch.zeros(1, 0, dtype=F64)
    rewards = torch.tensor([[5.0, 1.0, 5.0]], dtype=F64)
    weights = rules.qrpo(Scores(rewards, none, None, none, ratio), beta=1.0)
    expected = torch.tensor([[1 - log_z, 0.5 - log_z, 0.0]], dtype=F64) * 2 / 3
    torch.testing.assert_close(weights, expected)


def test_max_at_k_worked_example():
    """Rewards (1, 3, 7), k = 2: the pairs' best are 3, 7, 7, in the mean 17/3; without one of
    them 7, 7, 3. k = 3: best 7, of the others 7, 7, 3. Beside them beta 0.3 on log ratios (1, 0, 0)
    less the others' mean: -0.1 (1, -0.5, -0.5)."""
    ratio = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64)
    scores = Scores(torch.zeros(1, 0), torch.tensor([[1.0, 3.0, 7.0]], dtype=F64), None, ratio)
    pull = torch.tensor([[-0.1, 0.05, 0.05]], dtype=F64)
    for k, added in ((2, [-4 / 3, -4 / 3, 8 / 3]), (3, [0.0, 0.0, 4.0])):
        weights = rules.max_at_k(scores, k, beta_rl=0.3)
        torch.testing.assert_close(weights, torch.tensor([added], dtype=F64) + pull)


def test_max_at_k_is_centred_and_begins_as_reinforce():
    """k = 1 is RLOO; for any k below K the weights of a prompt sum to 0."""
    scores = replace(scores_of(k=5), reward_scale=2.0)
    reinforce = rules.reinforce(scores, beta_rl=0.1)
    torch.testing.assert_close(rules.max_at_k(scores, 1, beta_rl=0.1), reinforce)
    for k in (1, 2, 4):
        weights = rules.max_at_k(scores, k, beta_rl=0.1)
        torch.testing.assert_close(weights.sum(1), torch.zeros(3, dtype=F64))


@pytest.mark.parametrize(("n", "gap"), [(2, 1.0), (4, 5.5), (8, 18.15)])
def test_the_gap_of_bonbon_is_that_of_best_of_n(n, gap):
    """(n-1) H_{n-1}, from sampling: h = (n-1) log u + log n, and the mean of h_best - h_worst over
    200,000 sets of n uniforms lies within 5 standard errors. 18.15 is the value of the paper."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(200_000, n, generator=generator, dtype=F64)
    gaps = (n - 1) * (draws.amax(dim=1) / draws.amin(dim=1)).log()
    error = gaps.std().item() / len(gaps) ** 0.5
    assert rules.bonbon_gap(n) == pytest.approx(gap, abs=1e-9 if n < 8 else 5e-3)
    assert gaps.mean().item() == pytest.approx(rules.bonbon_gap(n), abs=5 * error)


def test_leave_one_out_leaves_its_own_return_out():
    """The mean of the other three of (1, 2, 3, 6); of one return alone, 0."""
    baseline = rules.leave_one_out(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    torch.testing.assert_close(baseline, torch.tensor([[11 / 3, 10 / 3], [3.0, 2.0]]))
    assert rules.leave_one_out(torch.tensor([[5.0]])).tolist() == [[0.0]]


@pytest.mark.parametrize("name", ALL_RULES)
def test_weights_have_static_shape_and_no_gradient(name):
    """[B, N+K]; detached although the log ratio may still carry a graph."""
    scores = scores_of(b=4, n=2, k=3)
    for name_of_tensor in ("quantiles", "log_ratio", "anchor_log_ratio"):
        getattr(scores, name_of_tensor).requires_grad_()
    weights = ALL_RULES[name](scores)
    assert weights.shape == (4, 5)
    assert not weights.requires_grad


@pytest.mark.parametrize("name", ALL_RULES)
def test_rules_never_read_a_value(name):
    """On the meta device no value exists: a synchronisation or a branch on data would raise."""
    scores = scores_of()
    meta = changed(scores, lambda _, x: x.to("meta"))
    assert ALL_RULES[name](meta).shape == (3, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ALL_RULES)
def test_rules_keep_the_type_of_the_log_ratio(name, dtype):
    """Lower precision gives the float64 weights within its rounding."""
    weights = ALL_RULES[name](scores_of(dtype=dtype))
    assert weights.dtype == dtype
    tolerance = 100 * torch.finfo(dtype).eps
    expected = ALL_RULES[name](scores_of())
    torch.testing.assert_close(weights.double(), expected, rtol=tolerance, atol=tolerance)


@given(st.integers(0, 10_000), st.sampled_from(sorted(RANK_RULES)))
@settings(deadline=None)
def test_rank_rules_see_the_order_of_rewards_only(seed, name):
    """An increasing change of the reward changes no comparison, so no bit of a weight."""
    scores = scores_of(seed)
    other = changed(scores, lambda name, x: x.exp() - 5 if "rewards" in name else x)
    assert torch.equal(RANK_RULES[name](scores), RANK_RULES[name](other))


@given(st.integers(0, 10_000), st.permutations(range(4)), st.sampled_from(sorted(ALL_RULES)))
@settings(deadline=None)
def test_prompt_order_does_not_matter(seed, order, name):
    """Weights move with their prompts."""
    scores = scores_of(seed, b=4)
    moved = changed(scores, lambda _, x: x[list(order)])
    weights = ALL_RULES[name](scores)[list(order)]
    torch.testing.assert_close(ALL_RULES[name](moved), weights, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted({*ALL_RULES} - {"j_bond", "jeffreys", "backward_kl"}))
def test_a_prompt_weighs_its_completions_by_its_own_scores(name):
    """But for the rules whose baseline is the batch's mean."""
    scores, others = scores_of(seed=1), scores_of(seed=2)
    mixed = changed(scores, lambda field, x: torch.cat([x[:1], getattr(others, field)[1:]]))
    assert torch.equal(ALL_RULES[name](mixed)[0], ALL_RULES[name](scores)[0])


def test_one_sample_has_no_baseline():
    """A batch with one policy sample: the return itself, (n-1) log p_hat - log ratio."""
    scores = Scores(torch.zeros(1, 0, dtype=F64), column(0), column(0.5), column(0.25))
    weights = rules.backward_kl(scores, n=2)
    assert weights.item() == pytest.approx(math.log(0.5) - 0.25)
    assert rules.reinforce(scores, beta_rl=2).item() == pytest.approx(-0.5)


ONES = torch.ones(2, 1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda s: rules.jeffreys(s, n=2, beta=1.5), "beta is the share"),
        (lambda s: rules.j_bond(s, beta=-0.1, gamma=0), "beta is the share"),
        (lambda s: rules.j_bond(s, beta=0.5, gamma=-1), "gamma"),
        (lambda s: rules.j_bond(scores_of(n=3), beta=0.5, gamma=0), "2 anchor completions"),
        (lambda s: rules.forward_kl(scores_of(n=0)), "anchor completions"),
        (lambda s: rules.backward_kl(replace(s, quantiles=None), n=2), "quantile_draws"),
        (lambda s: rules.bonbon(scores_of(n=1), alpha=0.5), "2 or more anchor completions"),
        (lambda s: rules.bonbon(replace(s, anchor_log_ratio=None), 0.5), "anchor_log_ratio"),
        (lambda s: rules.qrpo(replace(s, anchor_log_ratio=None), 0.5), "anchor_log_ratio"),
        (lambda s: rules.wind(scores_of(k=1), beta=0.5), "2 or more policy completions"),
        (lambda s: rules.max_at_k(s, 3, beta_rl=0), "leaving one out of 3"),
        (lambda s: Scores(ONES, ONES, torch.ones(2, 2), ONES), "share one shape"),
        (lambda s: Scores(torch.ones(3, 1), ONES, ONES, ONES), "B = 2"),
        (lambda s: replace(s, anchor_log_ratio=ONES), "anchor_log_ratio must have the shape"),
        (lambda s: replace(s, reward_scale=0.0), "reward_scale must be above 0"),
    ],
)
def test_wrong_arguments_stop(make, said):
    """Each would otherwise train something else than asked for."""
    with pytest.raises(ValueError, match=said):
        make(scores_of())
