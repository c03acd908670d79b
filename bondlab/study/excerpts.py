"""Tables of texts in notebooks: completions before and after training, and picked ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from scipy.special import expit

from bondlab import device
from bondlab.bank import draw, seeded
from bondlab.report.kept import Results
from bondlab.report.notebook import show
from bondlab.study.cooling import cooled
from bondlab.task import Task
from bondlab.training import Run


def in_one_line(text: str) -> str:
    """The text without line breaks, for a table's cell."""
    return " ".join(text.split())


def before_and_after(found: Results, unit: str = "document", **labels: float | str) -> None:
    """Show completions before and after training, with their reward as a probability, a row each.

    Of the runs with these labels, such as `series="iterative, n = 4"`, and the first seed. The
    reward of a chat's reply, which is no probability's, as it is.
    """
    scale, name = (expit, "p") if not found.variant.startswith("chat") else (list, "reward")
    table = found.where(**{name: [value] for name, value in labels.items()})["examples"]
    table = table[table["seed"] == table["seed"].min()].sort_values("step", kind="stable")
    rows = []
    for (row, series, prompt), own in table.groupby(["row", "series", "prompt"], sort=False):
        runs = ", ".join(filter(None, (row, series)))
        before, after = map(in_one_line, own["text"].iloc[[0, -1]])
        first, last = scale(own["reward"].iloc[[0, -1]])
        texts = {"before": before, "after": after, f"{name} before": first, f"{name} after": last}
        rows.append({"run": runs, unit: prompt, **texts})
    if rows:
        show(pd.DataFrame(rows))


def answers(run: Run, task: Task, temperature: float, count: int = 4, draws: int = 9) -> None:
    """Show an answer to each of the first held-out prompts, before and after training, a row each.

    Of some drawn at a temperature the one of middling reward.
    """
    prompts = task.eval_prompts[:count]
    shown = {"prompt": prompts}
    for when, model in {"before": task.model, "after": run.policy}.items():
        with torch.no_grad(), device.autocast("auto"):
            model = cooled(model, temperature)
            drawn, rewards = draw(model, task.reward, prompts, draws, seeded(0, "shown"))
        middling = rewards.argsort(1)[:, draws // 2].tolist()
        texts = [row[k] for row, k in zip(model.decode(drawn), middling, strict=True)]
        shown[when] = [in_one_line(text) for text in texts]
        shown[f"reward {when}"] = [float(r[k]) for r, k in zip(rewards, middling, strict=True)]
    show(pd.DataFrame(shown)[["prompt", "before", "after", "reward before", "reward after"]])


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
