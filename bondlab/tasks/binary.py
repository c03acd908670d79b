"""A binary reward in the place of another: 1 where that one is above a threshold, else 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bondlab.task import Reward

ABOVE = " > "  # between a reward's name and the threshold, as the reward in a task's settings


@dataclass(frozen=True)
class Binary:
    """1 or 0 for B lists of K completions: [B, K] in float64."""

    reward: Reward
    threshold: float

    def __call__(self, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
        return (torch.as_tensor(self.reward(prompts, completions)) > self.threshold).double()


def threshold(name: str | None) -> float | None:
    """That of a binary reward, "sentiment_reward > 1"; None of another.

    Raises:
        ValueError: what stands behind the sign is no number.
    """
    _, sign, given = (name or "").partition(ABOVE)
    if not sign:
        return None
    try:
        return float(given)
    except ValueError:
        raise ValueError(f"reward: {name!r} needs a number behind{ABOVE.rstrip()}") from None
