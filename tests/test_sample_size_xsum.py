"""How many reference samples the real model needs: gradients by autograd, errors by simulation."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch

from bondlab import quantiles
from bondlab.bank import seeded
from bondlab.lm.completions import Completions
from bondlab.study import sample_gradients, sample_size_report, sample_size_xsum
from bondlab.tasks import tiny
from bondlab.toy.sample_size import SIZES, floored


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("BONDLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path / "figures"))
    return tmp_path


@pytest.mark.parametrize("family", ["t5", "gemma"])
def test_each_gradient_is_autograds(family):
    """One backward pass a completion on the same new adapter; those of A are 0 there."""
    model = tiny.language_model(family)
    prompt = tiny.documents(1)
    drawn = model.sample(model.encode(prompt), 5, seeded(0, "test"))
    ends = torch.tensor([1, 3, 5, 7, 8])[None, :, None]  # padding must not count
    mask = drawn.mask & (torch.arange(drawn.mask.shape[-1]) < ends)
    drawn = Completions(drawn.tokens, mask, drawn.log_probs)
    found = sample_gradients.of_new_adapter(model, prompt[0], drawn, rank=2, seed=3)
    policy = model.trainable_copy(2, seed=3)
    names = [name for name, p in policy.model.named_parameters() if p.requires_grad]
    for k in range(5):
        one = drawn.take(torch.tensor([[k]]))
        log_prob = policy(policy.encode(prompt), one).sum()
        by_name = dict(zip(names, torch.autograd.grad(log_prob, policy.trainable()), strict=True))
        expected = torch.cat([g.flatten() for n, g in by_name.items() if "lora_B" in n])
        assert all(float(g.abs().max()) == 0 for n, g in by_name.items() if "lora_A" in n)
        assert sorted(found[k].tolist()) == pytest.approx(sorted(expected.tolist()), abs=1e-4)
        assert float(found[k].norm()) == pytest.approx(float(expected.norm()), rel=1e-4)
        assert float(found[k].norm()) > 0


def test_gradients_leave_the_model_as_it_was():
    model = tiny.language_model("t5")
    before = {name: x.clone() for name, x in model.state_dict().items()}
    drawn = model.sample(model.encode(tiny.documents(1)), 2, seeded(0, "test"))
    sample_gradients.of_new_adapter(model, tiny.documents(1)[0], drawn, rank=2)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], x) for name, x in before.items())


# -- errors ----------------------------------------------------------------------------------------

DOCUMENTS, BANK, OWN = 4, 12, 5


@pytest.fixture(scope="module")
def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards [4, 12], some tied, and gradients [20, 6]."""
    rng = np.random.default_rng(0)
    rewards = torch.from_numpy(rng.integers(0, 9, (DOCUMENTS, BANK)).astype(float))
    gradients = torch.from_numpy(rng.normal(size=(DOCUMENTS * OWN, 6)) + 1.0)
    return rewards, gradients


def test_the_moments_are_those_of_draws_from_the_bank(problem):
    """Bias and variance of log p_hat from k = 4 rewards drawn with replacement from the bank,
    20,000 times, through training's own `quantiles.empirical`.
    """
    rewards, gradients = problem
    errors = pd.DataFrame(sample_size_xsum.errors_of(rewards, gradients @ gradients.T))
    row = errors.query("k == 4 and left_out == -1 and smoothing == 'floor 1/(2k)'").iloc[0]
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(BANK, (20_000, DOCUMENTS, 4), generator=generator)
    drawn = rewards.expand(20_000, -1, -1).gather(2, index)
    found = quantiles.empirical(rewards.expand(20_000, -1, -1), drawn).log()
    exact = quantiles.empirical(rewards, rewards).log()
    assert row["log_bias"] == pytest.approx((found.mean(0) - exact).mean().item(), abs=0.01)
    assert row["log_variance"] == pytest.approx(found.var(0).mean().item(), rel=0.03)
    spread = (found.mean(0) - exact).std() / exact.std()
    assert row["weights"] == pytest.approx(spread.item(), abs=0.01)


def test_the_variance_is_that_of_training_batches(problem):
    """Given two completions a document that share their 4 reference samples, the update scatters
    as `estimating` says: the trace of its variance over 20,000 draws, for all ten pairs.
    """
    rewards, gradients = problem
    errors = pd.DataFrame(sample_size_xsum.errors_of(rewards, gradients @ gradients.T))
    row = errors.query("k == 4 and left_out == -1 and smoothing == 'floor 1/(2k)'").iloc[0]
    index = torch.randint(BANK, (20_000, DOCUMENTS, 4), generator=torch.Generator().manual_seed(0))
    drawn = rewards.expand(20_000, -1, -1).gather(2, index)
    vectors, traces = gradients.view(DOCUMENTS, OWN, -1), []
    for pair in combinations(range(OWN), 2):
        estimated = quantiles.empirical(rewards[:, pair].expand(20_000, -1, -1), drawn)
        weights = 7 * estimated.log() / 2
        updates = torch.einsum("sbk,bkd->sbd", weights, vectors[:, pair])
        traces.append(updates.var(0).sum(-1).mean().item())
    assert np.mean(traces) == pytest.approx(row["estimating"], rel=0.02)


def test_more_samples_err_less(problem):
    """The estimates are consistent: variance and the weights' bias vanish as k grows."""
    rewards, gradients = problem
    errors = pd.DataFrame(sample_size_xsum.errors_of(rewards, gradients @ gradients.T))
    for _, part in errors[errors["left_out"] == -1].groupby("smoothing"):
        by_k = part.set_index("k")
        assert by_k["estimating"][64] < 0.3 * by_k["estimating"][8]
        assert by_k["weights"][64] < 0.3 * by_k["weights"][8]


def test_exact_quantiles_would_have_no_error(problem):
    """Equal rewards make every quantile 1, which any k estimates as 1 with the floor."""
    _, gradients = problem
    errors = pd.DataFrame(
        sample_size_xsum.errors_of(torch.ones(DOCUMENTS, BANK).double(), gradients @ gradients.T)
    )
    exact = errors[errors["smoothing"] == "floor 1/(2k)"]
    assert exact[["bias", "estimating", "log_bias", "log_variance"]].abs().max().max() < 1e-12
    assert floored(4)[-1] == 0


def test_the_jackknife_of_a_mean_is_its_standard_error():
    """Leaving one of n values out of a mean: the pseudo-values are the values themselves."""
    values = np.array([1.0, 4.0, 2.0, 8.0])
    rest = {i: np.delete(values, i).mean() for i in range(4)}
    found = sample_size_report.jackknife(pd.Series({-1: values.mean()} | rest))
    assert found.mean == pytest.approx(3.75) and found.count == 4
    assert found.standard_error == pytest.approx(values.std(ddof=1) / 2)


def made_up(update: float, bias: float, left_out_update: float | None = None) -> pd.DataFrame:
    """Errors of one k and smoothing on three documents, the same without any of them."""
    row = {"k": 16, "smoothing": "add-one", "update": update, "bias": bias, "drawing": 8.0,
           "estimating": 2.0, "log_bias": 0.1, "log_variance": 0.2, "weights": 0.3}  # fmt: skip
    errors = pd.DataFrame([row | {"left_out": i} for i in range(-1, 3)])
    if left_out_update is not None:
        errors.loc[3, "update"] = left_out_update
    return errors


def test_shares_are_of_norms_and_of_variances():
    """Squares 0.04 of 4.0: the norms are 0.2 and 2, a tenth. Variances 2 of 8."""
    table = sample_size_report.table_of(made_up(4.0, 0.04)).set_index("panel")
    assert table["mean"].to_dict() == pytest.approx({"bias": 0.1, "variance": 0.25, "weights": 0.3})
    assert (table["low"] == table["mean"]).all() and (table["count"] == 3).all()


def test_a_bias_that_noise_made_negative_is_drawn_as_none():
    table = sample_size_report.table_of(made_up(4.0, -0.04)).set_index("panel")
    assert table["mean"]["bias"] == 0


@pytest.mark.parametrize(("update", "left_out"), [(-1.0, None), (4.0, -0.1)])
def test_no_share_of_an_update_that_is_only_noise(update, left_out):
    """Neither where the update's own square is negative, nor where one document carries it."""
    table = sample_size_report.table_of(made_up(update, 0.04, left_out)).set_index("panel")
    assert np.isnan(table.loc["bias", ["mean", "low", "high"]].astype(float)).all()
    assert table["mean"]["variance"] == 0.25
    summary = sample_size_report.summary(
        sample_size_xsum.Results("smoke", made_up(update, 0.04, left_out), {})
    )
    assert summary["bias"].tolist() == ["-"] and summary["k"].tolist() == [16]


# -- the whole -------------------------------------------------------------------------------------


def test_results_are_computed_once_and_shipped(folders, monkeypatch):
    found = sample_size_xsum.results("smoke")
    assert set(found.errors["k"]) == set(SIZES)
    assert sorted(set(found.errors["left_out"])) == [-1, 0, 1, 2, 3]
    assert set(found.manifest["seconds a sample"]) == {"drawing", "scoring"}

    def fail(*arguments):
        raise AssertionError("sampled a second time")

    monkeypatch.setattr(sample_size_xsum, "_compute", fail)
    again = sample_size_xsum.results("smoke")
    pd.testing.assert_frame_equal(again.errors, found.errors)
    monkeypatch.setattr(sample_size_xsum.paths, "repository_root", lambda: folders)
    with pytest.raises(FileNotFoundError, match="run the notebook"):
        sample_size_xsum.results("shipped")  # what smoke left is not shipped
    (folders / "figures" / "smoke").rename(folders / "figures" / "study")
    shipped = sample_size_xsum.results("shipped")
    assert shipped.shipped and shipped.profile == "smoke"
    pd.testing.assert_frame_equal(shipped.errors, found.errors)


def test_an_interrupted_run_leaves_no_row_twice(folders, monkeypatch):
    """Killed after its table was written and before it was called finished."""
    real = sample_size_xsum.RunFolder.mark

    def killed(self, status, seconds):
        if status == "finished":
            raise KeyboardInterrupt
        real(self, status, seconds)

    monkeypatch.setattr(sample_size_xsum.RunFolder, "mark", killed)
    with pytest.raises(KeyboardInterrupt):
        sample_size_xsum.results("smoke")
    monkeypatch.setattr(sample_size_xsum.RunFolder, "mark", real)
    assert len(sample_size_xsum.results("smoke").errors) == 2 * len(SIZES) * 5


def test_settings_that_cannot_work_are_refused():
    good = sample_size_xsum.SETTINGS["smoke"].model_dump()
    with pytest.raises(ValueError, match="at most as many"):
        sample_size_xsum.Settings(**good | {"policy_samples": 17})
    with pytest.raises(ValueError, match="3 or more"):
        sample_size_xsum.Settings(**good | {"task": good["task"] | {"train": 2}})
