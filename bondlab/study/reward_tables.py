"""Tidy tables of how good the rewards and judges are, from the table that `reward_quality` makes.

Intervals are over reviews, dialogues, comparisons or prompts, whichever the texts share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from scipy.stats import rankdata

from bondlab import measures
from bondlab.making.preferences import DIFFERENT
from bondlab.measures import Interval, mean_interval
from bondlab.study import summaries
from bondlab.study.reward_quality import TASKS
from bondlab.study.reward_texts import PROBES
from bondlab.study.scored_texts import Results

SCORED = ("reward", "judge")
LOOKS = ("words", "repeated_words", "longest_copied_span")
SIZES = (1, 2, 4, 8, 16)
BINS = 8  # of calibration, with equally many texts in each
SOURCE_NAMES = {"imdb": "IMDB", "rotten_tomatoes": "Rotten Tomatoes"}
TRAINED_ON = {"reward": "imdb", "judge": "rotten_tomatoes"}  # of sentiment


def _of(found: Results, task: str, source: str) -> pd.DataFrame:
    own = found.of(source)
    return own[own["task"] == task]


def sentiment(found: Results) -> pd.DataFrame:
    """Panels auc and accuracy (at even odds) on held-out reviews of each source."""
    rows = []
    for origin, label in SOURCE_NAMES.items():
        own = _of(found, "sentiment", "labelled")
        own = own[own["origin"] == origin]
        good = own["good"].astype(bool)
        for series in SCORED:
            area = measures.auc_interval(own[series], good, own["prompt"])
            right = measures.accuracy_interval((own[series] > 0) == good, own["prompt"])
            rows.append(_row("auc", label, series, area))
            rows.append(_row("accuracy", label, series, right))
    return pd.DataFrame(rows)


def chat(found: Results) -> pd.DataFrame:
    """Panel pairs: the human reply above one that does not belong; panel hhh: people's choices.

    Both are shares of pairs, a tie counting half.
    """
    own = _of(found, "chat", "labelled")
    human = own[own["origin"] == "human"]
    rows = []
    for origin in DIFFERENT:
        pairs = own[own["origin"] == origin].merge(human, on="sample", suffixes=("_other", ""))
        rows += _above(pairs, "pairs", origin)
    sides = _of(found, "chat", "hhh")
    good = sides["good"].astype(bool)
    both = sides[good].merge(sides[~good], on=["origin", "prompt"], suffixes=("", "_other"))
    for subset, part in both.groupby("origin", sort=False):
        rows += _above(part, "hhh", subset)
    return pd.DataFrame(rows + _above(both, "hhh", "all"))


def _above(pairs: pd.DataFrame, panel: str, group: str) -> list[dict]:
    return [
        _row(panel, group, series, measures.accuracy_interval(
            (np.sign(pairs[series] - pairs[f"{series}_other"]) + 1) / 2, pairs["prompt"]
        )) for series in SCORED
    ]  # fmt: skip


def calibration(found: Results) -> pd.DataFrame:
    """Predicted against observed, in `BINS` groups of like prediction; a panel a task.

    A log-odds score predicts p(good) of a text: sentiment's two on the reviews of its own training
    source, the chat judge on human and foreign replies. The Bradley-Terry reward predicts that the
    better scored of two replies is the human one. Even weight of good and bad texts is assumed,
    which training had.
    """
    reviews, replies = (_of(found, task, "labelled") for task in TASKS)
    pairs = _pairs(replies)
    parts = [
        ("sentiment", series, *_predicted(reviews[reviews["origin"] == source], series))
        for series, source in TRAINED_ON.items()
    ]
    gap = pairs["reward"] - pairs["reward_other"]
    parts.append(("chat", "reward", expit(gap.abs()), gap > 0))
    parts.append(("chat", "judge", *_predicted(_balanced(replies), "judge")))
    rows = [row for panel, *rest in parts for row in _binned(panel, *rest)]
    ends = [0.0, 1.0]
    even = [
        {"panel": panel, "series": "calibrated", "kind": "formula", "x": x, "mean": x}
        for panel in TASKS for x in ends
    ]  # fmt: skip
    return pd.DataFrame(rows + even).assign(point="")


def _predicted(own: pd.DataFrame, series: str) -> tuple[pd.Series, pd.Series]:
    return expit(own[series]), own["good"].astype(bool)


def _pairs(replies: pd.DataFrame) -> pd.DataFrame:
    """Turns with the scores of the human reply and of one of another dialogue."""
    human = replies[replies["origin"] == "human"]
    other = replies[replies["origin"] == "other dialogue"]
    return human.merge(other, on="sample", suffixes=("", "_other"))


def _balanced(replies: pd.DataFrame) -> pd.DataFrame:
    """Human replies, and as many false ones of the judge's kinds, evenly."""
    kinds = DIFFERENT[1:]
    false = replies[~replies["good"].astype(bool)]
    false = false[false["origin"] == np.array(kinds)[false["sample"].astype(int) % len(kinds)]]
    turns = false["sample"].unique()
    return pd.concat(
        [replies[(replies["origin"] == "human") & replies["sample"].isin(turns)], false]
    )


def _binned(panel: str, series: str, predicted: pd.Series, observed: pd.Series) -> Iterator[dict]:
    bins = pd.qcut(predicted.rank(method="first"), min(BINS, len(predicted)), labels=False)
    for _, part in predicted.groupby(bins):
        share = measures.accuracy_interval(observed.loc[part.index])
        row = _row(panel, "", series, share) | {"kind": "points", "x": part.mean()}
        yield row | {"x_low": part.min(), "x_high": part.max()}


def calibration_error(found: Results) -> pd.DataFrame:
    """Mean distance between predicted and observed, over the bins of `calibration`."""
    drawn = calibration(found).query("kind == 'points'")
    gap = (drawn["mean"] - drawn["x"]).abs().rename("error")
    return gap.groupby([drawn["panel"], drawn["series"]], sort=False).mean().reset_index()


def looks(found: Results) -> pd.DataFrame:
    """Pearson correlation of a score with a completion's looks among one prompt's samples."""
    return pd.DataFrame([
        _row(task, name, series, interval)
        for task in TASKS
        for name in LOOKS
        for series in SCORED
        if (interval := _within(found, task, series, name, lambda values: values))
    ])  # fmt: skip


def agreement(found: Results) -> pd.DataFrame:
    """Spearman correlation of reward and judge among the samples of one prompt."""
    return pd.DataFrame([
        _row(task, "samples of one prompt", "reward with judge",
             _within(found, task, "reward", "judge", rankdata))
        for task in TASKS
    ])  # fmt: skip


def repeated_words(text: str) -> float:
    """Share of a text's words that occurred in it before; 0 without words.

    Repeated trigrams, as `summaries` counts them, are too rare in two dozen words.
    """
    words = summaries.words(text)
    return 1 - len(set(words)) / len(words) if words else 0.0


def _within(
    found: Results, task: str, first: str, second: str, change: Callable
) -> Interval | None:
    """Mean over prompts of the correlation; prompts where a side is constant are left out."""
    own = _of(found, task, "policy")
    own = own.assign(repeated_words=own["text"].map(repeated_words)).dropna(subset=[second])
    values = [
        np.corrcoef(change(part[first]), change(part[second]))[0, 1]
        for _, part in own.groupby("prompt")
        if part[first].nunique() > 1 and part[second].nunique() > 1
    ]
    return mean_interval(values) if values else None


def headroom(found: Results) -> pd.DataFrame:
    """Reward and judge of the best of N samples by the reward, in the samples' own spread.

    Of each score the mean of the prompt's samples is subtracted, and the mean standard deviation
    within a prompt divided out, so that both can be drawn together.
    """
    rows = []
    for task in TASKS:
        own = _of(found, task, "policy")
        grids = {name: _grid(own, name) for name in SCORED}
        for series, values in grids.items():
            centre, spread = values.mean(1), values.std(1).mean()
            for n in SIZES:
                best = measures.best_of_n_value(values, grids["reward"], n)
                interval = mean_interval(((best - centre) / spread).numpy())
                rows.append(_row(task, "", series, interval) | {"step": n})
    return pd.DataFrame(rows)


def spreads(found: Results) -> pd.DataFrame:
    """Mean score of the samples and of people's completions, and the spread within a prompt."""
    rows = []
    for task in TASKS:
        own, human = (_of(found, task, source) for source in ("policy", "human"))
        for name in SCORED:
            values = _grid(own, name)
            row = {"task": task, "score": name, "samples": float(values.mean())}
            row |= {"human": human[name].mean(), "spread": float(values.std(1).mean())}
            rows.append(row | {"between prompts": float(values.mean(1).std())})
    return pd.DataFrame(rows)


def probes(found: Results) -> pd.DataFrame:
    """Percent of the reference policy's samples that a probe beats, ties half; a panel a task."""
    rows = []
    for task in TASKS:
        samples = {series: _grid(_of(found, task, "policy"), series) for series in SCORED}
        for source, names in (("human", ["human"]), ("probe", PROBES[task])):
            own = _of(found, task, source)
            for name in names:
                part = own[own["origin"] == name].sort_values("prompt")
                for series in SCORED:
                    value = torch.tensor(part[series].to_numpy(float))[:, None]
                    wins = 50 * ((value - samples[series]).sign() + 1)
                    rows.append(_row(task, name, series, mean_interval(wins.mean(1).numpy())))
    return pd.DataFrame(rows)


def examples(found: Results, count: int) -> pd.DataFrame:
    """Samples, one a prompt, on which reward and judge agree and differ most (in ranks)."""
    parts = []
    for task in TASKS:
        own = _of(found, task, "policy")
        ranks = own[list(SCORED)].rank(pct=True)
        orders = {
            "both high": ranks.min(axis=1),
            "both low": -ranks.max(axis=1),
            "reward high, judge low": ranks["reward"] - ranks["judge"],
        }
        for what, order in orders.items():
            chosen = own.loc[order.sort_values(ascending=False).index]
            parts.append(chosen.drop_duplicates("prompt").head(count).assign(what=what))
    return pd.concat(parts)[["task", "what", "reward", "judge", "text"]].reset_index(drop=True)


def _grid(own: pd.DataFrame, name: str) -> torch.Tensor:
    wide = own.pivot(index="prompt", columns="sample", values=name)
    return torch.from_numpy(wide.to_numpy(float, copy=True))


def _row(panel: str, group: str, series: str, interval: Interval) -> dict:
    ends = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {"panel": panel, "group": group, "series": series, **ends, "count": interval.count}
