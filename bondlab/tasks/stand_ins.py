"""Rewards in the place of a task's own: one that says nothing, and the own one as yes or no.

What a policy does under noise is the drift of training, not learning. Noise is a number in [0, 1)
from a hash of prompt and completion, uniform over texts, the same on every machine. The prompt is
part of it, for otherwise a policy could memorise one lucky text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bondlab.task import Reward

NOISE = "noise"  # as the reward in a task's settings and its identity
ABOVE = " > "  # between a reward's name and the threshold, as the reward in a task's settings


def noise(prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
    """Rewards [B, K] in float64 of B lists of K completions."""
    return torch.tensor([
        [_uniform(f"{prompt}\0{text}") for text in texts]
        for prompt, texts in zip(prompts, completions, strict=True)
    ], dtype=torch.float64)  # fmt: skip


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


@dataclass(frozen=True)
class Binary:
    """1 where a reward is above a threshold, else 0: [B, K] in float64, as `noise`."""

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
