"""Whole training steps: bondlab's J-BOND and RLOO, and TRL's RLOO with as many samples.

Alike are weights, LoRA rank and layers, autocast, prompts, number and length of the completions,
prompts passed together, AdamW without decay, one optimiser step, a reward that costs nothing. TRL's
checkpoints, logs and evaluations are off, and so is its recomputation of activations, its default,
which saves memory for time: a last row has the memory of a step with it.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from bondlab import device, training
from bondlab.algorithms import j_bond, reinforce
from bondlab.bench.cases import BETA_RL, LEARNING_RATE, SEED, Case, Sizes
from bondlab.bench.timing import OURS, alternated, apart, timed
from bondlab.bench.workload import folder, letters, loaded, task, texts
from bondlab.config import Config
from bondlab.trainer import Trainer

MISSING = "no peer for whole steps: pip install 'bondlab[bench]'"
PEER, LEAN = "TRL", "TRL, recomputing"
INSTALLED = find_spec("trl") is not None
MANY = 1000  # steps that a run is said to have: more than are taken


def measure(cases: Iterable[Case], profile: str, sizes: Sizes) -> list[dict]:
    """Rows of `timing.alternated` by case, each side in its own process."""
    rows = []
    for case in cases:
        given = case, folder(case.model, profile)
        sides = {OURS: (ours, *given)} | ({PEER: (trl, *given, False)} if INSTALLED else {})
        with apart(sides) as turned:
            rows += [{"case": case.name, **row} for row in alternated(turned, sizes.repeats)]
        if INSTALLED and case.algorithm == "J-BOND" and case.lora_rank:
            with apart({LEAN: (trl, *given, True)}) as turned:
                first = turned[LEAN]() | {"seconds": math.nan}  # of a first turn: no time
            rows.append({"case": case.name, "side": LEAN, "turn": 0, **first})
    return rows


def grown(cases: Iterable[Case], profile: str, sizes: Sizes) -> list[dict]:
    """Ours alone, in this process; sizes take turns, as sides do."""
    with tempfile.TemporaryDirectory() as parent:
        sides = {}
        for case in cases:
            trainer = trainer_of(case, folder(case.model, profile), Path(parent) / case.name)
            sides[case.name] = timed(trainer.update, lambda row: {"length": row["tokens"]})
        rows = alternated(sides, sizes.repeats)
    return [{"case": row.pop("side"), "side": OURS, **row} for row in rows]


# -- ours ------------------------------------------------------------------------------------------


def ours(case: Case, path: Path, next_turn: Callable[..., None]) -> None:
    """Take bondlab's steps."""
    with tempfile.TemporaryDirectory() as parent:
        os.environ["BONDLAB_RUNS"] = parent  # this process leaves nothing
        trainer = trainer_of(case, path, Path(parent))
        next_turn()
        while True:
            next_turn(length=trainer.update()["tokens"])


def trainer_of(case: Case, path: Path, parent: Path) -> Trainer:
    """Bondlab's trainer of a case, whose run's folder is made below `parent`.

    Of K completions per prompt J-BOND draws two from the anchor.
    """
    config = Config(
        steps=MANY,
        prompts_per_step=case.shape.prompts,
        learning_rate=LEARNING_RATE,
        warmup=0,
        lora_rank=case.lora_rank,
        micro_batch=case.passed,
        seed=SEED,
    )
    rloo, k = case.algorithm == "RLOO", case.shape.k
    algorithm = reinforce(BETA_RL, policy_draws=k) if rloo else j_bond(policy_draws=k - 2)
    return training.trainer(task(path, case), algorithm, config, parent)


# -- TRL's -----------------------------------------------------------------------------------------


def trl(case: Case, path: Path, recompute: bool, next_turn: Callable[..., None]) -> None:
    """Take TRL's steps; `recompute` activations in the backward pass, which saves memory."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl import RLOOConfig, RLOOTrainer

    lengths: list[int] = []

    class Alternate(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            next_turn()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            length = statistics.fmean(lengths)
            lengths.clear()
            next_turn(length=length)

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [letters(text) for text in completions]

    dtype = torch.float32 if case.lora_rank is None else device.dtype("auto")
    model, tokenizer = loaded(path, dtype)
    adapter = lora(case)
    prompts = texts(tokenizer, case.shape.prompts, case.shape.prompt_tokens)
    with tempfile.TemporaryDirectory() as output:
        trainer = RLOOTrainer(
            model=model,
            reward_funcs=reward,
            args=RLOOConfig(output_dir=output, gradient_checkpointing=recompute, **asked(case)),
            train_dataset=Dataset.from_dict({"prompt": prompts * MANY}),
            processing_class=tokenizer,
            callbacks=[Alternate()],
            peft_config=adapter and LoraConfig(**adapter),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def lora(case: Case) -> dict[str, Any] | None:
    """The adapter that `LanguageModel.add_adapter` makes, as peft's settings."""
    if case.lora_rank is None:
        return None
    return {"r": case.lora_rank, "lora_alpha": case.lora_rank, "target_modules": "all-linear"}


def asked(case: Case) -> dict[str, Any]:
    """TRL's settings for what `trainer_of` does: an optimiser step draws and learns all samples."""
    shape, config = case.shape, Config(steps=1)
    return {
        "per_device_train_batch_size": case.passed * shape.k,
        "gradient_accumulation_steps": shape.prompts // case.passed,
        "num_generations": shape.k,
        "max_completion_length": shape.new_tokens,
        "temperature": 1.0,
        "top_k": 0,
        "top_p": 1.0,
        "beta": BETA_RL,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": config.clip,
        "max_steps": MANY,
        "bf16": device.resolve("auto") == "bf16",
        "use_cpu": device.place().type == "cpu",
        "shuffle_dataset": False,
        "seed": SEED,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
