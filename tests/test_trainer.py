"""One training step of J-BOND and its baselines on a tiny causal model, adapter or all weights."""

from __future__ import annotations

import dataclasses
import hashlib
import math

import pandas as pd
import pytest
import torch
from trainers import log_probs

from bondlab import rules, tasks, training
from bondlab.algorithms import Algorithm, bonbon, j_bond, online_dpo, raft, reinforce, warp
from bondlab.anchors import MovingAverage, Periodic
from bondlab.config import Config
from bondlab.lm.language_model import LanguageModel
from bondlab.tasks import Task, TaskSettings, tiny
from bondlab.trainer import Trainer

pytestmark = pytest.mark.usefixtures("runs")

CONFIG = Config(
    steps=4, prompts_per_step=3, learning_rate=1e-2, warmup=1, lora_rank=2, bank_samples=8,
    evaluate_every=2, evaluation_samples=2, evaluation_bank=4, precision="fp32",
)  # fmt: skip
ADAPTER, ALL = {}, {"lora_rank": None, "learning_rate": 2e-3}
BOTH = pytest.mark.parametrize("weights", [ADAPTER, ALL], ids=["adapter", "all weights"])


def taste(prompts, completions) -> torch.Tensor:
    """A fixed number in [0, 1) for every text: learnable by heart, and two texts never tie."""
    return torch.tensor([
        [int.from_bytes(hashlib.sha256(t.encode()).digest()[:4], "big") / 2**32 for t in texts]
        for texts in completions
    ])  # fmt: skip


def task_of(train: int = 8) -> Task:
    """The tiny task on a causal model, at a temperature where texts hardly repeat."""
    task = tasks.build(TaskSettings(name="tiny", train=train, evaluate=4), "fp32")
    model = tiny.language_model("gemma", temperature=2.0).requires_grad_(False)
    identity = {"name": "tiny causal, taste"}
    return dataclasses.replace(task, model=model, reward=taste, identity=identity)


def configured(**changed) -> Config:
    return CONFIG.model_copy(update=changed)


def trainer_of(algorithm: Algorithm, config: Config = CONFIG, train: int = 8) -> Trainer:
    task = task_of(train)
    return training.trainer(task, algorithm, config, training.paths.runs_folder())


# -- the start ------------------------------------------------------------------------------------


@BOTH
def test_j_bond_starts_with_a_third_penalised(weights):
    """At pi = pi_anchor the three rewards of a prompt are exchangeable, so the policy's is below
    both others with chance 1/3, and the mean r_J is -log 16 / 3 = -0.924: 600 prompts in one step,
    5 standard errors. The log ratio is 0 up to rounding; best_reward is 2/3 of a uniform reward."""
    trainer = trainer_of(j_bond(), configured(prompts_per_step=600, **weights), train=600)
    row = trainer.update()
    error = math.sqrt(2 / 9 / 600)
    assert row["penalised"] == pytest.approx(1 / 3, abs=5 * error)
    mean = row["penalised"] * rules.J_BOND_PENALTY
    assert mean == pytest.approx(-0.924, abs=5 * error * math.log(16))
    assert row["kl_to_anchor"] == pytest.approx(0, abs=1e-4)
    assert row["best_reward"] == pytest.approx(2 / 3, abs=5 * math.sqrt(1 / 18 / 600))


@BOTH
def test_the_first_update_is_the_same_but_for_what_is_trained(weights):
    """Rewards and weights of the first step depend on the reference alone, so that adapter and all
    weights record the same first loss, rewards and share of penalised completions."""
    rows = [trainer_of(j_bond(), configured(**w)).update() for w in (ADAPTER, weights)]
    for name in ("loss", "reward", "best_reward", "penalised", "entropy", "tokens"):
        assert rows[0][name] == pytest.approx(rows[1][name], rel=1e-4)


def test_the_frozen_weights_are_in_memory_once():
    """Policy, anchor and reference share every weight that no adapter changes; the adapters of
    policy and anchor are two."""
    trainer = trainer_of(j_bond())
    models = (trainer.reference, trainer.policy, trainer.anchor)
    places = [
        {p.data_ptr() for name, p in model.model.named_parameters() if "lora" not in name}
        for model in models
    ]
    assert places[0] == places[1] == places[2]
    own = [{p.data_ptr() for p in part} for part in (trainer.parameters, trainer.anchor_parameters)]
    assert len(own[0]) == len(own[1]) > 0 and not own[0] & own[1]


# -- the anchor -----------------------------------------------------------------------------------


@BOTH
def test_a_moving_average_follows_by_its_rate(weights):
    """anchor_s = (1 - rate) anchor_{s-1} + rate policy_s (eq. 18), over three steps, on whatever is
    trained; the law that J-BOND samples and compares with is that average's."""
    trainer = trainer_of(j_bond(anchor=MovingAverage(0.25)), configured(**weights))
    expected = [p.detach().clone() for p in trainer.anchor_parameters]
    for _ in range(3):
        trainer.update()
        expected = [
            0.75 * a + 0.25 * p.detach() for a, p in zip(expected, trainer.parameters, strict=True)
        ]
        torch.testing.assert_close([p.data for p in trainer.anchor_parameters], expected)
    laws = [log_probs(m, trainer) for m in (trainer.reference, trainer.anchor, trainer.policy)]
    assert all((laws[i] - laws[j]).abs().max() > 1e-3 for i, j in [(0, 1), (1, 2)])


@BOTH
def test_a_copied_anchor_is_the_policy(weights):
    """Every 2 steps (Figure 5's other anchor): equal laws after steps 2 and 4, unequal after 3."""
    trainer = trainer_of(j_bond(anchor=Periodic(2)), configured(**weights))
    for step in (1, 2, 3, 4):
        trainer.update()
        gap = (log_probs(trainer.anchor, trainer) - log_probs(trainer.policy, trainer)).abs().max()
        assert gap == 0 if step % 2 == 0 else gap > 1e-3


# -- what a step uses and records -----------------------------------------------------------------

COMMON = {"step", "loss", "gradient_norm", "clipped", "seconds"}
POLICY = {"reward", "kl_to_anchor", "tokens", "entropy"}


@pytest.mark.parametrize(
    ("algorithm", "columns"),
    [
        (j_bond(), POLICY | {"best_reward", "penalised"}),
        (reinforce(0.1), POLICY | {"reward_scale"}),
        (warp(0.1, 0.05), POLICY | {"reward_scale"}),
        (online_dpo(0.1), POLICY),
        (raft(4, Periodic(1)), {"best_reward"}),
        (bonbon(4), {"best_reward"}),
    ],
    ids=["j_bond", "reinforce", "warp", "online_dpo", "raft", "bonbon"],
)
def test_a_record_says_what_there_was_to_measure(algorithm, columns):
    """No quantile draws: no log quantile. No policy draws: nothing of the policy. No anchor draws:
    no best of them, and nothing to be worse than."""
    assert set(trainer_of(algorithm).update()) == COMMON | columns


@pytest.mark.parametrize(
    ("algorithm", "seen"),
    [
        (j_bond(), [("anchor", 2), ("policy", 1)]),
        (reinforce(0.1), [("policy", 2)]),
        (warp(0.1, 0.05), [("policy", 2)]),
        (online_dpo(0.1), [("policy", 2)]),
        (raft(4, Periodic(1)), [("anchor", 4)]),
        (bonbon(4), [("anchor", 4)]),
    ],
    ids=["j_bond", "reinforce", "warp", "online_dpo", "raft", "bonbon"],
)
def test_each_samples_what_its_plan_says_and_no_more(algorithm, seen, monkeypatch):
    """Completions a prompt and step, drawn anew: the cost of each algorithm."""
    trainer, calls = trainer_of(algorithm, configured(fresh=True)), []
    assert trainer.reward_scale > 0  # measured before the count starts
    original = LanguageModel.sample

    def sample(self, prompts, k, generator):
        calls.append(("policy" if self is trainer.policy else "anchor", k))
        assert self is trainer.policy or self is trainer.anchor
        return original(self, prompts, k, generator)

    monkeypatch.setattr(LanguageModel, "sample", sample)
    trainer.update()
    assert calls == seen


def draws_of(trainer: Trainer):
    """The next step's prompts, anchor draws with rewards, and policy draws."""
    index = trainer._prompts()
    texts = [trainer.task.train_prompts[i] for i in index]
    anchors, others = trainer._anchor_draws(index, texts, trainer.policy.encode(texts))[0]
    return texts, anchors, others, *trainer._policy_draws(texts, trainer.policy.encode(texts))


def test_the_step_of_j_bond_is_its_rule_on_its_draws():
    """After two updates: the recorded loss is -(1/B) sum w log pi with j_bond's weights over the
    better anchor draw and the policy's, all taken with the anchor as it stands."""
    trainer = trainer_of(j_bond(beta=0.25, gamma=0.5, anchor=MovingAverage(0.3)))
    trainer.update(), trainer.update()
    texts, anchors, others, drawn, rewards, log_ratio = draws_of(trainer)
    weights = rules.j_bond(rules.Scores(others, rewards, None, log_ratio), 0.25, 0.5)
    with torch.no_grad():
        prompts = trainer.policy.encode(texts)
        log_pi = torch.cat([trainer.policy(prompts, x).sum(-1) for x in (anchors, drawn)], 1)
        expected = log_pi[:, 2:] - trainer.anchor(prompts, drawn).sum(-1)
    torch.testing.assert_close(log_ratio, expected, atol=1e-4, rtol=0)
    row = trainer.update()
    assert row["loss"] == pytest.approx(-(weights * log_pi).sum().item() / 3, rel=1e-3)
    worse = rewards < others.amin(1, keepdim=True)
    assert row["penalised"] == pytest.approx(worse.float().mean().item())
    assert row["entropy"] == pytest.approx(
        -drawn.log_prob.sum().item() / drawn.lengths.sum().item()
    )


def test_bonbon_is_given_the_policy_s_view_of_the_anchor_s_draws():
    """log(pi/pi_ref) of all four draws, by two scoring passes; the loss recorded is that of its
    rule, in which two of the four have a weight."""
    trainer = trainer_of(bonbon(4, alpha=0.5), configured(learning_rate=2e-3))
    trainer.update(), trainer.update()
    texts, anchors, others, *_ = draws_of(trainer)
    prompts = trainer.policy.encode(texts)
    with torch.no_grad():
        log_pi = trainer.policy(prompts, anchors).sum(-1)
        ratio = log_pi - trainer.reference(prompts, anchors).sum(-1)
    assert ratio.abs().max() > 1e-2
    found = trainer._anchor_log_ratio(trainer.policy.encode(texts), anchors)
    torch.testing.assert_close(found, ratio, atol=1e-4, rtol=0)
    none = torch.zeros(3, 0)
    weights = rules.bonbon(rules.Scores(others, none, None, none, ratio), alpha=0.5)
    expected = -(weights * log_pi).sum().item() / 3
    assert trainer.update()["loss"] == pytest.approx(expected, rel=1e-3)


def test_reinforce_is_given_rewards_in_units_of_their_spread():
    """Ten times the reward has ten times the unit, so that rule, loss and update are the same."""
    rows = []
    for factor in (1, 10):
        trainer = trainer_of(reinforce(0.1))
        trainer.task = dataclasses.replace(
            trainer.task, reward=lambda p, c, f=factor: f * taste(p, c), identity={"factor": factor}
        )
        rows.append(trainer.update())
    for name, factor in [("reward_scale", 10), ("reward", 10), ("loss", 1), ("gradient_norm", 1)]:
        assert rows[1][name] == pytest.approx(factor * rows[0][name], rel=1e-3)


# -- stopping -------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: nothing in the package catches it."""


def results(run: training.Run) -> tuple[pd.DataFrame, pd.DataFrame, list[torch.Tensor]]:
    return run.table.drop(columns="seconds"), run.evaluation, run.policy.trainable()


@BOTH
@pytest.mark.parametrize(
    "algorithm",
    [j_bond(), j_bond(anchor=Periodic(2)), warp(0.1, 0.05), online_dpo(0.1), bonbon(4)],
    ids=["j_bond", "copied", "warp", "online_dpo", "bonbon"],
)
def test_resuming_equals_not_stopping(algorithm, weights, monkeypatch):
    """Killed after update 3 and before its checkpoint: record, evaluations and weights end equal to
    the last bit to those of a run that was never stopped."""
    config, folder = configured(**weights), training.paths.runs_folder()
    whole = training.train(task_of(), algorithm, config, folder / "whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        update = Trainer.update

        def killed(self):
            row = update(self)
            if self.step == 3:
                raise Killed
            return row

        patch.setattr(Trainer, "update", killed)
        training.train(task_of(), algorithm, config, folder / "parts")
    again = training.train(task_of(), algorithm, config, folder / "parts")
    (record, evaluation, policy), others = results(again), results(whole)
    pd.testing.assert_frame_equal(record, others[0], check_exact=True)
    pd.testing.assert_frame_equal(evaluation, others[1], check_exact=True)
    assert all(torch.equal(a, b) for a, b in zip(policy, others[2], strict=True))
