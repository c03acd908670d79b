"""What a run will take before it is started: memory, operations, seconds, and what fits one GPU.

From a model's configuration, an algorithm's draws and a run's settings alone. All completions count
with their longest length. The reward's own memory and time are not in it, nor is the time of
evaluations and of the bank, which is drawn once in parts of a few prompts (with fresh="shared" once
a seed, and it is most of what a first run takes).

    shape     a model as its costs see it, from torch's meta device
    machines  data sheets of GPUs, and this machine, measured
    setting   a run as its costs see it, and its memory by part
    costs     operations, bytes and kernels by part, and their seconds
    tables    how a plan is printed
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig

from bondlab.algorithms import Algorithm
from bondlab.config import Config
from bondlab.plan.machines import MACHINES, here
from bondlab.plan.shape import shape
from bondlab.plan.tables import Plan

__all__ = ["Plan", "plan"]


def plan(
    model: str | Path | dict | PreTrainedConfig,
    algorithm: Algorithm,
    config: Config,
    prompt_tokens: int,
    completion_tokens: int,
    device: str = "here",
) -> Plan:
    """What `train` would take; it prints as tables.

    Args:
        model: a hub name, a folder, a JSON file or a configuration; "gemma-2b" and "gemma-7b" are
            known without a network. No weight is loaded.
        algorithm, config: as `train` takes them.
        prompt_tokens, completion_tokens: the most there may be.
        device: one of `machines.MACHINES`, or "here": this machine, measured in two seconds.

    Raises:
        ValueError: no such model or device, or a model that cannot be planned.
    """
    if device != "here" and device not in MACHINES:
        raise ValueError(f"no device is called {device!r}: choose here, {', '.join(MACHINES)}")
    known = shape(model)  # a misspelt one is refused before anything is measured
    machine = here() if device == "here" else MACHINES[device]
    return Plan(known, algorithm, config, prompt_tokens, completion_tokens, machine)
