"""Measure a policy on held-out prompts: one row a completion, from which every measure is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import quantiles
from bondlab.bank import Bank
from bondlab.lm.completions import Completions, Prompts
from bondlab.lm.language_model import LanguageModel
from bondlab.rewards import score
from bondlab.task import Task

# Columns that some rows lack.
OPTIONAL = {"quantile": "float64", "predicted_quantile": "float64", "text": "string"}


def evaluate(
    policy: LanguageModel,
    reference: LanguageModel,
    task: Task,
    bank: Bank,
    samples: int,
    prompts_at_once: int,
    generators: Callable[..., torch.Generator],
    predict: Callable[[Prompts, Completions], Tensor] | None = None,
) -> pd.DataFrame:
    """Sample the policy on the held-out prompts and rescore the reference's samples.

    Args:
        policy, reference: the models; the law of both is the sampler's.
        task: for its held-out prompts and its reward.
        bank: k reference samples of each held-out prompt (section 6: k = 32).
        samples: completions of the policy a prompt.
        prompts_at_once: prompts passed through together.
        generators: called with a batch's first prompt, gives its generator.
        predict: the learned quantile model, where there is one.

    Returns:
        One row a completion: source ("policy" or "reference"), prompt, sample, reward, quantile (of
        the policy's rows, under the bank), predicted_quantile (by `predict`; missing without it),
        log_prob (of the policy, nats), reference_log_prob, tokens, text (of the policy's rows).
        The reference's rows are the bank's samples scored by the policy, which the forward KL
        needs.
    """
    total = len(task.eval_prompts)
    tables = []
    for start in tqdm(range(0, total, prompts_at_once), desc="evaluation", leave=False):
        index = list(range(start, min(start + prompts_at_once, total)))
        generator = generators(start)
        tables += _evaluate(policy, reference, task, bank, samples, index, generator, predict)
    return pd.concat(tables, ignore_index=True)


@torch.no_grad()
def _evaluate(
    policy: LanguageModel,
    reference: LanguageModel,
    task: Task,
    bank: Bank,
    samples: int,
    index: list[int],
    generator: torch.Generator,
    predict: Callable[[Prompts, Completions], Tensor] | None,
) -> Iterator[pd.DataFrame]:
    texts = [task.eval_prompts[i] for i in index]
    prompts = policy.encode(texts)
    drawn = policy.sample(prompts, samples, generator)
    decoded = policy.decode(drawn)
    rewards = score(task.reward, texts, decoded)
    ranks = quantiles.empirical(rewards, bank.rewards[index])
    reference_log_prob = reference(prompts, drawn).sum(-1)
    table = _rows("policy", index, rewards, drawn, drawn.log_prob, reference_log_prob)
    table["quantile"] = ranks.flatten().tolist()
    table["text"] = [text for row in decoded for text in row]
    stored = bank.completions.rows(index).to(policy.device)
    rescored = policy(prompts, stored).sum(-1)
    others = _rows("reference", index, bank.rewards[index], stored, rescored, stored.log_prob)
    for part, completions in ((table, drawn), (others, stored)):
        if predict is not None:
            part["predicted_quantile"] = predict(prompts, completions).flatten().tolist()
        yield part.astype(OPTIONAL)


def _rows(
    source: str,
    index: list[int],
    rewards: Tensor,
    completions: Completions,
    log_prob: Tensor,
    reference_log_prob: Tensor,
) -> pd.DataFrame:
    """A tidy table of [B, K] tensors."""
    k = rewards.shape[1]
    table = pd.DataFrame(
        {
            "source": source,
            "prompt": [i for i in index for _ in range(k)],
            "sample": list(range(k)) * len(index),
            "reward": rewards.flatten().tolist(),
            "log_prob": log_prob.flatten().tolist(),
            "reference_log_prob": reference_log_prob.flatten().tolist(),
            "tokens": completions.lengths.flatten().tolist(),
        }
    )
    return table.assign(**dict.fromkeys(OPTIONAL))
