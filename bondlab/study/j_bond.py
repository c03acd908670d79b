"""J-BOND against REINFORCE (Figure 7), and against other baselines: runs and claims."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from bondlab.algorithms import bonbon, online_dpo, raft, reinforce, vbon, warp
from bondlab.report.intervals import Interval
from bondlab.study import frontier
from bondlab.study.alignment import (
    AREA,
    J_BOND,
    J_BOND_ON_NOISE,
    RUNS,
    Runs,
    above,
    fall,
    moving,
    on_noise,
    rate,
    specs,
)
from bondlab.study.claims import Claim, Term, at, halves
from bondlab.study.experiment import Experiment
from bondlab.study.frontier import KL, spread

REINFORCE = {f"REINFORCE, beta_RL = {b:g}": b for b in (0.001, 0.01, 0.1, 1.0)}  # section 6, Fig. 7
SMALL, MIDDLE = list(REINFORCE)[1:3]  # which learning rates are chosen for
# Ours. What training on nothing makes of the KL, and REINFORCE with as many draws as J-BOND takes.
NOISE, RLOO = (J_BOND_ON_NOISE, "REINFORCE, noise reward"), "RLOO, K = 3"
OTHERS = ("RAFT", "vBoN", "online DPO", "BoNBoN", "WARP, first stage")
# Not stated; chosen: the best of as many completions as J-BOND samples (RAFT), the sizes and shares
# of the methods' own papers (vBoN and BoNBoN at Best-of-8; WARP's rate and strength of the KL), and
# DPO's usual strength of the KL.
RAFT_N, BEST_OF, WARP_RATE, WARP_BETA, DPO_BETA = 3, 8, 0.01, 0.1, 0.1
STRAIGHT = 0.5  # share of its mean by which a slope may change from one half to the other
TENFOLD = {name: np.log10(beta) for name, beta in REINFORCE.items()}


def runs(profile: str) -> Runs:
    """J-BOND with eta 0.02 (gamma is not stated: 0), REINFORCE for each beta_RL, and the others.

    Not the others at profile laptop, whose runs are to take minutes.
    """
    own, slow = moving(profile, 0.02), rate(profile, WARP_RATE)
    found = {J_BOND: own}
    for name, beta in REINFORCE.items():
        tuned = SMALL if beta <= REINFORCE[SMALL] else MIDDLE
        found[name] = reinforce(beta), {"beta_rl": beta, "tuned": tuned}
    if profile == "laptop":
        return found
    found |= dict(zip(NOISE, map(on_noise, (own, found[MIDDLE])), strict=True))
    beta = REINFORCE[MIDDLE]
    found[RLOO] = reinforce(beta, policy_draws=3), {"beta_rl": beta}
    others = (
        (raft(RAFT_N, anchor=own[0].anchor), {"rate": own[0].anchor.rate}),
        (vbon(BEST_OF), {}),
        (online_dpo(DPO_BETA), {}),
        (bonbon(BEST_OF), {}),
        (warp(WARP_BETA, slow), {"rate": slow}),
    )
    return found | dict(zip(OTHERS, others, strict=True))


def _reward_falls(table: pd.DataFrame) -> np.ndarray:
    return fall(TENFOLD, "reward", table) / spread(table)


def _half(which: int, table: pd.DataFrame) -> np.ndarray:
    return halves(table, J_BOND, "reward")[which] / spread(table)


def _growth(name: str, table: pd.DataFrame) -> Interval:
    return frontier.growth(table, J_BOND)[0][name]


def _wins(table: pd.DataFrame) -> np.ndarray:
    return at(table, J_BOND, "win_over_1") - 0.5


EXPERIMENT = Experiment(
    "j_bond",
    "J-BOND against REINFORCE, and other baselines",
    "07_jbond_against_reinforce",
    partial(specs, runs, "google/gemma-7b"),
    runs=RUNS,
    claims=(
        Claim(
            "REINFORCE depends strongly on beta_RL: a larger one ends with less reward and KL.",
            "section 6, Fig. 7 left and middle",
            [
                Term("fall of reward per tenfold beta_RL (spreads)", _reward_falls, above=0),
                Term("fall of KL per tenfold beta_RL (nats)", partial(fall, TENFOLD, KL), above=0),
            ],
            "Least squares after the last step.",
        ),
        Claim(
            "J-BOND improves continuously, without such a choice.",
            "section 6, Fig. 7 left",
            [
                Term("reward, rise in the first half (spreads)", partial(_half, 0), above=0),
                Term("reward, rise in the second half (spreads)", partial(_half, 1), above=0),
            ],
        ),
        Claim(
            "Its KL grows steadily, about linearly in the steps.",
            "section 6, Fig. 7 middle",
            [
                Term("KL, slope (nats a step)", partial(_growth, "slope"), above=0),
                Term("KL, R^2 of the line", partial(_growth, "r_squared")),
                Term("KL, bend", partial(_growth, "bend"), -STRAIGHT, STRAIGHT),
            ],
            "Over the evaluations after the warm-up; the bend is the slope's change from the first "
            "half to the second, as a share of its mean.",
        ),
        Claim(
            "Its curve of reward against KL lies above every REINFORCE run's.",
            "section 6, Fig. 7 right",
            above(J_BOND, REINFORCE),
            f"{AREA} (The first run was judged with curves straight in the KL itself, which favour "
            "the run with more points near the reference.)",
        ),
        Claim(
            "What J-BOND gains a second judge sees too.",
            "ours; the paper's abstract claims better results beyond the trained reward",
            [Term("win rate over the reference - 1/2", _wins, above=0)],
            "After the last step: how often the judge that no training sees prefers J-BOND's "
            "completion to one of the reference's, ties half.",
        ),
    ),
)
