"""J-BOND against REINFORCE (Figure 7), and against other baselines: the runs."""

from __future__ import annotations

from functools import partial

from bondlab.algorithms import bonbon, online_dpo, raft, reinforce, vbon, warp
from bondlab.study.alignment import RUNS, Runs, moving, rate, specs
from bondlab.study.experiment import Experiment
from bondlab.study.j_bond_claims import CLAIMS, J_BOND, REINFORCE

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
    found = {
        J_BOND: own,
        **{name: (reinforce(b), {"beta_rl": b}) for name, b in REINFORCE.items()},
    }
    others = (
        (raft(RAFT_N, anchor=own[0].anchor), {"rate": own[0].anchor.rate}),
        (vbon(BEST_OF), {}),
        (online_dpo(DPO_BETA), {}),
        (bonbon(BEST_OF), {}),
        (warp(WARP_BETA, slow), {"rate": slow}),
    )
    return found if profile == "laptop" else found | dict(zip(OTHERS, others, strict=True))


EXPERIMENT = Experiment(
    "j_bond",
    "J-BOND against REINFORCE, and other baselines",
    "07_jbond_against_reinforce",
    partial(specs, runs, "google/gemma-7b"),
    runs=RUNS,
    claims=CLAIMS,
    beside="anchor_ablations",
)
