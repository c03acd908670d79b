"""How learning rates are chosen: by height at half a nat, on training prompts alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from bondlab import paths, tasks
from bondlab.report.notebook import ParameterError
from bondlab.study import alignment, divergences, experiments, j_bond, tuning, xsum
from bondlab.study.j_bond import J_BOND, REINFORCE
from bondlab.study.other_baselines import OTHERS

SMALL, MIDDLE = list(REINFORCE)[1:3]


@pytest.mark.parametrize(
    ("kl", "reward", "expected"),
    [
        ([0, 0.25, 1.0], [0, 1, 2], 1 + (0.5**0.5 - 0.5) / 0.5),  # straight in the root of the KL
        ([0, 2.0, 0.1], [0, 2, 9], 1.0),  # a quarter of the KL is half of the root; the first way
        ([0, 0.1, 0.3], [0, 2, 1], 1),  # never there: its end
        ([-0.01, 0.5, 3.0], [0, 1, 2], 1),  # an estimate below 0 counts as 0
    ],
)
def test_the_height_of_a_run(kl, reward, expected):
    assert tuning.height(np.array(kl), np.array(reward)) == pytest.approx(expected)


def test_a_run_ends_where_nothing_later_counts():
    """Some of the committed runs went on: without the rest heights and choice are the same."""
    whole = pd.read_parquet(paths.committed_folder(tuning.NAME) / "results_tuning.parquet")
    parts = []
    for _, run in whole.groupby(["series", "rate"], sort=False):
        beyond = run.loc[run["kl_to_reference"] > tuning.REACH, "step"].min()
        parts.append(run if np.isnan(beyond) else run[run["step"] <= beyond])
    cut = pd.concat(parts)
    assert len(cut) < len(whole)
    pd.testing.assert_frame_equal(tuning.choice(cut), tuning.choice(whole), check_exact=True)


def table(heights: dict[float, float], series: str = "one", spread: float = 2.0) -> pd.DataFrame:
    """Runs that are at half a nat with these rewards, in spreads."""
    return pd.DataFrame([
        {"series": series, "rate": rate, "step": step, "reward": spread * height * (step > 0),
         "kl_to_reference": step / 20, "seed": 11, "spread": spread}
        for rate, height in heights.items() for step in (0, 10)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ({5e-4: 1.0, 1e-3: 1.5, 2e-3: 1.2}, 1e-3),
        ({5e-4: 1.0, 1e-3: 1.49, 2e-3: 1.5}, 1e-3),  # within 0.02 spreads of the best: the smaller
        ({5e-4: 1.0, 1e-3: 1.47, 2e-3: 1.5}, 2e-3),
    ],
)
def test_the_choice_is_read_from_the_committed_table(tmp_path, monkeypatch, heights, expected):
    monkeypatch.setattr(paths, "repository_root", lambda: tmp_path)
    with pytest.raises(ParameterError, match="python -m bondlab tune sentiment --only 'one'"):
        tuning.chosen_rate("sentiment", "one")
    folder = paths.committed_folder(tuning.NAME)
    folder.mkdir(parents=True)
    rows = pd.concat([table(heights), table({5e-4: 9.0}, "two")])
    rows.to_parquet(folder / "results_tuning.parquet")
    assert tuning.chosen_rate("sentiment", "one") == expected
    assert tuning.chosen_rate("sentiment", "two") == 5e-4
    for task, series in (("sentiment", "three"), ("chat", "one")):
        with pytest.raises(ParameterError, match=f"tune {task} --only '{series}'"):
            tuning.chosen_rate(task, series)


def test_every_method_has_the_same_candidates_on_training_prompts():
    """Each that no sibling stands for, at each rate, with a seed and a budget that all share."""
    specs = alignment.specs(experiments.methods, "", "study", tuned=False)
    found = tuning.candidates(specs)
    series = [J_BOND, SMALL, MIDDLE, *OTHERS]
    expected = [(name, rate) for name in series for rate in (5e-4, 1e-3, 2e-3)]
    assert [(s.labels["series"], s.config.learning_rate) for s in found] == expected
    for spec in found:
        changed = {"learning_rate": 1e-3}
        assert spec.config.model_copy(update=changed) == found[1].config
        assert spec.task == found[0].task and spec.task.rehearsal
    config = found[0].config
    assert (config.steps, config.prompts_per_step, config.seed) == (100, 16, 11)
    assert config.kl_limit == tuning.REACH
    assert config.evaluate_every == 10 and found[0].task.evaluate == 64
    with pytest.raises(ParameterError, match=f"not tuned: nothing; there are {J_BOND}"):
        tuning.candidates(specs, ["nothing"])


def test_on_xsum_one_run_stands_for_all(monkeypatch):
    """The candidates draw anew as the runs do; every run then has the rate that was chosen."""
    found = tuning.candidates(xsum.untuned("study"))
    assert [s.config.learning_rate for s in found] == [5e-4, 1e-3, 2e-3]
    assert all(s.config.fresh and s.config.steps == 64 and s.task.rehearsal for s in found)
    asked = []
    monkeypatch.setattr(tuning, "chosen_rate", lambda *given: asked.append(given) or 1.5e-3)
    rates = {s.config.learning_rate for s in divergences.EXPERIMENT.specs("study")}
    assert rates == {1.5e-3} and {*asked} == {("xsum", xsum.TUNED)}
    assert xsum.rated("laptop") == xsum.LAPTOP


def test_a_rehearsal_never_sees_a_held_out_prompt():
    settings = alignment.specs(j_bond.runs, "", "smoke", tuned=False)[0].task
    real = tasks.build(settings, "fp32")
    again = tasks.build(settings.model_copy(update={"rehearsal": True, "evaluate": 2}), "fp32")
    assert again.train_prompts == real.train_prompts[:6]
    assert again.eval_prompts == real.train_prompts[6:]
    with pytest.raises(ValueError, match="there are 8 and 2"):
        tasks.build(settings.model_copy(update={"rehearsal": True}), "fp32")


def test_tuning_keeps_what_every_rate_gave(runs, tmp_path, monkeypatch):
    """The rates of one method, and then of a second, whose table holds both."""
    monkeypatch.setattr(tuning, "RATES", (5e-4, 1e-3))
    first = experiments.tune("sentiment", "smoke", [J_BOND], 1)
    both = experiments.tune("sentiment", "smoke", [MIDDLE], 1)
    pd.testing.assert_frame_equal(both[both["series"] == J_BOND], first)
    assert both.groupby("series")["chosen"].sum().to_dict() == {J_BOND: 1, MIDDLE: 1}
    folder = tmp_path / "figures" / "smoke" / "tuning"
    kept = pd.read_parquet(folder / "results_tuning.parquet")
    assert list(kept.columns) == tuning.COLUMNS and len(kept) == 2 * 2 * 3
    assert len(pd.read_parquet(folder / "results_runs.parquet")) == 4
    start = kept[kept["step"] == 0]
    assert start["kl_to_reference"].abs().max() < 1e-5 and start["reward"].nunique() == 1


def test_a_candidate_is_measured_by_the_policys_rows_and_the_spread_within_prompts(monkeypatch):
    """Mean rewards of prompts differ by 9, within each they scatter by the root of 2."""
    rows = {"source": ["policy", "policy", "reference"], "step": 0}
    rows |= {"reward": [1.0, 3.0, 50.0], "kl": [0.1, 0.3, None]}
    stored = SimpleNamespace(rewards=torch.tensor([[1.0, 3.0], [10.0, 12.0]]))
    monkeypatch.setattr(tuning, "held_out_bank", lambda spec: stored)
    spec = SimpleNamespace(labels={"series": "a", "rate": 1e-3, "seed": 11})
    run = SimpleNamespace(evaluation=lambda: pd.DataFrame(rows))
    (line,) = tuning._measured(spec, run).to_dict("records")
    found = [line[name] for name in ("reward", "kl_to_reference", "spread")]
    assert found == pytest.approx([2, 0.2, 2**0.5])
