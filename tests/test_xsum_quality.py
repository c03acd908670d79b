"""The XSum task's two models are measured rightly: texts, claims, tables, and once only."""

from __future__ import annotations

import dataclasses
import json
import math
import random

import numpy as np
import pandas as pd
import pytest

from bondlab import paths, tasks
from bondlab.making import prepare
from bondlab.study import xsum_quality, xsum_report, xsum_tables, xsum_texts
from bondlab.study.scored_texts import Results
from bondlab.tasks import TaskSettings, models, tiny


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("BONDLAB_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path / "figures"))
    return tmp_path


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The smoke profile's results, and the folder of its files."""
    folder = tmp_path_factory.mktemp("xsum_task")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BONDLAB_RUNS", str(folder / "runs"))
        environment.setenv("BONDLAB_FIGURES", str(folder / "figures"))
        return xsum_quality.results("smoke"), folder


def summaries_of(documents: list[str], references: list[str], counts: list[int]) -> pd.DataFrame:
    task = tasks.build(TaskSettings(name="tiny", train=1, evaluate=2), "fp32")
    task = dataclasses.replace(task, eval_prompts=documents, eval_references=references)
    return xsum_texts.summaries_of(task, tiny.language_model("t5", seed=1), counts, seed=0)


def made_up(rows: list[tuple]) -> Results:
    """Results of hand-made rows (source, prompt, sample, reward, entailed)."""
    names = ["source", "prompt", "sample", "reward", "entailed"]
    return Results("smoke", pd.DataFrame(rows, columns=names), {})


# -- texts -----------------------------------------------------------------------------------------


def test_the_lead_sentence_gets_its_rouge():
    """Lead "the cat sat" against "the cat ran": two of three words, one of two bigrams, a common
    subsequence of two. The second line of the document, which equals the reference, is not read.
    """
    documents = ["the cat sat.\nthe cat ran", "a bird\nb"]
    table = summaries_of(documents, ["the cat ran", "a dog"], [1, 1])
    lead = table[(table["source"] == "lead") & (table["prompt"] == 0)].iloc[0]
    assert (lead["rouge1"], lead["rouge2"], lead["rougeL"]) == pytest.approx((2 / 3, 1 / 2, 2 / 3))
    mean = xsum_tables.rouge(Results("smoke", table, {})).set_index(["series", "group"])["mean"]
    # Second document: "a bird" against "a dog" has ROUGE-1 1/2 and no common bigram.
    assert mean["lead sentence", "ROUGE-1"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert mean["lead sentence", "ROUGE-2"] == pytest.approx(100 / 4)


class Echo:
    """A model whose k-th completion of a prompt is the prompt and k."""

    device = "cpu"

    def encode(self, prompts):
        return prompts

    def sample(self, prompts, k, generator):
        return [[f"{prompt} {i}" for i in range(k)] for prompt in prompts]

    def decode(self, drawn):
        return drawn


def test_samples_belong_to_their_documents():
    """Twenty documents, the first three sampled four times: no batch mixes or loses any."""
    documents = [f"document {i}" for i in range(20)]
    task = tasks.Task(Echo(), tiny.reward, ["train"], documents, documents, identity={})
    table = xsum_texts.summaries_of(task, Echo(), [4] * 3 + [1] * 17, seed=0)
    own = table[table["source"] == "policy"]
    assert own.groupby("prompt").size().tolist() == [4] * 3 + [1] * 17
    expected = [f"document {p} {s}" for p, s in zip(own["prompt"], own["sample"], strict=True)]
    assert own["text"].tolist() == expected


@pytest.mark.parametrize("count", [2, 5])
def test_a_shuffled_reference_is_another_documents(count):
    references = [f"reference {i}" for i in range(count)]
    texts = xsum_texts.texts_by_rule([f"Text {i}." for i in range(count)], references, _rng())
    assert sorted(texts["shuffled"]) == references
    assert all(a != b for a, b in zip(texts["shuffled"], references, strict=True))


def test_a_changed_lead_differs_from_it_and_is_missing_where_nothing_can_change():
    """The first lead has a number and no name; the second has neither."""
    documents = ["the shop sold 12 boats.\nit sold 40 in 2001.", "the shop closed.\nit rained."]
    texts = xsum_texts.texts_by_rule(documents, ["a", "b"], _rng())
    assert texts["lead_number"] == ["the shop sold 40 boats.", None]
    assert texts["lead_name"] == [None, None]


def test_false_copies_are_made_of_true_claims_only():
    rows = xsum_texts.tiny_claims(xsum_texts.tiny_articles(6))
    claims = xsum_texts.claims_of(rows, count=12, seed=0)
    asis = claims[claims["source"] == "vitaminc"].set_index("sample")
    copies = claims[claims["source"] != "vitaminc"].set_index("sample")
    assert len(asis) == 12 and asis["entailed"].sum() == 6
    assert copies["source"].value_counts()["garbled"] == 6  # five words each: all can be garbled
    assert set(copies["source"]) == {"number", "name", "garbled", "foreign"}
    assert not copies["entailed"].any() and asis.loc[copies.index, "entailed"].all()
    for source, part in copies.groupby("source"):
        true = asis.loc[part.index]
        column, other = ("evidence", "text") if source == "foreign" else ("text", "evidence")
        assert (part[column] != true[column]).all() and (part[other] == true[other]).all()


# -- tables ----------------------------------------------------------------------------------------


def test_pairs_are_matched_and_ties_are_half():
    """Of four changed claims one scores below its original, one above, two the same: 2 of 4."""
    true = [("vitaminc", i, i, reward, True) for i, reward in enumerate([3.0, 1.0, 2.0, -1.0])]
    changed = [("number", i, i, reward, False) for i, reward in enumerate([2.0, 5.0, 2.0, -1.0])]
    assert xsum_tables.above(made_up(true + changed), "vitaminc", "number").mean == 0.5


def test_the_judge_is_scored_by_origin():
    """True claims at 1 and 3, one false claim as it came at 2, changed ones at 0 and -2.

    AUC as it came 1/2, changed 1; of the three claims as they came two are right at 0, since the
    false one is above it; of the changed ones the one below 0 is rejected, a tie is a yes.
    """
    rows = [("vitaminc", 0, 0, 1.0, True), ("vitaminc", 1, 1, 3.0, True)]
    rows += [("vitaminc", 2, 2, 2.0, False)]
    for source in ("number", "name", "garbled", "foreign"):
        rows += [(source, 0, 0, 0.5, False), (source, 1, 1, -2.0, False)]
    for source in ("lead", "lead_number", "lead_name"):
        rows += [(source, i, 0, 1.0 if source == "lead" else 0.0, np.nan) for i in range(2)]
    table = xsum_tables.judge(made_up(rows)).set_index(["panel", "group"])["mean"]
    assert table["auc", "as it\ncame"] == 0.5 and table["auc", "number"] == 1
    assert table["accuracy", "as it\ncame"] == pytest.approx(2 / 3)
    assert table["accuracy", "number"] == 0.5 and table["accuracy", "garbled"] == 0.5
    assert table["auc", "garbled"] == 1 and table["pairs", "garbled,\nclaim"] == 1
    assert ("pairs", "garbled,\nlead") not in table.index  # no lead sentence is garbled
    assert table["pairs", "number,\nclaim"] == 1 and table["pairs", "name,\nlead"] == 1


def test_contests_compare_texts_of_the_same_article():
    """Article 0: lead 3, reference 2, other's 1, word 5; article 1: 0, 2, 3, 1. Policy -1 and 1.

    So the reference beats the other's once of two, the lead beats the reference once, the word
    once. Only article 0 has many samples, and its lead (3) is above the best (1). Of two true
    claims that have a number one is accepted.
    """
    sources = {"lead": (3, 0), "reference": (2, 2), "shuffled": (1, 3), "repeated": (5, 1)}
    sources["cold"] = (4, 4)
    rows = [(s, i, 0, float(r), np.nan) for s, both in sources.items() for i, r in enumerate(both)]
    rows += [("policy", 0, 0, -1.0, np.nan), ("policy", 0, 1, 1.0, np.nan)]
    rows += [("policy", 1, 0, 9.0, np.nan)]
    rows += [("vitaminc", 0, i, r, True) for i, r in enumerate([-1.0, 1.0, 5.0])]
    rows += [("number", 0, i, 0.0, False) for i in range(2)]
    table = xsum_tables.contests(made_up(rows))
    assert table["mean"].tolist() == [0.5, 0.5, 0.5, 1, 1, 0.5]
    assert table["count"].tolist() == [2, 2, 2, 2, 1, 2]


def test_headroom_is_the_chance_that_the_best_sample_is_drawn():
    """One good sample (p = 0.8) of 16, the rest at 0.2: best of n finds it with chance n/16."""
    rewards = [math.log(4)] + [-math.log(4)] * 15
    rows = [("policy", b, k, r, np.nan) for b in (0, 1) for k, r in enumerate(rewards)]
    rows.append(("policy", 2, 0, 9.0, np.nan))  # sampled once: no part of it
    table = xsum_tables.headroom(made_up(rows))
    assert table["mean"].tolist() == pytest.approx([0.2 + 0.6 * n / 16 for n in table["n"]])
    assert table["count"].tolist() == [2] * 5


def test_correlations_are_within_documents():
    """Reward rises with length in each document, but the longer document scores lower overall."""
    rows = [("policy", b, k, -100.0 * b + k, np.nan) for b in (0, 1) for k in range(4)]
    found = made_up(rows)
    table = found.table.assign(words=50 * found.table["prompt"] + found.table["sample"])
    table = table.assign(longest_copied_span=1, novel_bigrams=np.nan, rougeL=0)
    result = xsum_tables.correlations(Results("smoke", table, {}))
    assert result["reward with"].tolist() == ["words"]  # the others have nothing to vary
    assert result["mean"].tolist() == pytest.approx([1.0])


# -- computed once, kept, shown --------------------------------------------------------------------


def test_other_peoples_text_is_not_kept(measured):
    """The table that is committed holds the text of the models' own samples alone."""
    found, folder = measured
    kept = pd.read_parquet(folder / "figures" / "smoke" / "xsum_task" / "results_texts.parquet")
    assert set(kept.loc[kept["text"].notna(), "source"]) == {"policy", "cold", "untrained"}
    assert len(kept) == len(found.table) and kept["reward"].notna().all()


def test_every_source_is_there(measured):
    sources = {s for part in xsum_tables.JUDGED.values() for s in part} | set(xsum_texts.CLAIMS)
    assert set(measured[0].table["source"]) == sources


def test_a_second_call_computes_nothing(folders, monkeypatch):
    calls = []
    monkeypatch.setattr(xsum_quality, "measure", lambda s: calls.append(s) or _table(s.seed))
    first = xsum_quality.results("smoke")
    again = xsum_quality.results("smoke")
    assert len(calls) == 1
    pd.testing.assert_frame_equal(first.table, again.table)
    xsum_quality.results("smoke", seed=1)
    assert [settings.seed for settings in calls] == [0, 1]  # another seed is another run


def test_a_run_that_was_stopped_is_computed_again(folders, monkeypatch):
    def stop(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(xsum_quality, "measure", stop)
    with pytest.raises(KeyboardInterrupt):
        xsum_quality.results("smoke")
    monkeypatch.setattr(xsum_quality, "measure", lambda s: _table(3))
    assert xsum_quality.results("smoke").table["prompt"].tolist() == [3]


def test_retraining_comes_before_the_run_is_named(folders, monkeypatch):
    """New weights are another run; without `retrain` the old ones are measured, and not again."""
    weights = folders / "weights"
    for name in ("xsum_reference", "xsum_reward"):
        (weights / name).mkdir(parents=True)
        (weights / name / "adapter_model.safetensors").write_bytes(b"old")

    trained = []

    def train(retrain, only):
        assert retrain
        trained.append(only)
        (weights / "xsum_reward" / "adapter_model.safetensors").write_bytes(b"new")

    calls = []
    monkeypatch.setattr(models, "WEIGHTS", weights)
    monkeypatch.setattr(prepare, "prepare", train)
    monkeypatch.setattr(xsum_quality, "measure", lambda s: calls.append(s) or _table(0))
    old = xsum_quality.results("laptop").manifest["run"]
    assert xsum_quality.results("laptop").manifest["run"] == old and len(calls) == 1
    assert xsum_quality.results("laptop", retrain=True).manifest["run"] != old and len(calls) == 2
    assert trained == ["xsum_reference", "xsum_reward"]


@pytest.mark.parametrize("profile", ["shipped", "smoke", "paper"])
def test_retraining_needs_a_profile_with_trained_models(folders, monkeypatch, profile):
    monkeypatch.setattr(prepare, "prepare", lambda **_: pytest.fail("trained"))
    with pytest.raises(ValueError, match=f"not '{profile}'"):
        xsum_quality.results(profile, retrain=True)


def test_shipped_reads_what_study_left_and_writes_nothing(folders, monkeypatch):
    """Not what another profile left; and the manifest says which profile it was."""
    monkeypatch.setattr(paths, "repository_root", lambda: folders)
    monkeypatch.setattr(xsum_quality, "measure", lambda settings: _table(settings.seed))
    xsum_quality.results("smoke")
    with pytest.raises(FileNotFoundError, match="profile laptop"):
        xsum_quality.results("shipped")
    (folders / "figures" / "smoke").rename(folders / "figures" / "study")
    before = sorted(folders.rglob("*"))
    found = xsum_quality.results("shipped")
    assert (found.profile, found.manifest["profile"], found.shipped) == ("smoke", "smoke", True)
    assert found.table["prompt"].tolist() == [0]
    assert sorted(folders.rglob("*")) == before


@pytest.mark.parametrize("name", ["rouge", "entailment", "judge", "headroom", "copying"])
def test_each_figure_leaves_its_numbers(measured, folders, name):
    getattr(xsum_report, name)(measured[0])
    stem = folders / "figures" / "smoke" / "xsum_task" / name
    assert all(stem.with_suffix(end).stat().st_size for end in (".svg", ".png", ".csv"))
    record = json.loads(stem.with_suffix(".json").read_text())
    assert record["headline"] and record["run"] == measured[0].manifest["run"]
    getattr(xsum_report, name)(dataclasses.replace(measured[0], shipped=True, profile="other"))
    assert not (folders / "figures" / "other").exists()


def _table(number: int) -> pd.DataFrame:
    return pd.DataFrame({"source": ["policy"], "prompt": [number], "sample": [0], "reward": [0.5]})


def _rng() -> random.Random:
    return random.Random(0)
