"""Tables of texts in notebooks: completions before and after training, and picked ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from scipy.special import expit

from bondlab.report.kept import Results
from bondlab.report.notebook import show
from bondlab.training import Run


def in_one_line(text: str) -> str:
    """The text without line breaks, for a table's cell."""
    return " ".join(text.split())


def before_and_after(found: Results, unit: str = "document", **labels: float | str) -> None:
    """Show completions before and after training, with their reward as a probability, a row each.

    Of the runs with these labels, such as `series="iterative, n = 4"`, and the first seed.
    """
    table = found.where(**{name: [value] for name, value in labels.items()})["examples"]
    table = table[table["seed"] == table["seed"].min()].sort_values("step", kind="stable")
    rows = []
    for (row, series, prompt), own in table.groupby(["row", "series", "prompt"], sort=False):
        runs = ", ".join(filter(None, (row, series)))
        before, after = map(in_one_line, own["text"].iloc[[0, -1]])
        p_before, p_after = expit(own["reward"].iloc[[0, -1]])
        texts = {"before": before, "after": after, "p before": p_before, "p after": p_after}
        rows.append({"run": runs, unit: prompt, **texts})
    if rows:
        show(pd.DataFrame(rows))


def answers(run: Run, prompts: Sequence[str], count: int = 4) -> None:
    """Show an answer to each of the first prompts, before and after training, a row each."""
    own = run.evaluation.sort_values("step", kind="stable")
    own = own[(own["source"] == "policy") & (own["sample"] == 0) & (own["prompt"] < count)]
    rows = []
    for prompt, part in own.groupby("prompt"):
        before, after = map(in_one_line, part["text"].iloc[[0, -1]])
        first, last = part["reward"].iloc[[0, -1]]
        texts = {"prompt": prompts[prompt], "before": before, "after": after}
        rows.append({**texts, "reward before": first, "reward after": last})
    show(pd.DataFrame(rows))


def picked(
    parts: Mapping[str, pd.DataFrame],
    count: int,
    told: Sequence[str],
    beside: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Show the first `count` texts of each part, one per prompt, a row each.

    `told` are columns to show after the text; `beside` are texts of all prompts to show after
    these, by their label.
    """
    rows = []
    for which, table in parts.items():
        for _, row in table.drop_duplicates("prompt").head(count).iterrows():
            shown = {"which": which, "text": in_one_line(row["text"]) or "(empty)"}
            others = {label: own[row["prompt"]] for label, own in (beside or {}).items()}
            rows.append({**shown, **row[list(told)], **others})
    show(pd.DataFrame(rows))
