"""The objectives and the rules on the enumerable toy policy (notebook 00): tables, in nats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product

import pandas as pd
import torch

from bondlab import best_of_n, rules, toy
from bondlab.report.intervals import Interval, curves, paired_difference
from bondlab.toy import training
from bondlab.toy.exact import QUANTILE_SAMPLES, Settings

OBJECTIVES = {0.0: "beta = 0 (forward KL)", 0.5: "beta = 0.5 (Jeffreys)",
              1.0: "beta = 1 (backward KL)"}  # fmt: skip
ROWS = ("exact", "sampled")  # ways of descending
MEASURES = ("backward_kl", "forward_kl", "mean_log_quantile")
# The paper has no toy. Chosen so that the optima are reached and the curves differ visibly.
PROMPTS, VOCABULARY, LENGTH, NOISE = 4, 6, 3, 0.5
LEARNING_RATE, COMPLETIONS = 0.05, 4


def problem_of(n: int, seed: int) -> tuple[toy.ToyPolicy, toy.Problem]:
    """A policy that still equals its reference, and Best-of-n of it under a random reward."""
    policy = toy.ToyPolicy(PROMPTS, VOCABULARY, LENGTH, seed=2 * seed)
    rewards = toy.draw_rewards(policy, NOISE, seed=2 * seed + 1)
    return policy, toy.Problem(policy.log_probs().detach(), rewards, n)


def descents(settings: Settings) -> pd.DataFrame:
    """Descend each objective on each toy problem, by exact gradients and by the rules' samples.

    Returns one row a way (`row`), objective (`series`), problem and tenth step: the policy's
    `training.Record`.
    """
    return pd.DataFrame([
        {"row": row, "series": name, "problem": seed, "step": step, **asdict(record)}
        for row in ROWS
        for beta, name in OBJECTIVES.items()
        for seed in range(settings.seed, settings.seed + settings.problems)
        for step, record in _descend(row, beta, seed, settings)
    ])  # fmt: skip


def _descend(
    row: str, beta: float, seed: int, settings: Settings
) -> Iterator[tuple[int, training.Record]]:
    policy, problem = problem_of(settings.n, seed)
    loss = partial(toy.jeffreys, problem=problem, beta=beta)
    if row == "sampled":
        rule = partial(rules.jeffreys, n=settings.n, beta=beta)
        draws = {"n": settings.n, "k": COMPLETIONS, "m": QUANTILE_SAMPLES}
        draws["generator"] = torch.Generator().manual_seed(seed)
        loss = partial(training.sampled_surrogate, rule, problem=problem, **draws)
    for step, log_policy in training.descend(policy, loss, settings.steps, LEARNING_RATE):
        if step % 10 == 0 or step == settings.steps:
            yield step, training.measure(log_policy, problem)


def over_problems(records: pd.DataFrame, measures: Sequence[str] = MEASURES) -> pd.DataFrame:
    """`intervals.curves` by row, series and step, over problems."""
    records = records.rename(columns={"problem": "prompt"})
    return curves(records, measures, ["row", "series", "step"])


def gaps(records: pd.DataFrame) -> dict[tuple[str, str], Interval]:
    """The claims of Figure 2 as differences at the last step, paired by problem, for each row.

    The pure objectives minus Jeffreys, each in the other's divergence and in its own, and Jeffreys
    minus each in mean log quantile.
    """
    ends = records[records["step"] == records["step"].max()]
    found = {}
    for row, measure, pure in product(ROWS, MEASURES, (0.0, 1.0)):
        first, second = (0.5, pure) if measure == "mean_log_quantile" else (pure, 0.5)
        values = ends[ends["row"] == row].pivot(index="problem", columns="series", values=measure)
        what = f"{measure}, beta {first:g} - beta {second:g}"
        found[row, what] = paired_difference(values[OBJECTIVES[first]], values[OBJECTIVES[second]])
    return found


def starts(settings: Settings) -> pd.DataFrame:
    """Where training starts, for each N above 1: the continuous constants, and a toy policy."""
    rows = []
    for n in (n for n in sorted(settings.sizes) if n > 1):
        _, problem = problem_of(n, settings.seed)
        start = training.measure(problem.log_anchor, problem)
        rows.append({
            "N": n,
            "backward, formula": best_of_n.backward_kl(n), "backward, toy": start.backward_kl,
            "forward, formula": best_of_n.kl_bound(n), "forward, toy": start.forward_kl,
            "log quantile, toy": start.mean_log_quantile,
        })  # fmt: skip
    return pd.DataFrame(rows)


def identities(settings: Settings) -> pd.DataFrame:
    """Each rule's expected update, over all joint draws, against the exact gradient: holds or not.

    On 3 sequences, 2 anchor and 2 policy completions, with r_BOND complete.
    """
    policy = toy.ToyPolicy(1, 2, 2, seed=settings.seed)
    anchor = toy.ToyPolicy(1, 2, 2, seed=settings.seed + 1).log_probs().detach()
    problem = toy.Problem(anchor, toy.draw_rewards(policy, NOISE, settings.seed), 2)
    complete = best_of_n.bond_reward(anchor.exp(), problem.rewards, 2)
    pairs = {
        "forward KL": (rules.forward_kl, toy.forward_kl),
        "backward KL": (partial(rules.backward_kl, n=2), toy.backward_kl),
        "Jeffreys": (partial(rules.jeffreys, n=2, beta=0.5), partial(toy.jeffreys, beta=0.5)),
        "J-BOND": [partial(f, beta=0.5, gamma=0.5) for f in (rules.j_bond, toy.j_bond)],
        "REINFORCE": [partial(f, beta_rl=0.1) for f in (rules.reinforce, toy.reinforce)],
    }
    rows = []
    for name, (rule, objective) in pairs.items():
        log_policy = policy.log_probs()
        loss = training.expected_surrogate(rule, log_policy, problem, 2, 2, complete)
        update = torch.autograd.grad(loss, policy.logits)[0]
        exact = torch.autograd.grad(objective(policy.log_probs(), problem), policy.logits)[0]
        close = (update - exact).abs().max().item() < 1e-10
        rows.append({
            "rule": name, "largest entry of the gradient": exact.abs().max().item(),
            "update equals gradient": "yes" if close else "no",
        })  # fmt: skip
    return pd.DataFrame(rows)
