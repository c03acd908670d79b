"""The paper's experiments as data: which runs make which figure, and what counts as reproduced.

Sections and figures are those of arXiv 2407.14622. Decision rules stand here before their runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pandas as pd
from pydantic import BaseModel, Field

from bondlab import measures, paths
from bondlab.algorithms import bond
from bondlab.measures import Interval
from bondlab.results import RunFolder
from bondlab.sweep import Spec, sweep
from bondlab.tasks import TaskSettings
from bondlab.training import Config

Profile = Literal["shipped", "smoke", "laptop", "study", "paper"]
Verdict = Literal["reproduced", "not reproduced", "inconclusive"]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper and the rule, fixed before the runs, that decides it.

    Args:
        text: the claim; source: where the paper makes it; rule: the rule in words.
        decide: from a table of one N's last evaluations to the verdict and the intervals behind it.
    """

    text: str
    source: str
    rule: str
    decide: Callable[[pd.DataFrame], tuple[Verdict, dict[str, Interval]]]


@dataclass(frozen=True)
class Experiment:
    """One notebook's worth of runs.

    Args:
        title: what it is; notebook: its file's stem.
        figures: stem of each figure file -> the paper's figure, or None for one of ours.
        plans: the runs of each profile; none where the notebook computes on its own.
        claims: what is to be decided.
    """

    title: str
    notebook: str
    figures: dict[str, str | None]
    plans: dict[str, Sequence[Spec]] = field(default_factory=dict)
    claims: Sequence[Claim] = ()


class DivergenceSettings(BaseModel):
    """The parameters of the notebook of Figures 2 and 10."""

    profile: Profile
    sizes_of_figure_2: Annotated[list[int], Field(min_length=1)]
    sizes_of_figure_10: Annotated[list[int], Field(min_length=1)]
    workers: Annotated[int, Field(ge=0)]


# -- forward vs. backward vs. Jeffreys on XSum (Figures 2 and 10) ----------------------------------

BETAS = (0.0, 0.5, 1.0)  # section 6, Fig. 2
SIZES = (4, 8, 16)  # Fig. 10 for 4 and 16


def divergence_specs(
    task: TaskSettings, config: Config, sizes: Sequence[int], seeds: Sequence[int]
) -> list[Spec]:
    """One run for each seed, N and beta, all with the same budget, tuning and random numbers."""
    return [
        Spec(task, bond(n, beta), config.model_copy(update={"seed": seed}),
             {"n": n, "beta": beta, "seed": seed})
        for seed in seeds for n in sizes for beta in BETAS
    ]  # fmt: skip


def _at(table: pd.DataFrame, beta: float, column: str, step: int) -> pd.DataFrame:
    """A measure after `step` updates, seeds down and prompts across."""
    chosen = table[(table["beta"] == beta) & (table["step"] == step)]
    return chosen.pivot(index="seed", columns="prompt", values=column)


def difference(
    table: pd.DataFrame,
    beta: float,
    column: str,
    step: int,
    other_step: int,
    other_beta: float | None = None,
) -> Interval:
    """Interval of the mean difference of a measure, over the same seeds and prompts.

    Between a beta at a step and (the same beta or another) at another step.
    """
    above = _at(table, beta, column, step).to_numpy()
    below = _at(table, beta if other_beta is None else other_beta, column, other_step).to_numpy()
    if len(above) == 1:
        return measures.paired_difference(above[0], below[0])
    return measures.paired_difference(above, below)


def _gap(table: pd.DataFrame, beta: float, other_beta: float, column: str) -> Interval:
    end = table["step"].max()
    return difference(table, beta, column, end, end, other_beta)


def _all_above_zero(found: dict[str, Interval]) -> Verdict:
    if all(interval.low > 0 for interval in found.values()):
        return "reproduced"
    return "not reproduced" if any(i.high < 0 for i in found.values()) else "inconclusive"


def _both_fall(table: pd.DataFrame) -> tuple[Verdict, dict[str, Interval]]:
    found = {
        f"{name} before - after, beta 0.5": difference(table, 0.5, name, 0, table["step"].max())
        for name in ("backward_kl", "forward_kl")
    }
    return _all_above_zero(found), found


def _each_worse_on_the_other(table: pd.DataFrame) -> tuple[Verdict, dict[str, Interval]]:
    found = {
        f"{name}, beta {beta:g} - beta 0.5": _gap(table, beta, 0.5, name)
        for beta, name in ((0.0, "backward_kl"), (1.0, "forward_kl"))
    }
    return _all_above_zero(found), found


AS_GOOD = 0.1  # nats of mean log quantile, a tenth of the way from the reference (-1) to the best


def _quantiles_rank(table: pd.DataFrame) -> tuple[Verdict, dict[str, Interval]]:
    lead = _gap(table, 0.5, 0.0, "log_quantile")
    gap = _gap(table, 0.5, 1.0, "log_quantile")
    found = {"log quantile, beta 0.5 - beta 0": lead, "log quantile, beta 0.5 - beta 1": gap}
    if lead.low > 0 and gap.low > -AS_GOOD:
        return "reproduced", found
    failed = lead.high < 0 or gap.high < -AS_GOOD
    return "not reproduced" if failed else "inconclusive", found


DIVERGENCE_CLAIMS = (
    Claim(
        "The Jeffreys objective (beta 0.5) lowers both divergences to Best-of-N.",
        "section 6, Fig. 2 left and middle",
        "Reproduced if the fall from the first to the last evaluation has an interval above 0 for "
        "both; not reproduced if one interval lies below 0; else inconclusive.",
        _both_fall,
    ),
    Claim(
        "Each pure objective is worse than beta 0.5 on the other divergence.",
        "section 6, Fig. 2 left and middle",
        "Reproduced if, after the last step, backward KL of beta 0 less that of beta 0.5 and "
        "forward KL of beta 1 less that of beta 0.5 both have intervals above 0; not reproduced "
        "if one lies below 0; else inconclusive.",
        _each_worse_on_the_other,
    ),
    Claim(
        "On log quantiles beta 0.5 is about as good as 1, and 0 clearly lags.",
        "section 6, Fig. 2 right",
        "Reproduced if, after the last step, beta 0.5 less beta 0 has an interval above 0 and "
        f"beta 0.5 less beta 1 one above -{AS_GOOD} nat; not reproduced if the first lies below 0 "
        f"or the second below -{AS_GOOD}; else inconclusive.",
        _quantiles_rank,
    ),
)

TINY = TaskSettings(name="tiny", train=8, evaluate=4)
SMOKE = Config(
    steps=2, prompts_per_step=4, evaluate_every=1, warmup=1, learning_rate=1e-2, precision="fp32"
)
# Learning rates: of 3e-4, 1e-3 and 3e-3 (beta 0.5, N = 8, 20 steps, judged on training prompts) the
# last alone moved the log quantile within so few steps; six times as many take a smaller one.
LAPTOP = Config(steps=12, evaluate_every=6, learning_rate=3e-3, warmup=4)
STUDY = Config(steps=80, evaluate_every=20, learning_rate=2e-3)
# Steps between evaluations are the paper's; sizes of models, batch and length are not stated.
PAPER = Config(
    steps=5000, evaluate_every=500, prompts_per_step=32, learning_rate=1e-5, warmup=100,
    lora_rank=None, fresh=True, checkpoint_every=100, micro_batch=4,
)  # fmt: skip
# No T5 of the paper is public. Flan-T5 saw XSum's training split among its tasks; the TRUE model is
# the public entailment T5 of the same group as the paper's reward (Roit et al. 2023).
HUB = TaskSettings(
    name="xsum", train=20_000, evaluate=128, document_tokens=512, summary_tokens=64,
    policy="google/flan-t5-large", reward="google/t5_xxl_true_nli_mixture",
    data="EdinburghNLP/xsum",
)  # fmt: skip

EXPERIMENTS = {
    "exact": Experiment(
        "Best-of-N and BOND in exact numbers",
        "00_best_of_n_in_exact_numbers",
        {
            "fig08_j_bond_reward": "8",
            "fig_bestofn_law": None,
            "fig_bestofn_divergences": None,
            "fig_toy_objectives": None,
        },
    ),
    "xsum_task": Experiment(
        "The XSum task: reference policy and reward", "01_xsum_reference_and_reward", {}
    ),
    "xsum_divergences": Experiment(
        "Forward vs. backward vs. Jeffreys on XSum",
        "02_forward_backward_jeffreys",
        {
            "fig02_divergences": "2",
            "fig10_divergences": "10",
            "reward_and_distance": None,
            "text": None,
        },
        {
            "smoke": divergence_specs(TINY, SMOKE, SIZES, [0]),
            "laptop": divergence_specs(
                TaskSettings(name="xsum", train=48, evaluate=24), LAPTOP, SIZES, [0]
            ),
            "study": divergence_specs(
                TaskSettings(name="xsum", train=128, evaluate=40), STUDY, [8], [0, 1, 2]
            ),
            "paper": divergence_specs(HUB, PAPER, SIZES, [0, 1, 2]),
        },
        DIVERGENCE_CLAIMS,
    ),
}


def run(name: str, profile: Profile, workers: int | None = None) -> list[RunFolder]:
    """Compute what is missing of an experiment's runs; returns their folders.

    Raises:
        ValueError: an unknown experiment or profile.
    """
    return sweep(specs(name, profile), paths.runs_folder() / name, workers)


def specs(name: str, profile: Profile) -> Sequence[Spec]:
    """The runs of an experiment at a profile; none for a notebook that computes on its own."""
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}: choose one of {', '.join(EXPERIMENTS)}")
    plans = EXPERIMENTS[name].plans
    if plans and profile not in plans:
        raise ValueError(f"{name} has no profile {profile!r}: choose one of {', '.join(plans)}")
    return plans.get(profile, ())
