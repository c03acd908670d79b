"""A figure's files: the picture, the plotted numbers, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bondlab import paths
from bondlab.study import plots
from bondlab.study.experiments import EXPERIMENTS


def number(
    what: str, value: float, low: float, high: float, unit: str, samples: int, seeds: int
) -> dict[str, Any]:
    """A headline number. An end that is not finite is None: strict JSON has no Infinity or NaN."""
    low, high = (float(end) if math.isfinite(end) else None for end in (low, high))
    return {"what": what, "value": float(value), "low": low, "high": high, "unit": unit,
            "samples": int(samples), "seeds": int(seeds)}  # fmt: skip


def write(
    experiment: str,
    stem: str,
    profile: str,
    figure: Figure,
    table: pd.DataFrame,
    headline: Iterable[dict[str, Any]],
    **made_by: Any,
) -> None:
    """Write `figures/<profile>/<experiment>/<stem>` as .svg, .png, .csv and .json.

    Args:
        table: the plotted numbers.
        headline: what `number` makes, for the study's closing table.
        made_by: what else the provenance holds: runs, settings, manifest entries.
    """
    provenance = {
        "experiment": experiment,
        "paper_figure": EXPERIMENTS[experiment].figures.get(stem),
        "profile": profile,
        "headline": list(headline),
        **made_by,
    }
    folder = paths.figures_folder(experiment, profile)
    plots.save_figure(figure, folder, stem, table, provenance)
