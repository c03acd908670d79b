"""The loop's gradient on a causal model whose every completion is listed: one token, 114 of them.

Exact objectives are those of the enumerable policy (`toy`), differentiated through the model's
weights; adapter and all weights alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import pytest
import torch
import toy_objectives

from bondlab import tasks, toy, training
from bondlab.algorithms import (
    Algorithm,
    bonbon,
    j_bond,
    max_at_k,
    online_dpo,
    qrpo,
    reinforce,
    wind,
)
from bondlab.anchors import FROZEN, MovingAverage
from bondlab.config import Config
from bondlab.lm.completions import Completions
from bondlab.tasks import TaskSettings, tiny
from bondlab.trainer import Trainer

pytestmark = pytest.mark.usefixtures("runs")

PROMPTS, BATCHES = 4, 24
ANCHOR = MovingAverage(0.1)
CASES = {
    "j_bond": (j_bond(0.8, 1.0, ANCHOR, 2), partial(toy.j_bond, beta=0.8, gamma=1.0)),
    "reinforce": (reinforce(0.3, anchor=ANCHOR), partial(toy.reinforce, beta_rl=0.3)),
    "online_dpo": (online_dpo(0.5), partial(toy_objectives.online_dpo, beta_dpo=0.5)),
    "bonbon": (bonbon(2, 0.3), partial(toy_objectives.bonbon, alpha=0.3)),
    "wind": (wind(0.3), partial(toy_objectives.wind, beta=0.3)),
    "qrpo": (qrpo(0.5, 2), partial(toy_objectives.qrpo, beta=0.5)),
    "max_at_k": (max_at_k(2, 0.3, 3), partial(toy_objectives.max_at_k, k=2, beta_rl=0.3)),
}


def first_letter(prompts, completions) -> torch.Tensor:
    """A number for every token, the same for every prompt; hardly any tie."""
    return torch.tensor([
        [sum(ord(letter) / 7**i for i, letter in enumerate(text)) / 50 for text in texts]
        for texts in completions
    ])  # fmt: skip


def trainer_of(algorithm: Algorithm, rank: int | None) -> Trainer:
    """A trainer whose policy and anchor have each been thrown off the reference, by far."""
    task = tasks.build(TaskSettings(name="tiny", train=PROMPTS, evaluate=2), "fp32")
    model = tiny.language_model("gemma", max_new_tokens=1).requires_grad_(False)
    changed = {"model": model, "reward": first_letter, "identity": {"name": "one"}}
    task = dataclasses.replace(task, train_prompts=tiny.documents(PROMPTS, words=4), **changed)
    config = Config(
        steps=9, prompts_per_step=160, lora_rank=rank, fresh=True, evaluation_bank=2,
        micro_batch=160, precision="fp32",
    )  # fmt: skip
    trainer = training.trainer(task, algorithm, config, training.paths.runs_folder())
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (*trainer.parameters, *trainer.anchor_parameters):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter += (0.5 if rank else 0.08) * noise
    return trainer


def exact_gradient(trainer: Trainer, objective: Callable) -> torch.Tensor:
    """Autograd's gradient of the exact objective, over all trained weights in a row."""
    texts, count = list(trainer.task.train_prompts), len(trainer.policy.tokenizer)
    tokens = torch.arange(count).expand(PROMPTS, -1).unsqueeze(-1)
    listed = Completions(tokens, torch.ones_like(tokens).bool(), torch.zeros(tokens.shape))
    prompts = trainer.policy.encode(texts)
    log_policy = trainer.policy(prompts, listed).sum(-1)
    with torch.no_grad():
        log_anchor = trainer.anchor(prompts, listed).sum(-1)
    torch.testing.assert_close(log_policy.exp().sum(1), torch.ones(PROMPTS))
    rewards = first_letter(texts, trainer.policy.decode(listed)) / trainer.reward_scale
    problem = toy.Problem(log_anchor.double(), rewards.double(), 2)
    return flat(torch.autograd.grad(objective(log_policy.double(), problem), trainer.parameters))


def flat(parts) -> torch.Tensor:
    return torch.cat([part.flatten() for part in parts])


def sampled_gradients(trainer: Trainer) -> torch.Tensor:
    """The gradients [BATCHES, weights] of as many steps, none of which changes anything."""
    trainer.config = trainer.config.model_copy(update={"learning_rate": 0.0, "clip": 1e9})
    trainer.algorithm = dataclasses.replace(trainer.algorithm, anchor=FROZEN)
    found = []
    trainer.optimizer.register_step_pre_hook(
        lambda *_: found.append(flat([p.grad.clone() for p in trainer.parameters]))
    )
    before = flat([p.detach().clone() for p in trainer.parameters])
    for _ in range(BATCHES):
        trainer.update()
    assert torch.equal(before, flat(trainer.parameters))
    return torch.stack(found)


# Whose path through the loop is another rule's.
ADAPTERS_ALONE = "wind", "qrpo", "max_at_k", "online_dpo", "bonbon"
RANKS = [(name, rank) for name in CASES for rank in (2, None) if rank or name not in ADAPTERS_ALONE]


@pytest.mark.parametrize(("name", "rank"), RANKS)
def test_the_mean_update_is_the_exact_gradient(name, rank):
    """24 steps of 160 prompts (4 prompts, 40 times each) with weights and anchor held: along the
    exact gradient and along 20 random directions, the mean of the sampled gradients lies within 5
    of its standard errors of the exact one. Along itself the error is below a third, so that
    the negative of a gradient would not pass; that each weight is right is tested on the toy."""
    algorithm, objective = CASES[name]
    trainer = trainer_of(algorithm, rank)
    exact = exact_gradient(trainer, objective)
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(21, len(exact), generator=generator)
    directions[0] = exact
    directions /= directions.norm(dim=1, keepdim=True)
    found, expected = sampled_gradients(trainer) @ directions.T, directions @ exact
    error = found.std(0) / BATCHES**0.5
    assert error[0] < exact.norm() / 3
    assert ((found.mean(0) - expected).abs() < 5 * error).all()
