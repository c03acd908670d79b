"""What a step costs, counted and timed, and where learning would pay."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bondlab.algorithms import bond
from bondlab.config import Config
from bondlab.quantiles import Learned
from bondlab.results import RunFolder
from bondlab.study import quantile_cost
from bondlab.study.quantile_cost import FRESH, LEARNED, STORED
from bondlab.study.sweep import Spec
from bondlab.tasks import TaskSettings

STEPS, PROMPTS, DOCUMENTS = 10, 8, 40
ALGORITHMS = {
    STORED: (bond(8, 0.5), False),
    FRESH: (bond(8, 0.5), True),
    LEARNED: (bond(8, 0.5, quantile_model=Learned()), False),
}


def steps(folder, seconds: dict[str, float], noise: float = 0.0) -> pd.DataFrame:
    """`quantile_cost.steps` of made-up records."""
    rng, specs, runs = np.random.default_rng(0), [], []
    for series, (algorithm, fresh) in ALGORITHMS.items():
        config = Config(steps=STEPS, prompts_per_step=PROMPTS, bank_samples=32, fresh=fresh)
        task = TaskSettings(name="tiny", train=DOCUMENTS, evaluate=2)
        specs.append(Spec(task, algorithm, config, {"series": series, "seed": 0}))
        runs.append(RunFolder.of(folder, {"series": series}))
        for step in range(1, STEPS + 1):
            value = seconds[series] + noise * rng.normal()
            runs[-1].append({"step": step, "loss": 0.0, "seconds": value})
    return quantile_cost.steps(specs, runs)


def test_counts_of_a_step(tmp_path):
    """8 documents, 2 completions of the policy each. Drawn anew come 8 for Best-of-8 and 16 for the
    quantile, so 8 x 26 calls; stored 40 x 32 samples over 10 steps are 128 a step.
    """
    found = quantile_cost.table(steps(tmp_path, {STORED: 2.0, FRESH: 5.0, LEARNED: 3.0}))
    counts = found.set_index(["panel", "group", "series"])["mean"].sort_index()
    assert counts["calls", "each step"].to_dict() == {STORED: 16, FRESH: 16 + 192, LEARNED: 16}
    assert counts["calls", "bank, spread"].to_dict() == {STORED: 128, FRESH: 0, LEARNED: 128}
    assert counts["completions", "reference"].to_dict() == {STORED: 0, FRESH: 192, LEARNED: 0}
    assert counts["completions", "policy"].to_dict() == dict.fromkeys(ALGORITHMS, 16)
    assert counts["seconds", "each step"].to_dict() == {STORED: 2, FRESH: 5, LEARNED: 3}


def test_break_even_by_hand(tmp_path):
    """The model adds 1 s. A fresh sample costs (5 - 2) s / 192. Learning saves 15 samples for each
    of 8 documents a step, or of 40 documents in 10 steps: ties at 1/120 and 1/60 s a sample. The
    reward call, 0.01 s of it, must be dearer by the difference to 3/192.
    """
    table = steps(tmp_path, {STORED: 2.0, FRESH: 5.0, LEARNED: 3.0})
    found = quantile_cost.break_even(table, scoring=0.01).set_index("what")["value"]
    assert found.tolist() == pytest.approx([
        1.0, 3 / 192, 1 / 120, 0.01 + 1 / 120 - 3 / 192, 1 / 60, 0.01 + 1 / 60 - 3 / 192
    ])  # fmt: skip


def test_at_the_tie_both_cost_the_same(tmp_path):
    """With samples as dear as the tie says, what the model adds equals what 120 samples cost."""
    seconds = {STORED: 2.0, LEARNED: 2.75}
    tie = 0.75 / 120
    seconds[FRESH] = 2.0 + 192 * tie
    found = quantile_cost.break_even(steps(tmp_path, seconds), scoring=0.002).set_index("what")
    assert found.loc["a reference sample and its reward", "value"] == pytest.approx(tie)
    assert found.loc["tie, fresh samples: a reward call", "value"] == pytest.approx(0.002)


def test_intervals_hold_the_values_and_grow_with_the_noise(tmp_path):
    seconds = {STORED: 2.0, FRESH: 5.0, LEARNED: 3.0}
    widths = []
    for noise in (0.05, 0.5):
        found = quantile_cost.break_even(steps(tmp_path / str(noise), seconds, noise), 0.01)
        assert ((found["low"] < found["value"]) & (found["value"] < found["high"])).all()
        widths.append((found["high"] - found["low"]).iloc[0])
    assert widths[1] == pytest.approx(10 * widths[0])


def test_a_median_is_not_moved_by_one_slow_step():
    found = quantile_cost.median_interval([1.0, 1.1, 0.9, 1.0, 60.0])
    assert found.mean == 1.0 and found.low >= 0.9
    assert np.isnan(quantile_cost.median_interval([3.0]).low)
