"""J-BOND against REINFORCE (Figure 7): runs and claims."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from bondlab.algorithms import reinforce
from bondlab.report.intervals import influence
from bondlab.study.alignment import (
    AREA,
    ETAS,
    J_BOND,
    J_BOND_ON_NOISE,
    RUNS,
    SAME,
    Runs,
    above,
    fall,
    first_steps,
    moving,
    on_noise,
    specs,
)
from bondlab.study.cells import at, halves
from bondlab.study.claims import Claim, Term
from bondlab.study.experiment import Experiment
from bondlab.study.frontier import KL, unit
from bondlab.study.report import best_name

REINFORCE = {f"REINFORCE, beta_RL = {b:g}": b for b in (0.001, 0.01, 0.1, 1.0)}  # section 6, Fig. 7
# REINFORCE on the reward itself or on r_J, to the reference or to a moving average.
RAW, RAW_MOVING = "REINFORCE, beta_RL = 0.1", "REINFORCE, moving anchor"
STRONG = "REINFORCE, beta_RL = 1"  # held to the reference as strongly as any
RANK, RANK_MOVING = "rank REINFORCE", "rank REINFORCE, moving anchor"
BETAS, RATES = ({k: np.log10(v) for k, v in each.items()} for each in (REINFORCE, ETAS))  # tenfold
SEEN = 0.75  # of the reward's gain that the judge is to see, both in gains of Best-of-4
REWARD, BEST = "reward", (best_name(1), best_name(4))
SMALL = "REINFORCE, beta_RL = 0.01"  # it and `RAW` have learning rates of their own
FIGURE_7 = (J_BOND, *REINFORCE)
# Ours: what training on nothing makes of the KL.
NOISE = (J_BOND_ON_NOISE, "REINFORCE, noise reward")


def figure_7(profile: str) -> Runs:
    """J-BOND with eta 0.02 (gamma is not stated: 0), and REINFORCE for each beta_RL."""
    found = {J_BOND: moving(profile)}
    for name, beta in REINFORCE.items():
        tuned = SMALL if beta <= REINFORCE[SMALL] else RAW
        found[name] = reinforce(beta), {"beta_rl": beta, "tuned": tuned}
    return found


def runs(profile: str) -> Runs:
    """Those of the figure and, but not at profile laptop, whose runs are to take minutes, those on
    noise and the first steps of REINFORCE's."""
    found = figure_7(profile)
    if profile == "laptop":
        return found
    real = found[J_BOND], found[RAW]
    first = first_steps(profile, {name: found[name] for name in REINFORCE})
    return found | dict(zip(NOISE, map(on_noise, real), strict=True)) | first


# -- claims ----------------------------------------------------------------------------------------


def _with_eta(column: str, table: pd.DataFrame) -> np.ndarray:
    """Rise of a measure after the last step per tenfold eta, [S, B]; the reward in spreads."""
    return -fall(RATES, column, table)


def _beta_less_eta(column: str, table: pd.DataFrame) -> np.ndarray:
    return fall(BETAS, column, table) - _with_eta(column, table)


def _half(which: int, column: str, table: pd.DataFrame) -> np.ndarray:
    return halves(table, J_BOND, column)[which] / unit(table, column)


def seen(series: str, table: pd.DataFrame) -> np.ndarray:
    """A policy's gain under the judge over its gain of reward, in those of Best-of-4, [S, B]."""
    values = [at(table, name, column) for column in ("judge", REWARD) for name in (series, *BEST)]
    values = [np.broadcast_to(each, values[0].shape) for each in values]

    def share(own, start, best, reward, first, last) -> float:
        return (own - start) / (best - start) / ((reward - first) / (last - first))

    return influence(share, *values)


SETTINGS = (*REINFORCE, *ETAS)
CLAIMS = (
    Claim(
        "C14a",
        "REINFORCE depends strongly on beta_RL: a larger one ends with less reward and KL.",
        "section 6, Fig. 7 left and middle",
        [
            Term("fall of reward per tenfold beta_RL (spreads)", (*REINFORCE,),
                 partial(fall, BETAS, REWARD), above=SAME),
            Term("fall of KL per tenfold beta_RL (nats)", (*REINFORCE,),
                 partial(fall, BETAS, KL), above=0),
            Term("rise of J-BOND's reward per tenfold eta (spreads)", (*ETAS,),
                 partial(_with_eta, REWARD)),
            Term("rise of J-BOND's KL per tenfold eta (nats)", (*ETAS,), partial(_with_eta, KL)),
        ],
        "Least squares after the last step.",
        short="REINFORCE depends on beta_RL",
    ),
    Claim(
        "C14b",
        "J-BOND improves continuously, without a choice like beta_RL: time sets its KL.",
        "section 6, Fig. 7 left",
        [
            Term("reward, rise in the first half (spreads)", (J_BOND,), partial(_half, 0, REWARD),
                 above=0),
            Term("reward, rise in the second half (spreads)", (J_BOND,), partial(_half, 1, REWARD),
                 above=0),
            Term("KL, rise in the second half (nats)", (J_BOND,), partial(_half, 1, KL), above=0),
            Term("reward, fall per tenfold beta_RL minus rise per tenfold eta (spreads)", SETTINGS,
                 partial(_beta_less_eta, REWARD), above=0),
            Term("KL, fall per tenfold beta_RL minus rise per tenfold eta (nats)", SETTINGS,
                 partial(_beta_less_eta, KL), above=0),
        ],
        "Eta is the choice that J-BOND has in beta_RL's place: it is to matter less. (The "
        "paper does not compare the two: this is our test of \"without a choice\".)",
        short="J-BOND needs no choice like beta_RL",
    ),
    Claim(
        "C12",
        "J-BOND's curve of reward against KL lies above every REINFORCE run's.",
        "section 6, Fig. 7 right",
        above(J_BOND, REINFORCE),
        AREA,
        short="J-BOND's frontier is above REINFORCE's",
    ),
)  # fmt: skip
EXPERIMENT = Experiment(
    "j_bond",
    "J-BOND against REINFORCE",
    "07_jbond_against_reinforce",
    partial(specs, runs, "google/gemma-7b"),
    runs=RUNS,
    claims=CLAIMS,
    beside="anchor_speeds",
)
