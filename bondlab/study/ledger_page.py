"""What is made of the lines of claims.csv: CLAIMS.md, and the scoreboard of README.md."""

from __future__ import annotations

import re
import textwrap

import pandas as pd

from bondlab.report.outcome import by_seeds, deciding, effect
from bondlab.study.claims import NO, NOT_RUN, OPEN, RULE, YES

HEAD = f"""# Claims and verdicts

Made by `python -m bondlab claims` from the tables in `figures/study/`, by way of
[claims.csv](figures/study/report/claims.csv); do not edit. C1 to C16 are the paper's, in our words,
the others ours. First what was found where, then each claim with its rule, its numbers and its
runs.

{textwrap.fill(RULE, 100)}

A spread is the standard deviation of the reference's rewards within a prompt, the unit of rewards
below. Intervals are over seeds and held-out prompts, on the toy over seeds alone. What is held
fixed, as there is one of each: training prompts, stored samples of the reference, rewards and
judges. "Intervals" is how many a verdict rests on; "says" is what each says alone. A rule that was
fixed after these runs (†) was written by someone who had seen them: such a verdict counts for less.
On the toy each seed has a reference, a reward and prompts of its own, which it trains on and is
measured on exactly ([notebook 00b](notebooks/00b_figures_on_a_toy.ipynb)). Rewards are drawn apart
from the reference there, so that cooling gains nothing, and the judge shares the reward's scores:
ours-1, ours-4 and ours-7 hold on the toy by construction. The runs of one seed on sentiment and
chat and all of XSum's are older and smaller than those that their command makes now: 48 steps that
each stand for eight of the paper's, or 12 to 64 steps of 8 articles, most with stored samples.
"""
KINDS = {"toy": "the toy", "real models": "language models"}
COLUMNS = ["where", "measured", "effect [95 %]", "says", "verdict", "seeds", "intervals",
           "seeds needed", "rule fixed"]  # fmt: skip
OF_CLAIM = COLUMNS[4:]  # not of one number: on the first line of a place alone
BEGIN, END = "<!-- scoreboard: python -m bondlab claims -->", "<!-- end of the scoreboard -->"


def page(table: pd.DataFrame, spent: str) -> str:
    """The text of CLAIMS.md.

    Args:
        table: `ledger.table`; spent: `ledger.spent`.
    """
    places = table.drop_duplicates(["id", "where"])
    sure = places[places["verdict"].isin([YES, NO, OPEN])]
    looks, enough = (part["intervals"].astype(int).sum() for part in (places, sure))
    told = textwrap.fill(
        f"The rules ask for {looks} intervals in all; {enough} of them have seeds enough for a "
        f"verdict. Of so many, about {enough / 20:.0f} miss their true value by chance. "
        f"{spent}",
        100,
    )
    parts = [HEAD, told + "\n", _overview(table)]
    parts += [_claim(part) for _, part in table.groupby("id", sort=False)]
    return "\n".join(parts)


def _overview(table: pd.DataFrame) -> str:
    lines = []
    for (identity, claim), part in table.groupby(["id", "claim"], sort=False):
        found = {
            f"on {kind}": _verdicts(part[part["kind"] == name]) for name, kind in KINDS.items()
        }
        lines.append({"id": f"[{identity}](#{anchor(identity)})", "claim": claim, **found})
    return markdown(pd.DataFrame(lines))


def _verdicts(part: pd.DataFrame) -> str:
    """ "not repeated (sentiment); open† (chat)"."""
    places = marked(part.drop_duplicates(["where", "verdict"]))
    return "; ".join(f"{v} ({w})" for v, w in zip(places["verdict"], places["where"], strict=True))


def marked(places: pd.DataFrame) -> pd.DataFrame:
    """The ledger's lines with a † at each verdict whose rule is younger than its runs."""
    late = (places["rule fixed"] == "after these runs") & (places["verdict"] != NOT_RUN)
    return places.assign(verdict=places["verdict"] + late.map({True: "†", False: ""}))


def _claim(part: pd.DataFrame) -> str:
    first = part.iloc[0]
    shown = part.assign(**{"effect [95 %]": [effect(row) for row in part.to_dict("records")]})
    shown[OF_CLAIM] = shown[OF_CLAIM].mask(shown["where"].duplicated(), "")
    origins = part[["where", "profile", "command", "runs"]].drop_duplicates()
    lines = [f"* {o.where}, profile {o.profile}: `{o.command}`; {_runs(o.runs)}"
             for o in origins.itertuples()]  # fmt: skip
    return "\n".join([
        f"\n## {first['id']}\n",
        f"{first['claim']} ({first['source']})\n",
        f"Rule, fixed {first['rule fixed (UTC)']} UTC: {first['rule']}\n",
        markdown(shown[COLUMNS]),
        *lines, "",
    ])  # fmt: skip


def _runs(names: str) -> str:
    return f"runs {', '.join(names.split())}" if names else "no runs"


def anchor(identity: str) -> str:
    """Of a claim's heading in CLAIMS.md."""
    return identity.lower().replace(" ", "-")


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown."""
    rows = [list(table), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


# -- the README's scoreboard -----------------------------------------------------------------------


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
        "on the toy": _by_verdict(part[toy]),
        "on language models": _by_verdict(most[most["kind"] != "toy"]),
        "deciding number [95 %]": number if number == "-" else f"{first['measured']}: {number}",
        "its seeds": first["seeds"],
    }


def _by_verdict(part: pd.DataFrame) -> str:
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
