"""What is measured of rewards and judges: texts, tables from hand-made scores, and once only."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
import pandas as pd
import pytest

from bondlab import tasks
from bondlab.report.kept import Results
from bondlab.report.plots import Panel
from bondlab.study import audit, audit_xsum, excerpts
from bondlab.tasks import models, tiny


def results(rows: list[dict]) -> Results:
    return Results("", "smoke", tables={"texts": pd.DataFrame(rows)})


def text(source: str, prompt: int, sample: int, reward: float, **more: object) -> dict:
    return {"source": source, "prompt": prompt, "sample": sample, "reward": reward, **more}


def samples(rewards: list | np.ndarray, **measures: np.ndarray) -> list[dict]:
    """The policy's samples: rewards and measures [B, K], or a row's shorter list."""
    return [
        text("policy", b, k, reward, **{name: grid[b][k] for name, grid in measures.items()})
        for b, row in enumerate(rewards)
        for k, reward in enumerate(row)
    ]


def value(table: pd.DataFrame, **where: object) -> float:
    for name, wanted in where.items():
        table = table[table[name] == wanted]
    return table["mean"].item()


# -- tables that both audits share -----------------------------------------------------------------


def test_pairs_are_matched_and_ties_are_half():
    """Of four changed claims one scores below its original, one above, two the same: 2 of 4."""
    true, changed = (
        pd.DataFrame([text("x", i, i, reward) for i, reward in enumerate(rewards)])
        for rewards in ([3.0, 1.0, 2.0, -1.0], [2.0, 5.0, 2.0, -1.0])
    )
    assert audit.above(true, changed[::-1]).mean == 0.5


def test_means_are_of_one_text_a_prompt_that_has_the_measure():
    """Of the first samples 1, 3 and a missing one the mean is 2, in percent 200; p of log-odds
    log 3 is 3/4. A source without any has no row."""
    rows = [text("a", i, 0, math.log(3), words=words) for i, words in enumerate([1, 3, math.nan])]
    rows += [text("a", 0, 1, 9.0, words=50), text("b", 0, 0, 0.0, words=math.nan)]
    table = pd.DataFrame(audit.means(results(rows), {"words": 100, "p": 1}, {"a": "A", "b": "B"}))
    assert value(table, measure="words") == 200
    assert value(table, measure="p", source="A") == pytest.approx(0.75)
    assert table["source"].tolist() == ["A", "A", "B"]


def test_the_best_of_n_is_the_chance_that_the_best_sample_is_drawn():
    """One good sample (p = 0.8) of 16, the rest at 0.2: best of n finds it with chance n/16."""
    rewards = [[math.log(4)] + [-math.log(4)] * 15] * 2
    own = audit.of(results(samples(rewards)))
    found = [audit.best_of(own, "p", n) for n in audit.SIZES]
    assert [x.mean for x in found] == pytest.approx([0.2 + 0.6 * n / 16 for n in audit.SIZES])
    assert [x.count for x in found] == [2] * 5


def test_correlations_are_within_prompts():
    """Length is twice the reward plus something of the prompt: correlation 1 within a prompt, not
    between; a measure falls along a curve: rank correlation -1. What does not vary has no row."""
    rewards = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, 7.0, 6.0, 4.0]])
    words = 2 * rewards + [[10.0], [-40.0]]
    missing = np.full_like(rewards, np.nan)
    measures = {"words": words, "none": missing, "one": rewards > 0, "cubed": -(rewards**3)}
    own = pd.DataFrame(samples(rewards, **measures))
    pairs = [("reward", name) for name in ("words", "none", "one")]
    found = audit.correlations(own, pairs)
    assert [(row["source"], row["mean"]) for row in found] == [("words", pytest.approx(1))]
    ranks = audit.correlations(own, [("reward", "cubed")], "spearman")
    assert [row["mean"] for row in ranks] == pytest.approx([-1])


def test_examples_are_shown_one_per_prompt(capsys):
    rows = [text("a", prompt, 0, 0.0, text=f" say {prompt} ") for prompt in (1, 1, 0, 2)]
    excerpts.picked({"x": pd.DataFrame(rows)}, 2, ["prompt"], {"REF": ["a", "b"]})
    shown = "which text prompt REF x say 1 1 b say 0 0 a"
    assert capsys.readouterr().out.split() == shown.split()


def test_training_curves_are_smoothed_and_named(tmp_path, monkeypatch):
    """Losses 0 to 59: the mean of those so far, of the last 50 from then on. Held out 9, then 4."""
    curve = pd.DataFrame({"step": range(61), "loss": [*np.arange(60.0), np.nan]})
    curve["held_out_loss"] = [9.0, *[np.nan] * 59, 4.0]
    (tmp_path / "model").mkdir()
    curve.to_csv(tmp_path / "model" / "training.csv", index=False)
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    published = {}
    monkeypatch.setattr(Results, "publish", lambda *a, **named: published.update(named))
    table = audit.draw_training(results([]), [Panel("model", "", "nats")], "")
    drawn = table[table["series"] != "held out"].set_index("step")["mean"]
    assert (drawn[10], drawn[59]) == (5.0, 34.5)
    assert table.query("series == 'held out'")["step"].tolist() == [0, 60]
    numbers = published["numbers"].values()
    assert [(found.mean, unit) for found, unit in numbers] == [(9, "nats"), (4, "nats")]


# -- the XSum task ---------------------------------------------------------------------------------


class Echo:
    """A model whose k-th completion of a prompt is the prompt and k."""

    device = "cpu"

    def encode(self, prompts):
        return prompts

    def sample(self, prompts, k, generator, share=None):
        return [[f"{prompt} {i}" for i in range(k)] for prompt in prompts]

    def decode(self, drawn):
        return drawn


def test_samples_belong_to_their_documents(monkeypatch):
    """Twenty documents, the first three sampled four times: no batch mixes or loses any."""
    monkeypatch.setattr(audit_xsum, "cooled", lambda model, temperature: model)
    documents = [f"document {i}" for i in range(20)]
    task = tasks.Task(Echo(), tiny.reward, ["train"], documents, documents, identity={})
    table = audit_xsum.summaries_of(task, Echo(), [4] * 3 + [1] * 17, seed=0)
    own = table[table["source"] == "policy"]
    assert own.groupby("prompt").size().tolist() == [4] * 3 + [1] * 17
    expected = [f"document {p} {s}" for p, s in zip(own["prompt"], own["sample"], strict=True)]
    assert own["text"].tolist() == expected
    assert (table["read"] == table["reference"]).all()


def test_texts_by_rule_are_what_they_say():
    """Only the first lead has a number that can change, to the document's other one; none a name.
    Another's reference is never the document's own."""
    documents = ["the shop sold 12 boats.\nit sold 40 in 2001.", "the shop closed.\nit rained."]
    texts = audit_xsum.texts_by_rule(documents, ["a", "b"], random.Random(0))
    assert texts["lead"] == ["the shop sold 12 boats.", "the shop closed."]
    assert texts["lead_number"] == ["the shop sold 40 boats.", None]
    assert texts["lead_name"] == [None, None] and texts["shuffled"] == ["b", "a"]
    assert texts["repeated"][1] == " ".join(["closed."] * 10)


def test_false_copies_are_made_of_true_claims_only():
    rows = audit_xsum.tiny_claims(audit_xsum.documents("smoke")["ARTICLE"][:6])
    claims = audit_xsum.claims_of(rows, count=12, seed=0)
    asis = claims[claims["source"] == "vitaminc"].set_index("sample")
    copies = claims[claims["source"] != "vitaminc"].set_index("sample")
    assert len(asis) == 12 and asis["entailed"].sum() == 6
    assert copies["source"].value_counts()["garbled"] == 6  # five words each: all can be garbled
    assert set(copies["source"]) == {"number", "name", "garbled", "foreign"}
    assert not copies["entailed"].any() and asis.loc[copies.index, "entailed"].all()
    for source, part in copies.groupby("source"):
        true = asis.loc[part.index]
        column, other = ("read", "text") if source == "foreign" else ("text", "read")
        assert (part[column] != true[column]).all() and (part[other] == true[other]).all()


def test_the_judge_is_scored_by_origin():
    """True claims at 1 and 3, one false claim as it came at 2, changed ones at 0.5 and -2.

    AUC as it came 1/2, changed 1; of the three claims as they came two are right at 0, since the
    false one is above it; of the changed ones the one below 0 is rejected.
    """
    rows = [text("vitaminc", i, i, r, entailed=i < 2) for i, r in enumerate([1.0, 3.0, 2.0])]
    for source in ("number", "name", "garbled", "foreign"):
        rows += [text(source, i, i, r, entailed=False) for i, r in enumerate([0.5, -2.0])]
    for source, reward in (("lead", 1.0), ("lead_number", 0.0), ("lead_name", 0.0)):
        rows += [text(source, i, 0, reward) for i in range(2)]
    table = audit_xsum.judge(results(rows)).set_index(["panel", "group"])["mean"]
    assert table["auc", "as it came"] == 0.5
    assert table["accuracy", "as it came"] == pytest.approx(2 / 3)
    for kind in (*audit_xsum.COPIED.values(), "another page's evidence"):
        assert table["auc", kind] == 1 and table["accuracy", kind] == 0.5
    pairs = {f"{kind}, claim" for kind in audit_xsum.COPIED.values()}
    pairs |= {"number changed, lead", "name changed, lead"}  # no lead sentence is garbled
    assert set(table["pairs"].index) == pairs
    assert (table["pairs"] == 1).all()


# -- measured once, kept ---------------------------------------------------------------------------


@pytest.mark.usefixtures("runs")
def test_the_xsum_audit_measures_every_source_and_keeps_no_other_peoples_text():
    """12 documents, 6 of them with 16 samples; the lead's ROUGE is that of the first sentence."""
    found = audit_xsum.AUDIT.results("smoke")
    kept = pd.read_parquet(found.folder / "results_texts.parquet")
    ruled = {"reference", "shuffled", "lead", "lead_number", "lead_name", "empty", "repeated"}
    assert set(kept["source"]) == {*audit_xsum.CLAIMS, *audit_xsum.SAMPLED, *ruled}
    assert set(kept.loc[kept["text"].notna(), "source"]) == set(audit_xsum.SAMPLED)
    assert (kept["source"] == "policy").sum() == 6 * 16 + 6 and kept["reward"].notna().all()
    assert (kept.loc[kept["source"] == "reference", "rougeL"] == 1).all()
    lead = kept[kept["source"] == "lead"]
    assert lead["longest_copied_span"].tolist() == lead["words"].tolist()
    assert found["runs"]["profile"].tolist() == ["smoke"]


def counted(calls: list, **changed: object) -> audit.Audit:
    """The XSum audit, whose measuring is noted and leaves one text with the seed for its prompt."""

    def measure(settings):
        calls.append(settings.seed)
        return pd.DataFrame([text("policy", settings.seed, 0, 0.5)])

    return dataclasses.replace(audit_xsum.AUDIT, measure=measure, **changed)


@pytest.mark.usefixtures("runs")
def test_a_second_call_measures_nothing_and_another_seed_or_rule_is_another_measurement():
    calls = []
    first, again = (counted(calls).results("smoke")["texts"] for _ in range(2))
    assert calls == [0]
    pd.testing.assert_frame_equal(first, again)
    counted(calls).results("smoke", seed=1)
    counted(calls, rules=["new"]).results("smoke")
    assert calls == [0, 1, 0]


@pytest.mark.usefixtures("runs")
def test_new_weights_are_another_measurement(tmp_path, monkeypatch):
    names, calls = audit_xsum.AUDIT.models, []

    def weigh(name: str, content: bytes) -> None:
        path = tmp_path / "weights" / name / "adapter_model.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    for name in names:
        weigh(name, b"old")
    monkeypatch.setattr(models, "WEIGHTS", tmp_path / "weights")
    for _ in range(2):
        counted(calls).results("laptop")
    weigh(names[1], b"new")
    counted(calls).results("laptop")
    assert len(calls) == 2
