"""The second judge: scores the completions of finished runs, which no training sees.

A policy learns its reward's mistakes with the rest. The judge is another architecture trained on
other data (`scorers`), so what rises under both is worth more than what rises under one. It reads
what evaluations left, and is no part of a run's identity: a new one trains nothing anew.

Legend: B prompts, K policy completions, M reference completions of the held-out bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from bondlab import device, measures, results
from bondlab.assets import file_digest
from bondlab.bank import BankFolder, spread
from bondlab.report.kept import Tables, once
from bondlab.results import RunFolder
from bondlab.study.sweep import Spec
from bondlab.task import Reward, score
from bondlab.tasks import Task, TaskSettings, scorers

JUDGES = {"sentiment": "sentiment_judge", "chat": "chat_judge"}


@dataclass(frozen=True)
class Judge:
    """A second opinion: higher is better, on a scale of its own.

    Args:
        score: as any `Reward`.
        identity: names the judge where its scores are kept.
        precision: "bf16" or "fp32".
    """

    score: Reward
    identity: str
    precision: str

    def __call__(self, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
        """Scores [B, K] of B lists of K texts, checked as rewards are."""
        with torch.no_grad(), device.accelerator(self.precision).autocast():
            return score(self.score, prompts, completions)


def judge_of(settings: TaskSettings, precision: device.Precision = "auto") -> Judge:
    """The judge of a task.

    Raises:
        ValueError: the task has none.
    """
    precision = device.resolve(precision)
    if settings.name == "tiny_causal":
        return Judge(tiny_judge, "tiny", precision)
    if settings.name not in JUDGES:
        raise ValueError(f"the task {settings.name} has no judge: {', '.join(JUDGES)} have")
    name = JUDGES[settings.name]
    digest = results.digest([name, scorers.identity(name), precision])
    return Judge(scorers.load(name, precision), digest, precision)


def tiny_judge(prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
    """For the smoke profile: the share of a prompt's different words that a completion has."""
    known = [set(prompt.split()) for prompt in prompts]
    return torch.tensor([
        [len(words & set(text.split())) / len(words) for text in texts]
        for words, texts in zip(known, completions, strict=True)
    ])  # fmt: skip


# -- scores, made once -----------------------------------------------------------------------------


def run_scores(run: RunFolder, task: Task, judge: Judge) -> pd.DataFrame:
    """Every completion of a finished run's policy: step, prompt, sample, reward, judge (score)."""

    def measure() -> pd.DataFrame:
        own, parts = run.evaluation().query("source == 'policy'"), []
        for _, part in own.sort_values(["step", "prompt", "sample"]).groupby("step"):
            texts = [list(texts) for _, texts in part.groupby("prompt")["text"]]
            scores = judge(task.eval_prompts, texts).flatten().numpy()
            parts.append(part[["step", "prompt", "sample", "reward"]].assign(judge=scores))
        return pd.concat(parts, ignore_index=True)

    texts = file_digest(run.path / "evaluation.parquet")  # a run made again may have others
    return once("judged", {"judge": judge.identity, "run": run.path.name, "texts": texts}, measure)[
        0
    ]


def bank_scores(bank: BankFolder, task: Task, judge: Judge) -> Tensor:
    """The judge's scores [B, M] of the reference's stored completions."""

    def measure() -> pd.DataFrame:
        texts = task.model.decode(bank.load().completions)
        return pd.DataFrame(judge(bank.prompts, texts).numpy()).add_prefix("sample ")

    table, _ = once("judged", {"judge": judge.identity, "bank": bank.path.name}, measure)
    return _tensor(table)


def _tensor(table: pd.DataFrame) -> Tensor:
    return torch.from_numpy(table.to_numpy("float64", copy=True))


# -- measures --------------------------------------------------------------------------------------


def judged(found: Tables, specs: Sequence[Spec], folders: Sequence[RunFolder]) -> Tables:
    """The tables of finished runs of one task with the second judge's columns.

    In evaluations those of `per_prompt` and spread (of the reference's rewards within a prompt), in
    baselines those of `best_of_n`; both for the sizes N of the baselines.
    """
    task, held_out = specs[0].build(), specs[0].banks()[-1]
    judge = judge_of(specs[0].task, specs[0].config.precision)
    others, ranks = bank_scores(held_out, task, judge), held_out.load().rewards
    base, parts = found["baselines"], []
    sizes = sorted(base["n"].unique())
    for spec, folder in zip(specs, folders, strict=True):
        part = per_prompt(run_scores(folder, task, judge), others, ranks, sizes)
        parts.append(part.assign(series=spec.labels["series"], seed=spec.labels["seed"]))
    keys = ["series", "seed", "step", "prompt"]
    evaluations = found["evaluations"].merge(pd.concat(parts), on=keys, validate="one_to_one")
    best = best_of_n(others, ranks, sizes)
    return found | {
        "evaluations": evaluations.assign(spread=spread(ranks)),
        "baselines": base.merge(best, on=["n", "prompt"], validate="one_to_one"),
    }


def per_prompt(
    scored: pd.DataFrame, others: Tensor, ranks: Tensor, sizes: Sequence[int]
) -> pd.DataFrame:
    """The judge's measures of a run, a row a step and prompt.

    Args:
        scored: as `run_scores` gives it.
        others, ranks: scores and rewards [B, M] of the reference's completions.

    Returns:
        step, prompt, judge (mean score), `penalised`, and for each n of `sizes` win_over_<n>, the
        win rate over sampled Best-of-n of the reference (1: the reference itself).
    """
    parts = []
    for step, part in scored.groupby("step"):
        wide = part.pivot(index="prompt", columns="sample", values=["judge", "reward"])
        own, reward = (_tensor(wide[name]) for name in ("judge", "reward"))
        columns = {"judge": own.mean(1), "penalised": penalised(reward, ranks).mean(1)}
        columns |= {f"win_over_{n}": win_rate(own, others, ranks, n) for n in sizes}
        parts.append(_table(columns).assign(step=step))
    return pd.concat(parts, ignore_index=True)


def best_of_n(scores: Tensor, ranks: Tensor, sizes: Sequence[int]) -> pd.DataFrame:
    """The judge of sampled Best-of-n, a row a size and prompt: n, prompt, judge, win_over_1."""
    parts = []
    for n in sizes:
        means, wins = measures.best_of_n_value(scores, ranks, n), win_rate_of_best(scores, ranks, n)
        parts.append(_table({"judge": means, "win_over_1": wins}).assign(n=n))
    return pd.concat(parts, ignore_index=True)


def _table(columns: dict[str, Tensor]) -> pd.DataFrame:
    table = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    return table.assign(prompt=range(len(table)))


def wins(scores: Tensor, others: Tensor) -> Tensor:
    """1 where a score is above another, 1/2 where they tie: [B, K] x [B, M] -> [B, K, M]."""
    return ((scores[..., None] - others[:, None]).sign().double() + 1) / 2


def win_rate(scores: Tensor, others: Tensor, other_rewards: Tensor, n: int) -> Tensor:
    """P(the judge prefers the policy's completion to a sampled Best-of-n), ties half.

    [B, K] x [B, M] x [B, M] -> [B]. Best-of-n chooses by the reward, as it would in use; the mean
    is over all n-subsets of the M completions. n = 1 is one completion of the reference.
    """
    return measures.best_of_n_value(wins(scores, others).mean(1), other_rewards, n)


def win_rate_of_best(scores: Tensor, proxy_rewards: Tensor, n: int) -> Tensor:
    """P(the judge prefers a sampled Best-of-n to another completion of the reference).

    [B, M] x [B, M] -> [B]; `scores` are the judge's, Best-of-n chooses by `proxy_rewards`. Each
    chosen completion meets the M - 1 others, so at n = 1 this is 1/2.
    """
    beaten = (wins(scores, scores).sum(2) - 0.5) / (scores.shape[1] - 1)  # but the tie with itself
    return measures.best_of_n_value(beaten, proxy_rewards, n)


def penalised(own: Tensor, others: Tensor) -> Tensor:
    """Chance that two of M reference completions are both better: [B, K] x [B, M] -> [B, K].

    Of rewards. That is when r_J (eq. 17) is -log 16; 1/3 on average for the reference itself, 1/6
    for its Best-of-2 (section 4.2 of the paper's algorithm with an anchor that stays).
    """
    m = others.shape[1]
    better = (others[:, None].double() > own[..., None].double()).sum(2)
    return better * (better - 1) / (m * (m - 1))
