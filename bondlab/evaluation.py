"""What is measured: of a policy, on held-out prompts, and of a training step, in passing.

Legend: B prompts, N anchor completions, K policy completions per prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import processes, quantiles
from bondlab.bank import PROMPTS_A_PART, Bank
from bondlab.lm.completions import Completions, Prompts, slices, trimmed
from bondlab.lm.language_model import LanguageModel
from bondlab.processes import Share
from bondlab.rules import Scores
from bondlab.task import Task, score

COLUMNS = [
    *("source", "prompt", "sample", "reward", "log_prob", "reference_log_prob", "tokens"),
    *("kl", "quantile", "predicted_quantile", "text"),  # which some rows lack
]


@torch.no_grad()
def evaluate(
    policy: LanguageModel,
    reference: LanguageModel,
    task: Task,
    bank: Bank,
    samples: int,
    generators: Callable[[int], torch.Generator],
    predict: Callable[[Prompts, Completions], Tensor] | None = None,
    forward_kl: bool = True,
    at_once: int = PROMPTS_A_PART,
) -> pd.DataFrame:
    """Sample the policy on the held-out prompts and score the reference's samples.

    Args:
        policy, reference: the models; the distribution of both is the sampler's.
        bank: k reference samples of each of the task's held-out prompts (section 6: k = 32).
        samples: completions of the policy per prompt.
        generators: called with a batch's first prompt, gives the generator that the batch shares.
        predict: the learned quantile model, where there is one.
        forward_kl: whether the bank's completions are scored, too, which the forward KL needs.
        at_once: prompts that pass together, which changes numbers by rounding alone.

    Returns:
        One row per completion: source ("policy", or "reference" of the bank's), prompt, sample,
        reward, log_prob (of the policy, nats), reference_log_prob, tokens, predicted_quantile (by
        `predict`); of the policy's rows kl (to the reference, nats, of the next token, summed along
        the completion: `LanguageModel.score_beside`), quantile (under the bank) and text.
    """
    tables, total, hidden = [], len(task.eval_prompts), not processes.is_main()
    parts = [range(total)[rows] for rows in processes.mine(slices(total, PROMPTS_A_PART))]
    pieces = [(part, rows) for part in parts for rows in slices(len(part), at_once)]
    for part, rows in tqdm(pieces, desc="evaluation", leave=False, disable=hidden):
        index = [*part[rows]]
        texts = [task.eval_prompts[i] for i in index]
        prompts, share = policy.encode(texts), Share(rows, len(part))
        drawn = policy.sample(prompts, samples, generators(part[0]), share)
        rewards = score(task.reward, texts, policy.decode(drawn))
        others = bank.rewards[index]
        log_ref, kl = (x.sum(-1) for x in policy.score_beside(reference, *trimmed(prompts, drawn)))
        sides = {"policy": (drawn, rewards, drawn.log_prob, log_ref)}
        if forward_kl:
            stored = bank.completions.rows(index).to(policy.device)
            log_pi = policy(*trimmed(prompts, stored)).sum(-1)
            sides["reference"] = (stored, others, log_pi, stored.log_prob)
        for source, (completions, *measured) in sides.items():
            grids = dict(zip(COLUMNS[3:6], measured, strict=True), tokens=completions.lengths)
            if source == "policy":
                grids |= {"kl": kl, "quantile": quantiles.empirical(rewards, others)}
            if predict is not None:
                grids["predicted_quantile"] = predict(prompts, completions)
            table = _rows(source, index, grids)
            if source == "policy":
                table["text"] = [text for row in policy.decode(drawn) for text in row]
            tables.append(table)
    table = pd.concat(sum(processes.gathered(tables), []), ignore_index=True)
    return table.reindex(columns=COLUMNS).astype({"text": "string"})


def _rows(source: str, index: Sequence[int], grids: Mapping[str, Tensor]) -> pd.DataFrame:
    """Measures [B, K] of the prompts with these numbers, a row per completion."""
    table = pd.DataFrame({name: grid.flatten().tolist() for name, grid in grids.items()})
    k = len(table) // len(index)
    sample = [*range(k)] * len(index)
    return table.assign(source=source, prompt=np.repeat(index, k), sample=sample)


def means(table: pd.DataFrame) -> dict[str, float]:
    """Means over the policy's completions in `evaluate`'s table: reward, log_quantile (nats) and
    kl_to_reference (nats)."""
    own = table[table["source"] == "policy"]
    return {
        "reward": own["reward"].mean(),
        "log_quantile": np.log(own["quantile"]).mean(),
        "kl_to_reference": own["kl"].mean(),
    }


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
