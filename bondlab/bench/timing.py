"""Turns and ratios: sides are timed in alternation, so that a busy moment meets them alike.

A side works in this process, or stays in one of its own, whose peak memory is its own.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers

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


# -- a process each --------------------------------------------------------------------------------


@contextmanager
def apart(sides: Mapping[str, tuple]) -> Iterator[dict[str, Side]]:
    """Sides of their `work(*arguments, next_turn)`, each in a new process until the block ends.

    `next_turn(**measured)` ends a turn, the first time the preparations, and waits for the next.

    Raises:
        RuntimeError: one failed; the message is its traceback.
    """
    context, started = multiprocessing.get_context("spawn"), {}
    try:
        for name, (work, *arguments) in sides.items():
            ours, theirs = context.Pipe()
            given = work, arguments, torch.get_num_threads(), theirs
            started[name] = ours, context.Process(target=_work, args=given, daemon=True)
            started[name][1].start()
            theirs.close()
        for pipe, _ in started.values():
            _answer(pipe)
        yield {name: partial(_turn, pipe) for name, (pipe, _) in started.items()}
    finally:
        for pipe, process in started.values():
            pipe.close()
            process.join(timeout=30)
            process.kill()


def _turn(pipe: Connection) -> Measured:
    pipe.send(True)
    return _answer(pipe)


def _answer(pipe: Connection) -> Measured:
    try:
        found = pipe.recv()
    except EOFError:
        found = "it ended without a word: was it killed for its memory?"
    if isinstance(found, str):
        raise RuntimeError(f"a side of the comparison failed:\n{found}")
    return found


def _work(work: Callable[..., None], arguments: Sequence, threads: int, pipe: Connection) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    began = None

    def next_turn(**measured: float) -> None:
        nonlocal began
        if began is None:
            _forget_peak()
            pipe.send({})
        else:
            wait()
            seconds = time.perf_counter() - began
            pipe.send({"seconds": seconds, "memory": _peak_memory(), **measured})
        with suppress(EOFError):
            pipe.recv()
            began = time.perf_counter()
            return
        sys.exit()  # no turn is asked for any more

    try:
        work(*arguments, next_turn)
    except Exception:
        pipe.send(traceback.format_exc())


def _peak_memory() -> int:
    """Bytes: the GPU's as torch allocated them, or else those of the process that were resident."""
    if device.place().type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # a process's own; the other source starts from its parent's
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _forget_peak() -> None:
    """Begin `_peak_memory` anew, where the system can."""
    if device.place().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
