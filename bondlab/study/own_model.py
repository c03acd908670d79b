"""Beside notebook 08, where a reader aligns a model of their own: its scale, and what it shows.

The library is all that such a reader needs; this is what keeps the notebook short, and lets it run
on a tiny model where none may be fetched.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from bondlab import assets, measures, paths
from bondlab.study import plots, provenance
from bondlab.study.experiments import Profile
from bondlab.study.plots import Panel
from bondlab.tasks import tiny
from bondlab.training import Run

NAME = "own_model"
# Not stated for any task like this; chosen so that the laptop's run ends within four minutes on two
# cores and the others' within an hour. "shipped" is the laptop's run.
STEPS = {"smoke": 2, "shipped": 24, "laptop": 24, "study": 200, "paper": 200}
PANELS = (
    Panel("reward", "Reward", "mean reward of a completion"),
    Panel("log_quantile", "Reward log quantile", "mean log quantile (nats)"),
    Panel("kl", "Distance from the start", "KL to the reference (nats)"),
)


class Settings(BaseModel):
    """The notebook's parameters.

    Args:
        model: a hub name, a local folder or an embedded model; the smoke profile has its own.
        steps: 0 takes the profile's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    profile: Profile
    model: str
    steps: Annotated[int, Field(ge=0)]
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


def progress(run: Run) -> pd.DataFrame:
    """Reward, log quantile and KL on the held-out prompts at every evaluation, with intervals.

    Returns:
        Columns panel, step, mean, low, high, count (prompts).
    """
    own = run.evaluation
    own = own[own["source"] == "policy"]
    own = own.assign(
        kl=own["log_prob"] - own["reference_log_prob"], log_quantile=np.log(own["quantile"])
    )
    parts = [
        measures.grouped_intervals(own, panel.name, ["step"]).assign(panel=panel.name)
        for panel in PANELS
    ]
    return pd.concat(parts, ignore_index=True)


def print_answers(run: Run, prompts: Sequence[str], count: int = 4) -> None:
    """Print an answer to each of the first held-out prompts, before and after training."""
    own = run.evaluation
    last = own["step"].max()
    own = own[(own["source"] == "policy") & (own["sample"] == 0) & own["step"].isin([0, last])]
    for prompt, rows in own[own["prompt"] < count].groupby("prompt"):
        print(prompts[prompt])
        for row in rows.sort_values("step").itertuples():
            text = textwrap.fill(" ".join(row.text.split()), 92, subsequent_indent=" " * 27)
            print(f"  step {row.step:3d}, reward {row.reward:6.2f}: {text}")


def publish(profile: Profile, run: Run) -> None:
    """Draw the progress of a run, write the figure's files and show it."""
    table = progress(run).assign(series="policy")
    prompts = int(table["count"].iloc[0])
    config = run.folder.config["config"]
    note = (
        f"{prompts} held-out prompts, {config['evaluation_samples']} completions each, seed "
        f"{config['seed']}; 95 % intervals over prompts."
    )
    figure = plots.curves(table, PANELS, note=note)
    if profile != "shipped":  # a reader's own trial leaves the committed figure alone
        last = table[table["step"] == table["step"].max()]
        headline = [
            provenance.number(f"{r.panel} after training", r.mean, r.low, r.high, "", prompts, 1)
            for r in last.itertuples()
        ]
        manifest = run.folder.manifest
        provenance.write(NAME, NAME, profile, figure, table, headline, note=note, runs=[manifest])
    plots.show(figure, "Reward, log quantile and KL against training steps")
