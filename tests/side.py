"""What `test_bench` has a process of its own do; it imports no more than that takes."""

from __future__ import annotations

import torch

MEGABYTES = 300


def work(next_turn) -> None:
    """A side whose second turn takes memory and whose third fails."""
    next_turn()
    for turn in range(2):
        torch.ones(MEGABYTES * 2**18 if turn else 1)
        next_turn(length=turn)
    raise ValueError("no third turn")
