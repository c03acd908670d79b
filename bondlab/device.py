"""Where and how precisely the tensors are computed: device, precision, threads."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Literal

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

Precision = Literal["auto", "bf16", "fp32"]
PATIENCE = timedelta(hours=1)  # with a process that takes longer: on a bank, with a slow reward


def state() -> PartialState:
    """The processes that a launcher started, connected by accelerate, and where this one computes.

    Where there is no GPU accelerate connects them only if it is asked for the processor by name.
    """
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=bool(on_cpu), timeout=PATIENCE)


def place() -> torch.device:
    """Where this process computes: accelerate's choice, the GPU if there is one."""
    return state().device


def resolve(precision: Precision) -> str:
    """ "bf16" or "fp32": `auto` takes bf16 where the hardware multiplies it natively."""
    if precision != "auto":
        return precision
    if place().type == "cpu":
        return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"
    if place().type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    native = getattr(torch.get_device_module(place()), "is_bf16_supported", lambda: False)
    return "bf16" if native() else "fp32"


def autocast(precision: Precision) -> torch.autocast:
    """A context in which products are computed at a precision where this process computes.

    Not accelerate's own: it keeps one precision for the whole process, which is the caller's.
    torch's float32 matmul mode is left alone: in "medium" some processors multiply float32 in
    bfloat16, and the mode would outlive the run.
    """
    here = place().type
    if here == "cpu":
        keep_memory()
    return torch.autocast(here, torch.bfloat16, enabled=resolve(precision) == "bf16")


def adam(parameters: Sequence[torch.nn.Parameter], rate: float) -> torch.optim.AdamW:
    """Adam without weight decay, where torch has it in one kernel in that."""
    fused = place().type in ("cpu", "cuda")
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, fused=fused)


@functools.cache
def keep_memory() -> None:
    """Let this process keep the memory that it frees, for its next use.

    glibc gives large blocks back at once, and to fill them with zeros again took a third of a
    training step. Elsewhere nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no block is a mapping of its own
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: nothing is cut off at the heap's end


def dtype(precision: Precision) -> torch.dtype:
    """The storage type of frozen weights; what is trained stays float32."""
    return torch.bfloat16 if resolve(precision) == "bf16" else torch.float32


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def processor() -> dict[str, str]:
    """What the processor is: vendor, family, model, name and the flags of its instructions.

    On Linux from /proc/cpuinfo; elsewhere a name alone, as far as Python knows one.
    """
    path = Path("/proc/cpuinfo")
    first = path.read_text().partition("\n\n")[0] if path.exists() else ""
    pairs = (line.partition(":")[::2] for line in first.splitlines())
    found = {key.strip(): value.strip() for key, value in pairs}
    return {"model name": platform.processor() or platform.machine()} | found


def kind() -> str:
    """The kind of machine in a line: numbers are equal to the last digit on one kind alone."""
    if place().type == "cuda":
        return torch.cuda.get_device_name()
    cpu = processor()
    name = cpu["model name"]
    if "cpu family" in cpu:  # virtual machines give one processor several names
        name = f"{cpu['vendor_id']} family {cpu['cpu family']} model {cpu['model']}"
    where = "" if place().type == "cpu" else f"{place().type} of "
    # What torch computes with here, and which instructions round bfloat16 in their own way.
    flags = cpu.get("flags", "").split()
    rounding = [flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags]
    return f"{where}{name}: {', '.join([torch.backends.cpu.get_cpu_capability(), *rounding])}"


def describe() -> dict[str, object]:
    """What a manifest says of the machine."""
    return {
        "kind": kind(),
        "processor": processor()["model name"],
        "cores": cores(),
        "processes": state().num_processes,
        "threads": torch.get_num_threads(),
        "matmul": torch.get_float32_matmul_precision(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }
