"""The second judge: scores the completions of finished runs, which no training sees.

A policy learns its reward's mistakes with the rest. The judge is another architecture trained on
other data (`scorers`), so what rises under both is worth more than what rises under one. It reads
what evaluations left and is no part of a run's identity; its scores are kept beside the texts, in
a file named by the judge, so a new judge scores anew and trains nothing.

Legend: B prompts, K policy completions, M reference completions of the held-out bank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from bondlab import device, measures, results
from bondlab.assets import file_digest
from bondlab.bank import BankFolder
from bondlab.results import RunFolder, write_atomically
from bondlab.task import Reward, score
from bondlab.tasks import Task, TaskSettings, scorers

JUDGES = {"sentiment": "sentiment_judge", "chat": "chat_judge"}


@dataclass(frozen=True)
class Judge:
    """A second opinion: higher is better, on a scale of its own.

    Args:
        score: as any `task.Reward`.
        identity: names the judge in the files that keep its scores.
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


# -- scores, kept beside the texts -----------------------------------------------------------------


def run_scores(run: RunFolder, task: Task, judge: Judge) -> pd.DataFrame:
    """The judge's score of every completion that a run's policy was measured with.

    Returns:
        step, prompt, sample, judge: a row a completion.
    Raises:
        ValueError: the run is not finished, so its evaluations may lack some.
    """
    if not run.finished:
        raise ValueError(f"{run.path} is not finished: a judge would score half of it")
    texts = file_digest(run.path / "evaluation.parquet")[:12]
    return _kept(run.path, judge, lambda: _score_evaluation(run.evaluation(), task, judge), texts)


def bank_scores(folder: BankFolder, task: Task, judge: Judge) -> Tensor:
    """The judge's scores [B, M] of the reference's stored completions."""

    def compute() -> pd.DataFrame:
        texts = task.model.decode(folder.load().completions)
        scores = judge(folder.prompts, texts)
        prompt, sample = (grid.flatten() for grid in torch.meshgrid(
            *map(torch.arange, scores.shape), indexing="ij"
        ))  # fmt: skip
        columns = {"prompt": prompt, "sample": sample, "judge": scores.flatten()}
        return pd.DataFrame({name: values.numpy() for name, values in columns.items()})

    return _grid(_kept(folder.path, judge, compute))


def _score_evaluation(evaluation: pd.DataFrame, task: Task, judge: Judge) -> pd.DataFrame:
    own = evaluation[evaluation["source"] == "policy"].sort_values(["step", "prompt", "sample"])
    parts = []
    for _, part in own.groupby("step"):
        texts = [list(texts) for _, texts in part.groupby("prompt")["text"]]
        scores = judge(task.eval_prompts, texts)
        parts.append(part[["step", "prompt", "sample"]].assign(judge=scores.flatten().numpy()))
    return pd.concat(parts, ignore_index=True)


def _kept(
    folder: Path, judge: Judge, compute: Callable[[], pd.DataFrame], texts: str = "all"
) -> pd.DataFrame:
    # In a folder of its own: what lies beside it is what the run itself left.
    path = folder / "judged" / f"{judge.identity}-{texts}.parquet"
    if not path.exists():
        write_atomically(path, compute().to_parquet(index=False))
    return pd.read_parquet(path)


def _grid(table: pd.DataFrame) -> Tensor:
    wide = table.pivot(index="prompt", columns="sample", values="judge")
    return torch.from_numpy(wide.to_numpy(dtype="float64", copy=True))


# -- measures --------------------------------------------------------------------------------------


def wins(scores: Tensor, others: Tensor) -> Tensor:
    """1 where a score is above another, 1/2 where they tie: [B, K] x [B, M] -> [B, K, M]."""
    first, second = scores[..., None], others[:, None]
    return (first > second).double() + 0.5 * (first == second).double()


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
    m = scores.shape[1]
    beaten = (wins(scores, scores).sum(2) - 0.5) / (m - 1)  # without the tie with itself
    return measures.best_of_n_value(beaten, proxy_rewards, n)


def per_prompt(
    judged: pd.DataFrame, bank: Tensor, bank_rewards: Tensor, sizes: Sequence[int]
) -> pd.DataFrame:
    """The judge's measures of a run, a row a step and prompt.

    Args:
        judged: as `run_scores` gives it; bank: as `bank_scores`; bank_rewards: [B, M].
    Returns:
        step, prompt, judge (mean score) and, for each n of `sizes`, win_over_<n>.
    """
    parts = []
    for step, part in judged.groupby("step"):
        own = _grid(part)
        columns = {"judge": own.mean(1)}
        columns |= {f"win_over_{n}": win_rate(own, bank, bank_rewards, n) for n in sizes}
        parts.append(_table(columns).assign(step=step))
    return pd.concat(parts, ignore_index=True)


def best_of_n(bank: Tensor, bank_rewards: Tensor, sizes: Sequence[int]) -> pd.DataFrame:
    """The judge's score of sampled Best-of-n and its win rate over the reference: a row a size
    and prompt, with the columns n, prompt, judge and win_over_1."""
    parts = [
        _table({
            "judge": measures.best_of_n_value(bank, bank_rewards, n),
            "win_over_1": win_rate_of_best(bank, bank_rewards, n),
        }).assign(n=n)
        for n in sizes
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def _table(columns: dict[str, Tensor]) -> pd.DataFrame:
    table = pd.DataFrame({name: values.numpy() for name, values in columns.items()})
    return table.assign(prompt=range(len(table)))
