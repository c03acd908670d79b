"""Tasks by name: XSum, sentiment and chat on real text, and tiny ones made by code."""

from __future__ import annotations

from functools import lru_cache

from bondlab.task import Task
from bondlab.tasks import chat, models, sentiment, tiny, xsum
from bondlab.tasks.settings import TaskSettings

__all__ = ["Task", "TaskSettings", "build"]


@lru_cache(maxsize=2)  # a notebook's own task and the one it is compared with; more fill the memory
def build(settings: TaskSettings, precision: str) -> Task:
    """The task with its first training and held-out prompts.

    Raises:
        ValueError: more prompts asked for than there are.
    """
    builders = {
        "xsum": xsum.build,
        "sentiment": sentiment.build,
        "chat": chat.build,
        "tiny": _tiny,
        "tiny_causal": _tiny,
    }
    return builders[settings.name](settings, precision)


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
