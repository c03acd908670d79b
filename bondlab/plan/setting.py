"""A run as its costs see it: what is stored, who is drawn and read and how often; its memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from bondlab import device
from bondlab.algorithms import Algorithm
from bondlab.bank import PROMPTS_A_PART
from bondlab.config import Config
from bondlab.lm.attention import KEPT_WEIGHTS
from bondlab.lm.completions import evenly
from bondlab.lm.language_model import LOGITS_AT_ONCE
from bondlab.plan.machines import Machine
from bondlab.plan.shape import Shape, Stack
from bondlab.rules import Scores

FLOAT, HALF = 4, 2  # bytes a number
# Kept for the backward pass, a token: so many numbers per width (inputs and outputs) of the linear
# layers; and what normalisations give, in float32, twice where they are trained. Beside it and our
# attention's own saved tensors of Llama, Gemma, Gemma 3 and T5 were 0.85 to 1.14 times as large.
KEPT = {FLOAT: 1.0, HALF: 1.1}
LOGITS = 4  # tensors of their size at once: in a draw, and where a score is passed back


@dataclass(frozen=True)
class Model:
    """What a pass goes through: rank of the adapters (0: none), bytes a weight of the layers."""

    rank: int
    held: int


@dataclass(frozen=True)
class Draw:
    """A pass of sampling: k completions per prompt, of one model or of two in one pass."""

    model: Model
    k: int
    models: int = 1


@dataclass(frozen=True)
class Setting:
    """A run on a machine, with the most tokens of a prompt and of a completion."""

    shape: Shape
    algorithm: Algorithm
    config: Config
    prompt_tokens: int
    completion_tokens: int
    machine: Machine

    @property
    def size(self) -> int:
        """Bytes of a number in the run's precision, in which frozen weights are stored."""
        if self.machine.gpu and self.config.precision == "auto":  # all of the table multiply it
            return HALF
        return HALF if device.resolve(self.config.precision) == "bf16" else FLOAT

    @property
    def whole(self) -> bool:
        """Whether all weights are trained, in float32; else adapters are."""
        return self.config.lora_rank is None

    @property
    def trained(self) -> int:
        """Weights that the policy trains."""
        return self.shape.parameters if self.whole else self.config.lora_rank * self.shape.widths

    @property
    def policy(self) -> Model:
        return Model(0, FLOAT) if self.whole else Model(self.config.lora_rank, self.size)

    @property
    def anchor(self) -> Model:
        """A copy of the policy where it moves, else the reference."""
        return self.policy if self.algorithm.anchor_moves else Model(0, self.size)

    @property
    def prompts(self) -> int:
        """Of a step."""
        return self.config.prompts_per_step

    @property
    def micro_batch(self) -> int:
        """Prompts that are passed back together."""
        return min(self.config.micro_batch, self.prompts)

    @property
    def together(self) -> list[int]:
        """Of a step's passes of sampling: prompts in each."""
        places = evenly(self.prompts, self.config.sampling_batch)
        return [rows.stop - rows.start for rows in places]

    @property
    def batches(self) -> int:
        """Micro-batches of a step."""
        return -(-self.prompts // self.micro_batch)

    @property
    def draws(self) -> list[Draw]:
        """What a step samples. A processor draws two adapters of the same weights in one pass."""
        a = self.algorithm
        fresh = (a.anchor_draws + a.quantile_draws) * a.draws_anew(self.config)
        both = [Draw(self.anchor, fresh), Draw(self.policy, a.policy_draws)]
        if not self.machine.gpu and a.anchor_moves and not self.whole and all(d.k for d in both):
            return [Draw(self.policy, fresh + a.policy_draws, models=2)]
        return [draw for draw in both if draw.k]

    @cached_property
    def weighed(self) -> int:
        """Completions per prompt that are passed back. Of the anchor's those are that the rule
        gives a weight: it is asked about made-up rewards."""
        b, n, k = 64, self.algorithm.anchor_draws, self.algorithm.policy_draws
        rewards = torch.rand(b, n + k, generator=torch.Generator().manual_seed(0)).double()
        policy, even = rewards[:, n:], torch.zeros(b, k)
        scores = Scores(rewards[:, :n], policy, policy.clamp(min=0.1), even, torch.zeros(b, n))
        used = (self.algorithm.weights(scores)[:, :n] != 0).sum(1)
        return max(int(used.max()), k == 0) + k if n else k

    @property
    def ours(self) -> bool:
        """Whether attention is `lm.attention`'s in float32, over one cache a prompt."""
        return self.shape.is_encoder_decoder or not self.machine.gpu

    @property
    def replays(self) -> bool:
        """Whether a decoding step is replayed as one graph; see `lm.sampler`."""
        places = self.prompt_tokens + self.completion_tokens
        sees_all = all(layer.window >= places for layer in self.shape.attention)
        return self.machine.gpu and sees_all and not self.shape.is_encoder_decoder

    @cached_property
    def cache(self) -> tuple[int, int]:
        """Bytes of keys and values of a prompt and of one completion."""
        size = self.size if self.machine.gpu else FLOAT
        windows = not self.ours  # `lm.attention` forgets nothing
        before, own = self.shape.cache(self.prompt_tokens, self.completion_tokens, windows)
        return before * size, own * size

    # -- memory, in bytes by part ------------------------------------------------------------------

    @property
    def stays(self) -> dict[str, float]:
        """For the whole run; a gradient lives in training alone."""
        vocabulary, width = self.shape.head
        learned = self.algorithm.quantile_model is not None
        return {
            "frozen weights": self.shape.parameters * self.size,
            "head in float32": vocabulary * width * FLOAT * (self.size == HALF),
            "policy's trained weights": self.trained * FLOAT,
            "moving anchor's": self.trained * FLOAT * self.algorithm.anchor_moves,
            "Adam's averages": 2 * self.trained * FLOAT,
            "quantile model": 3 * (self.trained + width + 1) * FLOAT * learned,
        }

    @property
    def sampling(self) -> dict[str, float]:
        """While a step's completions are drawn."""
        kept = {*self.together} if self.replays else {self.together[0]}  # graphs, one a size
        alive, logits = self._drawn(sum(kept), self.draws)
        return {"key-value caches": alive, "logits of a draw": logits}

    @property
    def storing(self) -> dict[str, float]:
        """While a part of a bank is drawn, before any step."""
        stored = not self.algorithm.draws_anew(self.config)
        k = max(self.config.evaluation_bank, self.config.bank_samples * stored)
        together = min(PROMPTS_A_PART, self.config.micro_batch)
        alive, logits = self._drawn(together, [Draw(self.anchor, k)])
        return {"caches of a bank's part": alive, "logits of its draw": logits}

    def _drawn(self, prompts: int, draws: Sequence[Draw]) -> tuple[float, float]:
        """Bytes of caches and of logits."""
        before, own = self.cache
        caches = [before * (d.models if self.ours else d.k) + own * d.k for d in draws]
        most = max((d.k for d in draws), default=0)
        # Captured graphs keep the anchor's and the policy's, beside the prompts' copied there.
        alive = sum(caches) + before * most if self.replays else max(caches, default=0)
        return alive * prompts, LOGITS * most * prompts * self.shape.head[0] * FLOAT

    @property
    def training(self) -> dict[str, float]:
        """While a micro-batch is passed back."""
        rows = self.micro_batch * self.weighed
        logits = min(LOGITS_AT_ONCE, rows * self.completion_tokens * self.shape.head[0])
        return {
            "gradients": self.trained * FLOAT,
            "activations": self.activations(self.micro_batch, rows),
            "logits of a score": LOGITS * logits * FLOAT,
            "weights cast to bfloat16": self.trained * HALF * (self.whole and self.size == HALF),
        }

    def activations(self, prompts: int, rows: int) -> float:
        """What a pass of prompts and of rows of completions keeps for the backward pass."""
        p, t = self.prompt_tokens, self.completion_tokens

        def of(stack: Stack) -> float:
            kept = KEPT[self.size] * self.size * stack.widths
            return kept + FLOAT * stack.norms * (1 + self.whole)

        kept = of(self.shape.prompt) * prompts * p + of(self.shape.completion) * rows * t
        # Our attention keeps its weights, as long as they are few, and what it made float32.
        pairs = prompts * p * p, rows * t * (p + t)
        numbers = 0
        for layer in self.shape.attention:
            numbers += sum(n * layer.heads for n in pairs if n * layer.heads <= KEPT_WEIGHTS)
            if self.size == HALF:
                numbers += (prompts * p + rows * t) * (layer.queries + 2 * layer.keys)
        return kept + FLOAT * numbers * self.ours

    @property
    def memory(self) -> dict[str, float]:
        """What stays, and what is there while a bank is drawn, in sampling, in training."""
        return self.stays | self.storing | self.sampling | self.training

    @property
    def peak(self) -> float:
        """Most at once: all that stays, and the largest of the three on the machine's heap."""
        parts = self.storing, self.sampling, self.training
        passing = max(sum(part.values()) for part in parts)
        return sum(self.stays.values()) + self.machine.heap * passing

    @property
    def checkpoint(self) -> float:
        """One on the disk, of which a run keeps two: all that stays and is not frozen."""
        return sum([*self.stays.values()][2:])
