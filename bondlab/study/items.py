"""Long tables of measured items, and each policy's difference to the reference on the same ones.

A row per item: policy, seed, measure, group, item (a prompt, an instruction, a text), value.
Intervals are over items (and seeds, where there are several); differences are paired by item.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from bondlab.report.intervals import grouped, text
from bondlab.report.kept import Results, of_same_profiles
from bondlab.study.report import best_name, ends

COLUMNS = ["policy", "seed", "measure", "group", "item", "value"]
KEYS = ["policy", "measure", "group"]
REFERENCE = best_name(1)  # as tables of policies name the one before training
ALL = "all"  # the group of all groups together


def of_results(found: Results, columns: Sequence[str]) -> pd.DataFrame:
    """Items of measures that an experiment has already, of the last step; a prompt is an item.

    Reference and Best-of-N are means over the bank's samples; of a measure that some samples lack,
    as not every summary holds a number, the reference is the policies before their first step.

    Args:
        found: the results. Where they have several rows, a policy is named by its row and series.

    Raises:
        ValueError: the rows are of several profiles, whose prompts differ.
    """
    policies = ends(found["evaluations"])
    profiles = sorted(policies["profile"].unique())
    if len(profiles) > 1:
        raise ValueError(
            f"results of profiles {' and '.join(profiles)} have different prompts: choose rows of "
            "one profile (`Results.where`)"
        )
    names = policies["series"]
    if policies["row"].nunique() > 1:  # rows share the names of series
        names = policies["row"] + ": " + names
    base = of_same_profiles(found["baselines"], policies)
    starts = found["evaluations"].query("step == 0").assign(policy=REFERENCE, seed=0)
    starts = starts.groupby(["policy", "seed", "prompt"], as_index=False)[list(columns)].mean()
    lacking = [c for c in columns if c not in base or base.loc[base["n"] == 1, c].isna().any()]
    sampled = base.assign(policy=base["n"].map(best_name), seed=0)
    parts = [
        _long(starts, lacking),
        _long(sampled, [column for column in columns if column not in lacking]),
        _long(policies.assign(policy=names), columns),
    ]
    return pd.concat(parts, ignore_index=True).assign(group="prompts")[COLUMNS]


def _long(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    table = table.rename(columns={"prompt": "item"})
    return table.melt(["policy", "seed", "item"], list(columns), "measure", "value")


def intervals(items: pd.DataFrame) -> pd.DataFrame:
    """Mean with interval of each policy, measure and group, and of all groups together.

    Returns:
        Columns policy, measure, group, mean, low, high, count (items times seeds). Those
        of a share of few items may pass 0 or 1.
    """
    together = items.assign(group=ALL) if items["group"].nunique() > 1 else items.iloc[:0]
    table = pd.concat([together, items], ignore_index=True).rename(columns={"item": "prompt"})
    # Without the items that lack a value for a seed: not every summary holds a number.
    lacking = table["value"].isna().groupby([table[key] for key in (*KEYS, "prompt")])
    return grouped(table[~lacking.transform("any")], "value", KEYS)


def differences(items: pd.DataFrame) -> pd.DataFrame:
    """The same of each policy minus the reference on the same items; columns as `intervals`."""
    by = ["measure", "group", "item"]
    base = items[items["policy"] == REFERENCE].set_index(by)["value"]
    others = items[items["policy"] != REFERENCE].join(base.rename("base"), on=by)
    return intervals(others.assign(value=others["value"] - others["base"]).drop(columns="base"))


def table(found: pd.DataFrame, column: str = "measure", group: str | None = ALL) -> pd.DataFrame:
    """A line per policy, a column per measure (or group): mean [95 % interval], "-" for none.

    Args:
        found: `intervals` or `differences`, restricted to what is to be shown.
        column: "measure" or "group".
        group: the group shown; None for every one there is.
    """
    chosen = found if group is None else found[found["group"] == group]
    cells = [text(r.mean, r.low, r.high) for r in chosen.itertuples(name="Row")]
    wide = chosen.assign(text=cells).pivot(index="policy", columns=column, values="text")
    order = [list(dict.fromkeys(chosen[name])) for name in ("policy", column)]
    return wide.loc[order[0], order[1]].fillna("-").rename_axis(columns=None).reset_index()
