"""Beside notebook 08, where a reader aligns a model of their own: its scale, and what it shows.

The library is all that such a reader needs; this is what keeps the notebook short, and lets it run
on a tiny model where none may be fetched.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from bondlab import assets, paths
from bondlab.report.kept import Profile
from bondlab.tasks import tiny

# Not stated for any task like this; chosen so that the laptop's run ends within four minutes on two
# cores and the others' within an hour. "shipped" is the laptop's run.
STEPS = {"smoke": 2, "shipped": 24, "laptop": 24, "study": 200, "paper": 200}


class Settings(BaseModel):
    """The notebook's parameters.

    Args:
        model: a hub name, a local folder or an embedded model; the smoke profile has its own.
        steps: 0 takes the profile's.
    """

    profile: Profile
    model: str
    steps: int = Field(ge=0)
    seed: int

    @property
    def budget(self) -> int:
        """Training steps."""
        return self.steps or STEPS[self.profile]

    def folder(self) -> Path:
        """The model's folder, fetched where it is missing; at smoke a tiny one, made by code."""
        if self.profile != "smoke":
            return assets.model_path(self.model)
        folder = paths.runs_folder() / "tiny-model"
        tiny.gemma().save_pretrained(folder)
        tiny.tokenizer().save_pretrained(folder)
        return folder
