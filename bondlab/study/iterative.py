"""Iterative BOND on XSum (Figure 4): its runs and claims, what a nat of KL buys, effective N."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression, leastsq
from scipy.special import lambertw

from bondlab import measures
from bondlab.algorithms import bond
from bondlab.anchors import Periodic
from bondlab.report.intervals import cell, grouped, influence, text
from bondlab.report.kept import Results
from bondlab.report.plots import Panel
from bondlab.study import cooling, report
from bondlab.study.cells import NotRun, halves
from bondlab.study.claims import Claim, Term, lead
from bondlab.study.experiment import Experiment, RunSettings, seeds
from bondlab.study.frontier import KL, area, curve
from bondlab.study.report import BY, COOLED, DISTANCE, by_series, curve_table, ends
from bondlab.study.sweep import Spec
from bondlab.study.xsum import AS_GOOD, RUNS, SIZES, spec

SMALL, LARGE = "iterative, n = 2", "iterative, n = 4"
# Steps between copies of the policy into the anchor. Section 6: 1000; at the smaller scales a
# quarter of all steps, so that four rounds fit.
EVERY = {"smoke": 1, "laptop": 3, "study": 16, "paper": 1000}
GAINED = 0.9  # of the own final gain
SATURATED = 0.75  # of the steps: a run that has its gain by then has saturated
FOUR_STEPS = {"steps": 4, "evaluate_every": 2}  # so that the smoke profile too has four rounds


def specs(profile: str, tuned: bool = True) -> list[Spec]:
    """Jeffreys towards a fixed Best-of-N, and towards Best-of-n of an anchor that moves."""
    every = EVERY[profile]
    fixed = [(bond(n, 0.5), f"N = {n}", 0) for n in SIZES]
    moving = [(bond(n, 0.5, anchor=Periodic(every)), f"iterative, n = {n}", every) for n in (2, 4)]
    return [
        spec(profile, algorithm, seed, {"row": "", "series": name, "every": moved}, tuned,
             **(FOUR_STEPS if profile == "smoke" else {}))
        for seed in seeds(profile) for algorithm, name, moved in (*fixed, *moving)
    ]  # fmt: skip


def results(settings: RunSettings) -> Results:
    """The tables of the runs, and that of `cooling`. Raises as `Experiment.results`."""
    return cooling.beside(EXPERIMENT.results(settings), lambda: specs(settings.profile)[0])


# -- claims ----------------------------------------------------------------------------------------


def _time(series: str, table: pd.DataFrame) -> np.ndarray:
    """`time_to_gain` of a run's log quantile as a share of all its steps, [S, B]."""
    steps = np.sort(table["step"].unique())
    values = curve(table, series, "log_quantile")
    return influence(lambda means: time_to_gain(steps / steps[-1], means), values)


def time_to_gain(times: np.ndarray, means: np.ndarray) -> float:
    """When a measure [T] first has `GAINED` of its own final gain; NaN where there is none.

    Of the rising curve nearest to it (least squares, isotonic), straight between evaluations: noise
    that falls back is no second start.
    """
    rising = isotonic_regression(means).x
    gain = rising[-1] - rising[0]
    if gain <= 0:
        return np.nan
    wanted = rising[0] + GAINED * gain
    after = int(np.argmax(rising >= wanted))
    share = (wanted - rising[after - 1]) / (rising[after] - rising[after - 1])
    return float(times[after - 1] + share * (times[after] - times[after - 1]))


def _late(what: str, series: str, other: str) -> Term:
    def measure(table: pd.DataFrame) -> np.ndarray:
        if "anew" in table and not table["anew"].all():
            raise NotRun("stored samples on one side, new ones on the other")
        return halves(table, series, "log_quantile")[1] - halves(table, other, "log_quantile")[1]

    return Term(f"late gain, {what}", (series, other), measure, above=0)


def best_of_n_curve(kl: np.ndarray, stretch: float, height: float) -> np.ndarray:
    """The log quantile -height/N at exp(stretch) times the KL of Best-of-N, log N - 1 + 1/N, nats.

    With u = 1/N, u - log u = KL + 1, so u = -W(-exp(-KL - 1)) with Lambert's function.
    """
    spent = np.clip(kl, 1e-9, None) / np.exp(stretch)  # at 0 itself W has its branch point
    return height * lambertw(-np.exp(-spent - 1)).real


def _off_the_curve(series: str) -> Term:
    """How far a run ends from the curve shaped as Best-of-N's through the other runs' evaluations.

    The fit is made anew for each seed and without each prompt, so its own error is in the interval.
    """
    others = [name for name in ALL if name != series]

    def measure(table: pd.DataFrame) -> np.ndarray:
        parts = [curve(table, n, m) for m in (KL, "log_quantile") for n in (*others, series)]
        return influence(off_the_curve, *parts)

    return Term(f"log quantile off the common curve, {series}", ALL, measure, -AS_GOOD, AS_GOOD)


def off_the_curve(*curves: np.ndarray) -> float:
    """The last log quantile of the last run minus that of the curve fitted to the runs before it.

    Args:
        curves: first the KL [T] of all runs, then their log quantiles.
    """
    half = len(curves) // 2
    (*kls, kl), (*heights, height) = curves[:half], curves[half:]
    x, y = np.concatenate(kls), np.concatenate(heights)
    fitted, _ = leastsq(lambda by: best_of_n_curve(x, *by) - y, (0.0, 1.0), diag=(1, 1))
    return float(height[-1] - best_of_n_curve(kl[-1], *fitted))


FIXED_N = tuple(f"N = {n}" for n in SIZES)
ALL = (*FIXED_N, SMALL, LARGE)
EXPERIMENT = Experiment(
    "xsum_iterative",
    "Iterative BOND with a moving anchor on XSum",
    "03_iterative_bond",
    specs,
    runs=RUNS,
    claims=(
        Claim(
            "C5",
            "With a fixed N the log quantile saturates, earlier for smaller N.",
            "section 6, Fig. 4 left and middle",
            [
                Term(f"share of the steps until {GAINED} of its gain, N = 4", ("N = 4",),
                     partial(_time, "N = 4"), below=SATURATED),
                Term(f"share of the steps until {GAINED} of its gain, N = 16 minus N = 4",
                     ("N = 16", "N = 4"), lambda t: _time("N = 16", t) - _time("N = 4", t),
                     above=0),
            ],
            "Of the rising curve nearest to the evaluations; steady growth to the end takes 0.9 of "
            "the steps.",
            short="a fixed N saturates",
        ),
        Claim(
            "C6",
            "Iterative BOND goes on improving, faster for larger n.",
            "section 6, Fig. 4 left and middle",
            [
                _late("iterative n = 2 minus N = 4", SMALL, "N = 4"),
                _late("iterative n = 4 minus N = 4", LARGE, "N = 4"),
                lead("log quantile, n = 4 minus n = 2", LARGE, SMALL, "log_quantile", above=0),
            ],
            "A late gain is the rise over the second half of the evaluations, log quantiles are "
            "after the last step. Of runs that all draw new samples at every step.",
            short="iterating goes on improving",
        ),
        Claim(
            "C7",
            "All runs lie on essentially the same trade-off between log quantile and KL.",
            "section 6, Fig. 4 right",
            [_off_the_curve(series) for series in ALL],
            "In nats, after the last step; the common curve of a run has the shape of Best-of-N's, "
            "-h/N at s times the KL of Best-of-N, fitted (h and s) to the other runs' evaluations.",
            short="all runs share one trade-off",
        ),
        Claim(
            "ours-7",
            "Iterative BOND buys more than cooling the reference does, at equal KL.",
            "ours; sampling at a lower temperature needs no training",
            [
                Term(f"log quantile, {series} above {COOLED} (nats)", (series, COOLED),
                     partial(area, series=series, other=COOLED, column="log_quantile"), above=0)
                for series in (SMALL, LARGE)
            ],
            "Mean height between curves against the root of the KL, over the KL both reach.",
            short="iterating beats cooling the reference",
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
            "series": name, "log quantile (nats)": cell(part, "log_quantile"),
            "effective N": text(n["mean"], n["low"], n["high"]),
            "KL to reference (nats)": cell(part, DISTANCE.name),
            "KL of that Best-of-N (nats)": report.kl_of(n["mean"]) if n["mean"] > 0 else math.inf,
        })  # fmt: skip
    return pd.DataFrame(lines)
