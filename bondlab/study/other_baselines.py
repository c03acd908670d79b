"""J-BOND beside other baselines, which the paper does not show: the runs, and our claim on them."""

from __future__ import annotations

from functools import partial

from bondlab.algorithms import bonbon, online_dpo, raft, reinforce, vbon, warp
from bondlab.study.alignment import AREA, J_BOND, RUNS, Runs, above, moving, rate, specs
from bondlab.study.claims import Claim
from bondlab.study.experiment import Experiment
from bondlab.study.j_bond_claims import RAW, REINFORCE

RLOO = "RLOO, K = 3"  # as many completions as J-BOND samples
OTHERS = (RLOO, "RAFT", "vBoN", "online DPO", "BoNBoN", "WARP, first stage")
# Not stated; chosen: the best of as many completions as J-BOND samples (RAFT), the sizes and shares
# of the methods' own papers (vBoN and BoNBoN at Best-of-8; WARP's rate and strength of the KL), and
# DPO's usual strength of the KL.
RAFT_N, BEST_OF, WARP_RATE, WARP_BETA, DPO_BETA = 3, 8, 0.01, 0.1, 0.1


def runs(profile: str) -> Runs:
    """J-BOND as in Figure 7 and, but not at profile laptop, whose runs are to take minutes, the
    others."""
    own, slow = moving(profile, 0.02), rate(profile, WARP_RATE)
    if profile == "laptop":
        return {J_BOND: own}
    others = (
        (reinforce(REINFORCE[RAW], policy_draws=3), {"beta_rl": REINFORCE[RAW]}),
        (raft(RAFT_N, anchor=own[0].anchor), {"rate": own[0].anchor.rate}),
        (vbon(BEST_OF), {}),
        (online_dpo(DPO_BETA), {}),
        (bonbon(BEST_OF), {}),
        (warp(WARP_BETA, slow), {"rate": slow}),
    )
    return {J_BOND: own} | dict(zip(OTHERS, others, strict=True))


EXPERIMENT = Experiment(
    "other_baselines",
    "J-BOND beside other baselines",
    "07b_other_baselines",
    partial(specs, runs, "google/gemma-7b"),
    runs=RUNS,
    claims=(
        Claim(
            "ours-6",
            "J-BOND's curve of reward against KL lies above that of RLOO with as many draws.",
            "ours; the paper's REINFORCE draws two where J-BOND draws three",
            above(J_BOND, [RLOO]),
            AREA,
            short="J-BOND beats RLOO with equal samples",
        ),
    ),
)
