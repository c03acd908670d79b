"""Memory of a run by part, in bytes: what stays, what comes and goes in sampling and training."""

from __future__ import annotations

from bondlab.lm.attention import KEPT_WEIGHTS
from bondlab.lm.language_model import LOGITS_AT_ONCE
from bondlab.plan.setting import FLOAT, HALF, Setting
from bondlab.plan.shape import Stack

# Kept for the backward pass, a token: so many numbers per width (inputs and outputs) of the linear
# layers; and what normalisations give, in float32, twice where they are trained. Beside it and our
# attention's own saved tensors of Llama, Gemma, Gemma 3 and T5 were 0.85 to 1.14 times as large.
KEPT = {FLOAT: 1.0, HALF: 1.1}
LOGITS = 4  # tensors of their size at once: in a draw, and where a score is passed back


def stays(s: Setting) -> dict[str, float]:
    """For the whole run; a gradient lives in training alone."""
    vocabulary, width = s.shape.head
    learned = s.algorithm.quantile_model is not None
    return {
        "frozen weights": s.shape.parameters * s.size,
        "head in float32": vocabulary * width * FLOAT * (s.size == HALF),
        "policy's trained weights": s.trained * FLOAT,
        "moving anchor's": s.trained * FLOAT * s.algorithm.anchor_moves,
        "Adam's averages": 2 * s.trained * FLOAT,
        "quantile model": 3 * (s.trained + width + 1) * FLOAT * learned,
    }


def sampling(s: Setting) -> dict[str, float]:
    """While completions are drawn."""
    before, own = s.cache
    caches = [before * (d.models if s.ours else d.k) + own * d.k for d in s.draws]
    most = max((d.k for d in s.draws), default=0)
    # Captured graphs keep the anchor's and the policy's, beside the prompts' that is copied there.
    alive = sum(caches) + before * most if s.replays else max(caches, default=0)
    return {
        "key-value caches": alive * s.prompts,
        "logits of a draw": LOGITS * most * s.prompts * s.shape.head[0] * FLOAT,
    }


def training(s: Setting) -> dict[str, float]:
    """While a micro-batch is passed back."""
    rows = s.micro_batch * s.weighed
    logits = min(LOGITS_AT_ONCE, rows * s.completion_tokens * s.shape.head[0])
    return {
        "gradients": s.trained * FLOAT,
        "activations": activations(s, s.micro_batch, rows),
        "logits of a score": LOGITS * logits * FLOAT,
        "weights cast to bfloat16": s.trained * HALF * (s.whole and s.size == HALF),
    }


def activations(s: Setting, prompts: int, rows: int) -> float:
    """What a pass of prompts and of rows of completions keeps for the backward pass."""
    p, t = s.prompt_tokens, s.completion_tokens

    def of(stack: Stack) -> float:
        kept = KEPT[s.size] * s.size * stack.widths
        return kept + FLOAT * stack.norms * (1 + s.whole)

    kept = of(s.shape.prompt) * prompts * p + of(s.shape.completion) * rows * t
    # Our attention keeps its weights, as long as they are few, and what it turned into float32.
    pairs = prompts * p * p, rows * t * (p + t)
    numbers = 0
    for layer in s.shape.attention:
        numbers += sum(n * layer.heads for n in pairs if n * layer.heads <= KEPT_WEIGHTS)
        if s.size == HALF:
            numbers += (prompts * p + rows * t) * (layer.queries + 2 * layer.keys)
    return kept + FLOAT * numbers * s.ours


def peak(s: Setting) -> float:
    """What stays, and the larger of the two on the machine's heap."""
    passing = max(sum(part(s).values()) for part in (sampling, training))
    return sum(stays(s).values()) + s.machine.heap * passing


def checkpoint(s: Setting) -> float:
    """One on the disk, of which a run keeps two: all that stays and is not frozen."""
    return sum(stays(s).values()) - sum([*stays(s).values()][:2])
