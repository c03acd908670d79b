"""A task: prompts, a reference policy and a reward, and what names them.

Any callable with the signature of `Reward` will do; most rules use ranks, so its scale does not
matter. It may return a tensor on any device, an array, or lists of numbers: a row a prompt.
"""

from __future__ import annotations

import inspect
import json
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

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
        for name in ("train_prompts", "eval_prompts"):
            texts = _texts(name, getattr(self, name))
            empty = [i for i, text in enumerate(texts) if not text.strip()]
            if not texts or empty:
                raise ValueError(f"{name} has no prompts or an empty one: positions {empty}")
            object.__setattr__(self, name, texts)
        if shared := set(self.train_prompts) & set(self.eval_prompts):
            raise ValueError(f"{len(shared)} prompts are in train_prompts and in eval_prompts")
        if self.eval_references is not None:
            texts, count = _texts("eval_references", self.eval_references), len(self.eval_prompts)
            if len(texts) != count:
                raise ValueError(
                    f"{len(texts)} eval_references for {count} eval_prompts: pass one for each"
                )
            object.__setattr__(self, "eval_references", texts)
        owners = {"policy": self.model, "reward": self.reward}
        object.__setattr__(self, "identity", _Identity(self.identity, owners))


# What lists of texts are mistaken for, and what to pass in place of it.
_MISTAKEN = (
    (type(None), "pass a list of texts"),
    ((str, bytes), "pass a list of texts"),
    (Mapping, "pass a list of texts, such as one of its values or list(its keys)"),
    ((set, frozenset), "its order is not the same in every process: pass sorted(...) of it"),
)


def _texts(name: str, given: Iterable[str]) -> list[str]:
    """The texts of any iterable as a list; an error names the position of what is none."""
    for kind, remedy in _MISTAKEN:
        if isinstance(given, kind):
            what = {"str": "one string", "NoneType": "None"}.get(type(given).__name__)
            raise ValueError(f"{name} is {what or f'a {type(given).__name__}'}: {remedy}")
    if hasattr(given, "columns") or not isinstance(given, Iterable):  # a frame lists its columns
        raise ValueError(f"{name} is a {type(given).__name__}: pass a list of texts, or a column")
    texts = list(given)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            remedy = "pass strings"
            if isinstance(text, Mapping):
                remedy = "pass a column of texts, such as dataset['prompt']"
            elif isinstance(text, (list, tuple)):
                remedy = "pass each dialogue as one string, a turn a line (see `templates`)"
            raise ValueError(f"{name}[{place}] is no text but {repr(text)[:80]}: {remedy}")
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
        super().__init__(given | _derived({k: v for k, v in owners.items() if k not in given}))
        self.given, self.owners = given, owners


def _derived(owners: Mapping[str, Any]) -> dict[str, str]:
    """Names of a model and a reward by what they are; what has none gets one of its own."""
    found, unnamed = {}, {}
    for part, owner in owners.items():
        try:
            found[part] = fingerprint.of(owner, part)
        except fingerprint.Unnamed as error:
            found[part] = uuid.uuid4().hex
            unnamed[part] = str(error)
    if unnamed:
        names = ", ".join(f'"{part}": "..."' for part in unnamed)
        warnings.warn(
            "nothing made with this task will be found again, because "
            f"{'; '.join(unnamed.values())}. Pass identity={{{names}}}, with a name that you "
            f"change when the {' or the '.join(unnamed)} changes",
            stacklevel=5,
        )
    return found


# -- rewards --------------------------------------------------------------------------------------


def score(reward: Reward, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> Tensor:
    """Rewards [B, K] in float64 on the processor, checked.

    In float64 because a large constant in a reward would round its differences, and with them the
    ranks, away. The reward computes in its own precision, whatever the run's.

    Raises:
        ValueError: the reward returned anything but [B, K] numbers, or a value that is not finite
            (the first such completion is quoted).
    """
    with own_precision():
        returned = reward(prompts, completions)
    shape = [len(prompts), len(completions[0])]
    expected = f"expected a [B, K] = {shape} matrix of numbers, a row for each prompt"
    try:
        values = _numbers(returned)
    except _NotNumbers as error:
        raise ValueError(f"the reward returned {error}; {expected}") from None
    if list(values.shape) != shape:
        raise ValueError(f"the reward returned shape {list(values.shape)}; {expected}")
    for b, k in (~values.isfinite()).nonzero().tolist():
        raise ValueError(
            f"the reward returned {values[b, k].item()} for completion {k} of prompt {b}: "
            f"{completions[b][k]!r}; make it return a finite number for every text"
        )
    return values


class _NotNumbers(ValueError):
    """What a reward returned in place of numbers, and what it may have forgotten."""


_HINTS = {
    "NoneType": "did it forget to return?",
    "coroutine": "it is async: await the answer inside, with asyncio.run",
    "generator": "return a list of rows",
    "dict": "return the matrix alone",
    "DataFrame": "return its .to_numpy()",
    "Series": "return its .to_numpy()",
    "str": "make numbers of text with float()",
}


def _numbers(values: object, place: str = "") -> Tensor:
    """Tensors, arrays and nested lists of numbers in float64 on the processor, of any shape."""
    if isinstance(values, (np.ndarray, np.generic)) and values.dtype.kind in "biuf":
        return torch.from_numpy(np.array(values, dtype=np.float64))
    if isinstance(values, Tensor) and not values.is_complex():
        return values.detach().cpu().double()
    if isinstance(values, Real):
        return torch.tensor(float(values), dtype=torch.float64)
    if isinstance(values, (list, tuple)):
        rows = [_numbers(value, f"{place}[{i}]") for i, value in enumerate(values)]
        shapes = sorted({tuple(row.shape) for row in rows})
        if len(shapes) > 1:
            raise _NotNumbers(f"rows of different lengths: {', '.join(map(str, shapes))}")
        return torch.stack(rows) if rows else torch.zeros(0, dtype=torch.float64)
    if inspect.iscoroutine(values):
        values.close()  # or Python would warn that nobody awaited it
    kind = type(values).__name__
    what = "None" if values is None else f"a {kind}"
    what += f" of {values.dtype}" if isinstance(values, (np.ndarray, Tensor)) else ""
    hint = f" ({_HINTS[kind]})" if kind in _HINTS else ""
    raise _NotNumbers(what + (f" at {place}" if place else "") + hint)


def own_precision(model: nn.Module | None = None) -> AbstractContextManager:
    """A scorer's own precision, inside whatever its caller computes in.

    Autocast to bfloat16 for a model that is stored in it. Without a model: no autocast, so that
    code that knows nothing of it computes as it does anywhere else.
    """
    if model is not None:
        weight = next(model.parameters())
        half = weight.dtype == torch.bfloat16
        return torch.autocast(weight.device.type, torch.bfloat16) if half else nullcontext()
    accelerator = torch.accelerator.current_accelerator()
    stack = ExitStack()
    for kind in {"cpu", accelerator.type if accelerator else "cpu"}:
        if torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    return stack
