"""Iterative BOND in the loop: when the anchor moves, and what refers to it (Algorithm 1)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from trainers import log_probs

from bondlab import quantiles, rules, tasks, training
from bondlab.algorithms import Algorithm, bond
from bondlab.anchors import Frozen, MovingAverage, Periodic
from bondlab.config import Config
from bondlab.lm.language_model import LanguageModel
from bondlab.tasks import TaskSettings, tiny
from bondlab.trainer import Trainer

pytestmark = pytest.mark.usefixtures("runs")

CONFIG = Config(
    steps=4, prompts_per_step=3, learning_rate=1e-2, warmup=1, lora_rank=2, evaluate_every=2,
    evaluation_samples=2, evaluation_bank=4, precision="fp32",
)  # fmt: skip


def iterative(anchor=Periodic(2)) -> Algorithm:  # noqa: B008
    return bond(n=2, beta=0.5, quantile_draws=5, anchor=anchor)


def trainer_of(algorithm: Algorithm, config: Config = CONFIG) -> Trainer:
    task = tasks.build(TaskSettings(name="tiny", train=8, evaluate=4), "fp32")
    model = tiny.language_model("t5", temperature=2.0).requires_grad_(False)
    task = dataclasses.replace(task, model=model, identity={"name": "tiny, temperature 2"})
    return training.trainer(task, algorithm, config, training.paths.runs_folder())


@pytest.mark.parametrize("rank", [2, None], ids=["adapter", "all weights"])
def test_the_anchor_is_the_policy_of_the_last_multiple_of_m(rank):
    """M = 2: pi_ref after 0 and 1 updates, the policy of step 2 after 2 and 3, of step 4 after 4
    (Algorithm 1 with the index as the notes settle it); the reference never changes."""
    config = CONFIG.model_copy(update={"lora_rank": rank, "learning_rate": 2e-3})
    trainer = trainer_of(iterative(), config)
    reference = log_probs(trainer.reference, trainer)
    policies = {0: reference}
    for step in (1, 2, 3, 4):
        trainer.update()
        policies[step] = log_probs(trainer.policy, trainer)
        of = 2 * (step // 2)
        torch.testing.assert_close(log_probs(trainer.anchor, trainer), policies[of])
        torch.testing.assert_close(log_probs(trainer.reference, trainer), reference)
    assert all((policies[s] - policies[s - 1]).abs().max() > 1e-3 for s in (1, 2, 3, 4))


def test_log_ratio_refers_to_the_anchor_and_evaluation_to_the_reference():
    """Right after a copy policy and anchor agree, so the KL to the anchor that step 3 records is 0
    (here below 1e-4), though the policy has left the reference; with a fixed anchor it is not.
    The evaluation's reference_log_prob stays the reference's."""
    moving, still = trainer_of(iterative()), trainer_of(iterative(Frozen()), CONFIG)
    for trainer in (moving, still):
        trainer.update()
        trainer.update()
    assert abs(moving.update()["kl_to_anchor"]) < 1e-4 < 1e-2 < abs(still.update()["kl_to_anchor"])
    table = moving.evaluate()
    bank = table[table["source"] == "reference"]
    expected = log_probs(moving.reference, moving).flatten()
    torch.testing.assert_close(
        torch.tensor(bank["reference_log_prob"].to_numpy()).float(), expected, atol=1e-4, rtol=0
    )
    assert (log_probs(moving.anchor, moving).flatten() - expected).abs().max() > 1e-2


def test_best_of_n_and_quantile_draws_come_from_the_anchor(monkeypatch):
    """A step samples 2 + 5 completions of the anchor and 2 of the policy, none of the reference;
    the weights are those of the rule on quantiles counted among the anchor's five."""
    trainer, seen = trainer_of(iterative()), []
    trainer.update()
    trainer.update()
    original = LanguageModel.sample

    def sample(self, prompts, k, generator):
        seen.append((self, k))
        return original(self, prompts, k, generator)

    monkeypatch.setattr(LanguageModel, "sample", sample)
    index = trainer._prompts()
    texts = [trainer.task.train_prompts[i] for i in index]
    (_, best), (_, others) = trainer._anchor_draws(index, texts, trainer.policy.encode(texts))
    drawn, rewards, log_ratio = trainer._policy_draws(texts, trainer.policy.encode(texts))
    assert [(model is trainer.anchor, k) for model, k in seen] == [(True, 7), (False, 2)]
    assert seen[1][0] is trainer.policy
    row = trainer.update()
    scores = rules.Scores(best, rewards, quantiles.empirical(rewards, others), log_ratio)
    assert row["log_quantile"] == pytest.approx(scores.quantiles.log().mean().item())
    assert row["best_reward"] == pytest.approx(best.amax(1).mean().item())
    assert drawn.tokens.shape[:2] == (3, 2)


def test_no_training_bank_is_drawn_for_an_anchor_that_moves():
    """Samples of the reference would be of no use to it: the held-out bank alone is there."""
    trainer = trainer_of(iterative())
    assert trainer.bank is None and trainer.held_out.rewards.shape == (4, 4)
    folder = training.paths.runs_folder() / "banks"
    assert len(list(folder.iterdir())) == 1


def test_a_moving_average_trails_the_policy():
    """Rate 0.5 after one update: the adapter is half-way, so its second factor (from 0) is half
    the policy's; the sampler uses it at once."""
    trainer = trainer_of(iterative(MovingAverage(0.5)))
    start = [p.clone() for p in trainer.anchor_parameters]
    trainer.update()
    for anchor, before, policy in zip(
        trainer.anchor_parameters, start, trainer.parameters, strict=True
    ):
        torch.testing.assert_close(anchor, (before + policy.detach()) / 2)
    assert not torch.equal(log_probs(trainer.anchor, trainer), log_probs(trainer.policy, trainer))


def test_runs_with_other_anchors_have_other_names():
    """The anchor is part of what determines a run."""
    names = {
        trainer_of(iterative(a)).run.path.name
        for a in (Frozen(), Periodic(2), Periodic(3), MovingAverage(0.1))
    }
    assert len(names) == 4
