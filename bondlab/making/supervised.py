"""Supervised LoRA training of the models that ship with the package, and where they lie.

Each has a folder in `bondlab/weights/`: the adapter in bfloat16, its training curve, a manifest.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from bondlab import device
from bondlab.lm.adapters import Trainable


@dataclass(frozen=True)
class Supervised:
    """Settings of one supervised LoRA training. None is stated in the paper."""

    steps: int
    batch: int
    learning_rate: float = 1e-3
    rank: int = 16
    warmup: int = 30
    clip: float = 1.0
    check_every: int = 100
    seed: int = 0


def fit(
    model: Trainable,
    loss: Callable[[Sequence], Tensor],
    data: Sequence,
    held_out: Sequence,
    settings: Supervised,
    length: Callable[[object], int],
) -> pd.DataFrame:
    """AdamW with linear warm-up and decay on the adapter; returns step, loss, held_out_loss."""
    accelerator = device.accelerator("auto")
    model.to(accelerator.device)
    optimizer = torch.optim.AdamW(model.trainable(), lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _ramp(s, settings))
    batches, curve, started = _batches(data, settings, length), [], time.perf_counter()
    checks = {*range(0, settings.steps, settings.check_every), settings.steps}
    for step in tqdm(range(settings.steps + 1), desc="training", unit="step"):
        now = checked = math.nan
        if step in checks:
            with torch.no_grad(), accelerator.autocast():
                size = settings.batch
                parts = [held_out[i : i + size] for i in range(0, len(held_out), size)]
                checked = sum(loss(part).item() * len(part) for part in parts) / len(held_out)
        if step < settings.steps:
            with accelerator.autocast():
                value = loss(next(batches))
            accelerator.backward(value)
            accelerator.clip_grad_norm_(model.trainable(), settings.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            now = value.item()
        curve.append((step, now, checked, time.perf_counter() - started))
    return pd.DataFrame(curve, columns=["step", "loss", "held_out_loss", "seconds"])


def _ramp(step: int, settings: Supervised) -> float:
    rise = (step + 1) / max(1, settings.warmup)
    fall = (settings.steps - step) / max(1, settings.steps - settings.warmup)
    return max(0.0, min(1.0, rise, fall))


def _batches(
    data: Sequence, settings: Supervised, length: Callable[[object], int]
) -> Iterator[list]:
    rng = random.Random(settings.seed)
    while True:
        order = rng.sample(range(len(data)), len(data))
        window = settings.batch * 16
        for start in range(0, len(order), window):
            # Neighbours of like length share a batch, so little of it is padding.
            near = sorted(order[start : start + window], key=lambda i: length(data[i]))
            batches = [near[i : i + settings.batch] for i in range(0, len(near), settings.batch)]
            for batch in rng.sample(batches, len(batches)):
                yield [data[i] for i in batch]


def save(
    model: Trainable,
    folder: Path,
    curve: pd.DataFrame,
    settings: Supervised,
    data: Sequence[str],
    base: str,
) -> None:
    """Adapter in bfloat16 (half the size), its training curve and how it was made."""
    model.save_adapter(folder)
    curve.round(4).to_csv(folder / "training.csv", index=False)
    manifest = {
        "base": base,
        "data": list(data),
        "settings": dataclasses.asdict(settings),
        "machine": device.describe(),
        "seconds": round(float(curve["seconds"].iloc[-1])),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
