"""Settings of a training run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bondlab import device

Count = Annotated[int, Field(ge=1)]


class Config(BaseModel):
    """Settings of a run; what the paper does not state says why it was chosen.

    `steps` optimiser steps of `prompts_per_step` prompts, fewer where an evaluation finds the
    policy further than `kl_limit` nats from the reference, with which training then ends; warm-up
    and the intervals of evaluations count steps. A checkpoint is written after so many seconds of
    training, which is what a kill can cost, and at the end. `bank_samples`, `evaluation_samples`
    and `evaluation_bank` are completions per prompt. `learning_rate` is Adam's after warm-up,
    `clip` the largest gradient norm (a run's record says which steps it bound). `fresh` draws the
    reference's samples anew at each step, as the paper does, and not from a bank; "shared", once
    for all runs of a seed whose anchor stays: its bank has `bank_samples` for each time that a
    prompt passes by. `lora_rank` None trains every weight; as many tokens as `micro_batch` of the
    longest prompts have pass through together, and banks and evaluations take so many prompts at
    once; a step samples for `sampling_batch` of its prompts at once, None for all of them: neither
    changes a result, but for its rounding. Without `forward_kl` evaluations do not score their
    bank. `seed` sets all draws; `precision` is "auto" (bf16 where the hardware multiplies it),
    "bf16" or "fp32".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    steps: Count
    prompts_per_step: Count = 8  # not stated for XSum; chosen because two cores do it in seconds
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    warmup: Annotated[int, Field(ge=0)] = 10  # section 6: 100, of Gemma's longer runs
    # Not stated; chosen because it binds rarely. Unclipped, 4 to 10 steps each at study size (seed
    # 11, samples drawn anew), norms were 0.4 to 13 (J-BOND, REINFORCE, online DPO), 2 to 35 (BOND
    # on XSum), 70 to 140 (J-BOND, all weights) and 295 to 565 (BoNBoN): a smaller one would weigh
    # the methods' batches differently.
    clip: Annotated[float, Field(gt=0)] = 1000.0
    lora_rank: Count | None = 8  # not stated
    micro_batch: Count = 8
    sampling_batch: Count | None = None
    bank_samples: Count = 32  # 16 for quantiles (section 4.2) beside Best-of-16
    fresh: bool | Literal["shared"] = False
    evaluate_every: Count = 500  # section 6
    kl_limit: Annotated[float, Field(gt=0)] | None = None
    evaluation_samples: Count = 4  # not stated
    evaluation_bank: Count = 32  # k of section 6
    forward_kl: bool = True
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 60.0  # 0: after each step
    seed: Annotated[int, Field(ge=0)] = 0
    precision: device.Precision = "auto"
