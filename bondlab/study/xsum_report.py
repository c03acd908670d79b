"""Figures of the XSum task's two models: what `xsum_tables` computes, drawn and saved."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure

from bondlab.making import supervised
from bondlab.study import plots, scored_texts, xsum_tables
from bondlab.study.plots import Level, Panel
from bondlab.study.scored_texts import Results
from bondlab.study.xsum_quality import EXPERIMENT

UNITS = {"reference": "nats a token", "reward": "nats a claim"}


def training(found: Results) -> Figure:
    """Loss curves of the two shipped trainings, and their loss on held-out pairs."""
    table = training_table()
    titles = {
        "reference": "Reference policy: T5 on XSum and BBC",
        "reward": "Reward: T5 on VitaminC",
    }
    panels = [Panel(name, titles[name], f"loss ({unit})") for name, unit in UNITS.items()]
    headline = supervised.before_and_after(table, UNITS)
    return _saved(found, "training", plots.curves(table, panels), table, headline)


def training_table() -> pd.DataFrame:
    """The shipped trainings' curves, tidy; their losses have no interval."""
    return supervised.curves({name: f"xsum_{name}" for name in UNITS})


def rouge(found: Results) -> Figure:
    """ROUGE F1 of one summary a document against the human one."""
    table = xsum_tables.rouge(found)
    panel = Panel("rouge", "Held-out XSum articles", "F1 to the human reference (%)")
    note = f"{_most(table)} articles, one sample each; 95 % intervals over articles."
    figure = plots.bars_with_intervals(table, [panel], decimals=1, note=note)
    return _saved(found, "rouge", figure, table, _headline(table, "% F1", "reference policy"))


def entailment(found: Results) -> Figure:
    """p(entailment) of what a summary should and should not be."""
    table = xsum_tables.entailment(found)
    panels = [
        Panel("own", "Summaries of the article", "mean p(entailment)"),
        Panel("false", "False summaries, or none", "mean p(entailment)"),
    ]
    note = f"Up to {_most(table)} held-out XSum articles, one text each; 95 % intervals."
    figure = plots.bars_with_intervals(table, panels, note=note)
    for axes in figure.axes:
        axes.set_ylim(0, 1.1)  # to be compared
    return _saved(found, "entailment", figure, table, _headline(table, "p(entailment)"))


def judge(found: Results) -> Figure:
    """How the reward tells true claims from false: AUC, accuracy at 0.5, and pairs in order."""
    table = xsum_tables.judge(found)
    panels = [
        Panel("auc", "True above false", "AUC"),
        Panel("accuracy", "Right at p = 0.5", "share of claims"),
        Panel("pairs", "True above its changed copy", "share of pairs"),
    ]
    note = (
        "Left and middle: claims of held-out VitaminC pages, with false claims as they came or "
        "made by changing a number, a name or the evidence, or garbled. Right: those claims, and "
        "first sentences of held-out XSum articles. Dashed: chance. 95 % intervals over pages, "
        "articles."
    )
    figure = plots.bars_with_intervals(table, panels, note=note)
    for axes in figure.axes:
        axes.set_ylim(0, 1.1)
        axes.axhline(0.5, color="#555555", linewidth=1.2, linestyle="--")
        axes.tick_params(axis="x", labelsize=7)  # five names a panel
    return _saved(found, "judge", figure, table, _headline(table, ""))


def headroom(found: Results) -> Figure:
    """Mean p(entailment) of the best of N samples: what distilling Best-of-N could reach."""
    table = xsum_tables.headroom(found)
    sources = {"lead": "lead sentence", "reference": "human reference"}
    levels = [
        Level("", xsum_tables.mean_p(found, source).mean, label)
        for source, label in sources.items()
    ]
    note = f"{_most(table)} held-out articles; 95 % intervals over articles."
    figure = plots.headroom(table, "mean p(entailment)", levels, note=note)
    ends = table.iloc[[0, -1]].assign(panel="p(entailment)", group="")
    ends["series"] = [f"best of {n}" for n in ends["n"]]
    return _saved(found, "headroom", figure, table, _headline(ends, ""))


def copying(found: Results) -> Figure:
    """What choosing by the reward does to copying, length and agreement with the reference."""
    table = xsum_tables.copying(found)
    panels = [
        Panel("longest_copied_span", "Longest copied run", "words"),
        Panel("novel_bigrams", "New bigrams", "% of the summary's"),
        Panel("words", "Length", "words"),
        Panel("rougeL", "ROUGE-L", "F1 to the human reference (%)"),
    ]
    note = f"{_most(table)} held-out articles; 95 % intervals over articles."
    figure = plots.bars_with_intervals(table, panels, decimals=1, note=note)
    for axes in figure.axes:
        axes.set_xticks([])  # one nameless group
    spans = table[table["panel"] == "longest_copied_span"]
    return _saved(found, "copying", figure, table, _headline(spans, "words"))


def print_examples(found: Results, count: int, documents: Sequence[Mapping] = ()) -> None:
    """Print samples of the policy with their reward and measures, best, worst and invented.

    Args:
        count: samples of each kind.
        documents: held-out rows with document and summary, printed beside if given.
    """
    for title, table in xsum_tables.examples(found, count).items():
        print(f"-- {title}")
        for row in table.itertuples():
            shares = f"new bigrams {row.novel_bigrams:.2f}, numbers {row.numbers_faithful:.2f}"
            copied = f"{row.words:.0f} words, copied {row.longest_copied_span:.0f}"
            print(f"p {row.p:.2f}, {copied}, {shares}".replace("nan", "-"))
            print(textwrap.indent(textwrap.fill(row.text, 92), "    "))
            if documents:
                shown = {"ARTICLE": "document", "REFERENCE": "summary"}
                for label, column in shown.items():
                    print(f"    {label}: {documents[row.prompt][column]}")


def _most(table: pd.DataFrame) -> int:
    return int(table["count"].max())


def _headline(table: pd.DataFrame, unit: str, series: str | None = None) -> list[dict]:
    """The table's rows, or those of one series, as headline numbers."""
    chosen = table if series is None else table[table["series"] == series]
    return scored_texts.headline(
        chosen, unit, lambda row: f"{row.panel}, {row.group or row.series}"
    )


def _saved(
    found: Results, stem: str, figure: Figure, table: pd.DataFrame, headline: Iterable[dict]
) -> Figure:
    return scored_texts.saved(EXPERIMENT, stem, found, figure, table, headline)
