"""What the experiments on XSum (Figures 2, 4, 9 and 10) share: scales and runs.

Sections and figures are those of arXiv 2407.14622.
"""

from __future__ import annotations

from collections.abc import Mapping

from bondlab.algorithms import Algorithm, bond
from bondlab.config import Config
from bondlab.study import tuning
from bondlab.study.sweep import Spec
from bondlab.tasks import TaskSettings

TUNED = "BOND, N = 8, beta = 0.5"
RUNS = "xsum"  # the experiments share what they have in common
SIZES = (4, 8, 16)  # section 6, Fig. 2 for 8; Fig. 10 for 4 and 16
AS_GOOD = 0.1  # nats of mean log quantile, a tenth of the way from the reference (-1) to the best

SMOKE = Config(
    steps=2, prompts_per_step=4, evaluate_every=1, warmup=1, learning_rate=1e-2, precision="fp32"
)
# Learning rates: of 3e-4, 1e-3 and 3e-3 (beta 0.5, N = 8, 20 steps, judged on training prompts) the
# last alone moved the log quantile within so few steps; six times as many take a smaller one.
LAPTOP = Config(steps=12, evaluate_every=6, learning_rate=3e-3, warmup=4)
# What notebook 02 trains on the spot. Its sizes were chosen with seed 11 on other documents of the
# training split: 24 steps raised the log quantile by 0.34 [0.22, 0.46] nats. Nearly all of that
# error is the sampling of single summaries, so more of them cost less than more steps.
HERE = Config(
    steps=24, evaluate_every=12, learning_rate=3e-3, warmup=4, bank_samples=24,
    evaluation_samples=8, evaluation_bank=16,
)  # fmt: skip
# Samples are drawn anew at each step, as in the paper: stored ones may be memorised. Runs whose
# anchor stays share a seed's, which cost far more than their own. Batch and steps are not stated;
# chosen as what two cores do in a night with three seeds of every figure. The learning rate is that
# of `tuning` (`rated`).
STUDY = Config(steps=64, prompts_per_step=16, evaluate_every=16, fresh="shared")
# Steps between evaluations are the paper's; sizes of models, batch and length are not stated.
PAPER = Config(
    steps=5000, evaluate_every=500, prompts_per_step=32, learning_rate=1e-5, warmup=100,
    lora_rank=None, fresh="shared", checkpoint_seconds=600, micro_batch=4,
)  # fmt: skip
# No T5 of the paper is public. Flan-T5 saw XSum's training split among its tasks; the TRUE model is
# the public entailment T5 of the same group as the paper's reward (Roit et al. 2023).
HUB = TaskSettings(
    name="xsum", train=20_000, evaluate=128, prompt_tokens=512, completion_tokens=64,
    policy="google/flan-t5-large", reward="google/t5_xxl_true_nli_mixture",
    data="EdinburghNLP/xsum",
)  # fmt: skip
SCALES = {
    "smoke": (TaskSettings(name="tiny", train=8, evaluate=4), SMOKE),
    "shipped": (TaskSettings(name="xsum", train=64, evaluate=48), HERE),
    "laptop": (TaskSettings(name="xsum", train=48, evaluate=16), LAPTOP),
    "study": (TaskSettings(name="xsum", train=256, evaluate=100), STUDY),
    "paper": (HUB, PAPER),
}


def spec(
    profile: str,
    algorithm: Algorithm,
    seed: int,
    labels: Mapping[str, object],
    tuned: bool = True,
    **changed: object,
) -> Spec:
    """A run at a profile; `labels` with the N, beta and seed that all have.

    `tuned`: whether it has the learning rate that was chosen, at study, not the profile's.
    """
    config = rated(profile) if tuned else SCALES[profile][1]
    config = config.model_copy(update={"seed": seed, **changed})
    known = {"n": algorithm.settings["n"], "beta": algorithm.settings["beta"], "seed": seed}
    return Spec(SCALES[profile][0], algorithm, config, {**labels, **known})


def rated(profile: str) -> Config:
    """The configuration of a profile; at study with the learning rate that all its runs share.

    That of `TUNED`, between the two pure objectives. One for all, as only the objectives, N and
    anchors are to differ.

    Raises:
        ParameterError: no rate was chosen yet.
    """
    config = SCALES[profile][1]
    if profile != "study":
        return config
    return config.model_copy(update={"learning_rate": tuning.chosen_rate("xsum", TUNED)})


def untuned(profile: str) -> list[Spec]:
    """The run that stands for all where the learning rate is chosen."""
    task, config = SCALES[profile]
    config = config.model_copy(update={"forward_kl": False})  # which no choice looks at
    return [Spec(task, bond(8, 0.5), config, {"series": TUNED, "tuned": TUNED})]
