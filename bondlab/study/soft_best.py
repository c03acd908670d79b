"""Over-optimisation of a reward by choosing among samples, and soft Best-of-N as a remedy.

The best of N samples by a reward has ever more of it; whether it is better under a second judge,
who knows other things, is another question. Soft Best-of-N (arXiv:2505.03156) draws one of the
samples with chances proportional to exp(reward / temperature). Both are compared at one mean
reward: soft Best-of-K at the temperature where it has that of Best-of-n. Nothing is trained.

Legend: B prompts, K samples of each.
"""

from __future__ import annotations

import math

import pandas as pd
import torch
from scipy.optimize import brentq
from torch import Tensor

from bondlab import measures
from bondlab.report.intervals import mean_interval, paired_difference
from bondlab.report.kept import Results
from bondlab.study.audit import SIZES
from bondlab.study.audit_rewards import SCORERS, TASKS, in_spreads
from bondlab.study.judge import beaten

HOTTEST = 1e3  # spreads of reward: a choice at random


def soften(rewards: Tensor, mean: float) -> tuple[Tensor, float]:
    """Chances [B, K] of soft Best-of-K whose mean reward is `mean`, and its temperature.

    Raises:
        ValueError: `mean` is not between the samples' mean reward and that of their best.
    """

    def chances(log_temperature: float) -> Tensor:
        return (rewards / math.exp(log_temperature)).softmax(-1)

    def beyond(log_temperature: float) -> float:
        return (chances(log_temperature) * rewards).sum(-1).mean().item() - mean

    found = brentq(beyond, -math.log(HOTTEST), math.log(HOTTEST))
    return chances(found), math.exp(found)


def table(found: Results) -> pd.DataFrame:
    """Best-of-n and soft Best-of-K of equal reward, a line per task and n of `SIZES`, as text.

    reward and judge: gains over one sample, in the scores' own spreads within a prompt; wins: how
    often the judge prefers the chosen one to another sample, ties half. "n - n/2" is what the judge
    gives for twice as many samples: below 0, the reward is over-optimised. "soft - best" are the
    differences at a temperature (in spreads) where both have the same reward. Over prompts.
    """
    lines = []
    for task in TASKS:
        wide = in_spreads(found, task).pivot(index="prompt", columns="sample")
        reward, judge = (torch.tensor(wide[name].to_numpy(float)) for name in SCORERS)
        measured = {"judge": judge, "wins": beaten(judge)}
        for n in SIZES[1:]:
            best = {k: measures.best_of_n_value(v, reward, n) for k, v in measured.items()}
            gain = measures.best_of_n_value(reward, reward, n)
            line = {"task": task, "n": n, "reward": str(mean_interval(gain))}
            line |= {name: str(mean_interval(values)) for name, values in best.items()}
            half = measures.best_of_n_value(judge, reward, n // 2)
            line["judge, n - n/2"] = str(paired_difference(best["judge"], half))
            if n < reward.shape[1]:  # the best of all is soft at temperature 0
                chances, temperature = soften(reward, gain.mean().item())
                line["temperature"] = f"{temperature:.2f}"
                for name, values in measured.items():
                    softly = (chances * values).sum(-1)
                    line[f"{name}, soft - best"] = str(paired_difference(softly, best[name]))
            lines.append(line)
    return pd.DataFrame(lines).fillna("-")
