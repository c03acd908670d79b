"""What came out, in a few lines at the top of a notebook: made of the ledger, so that new results
change it."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from bondlab import paths

# A line of the box, the verdicts of the ledger that stand in it, and what it says without any,
# where a claim has a verdict at all; the last two are there only where they say something.
LINES = {
    "Held": ("repeated", "nothing so far."),
    "Did not hold": ("not repeated", "nothing so far."),
    "Open": ("open", "nothing."),
    "Too few seeds for a verdict": (("one run", "2 runs"), ""),
    "Not run": ("not run", ""),
}
WORST = ("not run", "no", "open", "yes", "")  # the order in which answers decide a claim
TOY = "00b"  # the notebook that decides the same claims on the toy


class Box:
    """Lines and what the runs took, which Jupyter displays as HTML, all else as text."""

    def __init__(self, lines: dict[str, str]) -> None:
        self.lines = lines

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text in self.lines.items())

    def _repr_html_(self) -> str:
        lines = [f"<b>{name}</b>: {html.escape(text)}" for name, text in self.lines.items()]
        looks = "border:1px solid #888; border-radius:4px; padding:0.6em 1em; max-width:60em"
        return f'<div style="{looks}">{"<br>".join(lines)}</div>'


def box(number: str, experiment: str = "", what: str = "run") -> None:
    """Show what the ledger says of a notebook's claims, and what its runs took.

    Args:
        number: the notebook's, "02" or "07b".
        experiment: whose runs are shown, a folder of the committed results; "" for none.
        what: one of them in a word.
    """
    from IPython.display import display  # notebooks only

    ledger = pd.read_csv(
        paths.committed_folder("report") / "claims.csv", dtype=str, keep_default_na=False
    )
    display(Box({**lines(ledger, number), "Takes": cost(experiment, what)}))


def lines(ledger: pd.DataFrame, number: str) -> dict[str, str]:
    """The lines from the ledger's; none for a notebook that decides no claim.

    One that decides them on language models says what the toy says of the same claims.
    """
    told = ledger["command"].str.extract(r"--only (\w+)")[0].fillna("00")
    own, found = ledger[told == number], {}
    places = own["where"].str.split(", ").str[0].unique()
    if len(places) == 1:  # it goes without saying
        own = own.assign(where=own["where"].str.removeprefix(places[0]).str.removeprefix(", "))
    decided = own["verdict"].isin(["repeated", "not repeated", "open"]).any()
    for name, (verdicts, without) in LINES.items():
        part = own[own["verdict"].str.startswith(verdicts)]
        if len(part) or (without and decided):
            found[name] = " ".join(_told(part)) if len(part) else without
    toy = ledger[(told == TOY) & ledger["id"].isin(own["id"])]
    if len(toy) and number != TOY:
        found[f"On the exact toy ({TOY})"] = " ".join(
            f"{verdict}: {', '.join(part['id'].unique())}."
            for verdict, part in toy.groupby("verdict", sort=False)
        )
    return found


def _told(part: pd.DataFrame) -> Iterator[str]:
    """The claim with most seeds and its number, then the others in words: a sentence each."""
    part = by_seeds(part)
    first = (part[part["effect"] != ""] if (part["effect"] != "").any() else part).iloc[0]
    own = (part["id"] == first["id"]) & (part["where"] == first["where"])
    number = effect(line := deciding(part[own]))
    if number != "-":
        seeds = "one seed" if line["seeds"] == "1" else f"{line['seeds']} seeds"
        said = f": {what}" if (what := _suggested(line["verdict"])) else ""
        yield _sentence(f"{_named(part[own])}: {line['measured']} = {number}, {seeds}{said}")
        part = part[~own]
    for verdict, same in part.groupby("verdict", sort=False):
        names = "; ".join(_named(one) for _, one in same.groupby("id", sort=False))
        yield _sentence(f"{what}: {names}" if (what := _suggested(verdict)) else names)


def _suggested(verdict: str) -> str:
    """What too few runs suggest: "suggests yes", "open"; "" of a verdict."""
    return verdict.partition(": ")[2]


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _named(own: pd.DataFrame) -> str:
    """A claim, by its lines: "J-BOND beats cooling the reference (ours-4, sentiment; chat)"."""
    named = ", ".join(filter(None, [own["id"].iloc[0], "; ".join(own["where"].unique())]))
    return f"{own['short'].iloc[0]} ({named})"


def by_seeds(part: pd.DataFrame) -> pd.DataFrame:
    """The ledger's lines, those with most seeds first."""
    return part.sort_values("seeds", key=lambda seeds: -seeds.astype(int), kind="stable")


def deciding(own: pd.DataFrame) -> pd.Series:
    """Of a claim in one place the first line with the claim's answer: the worst that any has."""
    return own.sort_values("says", key=lambda says: says.map(WORST.index), kind="stable").iloc[0]


def effect(row: Mapping[str, str]) -> str:
    """A line's number with its interval; "-" where it was not run."""
    if not row["effect"]:
        return "-"
    return f"{row['effect']} [{row['low']}, {row['high']}]"


def cost(experiment: str, what: str = "run") -> str:
    """Minutes and devices of the runs shown, by their manifests."""
    told = "seconds as it opens, on any computer"
    if not experiment:
        return f"{told}."
    folder, name = paths.committed_folder(experiment), "results_runs.parquet"
    files = [folder / name] if (folder / name).exists() else sorted(folder.glob(f"*/{name}"))
    table = pd.concat(map(pd.read_parquet, files))
    found = [json.loads(text) for text in table.drop_duplicates("run")["manifest"]]
    minutes = sum(manifest.get("seconds", 0.0) for manifest in found) / 60
    devices = {
        f"{cores} core{'s' * (cores > 1)} of {name}" if cores else name
        for name, cores in map(device, found)
    }
    many = f"{len(found)} {what}s" if len(found) > 1 else what
    took = f"{minutes:.0f} minute{'s' * (round(minutes) != 1)}"
    took = f"{minutes / 60:.0f} hours" if minutes > 180 else took
    return f"{told}; the {many} shown took {took} on {' and on '.join(sorted(devices))}."


def device(manifest: Mapping[str, Any]) -> tuple[str, int]:
    """The GPU that a run was made on, and 0, or its processor and how many cores it had."""
    machine = manifest["machine"]
    kind, of_a_processor, _ = machine.get("kind", ": ").partition(": ")
    if not of_a_processor:
        return kind, 0
    name = machine.get("processor", "a processor that was not recorded")
    return re.sub(r"\(R\)|\(TM\)| Processor$", "", name), machine["threads"]
