"""The held-out texts behind the benchmarks: comparisons, openings with their rest, summaries.

Embedded data sets, of their test splits; or, for tests, texts made by code. Fewer than there are
are taken evenly spaced, so that every subset and source has its share.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bondlab import assets
from bondlab.tasks import tiny, xsum

Pair = tuple[str, str]  # a prompt and the text that follows it

GIVEN_WORDS = 8  # a prompt is the text's first words, as in the sentiment task
SCORED_WORDS = 40
_WORD = re.compile(r"\S+")


def comparisons(corpora: str, count: int) -> list[dict[str, str]]:
    """HHH comparisons: subset, query, chosen, rejected.

    A query is put on one line, as a line is a turn in chat formats (`templates`).
    """
    if corpora == "made":
        texts = tiny.documents(3 * count, seed=1)
        parts = zip(texts[::3], texts[1::3], texts[2::3], strict=True)
        return [
            {"subset": ("helpful", "honest")[i % 2], "query": q, "chosen": c, "rejected": r}
            for i, (q, c, r) in enumerate(parts)
        ]
    rows = spaced(list(assets.dataset("hhh_alignment")["test"]), count)
    return [row | {"query": " ".join(row["query"].split())} for row in rows]


def openings(corpora: str, count: int) -> dict[str, list[Pair]]:
    """Corpus -> texts of reviews, news and dialogues, split after their first words."""
    if corpora == "made":
        return {"made": [split(text) for text in tiny.documents(count, seed=2, words=60)]}
    reviews = assets.dataset("movie_reviews")["test"]["text"]
    news = [row["document"] for row in xsum.documents()[1]]
    # A dialogue has a row for each turn; the last one holds all the turns before.
    turns = {
        row["dialogue"]: "\n".join([*row["context"], row["reply"]])
        for row in sorted(
            assets.dataset("topical_chat")["test"], key=lambda row: len(row["context"])
        )
    }
    corpus = {"reviews": reviews, "news": news, "dialogues": turns.values()}
    return {
        name: spaced([split(text) for text in texts if _long_enough(text)], count)
        for name, texts in corpus.items()
    }


def summaries(corpora: str, count: int) -> dict[str, list[Pair]]:
    """Documents with their human summaries, of XSum's test split."""
    if corpora == "made":
        texts = tiny.documents(count, seed=3)
        return {"summaries": [(text, " ".join(text.split()[:5])) for text in texts]}
    rows = spaced(xsum.documents()[1], count)
    return {"summaries": [(row["document"], row["summary"]) for row in rows]}


def split(text: str) -> Pair:
    """The first `GIVEN_WORDS` words, and up to `SCORED_WORDS` more with the space before them."""
    ends = [word.end() for word in _WORD.finditer(text)]
    cut = ends[GIVEN_WORDS - 1]
    return text[:cut], text[cut : ends[: GIVEN_WORDS + SCORED_WORDS][-1]]


def _long_enough(text: str) -> bool:
    return len(_WORD.findall(text)) >= 2 * GIVEN_WORDS


def spaced(rows: Sequence, count: int) -> list:
    """`count` of the rows at even distances, or all of fewer."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]
