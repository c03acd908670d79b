"""Iterative BOND (Algorithm 1) where every law is a finite sum: how far n^t carries.

Each round ends at the minimum of a divergence to Best-of-n of the anchor, then the anchor becomes
the policy. For a *free* policy, one that can be any law, that minimum is Best-of-n of the anchor
itself, so that after t rounds it is Best-of-n^t of the reference (eq. 16): the target below. A
bigram policy misses a little of each round, and the next round starts from what it reached. From
n^t near the number of sequences on, little but the best of them is left, which it can be again.

Every number is exact but for the minimum, which Adam approaches. Divergences in nats.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal, Self

import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import Field, model_validator
from torch import Tensor

from bondlab import toy
from bondlab.measures import Interval, mean_interval, paired_difference
from bondlab.study import exact, exact_toy, plots
from bondlab.study.plots import Panel
from bondlab.toy import toy_training

SIZES = (2, 4)  # section 6, Fig. 4: n of iterative BOND
BETA = 0.5  # section 6, Fig. 4
HEADLINE = 16  # the largest N of Fig. 4: the fourth round of n = 2, the second of n = 4
LEARNING_RATE = exact_toy.LEARNING_RATE
SERIES = {
    "target": r"Best-of-$n^t$ of the reference",
    "moving": "policy, anchor moves each round",
    "fixed": "policy, anchor never moves",
}
PANELS = (
    Panel("log_quantile", "Reward log quantile", "mean log quantile (nats)"),
    Panel("kl_to_reference", "Distance from the reference", "KL to reference (nats)"),
    Panel("forward_kl", r"KL(Best-of-$n^t$ || $\pi$)", "nats"),
)
Anchor = Literal["moving", "fixed"]


class Settings(exact_toy.ToySettings):
    """How much to compute.

    Args:
        rounds: anchor updates.
        steps: Adam steps a round; not stated, chosen because twice as many move the log quantile
            by less than 0.01 nats.
    """

    rounds: int = Field(0, ge=0)
    steps: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fill(self) -> Self:
        smoke = self.profile == "smoke"
        self.rounds = self.rounds or (2 if smoke else 6)
        self.steps = self.steps or (3 if smoke else 100)
        return self


def composition(settings: Settings) -> pd.DataFrame:
    """A free policy after each round against Best-of-n^t: largest relative difference (eq. 16)."""
    return pd.DataFrame([
        {"n": n, "round": t, "N": n**t, "relative difference": exact.composition_error(n, t)}
        for n in SIZES for t in range(1, settings.rounds + 1)
    ])  # fmt: skip


def rounds(settings: Settings) -> pd.DataFrame:
    """Iterative BOND of a bigram policy on each toy problem, and the same with a fixed anchor.

    Returns one row for each anchor ("moving", "fixed"), n, problem and round from 0: the columns
    of `measure`.
    """
    return pd.DataFrame([
        {"anchor": anchor, "n": n, "problem": seed, **row}
        for anchor in ("moving", "fixed")
        for n in SIZES
        for seed in range(settings.problems)
        for row in iterate(*exact_toy.toy_problem(n, seed), anchor, settings)
    ])  # fmt: skip


def iterate(
    policy: toy.ToyPolicy, problem: toy.Problem, anchor: Anchor, settings: Settings
) -> list[dict[str, Any]]:
    """Algorithm 1 on one policy, in place, with exact gradients of the Jeffreys divergence.

    Args:
        policy: at the reference, which is the problem's anchor.
        problem: the first round's.
        anchor: "moving" becomes the policy after each round, "fixed" stays the reference.

    Returns:
        `measure` before the first round and after each.
    """
    rows = [measure(policy.log_probs().detach(), problem, 0)]
    current = problem
    for t in range(1, settings.rounds + 1):
        loss = partial(toy.jeffreys, problem=current, beta=BETA)
        # A new Adam each round: not stated; chosen because its moments are of the old target.
        toy_training.descend(policy, current, loss, settings.steps, LEARNING_RATE, settings.steps)
        log_policy = policy.log_probs().detach()
        rows.append(measure(log_policy, problem, t))
        if anchor == "moving":
            current = replace(problem, log_anchor=log_policy)
    return rows


def measure(log_policy: Tensor, problem: toy.Problem, t: int) -> dict[str, float]:
    """A policy after t rounds beside Best-of-n^t of the reference, both under the reference.

    Args:
        log_policy: [B, V].
        problem: Best-of-n of the reference.
    """
    target = replace(problem, n=problem.n**t)
    found = {
        "round": t,
        "backward_kl": toy.backward_kl(log_policy, target),
        "forward_kl": toy.forward_kl(log_policy, target),
    }
    for prefix, law in (("", log_policy), ("target_", target.log_target)):
        found[f"{prefix}log_quantile"] = toy.mean_log_quantile(law, problem)
        found[f"{prefix}kl_to_reference"] = toy.kl(law, problem.log_anchor)
    return {k: v.item() if isinstance(v, torch.Tensor) else v for k, v in found.items()}


def curve_table(records: pd.DataFrame) -> pd.DataFrame:
    """The plotted numbers of `rounds`: row, panel, series, step (the round), mean, low, high."""
    columns = {"round": "step", "target_log_quantile": "log_quantile"}
    columns |= {"target_kl_to_reference": "kl_to_reference"}
    rows = records.assign(row=[f"n = {n}" for n in records["n"]])
    policies = rows.assign(series=rows["anchor"].map(SERIES)).rename(columns={"round": "step"})
    target = rows[rows["anchor"] == "moving"].assign(series=SERIES["target"])
    target = target[["row", "series", *columns]].rename(columns=columns)
    names = [panel.name for panel in PANELS]
    parts = exact_toy.curves_of(target, names[:2]), exact_toy.curves_of(policies, names)
    return pd.concat(parts, ignore_index=True)


def figure(table: pd.DataFrame, settings: Settings) -> Figure:
    """The policy following Best-of-n^t round by round, from `curve_table`."""
    rows = [f"n = {n}" for n in SIZES]
    note = (
        f"Exact gradients, {settings.steps} Adam steps a round, beta = {BETA:g}; mean and 95 % t "
        f"interval over {settings.problems} toy problems of 4 prompts with 156 sequences each. "
        "Quantiles are under the reference."
    )
    title = "Iterative BOND where Best-of-N is known"
    return plots.curves(table, PANELS, rows, xlabel="round t", title=title, note=note)


def gaps(records: pd.DataFrame) -> pd.DataFrame:
    """How far the policy is from Best-of-n^t after each round: mean and interval over problems.

    Log quantile and KL to the reference as differences (policy less target), and both divergences
    to the target, for each anchor.
    """
    return pd.DataFrame([
        {"anchor": anchor, "n": n, "round": t, "N": n**t, "measure": what, "gap": found}
        for (anchor, n, t), part in records[records["round"] > 0].groupby(["anchor", "n", "round"])
        for what, found in _gaps(part).items()
    ])  # fmt: skip


def _gaps(part: pd.DataFrame) -> dict[str, Interval]:
    columns = ("log_quantile", "kl_to_reference")
    found = {name: paired_difference(part[name], part[f"target_{name}"]) for name in columns}
    return found | {name: mean_interval(part[name]) for name in ("backward_kl", "forward_kl")}


def publish(records: pd.DataFrame, settings: Settings, experiment: str) -> None:
    """Draw `rounds`, write the files of "toy_rounds" unless they are shipped, and show it."""
    table = curve_table(records)
    drawn = figure(table, settings)
    numbers = [
        exact.headline(
            f"{row.anchor} anchor, n = {row.n}, round {row.round}: {row.measure}", row.gap, "nats"
        )
        for row in gaps(records).itertuples()
        if row.N == HEADLINE
    ]
    exact.save(drawn, "toy_rounds", table, numbers, settings, experiment=experiment)
    plots.show(drawn, "Log quantile, KL to the reference and divergence to Best-of-n^t by round")
