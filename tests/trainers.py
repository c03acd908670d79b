"""What tests of a run's parts have in common."""

from __future__ import annotations

import torch

from bondlab.lm.language_model import LanguageModel
from bondlab.trainer import Trainer


def log_probs(model: LanguageModel, trainer: Trainer) -> torch.Tensor:
    """What a model gives the held-out bank's completions, [B, M] in nats."""
    prompts = trainer.policy.encode(trainer.task.eval_prompts)
    with torch.no_grad():
        return model(prompts, trainer.held_out.completions).sum(-1)
