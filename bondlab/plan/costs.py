"""Operations, bytes and kernels of a step by part, as `trainer` takes it, and their seconds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace

from bondlab.lm.language_model import LOGITS_AT_ONCE
from bondlab.plan.machines import Machine
from bondlab.plan.setting import FLOAT, HALF, Draw, Model, Setting
from bondlab.plan.shape import Stack

# Small kernels that come with a linear layer (norms, rotations, sums; 54 a layer of Llama's, which
# has seven), and with its adapter: two casts, two products, a sum.
KERNELS, ADAPTER_KERNELS = 7, 5
BACKWARD_KERNELS = 2  # for one of the forward pass
ATTENTION_BACKWARD = 2.5  # four products, and one that is done again, for two
WRITTEN = 2  # times that a pass writes and reads what it would keep for a backward pass
LOGIT_PASSES = 8  # times that a draw or a score writes or reads its logits
COPIED = 3  # times that a cache is read or written which is made anew, a token longer
# Bytes a weight: of a cast to bfloat16, and reading that; of a gradient that is cast and added; of
# its norm, Adam and zeroing; of the moving average.
CAST, ADDED, ADAM, AVERAGE = 8, 20, 40, 12


@dataclass(frozen=True)
class Cost:
    """Of a part of a step.

    Args:
        operations, exact: of products in the run's precision, and of those always in float32.
        weights, moved: bytes of weights that products read, and of all else that is moved.
        kernels, replayed: those started one by one, and those of a captured graph.
    """

    operations: float = 0.0
    exact: float = 0.0
    weights: float = 0.0
    moved: float = 0.0
    kernels: float = 0.0
    replayed: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*map(sum, zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> Cost:
        return Cost(*(times * value for value in astuple(self)))

    def passes(self, count: int) -> Cost:
        """The same work in so many passes: each reads the weights and starts the kernels."""
        kernels, replayed = self.kernels * count, self.replayed * count
        return replace(self, weights=self.weights * count, kernels=kernels, replayed=replayed)

    def seconds(self, on: Machine, size: int) -> float:
        """In products, which wait for operations or for weights; in all else; in small kernels.

        `size` is that of a number in the run's precision, in bytes.
        """
        rate = on.rate if size == HALF else on.exact
        products = self.operations / rate + self.exact / on.exact
        small = self.kernels * on.started + self.replayed * on.replayed
        return max(products, self.weights / on.weights) + self.moved / on.bandwidth + small


def costs(s: Setting) -> dict[str, Cost]:
    """Of a step's parts."""
    a, b, t = s.algorithm, s.prompts, s.completion_tokens
    scored = [(s.anchor, a.policy_draws), (s.policy, a.anchor_draws * a.scores_anchor_draws)]
    scored = [(model, k) for model, k in scored if k]
    learned, passes = a.quantile_model is not None, len(s.together)
    before = _sum(_read(s, d.model, b * d.models, 0, 0) for d in s.draws)
    return {
        "prompts before decoding": before.passes(passes),
        "decoding": _sum(_decoded(s, d) for d in s.draws).passes(passes),
        "head of decoding": _sum(_head(s, b * d.k, passes) * t for d in s.draws),
        "scoring": _sum(_read(s, model, b, b * k, t - 1) for model, k in scored),
        "head of scoring": _sum(_head(s, b * k * t) for _, k in scored),
        "training": _trained(s, s.weighed, t - 1),
        "head of training": _head(s, b * s.weighed * t, s.batches, ways=2),
        "quantile model": _trained(s, a.policy_draws, t) * learned,
        "optimiser": Cost(moved=s.trained * (ADAM * (1 + learned) + AVERAGE * a.anchor_moves)),
    }


def _sum(parts: Iterable[Cost]) -> Cost:
    return sum(parts, Cost())


def _products(s: Setting, prompts: float, rows: float, tokens: float) -> tuple[float, ...]:
    """Operations of prompts and of so many tokens of each row of completions: with weights, with
    adapters of rank 1, in attention."""
    length, started = s.prompt_tokens, prompts * s.shape.is_encoder_decoder
    passed = (s.shape.prompt, prompts * length), (s.shape.completion, rows * tokens + started)
    weights = sum(2 * stack.weights * n for stack, n in passed)
    adapters = sum(2 * stack.widths * n for stack, n in passed)
    pairs = prompts * length * _seen(s, length) + rows * tokens * _seen(s, length + tokens)
    return weights, adapters, pairs + started * _seen(s, length + 1)


def _seen(s: Setting, places: float) -> float:
    """Operations of a token's attention to so many places, a window's at most."""
    return sum(4 * layer.queries * min(places, layer.window) for layer in s.shape.attention)


def _read(s: Setting, model: Model, prompts: float, rows: float, tokens: float) -> Cost:
    """Prompts, and so many tokens of each row of completions, without a gradient."""
    weights, adapters, attention = _products(s, prompts, rows, tokens)
    # First the prompts (and the token before a completion), then the completions.
    both = s.shape.is_encoder_decoder
    stacks = [s.shape.prompt] + [s.shape.completion] * (both + (tokens > 0))
    return Cost(
        operations=weights + model.rank * adapters + attention,
        weights=sum(_bytes(s, stack, model) for stack in stacks),
        moved=WRITTEN * s.activations(prompts, rows * (tokens > 0)),
        kernels=sum(_kernels(stack, model) for stack in stacks),
    )


def _decoded(s: Setting, draw: Draw) -> Cost:
    """All tokens of completions but their last, which nothing follows."""
    stack, steps, rows = s.shape.completion, s.completion_tokens - 1, s.prompts * draw.k
    half = (steps + 1) / 2  # the tokens of a completion that a step sees, on average
    token = 2 * (stack.weights + draw.model.rank * stack.widths)
    (before, own), kernels = s.cache, _kernels(stack, draw.model)
    # A captured graph reads all of its cache; a loop that repeats the prompt's also copies it.
    read = own + before if s.replays else COPIED * (own / 2 + before)
    if s.ours:
        read = own / 2 + before * draw.models / draw.k
    once = Cost(
        operations=rows * (token + _seen(s, s.prompt_tokens + half)),
        weights=_bytes(s, stack, draw.model),
        moved=rows * read,
        **{"replayed" if s.replays else "kernels": kernels},
    )
    return once * steps + Cost(moved=WRITTEN * s.activations(0, rows))


def _trained(s: Setting, k: int, tokens: int) -> Cost:
    """Forward and backward passes of k completions per prompt, a micro-batch after the other."""
    rows = s.prompts * k
    weights, adapters, attention = _products(s, s.prompts, rows, tokens)
    forward = _read(s, s.policy, s.prompts, rows, tokens)
    # Backward a frozen weight passes a gradient on; a trained one has its own besides.
    products = weights * (3 if s.whole else 2) + s.policy.rank * adapters * 3
    return Cost(
        operations=products + attention * (1 + ATTENTION_BACKWARD),
        weights=forward.weights * (3 if s.whole else 2) * s.batches,
        moved=forward.moved * 3 + s.trained * ADDED * s.batches,
        kernels=forward.kernels * (1 + BACKWARD_KERNELS) * s.batches,
    )


def _head(s: Setting, places: float, batches: int = 1, ways: int = 1) -> Cost:
    """Logits of so many places, in float32: forward, and where `ways` is 2 backward."""
    vocabulary, width = s.shape.head
    pieces = -(-places * vocabulary // (LOGITS_AT_ONCE * batches))  # of a batch
    # A frozen head passes its gradient back at once; a trained one is passed through once more
    # and has a gradient of its own.
    times = 1 if ways == 1 else 4 if s.whole else 2
    operations = 2 * vocabulary * width * places * times
    # A processor multiplies what is stored in bfloat16 as such: `lm.network.in_half`.
    exact = s.machine.gpu or s.whole or s.size == FLOAT
    return Cost(
        operations=operations * (not exact),
        exact=operations * exact,
        weights=vocabulary * width * FLOAT * pieces * batches * times,
        moved=LOGIT_PASSES * vocabulary * FLOAT * places * ways,
    )


def _bytes(s: Setting, stack: Stack, model: Model) -> float:
    """That products of a pass read of weights."""
    held = CAST if model.held > s.size else s.size
    return stack.weights * held + model.rank * stack.widths * CAST


def _kernels(stack: Stack, model: Model) -> int:
    return stack.layers * (KERNELS + ADAPTER_KERNELS * (model.rank > 0))
