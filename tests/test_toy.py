"""Policies whose every sequence is listed: rules against exact gradients, and where they lead."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import toy_objectives

from bondlab import best_of_n, rules, toy
from bondlab.toy import training

F64 = torch.float64
BETA, GAMMA, BETA_RL, BETA_DPO, ALPHA = 0.3, 0.7, 0.2, 0.6, 0.4


def rewards_of(policy: toy.ToyPolicy, seed: int, ties: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(policy.logits), len(policy.sequences))
    rewards = torch.randn(shape, dtype=F64, generator=generator)
    return rewards.round() if ties else rewards


def case(prompts: int, vocabulary: int, length: int, n: int, ties: bool = False):
    """A policy that has left its anchor, and the problem it is learning."""
    anchor = toy.ToyPolicy(prompts, vocabulary, length, seed=1)
    policy = toy.ToyPolicy(prompts, vocabulary, length, seed=2)
    problem = toy.Problem(anchor.log_probs().detach(), rewards_of(anchor, 3, ties), n)
    return policy, problem


def gradient(policy: toy.ToyPolicy, objective: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(objective, policy.logits)[0]


def complete(problem: toy.Problem) -> torch.Tensor:
    """r_BOND with both its terms, in the place of log p_hat."""
    return best_of_n.bond_reward(problem.log_anchor.exp(), problem.rewards, problem.n)


# Hyperparameters that each rule and its exact objective share.
IDENTITIES = {
    "forward_kl": {},
    "backward_kl": {},
    "backward_kl_continuous": {},
    "jeffreys": {"beta": BETA},
    "j_bond": {"beta": BETA, "gamma": GAMMA},
    "reinforce": {"beta_rl": BETA_RL},
    "online_dpo": {"beta_dpo": BETA_DPO},
    "bonbon": {"alpha": ALPHA},
    "wind": {"beta": BETA},
    "qrpo": {"beta": BETA},
    "max_at_k": {"k": 2, "beta_rl": BETA_RL},
}


def identity(name: str, problem: toy.Problem):
    """A rule, its exact objective, and what the rule takes for log p_hat [B, V]."""
    own, continuous = IDENTITIES[name], name == "backward_kl_continuous"
    rule = rules.backward_kl if continuous else getattr(rules, name)
    if "backward" in name or name == "jeffreys":
        rule = partial(rule, n=problem.n)
    objective = getattr(toy, name, None) or getattr(toy_objectives, name)
    log_quantiles = problem.log_quantiles if continuous else complete(problem)
    return partial(rule, **own), partial(objective, **own), log_quantiles


def test_sequences_are_all_and_each_once():
    """7 tokens, at most 3: END after 0, 1 or 2 of 6 tokens, or 3 tokens: 1+6+36+216 = 259. The
    mask counts the ending token and nothing behind it."""
    policy = toy.ToyPolicy(1, 7, 3)
    rows = [tuple(row) for row in policy.sequences.tolist()]
    assert len(rows) == len(set(rows)) == 259
    lengths = {(0, 0, 0): 1, (4, 0, 0): 2, (4, 5, 0): 3, (4, 5, 6): 3}
    for row, length in lengths.items():
        assert policy.mask[rows.index(row)].tolist() == [t < length for t in range(3)]


def test_log_probs_multiply_token_probabilities():
    """One sequence by hand, 4 then END: log p(4 | start) + log p(END | 4); all sum to 1."""
    policy = toy.ToyPolicy(2, 7, 3, scale=2.0, seed=5)
    log_probs = policy.log_probs()
    index = policy.sequences.tolist().index([4, 0, 0])
    table = policy.logits.detach().softmax(-1)
    for b in range(2):
        expected = math.log(table[b, 0, 4]) + math.log(table[b, 4, 0])
        assert log_probs[b, index].item() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(2, dtype=F64))


def test_samples_follow_the_policy():
    """10^5 samples: every share within 5 standard errors."""
    policy = toy.ToyPolicy(1, 4, 2, seed=3)
    count = 100_000
    log_probs = policy.log_probs().detach()
    draws = toy.draw(log_probs, count, torch.Generator().manual_seed(0))[0]
    probs = log_probs[0].exp()
    shares = torch.bincount(draws, minlength=len(probs)) / count
    assert ((shares - probs).abs() < 5 * (probs * (1 - probs) / count).sqrt() + 1e-9).all()


PAIRS = "online_dpo", "wind", "max_at_k"  # need two draws of the policy
BATCHES = [
    (name, prompts, 2, 2, k, ties)
    for name in IDENTITIES
    for prompts, k in [(1, 1), (1, 2), (2, 1)]
    for ties in ([False, True] if prompts == 1 else [True])
    if k == 2 or name not in PAIRS
]
# The factor n-1, Best-of-n of the anchor, the gap of its pair: 4 draws of 3 sequences.
LARGER = "forward_kl", "backward_kl", "jeffreys", "bonbon"
BATCHES += [(name, 1, 4, 4, 1, True) for name in LARGER]
# Opponents, ranks and subsets of four: win rates, quantiles and best of 2 without bias.
BATCHES += [("wind", 1, 2, 0, 4, True), ("qrpo", 1, 2, 4, 1, True), ("max_at_k", 1, 2, 0, 4, True)]


@pytest.mark.parametrize(("name", "prompts", "n", "draws", "k", "ties"), BATCHES)
def test_expected_update_is_the_exact_gradient(name, prompts, n, draws, k, ties):
    """Over all joint draws of so many anchor and k policy completions for all prompts at once (up
    to 3^6 = 729), the mean gradient of the weighted loss is autograd's gradient of the objective.
    Baselines vanish in the mean, since a return and another draw are independent."""
    policy, problem = case(prompts, vocabulary=2, length=2, n=n, ties=ties)
    rule, objective, log_quantiles = identity(name, problem)
    log_policy = policy.log_probs()
    loss = training.expected_surrogate(rule, log_policy, problem, draws, k, log_quantiles)
    exact = gradient(policy, objective(policy.log_probs(), problem))
    assert exact.abs().max() > 1e-3
    torch.testing.assert_close(gradient(policy, loss), exact, rtol=0, atol=1e-8)


def test_wind_rests_where_no_policy_gains():
    """A policy that can be any distribution (one token): mirror steps of the game,
    pi' ~ (pi pi_ref^(beta eta) e^(eta P))^(1/(1+beta eta)), end where WIND's mean update is 0."""
    policy, problem = case(1, vocabulary=4, length=1, n=2)
    wins = (1 + (problem.rewards.unsqueeze(-1) - problem.rewards.unsqueeze(-2)).sign()) / 2
    log_pi, eta = problem.log_anchor, 0.5
    for _ in range(400):
        rate = (wins @ log_pi.exp().unsqueeze(-1)).squeeze(-1)
        step = log_pi + BETA * eta * problem.log_anchor + eta * rate
        log_pi = (step / (1 + BETA * eta)).log_softmax(-1)
    with torch.no_grad():
        policy.logits[:, toy.END] = log_pi
    torch.testing.assert_close(policy.log_probs(), log_pi)
    rule = partial(rules.wind, beta=BETA)
    loss = training.expected_surrogate(rule, policy.log_probs(), problem, 0, 2, log_pi)
    assert gradient(policy, loss).abs().max() < 1e-10
    assert toy.kl(log_pi, problem.log_anchor) > 0.1


def mean_log_estimate(problem: toy.Problem, m: int) -> torch.Tensor:
    """E[log p_hat] of m references, floored at 1/(2m): a binomial sum for every sequence."""
    p = problem.log_quantiles.exp().unsqueeze(-1)
    count = torch.arange(m + 1, dtype=F64)
    chance = torch.distributions.Binomial(m, p.clamp(max=1.0)).log_prob(count).exp()
    return (chance * (count / m).clamp(min=1 / (2 * m)).log()).sum(dim=-1)


@pytest.mark.parametrize("m", [0, 16])
def test_sampled_surrogate_has_the_gradient_of_its_draws(m):
    """The loss of one batch, averaged over 2000 batches. Returns are linear in log p_hat, so the
    exact gradient is that of E_pi[(n-1) E[log p_hat] - log ratio], by a binomial sum for m
    references and log p_<= itself for m = 0: 5 standard errors."""
    policy, problem = case(3, vocabulary=4, length=2, n=3)
    rule = partial(rules.jeffreys, n=3, beta=0.5)
    generator = torch.Generator().manual_seed(5)
    log_policy = policy.log_probs()
    log_p = mean_log_estimate(problem, m) if m else problem.log_quantiles
    backward = toy.kl(log_policy, problem.log_anchor + 2 * log_p)
    exact = gradient(policy, (toy.forward_kl(log_policy, problem) + backward) / 2)
    log_policy = policy.log_probs()
    updates = []
    for _ in range(2000):
        loss = training.sampled_surrogate(rule, log_policy, problem, 3, 2, m, generator)
        updates += torch.autograd.grad(loss, policy.logits, retain_graph=True)
    updates = torch.stack(updates)
    error = updates.std(dim=0) / 2000**0.5
    assert ((updates.mean(dim=0) - exact).abs() < 5 * error + 1e-12).all()


def test_sampling_one_side_only():
    """beta = 1 draws nothing from the anchor, and no NaN comes of the empty side."""
    policy, problem = case(2, vocabulary=3, length=2, n=3)
    rule = partial(rules.jeffreys, n=3, beta=1)
    generator = torch.Generator().manual_seed(6)
    loss = training.sampled_surrogate(rule, policy.log_probs(), problem, 0, 2, 4, generator)
    assert loss.isfinite()


def test_rewards_without_noise_add_up_pairs():
    """With s(a, b) the score of b after a, r(x, 4, 4) - r(x, 4, END) = s(4, 4) - s(4, END)
    whatever x. Noise of scale 2 adds that scale over 259 sequences, to 5 standard errors."""
    policy = toy.ToyPolicy(1, 7, 3)
    rewards = toy.draw_rewards(policy, noise=0.0, seed=1)[0]
    rows = policy.sequences.tolist()

    def r(*tokens: int) -> float:
        return rewards[rows.index(list(tokens))].item()

    assert r(4, 4, 4) - r(4, 4, 0) == pytest.approx(r(3, 4, 4) - r(3, 4, 0), rel=1e-12)
    noisy = toy.draw_rewards(policy, noise=2.0, seed=1)[0] - rewards
    assert noisy.std().item() == pytest.approx(2, abs=5 * 2 / (2 * 259) ** 0.5)


# -- where training ends ---------------------------------------------------------------------------


def test_descend_shows_what_each_divergence_does():
    """Figure 2 on the toy: each objective ends lowest in itself, the pure ones above Jeffreys in
    the other divergence, and the forward KL lags in log quantile."""
    ends = {}
    for beta in (0.0, 0.5, 1.0):
        policy = toy.ToyPolicy(2, 6, 3, seed=1)
        problem = toy.Problem(policy.log_probs().detach(), toy.draw_rewards(policy, 0.5, 2), 8)
        loss = partial(toy.jeffreys, problem=problem, beta=beta)
        found = dict(training.descend(policy, loss, steps=300, lr=0.05))
        assert [*found] == [*range(301)] and found[300].equal(policy.log_probs())
        assert training.measure(found[0], problem).kl_to_reference == 0
        ends[beta] = training.measure(found[300], problem)
    assert ends[1.0].backward_kl < ends[0.5].backward_kl < ends[0.0].backward_kl
    assert ends[0.0].forward_kl < ends[0.5].forward_kl < ends[1.0].forward_kl
    mixed = {beta: end.backward_kl + end.forward_kl for beta, end in ends.items()}
    assert mixed[0.5] < min(mixed[0.0], mixed[1.0])
    assert ends[0.0].mean_log_quantile < ends[0.5].mean_log_quantile


def test_descend_by_samples_approaches_the_exact_optimum():
    """The rule with 8 + 8 draws a step ends within 10 % of exact descent's Jeffreys divergence."""
    generator = torch.Generator().manual_seed(2)
    rewards = torch.randn(4, 156, dtype=torch.float64, generator=generator)
    values = []
    for sampled in (False, True):
        policy = toy.ToyPolicy(4, 6, 3, seed=1)
        problem = toy.Problem(policy.log_probs().detach(), rewards, 4)
        loss = partial(toy.jeffreys, problem=problem, beta=0.5)
        if sampled:
            rule = partial(rules.jeffreys, n=4, beta=0.5)
            generator = torch.Generator().manual_seed(8)
            draws = {"n": 4, "k": 8, "m": 0, "generator": generator}
            loss = partial(training.sampled_surrogate, rule, problem=problem, **draws)
        *_, (_, log_policy) = training.descend(policy, loss, steps=400, lr=0.03)
        end = training.measure(log_policy, problem)
        values.append((end.backward_kl + end.forward_kl) / 2)
    assert values[0] < values[1] < 1.1 * values[0]
