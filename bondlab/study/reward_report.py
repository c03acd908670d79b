"""Figures of how good the rewards and judges are, from the tables of `reward_tables`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

import pandas as pd
from matplotlib.figure import Figure

from bondlab.making import supervised
from bondlab.study import plots, reward_tables, scored_texts
from bondlab.study.plots import Panel
from bondlab.study.reward_quality import EXPERIMENT
from bondlab.study.scored_texts import Results

TITLES = {"sentiment": "Sentiment", "chat": "Chat"}
UNITS = {
    "sentiment_reward": "nats a review",
    "sentiment_judge": "nats a review",
    "chat_reward": "nats a pair",
    "chat_judge": "nats a reply",
}


def training(found: Results) -> Figure:
    """Loss curves of the four shipped trainings, and their loss on held-out texts."""
    table = supervised.curves({name: name for name in UNITS})
    panels = [Panel(name, name.replace("_", " "), f"loss ({unit})") for name, unit in UNITS.items()]
    headline = supervised.before_and_after(table, UNITS)
    return _saved(found, "training", plots.curves(table, panels), table, headline)


def sentiment(found: Results) -> Figure:
    """How often the sentiment scorers are right about held-out reviews of each source."""
    table = reward_tables.sentiment(found)
    panels = [
        Panel("auc", "Positive above negative", "AUC"),
        Panel("accuracy", "Right at even odds", "share of reviews"),
    ]
    note = "Extracts of held-out reviews. Dashed: chance. 95 % intervals over reviews."
    figure = plots.bars_with_intervals(table, panels, note=note)
    _against_chance(figure, 1)
    return _saved(found, "sentiment", figure, table, _headline(table, "share"))


def chat(found: Results) -> Figure:
    """How often the chat scorers prefer the human reply, and what people chose."""
    table = reward_tables.chat(found)
    table["group"] = table["group"].str.replace(" ", "\n")
    panels = [
        Panel("pairs", "Human reply above one that does not belong", "share of pairs"),
        Panel("hhh", "People's choice above the other (HHH)", "share of pairs"),
    ]
    note = "Held-out dialogues and comparisons. Dashed: chance. 95 % intervals over them."
    figure = plots.bars_with_intervals(table, panels, note=note)
    _against_chance(figure, 1)
    return _saved(found, "chat", figure, table, _headline(table, "share of pairs"))


def calibration(found: Results) -> Figure:
    """Observed share against the predicted probability, in bins of equally many texts."""
    table = reward_tables.calibration(found)
    panels = [Panel(task, title, "observed share") for task, title in TITLES.items()]
    note = "95 % intervals over texts or pairs of a bin."
    figure = plots.paths(table, panels, "predicted probability", note=note)
    errors = reward_tables.calibration_error(found)
    headline = [
        {"what": f"{row.panel} {row.series}: mean distance to calibrated", "value": row.error,
         "unit": "probability", "seeds": 1}
        for row in errors.itertuples()
    ]  # fmt: skip
    return _saved(found, "calibration", figure, table, headline)


def looks(found: Results) -> Figure:
    """What the scores go with among samples of one prompt: length, repetition, copying."""
    table = reward_tables.looks(found)
    table["group"] = table["group"].str.replace("_", "\n")
    panels = [Panel(task, title, "correlation with the score") for task, title in TITLES.items()]
    note = "Reference samples; Pearson's within a prompt; 95 % intervals over prompts."
    figure = plots.bars_with_intervals(table, panels, note=note)
    return _saved(found, "looks", figure, table, _headline(table, "correlation"))


def headroom(found: Results) -> Figure:
    """What choosing the best of N by the reward gains, under the reward and under the judge."""
    table = reward_tables.headroom(found)
    panels = [
        Panel(task, title, "score of the best of N\n(s.d. of a prompt's samples)")
        for task, title in TITLES.items()
    ]
    note = f"{int(table['count'].max())} held-out prompts; 95 % intervals over prompts."
    xlabel = "N, completions to choose from by the reward (log scale)"
    figure = plots.curves(table, panels, xlabel=xlabel, note=note, log2=True)
    last = table[table["step"] == table["step"].max()]
    last = last.assign(group=last["series"] + " of the best of 16")
    return _saved(found, "headroom", figure, table, _headline(last, "s.d. of a prompt's samples"))


def probes(found: Results) -> Figure:
    """Share of the reference's samples that texts by rule beat."""
    table = reward_tables.probes(found)
    panels = [Panel(task, title, "samples beaten (%)") for task, title in TITLES.items()]
    note = (
        f"{int(table['count'].max())} held-out prompts. Dashed: level with the samples. 95 % "
        "intervals over prompts."
    )
    figure = plots.bars_with_intervals(table, panels, decimals=None, note=note, slanted=True)
    _against_chance(figure, 100)
    return _saved(found, "probes", figure, table, _headline(table, "% of samples beaten"))


def print_examples(found: Results, count: int) -> None:
    """Print samples that both scorers like, that neither likes, and that only the reward likes."""
    for (task, what), part in reward_tables.examples(found, count).groupby(
        ["task", "what"], sort=False
    ):
        print(f"-- {task}, {what}")
        for row in part.itertuples():
            print(f"reward {row.reward:.2f}, judge {row.judge:.2f}")
            print(textwrap.indent(textwrap.fill(row.text.strip() or "(empty)", 92), "    "))


def _against_chance(figure: Figure, whole: float) -> None:
    for axes in figure.axes:
        axes.set_ylim(0, 1.1 * whole)
        axes.axhline(whole / 2, color="#555555", linewidth=1.2, linestyle="--")


def _headline(table: pd.DataFrame, unit: str) -> list[dict]:
    return scored_texts.headline(table, unit, lambda row: f"{row.panel}, {row.group}, {row.series}")


def _saved(
    found: Results, stem: str, figure: Figure, table: pd.DataFrame, headline: Iterable[dict]
) -> Figure:
    return scored_texts.saved(EXPERIMENT, stem, found, figure, table, headline)
