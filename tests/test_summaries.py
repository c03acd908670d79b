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


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        # The word dog is new (1 of 4), the bigrams the-dog and dog-sat (2 of 3), both trigrams.
        ("The dog sat on", {"words": 4, "empty": False, "longest_copied_span": 2,
                            "novel_unigrams": 1 / 4, "novel_bigrams": 2 / 3, "novel_trigrams": 1}),
        ("The cat sat on the mat.", {"longest_copied_span": 6, "novel_trigrams": 0}),
        # Trigrams abc, bca, cab, abc: one of four repeats. Two words make no trigram.
        ("a b c a b c", {"repetition": 1 / 4}),
        ("mat mat", {"repetition": 0, "novel_trigrams": math.nan, "numbers_faithful": math.nan}),
        # 1000 and 7 occur as 1,000 and seven, 8 does not.
        ("1000 mice, 7 days, 8 cats", {"numbers_faithful": 2 / 3}),
        ("", {"words": 0, "empty": True, "longest_copied_span": 0, "rouge1": 0}),
        # Against "the cat sat" stems match: 2 of 2 and 2 of 3 words; the one bigram of 1 and of 2;
        # the common subsequence has two words.
        ("cats sat", {"rouge1": 0.8, "rouge2": 2 / 3, "rougeL": 0.8}),
    ],
)  # fmt: skip
def test_a_summary_is_described(summary, expected):
    table = summaries.describe([DOCUMENT], [[summary]], ["the cat sat"])
    assert table.loc[0, list(expected)].to_dict() == pytest.approx(expected, nan_ok=True)


def test_words_repeat_too():
    assert summaries.repetition("a b c a b c".split(), 1) == 0.5


def test_descriptions_have_a_row_per_completion():
    """Without references no ROUGE; a list too short is an error."""
    table = summaries.describe([DOCUMENT, "Rain fell."], [["A cat.", ""], ["Rain."]])
    assert table[["prompt", "sample"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0]]
    assert table["words"].tolist() == [2, 0, 1]
    assert table[list(summaries.ROUGES)].isna().all(axis=None)
    with pytest.raises(ValueError, match="shorter"):
        summaries.describe(["a", "b"], [["a"]])
