"""A verdict in the place of a reward: 1 where the reward is above a bound, else 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bondlab.task import Reward

ABOVE = " > "  # between a reward's name and the bound, as the reward in a task's settings


@dataclass(frozen=True)
class Verdict:
    """Yes or no, 1 or 0, of B lists of K completions: [B, K] in float64."""

    reward: Reward
    bound: float

    def __call__(self, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
        return (torch.as_tensor(self.reward(prompts, completions)) > self.bound).double()


def parsed(name: str) -> tuple[str, float | None]:
    """A reward's name, and the bound of a verdict on it: "sentiment_reward > 1".

    Raises:
        ValueError: what stands behind the sign is no number.
    """
    name, sign, bound = name.partition(ABOVE)
    return name, float(bound) if sign else None
