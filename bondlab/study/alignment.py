"""What Figures 5, 6 and 7 share, on causal models: scales, runs, results, terms of their claims.

Sections and figures are those of arXiv 2407.14622. The paper aligns Gemma 2B and 7B on private
prompts and a private reward; here a small causal model continues movie reviews (the task sentiment)
or answers in a dialogue (chat). Rewards are compared in spreads: standard deviations of the
reference's rewards within a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import nan
from typing import Literal

import numpy as np
import pandas as pd

from bondlab.algorithms import Algorithm, j_bond
from bondlab.anchors import MovingAverage
from bondlab.config import Config
from bondlab.report import tradeoffs
from bondlab.report.intervals import mean_interval
from bondlab.report.kept import Results, Tables
from bondlab.report.plots import Panel
from bondlab.rules import J_BOND_PENALTY
from bondlab.study import cooling, frontier, report, tuning
from bondlab.study.cells import at
from bondlab.study.claims import Term
from bondlab.study.experiment import TABLES, Experiment, RunSettings, collect, seeds
from bondlab.study.judge import judged
from bondlab.study.sweep import Spec
from bondlab.tasks import TaskSettings, stand_ins

RUNS = "alignment"  # all tasks and experiments share what they have in common
J_BOND = "J-BOND"
J_BOND_ON_NOISE = "J-BOND, noise reward"
FIRST = ", first steps"  # of a series: see `first_steps`
REWARD = Panel("reward", "Reward", "mean reward (log-odds)")
JUDGE = Panel("judge", "Second judge, not trained on", "mean judge score (log-odds)")
TRAINING = (REWARD, replace(report.DISTANCE, root=True))
AREA = "Mean height between curves of reward against the root of the KL, over the KL both reach."
ETA = 0.02  # section 6, Figs. 5 and 7
ETAS = {f"eta = {eta:g}": eta for eta in (0.01, 0.05, 0.1)}  # section 6, Fig. 6 left
SAME = 0.25  # spreads of reward: as far as two profiles may lie apart and still be the same
SIZES = (1, 2, 4, 8, 16)  # of sampled Best-of-N, as far as the evaluation bank goes
# Settings in which a series may differ from the others.
CHANGED = ("fresh", "precision", "steps", "evaluate_every")
Labels = dict[str, float | str]
Runs = dict[str, tuple[Algorithm, Labels]]  # by series, with labels of their own


class AlignmentSettings(RunSettings):
    """The parameters of notebooks 06 to 07b; `policy` is a model by name, "" the task's own."""

    task: Literal["sentiment", "chat"]
    policy: str


class TwoTaskSettings(AlignmentSettings):
    """The parameters of notebook 07c, which shows another task too."""

    other_task: Literal["", "sentiment", "chat"]


# -- scales ----------------------------------------------------------------------------------------

SMOKE = Config(
    steps=4, prompts_per_step=4, evaluate_every=2, warmup=0, learning_rate=1e-2, precision="fp32"
)
# So small that all of a laptop's runs take minutes: a step has four or five processor seconds.
# Learning rate: J-BOND at 1e-3, 2e-3 and 3e-3, judged on 16 training prompts, ended 0.03, 0.87 and
# 1.60 nats from the reference, its reward up by 0.12, 0.08 and -0.04, which is within error. At the
# first there is nothing to see, and the last goes far for nothing.
LAPTOP = Config(
    steps=9, prompts_per_step=6, evaluate_every=3, warmup=3, learning_rate=2e-3,
    bank_samples=8, evaluation_samples=3, evaluation_bank=8,
)  # fmt: skip
# bank_samples: vBoN counts quantiles in 16 of the reference's (section 4.2), others need fewer.
# Each method has the learning rate that `tuning` chose for it. Not stated: batch and number of
# steps; chosen because what the gradients' noise alone makes of the KL falls with the batch (see
# the runs on noise), and because the paper's anchor rates need so many steps to show.
STUDY = Config(
    steps=200, prompts_per_step=16, evaluate_every=25, warmup=10, bank_samples=16,
    evaluation_samples=2, evaluation_bank=16, forward_kl=False,
)  # fmt: skip
# Batch, learning rate and warm-up are the paper's (section 6); the number of steps is not stated:
# as many as on XSum. Neither is the distance between evaluations: 20 points on each curve.
PAPER = Config(
    steps=5000, prompts_per_step=128, evaluate_every=250, warmup=100, learning_rate=3e-6,
    lora_rank=None, fresh=True, checkpoint_seconds=600, micro_batch=4,
)  # fmt: skip
# Training prompts, held-out prompts and completion tokens (None: the task's own length). The paper
# profile has as many prompts as the dialogues have, to the next thousand.
SCALES = {
    "smoke": (SMOKE, 8, 4, None),
    "laptop": (LAPTOP, 32, 16, 16),
    "study": (STUDY, 512, 100, None),
    "paper": (PAPER, 16_000, 128, 128),
}
# How far an anchor goes: a step here stands for so many of the paper's, so a rate eta becomes
# 1 - (1 - eta)^stride and a copy comes every 50 / stride steps. The small profiles' strides were
# chosen so that four copies fit into their runs (smoke: two).
STRIDES = {"smoke": 25, "laptop": 25, "study": 1, "paper": 1}


def rate(profile: str, eta: float) -> float:
    """The moving average's rate per step at this profile for the paper's eta."""
    return round(1 - (1 - eta) ** STRIDES[profile], 6)


def moving(profile: str, eta: float = ETA, gamma: float = 0.0) -> tuple[Algorithm, Labels]:
    """J-BOND with a moving average, and its labels."""
    anchor = MovingAverage(rate(profile, eta))
    labels = {"eta": eta, "gamma": gamma, "rate": anchor.rate, "tuned": J_BOND}
    return j_bond(gamma=gamma, anchor=anchor), labels


def on_noise(run: tuple[Algorithm, Labels]) -> tuple[Algorithm, Labels]:
    """The same run with a reward that says nothing."""
    return run[0], {**run[1], "reward_name": stand_ins.NOISE}


def first_steps(profile: str, runs: Runs) -> Runs:
    """The same runs up to their first evaluation after the start, evaluated five times on the way.

    Their evaluations join those of the whole runs, whose steps they repeat: a run that has gone
    further by its first evaluation than another ever goes has no curve there else. None at the
    small profiles.
    """
    far = runs if profile in ("study", "paper") else {}
    end = SCALES[profile][0].evaluate_every
    few = {"steps": end, "evaluate_every": end // 5}
    return {f"{name}{FIRST}": (algorithm, own | few) for name, (algorithm, own) in far.items()}


def specs(
    runs: Callable[[str], Runs],
    gemma: str,
    profile: str,
    task: str = "sentiment",
    policy: str = "",
    only: Collection[str] = (),
    tuned: bool = True,
) -> list[Spec]:
    """The runs of an experiment at a profile; the smoke profile's one task stands in for all.

    Divergences in their tables are those to Best-of-2, J-BOND's n. Series come with all of their
    seeds, one after another: a study that stops early has some series whole.

    Args:
        gemma: the paper's policy. Its references are private fine-tuned checkpoints; the public
            base models stand in, since the public instruction models have been aligned already.
        only: series, where not all are wanted.
        tuned: whether each run has its method's learning rate at study, not the profile's.

    Raises:
        ParameterError: a method has no learning rate yet.
    """
    config, train, evaluate, tokens = SCALES[profile]
    size = {"train": train, "evaluate": evaluate}
    if profile == "smoke":
        named = TaskSettings(name="tiny_causal", **size)
    else:
        model = policy or (gemma if profile == "paper" else None)
        named = TaskSettings(name=task, policy=model, completion_tokens=tokens, **size)
    known = {"row": "", "n": 2, "warmup": config.warmup, "rate": 0.0, "every": 0}
    known |= {"reward_name": "", **{name: getattr(config, name) for name in CHANGED}}
    found = []
    for series, (algorithm, own) in runs(profile).items():
        if only and series not in only:
            continue
        beta = algorithm.settings.get("beta", nan)
        labels = {**known, "series": series, "beta": beta, "tuned": series, **own}
        own_task = named.model_copy(update={"reward": labels["reward_name"] or None})
        for seed in seeds(profile):
            changed = {"seed": seed, **{name: labels[name] for name in CHANGED}}
            own_config = config.model_copy(update=changed)
            found.append(Spec(own_task, algorithm, own_config, {**labels, "seed": seed}))
    return [tuning.tuned(spec) for spec in found] if tuned and profile == "study" else found


# -- results ---------------------------------------------------------------------------------------


def chosen(
    experiment: Experiment, settings: AlignmentSettings, series: Collection[str] = ()
) -> list[Spec]:
    """The runs of some series (of all, by default) with the notebook's task and policy."""
    names = {*series, *(f"{name}{FIRST}" for name in series)}
    return experiment.specs(settings.profile, settings.task, settings.policy, names)


def results(
    experiment: Experiment, settings: AlignmentSettings, series: Collection[str] = ()
) -> Results:
    """The tables of some series' runs with the second judge's columns, and that of `cooling`.

    Those of another task or policy are a variant, named by both; "shipped" has what it has. Raises
    as `Results.load`.
    """
    variant = "" if settings.task == "sentiment" else settings.task
    if settings.policy:
        variant = f"{settings.task}_{settings.policy.replace('/', '--')}"

    def compute() -> Tables:
        wanted = chosen(experiment, settings, series)
        folders = experiment.sweep(wanted, settings.workers)
        sizes = [n for n in SIZES if n <= wanted[0].config.evaluation_bank]
        found = judged(collect(wanted, folders, settings.profile, sizes), wanted, folders)
        return found | {"evaluations": joined(found["evaluations"])}

    found = Results(experiment.name, settings.profile, variant).load(TABLES, compute)
    return cooling.beside(found, lambda: chosen(experiment, settings, series)[0])


def joined(table: pd.DataFrame) -> pd.DataFrame:
    """Evaluations with those of `first_steps` among their series' own, each step once."""
    table = table.assign(series=table["series"].str.removesuffix(FIRST))
    table = table.drop_duplicates(["series", "seed", "step", "prompt"])
    parts = [
        part.sort_values(["seed", "step"], kind="stable") for *_, part in report.by_series(table)
    ]
    return pd.concat(parts, ignore_index=True)


def starts(found: Results) -> pd.DataFrame:
    """J-BOND's reward before the first step beside its theory: penalised share, mean r_J."""
    first = found["evaluations"].query("step == 0").groupby("prompt")["penalised"].mean()
    scales = {"penalised share": 1, "mean r_J": J_BOND_PENALTY}
    return pd.DataFrame(
        mean_interval(first * scale).row(measure=name, theory=scale / 3)
        for name, scale in scales.items()
    )


draw = partial(report.draw, sizes=(2, 8), unit="prompt")


def draw_tradeoff(
    found: Results,
    stem: str,
    base: str,
    title: str,
    words: Mapping[str, str] | None = None,
    whole: Sequence[str] = (),
) -> None:
    """Publish the reward and the second judge against the KL to the reference.

    Args:
        base: the series as far as whose KL the closer look goes; whole: as in `tradeoffs.draw`;
            the others as `report.draw`'s.
    """
    panels = report.in_units(found, (REWARD, JUDGE))
    table, words = report.tradeoff(found, panels), report.as_run(found) | (words or {})
    note = f"{report.note(found, 'prompt')} {tradeoffs.HOW}"
    figure = tradeoffs.draw(table, panels, base, report.DISTANCE.ylabel, title, note, words, whole)
    found.publish(stem, figure, table, panels)


# -- what terms are made of ------------------------------------------------------------------------


def trend(x: Collection[float], values: Sequence[np.ndarray]) -> np.ndarray:
    """Slope of the least-squares line through n measures [S, B] over settings x [n]: [S, B]."""
    centred = np.array([*x]) - np.mean([*x])
    return np.tensordot(centred, np.stack(values), 1) / (centred @ centred)


def fall(series: dict[str, float], column: str, table: pd.DataFrame) -> np.ndarray:
    """By how much a measure after the last step falls per unit of each series' setting, [S, B].

    The reward in spreads.
    """
    values = [at(table, name, column) for name in series]
    return -trend(series.values(), values) / frontier.unit(table, column)


def above(series: str, others: Collection[str], column: str = "reward") -> list[Term]:
    """A term for each other series, above whose curve of reward against KL one is to lie.

    Of another measure than the reward in that measure's own unit.
    """
    unit, what = ("spreads", "") if column == "reward" else (column, f"{column}: ")
    return [
        Term(f"{what}{series} above {other} ({unit})", (series, other),
             partial(frontier.gap, series=series, other=other, column=column), above=0)
        for other in others
    ]  # fmt: skip
