"""The paper's experiments as data: which runs make which figure, and what counts as reproduced.

Sections and figures are those of arXiv 2407.14622. The runs and decision rules stand in
`xsum_runs`, `alignment` and `alignment_claims`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from bondlab import paths
from bondlab.results import RunFolder
from bondlab.study import alignment, alignment_claims, xsum_runs
from bondlab.study.decisions import Claim
from bondlab.study.sweep import Spec, sweep

Profile = Literal["shipped", "smoke", "laptop", "study", "paper"]


@dataclass(frozen=True)
class Experiment:
    """One notebook's worth of runs.

    Args:
        title: what it is; notebook: its file's stem.
        figures: stem of each figure file -> the paper's figure, or None for one of ours.
        plans: the runs of each profile; none where the notebook computes on its own.
        claims: what is to be decided on evaluations.
        benchmark_claims: what is to be decided on the items of `benchmarks`.
        runs: folder of the runs; experiments that share one share runs of equal identity.
    """

    title: str
    notebook: str
    figures: dict[str, str | None]
    plans: dict[str, Sequence[Spec]] = field(default_factory=dict)
    claims: Sequence[Claim] = ()
    runs: str = ""
    benchmark_claims: Sequence[Claim] = ()


class RunSettings(BaseModel):
    """The parameters of a notebook that shows runs: their scale, and how many at a time."""

    profile: Profile
    workers: Annotated[int, Field(ge=0)]


class DivergenceSettings(RunSettings):
    """The parameters of the notebook of Figures 2 and 10."""

    sizes_of_figure_2: Annotated[list[int], Field(min_length=1)]
    sizes_of_figure_10: Annotated[list[int], Field(min_length=1)]


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
            "forward_kl_by_article": None,
            "reward_and_distance": None,
            "text": None,
        },
        {
            "smoke": xsum_runs.divergence_specs("smoke", xsum_runs.SIZES, [0]),
            "laptop": xsum_runs.divergence_specs("laptop", xsum_runs.SIZES, [0]),
            "study": xsum_runs.divergence_specs("study", [8], [0, 1, 2])
            + xsum_runs.divergence_specs("study", [8], [0], anew=True),
            "paper": xsum_runs.divergence_specs("paper", xsum_runs.SIZES, [0, 1, 2]),
        },
        xsum_runs.DIVERGENCE_CLAIMS,
        runs=xsum_runs.RUNS,
    ),
    "xsum_iterative": Experiment(
        "Iterative BOND with a moving anchor on XSum",
        "03_iterative_bond",
        {"fig04_iterative": "4", "fig04_tradeoff": "4", "effective_n": None, "toy_rounds": None},
        {p: xsum_runs.iterative_specs(p, [0]) for p in ("smoke", "laptop", "study")}
        | {"paper": xsum_runs.iterative_specs("paper", [0, 1, 2])},
        xsum_runs.ITERATIVE_CLAIMS,
        runs=xsum_runs.RUNS,
    ),
    "xsum_quantiles": Experiment(
        "Learned quantiles, and how many samples are enough",
        "04_learned_quantiles",
        {
            "fig09_learned_quantiles": "9",
            "calibration": None,
            "quantile_cost": None,
            "sample_size_toy": None,
            "sample_size_xsum": None,
        },
        {p: xsum_runs.quantile_specs(p, [0]) for p in ("smoke", "laptop", "study")}
        | {"paper": xsum_runs.quantile_specs("paper", [0, 1, 2])},
        xsum_runs.QUANTILE_CLAIMS,
        runs=xsum_runs.RUNS,
    ),
    "alignment_rewards": Experiment(
        "The chat and sentiment tasks: rewards and judges",
        "05_chat_and_sentiment_rewards",
        dict.fromkeys(
            ("training", "sentiment", "chat", "calibration", "looks", "headroom", "probes")
        ),
    ),
    "anchor_ablations": Experiment(
        "Anchors that move at different speeds, and more KL to them",
        "06_anchor_ablations",
        alignment.ANCHOR_FIGURES,
        {p: alignment.specs("anchor_ablations", p) for p in xsum_runs.SCALES},
        alignment_claims.ANCHOR_CLAIMS,
        alignment.RUNS,
    ),
    "j_bond": Experiment(
        "J-BOND against REINFORCE, and other baselines",
        "07_jbond_against_reinforce",
        alignment.J_BOND_FIGURES,
        {p: alignment.specs("j_bond", p) for p in xsum_runs.SCALES},
        alignment_claims.J_BOND_CLAIMS,
        alignment.RUNS,
        alignment_claims.BENCHMARK_CLAIMS,
    ),
    "own_model": Experiment(
        "Align a model of your own", "08_align_your_own_model", {"own_model": None}
    ),
}


def run(name: str, profile: Profile, workers: int | None = None) -> list[RunFolder]:
    """Compute what is missing of an experiment's runs; returns their folders.

    Raises:
        ValueError: an unknown experiment or profile.
    """
    return sweep(specs(name, profile), paths.runs_folder() / EXPERIMENTS[name].runs, workers)


def specs(name: str, profile: Profile) -> Sequence[Spec]:
    """The runs of an experiment at a profile; none for a notebook that computes on its own."""
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}: choose one of {', '.join(EXPERIMENTS)}")
    plans = EXPERIMENTS[name].plans
    if plans and profile not in plans:
        raise ValueError(f"{name} has no profile {profile!r}: choose one of {', '.join(plans)}")
    return plans.get(profile, ())
