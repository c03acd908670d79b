"""Stages, one after another, under a bar that knows the time left.

A stage is expected to take as long as it last did on this machine, else as long as it is said to.
Those behind tell how much slower this machine is; inside one that trains, the records of its runs
tell how far it is.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from bondlab.paths import runs_folder
from bondlab.results import RunFolder, write_atomically
from bondlab.study.sweep import beside

MINUTE = 60.0


@dataclass(frozen=True)
class Stage:
    """What is to be done, and the seconds that it should take; 0 where it was done before."""

    title: str
    do: Callable[[], object]
    seconds: float


class Clock:
    """How far some work is, in the seconds that it was expected to take, and how much is left.

    Attributes:
        total: seconds of all stages; behind: of those that ended; running: of the one at work.
    """

    def __init__(self, total: float) -> None:
        self.total, self.behind, self.running = total, 0.0, 0.0
        self.started = self.began = time.time()
        self.ahead = 0.0  # share of the running stage that lies ahead of its first training step

    def begin(self, seconds: float) -> None:
        """A stage begins that should take so many seconds."""
        self.running, self.began, self.ahead = seconds, time.time(), 0.0

    def end(self) -> float:
        """It ends; returns the seconds that it took."""
        self.behind, self.running = self.behind + self.running, 0.0
        return time.time() - self.began

    @property
    def position(self) -> float:
        """Expected seconds of what is done; of a stage that trains, by steps from the first on."""
        share = min((time.time() - self.began) / max(self.running, 1.0), 0.99)
        done, total = steps(self.began)
        if total:
            if not done:  # stored samples and a first evaluation come before it
                self.ahead = min(share, 0.5)
            share = self.ahead + (0.99 - self.ahead) * min(done / total, 1.0)
        return self.behind + self.running * share

    @property
    def left(self) -> str:
        """The time left, in words."""
        done = self.position
        # A minute on both sides: the first short stage is not to decide how fast the machine is.
        pace = (time.time() - self.started + MINUTE) / (done + MINUTE)
        minutes = round((self.total - done) * pace / MINUTE)
        return f"about {minutes} min left" if minutes else "less than a minute left"


def steps(since: float) -> tuple[int, int]:
    """Training steps done, and all, of the runs that were begun or went on since a time."""
    done = total = 0
    for path in runs_folder().glob("*/*/config.json"):
        run, files = RunFolder(path.parent), [path, path.with_name("record.jsonl")]
        if max(file.stat().st_mtime for file in files if file.exists()) >= since:
            total += run.config.get("config", {}).get("steps", 0)
            done += run.steps
    return done, total


def run_stages(stages: Sequence[Stage], kept: Path) -> list[str]:
    """Do each stage; returns the titles of those that failed.

    A stage that fails does not stop the ones after it: hours may depend on a single notebook.

    Args:
        kept: file of the seconds that each stage last took on this machine.
    """
    known, failed = json.loads(kept.read_text()) if kept.exists() else {}, []
    expected = [stage.seconds and known.get(stage.title, stage.seconds) for stage in stages]
    with _shown(Clock(sum(expected))) as clock:
        for number, (stage, seconds) in enumerate(zip(stages, expected, strict=True), 1):
            say(f"stage {number} of {len(stages)}: {stage.title} ({clock.left})")
            clock.begin(seconds)
            done, took = _succeeds(stage), clock.end()
            if not done:
                failed.append(stage.title)
            elif took > seconds / 10 > 0:  # else it had been done before
                known[stage.title] = round(took, 1)
                write_atomically(kept, (json.dumps(known, indent=2) + "\n").encode())
    return failed


def _succeeds(stage: Stage) -> bool:
    try:
        stage.do()
    except PapermillExecutionError as error:  # a failing cell, which it names
        print(f"In [{error.exec_count}]: {error.ename}: {error.evalue}", file=sys.stderr)
        return False
    except Exception:
        traceback.print_exc()
        return False
    return True


def say(text: str) -> None:
    """Print a line above the bars; at once, also where it goes to a file."""
    tqdm.write(text)
    sys.stdout.flush()


@contextmanager
def _shown(clock: Clock) -> Iterator[Clock]:
    """A bar beside the work; with no terminal to redraw it (disable=None) a line per minute."""
    looks = {"desc": clock.left, "bar_format": "{desc} |{bar}| {percentage:3.0f} %"}
    with tqdm(total=clock.total or 1, disable=None, leave=False, **looks) as bar:

        def follow(ended: threading.Event) -> None:
            while not ended.wait(MINUTE if bar.disable else 1.0):
                if bar.disable:
                    say(clock.left)
                else:
                    bar.n = clock.position
                    bar.set_description_str(clock.left)

        with beside(follow):
            yield clock
