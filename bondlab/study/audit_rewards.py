"""The rewards and judges of the tasks sentiment and chat: every text scored by both.

Labelled held-out texts, the reference policy's samples, and probes: texts by rule that a sound
scorer would put in their place, such as a repeated word, the copied prompt or a negation.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy.special import expit

from bondlab import assets, device, tasks
from bondlab.making import preferences
from bondlab.making.preferences import DIFFERENT, Judged
from bondlab.report.intervals import accuracy_interval, auc_interval, mean_interval
from bondlab.report.kept import Results
from bondlab.study import audit
from bondlab.study.audit import SIZES, Audit, Settings, above, of
from bondlab.study.benchmark_texts import comparisons
from bondlab.study.judge import judge_of
from bondlab.study.probes import PROBES
from bondlab.tasks import TaskSettings, tiny

NAME = "alignment_rewards"
TASKS = ("sentiment", "chat")
SCORERS = ("reward", "judge")
REVIEWS = {"imdb": "IMDB", "rotten_tomatoes": "Rotten Tomatoes"}  # of reviews, and their titles
TRAINED_ON = {"reward": "imdb", "judge": "rotten_tomatoes"}  # of sentiment
PROMPTS_AT_ONCE = 4  # sampled together: as many completions as the larger profiles draw of each
BINS = 8  # of calibration, with equally many texts in each


def _settings(evaluate: int, samples: int, labelled: int, policy: str | None = None) -> Settings:
    chosen = {
        name: TaskSettings(name=name, train=1, evaluate=evaluate, policy=policy) for name in TASKS
    }
    return Settings(tasks=chosen, samples=samples, labelled=labelled)


# Sizes are not stated; laptop's take about five minutes on two cores.
SETTINGS = {
    "smoke": Settings(
        tasks=dict.fromkeys(TASKS, TaskSettings(name="tiny_causal", train=1, evaluate=6)),
        samples=16, labelled=24,
    ),
    "laptop": _settings(evaluate=24, samples=16, labelled=400),
    "study": _settings(evaluate=100, samples=32, labelled=2000),  # all reviews there are
    "paper": _settings(evaluate=128, samples=32, labelled=2000, policy="google/gemma-2b"),
}  # fmt: skip


def measure(settings: Settings) -> pd.DataFrame:
    """Draw, score and describe every text of both tasks; further columns: task, origin, good."""
    parts = []
    for name, chosen in settings.tasks.items():
        task, (judge, _) = tasks.build(chosen, device.resolve("auto")), judge_of(chosen)
        known = labelled(name, settings.labelled, settings.seed, made=chosen.name not in TASKS)
        counts = [settings.samples] * len(task.eval_prompts)
        stream = (settings.seed, NAME)
        with device.autocast("auto"):
            drawn = audit.sampled(task.model, task.eval_prompts, counts, stream, PROMPTS_AT_ONCE)
            own = written(name, task.eval_prompts, drawn, task.eval_references)
            judges = {"reward": task.reward, "judge": judge}
            every, labels = pd.concat([known, own]), ("labelled", "hhh")
            texts = audit.scored(every, judges, labelled=labels, written=["policy"])
        parts.append(texts.assign(task=name))
    return pd.concat(parts, ignore_index=True)


AUDIT = Audit(
    NAME,
    SETTINGS,
    measure,
    rules=[f"{task}: {name}" for task, probes in PROBES.items() for name in probes],
    models=("sentiment_reward", "sentiment_judge", "chat_reward", "chat_judge"),
)


# -- texts -----------------------------------------------------------------------------------------


def labelled(task: str, count: int, seed: int, made: bool = False) -> pd.DataFrame:
    """Held-out texts with labels: up to `count` reviews of each source, or turns of dialogues.

    Sentiment: an extract of each review of the test split. Chat: replies of the test dialogues, and
    for each turn one of every kind that does not belong; and the comparisons of `hhh_alignment`
    (source "hhh"), where people chose the good one. Of texts `made` by code, for tests.
    """
    rng = random.Random(seed)
    rows = partial(_made, count) if made else lambda name: list(assets.dataset(name)["test"])
    if task == "sentiment":
        parts = [preferences.reviews(rows("movie_reviews"), source, rng) for source in REVIEWS]
        judged = [x for part in parts for x in rng.sample(part, min(count, len(part)))]
        return judged_table("labelled", judged)
    replies = preferences.every_reply(rows("topical_chat"), count, rng)
    choices = [
        Judged(row["query"], row[side], side == "chosen", row["subset"], str(i))
        for i, row in enumerate(rows("hhh_alignment"))
        for side in ("chosen", "rejected")
    ]
    return pd.concat([judged_table("labelled", replies), judged_table("hhh", choices)])


def _made(count: int, name: str) -> list[dict]:
    """Rows as a data set has them, of texts made by code."""
    texts = tiny.documents(count, seed=1)
    if name == "hhh_alignment":
        return comparisons("made", count)
    if name == "topical_chat":
        return [
            {"context": [text], "reply": texts[i - 1], "dialogue": str(i // 4)}
            for i, text in enumerate(texts)
        ]
    return [
        {"text": text, "label": i % 2, "source": source}
        for source in REVIEWS for i, text in enumerate(texts)
    ]  # fmt: skip


def judged_table(source: str, judged: Sequence[Judged]) -> pd.DataFrame:
    """Judged pairs as `audit.scored` reads them, with origin and good.

    `prompt` numbers the review, dialogue or comparison, and `sample` the turn, which its replies
    share.
    """
    table = pd.DataFrame(judged).rename(columns={"prompt": "read", "completion": "text"})
    groups = (table.groupby(keys, sort=False).ngroup() for keys in ("group", ["group", "read"]))
    columns = dict(zip(("prompt", "sample"), groups, strict=True))
    return table.drop(columns="group").assign(source=source, **columns)


def written(
    task: str, prompts: Sequence[str], samples: Sequence[Sequence[str]], human: Sequence[str]
) -> pd.DataFrame:
    """Completions of held-out prompts: sources "policy", "human" and, by origin, "probe".

    Args:
        samples: the reference policy's, a list per prompt; human: a person's completion of each.
    """
    probes = {
        name: [[probe(*given)] for given in zip(prompts, samples, strict=True)]
        for name, probe in PROBES[task].items()
    }
    texts = {"policy": samples, "human": [[text] for text in human], **probes}
    made = audit.completions(prompts, texts).rename(columns={"source": "origin"})
    return made.assign(source=made["origin"].where(~made["origin"].isin(probes), "probe"))


# -- tables ----------------------------------------------------------------------------------------


def sentiment(found: Results) -> pd.DataFrame:
    """Panels auc and accuracy (at even odds) on held-out reviews of each source."""
    rows, reviews = [], of(found, task="sentiment", source="labelled")
    for origin, title in REVIEWS.items():
        own = reviews[reviews["origin"] == origin]
        good = own["good"].astype(bool)
        for name in SCORERS:
            area = auc_interval(own[name], good, own["prompt"])
            right = accuracy_interval((own[name] > 0) == good, own["prompt"])
            rows.append(area.row(panel="auc", group=title, series=name))
            rows.append(right.row(panel="accuracy", group=title, series=name))
    return pd.DataFrame(rows)


def chat(found: Results) -> pd.DataFrame:
    """Panel pairs: the human reply above one that does not belong; panel hhh: people's choices.

    Both are shares of pairs, a tie counting half.
    """
    replies = partial(of, found, task="chat", source="labelled")
    choices = partial(of, found, task="chat", source="hhh")
    subsets = {name: {"origin": name} for name in choices()["origin"].unique()} | {"all": {}}
    pairs = [("pairs", kind, replies(origin="human"), replies(origin=kind)) for kind in DIFFERENT]
    pairs += [
        ("hhh", name, choices(good=True, **own), choices(good=False, **own))
        for name, own in subsets.items()
    ]
    return pd.DataFrame(
        above(better, worse, name).row(panel=panel, group=group, series=name)
        for panel, group, better, worse in pairs
        for name in SCORERS
    )


def calibration(found: Results) -> pd.DataFrame:
    """Predicted (x) against observed, in `BINS` groups of like prediction; a panel per task.

    A log-odds score predicts p(good) of a text: sentiment's two on reviews of their own training
    source, the chat judge on as many foreign replies as human ones. The Bradley-Terry reward
    predicts that the better scored of two replies is the human one.
    """
    reviews, replies = (of(found, task=task, source="labelled") for task in TASKS)
    human = replies[replies["origin"] == "human"]
    other = replies[replies["origin"] == "other dialogue"]
    pairs = human.merge(other, on="sample", suffixes=("", "_other"))
    gap = pairs["reward"] - pairs["reward_other"]
    kinds = np.array(DIFFERENT[1:])  # the judge's, by turns
    false = replies[replies["origin"] == kinds[replies["sample"].astype(int) % len(kinds)]]
    both = pd.concat([human[human["sample"].isin(false["sample"])], false])
    home = {name: reviews[reviews["origin"] == source] for name, source in TRAINED_ON.items()}
    judged = [("sentiment", name, own[name], own["good"]) for name, own in home.items()]
    judged += [
        ("chat", "reward", gap.abs(), gap > 0),
        ("chat", "judge", both["judge"], both["good"]),
    ]
    rows = []
    for panel, name, log_odds, observed in judged:
        predicted = expit(log_odds)
        bins = pd.qcut(predicted.rank(method="first"), min(BINS, len(predicted)), labels=False)
        for _, part in predicted.groupby(bins):
            share = accuracy_interval(observed.loc[part.index])
            rows.append(share.row(panel=panel, series=name, kind="points", x=part.mean()))
    even = {"series": "calibrated", "kind": "formula"}
    rows += [{"panel": task, **even, "x": x, "mean": x} for task in TASKS for x in (0.0, 1.0)]
    return pd.DataFrame(rows)


def headroom(found: Results) -> pd.DataFrame:
    """Reward and judge of the best of N samples by the reward, in the samples' own spread."""
    rows = []
    for task in TASKS:
        own = in_spreads(found, task)
        rows += [
            audit.best_of(own, name, n).row(panel=task, series=name, n=n)
            for name in SCORERS for n in SIZES
        ]  # fmt: skip
    return pd.DataFrame(rows)


def in_spreads(found: Results, task: str) -> pd.DataFrame:
    """The reference policy's samples with both scores on one scale, so that they can be compared.

    Of each score the mean of the prompt's samples is subtracted, and the mean standard deviation
    within a prompt divided out.
    """
    own, both = of(found, task=task, source="policy"), list(SCORERS)
    spread = own.groupby("prompt")[both].std().mean()
    own[both] = (own[both] - own.groupby("prompt")[both].transform("mean")) / spread
    return own


def probes(found: Results) -> pd.DataFrame:
    """Percent of the reference policy's samples that a probe beats, ties half; a panel per task."""
    rows = []
    for task in TASKS:
        texts = of(found, task=task)
        samples, made = texts["source"] == "policy", texts["source"].isin(["human", "probe"])
        pairs = texts[made].merge(texts[samples], on="prompt", suffixes=("", "_sample"))
        for origin, own in pairs.groupby("origin", sort=False):
            for name in SCORERS:
                beaten = 50 * (np.sign(own[name] - own[f"{name}_sample"]) + 1)
                mean = mean_interval(beaten.groupby(own["prompt"]).mean())
                rows.append(mean.row(panel=task, group=origin, series=name))
    return pd.DataFrame(rows)
