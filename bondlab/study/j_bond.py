"""J-BOND against REINFORCE (Figure 7): the runs."""

from __future__ import annotations

from functools import partial

from bondlab.algorithms import reinforce
from bondlab.study.alignment import (
    J_BOND,
    J_BOND_ON_NOISE,
    RUNS,
    Runs,
    first_steps,
    moving,
    on_noise,
    specs,
)
from bondlab.study.experiment import Experiment
from bondlab.study.j_bond_claims import CLAIMS, RAW, REINFORCE

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


EXPERIMENT = Experiment(
    "j_bond",
    "J-BOND against REINFORCE",
    "07_jbond_against_reinforce",
    partial(specs, runs, "google/gemma-7b"),
    runs=RUNS,
    claims=CLAIMS,
    beside="anchor_speeds",
)
