"""An algorithm is a plan of who to sample and a rule that turns scores into weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from bondlab import rules
from bondlab.anchors import FROZEN, Anchor, Frozen, MovingAverage
from bondlab.config import Config
from bondlab.naming.fingerprint import label
from bondlab.quantiles import Learned
from bondlab.rules import Scores, check


@dataclass(frozen=True)
class Algorithm:
    """Who is sampled, how often, and which rule weighs the completions.

    Args:
        rule: one of `rules` or your own, called as rule(scores, **settings).
        settings: its keyword arguments, part of a run's name.
        anchor_draws: N, completions of the anchor per prompt that the rule sees.
        policy_draws: K, completions of the policy per prompt.
        quantile_draws: M, further completions of the anchor that quantiles rest on.
        anchor: how the anchor, whose samples these are, follows the policy; see `anchors`.
        quantile_model: a model that learns quantiles from the M completions; None counts them.
        scores_anchor_draws: whether the rule wants the policy's log-probabilities of the N, too.
        scales_rewards: whether it wants rewards in units of their spread; see `bank.spread`.

    Raises:
        ValueError: a number of draws below 0 or not whole; what is no anchor.
    """

    rule: Callable[..., Tensor]
    settings: Mapping[str, Any] = field(default_factory=dict)
    anchor_draws: int = 0
    policy_draws: int = 0
    quantile_draws: int = 0
    anchor: Anchor = FROZEN
    quantile_model: Learned | None = None
    scores_anchor_draws: bool = False
    scales_rewards: bool = False

    def __post_init__(self) -> None:
        for name in ("anchor_draws", "policy_draws", "quantile_draws"):
            draws = getattr(self, name)
            demand = f"{name} must be a whole number and not negative"
            check(demand, isinstance(draws, int) and draws >= 0, draws)
        made = hasattr(self.anchor, "update") and not isinstance(self.anchor, type)
        check("anchor must be one of `anchors`, such as MovingAverage(0.02)", made, self.anchor)

    def weights(self, scores: Scores) -> Tensor:
        """Weights [B, N+K] of one batch, in the type of the log ratio.

        Raises:
            ValueError: the rule returned another shape.
        """
        weights = self.rule(scores, **self.settings)
        (b, n), (_, k) = scores.anchor_rewards.shape, scores.policy_rewards.shape
        if tuple(weights.shape) != (b, n + k):
            raise ValueError(
                f"the rule returned weights {tuple(weights.shape)}, expected [B, N+K] = {b, n + k}"
            )
        return weights.to(scores.log_ratio.dtype)

    @property
    def anchor_moves(self) -> bool:
        """Whether the anchor's samples change, so that they must be drawn anew at each step."""
        return not isinstance(self.anchor, Frozen)

    def draws_anew(self, config: Config) -> bool:
        """Whether each step draws the anchor's samples itself, from no bank."""
        return self.anchor_moves or config.fresh is True

    @property
    def identity(self) -> dict[str, Any]:
        """What names this algorithm in a run's identity: all of the plan, code by what it computes.

        Raises:
            Unnamed: rule, settings or anchor hold something that has no name, such as a lock.
        """
        return {
            "rule": label(self.rule, "rule"),
            "settings": {
                name: value if isinstance(value, (int, float, str)) else label(value, name)
                for name, value in self.settings.items()
            },
            "draws": [self.anchor_draws, self.policy_draws, self.quantile_draws],
            "anchor": label(self.anchor, "anchor"),
            "quantiles": label(self.quantile_model, "quantile_model"),
            "scores_anchor_draws": self.scores_anchor_draws,
            "scales_rewards": self.scales_rewards,
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

    Args:
        n: the Best-of-N size.
        beta: share of the backward KL; at 0 the policy is not sampled, at 1 no Best-of-n drawn.
        policy_draws: completions of the policy per prompt; not stated, chosen because two are the
            fewest that give each prompt's return a neighbour.
        quantile_draws: Monte Carlo samples behind p_hat (section 4.2: 16).
        anchor: `anchors.Periodic(every)` makes it iterative BOND (Algorithm 1), with Best-of-n,
            quantiles and log-ratio all of the anchor.
        quantile_model: learn the quantiles instead of counting (appendix B.1), from one completion
            of the anchor per prompt; `quantile_draws` then has no meaning.

    Raises:
        ValueError: n is below 2, beta outside [0, 1], or there is nothing to draw.
    """
    check(f"Best-of-{n} is the reference itself: take n of 2 or more", n > 1, n)
    rules.check_share(beta)
    settings, anchor_draws = {"n": n, "beta": beta}, n if beta < 1 else 0
    if beta == 0:
        return Algorithm(rules.jeffreys, settings, anchor_draws, anchor=anchor)
    quantile_draws = 1 if quantile_model else quantile_draws
    fewest = min(policy_draws, quantile_draws)
    check("the backward KL needs policy_draws and quantile_draws of 1 or more", fewest > 0, fewest)
    draws = anchor_draws, policy_draws, quantile_draws
    return Algorithm(rules.jeffreys, settings, *draws, anchor, quantile_model)


def j_bond(
    beta: float = 0.5,
    gamma: float = 0.0,
    anchor: Anchor = MovingAverage(0.02),  # noqa: B008  (frozen)
    policy_draws: int = 1,
) -> Algorithm:
    """J-BOND (Algorithm 2): iterated Best-of-2, one policy and two anchor completions per prompt.

    Args:
        beta: share of the backward KL; 0.5 in the paper (section 6).
        gamma: weight of the further KL to the anchor (eq. 19); Figure 6 tries 0, 0.5, 1 and 2.
        anchor: `MovingAverage(0.02)` as in Figure 7 (eq. 18), or `Periodic(50)` as in Figure 5.
        policy_draws: completions of the policy per prompt (Algorithm 2: 1).

    Raises:
        ValueError: beta outside [0, 1], gamma below 0, or no policy draw.
    """
    rules.check_share(beta)
    check("gamma must not be negative", gamma >= 0, gamma)
    check("policy_draws must be 1 or more", policy_draws >= 1, policy_draws)
    settings = {"beta": beta, "gamma": gamma}
    return Algorithm(rules.j_bond, settings, 2, policy_draws, anchor=anchor)


def reinforce(beta_rl: float, policy_draws: int = 2, anchor: Anchor = FROZEN) -> Algorithm:
    """REINFORCE with a leave-one-out baseline (RLOO, arXiv:2402.14740): Figure 7's baseline.

    Args:
        beta_rl: strength of the KL to the anchor (eq. 1), for rewards in units of their spread:
            one standard deviation of the reference's rewards within a prompt. The paper tries
            0.001, 0.01, 0.1 and 1 on a private reward whose scale is not stated; relative to the
            spread was chosen because a value then means the same on every reward.
        policy_draws: completions per prompt, each the other's baseline (Figure 7: 2).
        anchor: what the KL is taken to.

    Raises:
        ValueError: beta_rl below 0, or fewer than two draws.
    """
    check("beta_rl must not be negative", beta_rl >= 0, beta_rl)
    check("leaving one out needs policy_draws of 2 or more", policy_draws > 1, policy_draws)
    settings = {"beta_rl": beta_rl}
    return Algorithm(rules.reinforce, settings, 0, policy_draws, anchor=anchor, scales_rewards=True)


def warp(beta_rl: float, rate: float, policy_draws: int = 2) -> Algorithm:
    """WARP's first stage: REINFORCE whose KL is to a moving average (arXiv:2406.16768).

    Its later stages merge the weights of several such runs, and are left out. WARP reports a rate
    of 0.01 and a beta of 0.1.

    Args:
        rate: the moving average's per step; the others and Raises as `reinforce` has them.
    """
    return reinforce(beta_rl, policy_draws, MovingAverage(rate))


def raft(n: int, anchor: Anchor) -> Algorithm:
    """Fine-tuning on the best of n: RAFT (arXiv:2304.06767), the beta = 0 end of BOND.

    RAFT samples anew from the model of the last iteration: an anchor that is copied now and then.
    With a fixed one it is Best-of-n distilled by maximum likelihood (section 4.1). Arguments and
    Raises are those of `bond`.
    """
    return bond(n, 0.0, anchor=anchor)


def vbon(n: int, policy_draws: int = 2, quantile_draws: int = 16) -> Algorithm:
    """Variational Best-of-n (arXiv:2407.06057): the beta = 1 end of BOND, its anchor fixed.

    It maximises (n-1) E[log p_<=] - KL(pi || pi_ref), the same objective with the same factor; the
    authors use PPO where this is REINFORCE. Arguments and Raises are those of `bond`.
    """
    return bond(n, 1.0, policy_draws, quantile_draws)


def online_dpo(beta_dpo: float, policy_draws: int = 2) -> Algorithm:
    """DPO on fresh pairs of the policy that the reward ranks (arXiv:2402.04792).

    Args:
        beta_dpo: strength of the KL to the reference that DPO's loss stands for.
        policy_draws: completions per prompt, whose best and worst are the pair (there: 2).

    Raises:
        ValueError: beta_dpo not above 0, or fewer than two draws.
    """
    check("beta_dpo must be above 0", beta_dpo > 0, beta_dpo)
    check("a pair needs policy_draws of 2 or more", policy_draws > 1, policy_draws)
    return Algorithm(rules.online_dpo, {"beta_dpo": beta_dpo}, policy_draws=policy_draws)


def bonbon(n: int, alpha: float = 0.005) -> Algorithm:
    """BoNBoN (arXiv:2406.00832): likelihood of the best, and its gap to the worst, of n draws.

    Args:
        n: draws of the reference per prompt; the paper distils Best-of-8.
        alpha: share of the likelihood; 0.005 there.

    Raises:
        ValueError: n below 2, or alpha outside [0, 1].
    """
    check("a best and a worst need n of 2 or more", n > 1, n)
    check("alpha is the share of the likelihood and lies in [0, 1]", 0 <= alpha <= 1, alpha)
    return Algorithm(rules.bonbon, {"alpha": alpha}, anchor_draws=n, scores_anchor_draws=True)


def wind(beta: float, policy_draws: int = 2) -> Algorithm:
    """WIND, iterative BOND as a game of win rates, by its squared loss (arXiv:2410.20727).

    Args:
        beta: strength of the KL to the reference, in win rates a nat; not checked against the
            paper's values.
        policy_draws: completions per prompt, each the others' opponent.

    Raises:
        ValueError: beta below 0, or fewer than two draws.
    """
    check("beta must not be negative", beta >= 0, beta)
    check("a win rate needs policy_draws of 2 or more", policy_draws > 1, policy_draws)
    return Algorithm(rules.wind, {"beta": beta}, policy_draws=policy_draws)


def qrpo(beta: float, n: int = 8) -> Algorithm:
    """QRPO, offline: the policy is never sampled, its log-ratio is regressed (arXiv:2507.08068).

    Args:
        beta: strength of the KL to the reference, for quantiles as rewards.
        n: draws of the reference per prompt and step, each ranked by the others.

    Raises:
        ValueError: beta not above 0, or n below 2.
    """
    check("beta must be above 0", beta > 0, beta)
    check("a quantile needs n of 2 or more", n > 1, n)
    return Algorithm(rules.qrpo, {"beta": beta}, anchor_draws=n, scores_anchor_draws=True)


def max_at_k(k: int, beta_rl: float, policy_draws: int = 8) -> Algorithm:
    """Training for who still samples k times and keeps the best (PKPO, arXiv:2505.15201).

    Args:
        k: of the best of k; at 1 it is `reinforce`.
        beta_rl: strength of the KL to the reference, for rewards in units of their spread.
        policy_draws: K completions per prompt, k or more; the more, the less noise.

    Raises:
        ValueError: k below 1 or above policy_draws, beta_rl below 0, or fewer than two draws.
    """
    check("beta_rl must not be negative", beta_rl >= 0, beta_rl)
    check("k must be 1 or more", k >= 1, k)
    enough = policy_draws >= max(k, 2)
    check(f"the best of {k} needs policy_draws of {max(k, 2)} or more", enough, policy_draws)
    settings = {"k": k, "beta_rl": beta_rl}
    return Algorithm(rules.max_at_k, settings, 0, policy_draws, scales_rewards=True)
