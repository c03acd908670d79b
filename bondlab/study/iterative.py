"""Iterative BOND on XSum (Figure 4): its runs and claims, what a nat of KL buys, effective N."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bondlab import measures
from bondlab.algorithms import bond
from bondlab.anchors import Periodic
from bondlab.report.intervals import cell, grouped, text
from bondlab.report.kept import Results
from bondlab.report.plots import Panel
from bondlab.study import cooling, report
from bondlab.study.claims import Claim, Term, at, halves, lead
from bondlab.study.experiment import Experiment, RunSettings, seeds
from bondlab.study.report import BY, DISTANCE, by_series, curve_table, ends
from bondlab.study.sweep import Spec
from bondlab.study.xsum import AS_GOOD, RUNS, SIZES, spec

SMALL, LARGE = "iterative, n = 2", "iterative, n = 4"
# Steps between copies of the policy into the anchor. Section 6: 1000; at the smaller scales a
# quarter of all steps, so that four rounds fit.
EVERY = {"smoke": 1, "laptop": 3, "study": 16, "paper": 1000}
FOUR_STEPS = {"steps": 4, "evaluate_every": 2}  # so that the smoke profile too has four rounds


def specs(profile: str) -> list[Spec]:
    """Jeffreys towards a fixed Best-of-N, and towards Best-of-n of an anchor that moves."""
    every = EVERY[profile]
    fixed = [(bond(n, 0.5), f"N = {n}", 0) for n in SIZES]
    moving = [(bond(n, 0.5, anchor=Periodic(every)), f"iterative, n = {n}", every) for n in (2, 4)]
    return [
        spec(profile, algorithm, seed, {"row": "", "series": name, "every": moved},
             **(FOUR_STEPS if profile == "smoke" else {}))
        for seed in seeds(profile) for algorithm, name, moved in (*fixed, *moving)
    ]  # fmt: skip


def results(settings: RunSettings) -> Results:
    """The tables of the runs, and that of `cooling`. Raises as `Experiment.results`."""
    return cooling.beside(EXPERIMENT.results(settings), lambda: specs(settings.profile)[0])


def _early_less_late(series: str) -> Term:
    def measure(table: pd.DataFrame) -> np.ndarray:
        early, late = halves(table, series, "log_quantile")
        return early - late

    return Term(f"early gain - late gain, {series}", measure, above=0)


def _late(what: str, series: str, other: str) -> Term:
    return Term(
        f"late gain, {what}",
        lambda t: halves(t, series, "log_quantile")[1] - halves(t, other, "log_quantile")[1],
        above=0,
    )


def _off_the_curve(series: str) -> Term:
    """How far a run ends from a + b sqrt(KL) through the means of the other runs' evaluations.

    Near the reference a small KL of size e^2 buys a log quantile of size e.
    """

    def measure(table: pd.DataFrame) -> np.ndarray:
        means = table.groupby(["series", "step"])[["kl_to_reference", "log_quantile"]].mean()
        root = means["kl_to_reference"].clip(lower=0) ** 0.5
        others = root.index.get_level_values("series") != series
        slope, offset = np.polyfit(root[others], means.loc[others, "log_quantile"], 1)
        expected = offset + slope * root[(series, table["step"].max())]
        return at(table, series, "log_quantile") - expected

    return Term(f"log quantile off the common curve, {series}", measure, -AS_GOOD, AS_GOOD)


EXPERIMENT = Experiment(
    "xsum_iterative",
    "Iterative BOND with a moving anchor on XSum",
    "03_iterative_bond",
    specs,
    runs=RUNS,
    claims=(
        Claim(
            "With a fixed N the log quantile saturates, earlier for smaller N.",
            "section 6, Fig. 4 left and middle",
            [
                _early_less_late("N = 4"),
                _early_less_late("N = 16"),
                _late("N = 16 - N = 4", "N = 16", "N = 4"),
            ],
            "A gain is the rise of the log quantile over one half of the evaluations.",
        ),
        Claim(
            "Iterative BOND goes on improving, faster for larger n.",
            "section 6, Fig. 4 left and middle",
            [
                _late("iterative n = 2 - N = 4", SMALL, "N = 4"),
                _late("iterative n = 4 - N = 4", LARGE, "N = 4"),
                Term("log quantile, n = 4 - n = 2", lead(LARGE, SMALL, "log_quantile"), above=0),
            ],
            "Gains as above; log quantiles after the last step.",
        ),
        Claim(
            "All runs lie on essentially the same trade-off between log quantile and KL.",
            "section 6, Fig. 4 right",
            [_off_the_curve(series) for series in (*(f"N = {n}" for n in SIZES), SMALL, LARGE)],
            "In nats, after the last step; the common curve of a run is a + b sqrt(KL), fitted to "
            "the means of the other runs' evaluations.",
        ),
    ),
)  # fmt: skip


def effective_n(found: Results) -> pd.DataFrame:
    """`measures.effective_n` of each mean log quantile: row, series, step, mean, low, high, count.

    The interval is the log quantile's with its ends transformed.
    """
    table = grouped(found["evaluations"], "log_quantile", [*BY, "reference_samples"])
    for end in ("mean", "low", "high"):
        pairs = zip(table[end], table["reference_samples"], strict=True)
        table[end] = [measures.effective_n(value, k) for value, k in pairs]
    return table.drop(columns="reference_samples")


def with_effective_n(found: Results, panels: Sequence[Panel]) -> pd.DataFrame:
    """`report.curve_table` of panels, of which the first is effective N."""
    sizes = effective_n(found).assign(panel=panels[0].name)
    return pd.concat([sizes, curve_table(found, panels[1:])], ignore_index=True)


def effective_n_table(found: Results) -> pd.DataFrame:
    """After the last step of each series: log quantile, effective N, KL spent and KL needed.

    Needed is the KL to the reference of the Best-of-N with that effective N.
    """
    lines, last = [], ends(effective_n(found)).set_index("series")
    for _, name, part in by_series(ends(found["evaluations"])):
        n = last.loc[name]
        lines.append({
            "series": name, "log quantile": cell(part, "log_quantile"),
            "effective N": text(n["mean"], n["low"], n["high"], 2),
            "KL to reference": cell(part, DISTANCE.name),
            "KL of that Best-of-N": report.kl_of(n["mean"]) if n["mean"] > 0 else math.inf,
        })  # fmt: skip
    return pd.DataFrame(lines)
