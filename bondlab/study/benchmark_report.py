"""The benchmarks' numbers: intervals, differences to the reference, tables and a figure.

Items are the long tables of `benchmarks`: policy, seed, measure, group, item, value. Intervals are
over items (and seeds, where there are several); differences are paired by item.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bondlab import measures, paths
from bondlab.study import (
    alignment,
    alignment_tables,
    benchmarks,
    collected,
    plots,
    provenance,
    reports,
)
from bondlab.study.benchmarks import REFERENCE, SUITES
from bondlab.study.collected import Results
from bondlab.study.experiments import Profile
from bondlab.study.plots import Panel
from bondlab.study.sweep import Spec

STEM = "benchmarks"
LINEAR_BITS = 0.1
ALL = "all"  # the group of all groups together
PANELS = (
    Panel("constraints", "Constraints met", "difference in the share"),
    Panel("preferences", "HHH: better reply likelier", "difference in the share"),
    Panel("bits_per_byte", "Held-out text (less is better)", "difference in bits per byte"),
)
TEXT = ("rouge1", "rouge2", "rougeL", "longest_copied_span", "novel_bigrams", "repetition",
        "numbers_faithful", "words")  # fmt: skip
KEYS = ["policy", "measure", "group"]


def results(
    folder: Path, profile: Profile, specs: Sequence[Spec] = (), parent: Path | None = None
) -> pd.DataFrame:
    """The items of an experiment's finished runs: measured at a profile, or those that are shipped.

    Args:
        folder: of the experiment's tables at the profile, where measured ones are written and
            shipped ones read.
        specs, parent: the runs, and the folder they lie in; unused for "shipped".

    Raises:
        FileNotFoundError: "shipped" was asked for and nothing is.
    """
    if profile == "shipped":
        return collected.shipped_part(folder, STEM)
    items = benchmarks.collect(specs, parent, SUITES[profile])
    collected.keep_part(folder, profile, STEM, items)
    return items


def of_alignment(
    name: str, profile: Profile, task: str, policy: str | None, series: Collection[str]
) -> pd.DataFrame:
    """The items of some series of "anchor_ablations" or "j_bond", whose runs are finished.

    Task and policy are the notebook's; see `alignment.specs`.
    """
    folder = paths.figures_folder(name, profile) / alignment_tables.variant(task, policy)
    if profile == "shipped":
        return results(folder, profile)
    wanted = [
        spec
        for spec in alignment.specs(name, profile, task, policy)
        if spec.labels["series"] in series
    ]
    return results(folder, profile, wanted, paths.runs_folder() / alignment.RUNS)


def of_results(found: Results, columns: Sequence[str] = TEXT) -> pd.DataFrame:
    """Items of measures that an experiment has already, of the last step; a prompt is an item.

    For a summariser overlap with the human summary, copying and numbers (`TEXT`); for others for
    example "win_over_1", the second judge's. Reference and Best-of-N are means over the bank's
    samples; of a measure that some samples lack, as not every summary holds a number, the reference
    is the policies before their first step.

    Args:
        found: the results. Where they have several rows, a policy is named by its row and series.

    Raises:
        ValueError: the rows are of several profiles, whose prompts differ.
    """
    policies, base = reports.ends(found.evaluations), found.baselines
    profiles = sorted(policies["profile"].unique())
    if len(profiles) > 1:
        raise ValueError(
            f"results of profiles {' and '.join(profiles)} have different prompts: choose rows of "
            "one profile (`Results.of`)"
        )
    base = base[base["profile"].isin(profiles)]
    names = base["n"].map(lambda n: REFERENCE if n == 1 else f"sampled Best-of-{n:g}")
    tables = [base.assign(policy=names, seed=0), policies.assign(policy=_named(policies))]
    whole = pd.concat(tables).rename(columns={"prompt": "item"})
    long = whole.melt(["policy", "seed", "item"], list(columns), "measure", "value")
    lacking = [c for c in columns if c not in base or base.loc[base["n"] == 1, c].isna().any()]
    own = long["policy"].isin(set(names)) & long["measure"].isin(lacking)
    long = pd.concat([_starts(found, lacking), long[~own]], ignore_index=True)
    return long.assign(group="prompts")[benchmarks.COLUMNS]


def _named(policies: pd.DataFrame) -> pd.Series:
    """The series, after their row where there are several: rows share the names of series."""
    series = policies["series"]
    return series if policies["row"].nunique() == 1 else policies["row"] + ": " + series


def _starts(found: Results, columns: Sequence[str]) -> pd.DataFrame:
    """The policies before their first step, means over the runs, as the reference's items."""
    first = found.evaluations[found.evaluations["step"] == 0]
    means = first.groupby("prompt")[list(columns)].mean().rename_axis("item").reset_index()
    return means.melt("item", None, "measure", "value").assign(policy=REFERENCE, seed=0)


def intervals(items: pd.DataFrame) -> pd.DataFrame:
    """Mean with interval of each policy, measure and group, and of all groups together.

    Returns:
        Columns policy, measure, group, mean, low, high, count (items times seeds). Intervals are t
        or bootstrap (`measures.grouped_intervals`): those of a share of few items may pass 0 or 1.
    """
    together = items.assign(group=ALL) if items["group"].nunique() > 1 else items.iloc[:0]
    table = pd.concat([together, items], ignore_index=True).rename(columns={"item": "prompt"})
    return measures.grouped_intervals(_complete(table), "value", KEYS)


def _complete(table: pd.DataFrame) -> pd.DataFrame:
    """Without the items that lack a value for a seed: not every summary holds a number."""
    lacking = table["value"].isna().groupby([table[key] for key in (*KEYS, "prompt")])
    return table[~lacking.transform("any")]


def differences(items: pd.DataFrame) -> pd.DataFrame:
    """The same of each policy less the reference on the same items; columns as `intervals`."""
    by = ["measure", "group", "item"]
    base = items[items["policy"] == REFERENCE].set_index(by)["value"]
    others = items[items["policy"] != REFERENCE].join(base.rename("base"), on=by)
    return intervals(others.assign(value=others["value"] - others["base"]).drop(columns="base"))


def table(found: pd.DataFrame, column: str = "measure", group: str | None = ALL) -> pd.DataFrame:
    """A line a policy, a column a measure (or group): mean [95 % interval], "-" for none.

    Args:
        found: `intervals` or `differences`, restricted to what is to be shown.
        column: "measure" or "group".
        group: the group shown; None for every one there is.
    """
    chosen = found if group is None else found[found["group"] == group]
    text = [f"{r.mean:.3f} [{r.low:.3f}, {r.high:.3f}]" for r in chosen.itertuples()]
    wide = chosen.assign(text=text).pivot(index="policy", columns=column, values="text")
    order = [list(dict.fromkeys(chosen[name])) for name in ("policy", column)]
    return wide.loc[order[0], order[1]].fillna("-").rename_axis(columns=None).reset_index()


def figure(items: pd.DataFrame, title: str, note: str) -> tuple[Figure, pd.DataFrame]:
    """Differences to the reference as bars, a panel a measure; with the plotted numbers.

    Trained policies come first, in the colours that they have elsewhere. Bits are on a scale that
    is linear near 0 and logarithmic beyond: a policy may have unlearned the language.
    """
    shown = differences(items)
    shown = shown.sort_values(
        "policy", key=lambda names: names.str.startswith("sampled"), kind="stable"
    )
    shown = shown[(shown["group"] == ALL) & shown["measure"].isin([p.name for p in PANELS])]
    shown = shown.rename(columns={"measure": "panel", "policy": "series"}).assign(group="")
    drawn = plots.bars_with_intervals(shown, PANELS, title=title, note=note)
    for axes in drawn.axes:
        axes.set_xticks([])  # one nameless group
        axes.axhline(0, color="#555555", linewidth=0.8)
    _room_for_all(drawn.axes[-1], shown.loc[shown["panel"] == "bits_per_byte", "high"].max())
    return drawn, shown


def _room_for_all(axes: Axes, highest: float) -> None:
    """A scale that is linear up to LINEAR_BITS and logarithmic beyond, with plain numbers."""
    axes.set_yscale("symlog", linthresh=LINEAR_BITS)
    top = 4 * max(highest, LINEAR_BITS)
    axes.set_ylim(-LINEAR_BITS, top)
    ticks = [tick for tick in (-LINEAR_BITS, 0, 0.1, 1, 10) if tick <= top]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def headline(shown: pd.DataFrame, items: pd.DataFrame) -> list[dict[str, Any]]:
    """A number for the study's closing table of every bar; samples are its items."""
    seeds = items.groupby("policy")["seed"].nunique()
    titles = {panel.name: panel.title for panel in PANELS}
    units = {"bits_per_byte": "bits per byte"}
    return [
        provenance.number(
            f"{r.series}: {titles[r.panel]}, less the reference's", r.mean, r.low, r.high,
            units.get(r.panel, "share"), r.count // seeds[r.series], seeds[r.series],
        )
        for r in shown.itertuples(index=False)
    ]  # fmt: skip


def publish(experiment: str, profile: Profile, items: pd.DataFrame, stem: str, runs: list) -> None:
    """Draw the differences, write the figure's files (unless they are shipped) and show it.

    `runs` are those measured, as `collected.manifests` has them.
    """
    counts = items[items["policy"] == REFERENCE].groupby("measure")["item"].nunique()
    note = (
        f"{counts['constraints']} instructions, {counts['preferences']} pairs, "
        f"{counts['bits_per_byte']} texts. Each policy less the reference on the same ones, with "
        "95 % intervals; Best-of-N has no likelihood of its own."
    )
    drawn, shown = figure(items, "Measures that training never saw", note)
    if profile != "shipped":
        provenance.write(
            experiment, stem, profile, drawn, shown, headline(shown, items), note=note,
            suite=SUITES[profile].model_dump(), runs=runs,
        )  # fmt: skip
    plots.show(drawn, "Differences to the reference in constraints met, HHH and bits per byte")
