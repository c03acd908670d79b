"""A side in a process of its own, which takes a turn when it is asked: its peak memory is its own.

Two sides stay in memory while they take turns, as they must be alternated; only one works.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers

from bondlab import device
from bondlab.bench.timing import Measured, wait


class Turns:
    """The process's end: `await_turn` and `done` around each turn of its work."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._resting, self._began = pipe, None, 0.0

    def await_turn(self) -> None:
        """Wait until a turn is asked for; the process ends here when no more is."""
        if self._resting is None:
            self._resting = _forget_peak()
            self._pipe.send(None)  # ready
        with suppress(EOFError):
            self._pipe.recv()
            self._began = time.perf_counter()
            return
        sys.exit()

    def done(self, **measured: float) -> None:
        """Answer with the turn's seconds, the peak memory so far and that before the first turn."""
        wait()
        seconds = time.perf_counter() - self._began
        memory = {"memory": peak_memory(), "resting": self._resting}
        self._pipe.send({"seconds": seconds, **memory, **measured})


class Fresh:
    """A side whose `work(*arguments, turns)` runs in a new process, from its loading to its end.

    Ready when `ready()` has returned; several may get ready at once.

    Raises:
        RuntimeError: it failed; the message is its traceback.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        given = work, arguments, torch.get_num_threads(), theirs
        self._process = context.Process(target=_run, args=given, daemon=True)
        self._process.start()
        theirs.close()

    def ready(self) -> None:
        self._answer()

    def __call__(self) -> Measured:
        self._pipe.send(True)
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(timeout=30)
        self._process.kill()

    def _answer(self) -> Any:
        try:
            found = self._pipe.recv()
        except EOFError:
            found = "it ended without a word: was it killed for its memory?"
        if isinstance(found, str):
            raise RuntimeError(f"a side of the comparison failed:\n{found}")
        return found


def _run(work: Callable[..., None], arguments: Sequence, threads: int, pipe: Connection) -> None:
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        work(*arguments, Turns(pipe))
    except Exception:
        pipe.send(traceback.format_exc())


def peak_memory() -> int:
    """Bytes: the GPU's as torch allocated them, or else those of the process that were resident."""
    if device.place().type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # a process's own; the other source starts from its parent's
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _forget_peak() -> int:
    """Begin `peak_memory` anew, where the system can; returns what is held now."""
    if device.place().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()
