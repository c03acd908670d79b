"""The plotted numbers of notebook 09, from the table of measurements."""

from __future__ import annotations

import math

import pandas as pd

from bondlab.bench.reading import GIGA, VARIED, compared, grown, parts, spread
from bondlab.bench.steps import LEAN


def sampling(table: pd.DataFrame) -> pd.DataFrame:
    """How many times as long `generate` takes, by K: a panel a model, a row a machine."""
    cases = table.loc[table["section"] == "sampling", ["machine", "case", "model", "k"]]
    found = compared(table, "sampling").merge(cases.drop_duplicates(), on=["machine", "case"])
    return pd.DataFrame([
        {"row": row.machine, "panel": row.model, "series": row.peer, "k": row.k, "kind": "joined",
         "mean": row.ratio.value, "low": row.ratio.low, "high": row.ratio.high}
        for row in found.itertuples()
    ])  # fmt: skip


def steps(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds and peak memory of whole steps by case and side."""
    own, rows = table[(table["section"] == "steps") & (table["side"] != LEAN)], []
    for (machine, case, side), part in own.groupby(["machine", "case", "side"], sort=False):
        label = {"group": _named(case, machine, table), "series": side}
        rows.append({"panel": "seconds", **label, **spread(part["seconds"])})
        rows.append({"panel": "memory", **label, **spread(part["memory"] / GIGA)})
    return pd.DataFrame(rows)


def floor(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds of each part of a step, and its floor."""
    found = parts(table).assign(panel="parts")
    found["group"] = [_named(row.part, row.machine, table) for row in found.itertuples()]
    taken = found.assign(series="measured", mean=found["seconds"])
    least = found.assign(series="floor", mean=found["floor"], low=math.nan, high=math.nan)
    columns = ["panel", "group", "series", "mean", "low", "high"]
    return pd.concat([taken, least.dropna(subset="floor")])[columns]


def _named(bar: str, machine: str, table: pd.DataFrame) -> str:
    """With its machine, where there are several."""
    return bar if table["machine"].nunique() == 1 else f"{bar}\n{machine}"


def growth(table: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a step by each of its sizes, and the line through them."""
    rows = []
    for machine, part in table[table["section"] == "growth"].groupby("machine", sort=False):
        for name in VARIED:
            found = grown(part, name).assign(row=machine, panel=name)
            taken = found.assign(series="a J-BOND step", kind="points")
            line = found.assign(mean=found["line"], low=math.nan, high=math.nan)
            rows += [taken, line.assign(series="a straight line", kind="formula")]
    return pd.concat(rows, ignore_index=True)
