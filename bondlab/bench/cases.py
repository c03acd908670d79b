"""What is asked of every side of a comparison, as data: the same work of ours and of a peer.

On a processor everything is meant to end within half an hour on two cores; on a GPU, where
a step is short, sizes are larger. None is the paper's; a step's shape (8 prompts of 142 tokens, 48
new ones) was chosen because the task chat has prompts of up to 144 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

SEED = 0
RANK = 8  # of LoRA, on every linear layer but the head, alpha the same: bondlab's own default
BETA_RL = 0.05  # TRL's default; the KL's weight costs nothing, that it is not 0 costs a pass
LEARNING_RATE = 3e-4


@dataclass(frozen=True)
class Shape:
    """B prompts of `prompt_tokens`, K completions of `new_tokens` each; both in tokens."""

    prompts: int
    k: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Case:
    """One comparison, or one point of a curve.

    Args:
        name: unique in its section.
        model: "causal" or "t5", see `workload`.
        shape: of a step, K counts all completions per prompt, whoever draws them.
        algorithm: "J-BOND" or "RLOO"; "" draws samples alone.
        lora_rank: None trains every weight.
        passed: prompts that are passed through the policy together.
        varied: what this point of a curve differs in from the others; "" is no such point.
    """

    name: str
    shape: Shape
    model: str = "causal"
    algorithm: str = ""
    lora_rank: int | None = RANK
    passed: int = 8
    varied: str = ""


@dataclass(frozen=True)
class Sizes:
    """Sizes on one kind of machine.

    Args:
        sampling: K is each of `ks`; of a large one fewer prompts, so that K times them is at most
            `rows`.
        step, whole: of a step with LoRA, and of all weights; None leaves the latter out.
        growth: where curves start; each of its sizes is multiplied by `factors`, alone.
        matrix, buffer: rows of a matrix that is squared, and bytes that are read, which tell what
            the machine can do.
        repeats: turns of each side that count, after one that does not.
    """

    sampling: Shape
    step: Shape
    whole: Shape | None
    growth: Shape
    passed: int
    matrix: int
    buffer: int
    rows: int = 32
    repeats: int = 5
    ks: tuple[int, ...] = (1, 3, 8, 16, 32)
    factors: tuple[int, ...] = (2, 4)


SIZES = {
    "smoke": Sizes(
        Shape(2, 1, 6, 4), Shape(2, 2, 6, 4), None, Shape(1, 3, 4, 2),
        passed=2, matrix=64, buffer=2**16, repeats=2, ks=(1, 3), factors=(2,),
    ),
    "cpu": Sizes(
        Shape(8, 1, 142, 16), Shape(8, 2, 142, 48), Shape(2, 2, 64, 16), Shape(2, 3, 32, 12),
        passed=8, matrix=2048, buffer=2**29,
    ),
    "gpu": Sizes(
        Shape(32, 1, 142, 48), Shape(64, 2, 142, 48), Shape(64, 2, 142, 48), Shape(16, 3, 64, 24),
        passed=16, matrix=8192, buffer=2**31, rows=512, factors=(2, 4, 8),
    ),
}  # fmt: skip


def sampling(sizes: Sizes) -> list[Case]:
    """K completions that end at different lengths."""

    def shape(k: int) -> Shape:
        return replace(sizes.sampling, k=k, prompts=min(sizes.sampling.prompts, sizes.rows // k))

    return [Case(f"{m}, K = {k}", shape(k), m) for m in ("causal", "t5") for k in sizes.ks]


def steps(sizes: Sizes) -> list[Case]:
    """Whole steps; J-BOND's three completions per prompt are compared with three of RLOO's."""
    return [
        _step(sizes, f"{name}, {kind}", replace(shape, k=k), algorithm=name, lora_rank=rank)
        for kind, rank, shape in (("LoRA", RANK, sizes.step), ("all weights", None, sizes.whole))
        if shape
        for name, k in (("RLOO", 2), ("J-BOND", 3))
    ]


def floor(sizes: Sizes) -> list[Case]:
    """The step that is taken apart."""
    return [case for case in steps(sizes) if case.name == "J-BOND, LoRA"]


def growth(sizes: Sizes) -> list[Case]:
    """J-BOND steps that differ in one size each; all curves share their first point."""
    cases = [_step(sizes, "start", sizes.growth)]
    for varied in ("k", "prompts", "prompt_tokens", "new_tokens"):
        for factor in sizes.factors:
            size = getattr(sizes.growth, varied) * factor
            shape = replace(sizes.growth, **{varied: size})
            cases.append(_step(sizes, f"{varied} {size}", shape, varied=varied))
    return cases


def _step(sizes: Sizes, name: str, shape: Shape, algorithm: str = "J-BOND", **given: Any) -> Case:
    passed = min(sizes.passed, shape.prompts)
    return Case(name, shape, algorithm=algorithm, passed=passed, **given)
