"""Best-of-N and J-BOND in exact numbers: closed forms beside simulations (notebook 00).

The functions return tidy tables for `bondlab.report.plots`: an exact value, or a simulation with
its 95 % interval. Every table draws from its own generator, so that cells can run in any order. All
logs are natural, divergences in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import pandas as pd
import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from bondlab import best_of_n, quantiles, rules, toy
from bondlab.report.intervals import Interval, accuracy_interval, known, mean_interval
from bondlab.report.kept import Profile

EQUAL = 8  # equally likely values of the coarse reward
QUANTILE_SAMPLES = 16  # section 6: k = 16 in training


class Settings(BaseModel):
    """Parameters of notebook 00. A count of 0 follows from the profile.

    Args:
        seed: of every random draw.
        n: the N of the objectives on the toy policy.
        sizes: the simulated N of the divergence figure.
        draws: simulated rounds behind each simulated number.
        problems: toy problems, each with its own reference and reward, behind each curve.
        steps: updates of each toy policy.
    """

    profile: Profile
    seed: int = Field(ge=0)
    n: int = Field(ge=2)
    sizes: list[int] = Field(min_length=1)
    draws: int = Field(ge=0)
    problems: int = Field(ge=0)
    steps: int = Field(ge=0)

    @model_validator(mode="after")
    def _fill(self) -> Self:
        if min(self.sizes) < 1:
            raise ValueError("`sizes` holds the N of Best-of-N: each must be 1 or more")
        if 1 in (self.draws, self.problems):
            raise ValueError("an interval needs 2 or more: raise `draws` and `problems`, or 0")
        smoke = self.profile == "smoke"
        self.draws = self.draws or (500 if smoke else 200_000)
        self.problems = self.problems or (2 if smoke else 8)
        self.steps = self.steps or (3 if smoke else 200)
        return self

    def generator(self) -> torch.Generator:
        """A new generator at the seed."""
        return torch.Generator().manual_seed(self.seed)


def beside(table: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Each simulated value beside the exact one of equal keys: exact, simulated, low, high."""
    drawn = table["low"].notna()
    exact = table[~drawn & (table["series"] != "one draw")]
    both = exact[[*keys, "mean"]].rename(columns={"mean": "exact"})
    both = both.merge(table[drawn].rename(columns={"mean": "simulated"}), on=[*keys])
    return both[[*keys, "exact", "simulated", "low", "high"]]


# -- Best-of-N -------------------------------------------------------------------------------------


def distribution(
    panel: str, probs: Sequence[float], rewards: Sequence[int], n: int, settings: Settings
) -> pd.DataFrame:
    """Theorem 1 beside `draws` simulated rounds of Best-of-n; a row for each outcome and series."""
    one, ranks = torch.tensor(probs, dtype=torch.float64), torch.tensor(rewards)
    drawn = toy.draw(one.log().expand(settings.draws, -1), n, settings.generator())
    kept = drawn.gather(1, best_of_n.select(ranks[drawn]).unsqueeze(1))
    rows = []
    for y, exact in enumerate(best_of_n.pmf(one, ranks, n).tolist()):
        values = {
            "one draw": known(probs[y]),
            f"Best-of-{n}, Theorem 1": known(exact),
            f"Best-of-{n}, simulated": accuracy_interval((kept == y).flatten().numpy()),
        }
        group = f"{'ABCDEFGH'[y]} (reward {rewards[y]})"
        rows += [v.row(panel=panel, group=group, series=name) for name, v in values.items()]
    return pd.DataFrame(rows)


def divergences(settings: Settings) -> pd.DataFrame:
    """KL both ways and win rate of Best-of-N against N (panels forward, backward, win).

    Two rewards: continuous, where log N - (N-1)/N is exact, and `EQUAL` equally likely values,
    where it is an upper bound. A tie counts half a win.
    """
    generator, rows = settings.generator(), []
    fine, coarse = "continuous reward", f"{EQUAL} reward values"
    for n in range(1, max(settings.sizes) + 1):
        formulas = best_of_n.kl_bound(n), best_of_n.backward_kl(n), best_of_n.win_rate(n)
        rows += _three(fine, "formula", n, map(known, formulas))
        rows += _three(coarse, "formula", n, map(known, _coarse(n)))
    for n in sorted(settings.sizes):
        u = torch.rand(settings.draws, n + 1, generator=generator, dtype=torch.float64)
        value = (u * EQUAL).long()
        ratio = (EQUAL * best_of_n.pmf(even(EQUAL), torch.arange(EQUAL), n)).log()
        rows += _three(fine, "points", n, _rounds(u, math.log(n) + (n - 1) * u.log()))
        rows += _three(coarse, "points", n, _rounds(value, ratio[value]))
    return pd.DataFrame(rows)


def _rounds(rewards: Tensor, log_ratio: Tensor) -> list[Interval]:
    """Best of the first n columns against the last: log(pi_BoN/pi), minus the last's, wins."""
    best = best_of_n.select(rewards[:, :-1]).unsqueeze(1)
    chosen, single = rewards.gather(1, best).squeeze(1), rewards[:, -1]
    wins = (chosen > single).double() + (chosen == single).double() / 2
    values = log_ratio.gather(1, best).squeeze(1), -log_ratio[:, -1], wins
    return [mean_interval(value.numpy()) for value in values]


def even(count: int) -> Tensor:
    """Probabilities of equally likely outcomes, [count]."""
    return torch.full((count,), 1 / count, dtype=torch.float64)


def _coarse(n: int) -> list[float]:
    """The three exact numbers for equally likely values."""
    probs, rewards = even(EQUAL), torch.arange(EQUAL)
    chosen = best_of_n.pmf(probs, rewards, n)
    ratio = (chosen / probs).log()
    less, leq = best_of_n.tail_probs(probs, rewards)
    return [(chosen @ ratio).item(), -(probs @ ratio).item(), (chosen @ (less + leq)).item() / 2]


def _three(series: str, kind: str, n: int, values: Any) -> list[dict[str, Any]]:
    return [
        value.row(panel=panel, series=series, kind=kind, x=n)
        for panel, value in zip(("forward", "backward", "win"), values, strict=True)
    ]


def composition_error(n: int, times: int) -> float:
    """Largest relative distance of Best-of-n applied `times` times from Best-of-n^times (eq. 16).

    Over 50 outcomes, most of them tied.
    """
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(50, dtype=torch.float64, generator=generator)
    rewards = torch.randint(0, 20, (50,), generator=generator)
    log_probs = iterated = (probs / probs.sum()).log()
    for _ in range(times):
        iterated = best_of_n.log_pmf(iterated, rewards, n)
    at_once = best_of_n.log_pmf(log_probs, rewards, n**times)
    return torch.expm1(iterated - at_once).abs().max().item()


# -- J-BOND's reward -------------------------------------------------------------------------------


def j_bond_reward(settings: Settings) -> pd.DataFrame:
    """Figure 8: E[r_J] and log p against the quantile p (panel reward), and simulated.

    The simulated log p is what BOND uses in its place: the logarithm of an estimate from 16
    reference samples, floored at 1/32.
    """
    generator, rows = settings.generator(), []
    names = ("J-BOND reward", "log quantile")

    def add(kind: str, p: float, values: Sequence[Interval]) -> None:
        for name, value in zip(names, values, strict=True):
            rows.append(value.row(panel="reward", series=name, kind=kind, x=p))

    for p in (i / 100 for i in range(1, 101)):
        closed = rules.J_BOND_PENALTY * (1 - p) ** 2, math.log(p)  # Eq. 23
        add("formula", p, [known(value) for value in closed])
    for p in (0.02, *(i / 10 for i in range(1, 11))):
        sample = torch.full((settings.draws, 1), p, dtype=torch.float64)
        shape = (settings.draws, 2 + QUANTILE_SAMPLES)
        others = torch.rand(shape, generator=generator, dtype=torch.float64)
        binary = rules.j_bond_reward(sample, others[:, :2])
        estimate = quantiles.empirical(sample, others[:, 2:]).log()
        add("points", p, [mean_interval(x.flatten().numpy()) for x in (binary, estimate)])
    return pd.DataFrame(rows)


def penalised_share(settings: Settings) -> Interval:
    """Share of samples that J-BOND penalises while policy and anchor still agree: 1/3."""
    shape = (settings.draws, 3)
    rewards = torch.rand(shape, generator=settings.generator(), dtype=torch.float64)
    penalised = rules.j_bond_reward(rewards[:, :1], rewards[:, 1:]) < 0
    return accuracy_interval(penalised.flatten().numpy())
