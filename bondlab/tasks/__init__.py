"""Tasks by name: XSum, sentiment and chat on real text, and tiny ones made by code."""

from __future__ import annotations

from functools import lru_cache

from bondlab.task import Task
from bondlab.tasks import chat, models, scorers, sentiment, tiny, xsum
from bondlab.tasks.settings import TaskSettings, first

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
    named, rated, load = models.identity, scorers.identity, scorers.load
    if kind is xsum:
        named, rated, load = xsum.identity, xsum.identity, xsum.reward
    train, held_out = first(*kind.texts(settings.data), settings)
    policy, reward = settings.policy or kind.POLICY, settings.reward or kind.REWARD
    return Task(
        model=kind.reference(precision, policy, **settings.limits),
        reward=load(name=reward, precision=precision),
        train_prompts=train,
        eval_prompts=[prompt for prompt, _ in held_out],
        eval_references=[reference for _, reference in held_out],
        identity={"policy": named(policy), "reward": rated(reward)},
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
