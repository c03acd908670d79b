"""The task XSum: one-sentence summaries of news, and whether the article entails them."""

from __future__ import annotations

from torch import nn

from bondlab import assets, device
from bondlab.lm.language_model import LanguageModel
from bondlab.tasks import models
from bondlab.tasks.scorers import NO_CLAIM, EntailmentReward, Question
from bondlab.tasks.settings import LIMITS

POLICY, REWARD = "xsum_reference", "xsum_reward"  # adapters that come with the package
TEMPLATE = "summarize: {prompt}"
HUB_QUESTION = Question(  # of the hub's T5 entailment models
    "premise: {premise} hypothesis: {claim}", 448, answers=("1", "0"), wordless=NO_CLAIM
)


def summariser(model: nn.Module, tokenizer: object, **limits: int) -> LanguageModel:
    """A T5 as summariser, with the task's template and limits (each may be overridden)."""
    usual = dict(zip(("max_prompt_tokens", "max_new_tokens"), LIMITS["xsum"], strict=True))
    return LanguageModel(model, tokenizer, template=TEMPLATE, **(usual | limits))


def documents(data: str | None = None) -> tuple[list[dict], list[dict]]:
    """Training rows and held-out test rows, each with document and summary.

    The embedded data are XSum articles, and for training BBC News too, mixed in a fixed order.
    """
    found = assets.dataset(data or "xsum")
    train = list(found["train"])
    if data is None:
        train += list(assets.dataset("bbc")["train"])
        train.sort(key=lambda row: row["id"])  # ids are digests of the text, so this mixes
    return train, list(found["test"])


def texts(data: str | None) -> tuple[list[str], list[tuple[str, str]]]:
    """Documents to train on, and held-out ones with their summaries."""
    train, test = documents(data)
    return [row["document"] for row in train], [(row["document"], row["summary"]) for row in test]


def reference(
    precision: device.Precision = "auto", name: str = POLICY, **limits: int
) -> LanguageModel:
    """The summariser: the small T5 fine-tuned on XSum's training split and BBC News, or another."""
    if name == POLICY:
        return models.adapted(summariser(*models.load(models.BASE), **limits), name, precision)
    return models.placed(summariser(*models.load(name), **limits), precision)


def reward(precision: device.Precision = "auto", name: str = REWARD) -> EntailmentReward:
    """The entailment reward: the small T5 trained on VitaminC, or an entailment T5 by name."""
    if name == REWARD:
        return models.adapted(EntailmentReward(*models.load(models.BASE)), name, precision)
    return models.placed(EntailmentReward(*models.load(name), HUB_QUESTION), precision)


def identity(name: str) -> str:
    """Digest of a shipped adapter, or what names another model."""
    if name not in (POLICY, REWARD):
        return models.identity(name)
    return assets.file_digest(models.adapter(name) / "adapter_model.safetensors")[:12]
