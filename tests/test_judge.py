"""The second judge: win rates by hand and in theory, and scores kept beside what they judge."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bondlab.algorithms import j_bond
from bondlab.study import judge
from bondlab.study.alignment import SMOKE
from bondlab.study.sweep import Spec
from bondlab.tasks import TaskSettings, scorers

# -- measures -------------------------------------------------------------------------------------


def test_win_rates_by_hand():
    """Scores 2 and 0 against 1 and 0: 2 beats both, 0 loses to 1 and ties with 0.

    Over one completion (1 + 1 + 0 + 1/2) / 4; Best-of-2 takes the second, which the reward prefers:
    (1 + 1/2) / 2.
    """
    own, bank, rewards = (torch.tensor([x]) for x in ([2.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
    assert judge.win_rate(own, bank, rewards, 1).tolist() == [0.625]
    assert judge.win_rate(own, bank, rewards, 2).tolist() == [0.75]


def test_the_reference_wins_half_of_its_own_comparisons():
    """Each pair is met from both sides, and a tie is half to each: 1/2, ties or not."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 5, (3, 16), generator=generator).float()
    rewards = torch.rand(3, 16, generator=generator)
    assert judge.best_of_n(scores, rewards, [1])["win_over_1"].tolist() == pytest.approx([0.5] * 3)


@pytest.mark.parametrize(("sign", "expected"), [(1, 1), (-1, 0)])
def test_a_judge_that_agrees_or_disagrees_with_the_reward(sign, expected):
    """The best of n of M has the mean rank n (M+1) / (n+1), and beats rank - 1 of the M - 1 others
    under the reward itself; under its opposite the rest."""
    m, n = 16, 4
    rewards = torch.randperm(m, generator=torch.Generator().manual_seed(0))[None].double()
    rate = (n * (m + 1) / (n + 1) - 1) / (m - 1)
    found = judge.best_of_n(sign * rewards, rewards, [n])["win_over_1"].item()
    assert found == pytest.approx(rate if expected else 1 - rate)


def test_a_run_and_best_of_n_are_measured_by_prompt():
    """Prompt 0 scores 1 and 3, prompt 1 scores 5 and 7, all others' scores are 3.5. The four
    rewards of the bank are 0 to 3 and 4 to 7: above 0.5 lie three of four (and three of six pairs),
    above 6.5 one (no pair)."""
    bank, ranks = torch.full((2, 4), 3.5), torch.arange(8.0).view(2, 4)
    own, rewards = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[0.5] * 2, [6.5] * 2])
    table = judge.per_prompt(own, rewards, bank, ranks, [1, 4])
    assert table[["judge", "penalised", "win_over_4"]].values.tolist() == [[2, 0.5, 0], [6, 0, 1]]
    best = judge.best_of_n(ranks, ranks, (1, 4))
    assert best["n"].tolist() == [1, 1, 4, 4] and best["judge"].tolist() == [1.5, 5.5, 3, 7]
    assert best["win_over_1"].tolist() == [0.5, 0.5, 1, 1]


def test_the_penalty_of_the_reference_and_of_best_of_2():
    """Rewards on a fine grid of quantiles u: both of two are better with chance (1-u)^2, whose mean
    is 1/3 over u and 1/6 over the density 2u of Best-of-2; ties are not better."""
    u = (torch.arange(1000) + 0.5) / 1000
    share = judge.penalised(u[None], u[None])[0]
    assert share.mean().item() == pytest.approx(1 / 3, abs=2e-3)
    assert (2 * u * share).mean().item() == pytest.approx(1 / 6, abs=2e-3)
    assert judge.penalised(torch.zeros(1, 2), torch.zeros(1, 5)).tolist() == [[0, 0]]


# -- scores, made once -----------------------------------------------------------------------------


def lengths(prompts, completions) -> Tensor:
    return torch.tensor([[float(len(text)) for text in texts] for texts in completions])


def spec(task: str = "tiny_causal") -> Spec:
    return Spec(TaskSettings(name=task, train=2, evaluate=2), j_bond(), SMOKE, {})


@pytest.mark.usefixtures("runs")
def test_texts_are_scored_once_by_each_judge(monkeypatch):
    """A second call reads what was kept; other texts, prompts or another judge are scored anew."""
    calls = []

    def counted(prompts, completions):
        calls.append(len(prompts))
        return lengths(prompts, completions)

    def scores(name: str, *given):
        monkeypatch.setattr(judge, "judge_of", lambda *settings: (counted, name))
        return judge.scores(spec(), *given).tolist()

    for _ in range(2):
        assert scores("a", ["p", "q"], [["x", "xx"], ["", "y"]]) == [[1, 2], [0, 1]]
    assert len(calls) == 1
    scores("b", ["p", "q"], [["x", "xx"], ["", "y"]])
    scores("a", ["p", "r"], [["x", "xx"], ["", "y"]])
    assert scores("a", ["p", "q"], [["x", "xxx"], ["", "y"]]) == [[1, 3], [0, 1]]
    assert len(calls) == 4


def test_a_judge_is_named_by_its_weights_task_and_precision(monkeypatch):
    """One that was trained again reads nothing that the old one said."""
    monkeypatch.setattr(scorers, "load", lambda *_: lengths)

    def name(task: str, weights: str, precision: str) -> str:
        monkeypatch.setattr(scorers, "identity", lambda _: weights)
        return judge.judge_of(spec(task).task, precision)[1]

    first = ("chat", "old", "fp32")
    changed = [("chat", "new", "fp32"), ("sentiment", "old", "fp32"), ("chat", "old", "bf16")]
    assert len({name(*way) for way in (first, first, *changed)}) == 4


@pytest.mark.usefixtures("runs")
def test_a_judge_is_checked_as_a_reward_is(monkeypatch):
    monkeypatch.setattr(judge, "judge_of", lambda *_: (lambda *_: torch.tensor([[math.nan]]), "x"))
    with pytest.raises(ValueError, match="finite"):
        judge.scores(spec(), ["x"], [["y"]])


@pytest.mark.usefixtures("runs")
def test_who_judges_which_task():
    """The smoke profile's judge counts the prompt's words: two of "a b c" in "b x c b"."""
    shares = judge.scores(spec(), ["a b c a"], [["b x c b", ""]])
    assert shares[0].tolist() == pytest.approx([2 / 3, 0])
    with pytest.raises(ValueError, match="xsum has no judge"):
        judge.judge_of(spec("xsum").task)
