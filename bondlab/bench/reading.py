"""What is read off the table of measurements: ratios with their range, shares of a floor, targets.

A median stands for the turns of a side, its range for their least and largest.
"""

from __future__ import annotations

import json
import math
from operator import itemgetter

import numpy as np
import pandas as pd

from bondlab.bench.floor import MATRIX, MEMORY
from bondlab.bench.steps import LEAN, PEER
from bondlab.bench.timing import OURS, ratio
from bondlab.report.intervals import Interval

GIGA = 1e9
KEY = ["machine", "case"]
VARIED = {
    "k": "completions per prompt",
    "prompts": "prompts per step",
    "prompt_tokens": "tokens of a prompt",
    "new_tokens": "tokens of a completion",
}


def machines(runs: pd.DataFrame) -> pd.DataFrame:
    """Where and with what the sections were measured, a row a machine."""
    rows = []
    for row in runs.drop_duplicates("machine").to_dict("records"):
        manifest = json.loads(row["manifest"])
        where, how = manifest["machine"], manifest["config"]
        own = {name: where[name] for name in ("kind", "processor", "cores", "threads")}
        told = {"precision": how["precision"], **how["versions"], "profile": row["profile"]}
        rows.append({"machine": row["machine"], **own, **told})
    return pd.DataFrame(rows).set_index("machine").T


def compared(table: pd.DataFrame, section: str, column: str = "seconds") -> pd.DataFrame:
    """A row a machine, case and peer: the medians of both sides, and how many times ours is theirs.

    `ratio` is a `timing.Ratio`. A side without as many turns as ours is no peer.
    """
    rows = []
    for key, part in table[table["section"] == section].groupby(KEY, sort=False):
        turns = {side: some[column].tolist() for side, some in part.groupby("side", sort=False)}
        ours = turns.pop(OURS)
        rows += [
            (*key, peer, np.median(ours), np.median(theirs), ratio(theirs, ours))
            for peer, theirs in turns.items()
            if len(theirs) == len(ours)
        ]
    return pd.DataFrame(rows, columns=[*KEY, "peer", OURS, "theirs", "ratio"])


def sampling(table: pd.DataFrame) -> pd.DataFrame:
    """Median seconds of both sides, their ratio, and the mean length that each drew in tokens."""
    found = compared(table, "sampling").join(lengths(table, "sampling").set_index(KEY), KEY)
    words = {OURS: f"{OURS}, s", "theirs": f"{found['peer'].iloc[0]}, s"}
    return found.drop(columns="peer").rename(columns=words)


def lengths(table: pd.DataFrame, section: str) -> pd.DataFrame:
    """Mean tokens of the completions that each side drew: that both were asked for the same."""
    own = table[table["section"] == section]
    found = own.pivot_table("length", KEY, "side", sort=False).add_suffix(", tokens")
    return found.rename_axis(columns=None).reset_index()


def steps(table: pd.DataFrame) -> pd.DataFrame:
    """Median seconds and peak memory of whole steps, and TRL's over ours."""
    own = table[table["section"] == "steps"]

    def times(column: str, name: str) -> pd.Series:
        found = compared(own, "steps", column).set_index(KEY)
        return found.loc[found["peer"] == PEER, "ratio"].rename(name)

    seconds = own.pivot_table("seconds", KEY, "side", "median", sort=False)
    peaks = own.pivot_table("memory", KEY, "side", "median", sort=False) / GIGA
    found = [
        seconds.reindex(columns=[OURS, PEER]).add_suffix(", s"),
        times("seconds", "times as long"),
        peaks.reindex(columns=[OURS, PEER, LEAN]).add_suffix(", GB"),
        times("memory", "times the memory"),
    ]
    return pd.concat(found, axis=1).reset_index()


# -- the floor -------------------------------------------------------------------------------------


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """What the machines can do."""
    rows = []
    for machine, part in table[table["section"] == "floor"].groupby("machine", sort=False):
        found = _rates(part)
        most = {"10^12 operations / s": found["operations"] / 1e12, "GB / s": found["bytes"] / GIGA}
        rows.append({"machine": machine, **most})
    return pd.DataFrame(rows)


def _rates(table: pd.DataFrame) -> dict[str, float]:
    """Operations per second in products of large matrices, bytes per second when memory is read."""
    kinds = {"operations": MATRIX, "bytes": MEMORY}
    found = {kind: table[table["case"] == name] for kind, name in kinds.items()}
    return {kind: (rows[kind] / rows["seconds"]).median() for kind, rows in found.items()}


def parts(table: pd.DataFrame) -> pd.DataFrame:
    """Each part of a J-BOND step, the longest first: where its time goes, and what is in the way.

    Columns machine, part, seconds (median), share of the step, floor in seconds, what sets it
    (operations or bytes), the floor as a share of the seconds, and the range of the seconds.
    """
    rows = []
    for machine, part in table[table["section"] == "floor"].groupby("machine", sort=False):
        rate, step = _rates(part), part[part["side"] == OURS]
        whole = step.groupby("turn")["seconds"].sum().median()
        for name, turns in step.groupby("case", sort=False):
            needs = {kind: turns[kind].fillna(0).iloc[0] / rate[kind] for kind in rate}
            kind, least = max(needs.items(), key=itemgetter(1))
            seconds, low, high = spread(turns["seconds"]).values()
            rows.append({
                "machine": machine, "part": name, "seconds": seconds, "share": seconds / whole,
                "floor": least or math.nan, "set by": kind if least else "-",
                "floor / measured": (least or math.nan) / seconds, "low": low, "high": high,
            })  # fmt: skip
    order = {"by": ["machine", "seconds"], "ascending": [True, False]}
    return pd.DataFrame(rows).sort_values(**order, ignore_index=True)


def spread(values: pd.Series) -> dict[str, float]:
    """Median, least and largest, as plots draw them."""
    return {"mean": values.median(), "low": values.min(), "high": values.max()}


# -- growth ----------------------------------------------------------------------------------------


def growth(table: pd.DataFrame) -> pd.DataFrame:
    """How a step's time grows: seconds by each size, and the farthest from a line through them."""
    rows = []
    for machine, part in table[table["section"] == "growth"].groupby("machine", sort=False):
        for name, words in VARIED.items():
            found = grown(part, name)
            points = ", ".join(f"{row.size}: {row.mean:.2f}" for row in found.itertuples())
            row = {"machine": machine, "by": words, "seconds by size": points}
            rows.append({**row, "off a line, %": 100 * off_line(found)})
    return pd.DataFrame(rows)


def grown(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """One machine's seconds by one size, and the line of least relative squares through them."""
    own = table[(table["section"] == "growth") & table["varied"].isin(["", name])]
    found = pd.DataFrame([{"size": x, **spread(some["seconds"])} for x, some in own.groupby(name)])
    if len(found):
        x, y = (found[column].to_numpy(float) for column in ("size", "mean"))
        found["line"] = np.polyval(np.polyfit(x, y, 1, w=1 / y), x)
    return found


def off_line(found: pd.DataFrame) -> float:
    """The largest distance from the line, as a share of it; two points are always on one."""
    return (found["mean"] / found["line"] - 1).abs().max() if len(found) > 2 else math.nan


# -- targets ---------------------------------------------------------------------------------------


LINEAR = 10  # per cent that a step's time may lie off a line in the number of prompts
# By what factor a peer is to take longer than ours, or more memory, on a kind of machine.
AIMS = ["machine", "section", "column", "case", "peer", "factor"]
TARGETS = pd.DataFrame([
    ("cpu", "sampling", "seconds", "causal, K = 1", "generate", 1),
    ("cpu", "sampling", "seconds", "t5, K = 1", "generate", 1),
    ("cpu", "sampling", "seconds", "causal, K = 16", "generate", 3),
    ("cpu", "sampling", "seconds", "t5, K = 16", "generate", 3),
    ("cpu", "steps", "seconds", "RLOO, LoRA", PEER, 5),
    ("cpu", "steps", "seconds", "J-BOND, LoRA", PEER, 3),
    ("cpu", "steps", "memory", "J-BOND, LoRA", PEER, 2),
    ("cuda", "sampling", "seconds", "causal, K = 16", "generate", 4),
    ("cuda", "steps", "seconds", "J-BOND, LoRA", PEER, 3),
], columns=AIMS)  # fmt: skip


def targets(table: pd.DataFrame) -> pd.DataFrame:
    """What was aimed at, what was reached, and whether that is enough."""
    rows = []
    for own in _aimed(table).itertuples():
        times = f"{own.factor:g} times " if own.factor > 1 else ""
        aim = f"{own.case}: {times}as fast as {own.peer}"
        if own.column == "memory":
            aim = f"{own.case}: {own.peer}, not recomputing, takes {times}the memory"
        enough = own.ratio and own.ratio.value >= own.factor
        rows.append((own.machine, aim, own.ratio, enough))
    for machine, part in table.groupby("machine", sort=False):
        off = 100 * off_line(grown(part, "prompts"))
        aim = f"a J-BOND step's time within {LINEAR} % of a line in the prompts"
        rows.append((machine, aim, None if math.isnan(off) else f"{off:.1f} %", off <= LINEAR))
    return pd.DataFrame([
        {"machine": machine, "target": aim, "times [range]": str(found or "-"),
         "verdict": ("reached" if enough else "missed") if found else "not measured"}
        for machine, aim, found, enough in sorted(rows, key=lambda row: row[2] is None)
    ])  # fmt: skip


def headline(table: pd.DataFrame, section: str) -> dict[str, tuple[Interval, str]]:
    """The section's ratios that targets ask for, with their range over turns, as kept."""
    found, count = {}, table["turn"].max() + 1
    for own in _aimed(table).query("section == @section and ratio.notna()").itertuples():
        what = f"{own.peer} / {OURS}, {own.column}, {own.case}: range over turns"
        ends = own.ratio.value, own.ratio.low, own.ratio.high
        found[what] = Interval(*ends, math.nan, count), "times"
    return found


def _aimed(table: pd.DataFrame) -> pd.DataFrame:
    """The targets with the ratios that were measured; None: it was not."""
    kinds = TARGETS[["section", "column"]].drop_duplicates().itertuples(index=False)
    found = [compared(table, *kind).assign(section=kind[0], column=kind[1]) for kind in kinds]
    joined = TARGETS.merge(pd.concat(found), "left")
    return joined.assign(ratio=joined["ratio"].astype(object).where(joined["ratio"].notna(), None))
