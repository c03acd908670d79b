"""Soft Best-of-N: its temperature, and what is compared at equal reward."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from bondlab import measures
from bondlab.report.intervals import paired_difference
from bondlab.report.kept import Results
from bondlab.study import soft_best
from bondlab.study.audit_rewards import in_spreads


def test_the_temperature_gives_the_mean_reward():
    """Of rewards 0 and 1 the better has the chance 1 / (1 + exp(-1 / T)): at 3/4 T = 1 / log 3."""
    chances, temperature = soft_best.soften(torch.tensor([[0.0, 1.0]], dtype=torch.float64), 0.75)
    assert temperature == pytest.approx(1 / np.log(3))
    assert chances.tolist() == [pytest.approx([0.25, 0.75])]
    with pytest.raises(ValueError):
        soft_best.soften(torch.tensor([[0.0, 1.0]]), 1.5)


def found(judge: np.ndarray, reward: np.ndarray) -> Results:
    """Both tasks' samples with these scores [B, K]."""
    rows = [
        {"task": task, "source": "policy", "prompt": b, "sample": k,
         "reward": reward[b, k], "judge": judge[b, k]}
        for task in soft_best.TASKS for b, k in np.ndindex(reward.shape)
    ]  # fmt: skip
    return Results("alignment_rewards", "smoke", tables={"texts": pd.DataFrame(rows)})


def number(text: str) -> float:
    return float(text.split()[0])


def test_a_judge_who_agrees_sees_the_reward_and_one_who_knows_better_its_fall():
    """The first gives every gain back, and soft as much as best. The second prefers each prompt's
    middle: the best of 16 is worse than the best of 8."""
    generator = np.random.default_rng(0)
    reward = np.sort(generator.normal(size=(40, 16)))
    same = soft_best.table(found(reward, reward)).query("task == 'chat'")
    assert [*same["judge"]] == [*same["reward"]]
    assert all(abs(number(text)) < 1e-9 for text in same["judge, soft - best"].iloc[:3])
    doubts = soft_best.table(found(-np.abs(reward - 0.8), reward)).query("task == 'chat'")
    gained = [number(text) for text in doubts["judge, n - n/2"]]
    assert gained[0] > 0 > gained[-1]
    assert number(doubts["wins"].iloc[-1]) < number(doubts["wins"].iloc[1])


def test_differences_are_paired_by_prompt_and_are_of_equal_reward():
    """Of a judge of another taste: from n / 2 samples to n, and from the best of n to soft."""
    reward = np.random.default_rng(0).normal(size=(40, 16))
    given = found(np.cos(reward), reward)
    wide = in_spreads(given, "chat").pivot(index="prompt", columns="sample")
    own, judge = (torch.tensor(wide[name].to_numpy()) for name in ("reward", "judge"))
    best = {n: measures.best_of_n_value(judge, own, n) for n in (1, 2, 4, 8, 16)}
    table = soft_best.table(given).query("task == 'chat'")
    expected = [str(paired_difference(best[n], best[n // 2])) for n in (2, 4, 8, 16)]
    assert table["judge, n - n/2"].tolist() == expected
    for n, found_text in zip((2, 4, 8), table["judge, soft - best"], strict=False):
        chances, _ = soft_best.soften(own, measures.best_of_n_value(own, own, n).mean().item())
        assert found_text == str(paired_difference((chances * judge).sum(-1), best[n]))
