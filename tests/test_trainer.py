"""One training step: what is sampled, scored, weighed and descended, and the anchor that follows.

float32 on the processor with one thread, where equal means equal to the last bit.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from lab import BOND, BOTH, configured, log_probs, spied, task_of, taste, trainer_of

from bondlab import evaluation, measures, quantiles, rules
from bondlab.algorithms import Algorithm, bonbon, bond, j_bond, online_dpo, raft, reinforce, warp
from bondlab.anchors import MovingAverage, Periodic
from bondlab.lm import sampler
from bondlab.lm.completions import Completions
from bondlab.lm.language_model import LanguageModel
from bondlab.report.intervals import mean_interval
from bondlab.rules import Scores

pytestmark = pytest.mark.usefixtures("runs")

ITERATIVE = bond(n=2, beta=0.5, quantile_draws=5, anchor=Periodic(2))


# -- the start ------------------------------------------------------------------------------------


@BOTH
def test_j_bond_starts_with_a_third_penalised(weights):
    """At pi = pi_anchor the three rewards of a prompt are exchangeable, so the policy's is below
    both others with chance 1/3, and the mean r_J is -log 16 / 3 = -0.924: 600 prompts in one step,
    5 standard errors. The log ratio is 0 up to the rounding between sampler and scoring pass."""
    config = configured(prompts_per_step=600, micro_batch=600, **weights)
    row = trainer_of(j_bond(), config, task_of("gemma", train=600)).update()
    error = math.sqrt(2 / 9 / 600)
    assert row["penalised"] == pytest.approx(1 / 3, abs=5 * error)
    mean = row["penalised"] * rules.J_BOND_PENALTY
    assert mean == pytest.approx(-0.924, abs=5 * error * math.log(16))
    assert row["kl_to_anchor"] == pytest.approx(0, abs=1e-4)


def test_the_frozen_weights_are_in_memory_once():
    """Policy, anchor and reference share every weight that no adapter changes; the adapters of
    policy and anchor are two."""
    trainer = trainer_of(j_bond())
    places = [
        {p.data_ptr() for name, p in model.model.named_parameters() if "lora" not in name}
        for model in (trainer.reference, trainer.policy, trainer.anchor)
    ]
    assert places[0] == places[1] == places[2]
    own = [{p.data_ptr() for p in part} for part in (trainer.parameters, trainer.anchor_parameters)]
    assert len(own[0]) == len(own[1]) > 0 and not own[0] & own[1]


# -- evaluations ----------------------------------------------------------------------------------


def test_divergences_at_step_0_have_their_closed_forms():
    """At pi = pi_ref the forward KL is log N - (N-1)/N exactly. The mean log quantile of M = 16
    floored draws is (log(1/2M) + sum_s log(s/M))/(M+1) = -1.009, so the backward KL is
    (N-1) 1.009 - log N: within 4 standard errors over 24 prompts of 8 samples."""
    n, m = 4, 16
    config = configured(evaluation_samples=8, evaluation_bank=m)
    table = trainer_of(BOND, config, task_of(evaluate=24)).evaluate()

    def grids(source: str, *names: str) -> list[torch.Tensor]:
        rows = table[table["source"] == source].pivot(index="prompt", columns="sample")
        return [torch.tensor(rows[name].to_numpy()) for name in names]

    own = grids("policy", "kl", "quantile")
    assert own[0].tolist() == [[0.0] * 8] * 24
    backward = mean_interval(measures.backward_kl(*own, n))
    other = grids("reference", "log_prob", "reference_log_prob", "reward")
    forward = measures.forward_kl(*other, n)
    floored = (math.log(1 / (2 * m)) + sum(math.log(s / m) for s in range(1, m + 1))) / (m + 1)
    expected, error = -(n - 1) * floored - math.log(n), backward.standard_error
    assert backward.mean == pytest.approx(expected, abs=4 * error) and error < 0.5
    assert forward.tolist() == pytest.approx([math.log(n) - (n - 1) / n] * 24, abs=1e-4)


def test_an_evaluation_holds_every_completion_under_policy_and_reference(monkeypatch):
    """After two updates: 4 prompts x 2 policy samples and x 4 bank samples. Quantiles are multiples
    of 1/4 or the floor 1/8, texts score their rewards, and only the policy's rows have quantile and
    text. `log_prob` is the policy's and `reference_log_prob` the reference's, on both alike, also
    where the anchor is the policy's copy."""
    trainer = trainer_of(ITERATIVE)
    trainer.update(), trainer.update()
    bank, drawn, sample = trainer.held_out, [], LanguageModel.sample
    monkeypatch.setattr(
        LanguageModel, "sample", lambda self, *a: (drawn.append(sample(self, *a)), drawn[-1])[1]
    )
    table = trainer.evaluate()
    assert list(table.columns) == ["step", *evaluation.COLUMNS]
    assert (table["step"] == 2).all()
    assert not table.duplicated(["source", "prompt", "sample"]).any()
    own, other = (table[table["source"] == s] for s in ("policy", "reference"))
    assert own["quantile"].isin([1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0]).all()
    assert own["reward"].tolist() == taste([], [[t] for t in own["text"]]).flatten().tolist()
    assert other["text"].isna().all() and other["quantile"].isna().all()
    assert other["reward"].tolist() == bank.rewards.flatten().tolist()
    prompts = trainer.policy.encode(trainer.task.eval_prompts)
    for rows, given, shape in ((own, drawn[0], (4, 2)), (other, bank.completions, (4, 4))):
        assert rows["tokens"].tolist() == given.lengths.flatten().tolist()
        with torch.no_grad():
            scores = [m(prompts, given).sum(-1) for m in (trainer.policy, trainer.reference)]
        for name, score in zip(("log_prob", "reference_log_prob"), scores, strict=True):
            assert score.shape == shape and np.allclose(rows[name], score.flatten(), atol=1e-3)
        assert (scores[0] - scores[1]).abs().max() > 0.1


# -- a step ---------------------------------------------------------------------------------------

STEPS = {
    "bond": (BOND, lambda s: rules.jeffreys(s, 3, 0.5)),
    "iterative": (ITERATIVE, lambda s: rules.jeffreys(s, 2, 0.5)),
    "j_bond": (j_bond(0.25, 0.5, MovingAverage(0.3)), lambda s: rules.j_bond(s, 0.25, 0.5)),
    "online_dpo": (online_dpo(0.5), lambda s: rules.online_dpo(s, 0.5)),
    "bonbon": (bonbon(4, 0.5), lambda s: rules.bonbon(s, 0.5)),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_its_rule_on_its_draws(name):
    """After three updates: the recorded loss is -(1/B) sum w log pi, with the weights that the rule
    gives to rewards, quantiles and log ratios computed here, against the anchor as it stands."""
    algorithm, rule = STEPS[name]
    trainer = trainer_of(algorithm, configured(learning_rate=2e-3), task_of("gemma"))
    for _ in range(3):
        trainer.update()
    batch = trainer.sample(trainer.places)
    log_pi, ratio = [torch.zeros(3, 0)] * 2, [torch.zeros(3, 0)] * 2
    for i, drawn in enumerate((batch.anchors, batch.policy)):
        if drawn is not None:
            with torch.no_grad():
                log_pi[i] = trainer.policy(batch.prompts, drawn).sum(-1)
                ratio[i] = log_pi[i] - trainer.anchor(batch.prompts, drawn).sum(-1)
    counted = None
    if algorithm.quantile_draws:
        counted = quantiles.empirical(batch.policy_rewards, batch.quantile_rewards)
    given = Scores(batch.anchor_rewards, batch.policy_rewards, counted, ratio[1], ratio[0])
    loss = -(rule(given) * torch.cat(log_pi, 1)).sum().item() / 3
    row = trainer.update()
    assert row["loss"] == pytest.approx(loss, rel=2e-3, abs=1e-4) and row["step"] == 4
    assert max(x.abs().max() for x in ratio if x.numel()) > 1e-3
    if batch.anchors is not None:
        texts = trainer.policy.decode(batch.anchors)
        assert torch.equal(batch.anchor_rewards, taste([], texts).double())
        assert row["best_reward"] == pytest.approx(batch.anchor_rewards.amax(1).mean().item())
    if batch.policy is not None:
        texts, lengths = trainer.policy.decode(batch.policy), batch.policy.lengths
        rewards = taste([], texts)
        assert row["reward"] == pytest.approx(rewards.mean().item())
        assert row["kl_to_anchor"] == pytest.approx(ratio[1].mean().item(), abs=1e-4)
        assert row["tokens"] == pytest.approx(lengths.float().mean().item())
        entropy = -batch.policy.log_prob.sum() / lengths.sum()
        assert row["entropy"] == pytest.approx(entropy.item())
        if batch.anchors is not None:
            worse = rewards < batch.anchor_rewards.amin(1, keepdim=True)
            assert row["penalised"] == pytest.approx(worse.float().mean().item())
    if counted is not None:
        assert row["log_quantile"] == pytest.approx(counted.log().mean().item())


def test_micro_batches_add_up_to_the_gradient():
    """The loss is a sum over prompts: any split gives the same gradient but for float32 rounding
    (1e-5 of the largest entry). The rule's baseline sees the whole batch."""
    trainer = trainer_of()
    trainer.update()  # so that log ratios and both adapter matrices have left 0
    batch = trainer.sample(range(8))
    weights = trainer.algorithm.weights(trainer.score(batch))
    gradients = []
    for size in (8, 1, 3):
        trainer.config = configured(micro_batch=size)
        trainer.backward(batch, weights)
        gradients.append([p.grad.clone() for p in trainer.parameters])
        trainer.optimizer.zero_grad()
    largest = max(g.abs().max().item() for g in gradients[0])
    for actual in gradients[1:]:
        torch.testing.assert_close(actual, gradients[0], atol=1e-5 * largest, rtol=0)
    assert largest > 0.1


@pytest.mark.parametrize("algorithm", [BOND, j_bond(), reinforce(0.1)])
def test_a_step_samples_for_as_many_prompts_at_once_as_it_may(algorithm, monkeypatch):
    """And draws what it draws for all at once: each prompt has the random numbers that it had."""
    whole = trainer_of(algorithm, configured(fresh=True)).sample(range(3))
    trainer = trainer_of(algorithm, configured(fresh=True, sampling_batch=2))
    count = lambda _, prompts, *rest: len(prompts.ids)  # noqa: E731
    counts = [spied(monkeypatch, sampler, name, count) for name in ("sample", "sample_beside")]
    found = trainer.sample(range(3))
    assert {*counts[0], *counts[1]} == {2, 1}
    for one, other in ((found.anchors, whole.anchors), (found.policy, whole.policy)):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one.tokens, other.tokens)
    assert torch.equal(found.quantile_rewards, whole.quantile_rewards)


def test_prompts_pass_by_in_shuffled_passes(monkeypatch):
    """8 steps of 3 are three passes over 8 prompts: each prompt once a pass, and the passes in
    different orders that depend on the seed."""
    orders, read = [], spied(monkeypatch, LanguageModel, "encode", lambda _, texts: texts)
    for seed in (0, 0, 1):
        trainer = trainer_of(reinforce(0.1), configured(seed=seed))
        read.clear()
        for trainer.step in range(8):
            trainer.sample(trainer.places)
        seen = [trainer.task.train_prompts.index(text) for texts in read for text in texts]
        orders.append(seen)
        assert all(sorted(seen[i : i + 8]) == list(range(8)) for i in (0, 8, 16))
        assert seen[:8] != seen[8:16]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("fresh", [False, True, "shared"])
def test_every_step_draws_anew(fresh):
    """The same prompts at steps 0 and 1, nothing learnt between: other completions of the policy,
    and other draws of the reference (another subset of the bank, or fresh ones)."""
    trainer, seen = trainer_of(config=configured(fresh=fresh)), []
    for trainer.step in (0, 1, 0):
        batch = trainer.sample(range(3))
        seen.append([batch.anchors.tokens, batch.quantile_rewards, batch.policy.tokens])
    assert not any(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[2], strict=True))


def test_learning_rate_warms_up():
    """Warm-up over 2 steps: half, then whole."""
    trainer, rates = trainer_of(), []
    for _ in range(3):
        trainer.update()
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert rates == [0.005, 0.01, 0.01]


def test_reinforce_is_given_rewards_in_units_of_their_spread():
    """Ten times the reward has ten times the unit, so that rule, loss and update are the same."""
    rows = []
    for factor in (1, 10):
        task = task_of(reward=lambda p, c, f=factor: f * taste(p, c))
        task = dataclasses.replace(task, identity={"factor": factor})
        rows.append(trainer_of(reinforce(0.1), task=task).update())
    for name, factor in [("reward_scale", 10), ("reward", 10), ("loss", 1), ("gradient_norm", 1)]:
        assert rows[1][name] == pytest.approx(factor * rows[0][name], rel=1e-3)


# -- who is sampled, and what is recorded ---------------------------------------------------------

COMMON = {"step", "loss", "gradient_norm", "clipped", "seconds"}
POLICY = {"reward", "kl_to_anchor", "tokens", "entropy"}
BEST, BACKWARD, MOVING = {"best_reward"}, POLICY | {"log_quantile"}, {"anchor_share"}


def mean(scores: Scores) -> torch.Tensor:
    """A rule of one's own, which weighs all four of the anchor's completions."""
    return torch.full_like(scores.anchor_rewards, 0.25).float()


# Algorithm: columns of its record, completions a prompt drawn of anchor and policy, trained on.
PLANS = {
    "j_bond": (j_bond(), POLICY | BEST | MOVING | {"penalised"}, 2, 1, 2),
    "reinforce": (reinforce(0.1), POLICY | {"reward_scale"}, 0, 2, 2),
    "warp": (warp(0.1, 0.05), POLICY | MOVING | {"reward_scale"}, 0, 2, 2),
    "online_dpo": (online_dpo(0.1), POLICY, 0, 2, 2),
    "raft": (raft(4, Periodic(1)), BEST | MOVING, 4, 0, 1),
    "bonbon": (bonbon(4), BEST, 4, 0, 2),
    "one's own": (Algorithm(mean, anchor_draws=4), BEST, 4, 0, 4),
    "j_bond, backward": (j_bond(beta=1.0), POLICY | BEST | MOVING | {"penalised"}, 2, 1, 1),
    "bond, forward": (bond(3, 0.0, quantile_draws=5), BEST, 3, 0, 1),
    "bond": (BOND, BACKWARD | BEST | {"penalised"}, 8, 2, 3),
    "bond, backward": (bond(3, 1.0, quantile_draws=5), BACKWARD, 5, 2, 2),
}


@pytest.mark.parametrize("name", PLANS)
def test_each_samples_trains_on_and_records_what_its_plan_says(name, monkeypatch):
    """Completions a prompt and step, drawn anew: the cost of each algorithm. No quantile draws: no
    log quantile. No policy draws: nothing of the policy. No anchor draws: no best of them."""
    algorithm, columns, anchors, policy, trained = PLANS[name]
    trainer = trainer_of(algorithm, configured(fresh=True))
    assert trainer.bank is None and trainer.reward_scale > 0  # measured before the count starts
    asked = lambda model, other, _, ks, *__: [(model, ks[0]), (other, ks[1])]  # noqa: E731
    sampled = spied(monkeypatch, LanguageModel, "sample_beside", asked)
    width = lambda _, prompts, drawn: drawn.tokens.shape[1] * torch.is_grad_enabled()  # noqa: E731
    widths = spied(monkeypatch, LanguageModel, "forward", width)
    assert set(trainer.update()) == COMMON | columns
    assert sampled == [[(trainer.policy, policy), (trainer.anchor, anchors)]]
    assert [width for width in widths if width] == [trained]


# -- the anchor -----------------------------------------------------------------------------------


@BOTH
def test_a_moving_average_follows_by_its_rate(weights):
    """anchor_s = (1 - rate) anchor_{s-1} + rate policy_s (eq. 18), over three steps, on whatever is
    trained; the law that J-BOND samples and compares with is that average's."""
    trainer = trainer_of(j_bond(anchor=MovingAverage(0.25)), configured(**weights))
    expected = [p.detach().clone() for p in trainer.anchor_parameters]
    for _ in range(3):
        trainer.update()
        pairs = zip(expected, trainer.parameters, strict=True)
        expected = [0.75 * a + 0.25 * p.detach() for a, p in pairs]
        torch.testing.assert_close([p.data for p in trainer.anchor_parameters], expected)
    laws = [log_probs(m, trainer) for m in (trainer.reference, trainer.anchor, trainer.policy)]
    assert all((laws[i] - laws[j]).abs().max() > 1e-3 for i, j in [(0, 1), (1, 2)])


class Coarse(MovingAverage):
    """One whose weights are bfloat16: of a small relative change it takes next to nothing."""

    def update(self, anchor, policy, step) -> None:
        for a, p in zip(anchor, policy, strict=True):
            a.copy_(a.bfloat16().lerp_(p.bfloat16(), self.rate))


@pytest.mark.parametrize(("anchor", "stuck"), [(MovingAverage, False), (Coarse, True)])
def test_an_anchor_that_does_not_follow_is_told(anchor, stuck, recwarn):
    """All weights, in small steps: the average of a policy that drifts is near what a steady one
    leaves it, 0.06 after 5 steps at the rate 0.02; in bfloat16 it stays where it was."""
    settings = configured(lora_rank=None, learning_rate=1e-4, warmup=0, steps=5)
    trainer = trainer_of(j_bond(anchor=anchor(0.02)), settings, task_of("gemma"))
    shares = [trainer.update()["anchor_share"] for _ in range(5)]
    expected = trainer.algorithm.anchor.share(5)
    assert expected == pytest.approx(0.06, abs=0.005)
    told = [w for w in recwarn if "hardly follows the policy" in str(w.message)]
    assert bool(told) == stuck == (shares[-1] < expected / 2)


@BOTH
def test_a_copied_anchor_is_the_policy_of_the_last_multiple_of_m(weights):
    """M = 2: pi_ref after 0 and 1 updates, the policy of step 2 after 2 and 3, of step 4 after 4
    (Algorithm 1 with the index as the notes settle it); the reference never changes."""
    trainer = trainer_of(ITERATIVE, configured(**weights))
    reference = log_probs(trainer.reference, trainer)
    policies = [reference]
    for step in (1, 2, 3, 4):
        trainer.update()
        policies.append(log_probs(trainer.policy, trainer))
        assert torch.equal(log_probs(trainer.anchor, trainer), policies[2 * (step // 2)])
        assert torch.equal(log_probs(trainer.reference, trainer), reference)
    assert all((policies[s] - policies[s - 1]).abs().max() > 1e-3 for s in (1, 2, 3, 4))


def test_an_evaluation_of_several_parts_counts_in_each_prompts_own_samples(monkeypatch):
    """Ten prompts are two parts: each has draws of its own, and each quantile is counted among the
    reference's samples of its prompt."""
    trainer = trainer_of(task=task_of(evaluate=10))
    rewards = trainer.held_out.rewards
    seen = spied(monkeypatch, LanguageModel, "sample", lambda m, p, k, g, *_: g.initial_seed())
    table = trainer.evaluate()
    assert len(seen) == len({*seen}) == 2
    own = table[table["source"] == "policy"].pivot(index="prompt", columns="sample")
    expected = quantiles.empirical(torch.tensor(own["reward"].to_numpy(float)), rewards)
    assert own["quantile"].to_numpy().tolist() == expected.tolist()


def test_a_tie_with_an_anchor_draw_is_not_penalised():
    one = torch.ones(1, 1, 1)
    drawn = Completions(one.long(), one.bool(), -one)
    tied = Scores(torch.tensor([[1.0, 2.0]]), one[0], None, 0 * one[0])
    assert evaluation.step_measures(tied, drawn)["penalised"] == 0


@pytest.mark.parametrize("algorithm", [j_bond(), bond(3, 0.5, quantile_draws=5)])
def test_policy_and_anchor_draw_with_numbers_of_their_own(algorithm, monkeypatch):
    def seeds(model, other, prompts, ks, generators, *rest) -> list[int]:
        return [generator.initial_seed() for generator in generators]

    trainer = trainer_of(algorithm, configured(fresh=True))
    seen = spied(monkeypatch, LanguageModel, "sample_beside", seeds)
    trainer.sample(range(3))
    assert len({*seen[0]}) == 2


def test_another_seed_and_another_step_draw_other_texts():
    """In an evaluation and in a step, of a policy that is the same."""
    drawn = []
    for seed, step in ((0, 0), (0, 1), (1, 0)):
        trainer = trainer_of(config=configured(seed=seed))
        trainer.step = step
        texts = trainer.evaluate()["text"].dropna().tolist()
        drawn.append((texts, trainer.sample(range(3)).policy.tokens.tolist()))
    for texts, tokens in drawn[1:]:
        assert texts != drawn[0][0] and tokens != drawn[0][1]
