"""Best@n of policies: by hand, drawn once, and empty where nothing is shipped."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from lab import spied, task_of

from bondlab import measures
from bondlab.bank import seeded
from bondlab.lm.language_model import LanguageModel
from bondlab.report.kept import Results
from bondlab.study import best_at
from bondlab.study.alignment import AlignmentSettings, chosen, results
from bondlab.study.items import REFERENCE
from bondlab.study.j_bond import EXPERIMENT, J_BOND, NOISE
from bondlab.study.sweep import held_out_bank


def test_best_at_n_by_hand():
    """Rewards 1, 3, 2: the best of two is 3, 3 or 2; the judge, who scores them 9, 0, 6, sees what
    the reward chose: 5, then (0 + 0 + 6) / 3, then 0."""
    found = best_at.per_prompt(torch.tensor([[1.0, 3, 2]]), torch.tensor([[9.0, 0, 6]]))
    assert found["n"].tolist() == [1, 2, 3] and set(found["prompt"]) == {0}
    assert found["reward"].tolist() == pytest.approx([2, 8 / 3, 3])
    assert found["judge"].tolist() == pytest.approx([5, 2, 0])


SETTINGS = AlignmentSettings(profile="smoke", task="sentiment", policy="", workers=1)


@pytest.mark.usefixtures("runs")
def test_every_policy_is_drawn_from_once(monkeypatch):
    """16 completions a prompt of the policy, n up to 16; of the reference's bank. Each curve is
    that of its own draws. A second call draws nothing."""
    found = results(EXPERIMENT, SETTINGS, [J_BOND])
    drawn = best_at.results(EXPERIMENT, found, SETTINGS, [J_BOND])
    best_at.draw(EXPERIMENT, found, SETTINGS, [J_BOND])
    assert (drawn.folder / "best_at_n.png").stat().st_size
    table = drawn["best_at"]
    assert set(table.groupby("series")["n"].max()) == {best_at.SAMPLES}
    curve = best_at.curve_table(table, [J_BOND]).query("panel == 'reward'")
    assert set(curve["series"]) == {REFERENCE, J_BOND}
    monkeypatch.setattr(best_at, "train", None)
    (spec,) = chosen(EXPERIMENT, SETTINGS, [J_BOND])
    stored = {J_BOND: best_at.drawn(spec)[0], REFERENCE: held_out_bank(spec).rewards}
    for name, rewards in stored.items():
        own = curve[curve["series"] == name].set_index("n")["mean"]
        best = (measures.best_of_n_value(rewards, rewards, n).mean().item() for n in (1, 16))
        assert own[[1, 16]].tolist() == pytest.approx([*best])
    again = best_at.results(EXPERIMENT, found, SETTINGS, [J_BOND])["best_at"]
    pd.testing.assert_frame_equal(again, table)
    assert list(best_at.ends(table)) == ["policy", *(f"best@{n}" for n in (1, 2, 4, 8, 16))]


def test_what_is_not_shipped_is_empty(capsys):
    """A variant that no study has; nothing is drawn of it."""
    settings = AlignmentSettings(profile="shipped", task="chat", policy="x", workers=0)
    found = best_at.results(EXPERIMENT, Results("j_bond", "shipped", "none"), settings, [J_BOND])
    assert found["best_at"].empty
    best_at.draw(EXPERIMENT, found, settings, [J_BOND])
    assert capsys.readouterr().out.startswith("Best@n was not drawn")


@pytest.mark.usefixtures("runs")
def test_each_run_draws_from_its_own_policy(monkeypatch):
    """Two runs of one task; neither draws from the reference."""
    results(EXPERIMENT, SETTINGS, [J_BOND, NOISE[0]])
    specs = chosen(EXPERIMENT, SETTINGS, [J_BOND, NOISE[0]])
    asked = spied(monkeypatch, LanguageModel, "sample", lambda model, *_: model)
    first, other = (best_at.drawn(spec)[0] for spec in specs)
    assert not torch.equal(first, other)
    assert len(asked) and all(model is not specs[0].build().model for model in asked)


def test_parts_are_of_their_own_prompts_and_draws(monkeypatch):
    task = task_of(evaluate=10)
    spec = SimpleNamespace(build=lambda: task, config=SimpleNamespace(seed=3))
    seen = spied(monkeypatch, LanguageModel, "sample", lambda m, p, k, g, *_: g.initial_seed())
    parts = [best_at._part(spec, task.model, start) for start in (0, 8)]
    assert sorted({*pd.concat(parts)["prompt"]}) == list(range(10))
    assert seen == [seeded(3, "best_at", start).initial_seed() for start in (0, 8)]
