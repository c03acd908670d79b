"""An experiment's results as tidy tables, and its numbers: budgets, starts and ends of training.

Runs carry the labels row (a row of a figure's grid, "N = 8" or ""), series (the legend of a curve),
n, beta and seed. Tables keep rows and series in their order of appearance. Figures are drawn by
`bondlab.figures`.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from bondlab import best_of_n, checkpoints, decisions, measures, paths, provenance, tables
from bondlab.experiments import Profile, run, specs
from bondlab.results import RunFolder
from bondlab.sweep import Spec, held_out_bank

EXAMPLES = 6
NAMES = {"log_quantile": "log quantile", "backward_kl": "backward KL", "forward_kl": "forward KL"}


@dataclass(frozen=True)
class Results:
    """The tidy tables of an experiment, and where they come from.

    Args:
        evaluations: `tables.per_prompt` of every run, with its labels and profile.
        baselines: `tables.best_of_n` of the reference, n = 1 the reference itself, with profile.
        examples: summaries of the first held-out documents before and after training.
        runs: a row a run: its labels, profile and manifest.
    """

    evaluations: pd.DataFrame
    baselines: pd.DataFrame
    examples: pd.DataFrame
    runs: pd.DataFrame

    def of(self, sizes: Sequence[int]) -> Results:
        """The part that concerns some Best-of-N sizes (and the reference)."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return Results(**{k: v[v["n"].isin([1, *sizes])] for k, v in parts.items()})


def results(name: str, profile: Profile, workers: int | None = None) -> Results:
    """The results of an experiment: computed at a profile, or those that are shipped.

    Computed ones are also written beside the experiment's figures, from where "shipped" reads
    them: of each row the "study" results where there are any, else the "laptop" results, so that
    curves drawn together come from one profile.

    Raises:
        FileNotFoundError: "shipped" was asked for and nothing is.
    """
    folder = paths.figures_folder(name)
    if profile == "shipped":
        return shipped(folder)
    wanted = specs(name, profile)
    found = collect(wanted, run(name, profile, workers), profile)
    write(folder, profile, found)
    return found


def collect(
    wanted: Sequence[Spec],
    folders: Sequence[RunFolder],
    profile: str,
    sizes: Collection[int] = (),
) -> Results:
    """The tables of finished runs of one task; `sizes` are baselines beside the runs' own n."""
    task, evaluations, examples, runs = wanted[0].build(), [], [], []
    for spec, folder in zip(wanted, folders, strict=True):
        labels = {**spec.labels, "profile": profile}
        evaluation = folder.evaluation()
        evaluations.append(tables.per_prompt(evaluation, spec.labels["n"], task).assign(**labels))
        examples.append(_examples(evaluation).assign(**labels))
        runs.append({**labels, "run": folder.path.name, "manifest": json.dumps(folder.manifest)})
    every = sorted({1, *sizes, *(spec.labels["n"] for spec in wanted)})
    baselines = tables.best_of_n(held_out_bank(wanted[0]), every, task.model, task)
    return Results(
        pd.concat(evaluations, ignore_index=True),
        baselines.assign(profile=profile),
        pd.concat(examples, ignore_index=True),
        pd.DataFrame(runs),
    )


def _examples(evaluation: pd.DataFrame) -> pd.DataFrame:
    chosen = evaluation[
        (evaluation["source"] == "policy")
        & (evaluation["sample"] == 0)
        & (evaluation["prompt"] < EXAMPLES)
        & evaluation["step"].isin([0, evaluation["step"].max()])
    ]
    return chosen[["step", "prompt", "reward", "text"]]


def write(folder: Path, profile: str, found: Results) -> None:
    """Keep the tables of a profile, for `shipped` to read."""
    for field in fields(found):
        path = folder / f"results_{profile}_{field.name}.parquet"
        checkpoints.write_atomically(path, getattr(found, field.name).to_parquet(index=False))


def _read(folder: Path, profile: str) -> Results | None:
    files = {f.name: folder / f"results_{profile}_{f.name}.parquet" for f in fields(Results)}
    if not all(path.exists() for path in files.values()):
        return None
    return Results(**{name: pd.read_parquet(path) for name, path in files.items()})


def shipped(folder: Path) -> Results:
    """Of each row the "study" results of a folder where there are any, else the "laptop" ones.

    Raises:
        FileNotFoundError: there are neither.
    """
    parts = {p: part for p in ("laptop", "study") if (part := _read(folder, p)) is not None}
    if not parts:
        raise FileNotFoundError(f"{folder} holds no results: run the notebook at profile laptop")
    # A study row takes the laptop row's place.
    origin = {row: p for p, part in parts.items() for row in part.evaluations["row"].unique()}

    def chosen(table: str) -> pd.DataFrame:
        sources = [(row, getattr(parts[p], table)) for row, p in origin.items()]
        return pd.concat([t[t["row"] == row] for row, t in sources], ignore_index=True)

    used = dict.fromkeys(origin.values())
    baselines = pd.concat([parts[p].baselines for p in used], ignore_index=True)
    return Results(chosen("evaluations"), baselines, chosen("examples"), chosen("runs"))


def manifests(found: Results) -> list[dict[str, Any]]:
    """A line a run, with its labels and its manifest: where a figure comes from."""
    return [
        row | {"manifest": json.loads(row["manifest"])} for row in found.runs.to_dict("records")
    ]


def shipped_part(folder: Path, part: str) -> pd.DataFrame:
    """A table beside an experiment's results: the study's where there is one, else the laptop's.

    Raises:
        FileNotFoundError: there is neither.
    """
    for profile in ("study", "laptop"):
        path = folder / f"results_{profile}_{part}.parquet"
        if path.exists():
            return pd.read_parquet(path)
    raise FileNotFoundError(f"{folder} holds no {part}: run the notebook at profile laptop")


# -- numbers ---------------------------------------------------------------------------------------


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
    return " ".join(lines)


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
