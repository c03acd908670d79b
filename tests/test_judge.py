"""The second judge: win rates by hand and in theory, and scores kept beside what they judge."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import Tensor

from bondlab.bank import BankFolder
from bondlab.device import accelerator
from bondlab.results import RunFolder
from bondlab.study import judge
from bondlab.study.judge import Judge
from bondlab.tasks import Task, TaskSettings, tiny

TEXTS = tiny.documents(5)


def task() -> Task:
    model = tiny.language_model("gemma").requires_grad_(False)
    return Task(model, tiny.reward, TEXTS[:2], TEXTS[2:], identity={"policy": "tiny"})


class Counting:
    """A judge that prefers long texts, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, prompts, completions) -> Tensor:
        self.calls += 1
        return torch.tensor([[float(len(text)) for text in texts] for texts in completions])


def of(score, identity: str = "a") -> Judge:
    return Judge(score, identity, "fp32")


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
    assert judge.win_rate_of_best(scores, rewards, 1).tolist() == pytest.approx([0.5] * 3)


@pytest.mark.parametrize(("sign", "expected"), [(1, 1), (-1, 0)])
def test_a_judge_that_agrees_or_disagrees_with_the_reward(sign, expected):
    """The best of n of M has the mean rank n (M+1) / (n+1), and beats rank - 1 of the M - 1 others
    under the reward itself; under its opposite the rest."""
    m, n = 16, 4
    rewards = torch.randperm(m, generator=torch.Generator().manual_seed(0))[None].double()
    rate = (n * (m + 1) / (n + 1) - 1) / (m - 1)
    found = judge.win_rate_of_best(sign * rewards, rewards, n).item()
    assert found == pytest.approx(rate if expected else 1 - rate)


def test_tables_have_a_row_a_prompt_and_step():
    """Rows in any order: prompt 0 scores 1 and 3, prompt 1 scores 5 and 7, at two steps. The four
    rewards of the bank are 0 to 3 and 4 to 7: above 0.5 lie three of four (and three of six pairs),
    above 6.5 one (no pair)."""
    rows = [
        {"step": step, "prompt": p, "sample": s, "reward": 0.5 + 6 * p,
         "judge": 4.0 * p + 2 * s + 1 + step}
        for step in (0, 10) for p in (0, 1) for s in (0, 1)
    ]  # fmt: skip
    bank, ranks = torch.full((2, 4), 3.5), torch.arange(8.0).view(2, 4)
    table = judge.per_prompt(pd.DataFrame(rows[::-1]), bank, ranks, [1, 4])
    assert table[["step", "prompt", "judge", "penalised"]].values.tolist() == [
        [0, 0, 2, 0.5], [0, 1, 6, 0], [10, 0, 12, 0.5], [10, 1, 16, 0],
    ]  # fmt: skip
    assert table["win_over_4"].tolist() == [0, 1, 1, 1]
    best = judge.best_of_n(ranks, ranks, [1, 4])
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


@pytest.mark.usefixtures("runs")
def test_a_run_is_scored_once_for_each_judge_and_its_texts(tmp_path):
    """Lengths p + s + step; a second call reads what was kept; another judge, and other texts (of a
    run that was computed again), are scored anew."""
    run, score = RunFolder.of(tmp_path, {"some": "run"}), Counting()
    rows = [
        {"step": step, "source": "policy", "prompt": p, "sample": s, "reward": 0.0,
         "text": "a" * (p + s + step)}
        for step in (0, 4) for p in range(3) for s in range(2)
    ]  # fmt: skip
    run.add_evaluation(pd.DataFrame([*rows[::-1], {**rows[0], "source": "reference"}]))
    first = judge.run_scores(run, task(), of(score))
    assert len(first) == 12 and score.calls == 2  # one a step
    assert (first["judge"] == first["prompt"] + first["sample"] + first["step"]).all()
    pd.testing.assert_frame_equal(judge.run_scores(run, task(), of(score)), first)
    assert score.calls == 2
    judge.run_scores(run, task(), of(score, "b"))
    assert score.calls == 4
    own = run.evaluation()
    run.add_evaluation(own.assign(step=own["step"] + 9, text=own["text"] + "!"))
    assert len(judge.run_scores(run, task(), of(score))) == 24 and score.calls == 4 + 4


@pytest.mark.usefixtures("runs")
def test_the_banks_completions_are_scored_as_their_texts(tmp_path):
    own, score = task(), Counting()
    folder = BankFolder.of(tmp_path, own, own.eval_prompts, 4, 1, "fp32")
    for part in folder.missing():
        folder.fill(own, part, accelerator("fp32"))
    texts = own.model.decode(folder.load().completions)
    expected = [[float(len(text)) for text in row] for row in texts]
    for _ in range(2):
        assert judge.bank_scores(folder, own, of(score)).tolist() == expected
    assert score.calls == 1


def test_a_judge_is_checked_as_a_reward_is():
    with pytest.raises(ValueError, match="finite"):
        of(lambda prompts, texts: torch.tensor([[float("nan")]]))(["x"], [["y"]])


def test_who_judges_which_task():
    """The smoke profile's judge counts the prompt's words: two of "a b c" in "b x c b"."""
    shares = judge.tiny_judge(["a b c a"], [["b x c b", ""]])
    assert shares[0].tolist() == pytest.approx([2 / 3, 0])
    found = judge.judge_of(TaskSettings(name="tiny_causal", train=2, evaluate=2), "fp32")
    assert found(["a b"], [["a b", "x"]]).tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="xsum has no judge"):
        judge.judge_of(TaskSettings(name="xsum", train=2, evaluate=2), "fp32")
