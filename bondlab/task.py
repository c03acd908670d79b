"""A task: prompts, a reference policy and a reward, and what names them."""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bondlab.lm.language_model import LanguageModel
from bondlab.naming import fingerprint, model_fingerprints  # noqa: F401  (the latter knows models)
from bondlab.rewards import Reward


@dataclass(frozen=True)
class Task:
    """What a run trains on and is measured on.

    Args:
        model: the reference policy; training freezes it, and changes a copy.
        reward: scores completions; see `rewards.Reward`.
        train_prompts, eval_prompts: texts, kept as lists; evaluation prompts are only ever measured
            on.
        eval_references: one human completion of each evaluation prompt, if there are any.
        identity: names of the model and the reward, {"policy": ..., "reward": ...}, as run ids and
            banks hold them; further keys are part of the name. What is not given is derived, from
            all that samples depend on (weights, buffers, configuration, tokenizer, template,
            limits) and from the reward's code, the helpers and settings it reads and the objects it
            holds, all as they are when the task is made: another model or reward never takes up an
            earlier one's runs. A reward that reads files, asks a server or looks at the
            environment needs a name of its own, changed whenever those change; see `fingerprint`.
            A given name goes with the model or reward it was given with: `dataclasses.replace` of
            either derives another.

    Raises:
        ValueError: prompts are no list of texts, or lack prompts; a prompt is empty, or is in both
            lists; there are more or fewer references than evaluation prompts; the reward cannot be
            called; the identity is no dictionary of names.

    A reward or model that cannot be named, since it holds a lock or a connection, gives the task a
    name that no other has, with a warning: its runs cannot be continued.
    """

    model: LanguageModel
    reward: Reward
    train_prompts: Sequence[str]
    eval_prompts: Sequence[str]
    eval_references: Sequence[str] | None = None
    identity: dict | None = None

    def __post_init__(self) -> None:
        if not callable(self.reward):
            raise ValueError(f"the reward is no function of prompts and texts: {self.reward!r}")
        for name in ("train_prompts", "eval_prompts", "eval_references"):
            given = getattr(self, name)
            if given is not None or name != "eval_references":
                object.__setattr__(self, name, _texts(name, given))
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


# What lists of texts are mistaken for, and what to pass in place of it.
_MISTAKEN = (
    (type(None), "pass a list of texts"),
    ((str, bytes), "pass a list of texts"),
    (Mapping, "pass a list of texts, such as one of its values or list(its keys)"),
    ((set, frozenset), "its order is not the same in every process: pass sorted(...) of it"),
)


def _texts(name: str, given: Iterable[str]) -> list[str]:
    """The texts of any iterable as a list.

    Raises:
        ValueError: it is no iterable of texts; the position of what is none is named.
    """
    for kind, remedy in _MISTAKEN:
        if isinstance(given, kind):
            what = {"str": "one string", "NoneType": "None"}.get(type(given).__name__)
            raise ValueError(f"{name} is {what or f'a {type(given).__name__}'}: {remedy}")
    if hasattr(given, "columns") or not isinstance(given, Iterable):  # a frame lists its columns
        raise ValueError(f"{name} is a {type(given).__name__}: pass a list of texts, or a column")
    texts = list(given)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            what, remedy = repr(text), "pass strings"
            if isinstance(text, Mapping):
                remedy = "pass a column of texts, such as dataset['prompt']"
            elif isinstance(text, (list, tuple)):
                remedy = "pass each dialogue as one string, a turn a line (see `templates`)"
            raise ValueError(f"{name}[{place}] is no text but {what[:80]}: {remedy}")
    return [str(text) for text in texts]


class _Identity(dict):
    """A task's identity: the names that were given, for which model and reward, and the others."""

    given: dict[str, Any]
    owners: dict[str, Any]

    @classmethod
    def of(cls, task: Task) -> _Identity:
        """The names given with the task's own model and reward, the rest derived from them."""
        owners = {"policy": task.model, "reward": task.reward}
        given = {} if task.identity is None else task.identity
        given = given._kept(owners) if isinstance(given, cls) else _checked(given)
        named = cls(given | _derived({k: v for k, v in owners.items() if k not in given}))
        named.given, named.owners = given, owners
        return named

    def _kept(self, owners: Mapping[str, Any]) -> dict[str, Any]:
        """Of the task that another one replaces: the given names that still hold."""
        same = [part for part, owner in owners.items() if self.owners[part] is owner]
        whole = len(same) == len(owners)
        return {name: value for name, value in self.given.items() if whole or name in same}


def _checked(given: Any) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(given)))
    except (TypeError, ValueError):
        raise ValueError(
            f"identity must be a dictionary of names, such as {{'reward': 'v2'}}, not {given!r}"
        ) from None


def _derived(owners: Mapping[str, Any]) -> dict[str, str]:
    """Names of a model and a reward by what they are; what has none gets one of its own."""
    found, unnamed = {}, []
    for part, owner in owners.items():
        try:
            found[part] = fingerprint.of(owner, part)
        except fingerprint.Unnamed as error:
            found[part] = uuid.uuid4().hex
            unnamed.append((part, error))
    if unnamed:
        names = ", ".join(f'"{part}": "..."' for part, _ in unnamed)
        warnings.warn(
            "nothing made with this task will be found again, because "
            f"{'; '.join(str(error) for _, error in unnamed)}. Pass identity={{{names}}}, with a "
            f"name that you change when the {' or the '.join(part for part, _ in unnamed)} changes",
            stacklevel=5,
        )
    return found
