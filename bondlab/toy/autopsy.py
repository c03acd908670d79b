"""An autopsy of a J-BOND written elsewhere, on the enumerable policy: which of its faults tells?

A public attempt at Algorithm 2 on a mathematics task (github.com/gurusha01/passk-frontier,
train_bon.py) found flat or collapsing curves. It differs from the algorithm in three ways, here
mended one after another: its anchor is averaged in bfloat16, in place, where a change of less than
half a unit in the last place (2^-9 of a weight) is lost; G_Reg has the sign that v1 of the paper
prints, which pushes away from the anchor; and its reward is yes or no, which ties. Its numbers are
kept: eta 0.02, beta 0.5, gamma 0.1, 320 steps. It also trains the policy in bfloat16, breaks the
forward half's ties by length, and samples: none of that here, where every update is exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import pandas as pd
import torch
from torch import Tensor

from bondlab import best_of_n, toy
from bondlab.report.intervals import Interval, mean_interval, paired_difference
from bondlab.toy.descents import over_problems

ETA, BETA, GAMMA, STEPS = 0.02, 0.5, 0.1, 320
# A logit is the weight times this: a weight that changes by 1 % moves its logit by about 1. A
# language model's change by a few per cent at most: there by 320 x 3e-6 = 0.001, of about 0.02.
GAIN = 100.0
LEARNING_RATE = 0.02 / GAIN  # of weights: at most 0.02 of a logit a step
RIGHT = 0.25  # share of the reference's answers to which the yes-or-no reward says yes, at least


@dataclass(frozen=True)
class Arm:
    """One way of writing J-BOND: the anchor's type, the sign of G_Reg, the reward.

    Args:
        sign: of the gradient of gamma KL(pi || anchor) in descent; 1 pulls to the anchor.
    """

    name: str
    anchor: torch.dtype
    sign: int
    binary: bool


ARMS = (
    Arm("as published", torch.bfloat16, -1, True),
    Arm("+ float32 anchor", torch.float32, -1, True),
    Arm("+ right sign", torch.float32, 1, True),
    Arm("+ continuous reward", torch.float32, 1, False),
)


@dataclass(frozen=True)
class Scale:
    """How much to compute: toy problems, each with its own reference and reward, and steps."""

    problems: int = 30
    steps: int = STEPS

    @classmethod
    def of(cls, profile: str) -> Scale:
        """That of a profile."""
        return cls(2, 4) if profile == "smoke" else cls()


def runs(scale: Scale) -> pd.DataFrame:
    """Every arm on the same problems: series, step (each twentieth), problem and `_measure`'s."""
    return pd.concat([_run(arm, scale) for arm in ARMS], ignore_index=True)


def _problem(scale: Scale) -> tuple[toy.ToyPolicy, toy.Problem, Tensor]:
    """The policy, Best-of-2 of it under the continuous reward, and which answers are right."""
    policy = toy.ToyPolicy(scale.problems, 6, 3, seed=0)
    problem = toy.Problem(policy.log_probs().detach(), toy.draw_rewards(policy, 0.5, 1), 2)
    return policy, problem, (problem.log_quantiles.exp() > 1 - RIGHT).double()


def _run(arm: Arm, scale: Scale) -> pd.DataFrame:
    policy, reference, right = _problem(scale)
    start = torch.randn(policy.logits.shape, generator=torch.Generator().manual_seed(2))
    start = start.bfloat16()  # what both formats hold
    base, weights = policy.logits.detach(), start.double().requires_grad_()
    anchor = start.to(arm.anchor, copy=True)
    optimizer = torch.optim.Adam([weights], lr=LEARNING_RATE)

    def log_probs(values: Tensor) -> Tensor:
        logits = base + GAIN * (values.double() - start.double())
        return policy.sum_pairs(logits.log_softmax(-1))

    problem, parts = replace(reference, rewards=right) if arm.binary else reference, []
    loss = partial(toy.j_bond, beta=BETA, gamma=arm.sign * GAMMA)
    for step in range(scale.steps + 1):
        if step % max(scale.steps // 16, 1) == 0:
            way = share(anchor.double(), weights.detach(), start.double())
            found = _measure(log_probs(weights).detach(), reference, right, way)
            parts.append(found.assign(series=arm.name, step=step))
        optimizer.zero_grad()
        loss(log_probs(weights), replace(problem, log_anchor=log_probs(anchor).detach())).backward()
        optimizer.step()
        _follow(anchor, weights.detach())
    return pd.concat(parts, ignore_index=True)


def _follow(anchor: Tensor, policy: Tensor) -> None:
    """Eq. 18, in place, in the anchor's own type."""
    anchor.mul_(1 - ETA).add_(policy.to(anchor.dtype), alpha=ETA)


def share(anchor: Tensor, policy: Tensor, reference: Tensor) -> Tensor:
    """How much of the policy's way from the reference the anchor has gone, [B] of weights [B, ...].

    Along that way: rounding shakes an anchor off the reference, too, in other directions.
    """
    gone, way = ((x - reference).flatten(1) for x in (anchor, policy))
    return (gone * way).sum(1) / way.square().sum(1).clamp(min=1e-24)


def _measure(
    log_policy: Tensor, reference: toy.Problem, right: Tensor, way: Tensor
) -> pd.DataFrame:
    """A row per problem: success (chance of a right answer), log_quantile, kl (both under and to
    the reference, nats), anchor_share (`share`)."""
    probs = log_policy.exp()
    columns = {
        "success": probs * right,
        "log_quantile": probs * reference.log_quantiles,
        "kl": probs * (log_policy - reference.log_anchor),
    }
    table = pd.DataFrame({name: value.sum(1).numpy() for name, value in columns.items()})
    return table.assign(anchor_share=way.numpy(), problem=range(len(table)))


def curve_table(records: pd.DataFrame) -> pd.DataFrame:
    """`descents.over_problems` of what is drawn, all in one row."""
    return over_problems(records.assign(row=""), ["anchor_share", "success", "kl"])


def ends(records: pd.DataFrame) -> pd.DataFrame:
    """Every arm's measures after the last step, mean [95 % interval over problems]."""
    last = records[records["step"] == records["step"].max()]
    names = ["anchor_share", "success", "log_quantile", "kl"]
    return pd.DataFrame([
        {"arm": name, **{column: str(mean_interval(part[column])) for column in names}}
        for name, part in last.groupby("series", sort=False)
    ])  # fmt: skip


def gains(records: pd.DataFrame) -> list[tuple[str, Interval]]:
    """What each mending changes in success after the last step, paired by problem."""
    last = records[records["step"] == records["step"].max()]
    success = last.pivot(index="problem", columns="series", values="success")
    names = [arm.name for arm in ARMS]
    return [
        (after, paired_difference(success[after], success[before]))
        for before, after in pairwise(names)
    ]


def began(records: pd.DataFrame) -> float:
    """Success of the reference, a mean over problems."""
    return records.loc[records["step"] == 0, "success"].mean()


def lost() -> pd.DataFrame:
    """`share` of an anchor's way after 200 averages towards weights that have changed.

    A thousand normal weights, each changed by a share of itself in some direction: a line each.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(1, 1000, generator=generator).bfloat16()
    signs = torch.randn(1, 1000, generator=generator).sign()
    rows = []
    for change in (0.001, 0.01, 0.03, 0.1, 0.3, 1.0):
        policy, row = start.float() * (1 + change * signs), {"change of a weight": f"{change:.1%}"}
        for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
            anchor = start.to(dtype, copy=True)
            for _ in range(200):
                _follow(anchor, policy)
            followed = share(anchor.float(), policy, start.float())
            row[f"share of it followed in {name}"] = followed.item()
        rows.append(row)
    return pd.DataFrame(rows)


def ceiling(scale: Scale) -> float:
    """Success of Best-of-2 of the reference, which an anchor that never moves ends at: a mean."""
    _, problem, right = _problem(scale)
    chosen = best_of_n.pmf(problem.log_anchor.exp(), right, 2)
    return (chosen * right).sum(1).mean().item()
