"""Token ids of prompts and of their completions, as tensors.

Shapes: B prompts, P prompt tokens, K completions per prompt, T tokens of a completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Prompts(NamedTuple):
    """Token ids and mask of B prompts, [B, P] each; padding on the side the model wants."""

    ids: Tensor
    mask: Tensor

    def rows(self, index: object) -> Prompts:
        """Some of the prompts: a slice, a list or a tensor of positions."""
        return Prompts(*(x[index] for x in self))


class Completions(NamedTuple):
    """K completions of B prompts.

    tokens [B, K, T] int64, padded after the end token; mask [B, K, T] bool, true up to and with the
    end token; log_probs [B, K, T] float32 in nats under the distribution that drew them, 0 where
    masked.
    """

    tokens: Tensor
    mask: Tensor
    log_probs: Tensor

    @property
    def log_prob(self) -> Tensor:
        """Sequence log-probability [B, K], nats."""
        return self.log_probs.sum(-1)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each completion [B, K], the end token included."""
        return self.mask.sum(-1)

    def take(self, index: Tensor) -> Completions:
        """The completions at `index` [B, M] of each prompt."""
        wide = index[..., None].expand(*index.shape, self.tokens.shape[-1])
        return Completions(*(x.gather(1, wide) for x in self))

    def rows(self, index: object) -> Completions:
        """The completions of some prompts: a slice, a list or a tensor of positions."""
        return Completions(*(x[index] for x in self))

    def to(self, device: torch.device) -> Completions:
        """The same completions on another device."""
        return Completions(*(x.to(device) for x in self))


def trimmed(prompts: Prompts, completions: Completions) -> tuple[Prompts, Completions]:
    """Both without the columns in which every row is padding; waits for the device."""
    read, longest = prompts.mask.bool().any(0), int(completions.lengths.max())
    kept = Completions(*(x[..., :longest] for x in completions))
    return Prompts(*(x[:, read] for x in prompts)), kept


def micro_batches(
    prompts: Prompts, completions: Completions, size: int
) -> list[tuple[Tensor, Prompts, Completions]]:
    """Places of the prompts [b], the prompts, their completions: what is passed through together.

    Prompts of like length go together, as many as have no more tokens than `size` of the longest
    would: less is padding, and short ones take fewer passes in the same memory. All waiting for the
    device is done at once, before the first pass.
    """
    lengths = (prompts.mask.sum(1) + completions.lengths.sum(1)).tolist()
    order, made, start = sorted(range(len(lengths)), key=lengths.__getitem__), [], 0
    most = size * max(lengths)
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * lengths[order[end]] <= most:
            end += 1
        places = torch.tensor(order[start:end], device=prompts.ids.device)
        start = end
        made.append((places, *trimmed(prompts.rows(places), completions.rows(places))))
    return made


def slices(total: int, size: int) -> list[slice]:
    """Places of a batch, so many at a time."""
    return [slice(i, min(i + size, total)) for i in range(0, total, size)]


def evenly(total: int, most: int | None) -> list[slice]:
    """Places of a batch, at most so many at a time (None: all), in as few pieces as can be and of
    like size: a GPU keeps the caches of every size."""
    pieces = -(-total // (most or total))
    return slices(total, -(-total // pieces))


def concatenate(parts: Sequence[Completions], dim: int) -> Completions:
    """Join completions along prompts (dim 0) or along completions (dim 1)."""
    return Completions(*(torch.cat(same, dim) for same in zip(*parts, strict=True)))
