"""What tests of the loop share: one small task, one reward, one configuration, one kill."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable

import pandas as pd
import pytest
import torch

from bondlab import paths, training
from bondlab.algorithms import Algorithm, bond
from bondlab.config import Config
from bondlab.lm.language_model import LanguageModel
from bondlab.tasks import Task, tiny
from bondlab.trainer import Trainer

BOND = bond(n=3, beta=0.5, quantile_draws=5)
SIZES = {"steps": 4, "prompts_per_step": 3, "warmup": 2, "lora_rank": 2, "bank_samples": 8}
MEASURED = {"evaluate_every": 2, "evaluation_samples": 2, "evaluation_bank": 4}
CONFIG = Config(**SIZES, **MEASURED, learning_rate=1e-2, precision="fp32", checkpoint_seconds=0)
ALL = {"lora_rank": None, "learning_rate": 2e-3}  # weights, where the default is an adapter
BOTH = pytest.mark.parametrize("weights", [{}, ALL], ids=["adapter", "all weights"])


def configured(**changed) -> Config:
    return CONFIG.model_copy(update=changed)


def score_of(word: str) -> float:
    """A fixed number in [0, 1) for every word."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") / 2**32


def taste(prompts, completions) -> torch.Tensor:
    """The mean of fixed scores of the words: learnable, and two texts hardly ever tie."""

    def mean(text: str) -> float:
        return sum(map(score_of, text.split())) / max(1, len(text.split()))

    return torch.tensor([[mean(text) for text in texts] for texts in completions])


def task_of(
    family: str = "t5", train: int = 8, evaluate: int = 4, reward: Callable = taste
) -> Task:
    """Made-up documents and a tiny model at temperature 2, where texts hardly repeat."""
    texts = tiny.documents(train + evaluate, seed=3)
    model = tiny.language_model(family, temperature=2.0).requires_grad_(False)
    identity = {"policy": f"{family} at temperature 2", "reward": "taste"}
    return Task(model, reward, texts[:train], texts[train:], identity=identity)


def trainer_of(
    algorithm: Algorithm = BOND, config: Config = CONFIG, task: Task | None = None
) -> Trainer:
    return training.trainer(task or task_of(), algorithm, config, paths.runs_folder() / "x")


def log_probs(model: LanguageModel, trainer: Trainer) -> torch.Tensor:
    """What a model gives the held-out bank's completions, [B, M] in nats."""
    prompts = trainer.policy.encode(trainer.task.eval_prompts)
    with torch.no_grad():
        return model(prompts, trainer.held_out.completions).sum(-1)


def assert_same_results(actual: training.Run, expected: training.Run) -> None:
    """Record, evaluations and trained weights are equal to the last bit."""
    records = [run.table.drop(columns="seconds") for run in (actual, expected)]
    pd.testing.assert_frame_equal(*records, check_exact=True)
    pd.testing.assert_frame_equal(actual.evaluation, expected.evaluation, check_exact=True)
    weights = actual.policy.trainable(), expected.policy.trainable()
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


class Killed(BaseException):
    """Stands for a kill: nothing in the package catches it."""


def kill(patch, owner: type, name: str, calls: int, before: bool) -> None:
    """Make the method raise at its n-th call, before or after doing its work."""
    original, count = getattr(owner, name), itertools.count(1)

    def method(*positional, **named):
        last = next(count) == calls
        result = None if last and before else original(*positional, **named)
        if last:
            raise Killed
        return result

    patch.setattr(owner, name, method)


def spied(monkeypatch, owner: type, name: str, seen: Callable) -> list:
    """Fills with `seen(self, *arguments)` at each call of the method, which does its work."""
    original, calls = getattr(owner, name), []

    def method(self, *arguments, **named):
        calls.append(seen(self, *arguments, **named))
        return original(self, *arguments, **named)

    monkeypatch.setattr(owner, name, method)
    return calls
