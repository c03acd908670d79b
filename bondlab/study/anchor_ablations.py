"""A moving average as anchor, or copies of the policy (Figure 5): runs and claims."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from bondlab.algorithms import j_bond
from bondlab.anchors import Periodic
from bondlab.report.intervals import grid
from bondlab.study.alignment import (
    AREA,
    J_BOND,
    J_BOND_ON_NOISE,
    RUNS,
    SAME,
    STRIDES,
    Runs,
    above,
    moving,
    on_noise,
    specs,
)
from bondlab.study.cells import at
from bondlab.study.claims import Claim, Term
from bondlab.study.experiment import Experiment
from bondlab.study.frontier import KL, unit

COPY = "copy every 50 steps"
MARKED = 0.75  # of the copies' KL: a markedly lower one is below


def runs(profile: str) -> Runs:
    """J-BOND with either anchor, and on noise."""
    period = max(1, round(50 / STRIDES[profile]))
    own = moving(profile)
    copied = {"gamma": 0.0, "every": period, "tuned": J_BOND}
    copies = j_bond(anchor=Periodic(period)), copied
    return {J_BOND: own, COPY: copies, J_BOND_ON_NOISE: on_noise(own)}


def over_training(table: pd.DataFrame, series: str, column: str = "reward") -> np.ndarray:
    """Mean of a measure over the evaluations after the start, [S, B]; the reward in spreads."""
    own = table[(table["series"] == series) & (table["step"] > 0)]
    return grid(own, column) / unit(table, column)


EQUAL = Term("reward, moving average minus copies (spreads)", (J_BOND, COPY),
             lambda table: over_training(table, J_BOND) - over_training(table, COPY),
             -SAME, SAME)  # fmt: skip
EXPERIMENT = Experiment(
    "anchor_ablations",
    "A moving average as anchor, or copies of the policy",
    "06_anchor_ablations",
    partial(specs, runs, "google/gemma-7b"),
    runs=RUNS,
    claims=(
        Claim(
            "C9a",
            "A moving average earns the same reward over training as periodic copies.",
            "section 6, Fig. 5 left",
            [EQUAL],
            "Mean over the evaluations after the start.",
            short="moving average earns as copies do",
        ),
        Claim(
            "C9b",
            "At the same reward a moving average's KL to the reference is markedly lower.",
            "section 6, Fig. 5 middle",
            [EQUAL, Term(f"{MARKED} times the copies' KL minus the moving average's (nats)",
                         (J_BOND, COPY),
                         lambda table: MARKED * at(table, COPY, KL) - at(table, J_BOND, KL),
                         above=0)],
            "Reward as in C9a, KL after the last step: a slower anchor alone would do for the KL.",
            short="moving average stays nearer the reference",
        ),
        Claim(
            "C9c",
            "So a moving average's trade-off is better than that of copies.",
            "section 6, Fig. 5 right",
            above(J_BOND, [COPY]),
            AREA,
            short="moving average: better trade-off",
        ),
    ),
)  # fmt: skip
