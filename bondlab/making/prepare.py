"""Make what ships with the package: the adapters in `bondlab/weights/`, each by its recipe.

For XSum the paper takes both models ready-made (a T5 fine-tuned on XSum, a T5 entailment model;
section 6). Here the reference learns one-sentence summaries (XSum and BBC) by maximum likelihood,
and the reward "does the evidence entail the claim?" (VitaminC), with negatives that keep the topic.
The judge's data are apart from its reward's: other reviews' site, other dialogues, other ways of
being wrong. None of the settings is stated in the paper; steps are chosen for five to fifty minutes
of two cores each. Each folder holds the adapter in bfloat16, its training curve and a manifest.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from tqdm.auto import tqdm

from bondlab import assets, device
from bondlab.assets import AssetError
from bondlab.lm.adapters import Trainable
from bondlab.lm.language_model import LanguageModel
from bondlab.making import preferences
from bondlab.making.preferences import Comparison, Judged
from bondlab.tasks import models, scorers, xsum
from bondlab.tasks.scorers import EncoderReward, Scorer
from bondlab.tasks.settings import LIMITS

Pair = tuple[str, str]  # a document and its summary
Examples = tuple[list, list]  # to train on, and held out


# -- losses ---------------------------------------------------------------------------------------


def likelihood(policy: LanguageModel, batch: Sequence[Pair]) -> Tensor:
    """-log likelihood of the summaries, nats per token."""
    documents, summaries = zip(*batch, strict=True)
    completions = policy.encode_completions(summaries)
    return -policy(policy.encode(documents), completions).sum() / completions.mask.sum()


def pointwise(scorer: Scorer, batch: Sequence[Judged]) -> Tensor:
    """Binary cross-entropy of "is this completion good?", nats."""
    rows = scorer.encode([x.prompt for x in batch], [x.completion for x in batch])
    values = scorer.scores(rows)
    labels = torch.tensor([float(x.good) for x in batch], device=values.device)
    return nn.functional.binary_cross_entropy_with_logits(values, labels)


def bradley_terry(scorer: Scorer, batch: Sequence[Comparison]) -> Tensor:
    """-log sigmoid(r(better) - r(worse)), nats a comparison."""
    replies = [reply for side in zip(*batch, strict=True) for reply in side]
    rows = scorer.encode([x.prompt for x in replies], [x.completion for x in replies])
    better, worse = scorer.scores(rows).chunk(2)
    return -nn.functional.logsigmoid(better - worse).mean()


# -- data -----------------------------------------------------------------------------------------


def articles(rng: random.Random) -> Examples:
    """News with their summaries; XSum's validation split is held out."""
    news, bbc = assets.dataset("xsum"), assets.dataset("bbc")["train"]
    train = [(row["document"], row["summary"]) for part in (news["train"], bbc) for row in part]
    return train, [(row["document"], row["summary"]) for row in news["validation"]]


def claims(rng: random.Random) -> Examples:
    data = assets.dataset("vitaminc")
    return preferences.claims(data["train"], rng), preferences.claims(data["test"], rng)


def reviews(rng: random.Random, source: str) -> Examples:
    data = assets.dataset("movie_reviews")
    return tuple(preferences.reviews(list(data[s]), source, rng) for s in ("train", "test"))


def turns(rng: random.Random, half: int, make: Callable[..., list]) -> Examples:
    """Examples made of one half of the dialogues; those of the validation split are held out."""
    data = assets.dataset("topical_chat")
    own = preferences.halves(list(data["train"]))[half]
    return make(own, rng), make(list(data["validation"]), rng)


# -- recipes --------------------------------------------------------------------------------------


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


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained.

    Args:
        settings: of the training; data: what of which corpora it sees, for the manifest.
        examples: makes examples to train on and held-out ones, given a generator.
        model: makes what is to be trained, given the adapter's name.
        loss: of a model and a batch of examples.
        length: what a batch's examples should be alike in: little is then padding.
        held_out: most examples that the held-out loss is taken of.
    """

    settings: Supervised
    data: Sequence[str]
    examples: Callable[[random.Random], Examples]
    model: Callable[[str], Trainable] = scorers.untrained
    loss: Callable[[Any, Sequence], Tensor] = pointwise
    length: Callable[[Any], int] = lambda x: len(x.prompt) + len(x.completion)
    held_out: int = 256


def summariser(name: str) -> LanguageModel:
    """The small T5 with the template and the limits of the task XSum."""
    limits = zip(("max_prompt_tokens", "max_new_tokens"), LIMITS["xsum"], strict=True)
    return xsum.policy(*models.load(models.BASE), **dict(limits))


RECIPES = {
    "xsum_reference": Recipe(
        Supervised(steps=680, batch=8),  # two passes over the 2,712 pairs
        ["xsum train", "bbc train"],
        articles,
        summariser,
        likelihood,
        length=lambda pair: len(pair[1]),
    ),
    "xsum_reward": Recipe(
        Supervised(steps=1200, batch=32),  # 3 of 5 pairs, seen once
        ["vitaminc train"],
        claims,
        length=lambda claim: len(claim.prompt),
        held_out=512,
    ),
    "sentiment_reward": Recipe(
        Supervised(steps=600, batch=32),
        ["movie_reviews train, imdb"],
        partial(reviews, source="imdb"),
    ),
    "sentiment_judge": Recipe(
        Supervised(steps=400, batch=32),
        ["movie_reviews train, rotten_tomatoes"],
        partial(reviews, source="rotten_tomatoes"),
    ),
    "chat_reward": Recipe(
        Supervised(steps=320, batch=16),
        ["topical_chat train, first half of the dialogues by digest"],
        partial(turns, half=0, make=preferences.comparisons),
        loss=bradley_terry,
        length=lambda pair: len(pair[0].prompt) + max(len(x.completion) for x in pair),
    ),
    "chat_judge": Recipe(
        Supervised(steps=500, batch=32),
        ["topical_chat train, second half of the dialogues by digest"],
        partial(turns, half=1, make=preferences.replies),
    ),
}


# -- training -------------------------------------------------------------------------------------


def fit(model: Trainable, recipe: Recipe, data: Sequence, held_out: Sequence) -> pd.DataFrame:
    """AdamW with linear warm-up and decay on the adapter: step, loss, held_out_loss, seconds."""
    settings, model = recipe.settings, model.to(device.place())
    optimizer = torch.optim.AdamW(model.trainable(), lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _ramp(step, settings))
    stream, curve, started = batches(data, recipe), [], time.perf_counter()
    checks = {*range(0, settings.steps, settings.check_every), settings.steps}
    parts = [held_out[i : i + settings.batch] for i in range(0, len(held_out), settings.batch)]
    for step in tqdm(range(settings.steps + 1), desc="training", unit="step"):
        now = checked = math.nan
        if step in checks:
            with torch.no_grad(), device.autocast("auto"):
                total = sum(recipe.loss(model, part).item() * len(part) for part in parts)
            checked = total / len(held_out)
        if step < settings.steps:
            with device.autocast("auto"):
                value = recipe.loss(model, next(stream))
            value.backward()
            clip_grad_norm_(model.trainable(), settings.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            now = value.item()
        curve.append((step, now, checked, time.perf_counter() - started))
    return pd.DataFrame(curve, columns=["step", "loss", "held_out_loss", "seconds"])


def _ramp(step: int, settings: Supervised) -> float:
    rise = (step + 1) / max(1, settings.warmup)
    return min(1.0, rise, (settings.steps - step) / max(1, settings.steps - settings.warmup))


def batches(data: Sequence, recipe: Recipe) -> Iterator[list]:
    """Batches of passes over the data without end; those of a batch are alike in length."""
    size, rng = recipe.settings.batch, random.Random(recipe.settings.seed)
    while True:
        order = rng.sample(range(len(data)), len(data))
        for start in range(0, len(order), size * 16):
            near = sorted(order[start : start + size * 16], key=lambda i: recipe.length(data[i]))
            alike = [near[i : i + size] for i in range(0, len(near), size)]
            for batch in rng.sample(alike, len(alike)):
                yield [data[i] for i in batch]


def train(name: str, recipe: Recipe) -> Path:
    """Train an adapter; leaves it with its curve and manifest in its folder, and returns that."""
    settings, rng = recipe.settings, random.Random(recipe.settings.seed)
    model = recipe.model(name)
    model.model.to(device.dtype("auto"))
    model.add_adapter(settings.rank, settings.seed)
    examples, held_out = recipe.examples(rng)
    if len(held_out) > recipe.held_out:
        held_out = rng.sample(held_out, recipe.held_out)
    curve = fit(model, recipe, examples, held_out)
    folder = models.WEIGHTS / name
    model.save_adapter(folder)
    curve.round(4).to_csv(folder / "training.csv", index=False)
    manifest = {
        "base": scorers.ENCODER if isinstance(model, EncoderReward) else models.BASE,
        "data": list(recipe.data),
        "settings": dataclasses.asdict(settings),
        "machine": device.describe(),
        "seconds": round(float(curve["seconds"].iloc[-1])),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return folder


def prepare(retrain: bool = False, only: str | None = None) -> None:
    """Check that the shipped models are there and train what is missing; `retrain`: make anew.

    Args:
        only: the one to make, by its folder in `bondlab/weights/`.

    Raises:
        AssetError: `only` names none of them.
    """
    if only is not None and only not in RECIPES:
        raise AssetError(f"no adapter is called {only!r}: choose one of {', '.join(RECIPES)}")
    for name in [only] if only else RECIPES:
        there = (models.WEIGHTS / name / "adapter_model.safetensors").exists()
        print(f"{name}: {'training' if retrain or not there else 'ready'}")
        if retrain or not there:
            train(name, RECIPES[name])
