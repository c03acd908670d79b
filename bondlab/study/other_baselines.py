"""J-BOND beside other baselines, which the paper does not show, and taken apart: runs, claims."""

from __future__ import annotations

from functools import partial

from bondlab.algorithms import bonbon, j_bond, online_dpo, raft, reinforce, vbon, warp
from bondlab.anchors import FROZEN
from bondlab.study.alignment import AREA, ETA, J_BOND, RUNS, Runs, above, moving, rate, specs
from bondlab.study.claims import Claim
from bondlab.study.controls import raw_moving
from bondlab.study.experiment import Experiment
from bondlab.study.j_bond import RANK, RANK_MOVING, RAW, RAW_MOVING, REINFORCE, figure_7

RLOO = "RLOO, K = 3"  # as many completions as J-BOND samples
OTHERS = (RLOO, "RAFT", "vBoN", "online DPO", "BoNBoN", "WARP, first stage")
# Not stated; chosen: the best of as many completions as J-BOND samples (RAFT), the sizes and shares
# of the methods' own papers (vBoN and BoNBoN at Best-of-8; WARP's rate and strength of the KL), and
# DPO's usual strength of the KL.
RAFT_N, BEST_OF, WARP_RATE, WARP_BETA, DPO_BETA = 3, 8, 0.01, 0.1, 0.1
# J-BOND taken apart: frozen or moving anchor, raw reward or r_J (eq. 17), which goes by ranks, with
# or without the forward half. beta = 1 leaves its backward half alone, REINFORCE on r_J. A raw
# reward with a forward half has no run: r_J fixes how the halves weigh, a raw reward would need one
# setting more.
FROZEN_J_BOND = "J-BOND, frozen anchor"
FACTORS = (J_BOND, FROZEN_J_BOND, RANK_MOVING, RANK, RAW_MOVING, RAW)


def runs(profile: str) -> Runs:
    """J-BOND as in Figure 7 and, but not at profile laptop, whose runs are to take minutes, the
    others, and its parts."""
    own, slow = moving(profile), rate(profile, WARP_RATE)
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
    return {J_BOND: own} | dict(zip(OTHERS, others, strict=True)) | _parts(profile)


def _parts(profile: str) -> Runs:
    """What `FACTORS` has besides J-BOND. All draw the anchor's completions anew, as it must."""
    anchor = moving(profile)[0].anchor
    ours = {"gamma": 0.0, "tuned": J_BOND, "fresh": True}
    return {
        FROZEN_J_BOND: (j_bond(anchor=FROZEN), ours),
        RANK_MOVING: (j_bond(beta=1, anchor=anchor), ours | {"eta": ETA, "rate": anchor.rate}),
        RANK: (j_bond(beta=1, anchor=FROZEN), ours),
        RAW_MOVING: raw_moving(profile),
        RAW: figure_7(profile)[RAW],
    }


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
        Claim(
            "C15",
            "A reward that is only a rank is exploited less: at equal KL the second judge is "
            "higher.",
            "section 4.1, a conjecture without an experiment",
            [*above(RANK, [RAW], "judge"), *above(RANK_MOVING, [RAW_MOVING], "judge")],
            f"The pairs differ in the reward alone. {AREA.replace('reward', 'the judge')}",
            short="a rank reward is exploited less",
        ),
    ),
)
