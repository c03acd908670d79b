"""A J-BOND step taken apart, beside what the machine could do: the floor under each part.

A part's floor is the longer of its floating-point operations over the rate at which the machine
multiplies large matrices, and of its bytes over the rate at which it reads memory; both rates are
measured in the same run. Operations are counted in the passes that the step makes. A completion's
tokens must each be read once, whoever draws them, so drawing is counted as one pass over them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ContextDecorator, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bondlab import device
from bondlab.bench.cases import Case, Sizes
from bondlab.bench.steps import trainer_of
from bondlab.bench.timing import OURS, alternated, timed, wait
from bondlab.bench.workload import folder
from bondlab.lm.language_model import LanguageModel
from bondlab.trainer import Trainer

SAMPLING = "sampling policy and anchor"
SCORING, FORWARD, BACKWARD = "scoring", "forward pass", "backward pass"
ADAM, REST = "optimiser", "the rest"
MATRIX, MEMORY = "matrix rate", "memory rate"
Meter = Callable[[str], ContextDecorator]


def measure(cases: Iterable[Case], profile: str, sizes: Sizes) -> list[dict[str, Any]]:
    """Rows of the two rates and of the step's parts, with operations and bytes."""
    (case,) = cases
    found = alternated(rates(sizes), sizes.repeats)
    rows = [{"case": row.pop("side"), "side": "machine", **row} for row in found]
    with TemporaryDirectory() as parent:
        trainer = trainer_of(case, folder(case.model, profile), Path(parent))
        trainer.update()
        needed = counted(trainer, case)
        for turn in range(sizes.repeats):
            for part, seconds in clocked(trainer).items():
                took = {"case": part, "side": OURS, "turn": turn, "seconds": seconds}
                rows.append(took | needed.get(part, {}))
    return rows


# -- the machine -----------------------------------------------------------------------------------


def rates(sizes: Sizes) -> dict[str, Callable]:
    """A product of large matrices in the run's precision; a matrix read once, for a vector."""
    where, n = device.place(), sizes.matrix
    square = torch.randn(n, n, device=where, dtype=device.dtype("auto"))
    wide = torch.randn(sizes.buffer // 4 // 1024, 1024, device=where)
    return {
        MATRIX: timed(lambda: square @ square, lambda _: {"operations": 2.0 * n**3}),
        MEMORY: timed(lambda: wide @ wide[0], lambda _: {"bytes": 4.0 * wide.numel()}),
    }


# -- the step --------------------------------------------------------------------------------------


def clocked(trainer: Trainer) -> dict[str, float]:
    """Seconds of one more step by part."""
    spent: Counter[str] = Counter()

    @contextmanager
    def clock(part: str) -> Iterator[None]:
        wait()
        began = time.perf_counter()
        yield
        wait()
        spent[part] += time.perf_counter() - began

    with _metered(trainer, clock), clock("step"):
        trainer.update()
    whole = spent.pop("step")
    return {**spent, REST: whole - spent.total()}


def counted(trainer: Trainer, case: Case) -> dict[str, dict[str, float]]:
    """Operations and bytes of one more step, by part.

    Bytes: each pass reads the weights once, drawing reads them once a token, and with them the
    prompts' and the completions' own keys and values; Adam reads four numbers of each trained
    weight and writes three.
    """
    operations: Counter[str] = Counter()

    @contextmanager
    def counter(part: str) -> Iterator[None]:
        # Without fused attention, which is counted on some devices alone.
        with FlopCounterMode(display=False) as mode, sdpa_kernel(SDPBackend.MATH):
            yield
        operations[part] += mode.get_total_flops()

    with _metered(trainer, counter, drawn_again=True):
        trainer.update()
    weights, adam = (
        sum(x.numel() * x.element_size() for x in owned)
        for owned in (trainer.reference.parameters(), trainer.parameters)
    )
    # A processor goes through the weights that both share once a token.
    read = weights * (1 if trainer.reference.device.type == "cpu" else 2)
    kept, shape = _cache_bytes(trainer.reference), case.shape
    before = 2 * shape.prompts * shape.prompt_tokens  # the policy's and the anchor's
    own = shape.prompts * shape.k * shape.new_tokens / 2  # on average over the tokens
    moved = dict.fromkeys((SCORING, FORWARD, BACKWARD), weights) | {
        SAMPLING: shape.new_tokens * (read + kept * (before + own)), ADAM: 7 * adam,
    }  # fmt: skip
    return {
        part: {"operations": float(operations[part]), "bytes": float(count)}
        for part, count in moved.items()
    }


@contextmanager
def _metered(trainer: Trainer, meter: Meter, drawn_again: bool = False) -> Iterator[None]:
    """A meter around each part of the trainer's steps.

    With `drawn_again` what drawing must read is measured in place of the drawing itself.
    """
    policy, anchor, precision = trainer.policy, trainer.anchor, trainer.config.precision
    draw = policy.sample_beside

    def passing(call: Callable) -> Callable:
        def metered(*given: Any) -> Any:
            with meter(FORWARD if torch.is_grad_enabled() else SCORING):
                return call(*given)

        return metered

    def sample(other: LanguageModel, prompts: Any, *rest: Any) -> Any:
        drawn = draw(other, prompts, *rest)
        with meter(SAMPLING), torch.no_grad(), device.autocast(precision):
            for model, completions in zip((policy, other), drawn, strict=True):
                LanguageModel.forward(model, prompts, completions)
        return drawn

    replaced = (
        (policy, "sample_beside", sample if drawn_again else meter(SAMPLING)(draw)),
        (policy, "forward", passing(policy.forward)),
        (anchor, "forward", passing(anchor.forward)),
        (torch.Tensor, "backward", meter(BACKWARD)(torch.Tensor.backward)),
        (trainer.optimizer, "step", meter(ADAM)(trainer.optimizer.step)),
    )
    with ExitStack() as undone:
        for part in replaced:
            undone.enter_context(patch.object(*part))
        yield


def _cache_bytes(model: LanguageModel) -> float:
    """Keys and values of one token, in all layers."""
    one = model.encode(["the"])
    with torch.no_grad():
        cache = model.model(input_ids=one.ids, attention_mask=one.mask).past_key_values
    size = sum(x.numel() * x.element_size() for y in cache.layers for x in (y.keys, y.values))
    return size / one.ids.numel()
