"""Turns and ratios: sides are timed in alternation, so that a busy moment meets them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bondlab import device

OURS = "bondlab"
Measured = dict[str, float]
Side = Callable[[], Measured]
"""One turn of a side: its "seconds", and what else was measured of it."""


def timed(work: Callable[[], Any], note: Callable[[Any], Measured] = lambda _: {}) -> Side:
    """A side that does `work` in this process and waits for the device.

    `note` says what is kept of the result, outside the time.
    """

    def turn() -> Measured:
        wait()
        began = time.perf_counter()
        result = work()
        wait()
        return {"seconds": time.perf_counter() - began, **note(result)}

    return turn


def wait() -> None:
    """Until the device has done all that it was asked for."""
    torch.get_device_module(device.place()).synchronize()


def alternated(sides: Mapping[str, Side], repeats: int) -> list[dict[str, Any]]:
    """Each side in its turn, again and again: a row a side and turn.

    The first turn of each, which loads libraries and finds its sizes, is left out.
    """
    rows = []
    for turn in range(-1, repeats):
        for name, side in sides.items():
            measured = side()
            if turn >= 0:
                rows.append({"side": name, "turn": turn, **measured})
    return rows


@dataclass(frozen=True)
class Ratio:
    """How many times as long a peer takes, or as much: of medians, and the range over the turns."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def ratio(peer: Sequence[float], ours: Sequence[float]) -> Ratio:
    """Of the medians of a peer's turns and of ours; its range over pairs of the same turn."""
    pairs = [theirs / own for theirs, own in zip(peer, ours, strict=True)]
    return Ratio(statistics.median(peer) / statistics.median(ours), min(pairs), max(pairs))
