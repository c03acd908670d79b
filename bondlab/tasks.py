"""The tasks by name: XSum here, sentiment and chat in modules of their own, and tiny ones."""

from __future__ import annotations

from functools import lru_cache

from bondlab import assets, chat, device, models, prepare, sentiment, supervised, tiny
from bondlab.language_model import LanguageModel
from bondlab.rewards import EntailmentReward
from bondlab.task import Task, TaskSettings, first

__all__ = ["Task", "TaskSettings", "build", "xsum_documents", "xsum_reference", "xsum_reward"]


@lru_cache(maxsize=2)  # a notebook's own task and the one it is compared with; more fill the memory
def build(settings: TaskSettings, precision: str) -> Task:
    """The task with its first training and held-out prompts.

    Raises:
        ValueError: more prompts asked for than there are.
    """
    builders = {
        "xsum": _xsum,
        "sentiment": sentiment.build,
        "chat": chat.build,
        "tiny": _tiny,
        "tiny_causal": _tiny,
    }
    return builders[settings.name](settings, precision)


def xsum_documents(data: str | None = None) -> tuple[list[dict], list[dict]]:
    """Training rows and held-out test rows, each with document and summary.

    The embedded data are XSum articles, and for training BBC News too, mixed in a fixed order.
    """
    xsum = assets.dataset(data or "xsum")
    train = list(xsum["train"])
    if data is None:
        train += list(assets.dataset("bbc")["train"])
        train.sort(key=lambda row: row["id"])  # ids are digests of the text, so this mixes
    return train, list(xsum["test"])


def xsum_reference(
    precision: device.Precision = "auto", policy: str | None = None, **limits
) -> LanguageModel:
    """The summariser: the small T5 fine-tuned on XSum's training split and BBC News."""
    if policy is None:
        return _prepared("xsum_reference", precision, **limits)
    return models.placed(prepare.summariser(*models.load(policy), **limits), precision)


def xsum_reward(
    precision: device.Precision = "auto", reward: str | None = None
) -> EntailmentReward:
    """The entailment reward: the small T5 trained on VitaminC, or an entailment T5 by name.

    T5 entailment models of the hub read "premise: ... hypothesis: ..." and answer 1 or 0.
    """
    if reward is None:
        reader = _prepared("xsum_reward", precision)
        return EntailmentReward(reader.model, reader.tokenizer)
    reader = models.placed(LanguageModel(*models.load(reward)), precision)
    return EntailmentReward(
        reader.model, reader.tokenizer, question="premise: {premise} hypothesis: {claim}",
        answers=("1", "0"), max_premise_tokens=448,
    )  # fmt: skip


def _prepared(name: str, precision: device.Precision, **limits) -> LanguageModel:
    """The base model with a shipped adapter folded in, in float32, then stored as asked."""
    folder = supervised.shipped(name)
    model = prepare.summariser(*models.load(prepare.BASE), **limits)
    model.load_adapter(folder)
    model.merge_adapter()
    return models.placed(model, precision)


def _xsum(settings: TaskSettings, precision: str) -> Task:
    train_rows, eval_rows = first(*xsum_documents(settings.data), settings)
    model = xsum_reference(precision, settings.policy, **settings.limits)
    return Task(
        model=model,
        reward=xsum_reward(precision, settings.reward),
        train_prompts=[row["document"] for row in train_rows],
        eval_prompts=[row["document"] for row in eval_rows],
        eval_references=[row["summary"] for row in eval_rows],
        identity={
            "policy": _identity(settings.policy, "xsum_reference"),
            "reward": _identity(settings.reward, "xsum_reward"),
        },
    )


def _tiny(settings: TaskSettings, precision: str) -> Task:
    texts = tiny.documents(settings.train + settings.evaluate)
    family = "gemma" if settings.name == "tiny_causal" else "t5"
    model = tiny.language_model(family, **settings.limits)
    held_out = texts[settings.train :]
    return Task(
        model=models.placed(model, precision),
        reward=tiny.reward,
        train_prompts=texts[: settings.train],
        eval_prompts=held_out,
        eval_references=[" ".join(text.split()[:5]) for text in held_out],
        identity={"policy": settings.name, "reward": "tiny"},
    )


def _identity(name: str | None, adapter: str) -> str:
    """Digest of a shipped adapter, or what names another model."""
    if name is not None:
        return models.identity(name)
    return assets.file_digest(supervised.shipped(adapter) / "adapter_model.safetensors")[:12]
