"""J-BOND's rule and its binary reward: worked examples and the calibration of -log 16."""

from __future__ import annotations

import math

import pytest
import torch

from bondlab import rules
from bondlab.rules import Scores

F64 = torch.float64
LOG16 = math.log(16)


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64).unsqueeze(1)


def test_j_bond_worked_example():
    """beta = 0.25, gamma = 2, rewards 0 and 1.5 against (1, 2) and (2, 1), log ratios 0.1, -0.2.
    r_J = (-log 16, 0), R = (-log16 - 0.1, 0.2); each baseline is the other's return D apart,
    D = log16 + 0.3. Policy weights 0.25 (-D) - 2 (0.1) and 0.25 D + 2 (0.2); 0.75 on the better."""
    anchor = torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=F64)
    scores = Scores(anchor, column(0, 1.5), None, column(0.1, -0.2))
    gap = LOG16 + 0.3
    expected = [[0, 0.75, -0.25 * gap - 0.2], [0.75, 0, 0.25 * gap + 0.4]]
    torch.testing.assert_close(
        rules.j_bond(scores, beta=0.25, gamma=2), torch.tensor(expected, dtype=F64)
    )


def test_j_bond_pulls_towards_the_anchor():
    """With equal rewards and beta = 0 only G_Reg is left: a sample that the policy prefers more
    than the anchor does (log ratio > 0) must get a negative weight."""
    anchor = torch.zeros(2, 2, dtype=F64)
    scores = Scores(anchor, column(0, 0), None, column(0.7, -0.7))
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


def test_gamma_weighs_the_log_ratio_as_a_larger_coefficient():
    """Backward part and regularisation merge into beta (r_J - (1 + gamma/beta) log ratio): between
    two samples of equal r_J and log ratios 0.3 and 0.1, the difference of weights over the
    difference of ratios is -(2 beta + gamma), as each baseline is the other's return. For beta 0.5
    and gamma in {0, 0.5, 1, 2}: the notes' 1, 2, 3, 5 times beta, plus beta for the baseline."""
    anchor = torch.zeros(2, 2, dtype=F64)
    scores = Scores(anchor, column(0, 0), None, column(0.3, 0.1))
    for gamma, coefficient in [(0, 1), (0.5, 2), (1, 3), (2, 5)]:
        weights = rules.j_bond(scores, beta=0.5, gamma=gamma)[:, 2]
        slope = (weights[0] - weights[1]).item() / 0.2
        assert slope == pytest.approx(-0.5 * coefficient - 0.5)
