"""Where figures and runs lie: in the repository, unless the environment says elsewhere.

BONDLAB_FIGURES and BONDLAB_RUNS move the two folders (a scratch disk, a test's temporary folder).
What is committed stays where git has it: in the repository's figures/study, which the profile
"study" refreshes and whose tables "shipped" reads; what that draws from them goes to
figures/shipped. git ignores the figures of every profile but "study".
"""

from __future__ import annotations

import os
from pathlib import Path


def repository_root() -> Path:
    """The clone that holds this package, or the working directory if it is installed elsewhere."""
    root = Path(__file__).resolve().parents[1]
    return root if (root / "pyproject.toml").is_file() else Path.cwd()


def figures_folder(experiment: str, profile: str) -> Path:
    """Folder of what an experiment draws at a profile, and computes; not created here."""
    return _folder("BONDLAB_FIGURES", "figures") / profile / experiment


def committed_folder(experiment: str) -> Path:
    """Folder of an experiment's figures and tables that came with the clone."""
    return repository_root() / "figures" / "study" / experiment


def runs_folder() -> Path:
    """Folder of all runs (checkpoints, tables, executed notebooks); not created here."""
    return _folder("BONDLAB_RUNS", "runs")


def _folder(variable: str, name: str) -> Path:
    # A relative setting means relative to where the user typed it, not to a notebook's folder.
    return Path(os.environ.get(variable) or repository_root() / name).expanduser().absolute()
