"""All claims in one place, decided on the committed tables: claims.csv (see `ledger_page`).

A line of claims.csv is one number of one claim in one place. A claim is of a paper's figure, so it
is beside the runs that decide it; here is the list of all, and what is exact: Theorem 1.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from bondlab import best_of_n, paths
from bondlab.report import outcome
from bondlab.report.kept import Results
from bondlab.results import write_atomically
from bondlab.study import benchmarks, cells, claims, evidence, j_bond, ledger_page, on_toy
from bondlab.study.claims import Claim, Term
from bondlab.study.experiment import TABLES
from bondlab.study.experiments import EXPERIMENTS

PROBLEMS, EXACT = 100, "Theorem 1"
THEOREM = Claim(
    "C1",
    "The distribution of Best-of-N is pi(y) p_<=(y)^(N-1) times a factor, N without ties.",
    "Theorem 1",
    [
        Term(f"largest error of a probability, {PROBLEMS} distributions, N = 2, 3, 4", [EXACT],
             lambda table: cells.at(table, EXACT, "error"), below=1e-12)
    ],
    "Against the sum over all ways to draw N of five outcomes, of which some are tied; arithmetic.",
    short="Best-of-N has this closed form",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Claims that are decided on one table.

    Args:
        where: what the table is of; kind: "toy" or "real models".
        table: the evidence; its rows of a figure are places of their own.
        notebook: the number of the one that computes the evidence; "" where the ledger does.
    """

    where: str
    kind: str
    claims: Sequence[Claim]
    table: pd.DataFrame
    notebook: str = ""


def places() -> Iterator[Place]:
    """Every place where the clone has evidence, the toy first."""
    yield Place("enumeration", "toy", (THEOREM,), enumerated())
    for name, shown in on_toy.FIGURES.items():
        yield Place("toy", "toy", shown.claims, evidence.of(on_toy.results(name, "shipped")), "00b")
    for experiment in EXPERIMENTS.values():
        found = Results(experiment.name, "shipped")
        if experiment.claims and (found.folder / "results_evaluations.parquet").exists():
            table = evidence.of(found.load(TABLES, dict), experiment.beside)
            where = "XSum" if experiment.name.startswith("xsum") else "sentiment"
            yield Place(where, "real models", experiment.claims, table, experiment.number)
    # Figure 7's runs on benchmarks, and on chat.
    name, notebook = j_bond.EXPERIMENT.name, benchmarks.EXPERIMENT.number
    found = Results(name, "shipped").load(["benchmarks", "runs"], dict)
    table = evidence.of_items(found["benchmarks"], found["runs"])
    yield Place("sentiment", "real models", benchmarks.CLAIMS, table, notebook)
    chat = evidence.of(Results(name, "shipped", "chat").load(TABLES, dict))
    yield Place("chat", "real models", benchmarks.ON_CHAT, chat, notebook)


def enumerated() -> pd.DataFrame:
    """Errors of Theorem 1 on five outcomes with ties: a seed per distribution, a prompt per N."""
    rows = []
    for seed, n in itertools.product(range(PROBLEMS), (2, 3, 4)):
        generator = torch.Generator().manual_seed(seed)
        probs = torch.rand(5, generator=generator, dtype=torch.float64)
        probs, rewards = probs / probs.sum(), torch.randint(3, (5,), generator=generator)
        drawn = torch.tensor(list(itertools.product(range(5), repeat=n)))
        kept = drawn.gather(1, best_of_n.select(rewards[drawn]).unsqueeze(1)).squeeze(1)
        exact = torch.zeros(5, dtype=torch.float64).index_add(0, kept, probs[drawn].prod(1))
        error = (best_of_n.pmf(probs, rewards, n) - exact).abs().max().item()
        rows.append({"series": EXACT, "seed": seed, "prompt": n, "step": 0, "error": error})
    table = pd.DataFrame(rows)
    return table.assign(row="", profile="exact", error=table["error"].max())


def table() -> pd.DataFrame:
    """The ledger: a line per claim, place and number, numbers as text of three decimals."""
    lines = []
    for place in places():
        for claim in place.claims:
            for row, part in place.table.groupby("row", sort=False):
                lines += _lines(place, claim.at(row), row, part)
    found = pd.DataFrame(lines).fillna("")
    return found.sort_values("id", key=lambda ids: ids.map(_order), kind="stable")


def _lines(place: Place, claim: Claim, row: str, part: pd.DataFrame) -> Iterator[dict]:
    found, runs = claim.decide(part), claims.used(claim, part)["run"]
    when = claims.when_fixed(claim, part)
    profile = part["profile"].dropna().iloc[0]
    made = f"study --profile {profile} --only {place.notebook}" if place.notebook else "claims"
    shared = {
        "id": claim.id, "claim": claim.text, "short": claim.short,
        "source": claim.source, "rule": claim.rule,
        "rule fixed (UTC)": f"{claim.fixed:%Y-%m-%d %H:%M}", "kind": place.kind,
        "where": ", ".join(filter(None, (place.where, row))), "profile": profile,
        "verdict": found.verdict, "rule fixed": when.strip("-"),
        "seeds": found.seeds, "seeds needed": claims.in_words(found), "intervals": found.looks,
        "runs": " ".join(sorted(set(" ".join(runs).split()))),
        "command": f"python -m bondlab {made}",
    }  # fmt: skip
    for what, interval in found.intervals.items():
        line = {**shared, "measured": what, "says": found.says[what]}
        if interval is not None:
            ends = {"effect": interval.mean, "low": interval.low, "high": interval.high}
            line |= {name: _number(end) for name, end in ends.items()}
        yield line


def _number(value: float) -> str:
    """Three decimals, or the digits of one that is smaller."""
    return f"{value:.0e}" if 0 < abs(value) < 5e-4 else f"{value + 0.0:.3f}"


def spent() -> str:
    """What the committed runs took, in a sentence: hours of one core or GPU, by its name."""
    files = paths.committed_folder("").rglob("results_runs.parquet")
    found = pd.concat([pd.read_parquet(path) for path in files if "bench" not in path.parts])
    hours = defaultdict(float)
    for manifest in found.drop_duplicates("run")["manifest"].map(json.loads):
        name, cores = outcome.device(manifest)
        hours[name] += manifest.get("seconds", 0.0) * max(1, cores) / 3600
    parts = [f"{hours[name]:.1f} on {name}" for name in sorted(hours, key=hours.get)[::-1]]
    total = f"{sum(hours.values()):.0f} hours of one core or GPU"
    return f"The committed runs took {total}: {', '.join(parts)}."


def _order(identity: str) -> tuple:
    """C2a before C10, the paper's before ours."""
    ours, digits = identity.startswith("ours"), "".join(filter(str.isdigit, identity.split()[0]))
    return ours, int(digits), identity


def write() -> list[str]:
    """Make claims.csv, CLAIMS.md and the README's scoreboard; returns their paths."""
    root, made = paths.repository_root(), table()
    readme = root / "README.md"
    files = {
        paths.committed_folder("report") / "claims.csv": made.to_csv(index=False),
        root / "CLAIMS.md": ledger_page.page(made, spent()),
        readme: ledger_page.placed(readme.read_text(encoding="utf-8"), made),
    }
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())
    return [str(path.relative_to(root)) for path in files]
