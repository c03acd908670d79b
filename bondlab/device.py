"""Where and how precisely the tensors are computed: device, precision, threads."""

from __future__ import annotations

import os
import platform
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

Precision = Literal["auto", "bf16", "fp32"]


def resolve(precision: Precision) -> str:
    """ "bf16" or "fp32": `auto` takes bf16 where the hardware multiplies it natively."""
    if precision != "auto":
        return precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def accelerator(precision: Precision) -> Accelerator:
    """An `Accelerator` for this process; bf16 runs also take the fast float32 matmul mode."""
    mode = "bf16" if resolve(precision) == "bf16" else "no"
    torch.set_float32_matmul_precision("medium" if mode == "bf16" else "highest")
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mode:
        # Accelerate refuses a second precision in a process; a notebook may well want one.
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=mode)


def dtype(precision: Precision) -> torch.dtype:
    """The storage type of frozen weights; what is trained stays float32."""
    return torch.bfloat16 if resolve(precision) == "bf16" else torch.float32


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe() -> dict[str, object]:
    """What a manifest says of the machine."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "cpu",
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "matmul": torch.get_float32_matmul_precision(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
