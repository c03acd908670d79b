"""The task XSum: one-sentence summaries of news, and whether the article entails them."""

from __future__ import annotations

from functools import partial

from bondlab import assets, device
from bondlab.lm.language_model import LanguageModel
from bondlab.tasks import models, scorers
from bondlab.tasks.scorers import NO_CLAIM, EntailmentReward, Question

POLICY, REWARD = models.XSUM
HUB_QUESTION = Question(  # of the hub's T5 entailment models
    "premise: {premise} hypothesis: {claim}", 448, answers=("1", "0"), wordless=NO_CLAIM
)

policy = partial(LanguageModel, template="summarize: {prompt}")


def texts(data: str | None) -> tuple[list[str], list[tuple[str, str]]]:
    """Documents to train on, and held-out ones with their summaries.

    The embedded data are XSum articles, and for training BBC News too, mixed in a fixed order.
    """
    found = assets.dataset(data or "xsum")
    train = list(found["train"])
    if data is None:
        train += list(assets.dataset("bbc")["train"])
        train.sort(key=lambda row: row["id"])  # ids are digests of the text, so this mixes
    held_out = [(row["document"], row["summary"]) for row in found["test"]]
    return [row["document"] for row in train], held_out


def reward(name: str, precision: device.Precision) -> EntailmentReward:
    """The entailment reward: the small T5 trained on VitaminC, or an entailment T5 by name."""
    if name == REWARD:
        return scorers.load(name, precision)
    return models.placed(EntailmentReward(*models.load(name), HUB_QUESTION), precision)
