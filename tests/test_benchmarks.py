"""The benchmarks measure what they say: likelihoods by hand, pairs, Best-of-N, storage, claims."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from bondlab import assets
from bondlab.report.kept import Results
from bondlab.study import benchmark_texts, benchmarks, evidence
from bondlab.study.alignment import AlignmentSettings
from bondlab.study.benchmarks import CLAIMS, SUITES
from bondlab.study.instructions import INSTRUCTIONS
from bondlab.study.items import COLUMNS, REFERENCE
from bondlab.study.j_bond import J_BOND
from bondlab.tasks import tiny

SUITE = SUITES["smoke"]
WORDS = len(tiny.tokenizer())
MEASURES = ("constraints", "preferences", "bits_per_byte")


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
    found, size = benchmark_texts.log_likelihood(gemma, prompts, texts)
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
    found, _ = benchmark_texts.log_likelihood(uniform, ["the city"], [[" fire on monday"]])
    assert found.item() == pytest.approx(-3 * math.log(WORDS), rel=1e-5)


def test_bits_per_byte_of_a_uniform_model(uniform):
    """Three tokens of log2 V bits each over the 13 bytes of "a bridge lost"; and one word, cut.

    Of the second text the model reads 8 tokens, its limit: eight times "no" and seven spaces.
    """
    pairs = {"short": [("the city", " a bridge lost")], "cut": [("the city", " no" * 20)]}
    found = benchmark_texts.bits_per_byte(uniform, pairs)
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
    found = benchmark_texts.preferences(uniform, rows)
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


# -- policies --------------------------------------------------------------------------------------


def test_an_untrained_policy_measures_as_its_reference(gemma):
    """An adapter starts as the identity, so every measure is equal: answers too, drawn alike."""
    both = [benchmarks.measure(m, SUITE, 2, "fp32") for m in (gemma, gemma.trainable_copy(2))]
    pd.testing.assert_frame_equal(*both)
    counts = both[0].groupby("measure")["item"].nunique()
    assert counts.to_dict() == {
        "constraints": 40, "preferences": SUITE.pairs, "margin": SUITE.pairs,
        "bits_per_byte": SUITE.texts,
    }  # fmt: skip


@pytest.mark.parametrize(("sign", "best"), [(1, [0.5, 1.0]), (-1, [0.0, 0.0])])
def test_best_of_n_chooses_by_the_reward(gemma, monkeypatch, sign, best):
    """The last of four answers follows, a quarter. If it has the highest reward the best of four
    always follows, of two in half of all pairs; if the lowest, never."""
    met = torch.tensor([[0.0, 0, 0, 1]] * 40).double()
    monkeypatch.setattr(benchmarks, "followed", lambda answers: met)
    found = benchmarks.measure(gemma, SUITE, 4, "fp32", lambda p, texts: sign * met)
    shares = found[found["measure"] == "constraints"].groupby("policy", sort=False)["value"].mean()
    names = [REFERENCE, "sampled Best-of-2", "sampled Best-of-4"]
    assert list(shares.index) == names and shares.tolist() == pytest.approx([0.25, *best])


@pytest.mark.usefixtures("runs")
def test_every_policy_is_measured_once(monkeypatch):
    """The reference and Best-of-2 and -4 of it, then J-BOND; another text of the module of
    instructions is another table, a second call is not; other policies are measured alone."""
    settings = AlignmentSettings(profile="smoke", task="chat", policy="", workers=1)
    found, calls = Results("j_bond", "smoke", "chat"), []
    measure = benchmarks.measure
    monkeypatch.setattr(benchmarks, "measure", lambda *a: calls.append(a) or measure(*a))
    first = benchmarks.results(found, settings, [J_BOND])["benchmarks"]
    assert list(first) == [*COLUMNS, "profile"]
    policies = [REFERENCE, "sampled Best-of-2", "sampled Best-of-4", J_BOND]
    assert list(first["policy"].unique()) == policies and len(calls) == 2
    constraints = first[first["measure"] == "constraints"].groupby("policy").size()
    assert set(constraints) == {len(INSTRUCTIONS)}
    again = benchmarks.results(found, settings, [J_BOND])["benchmarks"]
    pd.testing.assert_frame_equal(again, first)
    assert len(calls) == 2
    monkeypatch.setattr(benchmarks, "VERSION", benchmarks.VERSION + 1)
    benchmarks.results(found, settings, [J_BOND])
    assert len(calls) == 4


# -- claims ----------------------------------------------------------------------------------------


def items(gains: dict[str, float], noise: float = 0.01, seeds: int = 1) -> pd.DataFrame:
    """Items whose J-BOND policy lies above the reference by `gains` on average.

    Items differ by far more than the gains, and come in another order for the policy; the
    reference is measured once, for whatever seeds.
    """
    rng, rows = np.random.default_rng(5), []
    for measure, gain in gains.items():
        base = rng.normal(0, 3, 40)
        rows += [(REFERENCE, 0, measure, f"i{i}", value) for i, value in enumerate(base)]
        rows += [
            (J_BOND, seed, measure, f"i{i}", base[i] + gain + rng.normal(0, noise))
            for seed in range(seeds) for i in reversed(range(40))
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["policy", "seed", "measure", "item", "value"])


@pytest.mark.parametrize(
    ("gains", "noise", "seeds", "expected"),
    [
        ((0.1, 0.1, 0.0), 0.02, 1, ["one run: suggests yes"] * 2),
        ((0.1, 0.1, 0.0), 0.02, 3, ["repeated"] * 2),
        ((0.1, -0.1, 0.01), 0.02, 1, ["one run: suggests no", "one run: suggests yes"]),
        ((-0.1, 0.1, 0.1), 0.02, 3, ["not repeated"] * 2),
        ((0.1, 0.0, 0.02), 0.02, 1, ["one run: open"] * 2),  # at the bounds themselves
        ((0.02, 0.02, 0.02), 2.0, 1, ["one run: open"] * 2),
    ],
)
def test_claims_compare_item_by_item(gains, noise, seeds, expected):
    """Gains in constraints and preferences are good, in bits per byte above 0.02 bad. Unpaired, a
    spread of 3 over 40 items would hide them all."""
    made = items(dict(zip(MEASURES, gains, strict=True)), noise, seeds)
    runs = pd.DataFrame({"row": [], "series": [], "seed": [], "run": [], "manifest": []})
    table = evidence.of_items(made, runs.astype({"series": str, "seed": int}))
    assert [claim.decide(table).verdict for claim in CLAIMS] == expected
