"""The exact toy to play with (notebook 10): settings in, tables, a figure and sliders out.

A policy over 85 sequences descends the Jeffreys divergence to Best-of-N of an anchor by exact
gradients. With eta = 0 the anchor is the reference: BOND. With eta above 0 it follows the policy at
each step, and gamma holds the policy back to it, as in J-BOND (Algorithm 2). One setting trains in
a fifth of a second and is kept, so that sliders answer at once.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bondlab import best_of_n, toy
from bondlab.anchors import MovingAverage
from bondlab.report import files
from bondlab.report.kept import Profile
from bondlab.toy import training

VOCABULARY, LENGTH = 5, 3
LEARNING_RATE, EVERY = 0.05, 5  # the paper has no toy: chosen so that 200 steps reach the optimum
SIZES = (1, 2, 4, 8, 16, 32, 64)  # N of the curve that a policy's way is held against
ETAS, LEVELS = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1), (0, 2, 3, 5, 10, 20)  # of the sliders
REFERENCE, TARGET, POLICY = "reference", "Best-of-N", "policy"
LOOKS = {REFERENCE: {"color": "#666666", "ls": ":"}, TARGET: {"color": "#000000", "ls": "--"},
         POLICY: {"color": "#0072b2", "ls": "-"}}  # fmt: skip
DIVERGENCES = {"forward_kl": ("forward KL", {"color": "#e69f00", "ls": "-"}),
               "backward_kl": ("backward KL", {"color": "#cc79a7", "ls": "--"})}  # fmt: skip


class Settings(BaseModel):
    """Parameters of notebook 10.

    Args:
        n: the N of Best-of-N; beta: weight of the backward KL (eq. 11).
        eta: rate of the anchor's moving average, per step; gamma: weight of KL(policy || anchor).
        reward: "learnable" by a bigram policy; "rugged", of which noise hides most from it;
            "stretched", the exponential of the learnable one, whose order is the same.
        levels: values that the reward takes, so that sequences tie; 0 for no ties.
        steps: of Adam; 0 follows from the profile.
    """

    model_config = ConfigDict(frozen=True)

    profile: Profile
    seed: int = Field(ge=0)
    n: int = Field(ge=1, le=SIZES[-1])
    beta: float = Field(ge=0, le=1)
    eta: float = Field(ge=0, le=1)
    gamma: float = Field(ge=0)
    reward: Literal["learnable", "rugged", "stretched"]
    levels: int = Field(ge=0)
    steps: int = Field(ge=0)

    @property
    def updates(self) -> int:
        """Steps of training, a multiple of `EVERY`."""
        steps = self.steps or (20 if self.profile == "smoke" else 200)
        return -(-steps // EVERY) * EVERY


@dataclass(frozen=True)
class Trained:
    """What training left.

    Args:
        records: a row each `EVERY` steps: step and `training.Record`, against Best-of-N of the
            reference.
        shares: columns step, series, quantile (of the reward, under the reference), share: of the
            series' samples, those with a reward of that quantile or a lower one.
        best: the same of Best-of-n of the reference, a row for each n of `SIZES`.
    """

    settings: Settings
    records: pd.DataFrame
    shares: pd.DataFrame
    best: pd.DataFrame


def problem_of(settings: Settings) -> tuple[toy.ToyPolicy, toy.Problem]:
    """A policy that still equals its reference, and Best-of-N of it under the chosen reward."""
    policy = toy.ToyPolicy(1, VOCABULARY, LENGTH, seed=2 * settings.seed)
    noise = 3.0 if settings.reward == "rugged" else 0.0
    rewards = toy.draw_rewards(policy, noise, seed=2 * settings.seed + 1)
    if settings.reward == "stretched":
        rewards = rewards.exp()
    if settings.levels:
        ranks = rewards.argsort(dim=-1).argsort(dim=-1)
        rewards = (ranks * settings.levels // ranks.shape[-1]).double()
    return policy, toy.Problem(policy.log_probs().detach(), rewards, settings.n)


@lru_cache(maxsize=256)
def train(settings: Settings) -> Trained:
    """Descend (1-beta) forward KL + beta backward KL + gamma KL(policy || anchor), exactly.

    Both divergences are to Best-of-N of the anchor, which moves by eta after each step.
    """
    policy, problem = problem_of(settings)
    anchor, current, seen = [policy.logits.detach().clone()], problem, {}
    follow = MovingAverage(settings.eta)

    def loss(log_policy: Tensor) -> Tensor:
        to_anchor = toy.kl(log_policy, current.log_anchor)
        return toy.jeffreys(log_policy, current, settings.beta) + settings.gamma * to_anchor

    for step, log_policy in training.descend(policy, loss, settings.updates, LEARNING_RATE):
        if step and settings.eta:
            follow.update(anchor, [policy.logits], step)
            current = replace(problem, log_anchor=policy.sum_pairs(anchor[0].log_softmax(-1)))
        if step % EVERY == 0:
            seen[step] = log_policy
    best = {n: best_of_n.log_pmf(problem.log_anchor, problem.rewards, n) for n in SIZES}
    records, best = _measured(problem, seen, "step"), _measured(problem, best, "n")
    return Trained(settings, records, _shares(problem, seen), best)


def _measured(problem: toy.Problem, found: Mapping[int, Tensor], key: str) -> pd.DataFrame:
    return pd.DataFrame([
        {key: place, **asdict(training.measure(log_probs, problem))}
        for place, log_probs in found.items()
    ])  # fmt: skip


def _shares(problem: toy.Problem, seen: dict[int, Tensor]) -> pd.DataFrame:
    """`Trained.shares`; a row for each sequence, in the order of rewards."""
    order = problem.rewards[0].argsort(stable=True)
    quantiles = problem.log_quantiles[0, order].exp().numpy()
    series = {(0, REFERENCE): problem.log_anchor, (0, TARGET): problem.log_target}
    series |= {(step, POLICY): log_probs for step, log_probs in seen.items()}
    parts = [
        pd.DataFrame({"step": step, "series": name, "quantile": quantiles,
                      "share": log_probs[0, order].exp().cumsum(0).numpy()})
        for (step, name), log_probs in series.items()
    ]  # fmt: skip
    # Of sequences that tie the last holds the share of all.
    return pd.concat(parts).drop_duplicates(["step", "series", "quantile"], keep="last")


def summary(found: Trained) -> pd.DataFrame:
    """The policy before and after, beside Best-of-N itself."""
    ends = found.records.iloc[[0, -1]].drop(columns="step").to_dict("records")
    _, problem = problem_of(found.settings)
    target = asdict(training.measure(problem.log_target, problem))
    names = ("reference", "policy", f"Best-of-{found.settings.n}")
    return pd.DataFrame([{"": n, **row} for n, row in zip(names, [*ends, target], strict=True)])


def compared(settings: Settings, changes: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The trained policy of each changed setting, a row each; columns as in `summary`."""
    rows = []
    for change in changes:
        end = summary(train(settings.model_copy(update=change))).iloc[[1]]
        told = ", ".join(f"{name} = {value}" for name, value in change.items())
        rows.append(end.assign(**{"": told or "as above"}))
    return pd.concat(rows, ignore_index=True)


# -- drawn -----------------------------------------------------------------------------------------


def figure(found: Trained, step: int | None = None) -> Figure:
    """Who is sampled, divergences to Best-of-N, log quantile against KL, after `step` updates."""
    last = int(found.records["step"].max())
    step = last if step is None else min(step // EVERY * EVERY, last)
    with mpl.rc_context(files.STYLE):
        drawn = Figure(figsize=(11, 3.6), layout="constrained")
        distribution, divergences, frontier = drawn.subplots(1, 3)
        _draw_shares(distribution, found, step)
        for name, (label, look) in DIVERGENCES.items():
            divergences.plot(found.records["step"], found.records[name], label=label, **look)
        divergences.axvline(step, color="#666666", lw=1)
        title = f"Distance from Best-of-{found.settings.n}"
        divergences.set(title=title, xlabel="step", ylabel="nats", ylim=(0, None))
        divergences.legend(frameon=False)
        _draw_frontier(frontier, found, step)
    return drawn


def _draw_shares(axes: mpl.axes.Axes, found: Trained, step: int) -> None:
    for name, look in LOOKS.items():
        own = found.shares[found.shares["series"] == name]
        own = own[own["step"] == (step if name == POLICY else 0)]
        label = f"Best-of-{found.settings.n}" if name == TARGET else name
        points = [0, *own["quantile"]], [0, *own["share"]]
        axes.plot(*points, label=label, drawstyle="steps-post", **look)
    title, x = f"Samples after {step} steps", "reward quantile under the reference"
    axes.set(title=title, xlabel=x, ylabel="share of samples at or below it")
    axes.legend(frameon=False)


def _draw_frontier(axes: mpl.axes.Axes, found: Trained, step: int) -> None:
    best, way = found.best, found.records[found.records["step"] <= step]
    axes.plot(
        best["kl_to_reference"], best["mean_log_quantile"], marker="o", **LOOKS[TARGET] | {"ls": ""}
    )
    for row in best.itertuples():
        place = (row.kl_to_reference, row.mean_log_quantile)
        look = {"textcoords": "offset points", "ha": "right", "fontsize": 8}
        axes.annotate(f"{row.n}", place, (-4, 3), **look)
    axes.plot(way["kl_to_reference"], way["mean_log_quantile"], label=POLICY, **LOOKS[POLICY])
    end = way.iloc[-1]
    axes.plot(end["kl_to_reference"], end["mean_log_quantile"], "o", color=LOOKS[POLICY]["color"])
    title, x = "Log quantile against KL (dots: Best-of-N)", "KL to the reference (nats)"
    axes.set(title=title, xlabel=x, ylabel="mean log quantile (nats)")


def sliders(settings: Settings) -> None:
    """Show sliders over the figure; a page without a kernel shows a line of text in their place."""
    from IPython.display import display  # notebooks only

    # The text of a widget is its repr: a screenful.
    bundle = _explorer(settings)._repr_mimebundle_()
    told = "Sliders: open this notebook in JupyterLab and run it."
    display(bundle | {"text/plain": told}, raw=True)


def _explorer(settings: Settings) -> Any:
    import ipywidgets as widgets  # notebooks only

    late = {"continuous_update": False}
    sizes, etas = (
        sorted({*some, own}) for some, own in ((SIZES, settings.n), (ETAS, settings.eta))
    )
    levels = sorted({*LEVELS, settings.levels})
    knobs = {
        "n": widgets.SelectionSlider(options=sizes, value=settings.n, description="N", **late),
        "beta": widgets.FloatSlider(settings.beta, min=0, max=1, step=0.05, **late),
        "eta": widgets.SelectionSlider(options=etas, value=settings.eta, **late),
        "gamma": widgets.FloatSlider(settings.gamma, min=0, max=4, step=0.25, **late),
        "reward": widgets.Dropdown(
            options=["learnable", "rugged", "stretched"], value=settings.reward
        ),
        "levels": widgets.SelectionSlider(options=levels, value=settings.levels, **late),
        "seed": widgets.IntSlider(settings.seed, min=0, max=max(20, settings.seed), **late),
    }
    for name, knob in knobs.items():
        knob.description = knob.description or name
    play = widgets.Play(value=settings.updates, max=settings.updates, step=EVERY, interval=600)
    moved = widgets.IntSlider(max=settings.updates, step=EVERY, description="step", **late)
    widgets.jslink((play, "value"), (moved, "value"))

    image = widgets.Image(format="png")

    def redraw(_: Any = None) -> None:
        chosen = {name: knob.value for name, knob in knobs.items()}
        png = io.BytesIO()
        drawn = figure(train(settings.model_copy(update=chosen)), play.value)
        drawn.savefig(png, format="png", dpi=100)
        image.value = png.getvalue()

    for knob in (*knobs.values(), play):
        knob.observe(redraw, "value")
    redraw()
    columns = widgets.GridBox([*knobs.values()], layout={"grid_template_columns": "1fr " * 3})
    return widgets.VBox([columns, widgets.HBox([play, moved]), image])
