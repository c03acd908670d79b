"""The numbers of an experiment's results: small print, headlines, budgets, starts and ends.

Tables are those of `collected`. Figures are drawn by `figures`, claims decided in `verdicts`.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pandas as pd

from bondlab import best_of_n, measures
from bondlab.study import decisions, provenance
from bondlab.study.collected import Results

NAMES = {"log_quantile": "log quantile", "backward_kl": "backward KL", "forward_kl": "forward KL"}


def note(found: Results, unit: str = "document") -> str:
    """The small print of a figure: how much it rests on; `unit` is what a prompt is."""
    lines = []
    for profile, part in found.evaluations.groupby("profile", sort=False):
        rows = ", ".join(filter(None, part["row"].unique()))
        seeds, prompts = part["seed"].nunique(), part["prompt"].nunique()
        means = f"two-way bootstrap over seeds and {unit}s" if seeds > 1 else f"t over {unit}s"
        lines.append(
            f"{rows + ': profile' if rows else 'Profile'} {profile}, {seeds} "
            f"seed{'s' * (seeds > 1)}, {prompts} held-out {unit}s, 95 % intervals ({means})."
        )
    return " ".join([*lines, *_machines(found)])


def _machines(found: Results) -> list[str]:
    """A sentence on the kinds of machine, where runs or their samples come from several."""
    manifests = [json.loads(text) for text in found.runs["manifest"]]
    kinds = {k for m in manifests for k in (*m.get("kinds", ()), *m.get("bank_kinds", ()))}
    if len(kinds) < 2:
        return []
    return [f"Computed on several kinds of machine: {'; '.join(sorted(kinds))}."]


def headline(found: Results, shown: Collection[str]) -> list[dict[str, Any]]:
    """How the log quantile changed from first to last evaluation, and each divergence of `shown`.

    A line a series and measure: what, value, low, high, unit, samples (documents), seeds.
    """
    columns = [column for column in NAMES if column == "log_quantile" or column in shown]
    return [
        entry(part, f"change of {NAMES[column]}", "nats", decisions.change(part, name, column))
        for name, part in _by_series(found.evaluations)
        for column in columns
    ]


def entry(part: pd.DataFrame, what: str, unit: str, interval: Any) -> dict[str, Any]:
    """A headline number of the series whose evaluations `part` holds; has mean, low and high."""
    label = ", ".join(filter(None, part[["row", "series"]].iloc[0]))
    ends = (interval.mean, interval.low, interval.high)
    seeds = part["seed"].nunique()
    return provenance.number(f"{label}: {what}", *ends, unit, part["prompt"].nunique(), seeds)


def _by_series(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each row's series with their part of the table."""
    return ((name, part) for (_, name), part in table.groupby(["row", "series"], sort=False))


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of each series' last step."""
    return table[table["step"] == table.groupby(["row", "series"])["step"].transform("max")]


def tidy(rows: list[dict] | pd.DataFrame) -> pd.DataFrame:
    """A table, without the column row where there is but one that has no name."""
    table = pd.DataFrame(rows)
    return table if table["row"].any() else table.drop(columns="row")


def budget_table(found: Results) -> pd.DataFrame:
    """What each series' runs were given, a line each.

    Completions are those that one document costs in one step: Best-of-N draws, the policy's own
    samples and quantile draws.
    """
    rows = []
    for _, part in _by_series(found.runs):
        manifests = [json.loads(text) for text in part["manifest"]]
        config = manifests[0]["config"]["config"]
        rows.append({
            **part[["row", "series", "profile"]].iloc[0], "seeds": part["seed"].nunique(),
            "steps": config["steps"], "documents a step": config["prompts_per_step"],
            "completions": sum(manifests[0]["config"]["algorithm"]["draws"]),
            "minutes a run": sum(m["seconds"] for m in manifests) / len(manifests) / 60,
        })  # fmt: skip
    return tidy(rows)


def print_examples(found: Results, unit: str = "document", **labels: float | str) -> None:
    """Print completions before and after training, with their reward as a probability.

    Of the runs with these labels, such as `series="iterative, n = 4"`, and the first seed.
    """
    chosen = found.examples[found.examples["seed"] == found.examples["seed"].min()]
    for label, value in labels.items():
        chosen = chosen[chosen[label] == value]
    for (row, series, prompt), rows in chosen.groupby(["row", "series", "prompt"], sort=False):
        print(f"{unit} {prompt}, {', '.join(filter(None, (row, series)))}")
        for line in rows.sort_values("step").itertuples():
            chance = 1 / (1 + math.exp(-line.reward))
            text = textwrap.fill(line.text, 92, subsequent_indent=" " * 19)
            print(f"  step {line.step:4d} p {chance:.2f}  {text}")


def start_table(found: Results) -> pd.DataFrame:
    """Both divergences before the first step beside their formulas, and how far off in errors."""
    rows = []
    for n, part in found.evaluations[found.evaluations["step"] == 0].groupby("n"):
        prompts = part.groupby("prompt")[["backward_kl", "forward_kl", "log_quantile"]].mean()
        theory = {
            "backward_kl": best_of_n.reverse_kl(n),
            "forward_kl": best_of_n.kl_bound(n),
            "log_quantile": -1.0,
        }
        for column, expected in theory.items():
            found_here = measures.mean_interval(prompts[column].to_numpy())
            rows.append({
                "N": n, "measure": column, "theory": expected, "measured": found_here.mean,
                "s.e.": found_here.standard_error,
            })  # fmt: skip
    return pd.DataFrame(rows)


def last_table(found: Results, columns: Sequence[str], sizes: Collection[int] = ()) -> pd.DataFrame:
    """Reference, sampled Best-of-N and every policy after its last step, mean [95 % interval].

    N are the runs' own n and `sizes`.
    """
    rows = []
    for row, part in found.evaluations.groupby("row", sort=False):
        base = found.baselines[found.baselines["profile"] == part["profile"].iloc[0]]
        for size in (1, *sorted({*sizes, *part["n"].unique()})):
            label = "reference" if size == 1 else f"sampled Best-of-{size:g}"
            rows.append((row, label, base[base["n"] == size]))
        rows += [(row, name, own) for name, own in _by_series(ends(part))]
    return tidy([
        {"row": row, "policy": label} | {c: cell(table, c) for c in columns}
        for row, label, table in rows
    ])  # fmt: skip


def cell(table: pd.DataFrame, column: str) -> str:
    """The mean of a measure over seeds and documents with its interval, as text; "-" for none."""
    if column not in table or table[column].isna().all():
        return "-"
    # A document counts where every seed has a value: not every summary holds a number.
    lacking = table.loc[table[column].isna(), "prompt"]
    present = table[~table["prompt"].isin(lacking)].assign(all=0)
    if present.empty:
        return "-"
    grid = measures.grouped_intervals(present, column, ["all"]).iloc[0]
    if present[column].nunique() == 1:  # a closed form, or a measure that is the same everywhere
        return f"{grid['mean']:.3f}"
    return f"{grid['mean']:.3f} [{grid['low']:.3f}, {grid['high']:.3f}]"
