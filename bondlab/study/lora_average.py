"""Averages of LoRA factors against averages of weights: what a moving anchor under LoRA is worth.

The anchor of a LoRA policy averages the factors (see `anchors.MovingAverage`). J-BOND with eta 0.02
is trained once more, and the average of the weights themselves, W + mean(BA), followed on the way.
That needs whole copies in float32, and so a model that fits into memory a few times.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import paths, training
from bondlab.anchors import MovingAverage
from bondlab.bank import seeded
from bondlab.lm.completions import Completions, Prompts
from bondlab.lm.language_model import LanguageModel
from bondlab.report.intervals import Interval, mean_interval
from bondlab.report.kept import Results, Tables, once
from bondlab.study.alignment import RUNS, AlignmentSettings, chosen
from bondlab.study.anchor_ablations import EXPERIMENT, MOVING
from bondlab.trainer import Trainer

SAMPLES = 8  # completions a held-out prompt behind a KL
VERSION = 1  # raise when the numbers change: what was measured then no longer matches
Changes = Mapping[str, Tensor]  # of the weights, by layer


def results(found: Results, settings: AlignmentSettings) -> Results:
    """The results with the table averages: `follow` of J-BOND with a moving average, and profile.

    It has no rows where a profile trains all weights, whose average is exact.

    Raises:
        FileNotFoundError: "shipped" was asked for and nothing is.
    """

    def compute() -> Tables:
        spec = chosen(EXPERIMENT, settings, [MOVING])[0]
        if spec.config.lora_rank is None:
            return {"averages": pd.DataFrame()}

        def measure() -> pd.DataFrame:
            with tempfile.TemporaryDirectory() as parent:  # its policy is that of the run below
                arguments = spec.build(), spec.algorithm, spec.config, Path(parent)
                return follow(training.trainer(*arguments), spec.config.evaluate_every)

        run = spec.folder(paths.runs_folder() / RUNS).path.name
        table, _ = once("averages", {"run": run, "version": VERSION, "samples": SAMPLES}, measure)
        return {"averages": table.assign(profile=settings.profile)}

    return found.load(["averages"], compute)


def follow(trainer: Trainer, every: int) -> pd.DataFrame:
    """Train to the end of the configuration and compare the two averages on the way.

    Args:
        trainer: a fresh one, with a LoRA rank and a `MovingAverage` anchor, its banks in place.
        every: steps between two comparisons; the last step is always compared.

    Returns:
        One row a comparison: step, relative_error (of the anchor's change of the weights), kl
        (from the anchor to the average of the weights, nats a completion), kl_moved (from the
        anchor to the reference, beside which kl is large or small), each with its 95 % interval
        over the held-out prompts (_low, _high), prompts, samples.

    Raises:
        ValueError: the trainer has no LoRA rank or no moving average.
    """
    config, anchor = trainer.config, trainer.algorithm.anchor
    if config.lora_rank is None or not isinstance(anchor, MovingAverage):
        raise ValueError("needs lora_rank and an anchor of MovingAverage")
    average, rows = {}, []
    for _ in tqdm(range(config.steps), desc="steps", leave=False):
        trainer.update()
        average = moved(average, trainer.policy.adapter_changes(), anchor.rate)
        if trainer.step % every == 0 or trainer.step == config.steps:
            rows.append(_compare(trainer, average))
    return pd.DataFrame(rows)


def moved(average: Changes, changes: Changes, rate: float) -> Changes:
    """The average of changes, from no change on, after a step towards the policy's."""
    return {
        path: average.get(path, torch.zeros_like(change)).lerp(change, rate)
        for path, change in changes.items()
    }


def relative_error(changes: Changes, average: Changes) -> float:
    """|changes - average| / |average| in the Frobenius norm over all layers; 0 if both are 0."""
    gaps = [(changes[path] - mean).norm() for path, mean in average.items()]
    wholes = [mean.norm() for mean in average.values()]
    gap, whole = (torch.stack(parts).norm().item() for parts in (gaps, wholes))
    return gap / whole if gap else 0.0


@torch.no_grad()
def _compare(trainer: Trainer, average: Changes) -> dict[str, float]:
    changes = trainer.anchor.adapter_changes()
    # All three in float32: in bfloat16 the rounding of the weights would be part of the KL.
    anchor, weights, start = (changed(trainer.reference, added) for added in (changes, average, {}))
    prompts = anchor.encode(trainer.task.eval_prompts)
    drawn = anchor.sample(prompts, SAMPLES, seeded(trainer.config.seed, "averages", trainer.step))
    row = {"step": trainer.step, "relative_error": relative_error(changes, average)}
    near = kl(anchor, weights, prompts, drawn)
    far = kl(anchor, start, prompts, drawn, apart=True)
    for name, found in (("kl", near), ("kl_moved", far)):
        row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
    return {**row, "prompts": len(prompts.ids), "samples": SAMPLES}


@torch.no_grad()
def changed(reference: LanguageModel, changes: Changes) -> LanguageModel:
    """A whole copy of the reference, frozen, with the changes added to its weights."""
    copy = reference.trainable_copy(None).requires_grad_(False)
    for path, change in changes.items():
        copy.model.get_submodule(path).weight += change
    return copy


@torch.no_grad()
def kl(
    model: LanguageModel,
    other: LanguageModel,
    prompts: Prompts,
    drawn: Completions,
    apart: bool = False,
) -> Interval:
    """KL(model || other) in nats a completion, from completions [B, K] drawn from `model`.

    By x - 1 - log x of the ratio x = other/model, whose mean is the KL too, as E[x] = 1: never
    below 0, and of little variance where the laws are close (Schulman, "Approximating KL
    divergence", 2020). Of laws some nats `apart` its few large terms are rarely drawn: there by
    -log x. Both laws by scoring passes, so that equal models give 0 exactly.
    """
    gap = other(prompts, drawn).sum(-1) - model(prompts, drawn).sum(-1)
    values = -gap if apart else gap.expm1() - gap
    return mean_interval(values.mean(1).cpu())
