"""One target, two directions: does the divergence decide how many good answers are kept?

Two sequences share the highest reward. Best-of-N of the reference keeps both, in the reference's
proportion, and that is the target whatever beta. A *free* policy can be any distribution over the
sequences, so that every beta has the same optimum; a *bigram* policy cannot write both sequences
without others, as each token of one contradicts the other's, and has to choose.
Kept variety is the entropy over the two modes, in nats: log 2 = 0.693 where both are as likely.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product

import pandas as pd
import torch
from torch import Tensor

from bondlab import toy
from bondlab.report.intervals import Interval, mean_interval, paired_difference
from bondlab.toy import training
from bondlab.toy.descents import OBJECTIVES

MODES = ((1, 2, 2), (2, 1, 1))  # 1 is followed by 2, then 2 by 2; 2 by 1, then 1 by 1
POLICIES = ("free", "bigram")
# Chosen: N so that the target has nine tenths of its mass on the modes; a reference near uniform,
# which starts no mode far ahead; steps after which twice as many change no mean entropy by 0.02.
N, SCALE, EARLY, STEPS, LEARNING_RATE = 32, 0.5, 100, 400, 0.1


@dataclass(frozen=True)
class Scale:
    """How much to compute: toy problems, each with its own reference and rewards, and steps."""

    problems: int = 100
    steps: int = STEPS
    early: int = EARLY

    @classmethod
    def of(cls, profile: str) -> Scale:
        """That of a profile."""
        return cls(2, 4, 2) if profile == "smoke" else cls()


def problem_of(scale: Scale, seed: int) -> tuple[toy.ToyPolicy, toy.Problem, Tensor]:
    """A bigram policy at its references, the problem, and the numbers of the two modes.

    Every prompt is a problem of its own. Other rewards are normal, but below the modes'.
    """
    policy = toy.ToyPolicy(scale.problems, 3, 3, scale=SCALE, seed=seed)
    rewards = toy.draw_rewards(policy, 1.0, seed + 1)
    rows = policy.sequences.tolist()
    modes = torch.tensor([rows.index([*mode]) for mode in MODES])
    rewards[:, modes] = rewards.amax(dim=1, keepdim=True) + 1
    return policy, toy.Problem(policy.log_probs().detach(), rewards, N), modes


def free(log_probs: Tensor) -> toy.ToyPolicy:
    """A policy that is any distribution over as many one-token sequences, at these [B, V]."""
    policy = toy.ToyPolicy(len(log_probs), log_probs.shape[1], 1)
    with torch.no_grad():
        policy.logits[:, toy.END] = log_probs
    return policy


def mode_entropy(log_probs: Tensor, modes: Tensor) -> Tensor:
    """Entropy over the two modes, given one of them, [B] nats, of distributions [B, V]."""
    share = log_probs[:, modes].log_softmax(dim=1)
    return -(share.exp() * share).sum(dim=1)


def descents(scale: Scale, seed: int = 0) -> pd.DataFrame:
    """Exact descent of each divergence by each kind of policy.

    Returns a row for each policy (`row`), objective (`series`), step (the early one, the last) and
    problem: entropy (over the modes) and mass (of both); the target as a policy "target".
    """
    parts = []
    for kind, (beta, name) in product(POLICIES, OBJECTIVES.items()):
        policy, problem, modes = problem_of(scale, seed)
        policy = free(problem.log_anchor) if kind == "free" else policy
        loss = partial(toy.jeffreys, problem=problem, beta=beta)
        for step, log_policy in training.descend(policy, loss, scale.steps, LEARNING_RATE):
            if step in (scale.early, scale.steps):
                parts.append(_rows(log_policy, modes, row=kind, series=name, step=step))
    target = _rows(problem.log_target, modes, row="target", series="Best-of-N", step=scale.steps)
    return pd.concat([*parts, target], ignore_index=True)


def _rows(log_probs: Tensor, modes: Tensor, **labels: object) -> pd.DataFrame:
    mass = log_probs[:, modes].exp().sum(dim=1)
    columns = {"entropy": mode_entropy(log_probs, modes).numpy(), "mass": mass.numpy()}
    return pd.DataFrame(columns).assign(problem=range(len(mass)), **labels)


def bar_table(records: pd.DataFrame) -> pd.DataFrame:
    """Mean entropy over the modes with its interval: panel (policy), group (step), series."""
    trained = records[records["row"] != "target"]
    return pd.DataFrame([
        mean_interval(part["entropy"]).row(panel=kind, group=f"{step} steps", series=name)
        for (kind, step, name), part in trained.groupby(["row", "step", "series"], sort=False)
    ])  # fmt: skip


def gaps(records: pd.DataFrame) -> dict[tuple[str, int], Interval]:
    """Entropy over the modes, forward minus backward KL, paired by problem, by policy and step."""
    found, trained = {}, records[records["row"] != "target"]
    for key, part in trained.groupby(["row", "step"], sort=False):
        wide = part.pivot(index="problem", columns="series", values="entropy")
        found[key] = paired_difference(wide[OBJECTIVES[0.0]], wide[OBJECTIVES[1.0]])
    return found


def gap_table(records: pd.DataFrame) -> pd.DataFrame:
    """`gaps` with their ends, and how much of each policy's mass is on the modes."""
    mass = records.groupby(["row", "step", "series"])["mass"].mean()
    return pd.DataFrame([
        {"policy": kind, "steps": step}
        | {"entropy, beta 0 - beta 1": gap.mean, "low": gap.low, "high": gap.high}
        | {f"mass, beta {beta:g}": mass[kind, step, name] for beta, name in OBJECTIVES.items()}
        for (kind, step), gap in gaps(records).items()
    ])  # fmt: skip
