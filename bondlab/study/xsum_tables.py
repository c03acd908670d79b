"""Tidy tables of the XSum task's two models, from the table that `xsum_quality` makes.

Every interval is at 95 %. Documents are the independent units of summaries, and Wikipedia pages
those of claims, since claims of one page share evidence. The tables that are drawn have the columns
that `plots` wants: panel, group or n, series, mean, low, high, and count.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from torch import Tensor

from bondlab import measures
from bondlab.measures import Interval, mean_interval
from bondlab.study.scored_texts import Results
from bondlab.study.summaries import ROUGES
from bondlab.study.xsum_texts import CLAIMS, FALSE_COPIES

SIZES = (1, 2, 4, 8, 16)
SUMMARISERS = {
    "untrained": "before fine-tuning", "policy": "reference policy",
    "cold": "policy, temp. 0.1", "lead": "lead sentence",
}  # fmt: skip
JUDGED = {
    "own": {
        "reference": "human\nreference", "policy": "policy", "cold": "policy,\ntemp. 0.1",
        "untrained": "before\nfine-tuning", "lead": "lead\nsentence",
    },
    "false": {
        "shuffled": "another's\nreference", "lead_number": "lead, number\nchanged",
        "lead_name": "lead, name\nchanged", "repeated": "one word\nten times",
        "empty": "empty",
    },
}  # fmt: skip
ORIGINS = dict(zip(CLAIMS, ("as it\ncame", "number", "name", "garbled", "evidence"), strict=True))
COPYING = {"longest_copied_span": 1, "novel_bigrams": 100, "words": 1, "rougeL": 100}
CORRELATED = ("words", "longest_copied_span", "novel_bigrams", "rougeL")
TEXT_MEASURES = (
    "words", "empty", "longest_copied_span", "novel_unigrams", "novel_bigrams", "novel_trigrams",
    "repetition", "numbers_faithful", "rougeL",
)  # fmt: skip


def rouge(found: Results) -> pd.DataFrame:
    """ROUGE F1 in percent of one summary a document against the human one."""
    rows = [
        _row("rouge", f"ROUGE-{name[5:]}", label, mean_interval(100 * _once(found, source)[name]))
        for source, label in SUMMARISERS.items()
        for name in ROUGES
    ]
    return pd.DataFrame(rows)


def entailment(found: Results) -> pd.DataFrame:
    """Mean p(entailment) of one text a document, of every source."""
    rows = [
        _row(panel, label, "reward", mean_p(found, source))
        for panel, sources in JUDGED.items()
        for source, label in sources.items()
    ]
    return pd.DataFrame(rows)


def judge(found: Results) -> pd.DataFrame:
    """How the reward tells true claims from false: panels auc, accuracy (at p = 0.5) and pairs.

    The AUC sets each origin's false claims against the true ones; the accuracy of changed claims is
    the share that is rejected. A kind of text that the results do not hold is left out: few claims
    may allow no copy of a kind.
    """
    rows, held = [], set(found.table["source"])
    for origin in [origin for origin in ORIGINS if origin in held]:
        label, own = ORIGINS[origin], found.of(origin)
        true = own["entailed"].astype(bool)
        right = (own["reward"] > 0) == true
        rows.append(_row("auc", label, "reward", _auc(found, own[~true])))
        accuracy = measures.accuracy_interval(right, own["prompt"])
        rows.append(_row("accuracy", label, "reward", accuracy))
    for kind in FALSE_COPIES:
        for what, true, changed in (("claim", "vitaminc", kind), ("lead", "lead", f"lead_{kind}")):
            if changed in held:
                share = above(found, true, changed)
                rows.append(_row("pairs", f"{kind},\n{what}", "reward", share))
    return pd.DataFrame(rows)


def _auc(found: Results, false: pd.DataFrame) -> Interval:
    own = found.of("vitaminc")
    both = pd.concat([own[own["entailed"].astype(bool)], false])
    return measures.auc_interval(both["reward"], both["entailed"].astype(bool), both["prompt"])


def above(found: Results, true: str, changed: str) -> Interval:
    """Share of changed texts that score below the text that they were made from; a tie is half."""
    keys = ["prompt", "sample"]
    pairs = found.of(changed).merge(found.of(true), on=keys, suffixes=("_changed", ""))
    gap = np.sign(pairs["reward"] - pairs["reward_changed"])
    return measures.accuracy_interval((gap + 1) / 2, pairs["prompt"])


def contests(found: Results) -> pd.DataFrame:
    """How often the reward prefers one text to another of the same article, and takes true numbers.

    The last row is the share of true claims with a number in them that get p above 0.5.
    """
    pairs = {
        "reference above another's reference": ("reference", "shuffled"),
        "lead sentence above reference": ("lead", "reference"),
        "one word ten times above reference": ("repeated", "reference"),
        "policy at temp. 0.1 above reference": ("cold", "reference"),
    }
    rows = {what: above(found, *pair) for what, pair in pairs.items()}
    best = _many(found).groupby("prompt")["reward"].max()
    lead = found.of("lead").set_index("prompt")["reward"].reindex(best.index)
    rows["lead sentence above best policy sample"] = measures.accuracy_interval(lead > best)
    own = found.of("vitaminc")
    numbered = own[own["sample"].isin(found.of("number")["sample"])]
    rows["true claim with a number accepted"] = measures.accuracy_interval(
        numbered["reward"] > 0, numbered["prompt"]
    )
    return pd.DataFrame({"share": what, **_ends(interval)} for what, interval in rows.items())


def headroom(found: Results) -> pd.DataFrame:
    """Mean p(entailment) of the best of n policy samples, over the documents with many samples."""
    p = torch.from_numpy(expit(_grid(found, "reward").numpy()))
    return pd.DataFrame(
        {"series": "best of N policy samples", "n": n, **_ends(_best(found, p, n))} for n in SIZES
    )


def copying(found: Results) -> pd.DataFrame:
    """What choosing by the reward does to a summary, over the documents with many samples.

    Spans and lengths in words, shares in percent.
    """
    prompts = _many(found)["prompt"].unique()
    rows = []
    for name, unit in COPYING.items():
        for source, label in (("reference", "human reference"), ("lead", "lead sentence")):
            values = _once(found, source)[lambda table: table["prompt"].isin(prompts)][name]
            rows.append(_row(name, "", label, mean_interval(unit * values)))
        for n, label in ((1, "policy sample"), (4, "best of 4"), (16, "best of 16")):
            rows.append(_row(name, "", label, _best(found, unit * _grid(found, name), n)))
    table = pd.DataFrame(rows)
    itself = (table["panel"] == "rougeL") & (table["series"] == "human reference")
    return table[~itself].reset_index(drop=True)


def text_table(found: Results) -> pd.DataFrame:
    """Means of every text measure by source, one text a document."""
    sources = (*SUMMARISERS, "reference")
    means = {s: _once(found, s)[list(TEXT_MEASURES)].astype(float).mean() for s in sources}
    return pd.DataFrame(means).rename_axis("mean of").reset_index()


def correlations(found: Results) -> pd.DataFrame:
    """Correlation of the reward with what a summary looks like, among one document's samples.

    Pearson's within each document, then the mean over documents with its interval: what Best-of-N
    sees, free of differences between documents. Documents where a measure is constant are left out.
    """
    rows = []
    for name in CORRELATED:
        within = [
            np.corrcoef(part["reward"], part[name])[0, 1]
            for _, part in _many(found).dropna(subset=[name]).groupby("prompt")
            if part[name].nunique() > 1 and part["reward"].nunique() > 1
        ]
        if within:
            rows.append({"reward with": name, **_ends(mean_interval(within))})
    return pd.DataFrame(rows)


def examples(found: Results, count: int) -> dict[str, pd.DataFrame]:
    """Samples of the policy, one a document: the best, the worst, and the invented that pass."""
    own = found.of("policy")
    ranked = own.assign(p=expit(own["reward"])).sort_values("reward", ascending=False)
    parts = {
        "highest reward": ranked,
        "lowest reward": ranked[ranked["words"] > 0][::-1],
        "highest reward with a number that the article lacks": ranked[
            ranked["numbers_faithful"] < 1
        ],
    }
    return {name: part.drop_duplicates("prompt").head(count) for name, part in parts.items()}


def mean_p(found: Results, source: str) -> Interval:
    """Mean p(entailment) of one text a document."""
    return mean_interval(expit(_once(found, source)["reward"]))


def _once(found: Results, source: str) -> pd.DataFrame:
    return found.of(source)[lambda table: table["sample"] == 0]


def _many(found: Results) -> pd.DataFrame:
    """The policy's rows of the documents with many samples."""
    own = found.of("policy")
    return own[own.groupby("prompt")["sample"].transform("size") > 1]


def _grid(found: Results, name: str) -> Tensor:
    """A column of the documents with many samples, [B, K]; a missing share is its row's mean."""
    wide = _many(found).pivot(index="prompt", columns="sample", values=name).astype(float)
    return torch.from_numpy(wide.T.fillna(wide.mean(axis=1)).T.to_numpy(copy=True))


def _best(found: Results, values: Tensor, n: int) -> Interval:
    return mean_interval(measures.best_of_n_value(values, _grid(found, "reward"), n).numpy())


def _ends(interval: Interval) -> dict[str, float]:
    ends = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {**ends, "count": interval.count}


def _row(panel: str, group: str, series: str, interval: Interval) -> dict:
    return {"panel": panel, "group": group, "series": series, **_ends(interval)}
