"""A figure's files: the picture, the plotted numbers, and where they come from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bondlab import paths, plots
from bondlab.experiments import EXPERIMENTS


def write(
    experiment: str,
    stem: str,
    profile: str,
    figure: Figure,
    table: pd.DataFrame,
    headline: Iterable[dict[str, Any]],
    **made_by: Any,
) -> None:
    """Write `figures/<experiment>/<stem>_<profile>` as .svg, .png, .csv and .json.

    Args:
        table: the plotted numbers.
        headline: numbers for the study's closing table: what, value, low, high, unit, samples,
            seeds each.
        made_by: what else the provenance holds: runs, settings, manifest entries.
    """
    provenance = {
        "experiment": experiment,
        "paper_figure": EXPERIMENTS[experiment].figures.get(stem),
        "profile": profile,
        "headline": list(headline),
        **made_by,
    }
    folder = paths.figures_folder(experiment)
    plots.save_figure(figure, folder, f"{stem}_{profile}", table, provenance)
