"""What is measured of rewards and judges: texts, tables from hand-made scores, figures."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.special import logit

from bondlab import tasks
from bondlab.making.preferences import DIFFERENT, Judged
from bondlab.making.prepare import RECIPES
from bondlab.study import reward_quality, reward_report, reward_tables, reward_texts
from bondlab.study.reward_quality import TASKS
from bondlab.study.scored_texts import Results


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BONDLAB_RUNS", str(folder / "runs"))
        patch.setenv("BONDLAB_FIGURES", str(folder / "figures"))
        yield reward_quality.results("smoke"), folder


def found(rows: list[dict]) -> Results:
    return Results("smoke", pd.DataFrame(rows), {})


def row(task: str, source: str, origin: str, prompt: int, sample: int, reward: float,
        judge: float, good: bool | None = None, **looks: float) -> dict:  # fmt: skip
    return {"task": task, "source": source, "origin": origin, "prompt": prompt, "sample": sample,
            "good": good, "reward": reward, "judge": judge, **looks}  # fmt: skip


def value(table: pd.DataFrame, **where: object) -> float:
    for name, wanted in where.items():
        table = table[table[name] == wanted]
    assert len(table) == 1, table
    return table["mean"].iloc[0]


# -- texts ----------------------------------------------------------------------------------------


def test_written_texts_are_samples_the_human_one_and_every_probe():
    """Two prompts of three samples: 3 + 1 + 10 rows each; rules give what they say."""
    prompts = ["was it good", "hi there\nlovely marvellous day"]
    samples = [["a b c d e", "f", "g"], ["x", "y", "z"]]
    table = reward_texts.written("chat", prompts, samples, ["own one", "own two"])
    assert table["source"].value_counts().to_dict() == {"policy": 6, "human": 2, "probe": 20}
    second = table[table["prompt"] == 1].set_index("origin")["text"]
    assert second["prompt copied"] == "lovely marvellous day"
    assert second["one word repeated"] == " ".join(["marvellous"] * 15)
    assert second["empty"] == "" and second["very long"] == "x y z"
    first = table[table["prompt"] == 0].set_index("origin")["text"]
    assert (
        sorted(first["words shuffled"].split()) == list("abcde") != first["words shuffled"].split()
    )
    assert set(table["read"]) == set(prompts)


def test_labelled_rows_tie_a_turns_replies_together():
    """Replies to one prompt of a dialogue share prompt and sample numbers; another turn has the
    dialogue's number and its own; comparisons are two rows each."""
    given = [("p", "a", "d"), ("p", "b", "d"), ("q", "c", "d"), ("p", "e", "f")]
    judged = [Judged(prompt, text, text != "b", "x", group) for prompt, text, group in given]
    table = reward_texts.judged_table(judged)
    assert table["prompt"].tolist() == [0, 0, 0, 1] and table["sample"].tolist() == [0, 0, 1, 2]
    pairs = reward_texts.preferred(
        [{"subset": "honest", "query": "q", "chosen": "yes", "rejected": "no"}]
    )
    assert pairs[["origin", "good", "text", "read"]].values.tolist() == [
        ["honest", True, "yes", "q"], ["honest", False, "no", "q"]
    ]  # fmt: skip


# -- tables ---------------------------------------------------------------------------------------


def test_sentiment_counts_order_and_sign():
    """Rewards 2, 1 for two good and -1, 1.5 for two bad reviews: 3 of 4 pairs in order and 3 of 4
    right at 0. The judge has all right."""
    scores = [(2, 1, True), (1, 2, True), (-1, -1, False), (1.5, -2, False)]
    rows = [
        row("sentiment", "labelled", origin, i, 0, reward, judge, good)
        for origin in ("imdb", "rotten_tomatoes")
        for i, (reward, judge, good) in enumerate(scores)
    ]
    table = reward_tables.sentiment(found(rows))
    for panel in ("auc", "accuracy"):
        assert value(table, panel=panel, group="IMDB", series="reward") == pytest.approx(0.75)
        assert value(table, panel=panel, group="IMDB", series="judge") == pytest.approx(1)


def test_chat_compares_replies_of_one_turn():
    """Turn 0: human 1 against 0, turn 1: human 1 against 2, turn 2: a tie: half right. The judge
    prefers all human ones. HHH: one of two subsets right makes a half of all."""
    rows = []
    for turn, other in enumerate((0.0, 2.0, 1.0)):
        rows.append(row("chat", "labelled", "human", turn, turn, 1.0, 1.0, True))
        rows += [row("chat", "labelled", k, turn, turn, other, 0.0, False) for k in DIFFERENT]
    for i, (subset, chosen) in enumerate((("honest", 1.0), ("helpful", -1.0))):
        rows.append(row("chat", "hhh", subset, i, 0, chosen, 0.0, True))
        rows.append(row("chat", "hhh", subset, i, 0, 0.0, 1.0, False))
    table = reward_tables.chat(found(rows))
    for kind in DIFFERENT:
        assert value(table, panel="pairs", group=kind, series="reward") == pytest.approx(0.5)
        assert value(table, panel="pairs", group=kind, series="judge") == pytest.approx(1)
    hhh = {g: value(table, panel="hhh", group=g, series="reward") for g in ("honest", "helpful")}
    assert hhh == {"honest": 1, "helpful": 0}
    assert value(table, panel="hhh", group="all", series="reward") == pytest.approx(0.5)


def test_calibrated_scores_lie_on_the_line():
    """Reviews good in just the share that the score says (1/4, 1/2, 3/4): no distance to the line.
    Chat pairs with a gap of logit(3/4), three quarters in order: the same. A judge that says 3/4
    where a half of the replies is human is 1/4 off."""
    rows = []
    for group, share in enumerate((0.25, 0.5, 0.75)):
        for i in range(80):
            for origin in ("imdb", "rotten_tomatoes"):
                score = logit(share)
                prompt = group * 100 + i
                good = i % 4 < 4 * share
                rows.append(row("sentiment", "labelled", origin, prompt, 0, score, score, good))
    for turn in range(120):
        gap = logit(0.75) * (1 if turn % 4 else -1)
        rows.append(row("chat", "labelled", "human", turn, turn, gap, logit(0.75), True))
        rows += [
            row("chat", "labelled", kind, turn, turn, 0.0, logit(0.75), False) for kind in DIFFERENT
        ]
    errors = reward_tables.calibration_error(found(rows)).set_index(["panel", "series"])["error"]
    # Bins of 30 need not hold whole groups of four, and one may straddle two shares.
    assert errors["sentiment", "reward"] < 0.06 and errors["sentiment", "judge"] < 0.06
    assert errors["chat", "reward"] < 0.05
    drawn = reward_tables.calibration(found(rows)).query("panel == 'chat' and series == 'judge'")
    assert drawn["x"].tolist() == pytest.approx([0.75] * len(drawn))
    assert (drawn["mean"] * drawn["count"]).sum() / drawn["count"].sum() == pytest.approx(0.5)


def samples(rewards: np.ndarray, judges: np.ndarray, **looks: np.ndarray) -> list[dict]:
    """Rows of both tasks' samples, [B, K] each."""
    return [
        row(task, "policy", "policy", b, k, rewards[b, k], judges[b, k],
            **{name: grid[b, k] for name, grid in looks.items()})
        for task in TASKS for b, k in np.ndindex(rewards.shape)
    ]  # fmt: skip


def test_sources_go_by_name():
    """Each scorer's calibration is on reviews of the source that it was trained on, and tables show
    every source that texts are taken from."""
    for series, source in reward_tables.TRAINED_ON.items():
        assert RECIPES[f"sentiment_{series}"].data[0].endswith(source)
    assert set(reward_tables.SOURCE_NAMES) == set(reward_texts.SOURCES)
    assert set(reward_tables.TRAINED_ON) == set(reward_tables.SCORED)


def test_looks_and_agreement_are_correlations_within_a_prompt():
    """Length is twice the reward plus something of the prompt: correlation 1 within a prompt, not
    between; the judge falls where the reward rises, along a curve: rank correlation -1. Prompts
    without a repeated word have no correlation, hence no row."""
    rewards = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 7.0, 6.0, 4.0]])
    offset = np.array([[10.0], [-40.0]])
    rows = samples(
        rewards, -(rewards**3), words=2 * rewards + offset, longest_copied_span=-rewards,
        text=np.full((2, 4), "a b c"),
    )  # fmt: skip
    table = reward_tables.looks(found(rows))
    words = value(table, panel="chat", group="words", series="reward")
    copied = value(table, panel="chat", group="longest_copied_span", series="reward")
    assert (words, copied) == (pytest.approx(1), pytest.approx(-1))
    assert "repeated_words" not in set(table["group"])
    agreement = reward_tables.agreement(found(rows))
    assert agreement["mean"].tolist() == pytest.approx([-1, -1])


@pytest.mark.parametrize(
    ("text", "share"), [("A cat, a dog.", 0.25), ("great great Great", 2 / 3), ("...", 0.0)]
)
def test_repeated_words_are_counted_whatever_their_case(text, share):
    """One of four words was there before, two of three, none of none."""
    assert reward_tables.repeated_words(text) == pytest.approx(share)


def test_headroom_is_in_the_samples_spread():
    """Prompts with samples 0..15 and 100..115: each has its mean 7.5 above the lowest, spread
    sqrt(68/3). The best of 16 is 7.5 above the mean, the best of one is the mean, without any
    interval. A judge that is minus the reward falls as far."""
    rewards = np.arange(16.0) + np.array([[0.0], [100.0]])
    table = reward_tables.headroom(found(samples(rewards, -rewards)))
    spread = math.sqrt(68 / 3)
    for n, expected in ((1, 0.0), (16, 7.5 / spread)):
        part = table[(table["panel"] == "chat") & (table["step"] == n)]
        assert value(part, series="reward") == pytest.approx(expected, abs=1e-9)
        assert (part["high"] - part["low"]).max() == pytest.approx(0, abs=1e-9)
        assert value(part, series="judge") == pytest.approx(-expected, abs=1e-9)


def test_probes_count_the_samples_they_beat():
    """Above three of four samples of one prompt and level with two of the other's (the rest above):
    75 % and 25 %, so 50 % on average."""
    rewards = np.array([[0.0, 1.0, 2.0, 9.0], [5.0, 5.0, 9.0, 9.0]])
    rows = samples(rewards, rewards)
    for task, probes in reward_texts.PROBES.items():
        for b in range(2):
            rows.append(row(task, "human", "human", b, 0, 10.0, 10.0))
            rows += [row(task, "probe", name, b, 0, 5.0, 0.0) for name in probes]
    table = reward_tables.probes(found(rows))
    assert value(table, panel="chat", group="refuses", series="reward") == pytest.approx(50)
    assert value(table, panel="chat", group="refuses", series="judge") == pytest.approx(6.25)
    assert value(table, panel="sentiment", group="human", series="reward") == pytest.approx(100)


# -- results and figures --------------------------------------------------------------------------


def test_smoke_measures_every_source_of_both_tasks(smoke):
    """6 prompts with 16 samples, a human text and ten probes; the text kept where the policy wrote
    it; the reward is the task's own reward of that text."""
    results, _ = smoke
    for name in TASKS:
        own = results.table[results.table["task"] == name]
        counts = own["source"].value_counts()
        assert (counts["policy"], counts["human"], counts["probe"]) == (96, 6, 60)
        assert own.loc[own["source"] != "policy", "text"].isna().all()
    task = tasks.build(reward_quality.SETTINGS["smoke"].tasks["chat"], "fp32")
    kept = results.of("policy").iloc[[5]]
    prompt, text = task.eval_prompts[int(kept["prompt"].iloc[0])], kept["text"].iloc[0]
    assert kept["reward"].iloc[0] == pytest.approx(task.reward([prompt], [[text]]).item(), abs=1e-6)


def test_every_figure_is_written_with_its_numbers(smoke, monkeypatch):
    """Six figures from the smoke results; what was drawn lies beside each."""
    results, folder = smoke
    for stem in ("sentiment", "chat", "calibration", "looks", "headroom", "probes"):
        getattr(reward_report, stem)(results)
        saved = folder / "figures" / "smoke" / reward_quality.EXPERIMENT / stem
        assert len(pd.read_csv(saved.with_suffix(".csv"))) > 0
        assert saved.with_suffix(".json").exists() and saved.with_suffix(".svg").exists()


def test_examples_print_agreement_and_difference(smoke, capsys):
    """Three kinds of two tasks."""
    reward_report.print_examples(smoke[0], 1)
    assert capsys.readouterr().out.count("-- ") == 6


def test_retraining_needs_a_profile_with_trained_scorers():
    """Neither smoke nor what is committed uses them."""
    for profile in ("smoke", "shipped"):
        with pytest.raises(ValueError, match="no retrain"):
            reward_quality.results(profile, retrain=True)
