"""What notebooks say of an experiment's runs: curves, levels, budgets, last steps, small print."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bondlab import best_of_n
from bondlab.report import plots, tradeoffs
from bondlab.report.intervals import cell, curves, grouped, mean_interval
from bondlab.report.kept import Results, of_same_profiles
from bondlab.report.plots import Level, Mark, Panel

BY = ["row", "series", "step"]
BOUND = "Best-of-N, formula"
TOY = "toy"  # results of the exact toy, measured on the prompts that it is trained on
OWN_BEST = "sampled Best-of-N"  # with the N of a row's own runs
COOLED = "cooled reference"  # sampled at lower temperatures, not trained
# Panels of several notebooks. Titles and units; the names are columns of `tables.per_prompt`.
DIVERGENCES = (
    Panel("backward_kl", r"Backward KL($\pi$ || $\pi_{BoN}$)", "nats per summary"),
    Panel("forward_kl", r"Forward KL($\pi_{BoN}$ || $\pi$)", "nats per summary"),
    Panel("log_quantile", "Reward log quantile", "mean log quantile (nats)"),
)
DISTANCE = Panel("kl_to_reference", "Distance from the reference", "KL to reference (nats)")


def in_units(found: Results, panels: Sequence[Panel]) -> tuple[Panel, ...]:
    """The panels; rewards of the toy have a unit of their own and are no log-odds."""
    unit = "toy units" if found.experiment == TOY else "log-odds"
    return tuple(replace(p, ylabel=p.ylabel.replace("log-odds", unit)) for p in panels)


def curve_table(found: Results, panels: Sequence[Panel]) -> pd.DataFrame:
    """Measures against training steps: row, series, step, mean, low, high, count, panel.

    By row of the grid, then panel, then series, then step, each in order of appearance.
    """
    names = [panel.name for panel in panels]
    parts = [curves(part, names, BY) for _, part in found["evaluations"].groupby("row", sort=False)]
    return pd.concat(parts, ignore_index=True)


def rows_of(found: Results) -> list[str]:
    """The rows of the figure's grid; none where there is but one without a name."""
    return list(filter(None, found["evaluations"]["row"].unique()))


def levels(found: Results, panels: Sequence[Panel], sizes: Sequence[int] = ()) -> list[Level]:
    """What each panel is compared with: theory at the start, or sampled Best-of-N.

    Args:
        sizes: N of the lines of sampled Best-of-N; without them each row's own, with its interval,
            where the row has one N.
    """
    lines = []
    for row, part in found["evaluations"].groupby("row", sort=False):
        base = of_same_profiles(found["baselines"], part)
        for panel in (panel.name for panel in panels):
            if sizes and panel in base and panel != DISTANCE.name:
                means = base.groupby("n")[panel].mean()
                lines += [Level(panel, means[n], f"sampled Best-of-{n}", row) for n in sizes]
            elif not sizes and part["n"].nunique() == 1:  # a line for each N would hide the curves
                lines += _own_level(panel, int(part["n"].iloc[0]), base, row)
    return lines


def _own_level(panel: str, n: int, base: pd.DataFrame, row: str) -> list[Level]:
    theory = {"backward_kl": best_of_n.backward_kl(n), "forward_kl": best_of_n.kl_bound(n)}
    if panel in theory:
        return [Level(panel, theory[panel], "theory at the start", row)]
    if panel not in base:
        return []
    band = mean_interval(base.loc[base["n"] == n, panel].to_numpy())
    name = BOUND if panel == DISTANCE.name else OWN_BEST
    return [Level(panel, band.mean, name, row, band.low, band.high)]


def anchor_marks(found: Results) -> list[Mark]:
    """The steps at which a moving anchor becomes the policy (label `every`), but for the last."""
    table = found["evaluations"]
    periods = set(table.get("every", pd.Series(dtype=int))) - {0}
    steps = {step for every in periods for step in range(every, table["step"].max(), every)}
    return [Mark(step, "policy copied into the anchor") for step in sorted(steps)]


def note(found: Results, unit: str = "document") -> str:
    """The small print of a figure: how much it rests on; `unit` is what a prompt is."""
    lines = []
    for profile, part in found["evaluations"].groupby("profile", sort=False):
        rows = ", ".join(filter(None, part["row"].unique()))
        seeds, prompts = part["seed"].nunique(), f"{part['prompt'].nunique()} held-out {unit}s"
        means = f"t over seeds and {unit}s" if seeds > 1 else f"t over {unit}s"
        if found.experiment == TOY:
            prompts, means = f"each with {unit}s of its own", "t over seeds"
        lines.append(
            f"{rows + ': profile' if rows else 'Profile'} {profile}, {seeds} "
            f"seed{'s' * (seeds > 1)}, {prompts}, 95 % intervals ({means})."
        )
    manifests = [row["manifest"] for row in found.manifests]
    kinds = {k for m in manifests for k in (*m.get("kinds", ()), *m.get("bank_kinds", ()))}
    if len(kinds) > 1:
        lines.append(f"Computed on several kinds of machine: {'; '.join(sorted(kinds))}.")
    return " ".join(lines)


def as_run(found: Results) -> dict[str, str]:
    """Series that are named by the paper's steps or rates, with those that were run."""
    words, table = {}, found["evaluations"]
    columns = [name for name in ("series", "every", "rate") if name in table]
    for row in table[columns].drop_duplicates("series").itertuples():
        own = {"every ": getattr(row, "every", 0), "eta = ": getattr(row, "rate", 0)}
        words[row.series] = row.series
        for what, value in own.items():
            told = re.search(rf"\b{what}([\d.]+)( steps)?", row.series)
            if told and value and float(told[1]) != round(value, 6):
                run = f"{told[0]} (here {value:.2g})"
                words[row.series] = words[row.series].replace(told[0], run)
    return words


def draw(
    found: Results,
    stem: str,
    panels: Sequence[Panel],
    title: str,
    paper: str | None = None,
    sizes: Sequence[int] = (),
    unit: str = "document",
    words: Mapping[str, str] | None = None,
    bought: Panel | None = None,
    **made: Any,
) -> None:
    """Publish measures over training, with what they are compared with and where anchors move.

    Args:
        sizes: as in `levels`; unit: as in `note`; words: as in `plots.lines`; the others as in
            `Results.publish`.
        bought: a measure that a last panel shows against the KL to the reference.
    """
    if found["evaluations"].empty:
        print(f"{title}: the profile {found.profile} has no such runs.")
        return
    panels, table, small = in_units(found, panels), curve_table(found, panels), note(found, unit)
    lines = {"levels": levels(found, panels, sizes), "marks": anchor_marks(found)}
    lines |= {"words": as_run(found) | (words or {})}
    if bought:
        (bought,), small = in_units(found, [bought]), f"{small} {tradeoffs.HOW}"
        against = tradeoff(found, [bought])
        own = {"table": against, "own": bought, "xlabel": DISTANCE.ylabel}
        lines["last"] = partial(tradeoffs.panel, words=lines["words"], **own)
    figure = plots.lines(table, panels, rows=rows_of(found), title=title, note=small, **lines)
    if bought:
        table = pd.concat([table, against.assign(panel="against KL")], ignore_index=True)
    found.publish(stem, figure, table, panels, paper, **made)


# -- against the distance --------------------------------------------------------------------------


def tradeoff(found: Results, panels: Sequence[Panel]) -> pd.DataFrame:
    """Measures, one per panel, against KL to the reference, as `tradeoffs.draw` draws them.

    A path for each series over its evaluations; sampled Best-of-N with its measures' intervals, at
    the KL log N - (N-1)/N and the log quantile -1/N; the reference at falling temperatures, where
    the results have the table cooling; and, where log quantiles are drawn, the curve of Best-of-N's
    two formulas for real N.

    Returns:
        panel, series, kind, point (the step or N in words), x, x_low, x_high (KL to the reference,
        nats), mean, low, high (the panel's measure), and for the paths row, step and count.
    """
    distance = grouped(found["evaluations"], DISTANCE.name, BY).drop(columns="count")
    distance = distance.rename(columns={"mean": "x", "low": "x_low", "high": "x_high"})
    paths = curve_table(found, panels).merge(distance, on=BY, how="left")
    paths = paths.assign(kind="path", point=[f"step {step}" for step in paths["step"]])
    parts = [paths, sampled := _sampled(found, panels)]
    if "cooling" in found.tables:
        parts.append(_cooled(found, panels))
    if any(panel.name == "log_quantile" for panel in panels):
        parts.append(_bound(np.nanmax([paths["x"].max(), sampled["x"].max()])))
    return pd.concat(parts, ignore_index=True)


def _sampled(found: Results, panels: Sequence[Panel]) -> pd.DataFrame:
    """Best-of-N of the reference's own samples, for every N of the baselines."""
    base = of_same_profiles(found["baselines"].query("n > 1"), found["evaluations"])
    table = curves(base, [panel.name for panel in panels], ["n"])
    distance = table["n"].map(base.groupby("n")[DISTANCE.name].first())
    table = table.assign(x=distance, x_low=distance, x_high=distance)
    table["point"] = [f"N = {n}" for n in table["n"]]
    return table.drop(columns=["n", "count"]).assign(series=OWN_BEST, kind="named")


def _cooled(found: Results, panels: Sequence[Panel]) -> pd.DataFrame:
    """The path of the reference as its temperature falls."""
    base = of_same_profiles(found["cooling"], found["evaluations"])
    table = curves(base, [panel.name for panel in panels], ["temperature"])
    distance = grouped(base, DISTANCE.name, ["temperature"]).drop(columns="count")
    distance = distance.rename(columns={"mean": "x", "low": "x_low", "high": "x_high"})
    table = table.merge(distance, on="temperature").drop(columns="count")
    table["point"] = [f"T = {t:g}" for t in table.pop("temperature")]
    return table.assign(series=COOLED, kind="path")


def _bound(reach: float) -> pd.DataFrame:
    """-1/N against log N - (N-1)/N, from the reference (N = 1) to a KL of `reach` nats at least.

    No distribution has a higher mean log quantile at its KL: the highest is the reference tilted by
    a power of the quantile, which is Best-of-N for a real N.
    """
    n = np.exp(np.linspace(0, 1 + reach, 100))  # log N - 1 + 1/N >= reach at the end
    table = pd.DataFrame({"x": kl_of(n), "mean": -1 / n, "panel": "log_quantile"})
    return table.assign(series=BOUND, kind="formula", point="")


def kl_of(n: float | np.ndarray) -> float | np.ndarray:
    """KL(Best-of-N || reference) in nats for real N > 0 and a continuous reward."""
    return np.log(n) - 1 + 1 / n


# -- tables ----------------------------------------------------------------------------------------


def best_name(n: float) -> str:
    """What tables call sampled Best-of-n of the reference, or the reference itself (n = 1)."""
    return "reference" if n == 1 else f"sampled Best-of-{n:g}"


def by_series(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each row's series with their part of the table."""
    return ((row, name, part) for (row, name), part in table.groupby(BY[:2], sort=False))


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of each series' last step."""
    return table[table["step"] == table.groupby(BY[:2])["step"].transform("max")]


def drawn_anew(config: Mapping[str, Any]) -> bool:
    """Whether a run with this config saw new samples of the reference or anchor at every step."""
    fresh = config["config"].get("fresh", False)
    return bool(fresh) or not config["algorithm"]["anchor"].startswith("Frozen")


def budget(found: Results, prompt: str, labels: Sequence[str] = ()) -> pd.DataFrame:
    """What each series' runs were given, a line each, with some of their labels.

    Completions are those that one prompt costs in one step: Best-of-N draws, the policy's own
    samples and quantile draws. The anchor's are drawn anew at every step, stored, or new at every
    step but drawn before, for all runs of a seed, which their minutes do not count.
    """
    lines = []
    for _, _, part in by_series(found["runs"]):
        manifests = [json.loads(text) for text in part["manifest"]]
        config = manifests[0]["config"]
        draws = config["algorithm"]["draws"]  # of the anchor, the policy, for quantiles
        source = "drawn anew" if drawn_anew(config) else "stored"
        source = "new, shared by a seed" if config["config"].get("fresh") == "shared" else source
        source = "-" if sum(draws) == draws[1] else source
        lines.append({
            **part[["row", "series", *labels]].iloc[0], "seeds": part["seed"].nunique(),
            "steps": config["config"]["steps"],
            f"{prompt}s per step": config["config"]["prompts_per_step"],
            f"completions per {prompt}": sum(draws), "anchor's samples": source,
            "minutes per run": sum(m["seconds"] for m in manifests) / len(manifests) / 60,
        })  # fmt: skip
    words = {"rate": "anchor's rate per step", "every": "steps between copies"}
    return tidy(lines).rename(columns=words)


def last(found: Results, columns: Sequence[str], sizes: Collection[int] = ()) -> pd.DataFrame:
    """Reference, sampled Best-of-N and every policy after its last step, mean [95 % interval].

    N are the runs' own n and `sizes`. A reward and a judge's score are log-odds.
    """
    lines, words = [], {name: f"{name} (log-odds)" for name in ("reward", "judge")}
    for row, part in found["evaluations"].groupby("row", sort=False):
        base = of_same_profiles(found["baselines"], part)
        for size in (1, *sorted({*sizes, *part["n"].unique()} - {1})):
            lines.append((row, best_name(size), base[base["n"] == size]))
        lines += by_series(ends(part))
    return tidy([
        {"row": row, "policy": label}
        | {words.get(column, column): cell(table, column) for column in columns}
        for row, label, table in lines
    ])  # fmt: skip


def tidy(lines: list[dict]) -> pd.DataFrame:
    """A table, without the column row where there is but one that has no name."""
    table = pd.DataFrame(lines)
    return table if table["row"].any() else table.drop(columns="row")
