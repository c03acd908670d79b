"""From evaluations, one row per completion, to tidy tables, one row per run, step and prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor

from bondlab import measures
from bondlab.bank import Bank
from bondlab.lm.language_model import LanguageModel
from bondlab.study import summaries
from bondlab.tasks import Task


def per_prompt(evaluation: pd.DataFrame, n: int, task: Task) -> pd.DataFrame:
    """Every measure of a run's evaluations, a row per step and prompt.

    Args:
        evaluation: as `trainer.Trainer.evaluate` makes it.
        n: the Best-of-n size that both divergences refer to.
        task: for the documents and references behind the text measures.

    Returns:
        step, prompt, backward_kl, forward_kl (where the bank was scored), log_quantile,
        kl_to_reference, entropy (nats per completion), reward (as the task's reward gives it),
        p_reward (its logistic: the probability of entailment for an entailment reward), tokens,
        and the text measures' means.
    """
    rows = [_step(table, int(step), n, task) for step, table in evaluation.groupby("step")]
    return pd.concat(rows, ignore_index=True)


def _step(table: pd.DataFrame, step: int, n: int, task: Task) -> pd.DataFrame:
    own, bank = (table[table["source"] == source] for source in ("policy", "reference"))
    names = ("log_prob", "kl", "quantile", "reward", "tokens")
    log_pi, kl, quantile, reward, tokens = (by_sample(own, name) for name in names)
    columns = {
        "backward_kl": measures.backward_kl(kl, quantile, n),
        "log_quantile": quantile.log().mean(-1),
        "kl_to_reference": kl.mean(-1),
        "entropy": -log_pi.mean(-1),
        "reward": reward.mean(-1),
        "p_reward": reward.sigmoid().mean(-1),
        "tokens": tokens.mean(-1),
    }
    if len(bank):
        scored = (by_sample(bank, name) for name in ("log_prob", "reference_log_prob", "reward"))
        columns["forward_kl"] = measures.forward_kl(*scored, n)
    texts = [
        list(group) for _, group in own.sort_values(["prompt", "sample"]).groupby("prompt")["text"]
    ]
    described = summaries.describe(task.eval_prompts, texts, task.eval_references)
    means = described.groupby("prompt").mean().drop(columns="sample")
    places = {"step": step, "prompt": range(len(reward))}
    values = {name: value.numpy() for name, value in columns.items()}
    return pd.DataFrame(places | values).join(means)


def by_sample(table: pd.DataFrame, column: str) -> Tensor:
    """A column of the table as [B, K] in float64, prompts and samples in ascending order."""
    wide = table.pivot(index="prompt", columns="sample", values=column)
    return torch.from_numpy(wide.to_numpy(dtype="float64", copy=True))


def best_of_n(bank: Bank, sizes: Sequence[int], model: LanguageModel, task: Task) -> pd.DataFrame:
    """The same measures for sampled Best-of-n of the reference, a row a size and prompt.

    n = 1 is the reference itself. Each is that of `best_of` among the bank's samples; the
    KL to the reference is the bound log n - (n-1)/n, and the log quantile its closed form -1/n
    (exact for continuous rewards, to which estimates from the samples themselves add only noise).
    """
    texts = model.decode(bank.completions)
    described = summaries.describe(task.eval_prompts, texts, task.eval_references)
    values = {
        "reward": bank.rewards,
        "p_reward": bank.rewards.sigmoid(),
        "tokens": bank.completions.lengths,
    }
    values |= {name: by_sample(described, name) for name in described.columns[2:]}
    table = best_of(values, bank.rewards, sizes)
    kl = table["n"].map(measures.kl_bound)
    return table.assign(kl_to_reference=kl, log_quantile=-1 / table["n"])


def best_of(values: Mapping[str, Tensor], rewards: Tensor, sizes: Iterable[int]) -> pd.DataFrame:
    """Measures [B, K] of the best of n by the reward: n, prompt and each, a row a size and prompt.

    Each is the mean over all n-subsets of the K (`measures.best_of_n_value`), without bias.
    """
    parts = []
    for n in sizes:
        best = {name: measures.best_of_n_value(x, rewards, n) for name, x in values.items()}
        columns = {name: x.numpy() for name, x in best.items()}
        parts.append(pd.DataFrame({"n": n, "prompt": range(len(rewards)), **columns}))
    return pd.concat(parts, ignore_index=True)
