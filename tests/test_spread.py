"""The unit of rewards: the reference's spread within a prompt, from samples that are stored."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bondlab import device, spread, tasks
from bondlab.bank import BankFolder
from bondlab.tasks import Task, TaskSettings

pytestmark = pytest.mark.usefixtures("runs")


def task_of(reward, name: str) -> Task:
    task = tasks.build(TaskSettings(name="tiny", train=40, evaluate=4), "fp32")
    return dataclasses.replace(task, reward=reward, identity={"name": name})


def measured(task: Task) -> float:
    return spread.measure(task, "fp32", device.accelerator("fp32"))


def test_the_spread_is_within_prompts():
    """(1, 3) and (10, 12) each have the variance 2; how far prompts lie apart does not count."""
    assert spread.within(torch.tensor([[1.0, 3.0], [10.0, 12.0]])) == pytest.approx(2**0.5)
    with pytest.raises(ValueError, match="same value"):
        spread.within(torch.tensor([[1.0, 1.0], [5.0, 5.0]]))


def test_it_is_that_of_the_first_prompts_completions():
    """A reward that numbers a prompt's 8 completions 0..7, plus 100 a prompt: the unbiased standard
    deviation of 0..7 is sqrt(6). 32 of the 40 prompts are scored, 8 completions each."""
    seen = []

    def numbered(prompts, completions) -> torch.Tensor:
        seen.append((list(prompts), len(completions[0])))
        places = torch.arange(len(completions[0])).expand(len(prompts), -1)
        return places + 100.0 * torch.arange(len(prompts))[:, None]

    task = task_of(numbered, "numbered")
    assert measured(task) == pytest.approx(6**0.5)
    assert sum((prompts for prompts, _ in seen), []) == list(task.train_prompts[:32])
    assert {k for _, k in seen} == {8}


def test_it_is_measured_once(monkeypatch):
    """Every run of a task, whatever its seed and strength, reads the stored samples."""
    task = task_of(lambda p, c: torch.rand(len(p), len(c[0])), "random")
    first = measured(task)
    monkeypatch.setattr(BankFolder, "fill", lambda *_: pytest.fail("drawn again"))
    assert measured(task) == first
