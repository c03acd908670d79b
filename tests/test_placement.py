"""Programs on a second device, in a process that knows it from the start; see `placement`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_programs_on_the_second_device():
    """All of `placement.py` passes; what failed is in the message."""
    file = Path(__file__).with_name("placement.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    run = subprocess.run([*command, str(file)], capture_output=True, text=True, cwd=file.parents[1])
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and "skipped" not in run.stdout.splitlines()[-1]
