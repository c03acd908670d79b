"""J-BOND against REINFORCE (Figure 7), and against other baselines: the runs."""

from __future__ import annotations

from functools import partial

from bondlab.algorithms import bonbon, online_dpo, raft, reinforce, vbon, warp
from bondlab.study.alignment import (
    J_BOND,
    J_BOND_ON_NOISE,
    RUNS,
    Runs,
    moving,
    on_noise,
    rate,
    specs,
)
from bondlab.study.experiment import Experiment
from bondlab.study.j_bond_claims import CLAIMS, RAW, REINFORCE, RLOO

SMALL = "REINFORCE, beta_RL = 0.01"  # it and `RAW` have learning rates of their own
# Ours: what training on nothing makes of the KL.
NOISE = (J_BOND_ON_NOISE, "REINFORCE, noise reward")
OTHERS = ("RAFT", "vBoN", "online DPO", "BoNBoN", "WARP, first stage")
# Not stated; chosen: the best of as many completions as J-BOND samples (RAFT), the sizes and shares
# of the methods' own papers (vBoN and BoNBoN at Best-of-8; WARP's rate and strength of the KL), and
# DPO's usual strength of the KL.
RAFT_N, BEST_OF, WARP_RATE, WARP_BETA, DPO_BETA = 3, 8, 0.01, 0.1, 0.1


def runs(profile: str) -> Runs:
    """J-BOND with eta 0.02 (gamma is not stated: 0), REINFORCE for each beta_RL, and the others.

    Not the others at profile laptop, whose runs are to take minutes.
    """
    own, slow = moving(profile, 0.02), rate(profile, WARP_RATE)
    found = {J_BOND: own}
    for name, beta in REINFORCE.items():
        tuned = SMALL if beta <= REINFORCE[SMALL] else RAW
        found[name] = reinforce(beta), {"beta_rl": beta, "tuned": tuned}
    if profile == "laptop":
        return found
    found |= dict(zip(NOISE, map(on_noise, (own, found[RAW])), strict=True))
    found[RLOO] = reinforce(REINFORCE[RAW], policy_draws=3), {"beta_rl": REINFORCE[RAW]}
    others = (
        (raft(RAFT_N, anchor=own[0].anchor), {"rate": own[0].anchor.rate}),
        (vbon(BEST_OF), {}),
        (online_dpo(DPO_BETA), {}),
        (bonbon(BEST_OF), {}),
        (warp(WARP_BETA, slow), {"rate": slow}),
    )
    return found | dict(zip(OTHERS, others, strict=True))


EXPERIMENT = Experiment(
    "j_bond",
    "J-BOND against REINFORCE, and other baselines",
    "07_jbond_against_reinforce",
    partial(specs, runs, "google/gemma-7b"),
    runs=RUNS,
    claims=CLAIMS,
    beside="anchor_ablations",
)
