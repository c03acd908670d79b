"""How the anchor follows the policy: never, every so many steps, or a little at each step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bondlab.rules import check

STUCK = 0.5  # of what a steady policy leaves its anchor: one that has less hardly follows


class Anchor(Protocol):
    """What the training loop asks of an anchor.

    `update(anchor, policy, step)` changes the anchor's tensors in place. `anchor` and `policy`
    are matching sequences of parameters; `step` counts finished updates of the policy from 1.

    It may have `share(step)`: of the policy's way from the reference, what the anchor has behind it
    after so many updates, were each as long as the others and in one direction (`warn_if_stuck`).
    """

    def update(self, anchor: Sequence[Tensor], policy: Sequence[Tensor], step: int) -> None: ...


@dataclass(frozen=True)
class Frozen:
    """The anchor stays the reference policy: BOND without iterations (section 4)."""

    def update(self, anchor: Sequence[Tensor], policy: Sequence[Tensor], step: int) -> None:
        """Leave the anchor as it is."""

    def share(self, step: int) -> float:
        """0: it stays the reference."""
        return 0.0


FROZEN = Frozen()


@dataclass(frozen=True)
class Periodic:
    """The anchor becomes the policy after each `every` steps: iterative BOND (Algorithm 1).

    Raises:
        ValueError: `every` is not a positive integer.
    """

    every: int

    def __post_init__(self) -> None:
        whole = isinstance(self.every, int) and self.every > 0
        check("every must be a positive integer of steps", whole, self.every)

    @torch.no_grad()
    def update(self, anchor: Sequence[Tensor], policy: Sequence[Tensor], step: int) -> None:
        """Copy the policy into the anchor when `step` is a multiple of `every`."""
        if step % self.every == 0:
            torch._foreach_copy_(list(anchor), list(policy))

    def share(self, step: int) -> float:
        """As far as the policy was at the last copy."""
        return (step - step % self.every) / step


@dataclass(frozen=True)
class MovingAverage:
    """anchor = (1 - rate) anchor + rate policy after every step: J-BOND (eq. 18, eta).

    Rate 0 keeps the anchor, rate 1 copies the policy. Keep the anchor in float32: at the paper's
    rates a bfloat16 anchor would round most of each update away.

    Under LoRA the tensors are the factors B and A of a change BA, and mean(B) mean(A) stands for
    the mean of BA, which is what averaging the weights would give. They differ by the covariance
    of B and A over the average's memory: by nothing while the policy stands still or only B moves,
    and in second order of how far both move meanwhile. Notebook 06 shows by how much.

    Raises:
        ValueError: `rate` is outside [0, 1].
    """

    rate: float

    def __post_init__(self) -> None:
        check("rate must lie between 0 (keep) and 1 (copy)", 0 <= self.rate <= 1, self.rate)

    @torch.no_grad()
    def update(self, anchor: Sequence[Tensor], policy: Sequence[Tensor], step: int) -> None:
        """Move every anchor tensor by `rate` towards the policy."""
        torch._foreach_lerp_(list(anchor), list(policy), self.rate)

    def share(self, step: int) -> float:
        """The mean over the policy's way so far, each step's weight 1 - `rate` times the next's."""
        if not self.rate:
            return 0.0
        return 1 - (1 - self.rate) / self.rate * (1 - (1 - self.rate) ** step) / step


# -- whether it follows ----------------------------------------------------------------------------


@torch.no_grad()
def followed(anchor: Sequence[Tensor], policy: Sequence[Tensor], start: Sequence[Tensor]) -> Tensor:
    """Share of the policy's way from where both started that the anchor has behind it, a number.

    Its own way is projected on the policy's, all parameters together as one vector, so that numbers
    that were only rounded somewhere do not count as moved. Of a policy that has not moved it is 1.
    """
    products = []
    for a, p, s in zip(anchor, policy, start, strict=True):
        way = (p - s).flatten()
        products.append(torch.stack([(a - s).flatten() @ way, way @ way]))
    along, whole = torch.stack(products).sum(0)
    return torch.where(whole > 0, along / whole, 1.0)


def warn_if_stuck(anchor: Anchor, share: float, step: int) -> None:
    """Warn where `followed` is less than `STUCK` of what a steady policy leaves an anchor.

    Half: not stated; chosen because a policy whose steps grow, as in a warm-up, leaves it two
    thirds, and an anchor whose numbers are too coarse for its small updates next to nothing.
    """
    steady = getattr(anchor, "share", lambda _: 0.0)
    if share < STUCK * steady(step):
        warnings.warn(
            f"the anchor, {anchor}, hardly follows the policy (anchor_share in the run's record): "
            "keep its weights in float32, and look at what updates it",
            stacklevel=2,
        )
