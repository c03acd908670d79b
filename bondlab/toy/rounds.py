"""Iterative BOND (Algorithm 1) where every distribution is a finite sum: how far n^t carries.

Each round ends at the minimum of a divergence to Best-of-n of the anchor, then the anchor becomes
the policy. For a *free* policy, one that can be any distribution, that minimum is Best-of-n of the
anchor itself, so that after t rounds it is Best-of-n^t of the reference (eq. 16): the target below.
A bigram policy misses a little of each round, and the next round starts from what it reached. From
n^t near the number of sequences on, little but the best of them is left, which it can be again.

Every number is exact but for the minimum, which Adam approaches. Divergences in nats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import pandas as pd
from torch import Tensor

from bondlab import toy
from bondlab.report.intervals import Interval, paired_difference
from bondlab.toy import descents, exact, training

SIZES = (2, 4)  # section 6, Fig. 4: n of iterative BOND
BETA = 0.5  # section 6, Fig. 4
LARGEST = 16  # the largest N of Fig. 4: the fourth round of n = 2, the second of n = 4
SERIES = {
    "target": r"Best-of-$n^t$ of the reference",
    "moving": "policy, anchor moves each round",
    "fixed": "policy, anchor never moves",
}
MEASURES = ("log_quantile", "kl_to_reference", "forward_kl")
Anchor = Literal["moving", "fixed"]


@dataclass(frozen=True)
class Scale:
    """How much to compute: toy problems, anchor updates, Adam steps between them.

    Steps are not stated; chosen because twice as many move the log quantile by less than 0.01 nats.
    """

    problems: int = 8
    rounds: int = 6
    steps: int = 100

    @classmethod
    def of(cls, profile: str) -> Scale:
        """That of a profile."""
        return cls(2, 2, 3) if profile == "smoke" else cls()


def composition(scale: Scale) -> pd.DataFrame:
    """A free policy after each round against Best-of-n^t: largest relative difference (eq. 16)."""
    return pd.DataFrame([
        {"n": n, "round": t, "N": n**t, "relative difference": exact.composition_error(n, t)}
        for n in SIZES for t in range(1, scale.rounds + 1)
    ])  # fmt: skip


def rounds(scale: Scale) -> pd.DataFrame:
    """Iterative BOND of a bigram policy on each toy problem, and the same with a fixed anchor.

    Returns one row for each anchor ("moving", "fixed"), n, problem and round from 0: the columns
    of `measure`.
    """
    return pd.DataFrame([
        {"anchor": anchor, "n": n, "problem": seed, **row}
        for anchor in ("moving", "fixed")
        for n in SIZES
        for seed in range(scale.problems)
        for row in iterate(*descents.problem_of(n, seed), anchor, scale)
    ])  # fmt: skip


def iterate(
    policy: toy.ToyPolicy, problem: toy.Problem, anchor: Anchor, scale: Scale
) -> list[dict[str, Any]]:
    """Algorithm 1 on one policy, in place, with exact gradients of the Jeffreys divergence.

    Args:
        policy: at the reference, which is the problem's anchor.
        problem: the first round's.
        anchor: "moving" becomes the policy after each round, "fixed" stays the reference.

    Returns:
        `measure` before the first round and after each.
    """
    rows, current = [measure(policy.log_probs().detach(), problem, 0)], problem
    for t in range(1, scale.rounds + 1):
        loss = partial(toy.jeffreys, problem=current, beta=BETA)
        # A new Adam each round: not stated; chosen because its moments are of the old target.
        *_, (_, log_policy) = training.descend(policy, loss, scale.steps, descents.LEARNING_RATE)
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
        "backward_kl": toy.backward_kl(log_policy, target),
        "forward_kl": toy.forward_kl(log_policy, target),
    }
    for prefix, log_probs in (("", log_policy), ("target_", target.log_target)):
        found[f"{prefix}log_quantile"] = toy.mean_log_quantile(log_probs, problem)
        found[f"{prefix}kl_to_reference"] = toy.kl(log_probs, problem.log_anchor)
    return {"round": t, **{name: value.item() for name, value in found.items()}}


def curve_table(records: pd.DataFrame) -> pd.DataFrame:
    """The plotted numbers of `rounds`: row, panel, series, step (the round), mean, low, high."""
    columns = {"round": "step", "target_log_quantile": "log_quantile"}
    columns |= {"target_kl_to_reference": "kl_to_reference"}
    rows = records.assign(row=[f"n = {n}" for n in records["n"]])
    policies = rows.assign(series=rows["anchor"].map(SERIES)).rename(columns={"round": "step"})
    target = rows[rows["anchor"] == "moving"].assign(series=SERIES["target"])
    target = target[["row", "series", "problem", *columns]].rename(columns=columns)
    parts = descents.over_problems(target, MEASURES[:2]), descents.over_problems(policies, MEASURES)
    table = pd.concat(parts, ignore_index=True)
    least = table["panel"].map({"log_quantile": -math.inf}).fillna(0)  # no KL is below 0
    return table.assign(low=table["low"].clip(lower=least))


def gaps(records: pd.DataFrame) -> dict[str, tuple[Interval, str]]:
    """How far the policy is from Best-of-16, with the unit: in the round that should reach it.

    Log quantile and KL to the reference as differences (policy minus target), and both divergences
    to the target, for each anchor.
    """
    found = {}
    chosen = records[records["n"] ** records["round"] == LARGEST]
    for (anchor, n, t), part in chosen.groupby(["anchor", "n", "round"]):
        for name in ("log_quantile", "kl_to_reference", "backward_kl", "forward_kl"):
            target = part.get(f"target_{name}", 0 * part[name])  # whose own divergence is 0
            gap = paired_difference(part[name], target)
            found[f"{anchor} anchor, n = {n}, round {t}: {name}"] = gap, "nats"
    return found
