"""What notebooks 06 and 07 show, from two tiny runs: tables, figures with headlines, what ships."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from bondlab import paths
from bondlab.rules import J_BOND_PENALTY
from bondlab.study import alignment, alignment_report, alignment_tables, average_report
from bondlab.study import alignment_decisions as series
from bondlab.study.alignment_report import DISTANCE, JUDGE, REWARD, WINS, BaselineSettings, Page

NAME, OTHER = "j_bond", series.REINFORCE_SERIES[2]
SETTINGS = BaselineSettings(
    profile="smoke", task="sentiment", policy="", other_task="", other_baselines=False, workers=1
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """J-BOND and one REINFORCE run at profile smoke, in a folder of their own."""
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BONDLAB_RUNS", str(folder / "runs"))
        environment.setenv("BONDLAB_FIGURES", str(folder / "figures"))
        yield Page.of(NAME, SETTINGS, [series.J_BOND, OTHER])


def headline(stem: str) -> list[dict]:
    return json.loads((written() / f"{stem}.json").read_text())["headline"]


def written() -> Path:
    return paths.figures_folder(NAME, "smoke")


def test_every_evaluation_has_its_judge(page):
    """Five evaluations of four prompts a run; the judge's share lies in [0, 1], and so do rates."""
    table = page.found.evaluations
    assert len(table) == 2 * 5 * 4 and table["spread"].nunique() == 1
    columns = ["judge", "penalised", *(f"win_over_{n}" for n in alignment_tables.SIZES)]
    assert table[columns].notna().all(axis=None)
    assert table[columns].stack().between(0, 1).all()
    base = page.found.baselines.groupby("n")[["reward", "win_over_1"]].mean()
    assert base.index.tolist() == [1, 2, 4, 8, 16]
    assert base.loc[1, "win_over_1"] == pytest.approx(0.5)
    assert base["reward"].is_monotonic_increasing


def test_what_was_computed_is_read_again_and_smoke_never_ships(page, monkeypatch):
    """The same tables without a training; "shipped" takes what the study left alone."""
    again = Page.of(NAME, SETTINGS, [series.J_BOND, OTHER]).found
    pd.testing.assert_frame_equal(again.evaluations, page.found.evaluations)
    assert list(written().glob("results_*.parquet"))
    monkeypatch.setattr(paths, "repository_root", lambda: written().parents[2])
    with pytest.raises(FileNotFoundError, match="profile laptop"):
        alignment_tables.results(NAME, "shipped")


def test_a_part_of_the_series_does_not_replace_more(page):
    """Asked for J-BOND alone, the kept tables go on holding both runs."""
    Page.of(NAME, SETTINGS, [series.J_BOND])
    kept = pd.read_parquet(written() / "results_runs.parquet")
    assert set(kept["series"]) == {series.J_BOND, OTHER}


@pytest.mark.parametrize(
    ("task", "policy", "expected"),
    [
        ("sentiment", None, ""),
        ("chat", None, "chat"),
        ("sentiment", "google/gemma-2b", "sentiment_google--gemma-2b"),
        ("sentiment", "another/gemma-2b", "sentiment_another--gemma-2b"),
        ("sentiment", "chat", "sentiment_chat"),
        ("chat", "gemma3", "chat_gemma3"),
    ],
)
def test_other_tasks_and_policies_have_results_of_their_own(task, policy, expected):
    """Models of one name and two owners are two policies; a policy called chat is not the task."""
    assert alignment_tables.variant(task, policy) == expected


def test_only_what_there_is_is_shown(page):
    """A laptop's bank of eight has no Best-of-16, and its plan no baselines but REINFORCE."""
    laptop = alignment.specs(NAME, "laptop")
    assert alignment_tables.sizes(laptop[0]) == [1, 2, 4, 8]
    assert len(laptop) == 5 and page.has([OTHER, "RAFT"]) == [OTHER]


def test_another_profile_s_samples_are_no_level(page):
    """Best-of-2 of this profile alone, whatever another's reference earns."""
    base = page.found.baselines
    other = base.assign(profile="laptop", reward=base["reward"] + 100)
    both = dataclasses.replace(page.found, baselines=pd.concat([other, base]))
    (level, _), (expected, _) = (
        alignment_report._levels(found, REWARD) for found in (both, page.found)
    )
    assert level == expected


def test_the_penalty_of_the_reference_and_of_best_of_2():
    """Rewards on a fine grid of quantiles u: both of two are better with chance (1-u)^2, whose mean
    is 1/3 over u and 1/6 over the density 2u of Best-of-2; ties are not better."""
    u = (torch.arange(1000) + 0.5) / 1000
    share = alignment_tables.penalised(u[None], u[None])[0]
    assert share.mean().item() == pytest.approx(1 / 3, abs=2e-3)
    assert (2 * u * share).mean().item() == pytest.approx(1 / 6, abs=2e-3)
    assert alignment_tables.penalised(torch.zeros(1, 2), torch.zeros(1, 5)).tolist() == [[0, 0]]
    by_hand = alignment_tables.penalised(torch.tensor([[0.5]]), torch.tensor([[0.0, 1.0, 2.0]]))
    assert by_hand.item() == pytest.approx(1 / 3)  # of three pairs one is all better


def test_the_start_is_set_beside_its_theory(page):
    """1/3 and -log(16)/3; the two lines measure the same share."""
    table = alignment_tables.start_table(page.found).set_index("measure")
    assert table["theory"].tolist() == pytest.approx([1 / 3, -0.924], abs=1e-3)
    ratio = table.loc["mean r_J", "measured"] / table.loc["penalised share", "measured"]
    assert ratio == pytest.approx(J_BOND_PENALTY)


def test_the_budget_counts_completions(page):
    """J-BOND draws 1 + 2 a prompt, REINFORCE 2, and only the first has an anchor that moves."""
    table = page.budget().set_index("series")
    assert table["completions"].to_dict() == {series.J_BOND: 3, OTHER: 2}
    assert table.loc[series.J_BOND, "rate"] > 0 == table.loc[OTHER, "rate"]


def test_the_last_table_has_every_best_of_n(page):
    table = page.last(["reward", "win_over_1", "win_over_4"]).set_index("policy")
    assert table.index.tolist() == [
        "reference", *(f"sampled Best-of-{n}" for n in (2, 4, 8, 16)), series.J_BOND, OTHER,
    ]  # fmt: skip
    assert table.loc["reference", "win_over_1"] == "0.500"
    assert table.loc["sampled Best-of-2", "win_over_4"] == "-"


def test_figures_come_with_headlines(page):
    """A line a series and panel for curves, a height for the frontier, three for the growth."""
    both = [series.J_BOND, OTHER]
    page.curves("fig07_training", both, (REWARD, DISTANCE, WINS), "training")
    assert len(headline("fig07_training")) == 2 * 3
    page.tradeoff("fig07_tradeoff", both, (REWARD, JUDGE), "frontier", series.J_BOND)
    heights = page.heights(series.J_BOND, [OTHER])
    shared = heights.loc[0, "up to KL"] >= 0.02
    assert len(headline("fig07_tradeoff")) == 2 * shared
    if shared:
        (value,) = {number["value"] for number in headline("fig07_tradeoff")[:1]}
        assert heights.loc[0, "mean height"].startswith(f"{value:.3f}")
    page.growth("kl_growth", series.J_BOND, "growth")
    slope = headline("kl_growth")[0]
    assert page.growths([series.J_BOND]).loc[0, "nats a step"].startswith(f"{slope['value']:.4f}")
    table = pd.read_csv(written() / "kl_growth.csv")
    assert set(table["panel"]) == {"kl_to_reference", "penalised"}


def test_benchmarks_come_with_the_runs_they_measured(page, monkeypatch):
    """Items of the reference, Best-of-N and the asked series; a figure named after another task."""
    items = page.benchmarks([series.J_BOND])
    policies = list(items["policy"].unique())
    assert policies == ["reference", "sampled Best-of-2", "sampled Best-of-4", series.J_BOND]
    record = json.loads((written() / "benchmarks.json").read_text())
    (run,) = record["runs"]
    assert run["series"] == series.J_BOND and run["manifest"]["status"] == "finished"
    other = Page(NAME, SETTINGS.model_copy(update={"task": "chat"}), page.found)
    other.benchmarks([series.J_BOND])
    assert (written() / "benchmarks_chat.json").exists()


def test_averages_are_followed_once_and_kept(page, monkeypatch):
    """The policy of Figure 5's moving average: its run's name, at every evaluation; read again
    without a training. A profile that trains all weights has nothing to follow."""
    found = average_report.results("smoke")
    spec = alignment.specs("anchor_ablations", "smoke")[0]
    assert spec.labels["series"] == series.MOVING
    run = spec.folder(paths.runs_folder() / alignment.RUNS).path.name
    assert set(found["run"]) == {run} and found["step"].tolist() == [1, 2, 3, 4]
    assert json.loads(found["manifest"].iloc[0])["status"] == "finished"
    monkeypatch.setattr(average_report, "_followed", None)
    pd.testing.assert_frame_equal(average_report.results("smoke"), found)
    shown = average_report.table(found)
    row, first = shown.iloc[-1], found.iloc[-1]
    assert row["KL to averaged weights"].startswith(f"{first['kl']:.4f} [{first['kl_low']:.4f}")
    monkeypatch.setattr(paths, "repository_root", lambda: written().parents[2])
    with pytest.raises(FileNotFoundError, match="averages"):
        average_report.results("shipped")


def test_no_average_is_followed_where_all_weights_are_trained(monkeypatch):
    """An average of weights is exact; the paper profile's models are not even asked for."""
    assert average_report.results("paper").empty
