"""An algorithm is a plan of who to sample and a rule that turns scores into weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bondlab import rules
from bondlab.anchors import FROZEN, Anchor, Frozen
from bondlab.quantiles import Learned
from bondlab.rules import Scores


@dataclass(frozen=True)
class Algorithm:
    """Who is sampled, how often, and which rule weighs the completions.

    Args:
        rule: one of `rules`, called as rule(scores, **settings).
        settings: its hyper-parameters.
        anchor_draws: N, completions of the anchor the rule sees a prompt.
        policy_draws: K, completions of the policy a prompt.
        quantile_draws: M, further completions of the anchor that quantiles rest on.
        trained_draws: how many of the N can have a weight other than 0; only they are passed
            through the policy.
        anchor: how the anchor, whose samples these are, follows the policy; see `anchors`.
        quantile_model: a model that learns quantiles from the M completions; None counts them.
    """

    rule: Callable[..., Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    anchor_draws: int = 0
    policy_draws: int = 0
    quantile_draws: int = 0
    trained_draws: int = 0
    anchor: Anchor = FROZEN
    quantile_model: Learned | None = None

    def weights(self, scores: Scores) -> Tensor:
        """Weights [B, N+K] of one batch."""
        return self.rule(scores, **self.settings)

    @property
    def anchor_moves(self) -> bool:
        """Whether the anchor's samples change, so that they must be drawn anew at each step."""
        return not isinstance(self.anchor, Frozen)

    @property
    def identity(self) -> dict[str, Any]:
        """What names this algorithm in a run's identity."""
        return {
            "rule": self.rule.__name__,
            **self.settings,
            "draws": [self.anchor_draws, self.policy_draws, self.quantile_draws],
            "anchor": repr(self.anchor),
            "quantiles": repr(self.quantile_model or "counted"),
        }


def bond(
    n: int,
    beta: float,
    policy_draws: int = 2,
    quantile_draws: int = 16,
    anchor: Anchor = FROZEN,
    quantile_model: Learned | None = None,
) -> Algorithm:
    """BOND towards Best-of-n of the anchor with the Jeffreys divergence (section 4, eq. 11).

    At beta 0 nothing of the policy is sampled and at beta 1 no Best-of-n draw is needed.

    Args:
        n: the Best-of-N size.
        beta: share of the backward KL.
        policy_draws: completions of the policy a prompt; not stated, chosen because two are the
            fewest that give each prompt's return a neighbour.
        quantile_draws: Monte-Carlo samples behind p_hat (section 4.2: 16).
        anchor: the default keeps the reference; `anchors.Periodic(every)` makes it iterative
            BOND (Algorithm 1), with Best-of-n, quantiles and log-ratio all of the anchor.
        quantile_model: learn the quantiles instead of counting (appendix B.1), from one completion
            of the anchor a prompt; `quantile_draws` then has no meaning.

    Raises:
        ValueError: n is below 2, beta outside [0, 1], or there is nothing to draw.
    """
    if n < 2:
        raise ValueError(f"Best-of-{n} is the reference itself: take n of 2 or more")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is the share of the backward KL and lies in [0, 1], not {beta}")
    forward, backward = beta < 1, beta > 0
    if backward and min(policy_draws, quantile_draws) < 1:
        raise ValueError("the backward KL needs policy_draws and quantile_draws of 1 or more")
    return Algorithm(
        rules.jeffreys,
        {"n": n, "beta": beta},
        anchor_draws=n if forward else 0,
        policy_draws=policy_draws if backward else 0,
        quantile_draws=(1 if quantile_model else quantile_draws) if backward else 0,
        trained_draws=1 if forward else 0,
        anchor=anchor,
        quantile_model=quantile_model if backward else None,
    )
