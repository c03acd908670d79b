"""The task XSum: one-sentence summaries of news, and whether the article entails them."""

from __future__ import annotations

from torch import nn

from bondlab import assets, device
from bondlab.lm.language_model import LanguageModel
from bondlab.task import Task
from bondlab.tasks import models, shipped
from bondlab.tasks.entailment import EntailmentReward
from bondlab.tasks.settings import DOCUMENT_TOKENS, SUMMARY_TOKENS, TaskSettings, first

TEMPLATE = "summarize: {prompt}"


def summariser(model: nn.Module, tokenizer: object, **limits) -> LanguageModel:
    """A T5 as summariser, with the task's template and limits (each may be overridden)."""
    settings = {"max_prompt_tokens": DOCUMENT_TOKENS, "max_new_tokens": SUMMARY_TOKENS} | limits
    return LanguageModel(model, tokenizer, template=TEMPLATE, **settings)


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


def reference(
    precision: device.Precision = "auto", policy: str | None = None, **limits
) -> LanguageModel:
    """The summariser: the small T5 fine-tuned on XSum's training split and BBC News."""
    if policy is None:
        return _prepared("xsum_reference", precision, **limits)
    return models.placed(summariser(*models.load(policy), **limits), precision)


def reward(precision: device.Precision = "auto", name: str | None = None) -> EntailmentReward:
    """The entailment reward: the small T5 trained on VitaminC, or an entailment T5 by name.

    T5 entailment models of the hub read "premise: ... hypothesis: ..." and answer 1 or 0.
    """
    if name is None:
        reader = _prepared("xsum_reward", precision)
        return EntailmentReward(reader.model, reader.tokenizer)
    reader = models.placed(LanguageModel(*models.load(name)), precision)
    return EntailmentReward(
        reader.model, reader.tokenizer, question="premise: {premise} hypothesis: {claim}",
        answers=("1", "0"), max_premise_tokens=448,
    )  # fmt: skip


def _prepared(name: str, precision: device.Precision, **limits) -> LanguageModel:
    """The base model with a shipped adapter folded in, in float32, then stored as asked."""
    folder = shipped.folder(name)
    model = summariser(*models.load(shipped.BASE), **limits)
    model.load_adapter(folder)
    model.merge_adapter()
    return models.placed(model, precision)


def build(settings: TaskSettings, precision: str) -> Task:
    train_rows, eval_rows = first(*documents(settings.data), settings)
    model = reference(precision, settings.policy, **settings.limits)
    return Task(
        model=model,
        reward=reward(precision, settings.reward),
        train_prompts=[row["document"] for row in train_rows],
        eval_prompts=[row["document"] for row in eval_rows],
        eval_references=[row["summary"] for row in eval_rows],
        identity={
            "policy": _identity(settings.policy, "xsum_reference"),
            "reward": _identity(settings.reward, "xsum_reward"),
        },
    )


def _identity(name: str | None, adapter: str) -> str:
    """Digest of a shipped adapter, or what names another model."""
    if name is not None:
        return models.identity(name)
    return assets.file_digest(shipped.folder(adapter) / "adapter_model.safetensors")[:12]
