"""`python -m bondlab bench`: measure, and print what notebook 09 shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from bondlab import device
from bondlab.bench import measure, reading
from bondlab.bench.steps import MISSING, PEER
from bondlab.report.kept import Profile
from bondlab.report.notebook import show

PRINTED: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], ...]] = {
    "sampling": (reading.sampling,),
    "steps": (reading.steps,),
    "floor": (reading.rates, reading.parts),
    "growth": (reading.growth,),
}


def bench(profile: Profile, only: Sequence[str] = ()) -> None:
    """Measure what was not measured yet, here and with this source; print it beside the targets."""
    found = measure.results(profile, only)
    table = found["measurements"]
    show(reading.machines(found["runs"]))
    for section in only or PRINTED:
        print(f"\n{section}")
        for read in PRINTED[section]:
            show(read(table), 2)
    if "steps" in (only or PRINTED) and PEER not in set(table["side"]):
        print(MISSING)
    print("\ntargets")
    show(reading.targets(table))
    print(f"\ntables: {found.folder / device.place().type}")
