"""Reward quantiles p_<= under the anchor: counted from its samples, or learned from one per prompt.

Both estimators are called alike, so neither the loop nor the rule knows which one it has.

Legend: B prompts, K policy completions per prompt, M anchor samples per prompt, D hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import clip_grad_norm_

from bondlab import device, processes
from bondlab.rules import check

if TYPE_CHECKING:  # who counts need not wait for transformers
    from bondlab.lm.completions import Completions, Prompts
    from bondlab.lm.language_model import LanguageModel


@torch.no_grad()
def empirical(rewards: Tensor, reference_rewards: Tensor) -> Tensor:
    """Share of the reference samples that score no higher than each completion (eq. 9-10).

    A completion below every reference sample would get 0, and log 0 in the return. The paper
    names no smoothing; floored at 1/(2M), chosen because it biases the mean log quantile of
    reference samples least (-1.009 at M = 16, where add-one gives -0.862 and the truth is -1).
    Rewards are compared, not checked: a NaN is no higher than anything. No gradient.

    Args:
        rewards: [B, K].
        reference_rewards: [B, M], M at least 1.

    Returns:
        [B, K] in [1/(2M), 1], in the floating type of `rewards`.

    Raises:
        ValueError: no reference sample, or different prompts.
    """
    m, shapes = reference_rewards.shape[-1], (rewards.shape, reference_rewards.shape)
    check("empirical needs at least one reference reward a prompt", m > 0, m)
    same = rewards.shape[:-1] == reference_rewards.shape[:-1]
    check("rewards and reference_rewards must have the same prompts", same, shapes)
    beaten = reference_rewards.unsqueeze(-2) <= rewards.unsqueeze(-1)
    return beaten.to(torch.result_type(rewards, 1.0)).mean(dim=-1).clamp(min=1 / (2 * m))


class Counted:
    """p_hat as the share of M anchor samples that score no higher: `empirical`."""

    losses: Mapping[str, Tensor] = {}
    predict = None  # nothing is learned that could be asked about other completions

    def __call__(
        self,
        prompts: Prompts,
        completions: Completions,
        rewards: Tensor,
        others: Tensor,
        total: int | None = None,
    ) -> Tensor:
        """Quantiles [B, K] of completions with these rewards [B, K], others' rewards [B, M]."""
        return empirical(rewards, others)

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        pass


@dataclass(frozen=True)
class Learned:
    """Settings of a quantile model trained beside the policy; see `LearnedQuantiles`.

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
        check("learning_rate must be above 0", self.learning_rate > 0, self.learning_rate)
        check("floor must lie between 0 and 1", 0 < self.floor < 1, self.floor)


class QuantileModel(nn.Module):
    """p_<=(x, y) as a classifier: the reference with a LoRA adapter and a scalar head (B.1).

    The head reads the last hidden state, after the end token. It starts at zero, so that the first
    estimate of every quantile is 1/2. Neither is stated in the paper.

    Args:
        reference: whose weights it starts from, and shares where there is a LoRA rank.
        rank: of the adapter; None trains a whole copy.
    """

    def __init__(self, reference: LanguageModel, rank: int | None, seed: int = 0) -> None:
        super().__init__()
        self.body = reference.trainable_copy(rank, seed)
        width = self.body.model.get_output_embeddings().weight.shape[1]
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.to(reference.device)

    def forward(self, prompts: Prompts, completions: Completions) -> Tensor:
        """Logits [B, K] of p_<=, float32."""
        states = self.body.last_state(prompts, completions)
        with torch.autocast(states.device.type, enabled=False):
            return self.head(states.float())[..., 0]

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that training changes, in a fixed order."""
        return [*self.body.trainable(), *self.head.parameters()]


class LearnedQuantiles:
    """p_theta, and its training by binary cross-entropy on the anchor's samples (eq. 25).

    `clip` is of its gradient's norm, `micro_batch` as in `Config`.
    """

    def __init__(
        self,
        model: QuantileModel,
        settings: Learned,
        precision: device.Precision,
        clip: float,
        micro_batch: int,
    ) -> None:
        self.model, self.settings, self.precision = model, settings, precision
        self.clip, self.micro_batch = clip, micro_batch
        self.optimizer = device.adam(model.trainable(), settings.learning_rate)
        self.losses: Mapping[str, Tensor] = {}

    def __call__(
        self,
        prompts: Prompts,
        completions: Completions,
        rewards: Tensor,
        others: Tensor,
        total: int | None = None,
    ) -> Tensor:
        """Quantiles [B, K] as the model stands; then it learns from the same batch.

        Trained on the policy's completions, as B.1 implies: the label of a completion is whether
        an anchor sample of its prompt, others [B, M], scores no higher than its reward [B, K].
        `total` prompts are in the batch of which these are a process's share; by default all.
        """
        from bondlab.lm.completions import micro_batches

        completed = (total or len(rewards)) * rewards.shape[1]
        labels = (others.unsqueeze(-2) <= rewards.unsqueeze(-1)).float().mean(-1)
        labels = labels.to(prompts.ids.device)
        learned, found = labels.new_zeros(()), []
        for places, *part in micro_batches(prompts, completions, self.micro_batch):
            with device.autocast(self.precision):
                logits = self.model(*part)
            # A sum over B*K completions, so that micro-batches add up to the batch's mean.
            loss = binary_cross_entropy_with_logits(logits, labels[places], reduction="sum")
            loss = loss / completed
            loss.backward()
            learned += loss.detach()
            found.append((places, logits.detach()))
        processes.add_gradients(self.model.trainable(), learned)
        clip_grad_norm_(self.model.trainable(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses = {"quantile_loss": learned}
        # Back in the order of the prompts.
        places, predicted = (torch.cat(parts) for parts in zip(*found, strict=True))
        predicted = predicted.sigmoid()[places.argsort()]
        return predicted.clamp(min=self.settings.floor).to(rewards.device)

    @torch.no_grad()
    def predict(self, prompts: Prompts, completions: Completions) -> Tensor:
        """Quantiles [B, K] as the model stands, without learning and without the floor."""
        return self.model(prompts, completions).sigmoid()

    def state(self) -> dict[str, Any]:
        """Parameters and optimiser, for a checkpoint."""
        parameters = [p.detach() for p in self.model.trainable()]
        return {"parameters": parameters, "optimizer": self.optimizer.state_dict()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """What `state` returned, put back."""
        for parameter, value in zip(self.model.trainable(), state["parameters"], strict=True):
            parameter.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
