"""What a training step tells of its batch without another pass through a model.

Legend: B prompts, N anchor completions, K policy completions a prompt.
"""

from __future__ import annotations

from torch import Tensor

from bondlab.lm.completions import Completions
from bondlab.rules import Scores


def measure(scores: Scores, drawn: Completions | None) -> dict[str, Tensor]:
    """Means over a batch, as far as there is anything to measure.

    Args:
        scores: what the rule was given.
        drawn: the policy's completions, or None if there are none.

    Returns:
        Of the policy's completions reward, kl_to_anchor (mean log ratio, nats), tokens, entropy
        (mean -log pi per token, nats) and log_quantile; best_reward of the anchor's N; penalised,
        the share of the policy's completions that are worse than all N: where N is 2, those that
        J-BOND penalises, 1/3 of them while the policy is its anchor (eq. 17).
    """
    values = {} if drawn is None else _of_policy(scores, drawn)
    anchors = scores.anchor_rewards
    if anchors.shape[1]:
        values["best_reward"] = anchors.amax(1).mean()
        if drawn is not None:
            worse = scores.policy_rewards < anchors.amin(1, keepdim=True)
            values["penalised"] = worse.float().mean()
    return values


def _of_policy(scores: Scores, drawn: Completions) -> dict[str, Tensor]:
    values = {
        "reward": scores.policy_rewards.mean(),
        "kl_to_anchor": scores.log_ratio.mean(),
        "tokens": drawn.lengths.float().mean(),
        "entropy": -drawn.log_prob.sum() / drawn.lengths.sum(),
    }
    if scores.quantiles is not None:
        values["log_quantile"] = scores.quantiles.log().mean()
    return values
