"""Reward quantiles p_<= from samples of the reference or anchor policy.

Legend: B prompts, K completions a prompt, M reference samples a prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Learned:
    """Settings of a quantile model trained beside the policy; see `quantile_model`.

    Args:
        learning_rate: Adam's for the model; not stated in the paper.
        floor: the least p_<= it may say; not stated, chosen because counting 16 samples, which
            it replaces, never says less than 1/32 either.

    Raises:
        ValueError: a rate not above 0, or a floor outside (0, 1).
    """

    learning_rate: float = 1e-3
    floor: float = 1 / 32

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate!r}.")
        if not 0 < self.floor < 1:
            raise ValueError(f"floor must lie between 0 and 1, got {self.floor!r}.")


@torch.no_grad()
def empirical(rewards: Tensor, reference_rewards: Tensor) -> Tensor:
    """Share of the reference samples that score no higher than each completion (eq. 9-10).

    A completion below every reference sample would get 0, and log 0 in the return. The paper
    names no smoothing; floored at 1/(2M), chosen because it biases the mean log quantile of
    reference samples least (-1.009 at M = 16, where add-one gives -0.862 and the truth is -1).
    Rewards are compared, not checked: a NaN counts as below everything. No gradient, no
    synchronisation.

    Args:
        rewards: [B, K].
        reference_rewards: [B, M], M at least 1.

    Returns:
        [B, K] in [1/(2M), 1], in the floating type of `rewards`.

    Raises:
        ValueError: no reference sample, or different prompts.
    """
    m = reference_rewards.shape[-1]
    if m == 0:
        raise ValueError("empirical needs at least one reference reward a prompt.")
    if rewards.shape[:-1] != reference_rewards.shape[:-1]:
        raise ValueError(
            f"rewards {tuple(rewards.shape)} and reference_rewards "
            f"{tuple(reference_rewards.shape)} must have the same prompts."
        )
    beaten = reference_rewards.unsqueeze(-2) <= rewards.unsqueeze(-1)
    return beaten.to(torch.result_type(rewards, 1.0)).mean(dim=-1).clamp(min=1 / (2 * m))
