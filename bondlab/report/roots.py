"""An axis of KLs by their square root, with which a policy gains near its reference."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

ROUND = 2.0 ** np.arange(-2, 11)  # nats
APART = 0.075  # of the axis, at least, between ticks


def scale(axes: Axes, axis: str, start: float, end: float, apart: float = APART) -> None:
    """Scale the axis "x" or "y" by the root, mirrored below 0, from `start` or 0 to `end`.

    Ticks are `apart` at least, a share of the axis.
    """
    root, square = (lambda u, power=p: np.sign(u) * np.abs(u) ** power for p in (0.5, 2))
    getattr(axes, f"set_{axis}scale")("function", functions=(root, square))
    getattr(axes, f"set_{axis}lim")(square(root(min(start, 0)) - 0.03 * root(end)), end)
    getattr(axes, f"set_{axis}ticks")(ticks(end, apart))
    getattr(axes, f"{axis}axis").set_major_formatter("{x:g}")
    axes.minorticks_off()


def ticks(end: float, apart: float = APART) -> list[float]:
    """0 and round KLs up to `end`, those that are far enough apart, from the largest down."""
    kept, least = [], apart * end**0.5
    for tick in ROUND[ROUND <= end][::-1]:
        if tick**0.5 >= least and (not kept or kept[-1] ** 0.5 - tick**0.5 >= least):
            kept.append(float(tick))
    return [0.0, *reversed(kept)]
