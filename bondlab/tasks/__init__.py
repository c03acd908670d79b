"""Tasks by name: XSum, sentiment and chat on real text, and tiny ones made by code."""

from __future__ import annotations

from functools import lru_cache

from bondlab.task import Task
from bondlab.tasks import chat, models, scorers, sentiment, tiny, xsum
from bondlab.tasks.settings import TaskSettings

__all__ = ["Task", "TaskSettings", "build"]


@lru_cache(maxsize=2)  # a notebook's own task and the one it is compared with; more fill the memory
def build(settings: TaskSettings, precision: str) -> Task:
    """The task with its first training and held-out prompts.

    Raises:
        ValueError: more prompts asked for than there are, or no such reward.
        AssetError: no such model or data.
        FileNotFoundError: an adapter of the package was never trained.
    """
    if settings.name in ("tiny", "tiny_causal"):
        return _tiny(settings, precision)
    kind = {"xsum": xsum, "sentiment": sentiment, "chat": chat}[settings.name]
    train, held_out = kind.texts(settings.data)
    if settings.train > len(train) or settings.evaluate > len(held_out):
        raise ValueError(
            f"asked for {settings.train} training and {settings.evaluate} held-out prompts; "
            f"there are {len(train)} and {len(held_out)}"
        )
    prompts, references = zip(*held_out[: settings.evaluate], strict=True)
    policy, reward = settings.policy or kind.POLICY, settings.reward or kind.REWARD
    load = xsum.reward if kind is xsum else scorers.load
    return Task(
        model=models.reference(kind.policy, policy, precision, **settings.limits),
        reward=load(reward, precision),
        train_prompts=train[: settings.train],
        eval_prompts=prompts,
        eval_references=references,
        identity={
            "policy": models.identity(policy),
            "reward": (models if kind is xsum else scorers).identity(reward),
        },
    )


def _tiny(settings: TaskSettings, precision: str) -> Task:
    texts = tiny.documents(settings.train + settings.evaluate)
    family = "gemma" if settings.name == "tiny_causal" else "t5"
    held_out = texts[settings.train :]
    return Task(
        model=models.placed(tiny.language_model(family, **settings.limits), precision),
        reward=tiny.reward,
        train_prompts=texts[: settings.train],
        eval_prompts=held_out,
        eval_references=[" ".join(text.split()[:5]) for text in held_out],
        identity={"policy": settings.name, "reward": "tiny"},
    )
