"""What is measured of the rewards and judges of sentiment and chat: texts, and tables by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import logit
from test_audit import results, value

from bondlab import tasks
from bondlab.making.preferences import DIFFERENT, Judged
from bondlab.making.prepare import RECIPES
from bondlab.study import audit_rewards
from bondlab.study.audit_rewards import REVIEWS, SCORERS, TASKS, TRAINED_ON


def row(task: str, source: str, origin: str, number: int, reward: float, judge: float,
        good: bool | None = None) -> dict:  # fmt: skip
    return {"task": task, "source": source, "origin": origin, "prompt": number, "sample": number,
            "reward": reward, "judge": judge, "good": good}  # fmt: skip


def test_written_texts_are_samples_the_human_one_and_every_probe():
    """Two prompts of three samples: 3 + 1 + 10 rows each; rules give what they say."""
    prompts = ["was it good", "hi there\nlovely marvellous day"]
    drawn = [["a b c d e", "f", "g"], ["x", "y", "z"]]
    table = audit_rewards.written("chat", prompts, drawn, ["own one", "own two"])
    assert table["source"].value_counts().to_dict() == {"policy": 6, "human": 2, "probe": 20}
    first, second = (part.set_index("origin")["text"] for _, part in table.groupby("prompt"))
    assert second["prompt copied"] == "lovely marvellous day" and second["human"] == "own two"
    assert second["one word repeated"] == " ".join(["marvellous"] * 15)
    assert second["empty"] == "" and second["very long"] == "x y z"
    shuffled = first["words shuffled"].split()
    assert sorted(shuffled) == list("abcde") != shuffled
    assert table["read"].tolist() == [prompts[i] for i in table["prompt"]]


def test_labelled_rows_tie_a_turns_replies_together():
    """Replies to one prompt of a dialogue share prompt and sample numbers; another turn has the
    dialogue's number and its own."""
    given = [("p", "a", "d"), ("p", "b", "d"), ("q", "c", "d"), ("p", "e", "f")]
    judged = [Judged(prompt, reply, reply != "b", "x", group) for prompt, reply, group in given]
    table = audit_rewards.judged_table("labelled", judged)
    assert table["prompt"].tolist() == [0, 0, 0, 1] and table["sample"].tolist() == [0, 0, 1, 2]
    assert table["good"].tolist() == [True, False, True, True]


def test_sentiment_counts_order_and_sign():
    """Rewards 2, 1 for two good and -1, 1.5 for two bad reviews: 3 of 4 pairs in order and 3 of 4
    right at 0. The judge has all right."""
    scores = [(2, 1, True), (1, 2, True), (-1, -1, False), (1.5, -2, False)]
    rows = [row("sentiment", "labelled", x, i, *s) for x in REVIEWS for i, s in enumerate(scores)]
    table = audit_rewards.sentiment(results(rows))
    for panel in ("auc", "accuracy"):
        assert value(table, panel=panel, group="IMDB", series="reward") == pytest.approx(0.75)
        assert value(table, panel=panel, group="IMDB", series="judge") == pytest.approx(1)


def test_chat_compares_replies_of_one_turn():
    """Turn 0: human 1 against 0, turn 1: human 1 against 2, turn 2: a tie: half right. The judge
    prefers all human ones. HHH: one of two subsets right makes a half of all."""
    rows = []
    for turn, other in enumerate((0.0, 2.0, 1.0)):
        rows.append(row("chat", "labelled", "human", turn, 1.0, 1.0, True))
        rows += [row("chat", "labelled", kind, turn, other, 0.0, False) for kind in DIFFERENT]
    for i, (subset, chosen) in enumerate((("honest", 1.0), ("helpful", -1.0))):
        rows.append(row("chat", "hhh", subset, i, chosen, 0.0, True))
        rows.append(row("chat", "hhh", subset, i, 0.0, 1.0, False))
    table = audit_rewards.chat(results(rows))
    for kind in DIFFERENT:
        assert value(table, panel="pairs", group=kind, series="reward") == pytest.approx(0.5)
        assert value(table, panel="pairs", group=kind, series="judge") == pytest.approx(1)
    for subset, share in (("honest", 1), ("helpful", 0), ("all", 0.5)):
        assert value(table, panel="hhh", group=subset, series="reward") == pytest.approx(share)


def test_calibrated_scores_lie_on_the_line():
    """Reviews good in just the share that the score says (1/4, 1/2, 3/4): no distance to the line.
    Chat pairs with a gap of logit(3/4), three quarters in order: the same. The judge says 1/4 of
    shuffled words, a third of the false half, and 3/4 of all else: on average 2/3."""
    rows = []
    for i in range(240):
        share = (0.25, 0.5, 0.75)[i // 80]
        score, good = logit(share), i % 4 < 4 * share
        rows += [row("sentiment", "labelled", x, i, score, score, good) for x in REVIEWS]
    for turn in range(120):
        gap = logit(0.75) * (1 if turn % 4 else -1)
        rows.append(row("chat", "labelled", "human", turn, gap, logit(0.75), True))
        for kind in DIFFERENT:
            score = logit(0.25 if kind == "shuffled words" else 0.75)
            rows.append(row("chat", "labelled", kind, turn, 0.0, score, False))
    drawn = audit_rewards.calibration(results(rows)).query("kind == 'points'")
    errors = (drawn["mean"] - drawn["x"]).abs().groupby([drawn["panel"], drawn["series"]]).mean()
    # Bins of 30 need not hold whole groups of four, and one may straddle two shares.
    assert errors["sentiment"].max() < 0.06 and errors["chat", "reward"] < 0.05
    judge = drawn.query("panel == 'chat' and series == 'judge'")
    assert np.average(judge["x"], weights=judge["count"]) == pytest.approx(2 / 3)
    assert np.average(judge["mean"], weights=judge["count"]) == pytest.approx(0.5)


def test_each_scorers_calibration_is_on_the_source_that_it_was_trained_on():
    for name in SCORERS:
        assert RECIPES[f"sentiment_{name}"].data[0].endswith(TRAINED_ON[name])


def of_both(rewards: np.ndarray, judges: np.ndarray) -> list[dict]:
    return [
        row(task, "policy", "policy", b, rewards[b, k], judges[b, k]) | {"sample": k}
        for task in TASKS
        for b, k in np.ndindex(rewards.shape)
    ]


def test_headroom_is_in_the_samples_spread():
    """Prompts with samples 0..15 and 100..115: each has its mean 7.5 above the lowest, spread
    sqrt(68/3). The best of 16 is 7.5 above the mean, the best of one is the mean, without any
    interval. A judge that is minus the reward falls as far."""
    rewards = np.arange(16.0) + np.array([[0.0], [100.0]])
    table = audit_rewards.headroom(results(of_both(rewards, -rewards)))
    for n, expected in ((1, 0.0), (16, 7.5 / math.sqrt(68 / 3))):
        part = table[(table["panel"] == "chat") & (table["n"] == n)]
        assert (part["high"] - part["low"]).max() == pytest.approx(0, abs=1e-9)
        assert value(part, series="reward") == pytest.approx(expected, abs=1e-9)
        assert value(part, series="judge") == pytest.approx(-expected, abs=1e-9)


def test_probes_count_the_samples_they_beat():
    """Above three of four samples of one prompt and level with two of the other's (the rest above):
    75 % and 25 %, so 50 % on average. A person's labelled reply is no completion of a prompt."""
    rewards = np.array([[0.0, 1.0, 2.0, 9.0], [5.0, 5.0, 9.0, 9.0]])
    rows = of_both(rewards, rewards) + [row("chat", "labelled", "human", 0, -9.0, -9.0, True)]
    for task, names in audit_rewards.PROBES.items():
        for b in range(2):
            rows.append(row(task, "human", "human", b, 10.0, 10.0))
            rows += [row(task, "probe", name, b, 5.0, 0.0) for name in names]
    table = audit_rewards.probes(results(rows))
    assert value(table, panel="chat", group="refuses", series="reward") == pytest.approx(50)
    assert value(table, panel="chat", group="refuses", series="judge") == pytest.approx(6.25)
    assert value(table, panel="chat", group="human", series="reward") == pytest.approx(100)


@pytest.mark.usefixtures("runs")
def test_the_reward_audit_measures_every_source_of_both_tasks():
    """6 prompts with 16 samples, a human text and ten probes; the text kept where the policy wrote
    it; the reward is the task's own of that text."""
    table = audit_rewards.AUDIT.results("smoke")["texts"]
    for _, own in table.groupby("task"):
        counts = own["source"].value_counts()
        assert (counts["policy"], counts["human"], counts["probe"]) == (96, 6, 60)
        assert own.loc[own["source"] != "policy", "text"].isna().all()
    assert set(table["task"]) == set(TASKS)
    chosen = audit_rewards.SETTINGS["smoke"].tasks["chat"]
    task, kept = tasks.build(chosen, "fp32"), table[table["source"] == "policy"].iloc[5]
    scored = task.reward([task.eval_prompts[kept["prompt"]]], [[kept["text"]]])
    assert kept["reward"] == pytest.approx(scored.item(), abs=1e-6)
