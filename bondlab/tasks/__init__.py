"""Tasks by name: XSum, sentiment and chat on real text, and tiny ones made by code."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from bondlab.task import Reward, Task
from bondlab.tasks import chat, models, scorers, sentiment, stand_ins, tiny, xsum
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
    prompts, policy = _prompts(train, held_out, settings), settings.policy or kind.POLICY
    reward, reward_name = _reward(kind, settings.reward or kind.REWARD, precision)
    return Task(
        model=models.reference(kind.policy, policy, precision, **settings.limits),
        reward=reward,
        **prompts,
        identity={"policy": models.identity(policy), "reward": reward_name},
    )


def _prompts(
    train: Sequence[str], held_out: Sequence[tuple[str, str]], settings: TaskSettings
) -> dict[str, Sequence[str]]:
    """Of what there is, a task's prompts and references."""
    kept = settings.train
    if settings.rehearsal:
        kept = settings.train * 3 // 4
        held_out = [(text, "") for text in train[kept : settings.train]]
    if settings.train > len(train) or settings.evaluate > len(held_out):
        raise ValueError(
            f"asked for {settings.train} training and {settings.evaluate} held-out prompts; "
            f"there are {len(train)} and {len(held_out)}"
        )
    prompts, references = zip(*held_out[: settings.evaluate], strict=True)
    references = None if settings.rehearsal else references
    return {"train_prompts": train[:kept], "eval_prompts": prompts, "eval_references": references}


def _reward(kind, name: str, precision: str) -> tuple[Reward, str]:
    """A task's reward by name, and what names it in identities."""
    if name == stand_ins.NOISE:
        return stand_ins.noise, stand_ins.NOISE
    threshold = stand_ins.threshold(name)
    name, *given = name.partition(stand_ins.ABOVE)
    if kind is tiny:
        reward, identity = tiny.reward, "tiny"
    else:
        load, source = (xsum.reward, models) if kind is xsum else (scorers.load, scorers)
        reward, identity = load(name, precision), source.identity(name)
    if threshold is None:
        return reward, identity
    return stand_ins.Binary(reward, threshold), "".join([identity, *given])


def _tiny(settings: TaskSettings, precision: str) -> Task:
    texts = tiny.documents(settings.train + settings.evaluate)
    family = "gemma" if settings.name == "tiny_causal" else "t5"
    held_out = [(text, " ".join(text.split()[:5])) for text in texts[settings.train :]]
    reward, reward_name = _reward(tiny, settings.reward or "tiny", precision)
    return Task(
        model=models.placed(tiny.language_model(family, **settings.limits), precision),
        reward=reward,
        **_prompts(texts[: settings.train], held_out, settings),
        identity={"policy": settings.name, "reward": reward_name},
    )
