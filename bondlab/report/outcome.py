"""What came out, in three lines at the top of a notebook: made of the ledger, so that new results
change it."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator

import pandas as pd

from bondlab import paths

# A line of the box, and the verdicts of the ledger that stand in it.
LINES = {
    "Held": ("repeated",),
    "Did not hold": ("not repeated",),
    "Open": ("open", "one run", "2 runs", "not run"),
}
NONE = {
    "Held": "nothing yet: a verdict takes three seeds.",
    "Did not hold": "nothing so far.",
    "Open": "nothing.",
}


class Box:
    """Three lines and what the runs took, which Jupyter displays as HTML, all else as text."""

    def __init__(self, lines: dict[str, str]) -> None:
        self.lines = lines

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {text}" for name, text in self.lines.items())

    def _repr_html_(self) -> str:
        lines = [f"<b>{name}</b>: {html.escape(text)}" for name, text in self.lines.items()]
        looks = "border:1px solid #888; border-radius:4px; padding:0.6em 1em; max-width:60em"
        return f'<div style="{looks}">{"<br>".join(lines)}</div>'


def box(number: str, experiment: str = "") -> None:
    """Show what the ledger says of a notebook's claims, and what its runs took.

    Args:
        number: the notebook's, "02" or "07b".
        experiment: whose runs are shown, a folder of the committed results; "" for none.
    """
    from IPython.display import display  # notebooks only

    ledger = pd.read_csv(
        paths.committed_folder("report") / "claims.csv", dtype=str, keep_default_na=False
    )
    display(Box({**lines(ledger, number), "Takes": cost(experiment)}))


def lines(ledger: pd.DataFrame, number: str) -> dict[str, str]:
    """The three lines from the ledger's; none for a notebook that decides no claim."""
    told = ledger["command"].str.extract(r"--only (\w+)")[0].fillna("00")
    own = ledger[told == number]
    found = {}
    for name, verdicts in LINES.items() if len(own) else ():
        part = own[own["verdict"].str.startswith(verdicts)]
        found[name] = " ".join(_told(part)) if len(part) else NONE[name]
    return found


def _told(part: pd.DataFrame) -> Iterator[str]:
    """The claim with most seeds in words and with a number, then the other ones' names."""
    part = part.sort_values("seeds", key=lambda seeds: -seeds.astype(int), kind="stable")
    first = _deciding(part[part["effect"] != ""] if (part["effect"] != "").any() else part)
    yield f"{first['claim'].rstrip('.')} ({first['id']}, {first['where']})"
    if first["effect"]:
        number = f"{first['effect']} [{first['low']}, {first['high']}]"
        what = first["measured"].replace("_kl", " KL")
        yield f"- {what}: {number}, {_seeds(first['seeds'])}."
    others = part[(part["id"] != first["id"]) | (part["where"] != first["where"])]
    for verdict, same in others.groupby("verdict", sort=False):
        names = [
            f"{identity} ({'; '.join(own['where'].unique())})"
            for identity, own in same.groupby("id", sort=False)
        ]
        yield f"{verdict[0].upper()}{verdict[1:]}: {', '.join(names)}."


def _deciding(part: pd.DataFrame) -> pd.Series:
    """Of the first claim and place the number that its verdict hangs on."""
    first = part.iloc[0]
    own = part[(part["id"] == first["id"]) & (part["where"] == first["where"])]
    crossing = own[own["low"].str.startswith("-") != own["high"].str.startswith("-")]
    return (crossing if len(crossing) else own).iloc[0]


def _seeds(count: str) -> str:
    return "one seed" if count == "1" else f"{count} seeds"


def cost(experiment: str) -> str:
    """Minutes and devices of the runs shown, by their manifests."""
    told = "seconds as it opens, on any computer"
    if not experiment:
        return f"{told}."
    files = sorted(paths.committed_folder(experiment).rglob("results_runs.parquet"))  # of variants
    table = pd.concat(map(pd.read_parquet, files))
    found = [json.loads(text) for text in table.drop_duplicates("run")["manifest"]]
    minutes = sum(manifest.get("seconds", 0.0) for manifest in found) / 60
    devices = sorted({_device(manifest) for manifest in found})
    many = f"{len(found)} run{'s' * (len(found) > 1)}"
    took = f"{minutes:.0f} minute{'s' * (round(minutes) != 1)}"
    return f"{told}; the {many} shown took {took} on {', '.join(devices)}."


def _device(manifest: dict) -> str:
    machine = manifest["machine"]
    kind = machine.get("kind", ": ")  # of a processor with its instructions after a colon
    return f"{machine['cores']} cores without a GPU" if ": " in kind else kind
