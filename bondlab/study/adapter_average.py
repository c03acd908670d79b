"""Averages of LoRA factors against averages of weights: what a moving anchor under LoRA is worth.

The anchor of a LoRA policy averages the factors (see `anchors.MovingAverage`). Here it is followed
along a real training together with the average of the weights themselves, W + mean(BA), which
needs whole copies in float32 and so is for models that fit into memory a few times.

Legend: B prompts, K completions a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import bank, measures
from bondlab.algorithms import Algorithm
from bondlab.anchors import MovingAverage
from bondlab.lm.completions import Completions, Prompts
from bondlab.lm.language_model import LanguageModel
from bondlab.measures import Interval
from bondlab.trainer import Trainer

SAMPLES = 8  # completions a held-out prompt behind a KL


class WeightAverage:
    """The moving average of an adapter's changes to the weights, from no change on.

    Args:
        rate: of `MovingAverage`.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.changes: dict[str, Tensor] = {}

    def update(self, changes: Mapping[str, Tensor]) -> None:
        """Move by the rate towards the policy's changes, by layer."""
        for path, change in changes.items():
            before = self.changes.get(path, torch.zeros_like(change))
            self.changes[path] = before.lerp(change, self.rate)

    def relative_error(self, changes: Mapping[str, Tensor]) -> float:
        """|changes - average| / |average| in the Frobenius norm over all layers; 0 if both are 0.

        Args:
            changes: those of the average of the factors, by layer.
        """
        gaps = [(changes[path] - mean).norm() for path, mean in self.changes.items()]
        wholes = [mean.norm() for mean in self.changes.values()]
        gap, whole = (torch.stack(parts).norm().item() for parts in (gaps, wholes))
        return gap / whole if gap else 0.0


@torch.no_grad()
def changed(reference: LanguageModel, changes: Mapping[str, Tensor]) -> LanguageModel:
    """A whole copy of the reference, frozen, with the changes added to its weights."""
    copy = reference.trainable_copy(None).requires_grad_(False)
    for path, change in changes.items():
        copy.model.get_submodule(path).weight += change
    return copy


def follow(trainer: Trainer, every: int) -> pd.DataFrame:
    """Train to the end of the configuration and compare the two averages on the way.

    Args:
        trainer: a fresh one, with a LoRA rank and a `MovingAverage` anchor, its banks in place.
        every: steps between two comparisons; the last step is always compared.

    Returns:
        One row a comparison: step, relative_error (of the anchor's change of the weights), kl
        (from the anchor to the average of the weights, nats a completion), kl_moved (`plain_kl`
        from the anchor to the reference, beside which kl is large or small), each with its 95 %
        interval over the held-out prompts (_low, _high), prompts, samples.

    Raises:
        ValueError: the trainer has no LoRA rank or no moving average.
    """
    average = WeightAverage(_rate(trainer.algorithm, trainer.config.lora_rank))
    rows = []
    for _ in tqdm(range(trainer.config.steps), desc="steps", leave=False):
        trainer.update()
        average.update(trainer.policy.adapter_changes())
        if trainer.step % every == 0 or trainer.step == trainer.config.steps:
            rows.append(_compare(trainer, average))
    return pd.DataFrame(rows)


def _rate(algorithm: Algorithm, rank: int | None) -> float:
    if rank is None or not isinstance(algorithm.anchor, MovingAverage):
        raise ValueError("needs lora_rank and an anchor of MovingAverage")
    return algorithm.anchor.rate


@torch.no_grad()
def _compare(trainer: Trainer, average: WeightAverage) -> dict[str, float]:
    changes = trainer.anchor.adapter_changes()
    # All three in float32: in bfloat16 the rounding of the weights would be part of the KL.
    anchor, weights, start = (
        changed(trainer.reference, added) for added in (changes, average.changes, {})
    )
    prompts = anchor.encode(trainer.task.eval_prompts)
    generator = bank.seeded(trainer.config.seed, "averages", trainer.step)
    drawn = anchor.sample(prompts, SAMPLES, generator)
    row = {
        "step": trainer.step,
        "relative_error": average.relative_error(changes),
        "prompts": len(prompts.ids),
        "samples": SAMPLES,
    }
    for name, found in (
        ("kl", kl(anchor, weights, prompts, drawn)),
        ("kl_moved", plain_kl(anchor, start, prompts, drawn)),
    ):
        row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
    return row


@torch.no_grad()
def kl(
    model: LanguageModel, other: LanguageModel, prompts: Prompts, drawn: Completions
) -> Interval:
    """KL(model || other) in nats a completion, from completions [B, K] drawn from `model`.

    By x - 1 - log x of the ratio x = other/model, whose mean is the KL too, as E[x] = 1: never
    below 0, and of little variance where the laws are close (Schulman, "Approximating KL
    divergence", 2020); of laws some nats apart its few large terms are rarely drawn, and intervals
    are too short. Both laws by scoring passes, so that equal models give 0 exactly.
    """
    gap = _log_ratio(model, other, prompts, drawn)
    return measures.mean_interval((gap.expm1() - gap).mean(dim=1).cpu())


@torch.no_grad()
def plain_kl(
    model: LanguageModel, other: LanguageModel, prompts: Prompts, drawn: Completions
) -> Interval:
    """The same as the mean log ratio, for laws that lie apart."""
    gap = _log_ratio(model, other, prompts, drawn)
    return measures.mean_interval(-gap.mean(dim=1).cpu())


def _log_ratio(
    model: LanguageModel, other: LanguageModel, prompts: Prompts, drawn: Completions
) -> Tensor:
    """log other/model of each completion, [B, K] in nats."""
    return other(prompts, drawn).sum(-1) - model(prompts, drawn).sum(-1)
