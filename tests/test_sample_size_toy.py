"""The toy's answer to how many reference samples are enough, against gradients by autograd."""

from __future__ import annotations

import json

import pytest
import torch
from pydantic import ValidationError

from bondlab import toy
from bondlab.study import exact_toy, sample_size_toy
from bondlab.study.sample_size_toy import Settings
from bondlab.toy.sample_size import add_one, estimate_moments, floored


def case(n: int) -> tuple[toy.ToyPolicy, toy.Problem]:
    """A policy that has left its anchor; 2 prompts, 7 sequences."""
    anchor, policy = toy.ToyPolicy(2, 3, 2, seed=1), toy.ToyPolicy(2, 3, 2, seed=2)
    rewards = toy.draw_rewards(anchor, 0.5, 3).round()
    return policy, toy.Problem(anchor.log_probs().detach(), rewards, n)


def moments(problem: toy.Problem, k: int, smoothing=floored):
    mean, covariance = estimate_moments(problem.log_quantiles.exp(), k, smoothing)
    return mean.flatten(), torch.block_diag(*covariance)


def squared(policy: toy.ToyPolicy, objective: torch.Tensor) -> float:
    return torch.autograd.grad(objective, policy.logits)[0].square().sum().item()


def test_scores_are_the_gradients_of_each_log_probability():
    policy, _ = case(2)
    found = sample_size_toy.scores(policy)
    for b in range(2):
        for y in range(7):
            one = torch.autograd.grad(policy.log_probs()[b, y], policy.logits)[0]
            torch.testing.assert_close(found[b, y], one.flatten(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("smoothing", [floored, add_one])
@pytest.mark.parametrize("n", [2, 8])
def test_update_and_bias_are_gradients_of_objectives(n, smoothing):
    """The exact update is the gradient of the continuous backward KL, the one that the rule
    descends; with E[log p_hat] for log p_<= it turns by the gradient of the mean return's error."""
    policy, problem = case(n)
    mean, covariance = moments(problem, 4, smoothing)
    found = sample_size_toy.of_policy(policy, problem, (mean, covariance), n)
    exact = squared(policy, toy_objectives.backward_kl_continuous(policy.log_probs(), problem))
    error = (n - 1) * (mean.view(2, 7) - problem.log_quantiles)
    bias = squared(policy, (policy.log_probs().exp() * error).sum(dim=1).mean())
    assert found.update == pytest.approx(exact, rel=1e-10)
    assert found.bias == pytest.approx(bias, rel=1e-10)
    assert found.bias > 0 and found.estimating > 0


def test_exact_quantiles_have_no_error():
    """With log p_<= itself and no scatter, a long way from the reference, both shares are 0."""
    policy, problem = case(8)
    exact = problem.log_quantiles.flatten(), torch.zeros(14, 14, dtype=torch.float64)
    found = sample_size_toy.of_policy(policy, problem, exact, 8)
    assert found.relative_bias < 1e-12 and found.relative_variance == 0


def test_many_samples_leave_errors_that_fall_with_their_number():
    """Twice the samples halve the variance, to a tenth, once k is large against 1/p; the bias is
    then of order 1/k, too."""
    policy, problem = case(4)
    few, many = (
        sample_size_toy.of_policy(policy, problem, moments(problem, k), 4) for k in (512, 1024)
    )
    assert few.relative_variance / many.relative_variance == pytest.approx(2, rel=0.1)
    assert few.relative_bias / many.relative_bias == pytest.approx(2, rel=0.1)


@pytest.fixture(scope="module")
def found():
    return sample_size_toy.errors(Settings(profile="smoke"))


def test_at_the_reference_n_makes_no_difference(found):
    """The log ratio is 0, so that n - 1 scales the update, its bias and both deviations alike;
    part-way trained it is not 0, and n matters."""
    keys = ["policy", "smoothing", "k", "problem"]
    for column in ("bias", "variance"):
        wide = found.set_index([*keys, "n"])[column].unstack("n")
        start, later = (wide.xs(place, level="policy") for place in sample_size_toy.STEPS_PART_WAY)
        assert start[2].tolist() == pytest.approx(start[8].tolist(), rel=1e-9)
        assert (abs(later[2] / later[8] - 1) > 0.01).all()


def test_errors_are_of_the_toy_problem(found):
    """One of the rows again, from the problem of its seed: at the reference, k = 4, add-one."""
    policy, problem = exact_toy.toy_problem(8, 1)
    again = sample_size_toy.of_policy(policy, problem, moments(problem, 4, add_one), 8)
    where = {"n": 8, "policy": "at the reference", "smoothing": "add-one", "k": 4, "problem": 1}
    row = found[(found[list(where)] == list(where.values())).all(axis=1)]
    assert row["bias"].item() == pytest.approx(again.relative_bias, rel=1e-9)
    assert row["variance"].item() == pytest.approx(again.relative_variance, rel=1e-9)
    assert len(found) == 2 * 2 * 2 * 2 * 2


def test_curves_are_means_over_problems(found):
    table = sample_size_toy.curve_table(found)
    assert len(table) == len(found)  # two problems make one row, two panels make two
    where = {"row": "n = 8", "series": "add-one, part-way trained", "panel": "bias", "step": 2}
    own = found[(found["n"] == 8) & (found["smoothing"] == "add-one") & (found["k"] == 2)]
    own = own[own["policy"] == "part-way trained"]["bias"]
    row = table[(table[list(where)] == list(where.values())).all(axis=1)]
    assert row["mean"].item() == pytest.approx(own.mean()) and row["count"].item() == 2


def test_figure_is_written_but_not_when_shipped(found, tmp_path, monkeypatch):
    """The headline is k = 16, here absent; at k = 4 it would be 8 curves with 2 panels each."""
    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path))
    sample_size_toy.publish(found, Settings(profile="shipped"), "xsum_quantiles")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(sample_size_toy, "HEADLINE", 4)
    sample_size_toy.publish(found, Settings(profile="smoke"), "xsum_quantiles")
    record = json.loads(
        (tmp_path / "smoke" / "xsum_quantiles" / "sample_size_toy.json").read_text()
    )
    assert len(record["headline"]) == 16 and record["settings"]["sizes"] == [2, 4]


def test_settings_refuse_what_cannot_run():
    with pytest.raises(ValidationError, match="2 or more"):
        Settings(profile="smoke", problems=1)
    assert Settings(profile="laptop").sizes == [2, 4, 8, 16, 32, 64]
