"""Scales of axes: KLs by their square root, logarithms, and the same limits for all panels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

ROUND = 2.0 ** np.arange(-2, 11)  # nats


def root(axes: Axes, axis: str, start: float, end: float, apart: float) -> None:
    """Scale the axis "x" or "y" by the square root, mirrored below 0, from `start` or 0 to `end`.

    A policy gains with the root of its KL near its reference. Ticks are `apart` at least, a share
    of the axis.
    """
    to, back = (lambda u, power=p: np.sign(u) * np.abs(u) ** power for p in (0.5, 2))
    getattr(axes, f"set_{axis}scale")("function", functions=(to, back))
    getattr(axes, f"set_{axis}lim")(back(to(min(start, 0)) - 0.03 * to(end)), end)
    getattr(axes, f"set_{axis}ticks")(ticks(end, apart))
    getattr(axes, f"{axis}axis").set_major_formatter("{x:g}")
    axes.minorticks_off()


def ticks(end: float, apart: float) -> list[float]:
    """0 and round KLs up to `end`, those that are far enough apart, from the largest down.

    Above the last power of two half as much again, if there is room, so that the largest values
    can be read.
    """
    kept, least, fits = [], apart * end**0.5, ROUND[ROUND <= end]
    half = 1.5 * fits[-1:]
    for tick in [*half[half <= end], *fits[::-1]]:
        if tick**0.5 >= least and (not kept or kept[-1] ** 0.5 - tick**0.5 >= least):
            kept.append(float(tick))
    return [0.0, *reversed(kept)]


def logarithm(axes: Axes) -> None:
    """Scale y by the logarithm, with ticks at 1, 2 and 5 of each power of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def alike(panels: Sequence[Axes], axis: str = "y") -> None:
    """Give the axis "x" or "y" of all panels the limits that hold all, so that eyes can compare."""
    ends = np.array([getattr(axes, f"get_{axis}lim")() for axes in panels])
    for axes in panels:
        getattr(axes, f"set_{axis}lim")(ends.min(), ends.max())
