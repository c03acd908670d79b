"""The runs of Figures 5, 6 and 7 on causal models as data.

Sections and figures are those of arXiv 2407.14622. The paper aligns Gemma 2B and 7B on private
prompts and a private reward; here a small causal model continues movie reviews (the task sentiment)
or answers in a dialogue (chat). What counts as reproduced stands in `alignment_claims`.
"""

from __future__ import annotations

from collections.abc import Sequence

from bondlab.algorithms import (
    Algorithm,
    bonbon,
    j_bond,
    online_dpo,
    raft,
    reinforce,
    vbon,
    warp,
)
from bondlab.anchors import MovingAverage, Periodic
from bondlab.config import Config
from bondlab.study import alignment_decisions as decisions
from bondlab.study.sweep import Spec
from bondlab.tasks import TaskSettings

RUNS = "alignment"  # all tasks and both experiments share what they have in common
ANCHOR_FIGURES = {"fig05_anchor": "5", "fig05_tradeoff": "5"}
ANCHOR_FIGURES |= {"fig06_eta": "6", "fig06_gamma": "6", "fig06_tradeoff": "6"}
J_BOND_FIGURES = {"fig07_training": "7", "fig07_tradeoff": "7"}
J_BOND_FIGURES |= {"kl_growth": None, "other_baselines": None, "other_tradeoff": None}
J_BOND_FIGURES |= {"benchmarks": None}

# -- scales ----------------------------------------------------------------------------------------

SMOKE = Config(
    steps=4, prompts_per_step=4, evaluate_every=1, warmup=1, learning_rate=1e-2, precision="fp32"
)
# So small that all of a laptop's runs take minutes: a step has four or five processor seconds.
# Learning rate: J-BOND at 1e-3, 2e-3 and 3e-3, judged on 16 training prompts, ended 0.03, 0.87 and
# 1.60 nats from the reference, its reward up by 0.12, 0.08 and -0.04, which is within error. At the
# first there is nothing to see, and the last goes far for nothing.
LAPTOP = Config(
    steps=9, prompts_per_step=6, evaluate_every=3, warmup=3, learning_rate=2e-3,
    bank_samples=8, evaluation_samples=3, evaluation_bank=8,
)  # fmt: skip
# bank_samples: vBoN counts quantiles in 16 of the reference's (section 4.2), others need fewer.
# Learning rate: of 1e-3 and 3e-3 (J-BOND, 24 steps, judged on training prompts) the smaller hardly
# moved the log quantile (by 0.05, the larger by 0.15 nats), twice as many steps take one between.
STUDY = Config(
    steps=48, prompts_per_step=8, evaluate_every=12, warmup=8, learning_rate=2e-3,
    bank_samples=16, evaluation_bank=16,
)  # fmt: skip
# Batch, learning rate and warm-up are the paper's (section 6); the number of steps is not stated:
# as many as on XSum. Neither is the distance between evaluations: 20 points on each curve.
PAPER = Config(
    steps=5000, prompts_per_step=128, evaluate_every=250, warmup=100, learning_rate=3e-6,
    lora_rank=None, fresh=True, checkpoint_every=100, micro_batch=4,
)  # fmt: skip
CONFIGS = {"smoke": SMOKE, "laptop": LAPTOP, "study": STUDY, "paper": PAPER}

# Training prompts, held-out prompts and completion tokens; None is the task's own length.
SIZES = {"smoke": (8, 4, None), "laptop": (32, 16, 16), "study": (256, 40, None)}
SIZES["paper"] = (16_000, 128, 128)  # as many as the dialogues have, to the next thousand
# The paper's references are private fine-tuned checkpoints; the public base models stand in, since
# the public instruction models of the family have been through alignment already.
GEMMA = {"anchor_ablations": "google/gemma-2b", "j_bond": "google/gemma-7b"}

# How far an anchor goes: a step here stands for so many of the paper's, so a rate eta becomes
# 1 - (1 - eta)^stride and a copy comes every 50 / stride steps. Not stated how many steps the
# paper's runs have; the strides were chosen so that four copies or more fit into ours (smoke: two).
STRIDES = {"smoke": 25, "laptop": 25, "study": 8, "paper": 1}


def rate(profile: str, eta: float) -> float:
    """The moving average's rate a step at this profile for the paper's eta."""
    return round(1 - (1 - eta) ** STRIDES[profile], 6)


def every(profile: str, period: int = 50) -> int:
    """Steps between copies at this profile for the paper's period."""
    return max(1, round(period / STRIDES[profile]))


def settings(experiment: str, profile: str, task: str, policy: str | None = None) -> TaskSettings:
    """The task of an experiment; the smoke profile has one that stands in for all."""
    train, evaluate, tokens = SIZES[profile]
    if profile == "smoke":
        return TaskSettings(name="tiny_causal", train=train, evaluate=evaluate)
    if profile == "paper":
        policy = policy or GEMMA[experiment]
    return TaskSettings(
        name=task, train=train, evaluate=evaluate, policy=policy, completion_tokens=tokens
    )


def spec(
    task: TaskSettings, profile: str, algorithm: Algorithm, seed: int, series: str, **labels: float
) -> Spec:
    """A run at a profile. Divergences in its tables are those to Best-of-2, J-BOND's n."""
    config = CONFIGS[profile].model_copy(update={"seed": seed})
    known = {"row": "", "series": series, "n": 2, "seed": seed, "warmup": config.warmup}
    known |= {"rate": 0.0, "every": 0}  # of an anchor that stays
    beta = algorithm.settings.get("beta", float("nan"))
    return Spec(task, algorithm, config, {**known, "beta": beta, **labels})


# -- anchor ablations (Figures 5 and 6) ------------------------------------------------------------


def anchor_specs(
    profile: str, seeds: Sequence[int], task: str = "sentiment", policy: str | None = None
) -> list[Spec]:
    """J-BOND with anchors that move at different speeds, and with more KL to a fast one."""

    def moving(eta: float, gamma: float = 0.0) -> tuple[Algorithm, dict[str, float]]:
        algorithm = j_bond(gamma=gamma, anchor=MovingAverage(rate(profile, eta)))
        return algorithm, {"eta": eta, "gamma": gamma, "rate": rate(profile, eta)}

    period = every(profile)
    runs = {
        decisions.MOVING: moving(0.02),  # section 6, Fig. 5
        decisions.COPY: (j_bond(anchor=Periodic(period)), {"gamma": 0.0, "every": period}),
        **{decisions.speed_name(eta): moving(eta) for eta in decisions.ETAS},
        **{
            decisions.speed_name(decisions.GAMMA_ETA, g): moving(decisions.GAMMA_ETA, g)
            for g in decisions.GAMMAS[1:]
        },
    }
    chosen = settings("anchor_ablations", profile, task, policy)
    return [
        spec(chosen, profile, algorithm, seed, series, **labels)
        for seed in seeds for series, (algorithm, labels) in runs.items()
    ]  # fmt: skip


# -- J-BOND against REINFORCE (Figure 7), and against other baselines ------------------------------

# Not stated; chosen: the best of as many completions as J-BOND samples (RAFT), the sizes and shares
# of the methods' own papers (vBoN and BoNBoN at Best-of-8; WARP's rate and strength of the KL), and
# DPO's usual strength of the KL.
RAFT_N, BEST_OF, WARP_RATE, WARP_BETA, DPO_BETA = 3, 8, 0.01, 0.1, 0.1
BASELINES = ("RAFT", "vBoN", "online DPO", "BoNBoN", "WARP, first stage")


def j_bond_specs(
    profile: str, seeds: Sequence[int], task: str = "sentiment", policy: str | None = None
) -> list[Spec]:
    """J-BOND with eta 0.02 (gamma is not stated: 0), REINFORCE for each beta_RL, and the others.

    Not the others at profile laptop, whose runs are to take minutes.
    """
    anchor = MovingAverage(rate(profile, 0.02))  # section 6, Fig. 7
    slow = rate(profile, WARP_RATE)
    others = (
        (raft(RAFT_N, anchor=anchor), {"rate": anchor.rate}),
        (vbon(BEST_OF), {}),
        (online_dpo(DPO_BETA), {}),
        (bonbon(BEST_OF), {}),
        (warp(WARP_BETA, slow), {"rate": slow}),
    )
    runs = {
        decisions.J_BOND: (j_bond(anchor=anchor), {"eta": 0.02, "gamma": 0.0, "rate": anchor.rate}),
        **{decisions.reinforce_name(b): (reinforce(b), {"beta_rl": b}) for b in decisions.BETAS_RL},
    }
    if profile != "laptop":
        runs |= dict(zip(BASELINES, others, strict=True))
    chosen = settings("j_bond", profile, task, policy)
    return [
        spec(chosen, profile, algorithm, seed, series, **labels)
        for seed in seeds for series, (algorithm, labels) in runs.items()
    ]  # fmt: skip


SEEDS = {"smoke": (0,), "laptop": (0,), "study": (0,), "paper": (0, 1, 2)}
PLANS = {"anchor_ablations": anchor_specs, "j_bond": j_bond_specs}


def specs(
    experiment: str, profile: str, task: str = "sentiment", policy: str | None = None
) -> list[Spec]:
    """The runs of an experiment, "anchor_ablations" or "j_bond", at a profile.

    Args:
        task: "sentiment" or "chat"; policy: a model by name, None the task's own.
    """
    return PLANS[experiment](profile, SEEDS[profile], task, policy)
