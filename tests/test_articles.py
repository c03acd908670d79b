"""Is the forward divergence lower on what a policy was trained on? The measure, and its runs."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from bondlab import bank
from bondlab.bank import Bank
from bondlab.study import articles, collected
from bondlab.study.articles import HELD_OUT, NEW, STORED
from bondlab.tasks import tiny

PROMPTS = tiny.documents(10)  # more than a part holds


@pytest.fixture
def drawn() -> Bank:
    generator = torch.Generator().manual_seed(0)
    return Bank(*bank.draw(tiny.language_model(), tiny.reward, PROMPTS, articles.N, generator))


def test_an_untrained_policy_has_not_changed(drawn):
    """pi = reference, so log pi_ref - log pi is 0 for every sample, but for rounding."""
    policy = tiny.language_model().trainable_copy(2)
    found = articles.change(policy, PROMPTS, drawn, "fp32")
    assert found.shape == (10,) and found.abs().max() < 1e-4


def test_the_change_is_that_of_the_best_sample(drawn):
    """With 8 samples there is one subset of 8: Best-of-8 is the best of them, and the change of the
    forward KL is what the policy lost of that sample's log-probability. (Rewards are told apart,
    since tied samples would share the weight.)"""
    told_apart = drawn.rewards + torch.linspace(0, 1e-3, articles.N)
    policy = tiny.language_model(seed=1)  # another law
    found = articles.change(policy, PROMPTS, Bank(drawn.completions, told_apart), "fp32")
    log_pi = policy(policy.encode(PROMPTS), drawn.completions).sum(-1)
    best = told_apart.argmax(1, keepdim=True)
    lost = (drawn.completions.log_prob - log_pi).gather(1, best)[:, 0]
    assert torch.allclose(found.float(), lost, atol=1e-4) and lost.abs().min() > 1e-3


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The smoke profile's runs, and what was found of them."""
    folder = tmp_path_factory.mktemp("smoke")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BONDLAB_RUNS", str(folder / "runs"))
        patch.setenv("BONDLAB_FIGURES", str(folder / "figures"))
        yield articles.changes("smoke", 1), collected.results(articles.NAME, "smoke", 1)


def test_three_kinds_of_every_run(smoke):
    table, _ = smoke
    counts = table.groupby(["beta", "kind"])["prompt"].nunique()
    assert len(counts) == 9 and set(counts) == {4}  # as many training as held-out prompts
    stored, new = (table.loc[table["kind"] == kind, "change"].to_numpy() for kind in (STORED, NEW))
    assert (stored != new).any()


def test_held_out_articles_are_those_of_figure_2(smoke):
    """The curve's last value less its first, prompt by prompt, is the same change."""
    table, found = smoke
    curve = found.evaluations[found.evaluations["row"] == articles.ROW]
    steps = curve.pivot(index=["beta", "prompt"], columns="step", values="forward_kl")
    expected = steps[steps.columns[-1]] - steps[steps.columns[0]]
    own = table[table["kind"] == HELD_OUT].set_index(["beta", "prompt"])["change"]
    pd.testing.assert_series_equal(own.sort_index(), expected.sort_index(), check_names=False,
                                   atol=1e-4, rtol=0)  # fmt: skip


def test_what_was_found_is_kept_and_drawn(smoke, monkeypatch, capsys):
    """A second call loads no model; the figure's file says which runs it rests on."""
    monkeypatch.setattr(articles, "train", None)
    articles.publish("smoke")
    written = articles.paths.figures_folder(articles.NAME, "smoke") / f"{articles.STEM}.json"
    text = written.read_text()
    assert all(run in text for run in smoke[0]["run"].unique())


def test_nothing_shipped_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(articles.paths, "repository_root", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match="profile laptop"):
        articles.changes("shipped")
