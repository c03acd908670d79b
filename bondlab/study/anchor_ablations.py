"""Anchors that move at different speeds, and more KL to them (Figures 5 and 6): runs and claims."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from bondlab.algorithms import j_bond, reinforce
from bondlab.anchors import FROZEN, MovingAverage, Periodic
from bondlab.report.intervals import grid
from bondlab.study.alignment import (
    AREA,
    ETAS,
    J_BOND,
    J_BOND_ON_NOISE,
    RUNS,
    SAME,
    STRIDES,
    Runs,
    above,
    fall,
    moving,
    on_noise,
    rate,
    specs,
    trend,
)
from bondlab.study.cells import at
from bondlab.study.claims import Claim, Term
from bondlab.study.experiment import Experiment
from bondlab.study.frontier import KL, spread
from bondlab.study.j_bond_claims import RANK, RANK_MOVING, RAW, RAW_MOVING, REINFORCE

MOVING, COPY = "moving average, eta = 0.02", "copy every 50 steps"
FAST = 0.05  # eta of section 6, Fig. 6 middle and right
GAMMAS = {f"eta = {FAST}" + f", gamma = {g:g}" * (g > 0): g for g in (0.0, 0.5, 1.0, 2.0)}
# J-BOND taken apart: frozen or moving anchor, raw reward or r_J (eq. 17), which goes by ranks, with
# or without the forward half. J-BOND itself is `MOVING`. beta = 1 leaves its backward half alone,
# REINFORCE on r_J. A raw reward with a forward half has no run: r_J fixes how the halves weigh, a
# raw reward would need one setting more.
FROZEN_J_BOND = "J-BOND, frozen anchor"
FACTORS = (MOVING, FROZEN_J_BOND, RANK_MOVING, RANK, RAW_MOVING, RAW)
MARKED = 0.75  # of the copies' KL: a markedly lower one is below


def runs(profile: str) -> Runs:
    """J-BOND with anchors that move at different speeds, and with more KL to a fast one.

    Beside it, but not at profile laptop, whose runs are to take minutes, its parts and its noise.
    """
    period = max(1, round(50 / STRIDES[profile]))
    own = moving(profile, 0.02)  # section 6, Fig. 5
    labels = {"gamma": 0.0, "every": period, "tuned": J_BOND}
    speeds = {
        **{name: moving(profile, eta) for name, eta in ETAS.items()},
        **{name: moving(profile, FAST, gamma) for name, gamma in GAMMAS.items()},
    }
    found = {MOVING: own, COPY: (j_bond(anchor=Periodic(period)), labels)}
    if profile == "laptop":
        return found | speeds
    return found | _parts(profile) | speeds | {J_BOND_ON_NOISE: on_noise(own)}


def _parts(profile: str) -> Runs:
    """What `FACTORS` has besides J-BOND. All draw the anchor's completions anew, as it must."""
    anchor, beta_rl = MovingAverage(rate(profile, 0.02)), REINFORCE[RAW]
    ours = {"gamma": 0.0, "tuned": J_BOND, "fresh": True}
    raw = {"beta_rl": beta_rl, "tuned": RAW}
    moves = {"eta": 0.02, "rate": anchor.rate}
    return {
        RAW_MOVING: (reinforce(beta_rl, anchor=anchor), raw | moves),
        RANK_MOVING: (j_bond(beta=1, anchor=anchor), ours | moves),
        RANK: (j_bond(beta=1, anchor=FROZEN), ours),
        FROZEN_J_BOND: (j_bond(anchor=FROZEN), ours),
        RAW: (reinforce(beta_rl), raw),
    }


def _reward(table: pd.DataFrame, series: str) -> np.ndarray:
    """Mean reward over the evaluations after the start, [S, B] in spreads."""
    own = table[(table["series"] == series) & (table["step"] > 0)]
    return grid(own, "reward") / spread(table)


def _apart(table: pd.DataFrame) -> np.ndarray:
    return _reward(table, MOVING) - _reward(table, COPY)


def _nearer(table: pd.DataFrame) -> np.ndarray:
    return MARKED * at(table, COPY, KL) - at(table, MOVING, KL)


def _per_doubling(table: pd.DataFrame) -> np.ndarray:
    return trend(np.log2([*ETAS.values()]), [_reward(table, series) for series in ETAS])


EQUAL = Term("reward, moving average - copies (spreads)", (MOVING, COPY), _apart, -SAME, SAME)
EXPERIMENT = Experiment(
    "anchor_ablations",
    "Anchors that move at different speeds, and more KL to them",
    "06_anchor_ablations",
    partial(specs, runs, "google/gemma-2b"),
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
            "At that reward its KL to the reference is markedly lower.",
            "section 6, Fig. 5 middle",
            [EQUAL, Term(f"KL, {MARKED} of the copies' - moving average's (nats)", (MOVING, COPY),
                         _nearer, above=0)],
            "Reward as in C9a, KL after the last step: a slower anchor alone would do for the KL.",
            short="moving average stays nearer the reference",
        ),
        Claim(
            "C9c",
            "So its trade-off is better.",
            "section 6, Fig. 5 right",
            above(MOVING, [COPY]),
            AREA,
            short="moving average: better trade-off",
        ),
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
