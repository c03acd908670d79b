"""How claims of Figures 5, 6 and 7, and on benchmarks, are decided: to a verdict and its numbers.

The claims, and their rules in words, stand in `alignment_claims`. Tables are those of
`tables.per_prompt` with the runs' labels (series, seed, eta, gamma, beta_rl, warmup) and the
columns spread and win_over_1 of `alignment_tables`. Rewards are compared in units of the spread:
one standard deviation of the reference's rewards within a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bondlab.measures import Interval
from bondlab.study import frontier
from bondlab.study.decisions import (
    REFERENCE,
    Decision,
    all_above_zero,
    all_within,
    at,
    change,
    gap,
    interval,
)

KL = frontier.KL
SAME = 0.25  # spreads of reward: as far as two profiles may lie apart and still be the same
STRAIGHT = 0.5  # share of its mean by which a slope may change from one half to the other
COST = 0.02  # bits per byte of held-out text that alignment may cost and still be cheap

MOVING, COPY = "moving average, eta = 0.02", "copy every 50 steps"
J_BOND = "J-BOND"
ETAS = (0.01, 0.05, 0.1)  # section 6, Fig. 6 left
GAMMAS = (0.0, 0.5, 1.0, 2.0)  # section 6, Fig. 6 middle and right, at eta 0.05
GAMMA_ETA = 0.05
BETAS_RL = (0.001, 0.01, 0.1, 1.0)  # section 6, Fig. 7


def speed_name(eta: float, gamma: float = 0.0) -> str:
    """The series of Figure 6 with these settings."""
    return f"eta = {eta:g}" + (f", gamma = {gamma:g}" if gamma else "")


def reinforce_name(beta_rl: float) -> str:
    """The series of Figure 7 with this strength of the KL."""
    return f"REINFORCE, beta_RL = {beta_rl:g}"


ETA_SERIES = tuple(speed_name(eta) for eta in ETAS)
GAMMA_SERIES = tuple(speed_name(GAMMA_ETA, gamma) for gamma in GAMMAS)
REINFORCE_SERIES = tuple(reinforce_name(beta_rl) for beta_rl in BETAS_RL)


def after_start(table: pd.DataFrame, series: str, column: str) -> np.ndarray:
    """Mean of a measure over all evaluations but the first, [seeds, prompts]."""
    return frontier.grid(table, series, column)[:, 1:].mean(1)


def trend(x: np.ndarray, values: list[np.ndarray]) -> Interval:
    """Slope of the least-squares line through settings x [n] and n measures [seeds, prompts]."""
    centred = x - x.mean()
    return interval(np.tensordot(centred, np.stack(values), 1) / (centred @ centred))


# -- Figure 5 --------------------------------------------------------------------------------------


def same_reward(table: pd.DataFrame) -> Decision:
    """Both anchors earn the same reward over training."""
    values = after_start(table, MOVING, "reward") - after_start(table, COPY, "reward")
    found = interval(values / frontier.spread(table))
    return _within({"reward, moving average - copies (spreads)": found}, SAME)


def less_kl(table: pd.DataFrame) -> Decision:
    """The moving average ends nearer to the reference."""
    return all_above_zero({"KL, copies - moving average (nats)": gap(table, COPY, MOVING, KL)})


def better_anchor(table: pd.DataFrame) -> Decision:
    """The moving average earns more at the same KL."""
    return all_above_zero({"moving average above copies (spreads)": _area(table, MOVING, COPY)})


# -- Figure 6 --------------------------------------------------------------------------------------


def faster_with_eta(table: pd.DataFrame) -> Decision:
    """Reward over training rises with eta."""
    values = [after_start(table, series, "reward") for series in ETA_SERIES]
    found = frontier.scaled(trend(np.log2(ETAS), values), 1 / frontier.spread(table))
    return all_above_zero({"reward per doubling of eta (spreads)": found})


def slower_with_gamma(table: pd.DataFrame) -> Decision:
    """KL after the last step falls with gamma."""
    found = _trend_at_end(table, GAMMA_SERIES, -np.array(GAMMAS), KL)
    return all_above_zero({"fall of KL per unit of gamma (nats)": found})


def better_with_gamma(table: pd.DataFrame) -> Decision:
    """A larger gamma earns more at the same KL."""
    base = GAMMA_SERIES[0]
    return all_above_zero({
        f"{series} above gamma = 0 (spreads)": _area(table, series, base)
        for series in GAMMA_SERIES[-2:]
    })  # fmt: skip


# -- Figure 7 --------------------------------------------------------------------------------------


def depends_on_beta(table: pd.DataFrame) -> Decision:
    """REINFORCE ends with less reward and less KL where beta_RL is larger."""
    x = -np.log10(BETAS_RL)
    reward = _trend_at_end(table, REINFORCE_SERIES, x, "reward")
    return all_above_zero({
        "fall of reward per tenfold beta_RL (spreads)": (
            frontier.scaled(reward, 1 / frontier.spread(table))
        ),
        "fall of KL per tenfold beta_RL (nats)": _trend_at_end(table, REINFORCE_SERIES, x, KL),
    })  # fmt: skip


def improves_continuously(table: pd.DataFrame) -> Decision:
    """J-BOND's reward rises in both halves of training."""
    steps = sorted(table["step"].unique())
    half, scale = steps[len(steps) // 2], 1 / frontier.spread(table)
    halves = {"first": (0, half), "second": (half, steps[-1])}
    return all_above_zero({
        f"reward, rise in the {name} half (spreads)": (
            frontier.scaled(change(table, J_BOND, "reward", *ends), scale)
        )
        for name, ends in halves.items()
    })  # fmt: skip


def grows_linearly(table: pd.DataFrame) -> Decision:
    """J-BOND's KL grows, and about as fast in the second half as in the first."""
    grown = frontier.growth(table, J_BOND)
    verdict, rising = all_above_zero({"KL, slope (nats a step)": grown.slope})
    straight, bend = _within({"KL, bend": grown.bend}, STRAIGHT)
    verdicts = {verdict, straight}
    whole = next(v for v in ("not reproduced", "inconclusive", "reproduced") if v in verdicts)
    return whole, rising | {"KL, R^2 of the line": grown.r_squared} | bend


def above_reinforce(table: pd.DataFrame) -> Decision:
    """J-BOND earns more than each REINFORCE run at the same KL."""
    return all_above_zero({
        f"J-BOND above {other} (spreads)": _area(table, J_BOND, other)
        for other in REINFORCE_SERIES
    })  # fmt: skip


def judge_agrees(table: pd.DataFrame) -> Decision:
    """The second judge prefers J-BOND's completions to the reference's more often than not."""
    wins = at(table, J_BOND, "win_over_1", table["step"].max())
    return all_above_zero({"win rate over the reference - 1/2": interval(wins - 0.5)})


# -- benchmarks: tables are those of `benchmarks` --------------------------------------------------


def better_on_benchmarks(items: pd.DataFrame) -> Decision:
    """J-BOND's policy meets more constraints, and finds more of the preferred replies likelier."""
    return all_above_zero({
        f"{measure}, J-BOND - reference": interval(_gained(items, measure))
        for measure in ("constraints", "preferences")
    })  # fmt: skip


def costs_no_ability(items: pd.DataFrame) -> Decision:
    """Held-out text costs J-BOND's policy hardly more bits than the reference."""
    rise = interval(_gained(items, "bits_per_byte"))
    found = {"bits per byte, J-BOND - reference": rise}
    if rise.high < COST:
        return "reproduced", found
    return "not reproduced" if rise.low > COST else "inconclusive", found


def _gained(items: pd.DataFrame, measure: str) -> np.ndarray:
    """A measure of J-BOND's policy less the reference's, on the same items, [seeds, items]."""
    chosen = items[items["measure"] == measure].set_index(["policy", "seed", "item"])["value"]
    own, base = (chosen[policy].unstack("item") for policy in (J_BOND, REFERENCE))
    return own.to_numpy() - base[own.columns].to_numpy()


# -- parts -----------------------------------------------------------------------------------------


def _area(table: pd.DataFrame, series: str, other: str) -> Interval:
    return frontier.scaled(frontier.area(table, series, other), 1 / frontier.spread(table))


def _trend_at_end(
    table: pd.DataFrame, series: Sequence[str], x: np.ndarray, column: str
) -> Interval:
    """Slope over x, one value a series, of a measure after the last step."""
    end = table["step"].max()
    return trend(x, [at(table, name, column, end) for name in series])


def _within(found: dict[str, Interval], reach: float) -> Decision:
    return all_within(found, dict.fromkeys(found, reach))
