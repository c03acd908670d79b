"""The second judge: scores the completions of finished runs, which no training sees.

A policy learns its reward's mistakes with the rest. The judge is another architecture trained on
other data (`scorers`), so what rises under both is worth more than what rises under one. It reads
what evaluations left, and is no part of a run's identity: a new one trains nothing anew.

Legend: B prompts, K policy completions, M reference completions of the held-out bank.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from bondlab import device, measures, results
from bondlab.bank import spread
from bondlab.report.kept import Tables
from bondlab.results import RunFolder
from bondlab.study import rescored, tables
from bondlab.study.sweep import Spec, held_out_bank
from bondlab.task import Reward
from bondlab.tasks import TaskSettings, scorers

JUDGES = {"sentiment": "sentiment_judge", "chat": "chat_judge"}


def has_one(settings: TaskSettings) -> bool:
    """Whether a task has a judge."""
    return settings.name in (*JUDGES, "tiny_causal")


def judge_of(settings: TaskSettings, precision: device.Precision = "auto") -> tuple[Reward, str]:
    """The judge of a task, on a scale of its own, and what names it where its scores are kept.

    Raises:
        ValueError: the task has none.
    """
    if settings.name == "tiny_causal":
        return tiny_judge, "tiny"
    if not has_one(settings):
        raise ValueError(f"the task {settings.name} has no judge: {', '.join(JUDGES)} have")
    name, precision = JUDGES[settings.name], device.resolve(precision)
    return scorers.load(name, precision), results.digest([name, scorers.identity(name), precision])


def tiny_judge(prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
    """For the smoke profile: the share of a prompt's different words that a completion has."""
    known = [set(prompt.split()) for prompt in prompts]
    return torch.tensor([
        [len(words & set(text.split())) / len(words) for text in texts]
        for words, texts in zip(known, completions, strict=True)
    ])  # fmt: skip


def scores(spec: Spec, prompts: Sequence[str], texts: Sequence[Sequence[str]]) -> Tensor:
    """What the judge of a run's task gives B lists of K texts, [B, K]; each list is scored once."""
    precision = spec.config.precision
    judge, name = judge_of(spec.task, precision)
    return rescored.scored("judged", {"judge": name}, judge, prompts, texts, precision)


# -- measures --------------------------------------------------------------------------------------


def judged(found: Tables, specs: Sequence[Spec], folders: Sequence[RunFolder]) -> Tables:
    """The tables of finished runs of one task with the second judge's columns.

    In evaluations judge (mean score), `penalised`, spread (of the reference's rewards within a
    prompt) and, for each size n of the baselines, win_over_<n>, the win rate over sampled Best-of-n
    of the reference (1: the reference itself); in baselines judge and win_over_1.
    """
    first = rescored.measured(specs[0])
    task, held_out = first.build(), held_out_bank(first)
    prompts, ranks, base = task.eval_prompts, held_out.rewards, found["baselines"]
    others = scores(first, prompts, task.model.decode(held_out.completions))
    sizes, parts = sorted(base["n"].unique()), []
    for spec, folder in zip(specs, folders, strict=True):
        own = rescored.evaluation(spec, folder).query("source == 'policy'")
        wide = own.pivot(index=["step", "prompt"], columns="sample", values=["text", "reward"])
        place = list(wide.index.get_level_values("prompt"))
        given = scores(spec, [prompts[i] for i in place], wide["text"].to_numpy().tolist())
        mine = torch.tensor(wide["reward"].to_numpy(float))
        part = per_prompt(given, mine, others[place], ranks[place], sizes).set_index(wide.index)
        parts.append(part.assign(series=spec.labels["series"], seed=spec.labels["seed"]))
    keys = ["series", "seed", "step", "prompt"]
    columns = pd.concat(parts).reset_index()
    evaluations = found["evaluations"].merge(columns, on=keys, validate="one_to_one")
    best = best_of_n(others, ranks, sizes)
    return found | {
        "evaluations": evaluations.assign(spread=spread(ranks)),
        "baselines": base.merge(best, on=["n", "prompt"], validate="one_to_one"),
    }


def per_prompt(
    scores: Tensor, rewards: Tensor, others: Tensor, ranks: Tensor, sizes: Sequence[int]
) -> pd.DataFrame:
    """The judge's measures of a policy, a row per prompt: judge, penalised, win_over_<n>.

    Scores and rewards are of its completions, [B, K], others and ranks of the reference's, [B, M].
    """
    columns = {"judge": scores.mean(1), "penalised": penalised(rewards, ranks).mean(1)}
    columns |= {f"win_over_{n}": win_rate(scores, others, ranks, n) for n in sizes}
    return pd.DataFrame({name: values.numpy() for name, values in columns.items()})


def best_of_n(scores: Tensor, ranks: Tensor, sizes: Sequence[int]) -> pd.DataFrame:
    """`tables.best_of` of the judge: its score, and win_over_1.

    Each chosen completion meets the M - 1 others, so at n = 1 win_over_1 is 1/2.
    """
    return tables.best_of({"judge": scores, "win_over_1": beaten(scores)}, ranks, sizes)


def wins(scores: Tensor, others: Tensor) -> Tensor:
    """1 where a score is above another, 1/2 where they tie: [B, K] x [B, M] -> [B, K, M]."""
    return ((scores[..., None] - others[:, None]).sign().double() + 1) / 2


def win_rate(scores: Tensor, others: Tensor, other_rewards: Tensor, n: int) -> Tensor:
    """P(the judge prefers a completion to a sampled Best-of-n): [B, K] x [B, M] x 2 -> [B].

    Best-of-n chooses by the reward; the mean is over all n-subsets. n = 1 is the reference.
    """
    return measures.best_of_n_value(wins(scores, others).mean(1), other_rewards, n)


def beaten(scores: Tensor) -> Tensor:
    """Share of a prompt's other completions with a lower score, ties half: [B, M] -> [B, M]."""
    return (wins(scores, scores).sum(2) - 0.5) / (scores.shape[1] - 1)  # but the tie with itself


def penalised(own: Tensor, others: Tensor) -> Tensor:
    """Chance that two of M reference completions are both better: [B, K] x [B, M] -> [B, K].

    Of rewards. That is when r_J (eq. 17) is -log 16; 1/3 on average for the reference itself, 1/6
    for its Best-of-2.
    """
    m = others.shape[1]
    better = (others[:, None].double() > own[..., None].double()).sum(2)
    return better * (better - 1) / (m * (m - 1))
