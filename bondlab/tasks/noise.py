"""A reward that says nothing: what a policy does under it is the drift of training, not learning.

A number in [0, 1) from a hash of prompt and completion, uniform over texts, the same on every
machine. The prompt is part of it, for otherwise a policy could memorise one lucky text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

NAME = "noise"  # as the reward in a task's settings and its identity


def reward(prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
    """Rewards [B, K] in float64 of B lists of K completions."""
    return torch.tensor([
        [_uniform(f"{prompt}\0{text}") for text in texts]
        for prompt, texts in zip(prompts, completions, strict=True)
    ], dtype=torch.float64)  # fmt: skip


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
