"""One run in several processes: who computes what, and what they tell each other.

A launcher (`torchrun`, `accelerate launch`) starts the same program several times, and accelerate
connects the processes. Each samples, scores and passes through its share of a step's prompts. What
is exchanged is little: scores, so that each process weighs the whole step; gradients, added up in
few messages, so that all take the same step. No wrapper (DDP) stands around the policy: it would
exchange gradients after each of a step's passes, and sampling and scoring call what is inside it.
The main process alone writes; all read one disk.

With one process nothing is exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, distributed, nn

from bondlab import device

T = TypeVar("T")
AT_ONCE = 2**26  # numbers in one message, which is a copy: 256 MiB


@dataclass(frozen=True)
class Share:
    """The `rows` of a batch of `total` prompts that a process computes."""

    rows: slice
    total: int


def count() -> int:
    """Processes of this run."""
    return device.state().num_processes


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return device.state().is_main_process


def share(total: int) -> Share:
    """This process's share of so many prompts: neighbours, as many as others have or one more."""
    first, last = (total * (device.state().process_index + i) // count() for i in (0, 1))
    return Share(slice(first, last), total)


def mine(items: Sequence[T]) -> Sequence[T]:
    """Those of some pieces of work that this process does; perhaps none."""
    return items[share(len(items)).rows]


def gathered(value: T) -> list[T]:
    """Every process's value, in order; all wait for the last."""
    device.state()  # which connects them
    return gather_object([value])


def told(ask: Callable[[], T]) -> T:
    """The main process's answer, which it tells the others: what is on the disk, say."""
    return broadcast_object_list([ask() if is_main() else None])[0]


def alike(values: Mapping[str, Any], demand: str) -> None:
    """Go on if all processes have the same values.

    Raises:
        RuntimeError: they differ; the message is the demand, and the names of those that do.
    """
    differ = {name for other in gathered(values) for name in values if other[name] != values[name]}
    if differ:
        raise RuntimeError(f"{demand}; they differ in {', '.join(sorted(differ))}")


def joined(parts: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Tensors [b, ...] of this process's share as [B, ...] of the whole, None as None.

    Of several processes they come on the processor.
    """
    if count() == 1:
        return list(parts)
    found = gathered([None if part is None else part.cpu() for part in parts])
    return [None if same[0] is None else torch.cat(same) for same in zip(*found, strict=True)]


def add_gradients(parameters: Sequence[nn.Parameter], loss: Tensor) -> None:
    """Add up the parameters' gradients and the loss over all processes, in place.

    The sums are equal to the last bit everywhere, so what follows from them is, too.
    """
    if count() == 1:
        return
    for parameter in parameters:  # one that no prompt of this share reached
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    pieces, numbers = {}, 0
    for tensor in [*(p.grad for p in parameters), loss]:
        pieces.setdefault(numbers // AT_ONCE, []).append(tensor)
        numbers += tensor.numel()
    for piece in pieces.values():
        flat = torch.cat([x.flatten().to(parameters[0]) for x in piece])
        distributed.all_reduce(flat)
        for tensor, added in zip(piece, flat.split([x.numel() for x in piece]), strict=True):
            tensor.copy_(added.view_as(tensor))
