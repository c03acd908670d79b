"""What is measured: of a policy, on held-out prompts, and of a training step, in passing.

Legend: B prompts, N anchor completions, K policy completions a prompt.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import quantiles
from bondlab.bank import PROMPTS_A_PART, Bank, draw
from bondlab.lm.completions import Completions, Prompts
from bondlab.lm.language_model import LanguageModel
from bondlab.rules import Scores
from bondlab.task import Task

# Columns that some rows lack.
OPTIONAL = {"quantile": "float64", "predicted_quantile": "float64", "text": "string"}


@torch.no_grad()
def evaluate(
    policy: LanguageModel,
    reference: LanguageModel,
    task: Task,
    bank: Bank,
    samples: int,
    generators: Callable[[int], torch.Generator],
    predict: Callable[[Prompts, Completions], Tensor] | None = None,
) -> pd.DataFrame:
    """Sample the policy on the held-out prompts and rescore the reference's samples.

    Args:
        policy, reference: the models; the law of both is the sampler's.
        task: for its held-out prompts and its reward.
        bank: k reference samples of each held-out prompt (section 6: k = 32).
        samples: completions of the policy a prompt.
        generators: called with a batch's first prompt, gives the generator that the batch shares.
        predict: the learned quantile model, where there is one.

    Returns:
        One row a completion: source ("policy" or "reference"), prompt, sample, reward, log_prob (of
        the policy, nats), reference_log_prob, tokens, quantile (of the policy's rows, under the
        bank), predicted_quantile (by `predict`; missing without it), text (of the policy's rows).
        The reference's rows are the bank's samples scored by the policy, which the forward KL
        needs.
    """
    tables, total = [], len(task.eval_prompts)
    for start in tqdm(range(0, total, PROMPTS_A_PART), desc="evaluation", leave=False):
        index = list(range(start, min(start + PROMPTS_A_PART, total)))
        texts = [task.eval_prompts[i] for i in index]
        prompts = policy.encode(texts)
        drawn, rewards = draw(policy, task.reward, texts, samples, generators(start), prompts)
        stored, others = bank.completions.rows(index).to(policy.device), bank.rewards[index]
        own = _rows(index, rewards, drawn, drawn.log_prob, reference(prompts, drawn).sum(-1))
        own["quantile"] = quantiles.empirical(rewards, others).flatten().tolist()
        own["text"] = [text for row in policy.decode(drawn) for text in row]
        rescored = policy(prompts, stored).sum(-1)
        theirs = _rows(index, others, stored, rescored, stored.log_prob)
        for source, part, completions in (("policy", own, drawn), ("reference", theirs, stored)):
            if predict is not None:
                part["predicted_quantile"] = predict(prompts, completions).flatten().tolist()
            part.insert(0, "source", source)
            tables.append(part.astype(OPTIONAL))
    return pd.concat(tables, ignore_index=True)


def _rows(
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
            "prompt": [i for i in index for _ in range(k)],
            "sample": list(range(k)) * len(index),
            "reward": rewards.flatten().tolist(),
            "log_prob": log_prob.flatten().tolist(),
            "reference_log_prob": reference_log_prob.flatten().tolist(),
            "tokens": completions.lengths.flatten().tolist(),
        }
    )
    return table.assign(**dict.fromkeys(OPTIONAL))


def step_measures(scores: Scores, drawn: Completions | None) -> dict[str, Tensor]:
    """Means over a batch that need no further pass through a model, as far as there are any.

    Of the policy's completions `drawn` reward, kl_to_anchor (mean log ratio, nats), tokens, entropy
    (mean -log pi per token, nats) and log_quantile; best_reward of the anchor's N; penalised, the
    share of the policy's completions that are worse than all N: where N is 2, those that J-BOND
    penalises, 1/3 of them while the policy is its anchor (eq. 17).
    """
    values, anchors = {}, scores.anchor_rewards
    if drawn is not None:
        values["reward"] = scores.policy_rewards.mean()
        values["kl_to_anchor"] = scores.log_ratio.mean()
        values["tokens"] = drawn.lengths.float().mean()
        values["entropy"] = -drawn.log_prob.sum() / drawn.lengths.sum()
        if scores.quantiles is not None:
            values["log_quantile"] = scores.quantiles.log().mean()
    if anchors.shape[1]:
        values["best_reward"] = anchors.amax(1).mean()
        if drawn is not None:
            worse = scores.policy_rewards < anchors.amin(1, keepdim=True)
            values["penalised"] = worse.float().mean()
    return values
