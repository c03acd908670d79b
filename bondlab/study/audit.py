"""An audit of rewards: every text that they judge, scored once, and the tables that audits share.

Before anything is trained on a reward it is measured on what it should tell apart: texts with
labels, a reference policy's samples, texts made by rule. The paper reports none of this.

A table of texts has the columns source (who wrote the text, or by which rule), prompt and sample
(numbers; a prompt is an independent unit: a document, a review, a dialogue, a page), a column per
scorer, and for completions the measures of `summaries.describe`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import BaseModel
from scipy.special import expit
from tqdm.auto import tqdm

from bondlab import device, measures
from bondlab.bank import seeded
from bondlab.lm.language_model import LanguageModel
from bondlab.report import plots
from bondlab.report.intervals import Interval, accuracy_interval, known, mean_interval
from bondlab.report.kept import Profile, Results, Tables, once, runs_table
from bondlab.report.plots import Level, Panel
from bondlab.study import summaries
from bondlab.task import Reward, score
from bondlab.tasks import TaskSettings, models, scorers

SIZES = (1, 2, 4, 8, 16)  # N of Best-of-N
PAIRS_AT_ONCE = 256  # scored together; rewards sort them by length
SMOOTHED = 50  # training steps of a drawn curve


class Settings(BaseModel):
    """What is measured.

    Args:
        tasks: by name; `evaluate` of each task's held-out prompts are completed.
        samples: completions of each of the first `many` prompts, no fewer than the largest of
            `SIZES`; the others get one.
        labelled: held-out texts with labels, of each kind that there is.
        untrained: the model before fine-tuning, where one is measured.
    """

    tasks: dict[str, TaskSettings]
    samples: int
    labelled: int
    many: int = 10_000
    untrained: str = models.BASE
    seed: int = 0


@dataclass(frozen=True)
class Audit:
    """One notebook's worth of texts.

    Args:
        name: its folder's; settings: what is measured at each profile.
        measure: makes the table of texts.
        rules: names of the rules that make texts; with the settings they determine the table.
        models: folders of the audited models.
    """

    name: str
    settings: Mapping[str, Settings]
    measure: Callable[[Settings], pd.DataFrame]
    rules: Sequence[str]
    models: Sequence[str]

    def results(self, profile: Profile, seed: int = 0) -> Results:
        """The tables texts and runs: measured at a profile, once, or those that are shipped.

        `seed` is that of samples and chosen texts.

        Raises:
            FileNotFoundError: nothing is shipped, or a model was never trained.
        """

        def compute() -> Tables:
            settings = self.settings[profile].model_copy(update={"seed": seed})
            identity = {
                "experiment": self.name,
                "settings": settings.model_dump(mode="json"),
                "rules": list(self.rules),
                "precision": device.resolve("auto"),
                "models": {
                    name: (scorers if name in scorers.SCORERS else models).identity(name)
                    for name in self.models
                },
            }
            texts, manifest = once("texts", identity, lambda: self.measure(settings))
            return {"texts": texts, "runs": runs_table(manifest, profile=profile)}

        return Results(self.name, profile).load(["texts", "runs"], compute)


# -- measuring -------------------------------------------------------------------------------------


def sampled(
    model: LanguageModel, prompts: Sequence[str], counts: Sequence[int], stream: tuple, at_once: int
) -> list[list[str]]:
    """`counts` completions of each prompt, `at_once` prompts of the same count together.

    `stream` is the seed and what else tells these samples from others (see `bank.seeded`).
    """
    runs = [list(run) for _, run in groupby(range(len(prompts)), lambda i: counts[i])]
    parts = [run[i : i + at_once] for run in runs for i in range(0, len(run), at_once)]
    texts = []
    for part in tqdm(parts, desc="sampling", leave=False):
        encoded = model.encode([prompts[i] for i in part])
        drawn = model.sample(encoded, counts[part[0]], seeded(*stream, part[0]))
        texts += model.decode(drawn)
    return texts


def completions(
    prompts: Sequence[str], texts: Mapping[str, Sequence[Sequence[str]]]
) -> pd.DataFrame:
    """Rows source, prompt, sample, read (the prompt), text, from each source's texts per prompt."""
    return pd.DataFrame(
        {"source": source, "prompt": i, "sample": k, "read": prompts[i], "text": text}
        for source, lists in texts.items() for i, own in enumerate(lists)
        for k, text in enumerate(own)
    )  # fmt: skip


def scored(
    texts: pd.DataFrame,
    judges: Mapping[str, Reward],
    labelled: Collection[str],
    written: Collection[str],
) -> pd.DataFrame:
    """The texts with a column per judge, and the measures of those that complete a prompt.

    Args:
        texts: columns source, prompt, sample, text and read, what it is judged after; for ROUGE
            also reference.
        labelled: sources of texts with labels, which are no completions.
        written: sources that a model wrote. All else is other people's text: measured, not kept.
    """
    texts = texts.reset_index(drop=True)
    read, alone = texts["read"].tolist(), [[text] for text in texts["text"]]
    parts = [slice(i, i + PAIRS_AT_ONCE) for i in range(0, len(texts), PAIRS_AT_ONCE)]
    for name, judge in judges.items():
        found = [score(judge, read[p], alone[p]) for p in tqdm(parts, "scoring", leave=False)]
        texts[name] = torch.cat(found).flatten().numpy()
    own = texts[~texts["source"].isin(labelled)]
    human = own["reference"].tolist() if "reference" in own else None
    looks = summaries.describe(own["read"].tolist(), [[text] for text in own["text"]], human)
    looks = looks.drop(columns=["prompt", "sample"]).set_index(own.index)
    texts["text"] = texts["text"].where(texts["source"].isin(written))
    return texts.drop(columns=["read", "reference"], errors="ignore").join(looks)


# -- tables ----------------------------------------------------------------------------------------


def of(found: Results, **labels: str | bool) -> pd.DataFrame:
    """The texts with these labels, such as source="policy", and p, the reward as a probability."""
    table = found["texts"]
    for name, value in labels.items():
        table = table[table[name] == value]
    return table.assign(p=expit(table["reward"]))


def means(
    found: Results, factors: Mapping[str, float], sources: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Rows measure, source, mean, low, high, count: a measure's mean over one text per prompt.

    Of the texts that have it, as not every text holds a number; no row where none has. Measures
    come with a factor, such as 100 for percent, and sources with a label.
    """
    rows = []
    for (name, factor), (source, label) in product(factors.items(), sources.items()):
        own = of(found, source=source).query("sample == 0")[name].dropna().astype(float)
        if len(own):
            rows.append((mean_interval(own) * factor).row(measure=name, source=label))
    return rows


def best_of(own: pd.DataFrame, name: str, n: int) -> Interval:
    """Mean of a measure of the best of n samples by the reward; as many samples of each prompt.

    What a sample lacks is the mean of its prompt's.
    """
    tensors = []
    for column in (name, "reward"):
        wide = own.pivot(index="prompt", columns="sample", values=column).astype(float)
        filled = wide.T.fillna(wide.mean(axis=1)).T
        tensors.append(torch.from_numpy(filled.to_numpy(copy=True)))
    return mean_interval(measures.best_of_n_value(*tensors, n).numpy())


def above(better: pd.DataFrame, worse: pd.DataFrame, name: str = "reward") -> Interval:
    """Share of texts that score above the worse one of their prompt and sample; ties half."""
    pairs = better.merge(worse, on=["prompt", "sample"], suffixes=("", "_worse"))
    won = (np.sign(pairs[name] - pairs[f"{name}_worse"]) + 1) / 2
    return accuracy_interval(won, pairs["prompt"])


def correlations(
    own: pd.DataFrame, pairs: Iterable[tuple[str, str]], method: str = "pearson"
) -> list[dict[str, Any]]:
    """Rows of two measures' correlation within a prompt, the mean over prompts; columns of `means`.

    Prompts where a measure is constant are left out; no row if there are no others.
    """
    rows = []
    for first, second in pairs:
        values = [
            part[first].corr(part[second], method=method)
            for _, part in own.dropna(subset=[first, second]).groupby("prompt")
            if part[first].nunique() > 1 and part[second].nunique() > 1
        ]
        if values:
            rows.append(mean_interval(values).row(measure=first, source=second))
    return rows


# -- trainings and examples ------------------------------------------------------------------------


def draw_training(
    found: Results, panels: Sequence[Panel], title: str, levels: Sequence[Level] = ()
) -> pd.DataFrame:
    """Publish the shipped training curves, a panel per model: panel, series, kind, step, mean.

    Losses lack an interval; the held-out ones before and after are the headline numbers.
    """
    parts, numbers, batches = [], {}, f"training, mean of {SMOOTHED} steps"
    for panel in panels:
        curve = pd.read_csv(models.WEIGHTS / panel.name / "training.csv")
        curve[batches] = curve["loss"].rolling(SMOOTHED, min_periods=1).mean()
        curve = curve.rename(columns={"held_out_loss": "held out"})
        long = curve.melt("step", [batches, "held out"], "series", "mean").dropna()
        kind = long["series"].map({batches: "formula", "held out": "joined"})
        parts.append(long.assign(panel=panel.name, kind=kind, low=math.nan, high=math.nan))
        losses = curve["held out"].dropna()
        for when, place in (("before", 0), ("after", -1)):
            what = f"{panel.name}: held-out loss {when} training"
            numbers[what] = known(losses.iloc[place]), panel.ylabel
    table = pd.concat(parts, ignore_index=True)
    figure = plots.lines(table, panels, levels=levels, title=title)
    found.publish("training", figure, table, panels, numbers=numbers)
    return table
