"""The paper's experiments, by name, in the study's order; each is data in a module of its own."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from bondlab.study import (
    alignment,
    anchor_ablations,
    anchor_speeds,
    autopsy,
    benchmarks,
    controls,
    divergences,
    iterative,
    j_bond,
    learned_quantiles,
    other_baselines,
    tuning,
    xsum,
)
from bondlab.study.experiment import Experiment

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment("exact", "Best-of-N and BOND in exact numbers", "00_best_of_n_in_exact_numbers"),
        Experiment("toy", "The paper's figures on an exact toy", "00b_figures_on_a_toy"),
        Experiment(
            "xsum_task",
            "The XSum task: reference policy and reward",
            "01_xsum_reference_and_reward",
        ),
        divergences.EXPERIMENT,
        iterative.EXPERIMENT,
        learned_quantiles.EXPERIMENT,
        Experiment(
            "alignment_rewards",
            "The chat and sentiment tasks: rewards and judges",
            "05_chat_and_sentiment_rewards",
        ),
        anchor_ablations.EXPERIMENT,
        anchor_speeds.EXPERIMENT,
        autopsy.EXPERIMENT,
        controls.EXPERIMENT,
        j_bond.EXPERIMENT,
        other_baselines.EXPERIMENT,
        benchmarks.EXPERIMENT,
        Experiment("own_model", "Align a model of your own", "08_align_your_own_model", trains={}),
        Experiment("bench", "How fast it is", "09_how_fast_it_is"),
        Experiment("explore", "BOND on the exact toy, to play with", "10_explore"),
    )
}


def tune(
    task: str, profile: str, only: Collection[str] = (), workers: int | None = None
) -> pd.DataFrame:
    """Choose the learning rates of a task's methods, or of some. Raises as `tuning.tune`."""
    if task == "xsum":
        specs = xsum.untuned(profile)
    else:
        specs = alignment.specs(methods, "", profile, task, tuned=False)
    return tuning.tune(task, specs, profile, only, workers)


def methods(profile: str) -> alignment.Runs:
    """All that is tuned on sentiment and chat."""
    return j_bond.runs(profile) | other_baselines.runs(profile)
