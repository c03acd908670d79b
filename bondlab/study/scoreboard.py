"""The README's scoreboard: the ledger in a line per claim, with a verdict and a number."""

from __future__ import annotations

import re

import pandas as pd

from bondlab.report.outcome import by_seeds, deciding, effect
from bondlab.study.ledger_page import anchor, markdown, marked

BEGIN, END = "<!-- scoreboard: python -m bondlab claims -->", "<!-- end of the scoreboard -->"


def placed(text: str, table: pd.DataFrame) -> str:
    """The README's text with this ledger's scoreboard between the two comments.

    Raises:
        ValueError: it does not have these once each.
    """
    parts = re.split(f"({re.escape(BEGIN)}|{re.escape(END)})", text)
    if parts[1::2] != [BEGIN, END]:
        raise ValueError(f"README.md must hold {BEGIN!r} and, below it, {END!r}")
    return "".join([*parts[:2], f"\n{scoreboard(table)}", *parts[3:]])


def scoreboard(table: pd.DataFrame) -> str:
    """A Markdown table, a line per claim: figure, claim, verdicts by place, a number, its seeds.

    The number is of the place with most seeds, the first named, and of what its verdict hangs on;
    the toy's stand in CLAIMS.md, but for what has no other.

    Args:
        table: `ledger.table`, or its file read as text.
    """
    return markdown(pd.DataFrame([_line(part) for _, part in table.groupby("id", sort=False)]))


def _line(part: pd.DataFrame) -> dict[str, str]:
    toy = part["kind"] == "toy"
    real = part if toy.all() else part[~toy]
    most = by_seeds(real)
    first = deciding(most[most["where"] == most["where"].iloc[0]])
    number = effect(first)
    return {
        "figure": _figure(first["source"]),
        "claim": f"[{first['short']}](CLAIMS.md#{anchor(first['id'])})",
        "on the toy": _verdicts(part[toy]),
        "on language models": _verdicts(most[most["kind"] != "toy"]),
        "deciding number [95 %]": number if number == "-" else f"{first['measured']}: {number}",
        "its seeds": first["seeds"],
    }


def _verdicts(part: pd.DataFrame) -> str:
    """ "repeated (sentiment); open (chat)"; of the toy only its row of a figure is named."""
    told = []
    for verdict, own in marked(part.drop_duplicates("where")).groupby("verdict", sort=False):
        names = "; ".join(filter(None, (w.removeprefix("toy").lstrip(", ") for w in own["where"])))
        told.append(f"{verdict} ({names})" if names else verdict)
    return "; ".join(told) or "-"


def _figure(source: str) -> str:
    """ "2" of "section 6, Fig. 2 left"; the source's first words where it names no figure."""
    found = re.search(r"Fig\. \d+", source)
    return found[0] if found else re.split(r"[;,]| and ", source)[0]
