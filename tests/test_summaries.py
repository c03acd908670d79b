"""Text measures on sentences counted by hand, and against slow definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondlab.study import summaries

DOCUMENT = "The cat sat on the mat. It ate 1,000 mice in seven days, then slept."
TOKENS = st.lists(st.sampled_from("abc"), max_size=8)


def test_words_keep_numbers_and_contractions_whole():
    found = summaries.words("It's a 17-year-old, £3.5m (1,000)…")
    assert found == ["it's", "a", "17", "year", "old", "3.5m", "1,000"]


@given(document=TOKENS, summary=TOKENS)
def test_longest_copied_span_is_the_longest_common_run(document, summary):
    """Against the definition: the longest slice of the summary among the document's slices."""
    slices = {
        tuple(document[i:j]) for i in range(len(document) + 1) for j in range(i, len(document) + 1)
    }
    lengths = [
        j - i
        for i in range(len(summary) + 1)
        for j in range(i, len(summary) + 1)
        if tuple(summary[i:j]) in slices
    ]
    assert summaries.longest_copied_span(document, summary) == max(lengths)


def test_novel_shares():
    """The summary's word dog is new (1 of 4), its bigrams the-dog and dog-sat (2 of 3) and both
    trigrams; it has no 5-gram."""
    source, own = summaries.words(DOCUMENT), summaries.words("The dog sat on")
    assert [summaries.novel_share(source, own, n) for n in (1, 2, 3)] == [1 / 4, 2 / 3, 1.0]
    assert math.isnan(summaries.novel_share(source, own, 5))


def test_repetition():
    """a b c a b c has trigrams abc, bca, cab, abc: one of four repeats; and three of six words.
    Two words make no trigram, so nothing repeats."""
    assert summaries.repetition("a b c a b c".split()) == 0.25
    assert summaries.repetition("a b c a b c".split(), 1) == 0.5
    assert summaries.repetition(["a", "a"]) == 0.0


def test_numbers_are_compared_by_value():
    """1000 and 7 occur as 1,000 and seven, 8 does not."""
    assert summaries.numbers_faithful(DOCUMENT, "1000 mice, 7 days, 8 cats") == 2 / 3
    assert math.isnan(summaries.numbers_faithful(DOCUMENT, "no number"))


def test_rouge_is_the_f1_of_stems():
    """cats sat against the cat sat: stems match, 2 of 2 and 2 of 3 words, F1 = 0.8; the one
    bigram of 1 and of 2: F1 = 2/3; the common subsequence has two words, F1 = 0.8."""
    scores = summaries.rouge("the cat sat", "cats sat")
    assert scores == pytest.approx({"rouge1": 0.8, "rouge2": 2 / 3, "rougeL": 0.8})


def test_describe_has_a_row_per_completion():
    table = summaries.describe(
        [DOCUMENT, "Rain fell."], [["The cat sat on the mat.", ""], ["Rain."]], ["A cat.", "Rain."]
    )
    assert table[["prompt", "completion"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0]]
    assert table["words"].tolist() == [6, 0, 1]
    assert table["empty"].tolist() == [False, True, False]
    assert table["longest_copied_span"].tolist() == [6, 0, 1]
    assert table["novel_trigrams"].tolist()[0] == 0.0 and math.isnan(table["novel_trigrams"][1])
    assert table["rouge1"].tolist() == pytest.approx([2 / 8, 0.0, 1.0])


def test_describe_without_references_has_no_rouge():
    table = summaries.describe(["a b"], [["a"]])
    assert table[list(summaries.ROUGES)].isna().all(axis=None) and table["words"].item() == 1
    with pytest.raises(ValueError, match="one document"):
        summaries.describe(["a", "b"], [["a"]])
