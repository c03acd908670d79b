"""The results of Figures 5, 6 and 7: what `collected` collects, with the second judge's verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

import pandas as pd
import torch
from torch import Tensor

from bondlab import measures, paths, rules
from bondlab.bank import spread
from bondlab.results import RunFolder
from bondlab.study import alignment, collected, judging
from bondlab.study.collected import Results
from bondlab.study.experiments import Profile
from bondlab.study.sweep import Spec, sweep

SIZES = (1, 2, 4, 8, 16)  # of sampled Best-of-N, as far as the evaluation bank goes
KEYS = ["series", "seed", "step", "prompt"]
PENALTY = rules.J_BOND_PENALTY


def results(
    name: str,
    profile: Profile,
    task: str = "sentiment",
    policy: str | None = None,
    workers: int | None = None,
    series: Collection[str] | None = None,
) -> Results:
    """The results of "anchor_ablations" or "j_bond": computed at a profile, or those shipped.

    Args:
        series: which runs to compute; None is all. "shipped" has those that it has.

    Like `collected.results`, with further columns. In evaluations: judge (mean score of the second
    judge), win_over_<N> (its win rate over sampled Best-of-N of the reference, 1 being the
    reference), penalised (share worse than both of two completions of the reference) and spread (of
    the reference's rewards within a prompt). In baselines: judge and win_over_1.

    Raises:
        FileNotFoundError: "shipped" was asked for and nothing is.
    """
    folder = paths.figures_folder(name, profile) / variant(task, policy)
    if profile == "shipped":
        return collected.shipped(folder)
    wanted = alignment.specs(name, profile, task, policy)
    wanted = [spec for spec in wanted if series is None or spec.labels["series"] in series]
    folders = sweep(wanted, paths.runs_folder() / alignment.RUNS, workers)
    found = judged(collected.collect(wanted, folders, profile, sizes(wanted[0])), wanted, folders)
    if collected.covers(folder, profile, found):  # a part never takes the place of more
        collected.write(folder, profile, found)
    return found


def sizes(spec: Spec) -> list[int]:
    """The N for which there are enough stored completions of a held-out prompt."""
    return [n for n in SIZES if n <= spec.config.evaluation_bank]


def variant(task: str, policy: str | None) -> str:
    """What tells results of another task or policy from the default's; "" for those.

    The name of a folder and part of files' names, so a policy's whole name has dashes for slashes.
    """
    if policy is not None:
        return f"{task}_{policy.replace('/', '--')}"
    return task if task != "sentiment" else ""


def judged(found: Results, wanted: Sequence[Spec], folders: Sequence[RunFolder]) -> Results:
    """The results with the columns of the second judge, penalised and spread."""
    task, held_out = wanted[0].build(), wanted[0].banks()[-1]
    judge = judging.judge_of(wanted[0].task, wanted[0].config.precision)
    bank, rewards = judging.bank_scores(held_out, task, judge), held_out.load().rewards
    parts = []
    for spec, folder in zip(wanted, folders, strict=True):
        scores = judging.run_scores(folder, task, judge)
        verdict = judging.per_prompt(scores, bank, rewards, sizes(spec))
        part = verdict.merge(_penalties(folder.evaluation(), rewards), on=["step", "prompt"])
        parts.append(part.assign(series=spec.labels["series"], seed=spec.labels["seed"]))
    extra = pd.concat(parts, ignore_index=True)
    evaluations = found.evaluations.merge(extra, on=KEYS, how="left", validate="one_to_one")
    base = judging.best_of_n(bank, rewards, sorted(found.baselines["n"].unique()))
    return dataclasses.replace(
        found,
        evaluations=evaluations.assign(spread=spread(rewards)),
        baselines=found.baselines.merge(base, on=["n", "prompt"], validate="one_to_one"),
    )


def _penalties(evaluation: pd.DataFrame, reference_rewards: Tensor) -> pd.DataFrame:
    """Share of the policy's completions that r_J would penalise: step, prompt, penalised."""
    own = evaluation[evaluation["source"] == "policy"]
    tables = []
    for step, part in own.groupby("step"):
        wide = part.pivot(index="prompt", columns="sample", values="reward")
        share = penalised(
            torch.from_numpy(wide.to_numpy(dtype="float64", copy=True)), reference_rewards
        )
        columns = {"step": step, "prompt": wide.index, "penalised": share.mean(1).numpy()}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def penalised(rewards: Tensor, reference_rewards: Tensor) -> Tensor:
    """Chance that two of M reference completions are both better: [B, K] x [B, M] -> [B, K].

    That is when r_J (eq. 17) is -log 16; 1/3 on average for the reference itself, 1/6 for its
    Best-of-2 (section 4.2 of the paper's algorithm with an anchor that stays).
    """
    m = reference_rewards.shape[1]
    better = (reference_rewards[:, None].double() > rewards[..., None].double()).sum(2)
    return better * (better - 1) / (m * (m - 1))


def start_table(found: Results) -> pd.DataFrame:
    """J-BOND's reward before the first step beside its theory: penalised share, mean r_J."""
    first = found.evaluations[found.evaluations["step"] == 0]
    shares = first.groupby("prompt")["penalised"].mean().to_numpy()
    rows = {"penalised share": (shares, 1 / 3), "mean r_J": (shares * PENALTY, PENALTY / 3)}
    return pd.DataFrame([
        {"measure": name, "theory": theory, "measured": (i := measures.mean_interval(x)).mean,
         "low": i.low, "high": i.high, "prompts": i.count}
        for name, (x, theory) in rows.items()
    ])  # fmt: skip
