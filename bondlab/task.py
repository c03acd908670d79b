"""A task: prompts, a reference policy and a reward; and the settings that ask for one."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_serializer

from bondlab.language_model import LanguageModel
from bondlab.prepare import DOCUMENT_TOKENS, SUMMARY_TOKENS
from bondlab.rewards import Reward, score

Tokens = Annotated[int, Field(ge=1)] | None


@dataclass(frozen=True)
class Task:
    """What a run trains on and is measured on.

    Args:
        model: the reference policy; training freezes it, and changes a copy.
        reward: scores completions; see `rewards.Reward`.
        train_prompts, eval_prompts: texts; evaluation prompts are only ever measured on.
        eval_references: one human completion of each evaluation prompt, if there are any.
        identity: names the model and the reward in run ids, for example by digests. None derives
            it from the weights, and from the reward's code and its values for a few texts, so that
            another model or reward does not take up an earlier one's runs; rewards of one code that
            differ on rare texts alone need identities of their own. A given identity names the
            model and reward it was given with: `dataclasses.replace` of either derives another.

    Raises:
        ValueError: a list is a single string, or lacks prompts; a prompt is empty, or is in both
            lists; there are more or fewer references than evaluation prompts.
    """

    model: LanguageModel
    reward: Reward
    train_prompts: Sequence[str]
    eval_prompts: Sequence[str]
    eval_references: Sequence[str] | None = None
    identity: dict | None = None

    def __post_init__(self) -> None:
        for name in ("train_prompts", "eval_prompts", "eval_references"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is one string: pass a list of texts")
        for name in ("train_prompts", "eval_prompts"):
            texts = getattr(self, name)
            empty = [i for i, text in enumerate(texts) if not text.strip()]
            if not texts or empty:
                raise ValueError(f"{name} has no prompts or an empty one: positions {empty}")
        if shared := set(self.train_prompts) & set(self.eval_prompts):
            raise ValueError(f"{len(shared)} prompts are in train_prompts and in eval_prompts")
        if self.eval_references is not None:
            counts = len(self.eval_references), len(self.eval_prompts)
            if counts[0] != counts[1]:
                raise ValueError(
                    f"{counts[0]} eval_references for {counts[1]} eval_prompts: pass one for each"
                )
        object.__setattr__(self, "identity", _Identity.of(self))


class _Identity(dict):
    """A task's identity, and the model and reward that it was given for; None if derived."""

    given_for: tuple[LanguageModel, Reward] | None = None

    @classmethod
    def of(cls, task: Task) -> _Identity:
        """The identity given with the task's own model and reward, or one derived from them."""
        given, owners = task.identity, (task.model, task.reward)
        if isinstance(given, cls):  # of the task that this one replaces
            before = given.given_for
            kept = before is not None and all(a is b for a, b in zip(before, owners, strict=True))
            given = given if kept else None
        if given is None:
            return cls(policy=_weights(task.model), reward=_probe(task))
        named = cls(given)
        named.given_for = owners
        return named


# Most tokens of a prompt and of a completion where a task's settings leave them open.
LIMITS = {
    "xsum": (DOCUMENT_TOKENS, SUMMARY_TOKENS),
    # Not stated; chosen because no review's first words take more than 64 tokens, and a review's
    # next 24 show its sentiment.
    "sentiment": (64, 24),
    "chat": (144, 32),  # not stated; chosen because no prompt of its dialogues has more
    "tiny": (24, 8),
    "tiny_causal": (24, 8),
}


class TaskSettings(BaseModel):
    """Which task, at which size. None takes the models, data and limits of the task itself.

    `policy` names a model by asset name, hub name or local folder; `reward` for XSum likewise, for
    sentiment and chat one of `scorers.SCORERS`; `data` names a data set with the embedded one's
    splits train and test and its columns: document and summary for XSum, text for sentiment,
    dialogue, context and reply for chat (see `corpora`).
    `prompt_tokens` and `completion_tokens` are the most there may be; see `LIMITS`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Literal["xsum", "sentiment", "chat", "tiny", "tiny_causal"]
    train: Annotated[int, Field(ge=1)]
    evaluate: Annotated[int, Field(ge=1)]
    policy: str | None = None
    reward: str | None = None
    data: str | None = None
    prompt_tokens: Tokens = None
    completion_tokens: Tokens = None

    @property
    def limits(self) -> dict[str, int]:
        """max_prompt_tokens and max_new_tokens of the task's `LanguageModel`."""
        prompt, completion = LIMITS[self.name]
        return {
            "max_prompt_tokens": self.prompt_tokens or prompt,
            "max_new_tokens": self.completion_tokens or completion,
        }

    @model_serializer
    def _written(self) -> dict[str, Any]:
        """The settings as identities hold them: limits in numbers, since a default may change.

        XSum's keep the names under which its first runs were stored.
        """
        names = ("prompt_tokens", "completion_tokens")
        written = {name: value for name, value in self if name not in names}
        if self.name == "xsum":
            names = ("document_tokens", "summary_tokens")
        return written | dict(zip(names, self.limits.values(), strict=True))


def first(train: Sequence, held_out: Sequence, settings: TaskSettings) -> tuple[list, list]:
    """The first training and held-out rows, as many as asked for.

    Raises:
        ValueError: there are fewer.
    """
    if settings.train > len(train) or settings.evaluate > len(held_out):
        raise ValueError(
            f"asked for {settings.train} training and {settings.evaluate} held-out prompts; "
            f"there are {len(train)} and {len(held_out)}"
        )
    return list(train[: settings.train]), list(held_out[: settings.evaluate])


def _weights(model: LanguageModel) -> str:
    """Digest of a model's parameters."""
    total = hashlib.sha256()
    for parameter in model.parameters():
        total.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()[:12]


def _probe(task: Task) -> str:
    """Digest of a reward: its code, and what it says of a few texts, to five digits."""
    prompts = list(task.train_prompts[:4])
    texts = [[prompt, " ".join(prompt.split()[:5]), "Yes.", "No 1 2 3"] for prompt in prompts]
    rewards = score(task.reward, prompts, texts).flatten().tolist()
    values = " ".join(f"{x:.5g}" for x in rewards)
    return hashlib.sha256(f"{_code(task.reward)}\n{values}".encode()).hexdigest()[:12]


def _code(reward: Reward) -> str:
    """The source of a reward's function or class, or its name where there is none to read.

    Two rewards that each look for a word of their own are equal on most texts.
    """
    made = reward if inspect.isroutine(reward) else type(reward)
    try:
        return inspect.getsource(made)
    except (OSError, TypeError):
        return made.__qualname__
