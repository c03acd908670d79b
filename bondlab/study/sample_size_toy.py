"""How many reference samples a quantile needs, on the toy, where the answer is exact.

`sample_size` does the algebra; here every sequence is listed, so that its sums have no sampling
error. The same question for a real model is `sample_size_xsum`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any, Self

import pandas as pd
import torch
from matplotlib.figure import Figure
from pydantic import model_validator
from torch import Tensor

from bondlab import toy
from bondlab.measures import mean_interval
from bondlab.study import exact, exact_toy, plots
from bondlab.study.plots import Panel
from bondlab.toy import toy_training
from bondlab.toy.sample_size import (
    SIZES,
    SMOOTHINGS,
    UpdateError,
    enumerated,
    estimate_moments,
    quantile_error,
)

BEST_OF = (2, 8)  # iterative BOND's n, and Figure 9's
COMPLETIONS = 2  # policy samples a prompt, as `algorithms.bond`
BETA = 0.5
HEADLINE = exact.QUANTILE_SAMPLES  # section 6: k in training
# Chosen because at n = 8 the log quantile is then about half way to where training ends.
STEPS_PART_WAY = {"at the reference": 0, "part-way trained": 10}
PANELS = (
    Panel("bias", "Bias", "share of the exact update"),
    Panel("variance", "Added variance", "share of drawing's variance"),
)


class Settings(exact_toy.ToySettings):
    """How much to compute.

    Args:
        sizes: each k; left empty, they follow from the profile.
    """

    sizes: list[int] = []

    @model_validator(mode="after")
    def _fill(self) -> Self:
        self.sizes = self.sizes or list(SIZES[:2] if self.profile == "smoke" else SIZES)
        return self


def errors(settings: Settings) -> pd.DataFrame:
    """Bias and variance of the backward-KL update on each toy problem.

    Returns a row for each n, policy ("at the reference", "part-way trained"), smoothing, k and
    problem: the fields of `sample_size.UpdateError`, and as `bias` and `variance` its shares.
    """
    return pd.DataFrame(
        [row for seed in range(settings.problems) for row in _of_problem(seed, settings)]
    )


def _of_problem(seed: int, settings: Settings) -> Iterator[dict[str, Any]]:
    policies = {place: _policy(*place, seed) for place in product(BEST_OF, STEPS_PART_WAY)}
    _, problem = exact_toy.toy_problem(BEST_OF[0], seed)  # reference and rewards of any n
    for (name, smoothing), k in product(SMOOTHINGS.items(), settings.sizes):
        mean, covariance = estimate_moments(problem.log_quantiles.exp(), k, smoothing)
        moments = mean.flatten(), torch.block_diag(*covariance)
        for (n, place), policy in policies.items():
            found = of_policy(policy, problem, moments, n)
            yield {
                "n": n, "policy": place, "smoothing": name, "k": k, "problem": seed, **vars(found),
                "bias": found.relative_bias, "variance": found.relative_variance,
            }  # fmt: skip


def _policy(n: int, place: str, seed: int) -> toy.ToyPolicy:
    policy, problem = exact_toy.toy_problem(n, seed)
    loss = partial(toy.jeffreys, problem=problem, beta=BETA)
    steps = STEPS_PART_WAY[place]
    toy_training.descend(policy, problem, loss, steps, exact_toy.LEARNING_RATE, max(steps, 1))
    return policy


def of_policy(
    policy: toy.ToyPolicy, problem: toy.Problem, moments: tuple[Tensor, Tensor], n: int
) -> UpdateError:
    """What estimated quantiles do to the update of a policy towards Best-of-n of the anchor.

    Args:
        problem: with the anchor and rewards; its own n is not used.
        moments: mean and covariance of log p_hat of all sequences of all prompts [B V], [B V, B V].
    """
    log_policy = policy.log_probs().detach()
    gradients = scores(policy).flatten(0, 1)
    prompts = torch.arange(len(log_policy)).repeat_interleave(log_policy.shape[1])
    return quantile_error(
        enumerated(gradients @ gradients.T, prompts, log_policy.exp().flatten()),
        (log_policy - problem.log_anchor).flatten(),
        problem.log_quantiles.flatten(),
        moments,
        n,
        COMPLETIONS,
    )


def scores(policy: toy.ToyPolicy) -> Tensor:
    """Gradients of log pi of every sequence of every prompt, by all parameters: [B, V, D]."""

    def log_probs(logits: Tensor) -> Tensor:
        return policy.sum_pairs(logits.log_softmax(dim=-1))

    return torch.func.jacrev(log_probs)(policy.logits.detach()).flatten(2)


def curve_table(found: pd.DataFrame) -> pd.DataFrame:
    """The plotted numbers of `errors`: row, panel, series, step (k), mean, low, high, count."""
    rows = found.assign(
        row=[f"n = {n}" for n in found["n"]],
        series=found["smoothing"] + ", " + found["policy"],
        step=found["k"],
    )
    return exact_toy.curves_of(rows, [panel.name for panel in PANELS])


def figure(table: pd.DataFrame, settings: Settings) -> Figure:
    """What k reference samples cost, from `curve_table`."""
    note = (
        f"Exact, {COMPLETIONS} completions a prompt that share their k reference samples; mean and "
        f"95 % t interval over {settings.problems} toy problems of 4 prompts. Exact quantiles have "
        "neither bias nor added variance."
    )
    return plots.curves(
        table,
        PANELS,
        [f"n = {n}" for n in BEST_OF],
        xlabel="k, reference samples behind a quantile (log scale)",
        title="How many reference samples are enough? (toy)",
        note=note,
        log2=True,
    )


def publish(found: pd.DataFrame, settings: Settings, experiment: str) -> None:
    """Draw `errors`, write the files of "sample_size_toy" unless they are shipped, and show it."""
    table = curve_table(found)
    drawn = figure(table, settings)
    keys = ["n", "policy", "smoothing"]
    numbers = [
        exact.headline(
            f"n = {n}, {place}, {name}, k = {HEADLINE}: {panel.title.lower()}",
            mean_interval(part[panel.name]),
            panel.ylabel,
        )
        for (n, place, name), part in found[found["k"] == HEADLINE].groupby(keys, sort=False)
        for panel in PANELS
    ]
    exact.save(drawn, "sample_size_toy", table, numbers, settings, experiment=experiment)
    plots.show(drawn, "Bias and added variance of the update against k, floor and add-one")
