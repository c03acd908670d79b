"""A small run to watch: a bar, and curves that move as it trains, beside those that are stored.

Few steps of few prompts, a minute or two on two cores: it shows what a setting does and decides
nothing. It is kept nowhere but in its table.
"""

from __future__ import annotations

from collections.abc import Sequence
from tempfile import TemporaryDirectory

import pandas as pd
from matplotlib.figure import Figure

from bondlab import device
from bondlab.algorithms import Algorithm
from bondlab.config import Config
from bondlab.report.colours import looks
from bondlab.report.plots import Panel
from bondlab.tasks import Task, TaskSettings, build
from bondlab.training import EVALUATION, train

LIVE = {"color": "#000000", "linewidth": 2.6, "marker": "o", "markersize": 5, "zorder": 3}
STORED = {"linewidth": 1.2, "alpha": 0.7}


def task(name: str, profile: str) -> Task:
    """64 training and 8 held-out prompts of xsum or sentiment; at smoke a tiny task of its kind."""
    tiny = {"xsum": "tiny", "sentiment": "tiny_causal", "chat": "tiny_causal"}[name]
    settings = TaskSettings(name=tiny if profile == "smoke" else name, train=64, evaluate=8)
    return build(settings, device.resolve("auto"))


def config(steps: int, learning_rate: float, seed: int) -> Config:
    """Four prompts per step, samples drawn anew, the held-out prompts measured four times."""
    return Config(
        steps=steps, learning_rate=learning_rate, seed=seed, prompts_per_step=4, warmup=2,
        fresh=True, evaluate_every=max(1, steps // 4), evaluation_samples=2, evaluation_bank=8,
        forward_kl=False,
    )  # fmt: skip


def run(
    task: Task, algorithm: Algorithm, config: Config, panels: Sequence[Panel], stored: pd.DataFrame
) -> pd.DataFrame:
    """Train, with a bar and a figure that is drawn anew after each evaluation.

    Args:
        panels: named by `evaluation.means`.
        stored: curves to draw it beside, columns panel, series, step and mean.

    Returns:
        A row per evaluation: step and `evaluation.means`.
    """
    from IPython.core.pylabtools import print_figure  # notebooks only
    from IPython.display import display

    handle = display({"text/plain": "the first evaluation"}, raw=True, display_id=True)
    rows = []

    def seen(values: dict[str, float], step: int) -> None:
        if all(name.startswith(EVALUATION) for name in values):
            means = {name.removeprefix(EVALUATION): value for name, value in values.items()}
            rows.append({"step": step, **means})
            if handle:  # None outside of Jupyter
                figure = drawn(pd.DataFrame(rows), panels, stored)
                picture = print_figure(figure, bbox_inches=None, base64=True)
                handle.update({"image/png": picture, "text/plain": "curves"}, raw=True)

    with TemporaryDirectory() as folder:
        train(task, algorithm, config, folder, seen)
    return pd.DataFrame(rows)


def drawn(table: pd.DataFrame, panels: Sequence[Panel], stored: pd.DataFrame) -> Figure:
    """The run's curves, black, beside the stored ones."""
    figure = Figure(figsize=(5 * len(panels), 3.4), layout="constrained")
    for axes, panel in zip(
        figure.subplots(1, len(panels), squeeze=False).flat, panels, strict=True
    ):
        beside = stored[stored["panel"] == panel.name]
        found = looks(beside["series"])
        for name, part in beside.groupby("series", sort=False):
            look = {"color": found[name].color, "linestyle": found[name].line, **STORED}
            axes.plot(part["step"], part["mean"], label=f"stored: {name}", **look)
        axes.plot(table["step"], table[panel.name], label="here, now", **LIVE)
        axes.set(title=panel.title, ylabel=panel.ylabel, xlabel="training steps")
    axes.legend(fontsize=8, frameon=False)
    return figure
