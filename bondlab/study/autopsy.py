"""The autopsy of notebook 00 on a real model: J-BOND as a public attempt has it, mended in turn.

    train_all(binary(task, threshold), task, config)

Its faults are those of weights: give `Config(lora_rank=None)`, since an adapter's start at nothing
and change by multiples of themselves, which bfloat16 holds. Notebook 00 says what is expected: the
first arm flat with a warning that its anchor is stuck, the others going on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bondlab import rules
from bondlab.algorithms import Algorithm, j_bond
from bondlab.anchors import MovingAverage
from bondlab.config import Config
from bondlab.rules import Scores
from bondlab.task import Reward, Task
from bondlab.toy.autopsy import ARMS, BETA, ETA, GAMMA
from bondlab.training import Run, train


@dataclass(frozen=True)
class Bfloat16Average(MovingAverage):
    """The moving average in bfloat16, in place: most of a small change is rounded away."""

    @torch.no_grad()
    def update(self, anchor: Sequence[Tensor], policy: Sequence[Tensor], step: int) -> None:
        """Move every anchor tensor by `rate` towards the policy, both rounded to bfloat16."""
        for kept, new in zip(anchor, policy, strict=True):
            half = kept.bfloat16()
            kept.copy_(half.mul_(1 - self.rate).add_(new.bfloat16(), alpha=self.rate))


@torch.no_grad()
def printed_sign(scores: Scores, beta: float, gamma: float) -> Tensor:
    """`rules.j_bond` with G_Reg's sign as v1 prints it, away from the anchor: weights [B, 2+K]."""
    weights, k = rules.j_bond(scores, beta, 0.0), scores.log_ratio.shape[1]
    return weights + gamma * torch.nn.functional.pad(scores.log_ratio / k, (2, 0))


@dataclass(frozen=True)
class YesOrNo:
    """1 where a reward is above a threshold, else 0."""

    reward: Reward
    threshold: float

    def __call__(self, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
        return (torch.as_tensor(self.reward(prompts, completions)) > self.threshold).double()


def binary(task: Task, threshold: float) -> Task:
    """The task with a verdict in the place of its reward."""
    return replace(task, reward=YesOrNo(task.reward, threshold))


def algorithms() -> dict[str, Algorithm]:
    """J-BOND of each arm of `toy.autopsy.ARMS`, by its name."""
    found = {}
    for arm in ARMS:
        average = Bfloat16Average if arm.anchor == torch.bfloat16 else MovingAverage
        own = j_bond(BETA, GAMMA, average(ETA))
        found[arm.name] = own if arm.sign > 0 else replace(own, rule=printed_sign)
    return found


def train_all(
    verdicts: Task, scores: Task, config: Config, parent: Path | None = None
) -> dict[str, Run]:
    """A run of every arm: on verdicts, but for the last arm, which sees the continuous scores."""
    return {
        arm.name: train(verdicts if arm.binary else scores, own, config, parent)
        for arm, own in zip(ARMS, algorithms().values(), strict=True)
    }
