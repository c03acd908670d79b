"""Best@n of policies: by hand, drawn once, and empty where nothing is shipped."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from bondlab import training
from bondlab.report.kept import Results
from bondlab.study import best_at
from bondlab.study.alignment import AlignmentSettings, results
from bondlab.study.items import REFERENCE
from bondlab.study.j_bond import EXPERIMENT, J_BOND


def test_best_at_n_by_hand():
    """Rewards 1, 3, 2: the best of two is 3, 3 or 2; the judge, who scores them 9, 0, 6, sees what
    the reward chose: 5, then (0 + 0 + 6) / 3, then 0."""
    found = best_at.per_prompt(torch.tensor([[1.0, 3, 2]]), torch.tensor([[9.0, 0, 6]]))
    assert found["n"].tolist() == [1, 2, 3] and set(found["prompt"]) == {0}
    assert found["reward"].tolist() == pytest.approx([2, 8 / 3, 3])
    assert found["judge"].tolist() == pytest.approx([5, 2, 0])


@pytest.mark.usefixtures("runs")
def test_every_policy_is_drawn_from_once(monkeypatch, tmp_path):
    """16 completions a prompt of the policy, n up to 16; of the reference's bank.
    A second call draws nothing; its curve never falls, and starts at the plain mean."""
    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path / "figures"))
    settings = AlignmentSettings(profile="smoke", task="sentiment", policy="", workers=1)
    found = results(EXPERIMENT, settings, [J_BOND])
    drawn = best_at.results(EXPERIMENT, found, settings, [J_BOND])
    best_at.draw(EXPERIMENT, found, settings, [J_BOND])
    assert (drawn.folder / "best_at_n.png").stat().st_size
    table = drawn["best_at"]
    assert set(table.groupby("series")["n"].max()) == {best_at.SAMPLES}
    curve = best_at.curve_table(table, [J_BOND]).query("panel == 'reward'")
    assert set(curve["series"]) == {REFERENCE, J_BOND}
    assert all(part["mean"].is_monotonic_increasing for _, part in curve.groupby("series"))
    monkeypatch.setattr(training, "train", None)
    monkeypatch.setattr(best_at, "train", None)
    again = best_at.results(EXPERIMENT, found, settings, [J_BOND])["best_at"]
    pd.testing.assert_frame_equal(again, table)
    assert list(best_at.ends(table)) == ["policy", *(f"best@{n}" for n in (1, 2, 4, 8, 16))]


def test_what_is_not_shipped_is_empty(capsys):
    """A variant that no study has; nothing is drawn of it."""
    settings = AlignmentSettings(profile="shipped", task="chat", policy="x", workers=0)
    found = best_at.results(EXPERIMENT, Results("j_bond", "shipped", "none"), settings, [J_BOND])
    assert found["best_at"].empty
    best_at.draw(EXPERIMENT, found, settings, [J_BOND])
    assert capsys.readouterr().out.startswith("Best@n was not drawn")
