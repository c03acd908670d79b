"""Quantiles of a batch: counted from the anchor's samples, or learned from one sample a prompt.

Both estimators are called alike, so neither the loop nor the rule knows which one it has.

Legend: B prompts, K policy completions a prompt, M anchor samples a prompt, D hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from bondlab import quantiles
from bondlab.lm.completions import Completions, Prompts
from bondlab.lm.language_model import LanguageModel
from bondlab.quantiles import Learned


class Counted:
    """p_hat as the share of M anchor samples that score no higher (eq. 9-10)."""

    losses: Mapping[str, Tensor] = {}
    predict = None  # nothing is learned that could be asked about other completions

    def __call__(
        self, prompts: Prompts, completions: Completions, rewards: Tensor, others: Tensor
    ) -> Tensor:
        """Quantiles [B, K] of completions with these rewards [B, K], others' rewards [B, M]."""
        return quantiles.empirical(rewards, others)

    def state(self) -> dict[str, Any]:
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        pass


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

    Args:
        model: the classifier.
        settings: learning rate and floor.
        clip: of its gradient's norm.
        micro_batch: prompts passed through together.
    """

    def __init__(
        self,
        model: QuantileModel,
        settings: Learned,
        accelerator: Accelerator,
        clip: float,
        micro_batch: int,
    ) -> None:
        self.model, self.settings, self.accelerator = model, settings, accelerator
        self.clip, self.micro_batch = clip, micro_batch
        adam = torch.optim.AdamW(model.trainable(), lr=settings.learning_rate, weight_decay=0.0)
        self.optimizer = accelerator.prepare(adam)
        self.losses: Mapping[str, Tensor] = {}

    def __call__(
        self, prompts: Prompts, completions: Completions, rewards: Tensor, others: Tensor
    ) -> Tensor:
        """Quantiles [B, K] as the model stands; then it learns from the same batch.

        Trained on the policy's completions, as B.1 implies: the label of a completion is whether
        an anchor sample of its prompt, others [B, M], scores no higher than its reward [B, K].
        """
        labels = (others.unsqueeze(-2) <= rewards.unsqueeze(-1)).float().mean(-1)
        total, found = rewards.new_zeros(()), []
        for start in range(0, len(rewards), self.micro_batch):
            part = slice(start, start + self.micro_batch)
            with self.accelerator.autocast():
                logits = self.model(prompts.rows(part), completions.rows(part))
            target = labels[part].to(logits.device)
            # A sum over B*K completions, so that micro-batches add up to the batch's mean.
            loss = binary_cross_entropy_with_logits(logits, target, reduction="sum")
            loss = loss / rewards.numel()
            self.accelerator.backward(loss)
            total = total + loss.detach().to(total.device)
            found.append(logits.detach())
        self.accelerator.clip_grad_norm_(self.model.trainable(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses = {"quantile_loss": total}
        return self._floored(torch.cat(found)).to(rewards.device)

    @torch.no_grad()
    def predict(self, prompts: Prompts, completions: Completions) -> Tensor:
        """Quantiles [B, K] as the model stands, without learning."""
        return self.model(prompts, completions).sigmoid()

    def _floored(self, logits: Tensor) -> Tensor:
        return logits.sigmoid().clamp(min=self.settings.floor)

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
