"""Attention that keeps one key-value cache a prompt for all its completions.

transformers would repeat a prompt's cache for each completion; moving those copies is most of what
a decoding step costs on a processor. Here the completions of a prompt ask its one cache together,
as if their queries were more positions of one row, and their own caches row by row; one softmax
joins both.

On a processor in float32 and in plain products: of the little that is attended to at a time this
took a third of the fused kernel's time in training and less in decoding, and nothing is rounded.
On a GPU the fused kernel is asked.

Shapes: B prompts of P tokens, R rows (completions), t new tokens per row, H heads of keys, g heads
of queries to each, D width of a head, L tokens attended to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import DynamicLayer

NAME = "shared_prompt"  # for `set_attn_implementation`
KEPT_WEIGHTS = 2**22  # attention weights a layer that the backward pass finds; more are made anew


class Sharing:
    """Which rows go on from which prompt: the first `counts[0]` from prompt 0, and so on."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts, self.most = list(counts), max(counts)
        self.even = min(counts) == self.most

    @cached_property
    def _filled(self) -> Tensor:
        """Whether a place [B, most] has a row."""
        return torch.arange(self.most) < torch.tensor(self.counts)[:, None]

    def fold(self, rows: Tensor) -> Tensor:
        """Rows [R, H, q, D] as more positions of their prompts [B, H, most * q, D]."""
        if not self.even:  # an empty place is some row's, and never read
            rows = rows[(self._filled.flatten().cumsum(0) - 1).clamp(min=0)]
        return rows.unflatten(0, (-1, self.most)).transpose(1, 2).flatten(2, 3)

    def unfold(self, prompts: Tensor) -> Tensor:
        """`fold` back."""
        rows = prompts.unflatten(2, (self.most, -1)).transpose(1, 2).flatten(0, 1)
        return rows if self.even else rows[self._filled.flatten()]


@dataclass(frozen=True)
class Parts:
    """Keys, or values, in two parts: of the prompts [B, H, P, D] and of the rows' own tokens
    [R, H, s, D]. A decoder's attention to its encoder has none of the latter, and where nothing is
    shared all are the rows' own."""

    sharing: Sharing | None
    prompts: Tensor | None
    own: Tensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        """As if they were one tensor, for architectures that ask."""
        more = 0 if self.own is None else self.own.shape[2]
        rows, (heads, length, width) = sum(self.sharing.counts), self.prompts.shape[1:]
        return rows, heads, length + more, width


class SharedLayer(DynamicLayer):
    """One layer's cache: the prompts' part as it was read, and what the rows have read since.

    Args:
        layer: of the prompts' cache.
        sharing: the rows.
        room: tokens that a row will read one by one; 0: it reads once, and gradients pass.
    """

    # Nothing is forgotten: a window is in the mask.
    keys = property(lambda self: self._parts(0), lambda *_: None)
    values = property(lambda self: self._parts(1), lambda *_: None)

    def __init__(self, layer: DynamicLayer, sharing: Sharing, room: int) -> None:
        super().__init__()
        self.prompts = [_as_computed(x) for x in (layer.keys, layer.values)]
        self.sharing, self.room, self.read = sharing, room, 0
        self.own: list[Tensor | None] = [None, None]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_, **__) -> tuple[Parts, Parts]:
        """Put new keys and values [R, H, t, D] behind those there are."""
        new = [_as_computed(x) for x in (key_states, value_states)]
        (rows, heads, length, width), before = new[0].shape, self.read
        self.read += length
        if not self.room:
            self.own = new
        else:
            if not before:
                self.own = [x.new_empty(rows, heads, self.room, width) for x in new]
            for kept, x in zip(self.own, new, strict=True):
                kept[:, :, before : self.read] = x
        return self.keys, self.values

    def _parts(self, which: int) -> Parts:
        own = self.own[which]
        own = None if own is None else own[:, :, : self.read]
        return Parts(self.sharing, self.prompts[which], own)

    def keep(self, rows: Tensor, prompts: Tensor, sharing: Sharing) -> None:
        """Go on with some of the rows and their prompts."""
        if len(prompts) < len(self.prompts[0]):
            self.prompts = [x[prompts] for x in self.prompts]
        self.own = [None if x is None else x[rows] for x in self.own]
        self.sharing = sharing

    def get_seq_length(self) -> int:
        return self.prompts[0].shape[2] + self.read


def _as_computed(x: Tensor) -> Tensor:
    """In float32 on a processor."""
    return x.float() if x.device.type == "cpu" else x


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor | Parts,
    value: Tensor | Parts,
    mask: Tensor | None,
    **options,
) -> tuple[Tensor, None]:
    """What transformers' layers call: queries [R, g*H, t, D], then mask and position bias that are
    added to scores [R, g*H, t, L]; returns [R, t, g*H, D]."""
    bias = options.pop("position_bias", None)
    if isinstance(key, Parts) and key.own is None:
        bias = None  # there is none between a completion and its prompt, only zeros
    if query.device.type != "cpu":
        return _fused(module, query, key, value, mask, position_bias=bias, **options)
    terms = [_added(term) for term in (bias, mask) if term is not None]
    many = query[..., 0].numel() * key.shape[2] > KEPT_WEIGHTS and torch.is_grad_enabled()
    parts = [x if isinstance(x, Parts) else Parts(None, None, x.float()) for x in (key, value)]
    given = query, *parts, terms, options["scaling"]
    with torch.autocast("cpu", enabled=False):
        return (checkpoint(_plain, *given, use_reentrant=False) if many else _plain(*given)), None


def _added(mask: Tensor) -> Tensor:
    """A mask as something to add to scores."""
    if mask.dtype != torch.bool:
        return mask.float()
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


def _plain(
    query: Tensor, keys: Parts, values: Parts, terms: Sequence[Tensor], scaling: float
) -> Tensor:
    rows, all_heads, length, width = query.shape
    sharing, shared, own = keys.sharing, keys.prompts, keys.own
    heads = (own if shared is None else shared).shape[1]
    # The g heads of queries that ask one head of keys are more positions of it.
    asked = (query.float() * scaling).reshape(rows, heads, -1, width)
    scores = []
    if shared is not None:
        scores.append(sharing.unfold(sharing.fold(asked) @ shared.mT))
    if own is not None:
        scores.append(asked @ own.mT)
    joined = scores[0] if len(scores) == 1 else torch.cat(scores, -1)
    joined = joined.reshape(rows, all_heads, length, -1)
    for term in terms:
        joined = joined + term
    weights = joined.softmax(-1).view(rows, heads, -1, joined.shape[-1])
    parts = weights.split([x.shape[-1] for x in scores], -1)
    found = []
    if shared is not None:
        found.append(sharing.unfold(sharing.fold(parts[0]) @ values.prompts))
    if own is not None:
        found.append(parts[-1] @ values.own)
    out = sum(found[1:], found[0]).reshape(rows, all_heads, length, width)
    return out.transpose(1, 2).to(query.dtype)


def _fused(
    module: nn.Module,
    query: Tensor,
    key: Tensor | Parts,
    value: Tensor | Parts,
    mask: Tensor | None,
    **options,
) -> tuple[Tensor, None]:
    """torch's own kernel. What is shared there is a decoder's attention to its encoder alone."""
    from transformers import AttentionInterface  # see `register`

    fused = AttentionInterface()["sdpa"]
    if not isinstance(key, Parts):
        return fused(module, query, key, value, mask, **options)
    sharing = key.sharing
    # Every position of every completion sees the same prompt, so one row of the mask serves all.
    mask = None if mask is None else mask[:: sharing.most, :, :1]
    folded = sharing.fold(query)
    out, _ = fused(module, folded, key.prompts, value.prompts, mask, **options)
    return sharing.unfold(out.transpose(1, 2)).transpose(1, 2), None


def _mask(*args, device: torch.device | str = "cpu", **options) -> Tensor | None:
    from transformers.masking_utils import eager_mask, sdpa_mask

    make = eager_mask if torch.device(device).type == "cpu" else sdpa_mask
    return make(*args, device=device, **options)


@cache
def register() -> None:
    """Make this attention known to transformers by its name.

    What it imports for that takes as long to load as all of torch: only where there is a model.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)
