"""How fast an anchor moves, and more KL to a fast one (Figure 6): runs and claims."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from bondlab.study.alignment import (
    AREA,
    ETAS,
    J_BOND_ON_NOISE,
    RUNS,
    Runs,
    above,
    fall,
    moving,
    on_noise,
    specs,
    trend,
)
from bondlab.study.anchor_ablations import over_training
from bondlab.study.claims import Claim, Term
from bondlab.study.experiment import Experiment
from bondlab.study.frontier import KL

FAST = 0.05  # eta of section 6, Fig. 6 middle and right
GAMMAS = {f"eta = {FAST}" + f", gamma = {g:g}" * (g > 0): g for g in (0.0, 0.5, 1.0, 2.0)}


def runs(profile: str) -> Runs:
    """J-BOND with anchors of several speeds, and with more KL to a fast one; and, but not at
    profile laptop, whose runs are to take minutes, its run on noise."""
    found = {
        **{name: moving(profile, eta) for name, eta in ETAS.items()},
        **{name: moving(profile, FAST, gamma) for name, gamma in GAMMAS.items()},
    }
    if profile == "laptop":
        return found
    return found | {J_BOND_ON_NOISE: on_noise(moving(profile))}


def _per_doubling(table: pd.DataFrame) -> np.ndarray:
    return trend(np.log2([*ETAS.values()]), [over_training(table, series) for series in ETAS])


EXPERIMENT = Experiment(
    "anchor_speeds",
    "How fast an anchor moves, and more KL to it",
    "06b_anchor_speeds",
    partial(specs, runs, "google/gemma-2b"),
    runs=RUNS,
    claims=(
        Claim(
            "C10",
            "A larger eta gives faster reward growth.",
            "section 6, Fig. 6 left",
            [Term("reward per doubling of eta (spreads)", (*ETAS,), _per_doubling, above=0)],
            "Least squares of the mean over the evaluations after the start.",
            short="larger eta, faster growth",
        ),
        Claim(
            "C11a",
            "A larger gamma moves away from the reference more slowly.",
            "section 6, Fig. 6 middle",
            [Term("fall of KL per unit of gamma (nats)", (*GAMMAS,), partial(fall, GAMMAS, KL),
                  above=0)],
            "Least squares after the last step.",
            short="larger gamma, slower drift",
        ),
        Claim(
            "C11b",
            "A larger gamma improves the trade-off.",
            "section 6, Fig. 6 right",
            [term for series in list(GAMMAS)[2:] for term in above(series, list(GAMMAS)[:1])],
            AREA,
            short="larger gamma, better trade-off",
        ),
    ),
)  # fmt: skip
