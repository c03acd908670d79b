"""The rules against worked examples, the constants of the paper and the laws they obey.

Their expected updates are compared with exact gradients in test_toy.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bondlab import rules
from bondlab.rules import Scores

F64 = torch.float64
LOG16 = math.log(16)

FIELDS = ("anchor_rewards", "policy_rewards", "quantiles", "log_ratio", "anchor_log_ratio")

RANK_RULES = {
    "forward_kl": rules.forward_kl,
    "backward_kl": partial(rules.backward_kl, n=4),
    "jeffreys": partial(rules.jeffreys, n=4, beta=0.5),
    "j_bond": partial(rules.j_bond, beta=0.5, gamma=0.3),
    "online_dpo": partial(rules.online_dpo, beta_dpo=0.4),
    "bonbon": partial(rules.bonbon, alpha=0.2),
}
ALL_RULES = {**RANK_RULES, "reinforce": partial(rules.reinforce, beta_rl=0.1)}


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
    return dataclasses.replace(scores, **new)


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


def test_j_bond_worked_example():
    """beta = 0.25, gamma = 2, rewards 0 and 1.5 against (1, 2) and (2, 1), log ratios 0.1, -0.2.
    r_J = (-log 16, 0), R = (-log16 - 0.1, 0.2); each baseline is the other's return D apart,
    D = log16 + 0.3. Policy weights 0.25 (-D) - 2 (0.1) and 0.25 D + 2 (0.2); 0.75 on the better."""
    anchor = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=F64)
    scores = Scores(anchor, column(0, 1.5), column(1, 1), column(0.1, -0.2))
    gap = LOG16 + 0.3
    expected = [[0, 0.75, -0.25 * gap - 0.2], [0.75, 0, 0.25 * gap + 0.4]]
    torch.testing.assert_close(
        rules.j_bond(scores, beta=0.25, gamma=2), torch.tensor(expected, dtype=F64)
    )


def test_j_bond_pulls_towards_the_anchor():
    """With equal rewards and beta = 0 only G_Reg is left: a sample that the policy prefers more
    than the anchor does (log ratio > 0) must get a negative weight."""
    anchor = torch.zeros(2, 2, dtype=F64)
    scores = Scores(anchor, column(0, 0), column(1, 1), column(0.7, -0.7))
    weights = rules.j_bond(scores, beta=0, gamma=1)[:, 2]
    assert weights.tolist() == [-0.7, 0.7]


def test_j_bond_reward_is_strict():
    """Worse than both: -log 16. Equal to the worse, between, or better: 0 (eq. 17)."""
    rewards = torch.tensor([[0.9, 1.0, 1.5, 3.0]])
    anchor = torch.tensor([[2.0, 1.0]])
    expected = torch.tensor([[-LOG16, 0, 0, 0]])
    torch.testing.assert_close(rules.j_bond_reward(rewards, anchor), expected)


@pytest.mark.parametrize(
    ("p", "mean", "log_p"),
    [
        (0.05, -2.502, -2.996),
        (0.1, -2.246, -2.303),
        (0.25, -1.560, -1.386),
        (0.5, -0.693, -0.693),
        (0.75, -0.173, -0.288),
        (0.9, -0.028, -0.105),
        (0.95, -0.007, -0.051),
        (1.0, 0.0, 0.0),
    ],
)
def test_j_bond_reward_averages_to_its_parabola(p, mean, log_p):
    """Both anchor rewards exceed a sample at quantile p with chance (1-p)^2, so E[r_J] =
    -log16 (1-p)^2, beside log p (Figure 8). Anchor pairs on a 400 x 400 grid of midpoints."""
    grid = (torch.arange(400, dtype=F64) + 0.5) / 400
    pairs = torch.cartesian_prod(grid, grid)
    rewards = torch.full((len(pairs), 1), p, dtype=F64)
    actual = rules.j_bond_reward(rewards, pairs).mean().item()
    assert actual == pytest.approx(-LOG16 * (1 - p) ** 2, abs=1e-12)
    assert actual == pytest.approx(mean, abs=6e-4)
    assert math.log(p) == pytest.approx(log_p, abs=6e-4)


@pytest.mark.parametrize(("n", "share", "mean"), [(1, 1 / 3, -0.924), (2, 1 / 6, -0.462)])
def test_j_bond_penalises_a_third_at_the_start(n, share, mean):
    """A sample of Best-of-n, density n u^(n-1), is below both of two anchor draws with chance
    int n u^(n-1) (1-u)^2 du: 1/3 at the anchor itself, 1/6 at Best-of-2. 400,000 draws, 5
    standard errors."""
    generator = torch.Generator().manual_seed(0)
    count = 400_000
    policy = torch.rand(count, n, generator=generator).amax(dim=1, keepdim=True)
    rewards = rules.j_bond_reward(policy, torch.rand(count, 2, generator=generator))
    error = (share * (1 - share) / count) ** 0.5
    assert (rewards < 0).double().mean().item() == pytest.approx(share, abs=5 * error)
    assert -LOG16 * share == pytest.approx(mean, abs=5e-4)
    assert rewards.mean().item() == pytest.approx(mean, abs=5 * LOG16 * error + 5e-4)


def test_j_bond_tilt_is_close_to_best_of_2():
    """The exact optimum of the backward part tilts the anchor by exp(E[r_J(u)]): normaliser
    0.5224, KL to the anchor 0.209 and mean quantile 0.676 (Best-of-2: 0.193 and 0.667), on a
    grid of 10^6 quantiles."""
    u = (torch.arange(1_000_000, dtype=F64) + 0.5) / 1_000_000
    tilt = (rules.J_BOND_PENALTY * (1 - u) ** 2).exp()
    density = tilt / tilt.mean()
    assert tilt.mean().item() == pytest.approx(0.5224, abs=5e-5)
    assert (density * density.log()).mean().item() == pytest.approx(0.209, abs=5e-4)
    assert (density * u).mean().item() == pytest.approx(0.676, abs=5e-4)


def test_reinforce_is_leave_one_out_over_the_prompt():
    """beta_RL = 0.5, rewards (3, 1), log ratios (2, -2): returns (2, 2), so no preference; with
    rewards (5, 1) returns (4, 2) and weights +-2, halved for K = 2. Prompts do not mix."""
    rewards = torch.tensor([[3.0, 1.0], [5.0, 1.0]])
    log_ratio = torch.tensor([[2.0, -2.0], [2.0, -2.0]])
    none = torch.zeros(2, 0)
    scores = Scores(none, rewards, torch.ones(2, 2), log_ratio)
    assert rules.reinforce(scores, beta_rl=0.5).tolist() == [[0, 0], [1, -1]]


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


@pytest.mark.parametrize(
    ("rule", "peers"),
    [
        (partial(rules.backward_kl, n=4), 6),
        (partial(rules.jeffreys, n=4, beta=0.5), 6),
        (partial(rules.j_bond, beta=0.5, gamma=0), 6),
        (partial(rules.reinforce, beta_rl=0.1), 2),
    ],
)
def test_a_mean_over_samples_carries_its_share(rule, peers):
    """A return minus the mean of the c-1 others is c/(c-1) times its distance from the mean of
    all c. Repeating 2 samples of 3 prompts 100 times leaves distances alone, so the policy
    weights, each over K, keep their sum but for that factor; c = 6 over the batch, 2 a prompt."""
    scores = scores_of(b=3, k=2)
    repeated = changed(scores, lambda name, x: x if "anchor" in name else x.repeat(1, 100))
    few, many = (rule(s)[:, 2:].abs().sum().item() for s in (scores, repeated))
    factor = (100 * peers / (100 * peers - 1)) / (peers / (peers - 1))
    assert many / few == pytest.approx(factor, rel=1e-12)


def test_one_sample_has_no_baseline():
    """A batch with one policy sample: the return itself, (n-1) log p_hat - log ratio."""
    scores = Scores(torch.zeros(1, 0, dtype=F64), column(0), column(0.5), column(0.25))
    weights = rules.backward_kl(scores, n=2)
    assert weights.item() == pytest.approx(math.log(0.5) - 0.25)
    assert rules.reinforce(scores, beta_rl=2).item() == pytest.approx(-0.5)


def test_start_of_training_returns():
    """At pi = pi_anchor the log ratio is 0 and p_hat uniform: the mean return is (n-1) E[log u]
    = -(n-1). Read off the weight of one sample at each of 1000 mid-quantiles, no baseline; the
    midpoint rule errs by (n-1) log(2) / 2000."""
    none = torch.zeros(1, 0, dtype=F64)
    weights = [
        rules.backward_kl(Scores(none, column(0), column((i + 0.5) / 1000), column(0)), n=8)
        for i in range(1000)
    ]
    assert torch.cat(weights).mean().item() == pytest.approx(-7, abs=3e-3)


def test_wrong_arguments_stop():
    """Each would otherwise train something else than asked for."""
    scores = scores_of()
    with pytest.raises(ValueError, match="beta is the share"):
        rules.jeffreys(scores, n=2, beta=1.5)
    with pytest.raises(ValueError, match="beta is the share"):
        rules.j_bond(scores, beta=-0.1, gamma=0)
    with pytest.raises(ValueError, match="gamma"):
        rules.j_bond(scores, beta=0.5, gamma=-1)
    with pytest.raises(ValueError, match="2 anchor completions"):
        rules.j_bond(scores_of(n=3), beta=0.5, gamma=0)
    with pytest.raises(ValueError, match="anchor completions"):
        rules.forward_kl(scores_of(n=0))
    with pytest.raises(ValueError, match=r"share one shape"):
        Scores(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, 2), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="B = 2"):
        Scores(torch.zeros(3, 1), *[torch.zeros(2, 1)] * 3)
