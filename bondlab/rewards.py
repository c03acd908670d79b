"""Rewards: how good is a completion of a prompt?

Any callable with the signature of `Reward` will do; rules use ranks, so its scale does not matter.
It may return a tensor on any device, an array, or lists of numbers: a row a prompt.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from numbers import Real

import numpy as np
import torch
from torch import Tensor, nn

Reward = Callable[[Sequence[str], Sequence[Sequence[str]]], Tensor]
"""(B prompts, B lists of K completions) -> rewards [B, K], higher is better."""


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
    b, k = len(prompts), len(completions[0])
    expected = f"expected a [B, K] = [{b}, {k}] matrix of numbers, a row for each prompt"
    try:
        values = _numbers(returned)
    except _NotNumbers as error:
        raise ValueError(f"the reward returned {error}; {expected}") from None
    if tuple(values.shape) != (b, k):
        raise ValueError(f"the reward returned shape {list(values.shape)}; {expected}")
    bad = (~values.isfinite()).nonzero()
    if len(bad):
        b, k = bad[0].tolist()
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
        values = torch.from_numpy(np.array(values, dtype=np.float64))
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
    if isinstance(values, (np.ndarray, Tensor)):
        what += f" of {values.dtype}"
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
