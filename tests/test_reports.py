"""Tidy tables of evaluations, what is shipped, and the numbers behind the figures."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch

from bondlab import measures, reports, tables, tiny
from bondlab.bank import Bank
from bondlab.completions import Completions
from bondlab.tasks import Task

TEXTS = tiny.documents(4)


def task() -> Task:
    return Task(
        tiny.language_model(), tiny.reward, TEXTS[:2], TEXTS[2:], ["city river", "team goal"], {}
    )


def evaluation(step: int = 0) -> pd.DataFrame:
    """Two prompts, two policy rows and eight reference rows each; the policy is the reference."""
    own = [
        {"source": "policy", "prompt": p, "sample": s, "reward": float(p + s), "quantile": q,
         "log_prob": -10.0 - s, "reference_log_prob": -10.0 - s, "tokens": 5 + s, "text": "city 2"}
        for p in (0, 1) for s, q in enumerate((0.25, 0.5))
    ]  # fmt: skip
    bank = [
        {"source": "reference", "prompt": p, "sample": s, "reward": float(s), "log_prob": -9.0,
         "reference_log_prob": -9.0, "tokens": 5, "text": None}
        for p in (0, 1) for s in range(8)
    ]  # fmt: skip
    return pd.DataFrame([*own[::-1], *bank]).assign(step=step)  # rows need not come in order


def test_every_measure_by_hand():
    """pi = reference and quantiles 1/4, 1/2: mean log quantile is -log(8)/2, and with N = 3 the
    backward KL is 2 log(8)/2 - log 3 and the forward one log 3 - 2/3; entropy is 10.5 nats."""
    table = tables.per_prompt(evaluation(), 3, task()).set_index("prompt")
    assert table["log_quantile"].tolist() == pytest.approx([-math.log(8) / 2] * 2)
    assert table["backward_kl"].tolist() == pytest.approx([math.log(8) - math.log(3)] * 2)
    assert table["forward_kl"].tolist() == pytest.approx([math.log(3) - 2 / 3] * 2)
    assert table["kl_to_reference"].tolist() == [0, 0]
    assert table["entropy"].tolist() == [10.5, 10.5]
    assert table["reward"].tolist() == [0.5, 1.5]
    assert table["words"].tolist() == [2, 2]
    # "city" is one of the two words of the reference "city river": ROUGE-1 of 1/2.
    assert table.loc[0, "rouge1"] == pytest.approx(0.5) and table.loc[1, "rouge1"] == 0


def test_sampled_best_of_n_by_hand():
    """Best-of-1 of rewards 0..3 earns 1.5, Best-of-4 of all four 3; the KL column is the bound."""
    rewards = torch.arange(4.0).expand(2, 4)
    tokens = torch.full((2, 4, 3), 3)
    drawn = Completions(tokens, torch.ones(2, 4, 3, dtype=torch.bool), torch.zeros(2, 4, 3))
    own = task()
    table = tables.best_of_n(Bank(drawn, rewards), [1, 4], own.model, own)
    assert table.groupby("n")["reward"].mean().to_dict() == pytest.approx({1: 1.5, 4: 3.0})
    assert table.groupby("n")["kl_to_reference"].first().to_dict() == pytest.approx(
        {1: 0, 4: math.log(4) - 3 / 4}
    )


def results(n: int, profile: str) -> reports.Results:
    labels = {"n": n, "beta": 0.5, "seed": 0, "profile": profile}
    both = pd.concat([evaluation(0), evaluation(4)])
    evaluations = tables.per_prompt(both, n, task()).assign(**labels)
    measured = pd.DataFrame({"prompt": [0, 1], "p_reward": [0.1, 0.3]})
    baselines = pd.concat(measured.assign(n=size, log_quantile=-1 / size) for size in (1, n))
    baselines = baselines.assign(profile=profile)
    examples = pd.DataFrame([{"step": 0, "prompt": 0, "reward": 0.0, "text": "city 2", **labels}])
    runs = pd.DataFrame([{**labels, "run": "0123", "manifest": "{}"}])
    return reports.Results(evaluations, baselines, examples, runs)


def test_shipped_results_are_the_study_where_there_is_one(tmp_path, monkeypatch):
    """N = 8 has study and laptop results, N = 4 laptop ones alone."""
    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path))
    folder = tmp_path / "some"
    with pytest.raises(FileNotFoundError, match="profile laptop"):
        reports.results("some", "shipped")
    both = [results(4, "laptop"), results(8, "laptop")]
    laptop = reports.Results(*(
        pd.concat([getattr(r, name) for r in both])
        for name in ("evaluations", "baselines", "examples", "runs")
    ))  # fmt: skip
    reports._write(folder, "laptop", laptop)
    reports._write(folder, "study", results(8, "study"))
    found = reports.results("some", "shipped")
    origin = found.evaluations.groupby("n")["profile"].unique().map(list).to_dict()
    assert origin == {4: ["laptop"], 8: ["study"]}
    assert found.of([8]).baselines["n"].isin([1, 8]).all()


def test_the_last_table_sets_policies_beside_the_reference_and_best_of_n():
    table = reports.last_table(results(8, "laptop"), ["p_reward", "log_quantile"])
    assert table["policy"].tolist() == ["reference", "sampled Best-of-8", "BOND, beta 0.5"]
    expected = measures.mean_interval([0.1, 0.3])
    assert table.loc[0, "p_reward"] == str(expected)
    assert table.loc[1, "log_quantile"] == "-0.125"  # a closed form has no interval


def test_a_measure_that_some_summaries_lack_counts_the_documents_that_have_it():
    """With two seeds a document without numbers in one of them is left out, and the rest stays."""
    table = pd.DataFrame(
        {"seed": [0, 0, 0, 1, 1, 1], "prompt": [0, 1, 2] * 2, "x": [1, 2, None, 3, 4, 5]}
    )
    assert reports._cell(table, "x").startswith("2.500 [")
    assert reports._cell(table.assign(x=None), "x") == "-"


def test_the_start_is_set_beside_its_theory():
    """(N-1) - log N, log N - (N-1)/N and -1 for N = 8."""
    table = reports.start_table(results(8, "laptop")).set_index("measure")
    expected = [7 - math.log(8), math.log(8) - 7 / 8, -1]
    assert table["theory"].tolist() == pytest.approx(expected)
    assert table.loc["forward_kl", "measured"] == pytest.approx(expected[1])
