"""Where and how precisely the tensors are computed: device, precision, threads."""

from __future__ import annotations

import os
import platform
from typing import Literal

import torch
from accelerate import Accelerator, PartialState

Precision = Literal["auto", "bf16", "fp32"]


def place() -> torch.device:
    """Where this process computes: accelerate's choice, the GPU if there is one."""
    return PartialState().device


def resolve(precision: Precision) -> str:
    """ "bf16" or "fp32": `auto` takes bf16 where the hardware multiplies it natively."""
    if precision != "auto":
        return precision
    if place().type == "cpu":
        return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    native = getattr(torch.get_device_module(place()), "is_bf16_supported", lambda: False)
    return "bf16" if native() else "fp32"


class Precise(Accelerator):
    """An `Accelerator` whose precision is its own; accelerate keeps one for the whole process."""

    def __init__(self, precision: Precision) -> None:
        super().__init__()  # no precision given: what another caller chose for theirs stays
        self.bf16 = resolve(precision) == "bf16"

    def autocast(self, *_: object) -> torch.autocast:
        """bfloat16 where this accelerator was made for it, whatever was made since."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)


def accelerator(precision: Precision) -> Precise:
    """An `Accelerator` for this process.

    torch's float32 matmul mode is left alone: in "medium" some processors multiply float32 in
    bfloat16, and the mode would outlive the run.
    """
    return Precise(precision)


def dtype(precision: Precision) -> torch.dtype:
    """The storage type of frozen weights; what is trained stays float32."""
    return torch.bfloat16 if resolve(precision) == "bf16" else torch.float32


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, object]:
    """What a manifest says of the machine."""
    cuda = place().type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "matmul": torch.get_float32_matmul_precision(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
