"""A run to watch: it trains with the settings given, and is drawn beside the stored curves."""

from __future__ import annotations

import pandas as pd
import pytest
from lab import task_of

from bondlab.algorithms import bond
from bondlab.report.plots import Panel
from bondlab.study import watch

PANELS = (Panel("log_quantile", "Log quantile", "nats"), Panel("kl_to_reference", "KL", "nats"))
ALGORITHM = bond(3, 0.5, quantile_draws=4)
STORED = pd.DataFrame({"panel": "log_quantile", "series": "a", "step": [0, 64], "mean": [-1, 0]})


@pytest.mark.usefixtures("runs")
def test_it_measures_before_between_and_after_and_starts_at_the_reference():
    table = watch.run(task_of(), ALGORITHM, watch.config(5, 1e-2, seed=0), PANELS, STORED)
    assert table["step"].tolist() == [0, 1, 2, 3, 4, 5]
    assert abs(table["kl_to_reference"][0]) < 1e-5 < table["kl_to_reference"].iloc[-1]


@pytest.mark.usefixtures("runs")
def test_another_setting_is_another_curve():
    ends = set()
    for rate, seed in ((1e-2, 0), (1e-2, 1), (1e-3, 0)):
        table = watch.run(task_of(), ALGORITHM, watch.config(2, rate, seed), PANELS, STORED)
        ends.add(table["kl_to_reference"].iloc[-1])
    assert len(ends) == 3


def test_it_is_drawn_beside_the_stored_curves():
    table = pd.DataFrame({"step": [0, 2], "log_quantile": [-1.0, -0.5], "kl_to_reference": [0, 1]})
    left, right = watch.drawn(table, PANELS, STORED).axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[-1, 0], [-1.0, -0.5]]
    assert [line.get_label() for line in right.lines] == ["here, now"]
