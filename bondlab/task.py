"""A task: prompts, a reference policy and a reward, and what names them.

Any callable with the signature of `Reward` will do; most rules use ranks, so its scale does not
matter. It may return a tensor on any device, an array, or lists of numbers: a row per prompt.
"""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bondlab import device
from bondlab.lm.language_model import LanguageModel
from bondlab.naming import fingerprint, model_fingerprints  # noqa: F401  (the latter knows models)

Reward = Callable[[Sequence[str], Sequence[Sequence[str]]], Tensor]
"""(B prompts, B lists of K completions) -> rewards [B, K], higher is better."""


@dataclass(frozen=True)
class Task:
    """What a run trains on and is measured on.

    Args:
        model: the reference policy; training freezes it, and changes a copy.
        reward: scores completions; see `Reward`.
        train_prompts, eval_prompts: texts, kept as lists; the latter are only ever measured on.
        eval_references: one human completion of each evaluation prompt, if there are any.
        identity: names of the model and the reward, {"policy": ..., "reward": ...}, as run ids and
            banks hold them; further keys are part of the name. What is not given is derived, from
            all that samples depend on (weights, configuration, tokenizer, template, limits) and
            from the reward's code and what that reads, as they are when the task is made: another
            model or reward never takes up an earlier one's runs. A reward that reads files, asks a
            server or looks at the environment needs a name of its own, changed with those; see
            `fingerprint`. After `dataclasses.replace` of a model or reward its name is derived.

    Raises:
        ValueError: what is no `LanguageModel`, no list of texts, an empty list or prompt, one in
            both lists, a reference too many or too few, no callable reward, no dictionary of names.

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
        if not (hasattr(self.model, "sample") and hasattr(self.model, "encode")):
            raise ValueError(f"the model is no LanguageModel: {repr(self.model)[:80]}")
        if not callable(self.reward):
            raise ValueError(f"the reward is no function of prompts and texts: {self.reward!r}")
        for name in ("train_prompts", "eval_prompts"):
            texts = _texts(name, getattr(self, name))
            empty = [i for i, text in enumerate(texts) if not text.strip()]
            if not texts or empty:
                raise ValueError(f"{name} has no prompts or an empty one: positions {empty}")
            object.__setattr__(self, name, texts)
        if shared := set(self.train_prompts) & set(self.eval_prompts):
            raise ValueError(f"{len(shared)} prompts are in train_prompts and in eval_prompts")
        if self.eval_references is not None:
            texts = _texts("eval_references", self.eval_references)
            if (found := len(texts)) != (count := len(self.eval_prompts)):
                raise ValueError(f"{found} eval_references for {count} eval_prompts: pass as many")
            object.__setattr__(self, "eval_references", texts)
        owners = {"policy": self.model, "reward": self.reward}
        object.__setattr__(self, "identity", _Identity(self.identity, owners))


_REMEDY = (
    "pass a list of strings, such as a column of a table, dataset['prompt'], or sorted(...) of a "
    "set; of a dialogue one string, a turn a line (see `templates`)"
)


def _texts(name: str, given: Iterable[str]) -> list[str]:
    """The texts of any iterable that has an order, as a list."""
    # One string is letters, a mapping and a frame are their keys, a set is in any order.
    mistaken = isinstance(given, (str, bytes, Mapping, set, frozenset)) or hasattr(given, "columns")
    if mistaken or not isinstance(given, Iterable):
        raise ValueError(f"{name} is of type {type(given).__name__}: {_REMEDY}")
    texts = list(given)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{name}[{place}] is no text but {repr(text)[:80]}: {_REMEDY}")
    return [str(text) for text in texts]


class _Identity(dict):
    """A task's names: those given with its own model and reward, the rest derived from them."""

    def __init__(self, given: Any, owners: dict[str, Any]) -> None:
        if isinstance(given, _Identity):  # of the task that this one replaces
            same = {part for part in owners if given.owners[part] is owners[part]}
            whole = len(same) == len(owners)
            given = {k: v for k, v in given.given.items() if whole or k in same}
        try:
            given = json.loads(json.dumps(dict(given or {})))
        except (TypeError, ValueError):
            raise ValueError(
                f"identity must be a dictionary of names, such as {{'reward': 'v2'}}, not {given!r}"
            ) from None
        super().__init__(given)
        self.given, self.owners = given, owners
        for part in (part for part in owners if part not in given):
            try:
                self[part] = fingerprint.of(owners[part], part)
            except fingerprint.Unnamed as error:
                self[part] = uuid.uuid4().hex
                warnings.warn(
                    f"nothing made with this task will be found again, because {error}. Pass "
                    f'identity={{"{part}": "..."}}, a name that you change when the {part} does',
                    stacklevel=4,
                )


# -- rewards --------------------------------------------------------------------------------------


def score(reward: Reward, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
    """Rewards [B, K] in float64 on the processor, checked.

    In float64 because a large constant in a reward would round its differences, and with them the
    ranks, away. The reward computes in its own precision, whatever the run's.

    Raises:
        ValueError: the reward returned anything but [B, K] numbers, or a value that is not finite
            (the first such completion is quoted).
    """
    device_type = device.place().type
    with torch.autocast("cpu", enabled=False), torch.autocast(device_type, enabled=False):
        returned = reward(prompts, completions)
    shape, values = [len(prompts), len(completions[0])], None
    try:
        values = _numbers(returned)
        what = f"shape {list(values.shape)}"
    except (TypeError, ValueError, RuntimeError) as error:
        what = f"a {type(returned).__name__} ({error})"
    if values is None or list(values.shape) != shape:
        what = "None (did it forget to return?)" if returned is None else what
        expected = f"expected a [B, K] = {shape} matrix of numbers, a row for each prompt"
        raise ValueError(f"the reward returned {what}; {expected}")
    for b, k in (~values.isfinite()).nonzero().tolist():
        raise ValueError(
            f"the reward returned {values[b, k].item()} for completion {k} of prompt {b}: "
            f"{completions[b][k]!r}; make it return a finite number for every text"
        )
    return values


def _numbers(values: Any) -> Tensor:
    """Tensors, arrays and nested lists of numbers in float64 on the processor, of any shape."""
    if isinstance(values, Tensor):
        return values.detach().cpu().double()
    if isinstance(values, (list, tuple)):
        return torch.stack([_numbers(value) for value in values])
    return torch.from_numpy(np.array(values, dtype=np.float64))


def own_precision(model: nn.Module) -> AbstractContextManager:
    """Inside whatever a scorer's caller computes in: bfloat16 for a model that is stored in it."""
    weight = next(model.parameters())
    half = weight.dtype == torch.bfloat16
    return torch.autocast(weight.device.type, torch.bfloat16) if half else nullcontext()
