"""Tidy tables of evaluations, what is shipped, and the numbers behind the figures."""

from __future__ import annotations

import dataclasses
import json
import math
from functools import cache

import pandas as pd
import pytest
import torch

from bondlab import measures
from bondlab.bank import Bank
from bondlab.lm.completions import Completions
from bondlab.study import collected, reports, tables, verdicts
from bondlab.study.experiments import EXPERIMENTS, Claim
from bondlab.tasks import Task, tiny

TEXTS = tiny.documents(4)


@cache
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
    assert table["reference_samples"].tolist() == [8, 8]
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


MANIFEST = {
    "config": {"config": {"steps": 4, "prompts_per_step": 3}, "algorithm": {"draws": [8, 2, 16]}},
    "seconds": 90,
}


@cache
def before_and_after(n: int) -> pd.DataFrame:
    return tables.per_prompt(pd.concat([evaluation(0), evaluation(4)]), n, task())


def results(profile: str, *runs: tuple[str, str, int]) -> collected.Results:
    """One run for each (row, series, n), with the same evaluation before and after 4 steps."""
    line = {"step": 0, "prompt": 0, "reward": 0.0, "text": "city 2"}
    parts = []
    for row, series, n in runs:
        labels = {"row": row, "series": series, "n": n, "seed": 0, "profile": profile}
        manifest = {"run": "0123", "manifest": json.dumps(MANIFEST)}
        parts.append((
            before_and_after(n).assign(**labels),
            pd.DataFrame([{**line, **labels}]), pd.DataFrame([{**labels, **manifest}]),
        ))  # fmt: skip
    evaluations, examples, records = (
        pd.concat(t, ignore_index=True) for t in zip(*parts, strict=True)
    )
    measured = pd.DataFrame({"prompt": [0, 1], "p_reward": [0.1, 0.3]})
    sizes = sorted({1, *(n for _, _, n in runs)})
    baselines = pd.concat(measured.assign(n=size, log_quantile=-1 / size) for size in sizes)
    return collected.Results(evaluations, baselines.assign(profile=profile), examples, records)


def test_the_study_replaces_the_rows_that_it_computed(tmp_path, monkeypatch):
    """Row N = 4 has study and laptop results, N = 2 and N = 8 laptop ones alone; the rows keep
    their order, and a row is never put together from two profiles."""
    monkeypatch.setattr(collected.paths, "repository_root", lambda: tmp_path)
    folder = tmp_path / "figures" / "study" / "some"
    with pytest.raises(FileNotFoundError, match="profile laptop"):
        collected.results("some", "shipped")
    laptop = [(f"N = {n}", series, n) for n in (2, 4, 8) for series in ("one", "two")]
    collected.write(folder, "laptop", results("laptop", *laptop))
    collected.write(folder, "study", results("study", ("N = 4", "one", 4)))
    found = collected.results("some", "shipped")
    for table in (found.evaluations, found.examples, found.runs):
        origin = table.groupby(["row", "series"], sort=False)["profile"].unique().map(list)
        assert origin.to_dict() == {
            ("N = 2", "one"): ["laptop"], ("N = 2", "two"): ["laptop"], ("N = 4", "one"): ["study"],
            ("N = 8", "one"): ["laptop"], ("N = 8", "two"): ["laptop"],
        }  # fmt: skip
        assert table["row"].unique().tolist() == ["N = 2", "N = 4", "N = 8"]
    sizes = found.baselines.groupby("profile")["n"].unique().map(list).to_dict()
    assert sizes == {"laptop": [1, 2, 4, 8], "study": [1, 4]}
    assert found.of([4]).baselines["n"].isin([1, 4]).all()


def test_a_profile_leaves_nothing_of_what_it_computed_before(tmp_path):
    """Row N = 2 is no longer in the study's plan; with the laptop's last row go its baselines."""
    collected.write(tmp_path, "laptop", results("laptop", ("N = 4", "one", 4)))
    for n in (2, 4):
        collected.write(tmp_path, "study", results("study", (f"N = {n}", "one", n)))
    found, expected = collected.shipped(tmp_path), results("study", ("N = 4", "one", 4))
    for field in dataclasses.fields(found):
        kept, wanted = (getattr(r, field.name) for r in (found, expected))
        pd.testing.assert_frame_equal(kept, wanted.reset_index(drop=True))


FIGURE_4 = [("", "N = 8", 8), ("", "iterative, n = 2", 2)]


def test_the_last_table_sets_policies_beside_the_reference_and_best_of_n():
    """Of a row with one N and a name, and of one with two N and none."""
    columns = ["p_reward", "log_quantile"]
    table = reports.last_table(results("laptop", ("N = 8", "learned", 8)), columns)
    assert table["row"].unique().tolist() == ["N = 8"]
    assert table["policy"].tolist() == ["reference", "sampled Best-of-8", "learned"]
    expected = measures.mean_interval([0.1, 0.3])
    assert table.loc[0, "p_reward"] == str(expected)
    assert table.loc[1, "log_quantile"] == "-0.125"  # a closed form has no interval
    table = reports.last_table(results("laptop", *FIGURE_4), columns)
    assert "row" not in table
    assert table["policy"].tolist() == [
        "reference", "sampled Best-of-2", "sampled Best-of-8", "N = 8", "iterative, n = 2",
    ]  # fmt: skip
    table = reports.last_table(results("laptop", ("", "one", 2), ("", "two", 4)), columns, [4])
    assert table["policy"].tolist()[1:3] == ["sampled Best-of-2", "sampled Best-of-4"]


def test_the_budget_has_a_line_a_series():
    """90 seconds are 1.5 minutes; 8 Best-of-N draws, 2 own samples and 16 for quantiles are 26."""
    table = reports.budget_table(results("laptop", *FIGURE_4))
    assert table["series"].tolist() == ["N = 8", "iterative, n = 2"]
    assert table.iloc[0].to_dict() == {
        "series": "N = 8", "profile": "laptop", "seeds": 1, "steps": 4, "documents a step": 3,
        "completions": 26, "minutes a run": 1.5,
    }  # fmt: skip
    assert "row" in reports.budget_table(results("laptop", ("N = 8", "learned", 8)))


def test_the_headline_is_the_change_of_what_is_shown():
    """Log quantiles that rise by 0.1 and 0.3 on the two documents: 0.2 on average, in nats."""
    found = results("laptop", *FIGURE_4)
    rise = (found.evaluations["step"] == 4) * (0.1 + 0.2 * found.evaluations["prompt"])
    found.evaluations["log_quantile"] += rise
    lines = reports.headline(found, {"p_reward"})
    assert [line["what"] for line in lines] == [
        "N = 8: change of log quantile", "iterative, n = 2: change of log quantile",
    ]  # fmt: skip
    assert lines[0]["value"] == pytest.approx(0.2) and lines[0]["unit"] == "nats"
    assert (lines[0]["samples"], lines[0]["seeds"]) == (2, 1)
    named = reports.headline(results("laptop", ("N = 8", "learned", 8)), {"forward_kl"})
    assert [line["what"] for line in named] == [
        "N = 8, learned: change of log quantile", "N = 8, learned: change of forward KL",
    ]  # fmt: skip
    assert named[1]["value"] == pytest.approx(0)


def test_each_row_is_judged_on_its_own(monkeypatch):
    """The rule sees the evaluations of one row; a figure with one nameless row has no column."""
    mean = measures.mean_interval([0.0, 2.0])

    def decide(part):
        return part["row"].iloc[0] + str(part["row"].nunique()), {"measured here": mean}

    claim = Claim("text", "source", "rule", decide)
    experiment = dataclasses.replace(EXPERIMENTS["xsum_divergences"], claims=[claim])
    monkeypatch.setitem(EXPERIMENTS, "some", experiment)
    found = results("laptop", ("N = 4", "one", 4), ("N = 4", "two", 4), ("N = 8", "one", 8))
    table = verdicts.of("some", found)
    assert table["verdict"].tolist() == ["N = 41", "N = 81"]
    assert table["row"].tolist() == ["N = 4", "N = 8"]
    assert table["difference"].tolist() == [str(mean)] * 2
    assert "row" not in verdicts.of("some", results("laptop", *FIGURE_4))


def test_claims_are_numbered_from_where_the_last_list_ended():
    mean = measures.mean_interval([0.0, 2.0])
    claims = [Claim("a claim", "Fig. 1", "its rule", lambda _: ("inconclusive", {"it": mean}))]
    assert verdicts.described(claims, 6) == "6. a claim (Fig. 1)\n   its rule"
    assert verdicts.decided(claims, pd.DataFrame(), 6).to_dict("records") == [
        {"claim": 6, "verdict": "inconclusive", "measured": "it", "difference": str(mean)}
    ]


def test_small_print_says_which_profile_each_row_is_of():
    laptop = results("laptop", ("N = 2", "one", 2), ("N = 4", "one", 4))
    study = results("study", ("N = 8", "one", 8))
    parts = [laptop.evaluations, study.evaluations, study.evaluations.assign(seed=1)]
    found = dataclasses.replace(laptop, evaluations=pd.concat(parts))
    assert reports.note(found) == (
        "N = 2, N = 4: profile laptop, 1 seed, 2 held-out documents, 95 % intervals (t over "
        "documents). N = 8: profile study, 2 seeds, 2 held-out documents, 95 % intervals (two-way "
        "bootstrap over seeds and documents)."
    )
    assert reports.note(results("laptop", *FIGURE_4)).startswith("Profile laptop, 1 seed, 2 held")
    assert "2 held-out prompts" in reports.note(laptop, "prompt")


def test_small_print_names_kinds_of_machine_where_there_are_several():
    """Of runs and of the samples that they read; one kind alone, or none on record, is no news."""
    found = results("laptop", *FIGURE_4)

    def note(*kinds: dict) -> str:
        manifests = [json.dumps(MANIFEST | kind) for kind in kinds]
        return reports.note(dataclasses.replace(found, runs=pd.DataFrame({"manifest": manifests})))

    plain = reports.note(found)
    assert note({"kinds": ["b"], "bank_kinds": []}, {"kinds": ["b"]}, {}) == plain
    several = f"{plain} Computed on several kinds of machine: a; b."
    assert note({"kinds": ["b"]}, {"kinds": ["a"]}) == note({"kinds": ["b", "a"]}) == several
    assert note({"kinds": ["b"], "bank_kinds": ["a"]}) == several


def test_examples_are_those_of_the_labels_asked_for(capsys):
    """A reward of 0 is a probability of one half."""
    found = results("laptop", *FIGURE_4)
    reports.print_examples(found, series="iterative, n = 2")
    assert capsys.readouterr().out == ("document 0, iterative, n = 2\n  step    0 p 0.50  city 2\n")
    reports.print_examples(found, n=4)
    assert capsys.readouterr().out == ""


def test_a_measure_that_some_summaries_lack_counts_the_documents_that_have_it():
    """With two seeds a document without numbers in one of them is left out, and the rest stays."""
    table = pd.DataFrame(
        {"seed": [0, 0, 0, 1, 1, 1], "prompt": [0, 1, 2] * 2, "x": [1, 2, None, 3, 4, 5]}
    )
    assert reports.cell(table, "x").startswith("2.500 [")
    assert reports.cell(table.assign(x=None), "x") == "-"


def test_the_start_is_set_beside_its_theory():
    """(N-1) - log N, log N - (N-1)/N and -1 for N = 8."""
    table = reports.start_table(results("laptop", ("N = 8", "one", 8))).set_index("measure")
    expected = [7 - math.log(8), math.log(8) - 7 / 8, -1]
    assert table["theory"].tolist() == pytest.approx(expected)
    assert table.loc["forward_kl", "measured"] == pytest.approx(expected[1])
