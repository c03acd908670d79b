"""The second judge: win rates by hand and in theory, and scores kept beside what they judge."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from torch import Tensor

from bondlab.bank import BankFolder
from bondlab.device import accelerator
from bondlab.lm.completions import Completions
from bondlab.results import RunFolder
from bondlab.study import judging
from bondlab.study.judging import Judge
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


def judge(score, identity: str = "a") -> Judge:
    return Judge(score, identity, "fp32")


# -- measures -------------------------------------------------------------------------------------


def test_win_rates_by_hand():
    """Scores 2 and 0 against 1 and 0: 2 beats both, 0 loses to 1 and ties with 0.

    Over one completion (1 + 1 + 0 + 1/2) / 4; Best-of-2 takes the second, which the reward prefers:
    (1 + 1/2) / 2.
    """
    own, bank, rewards = (torch.tensor([x]) for x in ([2.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
    assert judging.win_rate(own, bank, rewards, 1).tolist() == [0.625]
    assert judging.win_rate(own, bank, rewards, 2).tolist() == [0.75]


def test_the_reference_wins_half_of_its_own_comparisons():
    """Each pair is met from both sides, and a tie is half to each: 1/2, ties or not."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 5, (3, 16), generator=generator).float()
    rewards = torch.rand(3, 16, generator=generator)
    assert judging.win_rate_of_best(scores, rewards, 1).tolist() == pytest.approx([0.5] * 3)


@pytest.mark.parametrize(("sign", "expected"), [(1, 1), (-1, 0)])
def test_a_judge_that_agrees_or_disagrees_with_the_reward(sign, expected):
    """The best of n of M has the mean rank n (M+1) / (n+1), and beats rank - 1 of the M - 1 others
    under the reward itself; under its opposite the rest."""
    m, n = 16, 4
    rewards = torch.randperm(m, generator=torch.Generator().manual_seed(0))[None].double()
    rate = (n * (m + 1) / (n + 1) - 1) / (m - 1)
    found = judging.win_rate_of_best(sign * rewards, rewards, n).item()
    assert found == pytest.approx(rate if expected else 1 - rate)


def test_tables_have_a_row_a_prompt_and_step():
    """Rows in any order: prompt 0 scores 1 and 3, prompt 1 scores 5 and 7, at two steps."""
    rows = [
        {"step": step, "prompt": p, "sample": s, "judge": 4.0 * p + 2 * s + 1 + step}
        for step in (0, 10) for p in (0, 1) for s in (0, 1)
    ]  # fmt: skip
    bank, rewards = torch.full((2, 4), 3.5), torch.arange(8.0).view(2, 4)
    table = judging.per_prompt(pd.DataFrame(rows[::-1]), bank, rewards, [1, 4])
    assert table[["step", "prompt", "judge"]].values.tolist() == [
        [0, 0, 2], [0, 1, 6], [10, 0, 12], [10, 1, 16],
    ]  # fmt: skip
    assert table["win_over_4"].tolist() == [0, 1, 1, 1]
    best = judging.best_of_n(rewards, rewards, [1, 4])
    assert best["n"].tolist() == [1, 1, 4, 4] and best["judge"].tolist() == [1.5, 5.5, 3, 7]
    assert best["win_over_1"].tolist() == [0.5, 0.5, 1, 1]


# -- scores kept beside the texts -----------------------------------------------------------------


def finished_run(folder) -> RunFolder:
    """A run with two evaluations of three prompts with two completions, and a reference's row."""
    run = RunFolder.of(folder, {"some": "run"})
    rows = [
        {"step": step, "source": "policy", "prompt": p, "sample": s, "text": "a" * (p + s + step)}
        for step in (0, 4) for p in range(3) for s in range(2)
    ]  # fmt: skip
    run.add_evaluation(pd.DataFrame([*rows[::-1], {**rows[0], "source": "reference"}]))
    return run


def test_a_finished_run_is_scored_once_for_each_judge(tmp_path):
    """Lengths p + s + step; a second call reads the file, and another judge writes another."""
    run, score = finished_run(tmp_path), Counting()
    with pytest.raises(ValueError, match="not finished"):
        judging.run_scores(run, task(), judge(score))
    run.mark("finished", 1.0)
    first = judging.run_scores(run, task(), judge(score))
    assert len(first) == 12 and score.calls == 2  # one a step
    assert (first["judge"] == first["prompt"] + first["sample"] + first["step"]).all()
    pd.testing.assert_frame_equal(judging.run_scores(run, task(), judge(score)), first)
    assert score.calls == 2
    judging.run_scores(run, task(), judge(score, "b"))
    assert score.calls == 4
    kept = sorted(path.name for path in run.path.rglob("*.parquet"))
    assert [name.split("-")[0] for name in kept] == ["a", "b", "evaluation.parquet"]


def test_other_completions_are_scored_anew(tmp_path):
    """A run computed again may have drawn other texts: the old scores do not join them."""
    run, score = finished_run(tmp_path), Counting()
    run.mark("finished", 1.0)
    judging.run_scores(run, task(), judge(score))
    own = run.evaluation()
    longer = own.assign(step=own["step"] + 9, text=own["text"] + "!")
    run.add_evaluation(longer)
    again = judging.run_scores(run, task(), judge(score))
    assert len(again) == 24 and score.calls == 2 + 4


def test_the_banks_completions_are_scored_as_their_texts(tmp_path):
    own, score = task(), Counting()
    folder = BankFolder.of(tmp_path, own, own.eval_prompts, 4, 1, "fp32")
    for part in folder.missing():
        folder.fill(own, part, accelerator("fp32"))
    texts = own.model.decode(folder.load().completions)
    expected = [[float(len(text)) for text in row] for row in texts]
    for _ in range(2):
        assert judging.bank_scores(folder, own, judge(score)).tolist() == expected
    assert score.calls == 1
    assert isinstance(folder.load().completions, Completions)  # the bank is still whole


def test_a_judge_is_checked_as_a_reward_is():
    with pytest.raises(ValueError, match="finite"):
        judge(lambda prompts, texts: torch.tensor([[float("nan")]]))(["x"], [["y"]])


def test_who_judges_which_task():
    """The smoke profile's judge counts the prompt's words: two of "a b c" in "b x c b"."""
    shares = judging.tiny_judge(["a b c a"], [["b x c b", ""]])
    assert shares[0].tolist() == pytest.approx([2 / 3, 0])
    found = judging.judge_of(TaskSettings(name="tiny_causal", train=2, evaluate=2), "fp32")
    assert found(["a b"], [["a b", "x"]]).tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="xsum has no judge"):
        judging.judge_of(TaskSettings(name="xsum", train=2, evaluate=2), "fp32")
