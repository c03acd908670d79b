"""What a summary looks like beside its document: copying, repetition, length, numbers, ROUGE.

A reward that judges entailment is highest for a summary that copies a sentence, so that reward
hacking shows here first. The paper reports none of these measures. Pure Python, about a
millisecond a summary; words are compared in lower case.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import cache
from typing import TYPE_CHECKING

import pandas as pd

from bondlab.making.alterations import number_value, numbers_of

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer

_WORD = re.compile(r"\w+(?:['’.,]\w+)*")
NOVEL = ("novel_unigrams", "novel_bigrams", "novel_trigrams")
ROUGES = ("rouge1", "rouge2", "rougeL")


def words(text: str) -> list[str]:
    """The lower-case words of a text: "don't", "3.5" and "1,250" are one each, hyphens separate."""
    return _WORD.findall(text.lower())


def longest_copied_span(document: Sequence[str], summary: Sequence[str]) -> int:
    """Length in words of the longest run of the summary that stands in the document as it is."""
    return SequenceMatcher(None, document, summary, autojunk=False).find_longest_match().size


def novel_share(document: Sequence[str], summary: Sequence[str], n: int) -> float:
    """Share of the summary's n-grams that the document lacks; NaN for fewer than n words."""
    grams = _ngrams(summary, n)
    known = set(_ngrams(document, n))
    return sum(gram not in known for gram in grams) / len(grams) if grams else math.nan


def repetition(summary: Sequence[str], n: int = 3) -> float:
    """Share of the summary's n-grams that occurred in it before; 0 for fewer than n words."""
    grams = _ngrams(summary, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def numbers_faithful(document: str, summary: str) -> float:
    """Share of the numbers in the summary whose value occurs in the document; NaN without numbers.

    "1,000" matches "1000" and "seven" matches "7".
    """
    known = {number_value(text) for text in numbers_of(document)}
    found = [number_value(text) in known for text in numbers_of(summary)]
    return sum(found) / len(found) if found else math.nan


@cache
def _scorer() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # loads all of nltk

    return RougeScorer(list(ROUGES), use_stemmer=True)


def rouge(reference: str, summary: str) -> dict[str, float]:
    """ROUGE-1, -2 and -L F1 in [0, 1], Porter-stemmed, as is usual for XSum (`rouge-score`)."""
    scores = _scorer().score(reference, summary)
    return {name: scores[name].fmeasure for name in ROUGES}


def describe(
    documents: Sequence[str],
    summaries: Sequence[Sequence[str]],
    references: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Every measure of every summary: one row per prompt and sample, both counted from 0.

    Args:
        documents: one text per prompt.
        summaries: the completions of each prompt; their number may differ between prompts.
        references: the human summary of each document; without them the ROUGE columns are NaN.

    Returns:
        Columns prompt, sample, words, empty (no word), longest_copied_span (words),
        novel_unigrams, novel_bigrams, novel_trigrams, repetition, numbers_faithful (shares),
        rouge1, rouge2, rougeL (F1). NaN where a share has nothing to count.

    Raises:
        ValueError: the lists are not equally long.
    """
    rows, human = [], [None] * len(documents) if references is None else references
    for prompt, (document, texts, reference) in enumerate(
        zip(documents, summaries, human, strict=True)
    ):
        source = words(document)
        for sample, text in enumerate(texts):
            own = words(text)
            novel = {name: novel_share(source, own, n) for n, name in enumerate(NOVEL, 1)}
            scores = dict.fromkeys(ROUGES, math.nan)
            rows.append({
                "prompt": prompt, "sample": sample, "words": len(own), "empty": not own,
                "longest_copied_span": longest_copied_span(source, own), **novel,
                "repetition": repetition(own),
                "numbers_faithful": numbers_faithful(document, text),
                **(scores if reference is None else rouge(reference, text)),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _ngrams(items: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(items[start:] for start in range(n)), strict=False))
