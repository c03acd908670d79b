"""What is read off the table of measurements: ratios with their range, shares of a floor, targets.

A median stands for the turns of a side, its range for their least and largest.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bondlab.bench.floor import MATRIX, MEMORY
from bondlab.bench.steps import LEAN, PEER
from bondlab.bench.timing import OURS, Ratio, ratio
from bondlab.report.intervals import Interval

GIGA = 1e9
VARIED = {
    "k": "completions a prompt",
    "prompts": "prompts a step",
    "prompt_tokens": "tokens of a prompt",
    "new_tokens": "tokens of a completion",
}


def machines(runs: pd.DataFrame) -> pd.DataFrame:
    """Where and with what the sections were measured, a row a machine."""
    rows = []
    for row in runs.drop_duplicates("machine").to_dict("records"):
        manifest = json.loads(row["manifest"])
        where, how = manifest["machine"], manifest["config"]
        told = {"machine": row["machine"], "kind": where["kind"], "processor": where["processor"]}
        told |= {name: where[name] for name in ("cores", "threads")}
        told |= {"precision": how["precision"], **how["versions"], "profile": row["profile"]}
        rows.append(told)
    return pd.DataFrame(rows).set_index("machine").T


def compared(table: pd.DataFrame, section: str, column: str = "seconds") -> pd.DataFrame:
    """A row a machine, case and peer: the medians of both sides, and how many times ours is theirs.

    `ratio` is a `timing.Ratio`. A side without as many turns as ours is no peer.
    """
    own, rows = table[table["section"] == section], []
    for (machine, case), part in own.groupby(["machine", "case"], sort=False):
        turns = {side: some[column].tolist() for side, some in part.groupby("side", sort=False)}
        ours = turns.pop(OURS)
        for peer, theirs in turns.items():
            if len(theirs) == len(ours):
                medians = {OURS: np.median(ours), "theirs": np.median(theirs)}
                found = {"peer": peer, **medians, "ratio": ratio(theirs, ours)}
                rows.append({"machine": machine, "case": case, **found})
    return pd.DataFrame(rows, columns=["machine", "case", "peer", OURS, "theirs", "ratio"])


def sampling(table: pd.DataFrame) -> pd.DataFrame:
    """Median seconds of both sides, their ratio, and the mean length that each drew in tokens."""
    drawn = lengths(table, "sampling").set_index(["machine", "case"]).add_suffix(", tokens")
    found = compared(table, "sampling").join(drawn, ["machine", "case"])
    return found.rename(columns={OURS: f"{OURS}, s", "theirs": "theirs, s"})


def lengths(table: pd.DataFrame, section: str) -> pd.DataFrame:
    """Mean tokens of the completions that each side drew: that both were asked for the same."""
    own = table[table["section"] == section]
    return own.pivot_table("length", ["machine", "case"], "side", sort=False).reset_index()


def steps(table: pd.DataFrame) -> pd.DataFrame:
    """Median seconds and peak memory of whole steps, and TRL's over ours."""
    own, rows = table[table["section"] == "steps"], []
    times, peaks = (
        compared(table, "steps", column).set_index(["machine", "case"])["ratio"]
        for column in ("seconds", "memory")
    )
    for key, part in own.groupby(["machine", "case"], sort=False):
        sides = part.groupby("side")
        seconds, most = sides["seconds"].median(), sides["memory"].max() / GIGA
        row = dict(zip(("machine", "case"), key, strict=True))
        row |= {f"{side}, s": seconds.get(side, math.nan) for side in (OURS, PEER)}
        row["times as long"] = str(times.get(key, "-"))
        row |= {f"{side}, GB": most.get(side, math.nan) for side in (OURS, PEER, LEAN)}
        rows.append({**row, "times the memory": str(peaks.get(key, "-"))})
    return pd.DataFrame(rows)


# -- the floor -------------------------------------------------------------------------------------


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """What the machines can do."""
    own = table[table["section"] == "floor"]
    found = {machine: _rates(part) for machine, part in own.groupby("machine", sort=False)}
    return pd.DataFrame([
        {"machine": machine, "10^12 operations / s": of["operations"] / 1e12,
         "GB / s": of["bytes"] / GIGA}
        for machine, of in found.items()
    ])  # fmt: skip


def _rates(table: pd.DataFrame) -> dict[str, float]:
    """Operations per second in products of large matrices, bytes per second when memory is read."""
    kinds = {"operations": MATRIX, "bytes": MEMORY}
    found = {kind: table[table["case"] == name] for kind, name in kinds.items()}
    return {kind: (rows[kind] / rows["seconds"]).median() for kind, rows in found.items()}


def parts(table: pd.DataFrame) -> pd.DataFrame:
    """Each part of a J-BOND step, the longest first: where its time goes, and what is in the way.

    Columns machine, part, seconds (median), share of the step, floor in seconds, what sets it
    (operations or bytes), the share of the floor that is reached, and the range of the seconds.
    """
    own, rows = table[table["section"] == "floor"], []
    for machine, part in own.groupby("machine", sort=False):
        rate, step = _rates(part), part[part["side"] == OURS]
        whole = step.groupby("turn")["seconds"].sum().median()
        for name, turns in step.groupby("case", sort=False):
            needs = {kind: turns[kind].fillna(0).iloc[0] / rate[kind] for kind in rate}
            kind = max(needs, key=needs.get)
            times, least = spread(turns["seconds"]), needs[kind] or math.nan
            seconds = times["mean"]
            row = {"machine": machine, "part": name, "seconds": seconds, "share": seconds / whole}
            row |= {"floor": least, "set by": kind if needs[kind] else "-"}
            rows.append(
                {**row, "reached": least / seconds, "low": times["low"], "high": times["high"]}
            )
    found = pd.DataFrame(rows).sort_values(["machine", "seconds"], ascending=[True, False])
    return found.reset_index(drop=True)


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


@dataclass(frozen=True)
class Target:
    """By what factor a peer is to take longer than ours, or more memory, on a kind of machine."""

    machine: str
    section: str
    case: str
    peer: str
    factor: float
    column: str = "seconds"

    def __str__(self) -> str:
        if self.column == "memory":
            return f"{self.case}: 1/{self.factor:g} of {self.peer}'s peak memory"
        times = f"{self.factor:g} times " if self.factor > 1 else ""
        return f"{self.case}: {times}as fast as {self.peer}"

    def found(self, table: pd.DataFrame) -> Ratio | None:
        """The ratio that was measured, if it was."""
        rows = compared(table, self.section, self.column)
        same = (rows["machine"] == self.machine) & (rows["case"] == self.case)
        (own,) = rows.loc[same & (rows["peer"] == self.peer), "ratio"].tolist() or [None]
        return own


TARGETS = (
    *(Target("cpu", "sampling", f"{model}, K = 1", "generate", 1) for model in ("causal", "t5")),
    *(Target("cpu", "sampling", f"{model}, K = 16", "generate", 3) for model in ("causal", "t5")),
    Target("cpu", "steps", "RLOO, LoRA", PEER, 5),
    Target("cpu", "steps", "J-BOND, LoRA", PEER, 3),
    Target("cpu", "steps", "J-BOND, LoRA", PEER, 2, "memory"),
    Target("cuda", "sampling", "causal, K = 16", "generate", 4),
    Target("cuda", "steps", "J-BOND, LoRA", PEER, 3),
)
LINEAR = 10  # per cent that a step's time may lie off a line in the number of prompts


def targets(table: pd.DataFrame) -> pd.DataFrame:
    """What was aimed at, what was reached, and whether that is enough."""
    rows = []
    for target in TARGETS:
        found = target.found(table)
        enough = found and found.value >= target.factor
        rows.append(_row(target.machine, str(target), found, enough))
    for machine, part in table.groupby("machine", sort=False):
        off = 100 * off_line(grown(part, "prompts"))
        found = None if math.isnan(off) else f"{off:.1f} %"
        aim = f"a J-BOND step's time within {LINEAR} % of a line in the prompts"
        rows.append(_row(machine, aim, found, found and off <= LINEAR))
    return pd.DataFrame(rows)


def headline(table: pd.DataFrame, section: str) -> dict[str, tuple[Interval, str]]:
    """The section's ratios that targets ask for, with their range over turns, as kept."""
    found = {}
    for target in TARGETS:
        if target.section == section and (own := target.found(table)):
            what = f"{target.peer} / {OURS}, {target.column}, {target.case}: range over turns"
            count = table["turn"].max() + 1
            found[what] = Interval(own.value, own.low, own.high, math.nan, count), "times"
    return found


def _row(machine: str, aim: str, found: Ratio | str | None, enough: bool | None) -> dict[str, str]:
    verdict = {None: "-", True: "reached", False: "missed"}[enough]
    return {"machine": machine, "target": aim, "reached": str(found or "-"), "verdict": verdict}
