"""The reward's unit: how far the reference's completions of one prompt lie apart in reward.

Rules that go by ranks need no unit. REINFORCE does, since its beta_RL weighs nats against rewards.
"""

from __future__ import annotations

from accelerate import Accelerator
from torch import Tensor

from bondlab import paths
from bondlab.bank import BankFolder
from bondlab.task import Task

# Not stated in the paper. 31 x 8 = 248 degrees of freedom, if every training prompt is as good as
# another, give the standard deviation to about 5 %.
PROMPTS = 32
SAMPLES = 8
STREAM = 2  # of random numbers: 0 and 1 are those of the training and the held-out bank


def measure(task: Task, precision: str, accelerator: Accelerator) -> float:
    """Standard deviation of the reference's rewards within a prompt, in units of the reward.

    Measured once on SAMPLES stored completions of each of the first PROMPTS training prompts, so
    that runs of one task share the value, whatever they sample themselves.

    Raises:
        ValueError: all completions of every prompt have one reward.
    """
    parent, prompts = paths.runs_folder() / "banks", list(task.train_prompts[:PROMPTS])
    folder = BankFolder.of(parent, task, prompts, SAMPLES, STREAM, precision)
    return within(folder.filled(task, accelerator).rewards)


def within(rewards: Tensor) -> float:
    """Root of the mean over prompts of the variance over completions; rewards [B, K].

    Raises:
        ValueError: it is 0.
    """
    found = rewards.double().var(dim=1).mean().sqrt().item()
    if not found > 0:
        raise ValueError(
            "the reward gives all completions of a prompt the same value: beta_rl has no unit, and "
            "there is nothing to learn from"
        )
    return found
