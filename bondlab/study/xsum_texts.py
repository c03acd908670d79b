"""The texts that the XSum task's two models are measured on: summaries of documents, and claims.

Summaries come from the policy, from the model before fine-tuning, and from rules that need no model
and show what the reward can and cannot tell apart.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from itertools import groupby

import pandas as pd
from tqdm.auto import tqdm

from bondlab.bank import seeded
from bondlab.lm.language_model import LanguageModel
from bondlab.making.alterations import garble, swap_entities, swap_numbers
from bondlab.study import summaries
from bondlab.tasks import Task, tiny

CHANGES = {"number": swap_numbers, "name": swap_entities}  # of claims and of lead sentences
FALSE_COPIES = {**CHANGES, "garbled": garble}  # of claims
CLAIMS = ("vitaminc", *FALSE_COPIES, "foreign")
SAMPLED = ("policy", "cold", "untrained")  # written by our models
COLD = 0.1  # temperature near greedy decoding, the usual way to judge a summariser
DOCUMENTS_AT_ONCE = 8  # sampled together


def summaries_of(
    task: Task, untrained: LanguageModel, counts: Sequence[int], seed: int
) -> pd.DataFrame:
    """A row a summary: source, prompt, sample, text and the measures of `summaries.describe`.

    Args:
        task: its reference policy is the source "policy", and at temperature `COLD` the source
            "cold", one sample a document; its held-out prompts are the documents.
        untrained: the source "untrained", one sample a document.
        counts: the policy's samples of each document.
        seed: of the samples and of the changed lead sentences.
    """
    documents, references = task.eval_prompts, task.eval_references
    ones, rng = [1] * len(documents), random.Random(seed)
    rules = texts_by_rule(documents, references, rng)
    cold = copy.copy(task.model)  # shares the weights
    cold.temperature = COLD
    sources = {
        "policy": _sample(task.model, documents, counts, seed, "policy"),
        "cold": _sample(cold, documents, ones, seed, "cold"),
        "untrained": _sample(untrained, documents, ones, seed, "untrained"),
        **{source: [[text] for text in texts] for source, texts in rules.items()},
    }
    tables = []
    for source, texts in sources.items():
        kept = [[text for text in row if text is not None] for row in texts]
        table = summaries.describe(documents, kept, references)
        table["text"] = [text for row in kept for text in row]
        tables.append(table.rename(columns={"completion": "sample"}).assign(source=source))
    return pd.concat([table for table in tables if len(table)], ignore_index=True)


def texts_by_rule(
    documents: Sequence[str], references: Sequence[str], rng: random.Random
) -> dict[str, list[str | None]]:
    """One text a document of each source; None where a lead sentence has nothing to change."""
    leads = [lead_sentence(document) for document in documents]
    changed = {
        f"lead_{kind}": [change(*pair, rng) for pair in zip(leads, documents, strict=True)]
        for kind, change in CHANGES.items()
    }
    return {
        "reference": list(references),
        # Documents stand in the order of their digests, so neighbours have nothing in common.
        "shuffled": [*references[1:], references[0]],
        "lead": leads,
        **changed,
        "empty": [""] * len(documents),
        "repeated": [" ".join([max(lead.split(), key=len)] * 10) for lead in leads],
    }


def lead_sentence(document: str) -> str:
    """The first sentence: XSum's documents hold one a line."""
    return document.strip().splitlines()[0].strip()


def _sample(
    model: LanguageModel, documents: Sequence[str], counts: Sequence[int], seed: int, purpose: str
) -> list[list[str]]:
    """`counts` completions of each document, in batches of documents with the same count."""
    runs = [list(run) for _, run in groupby(range(len(documents)), lambda i: counts[i])]
    size = DOCUMENTS_AT_ONCE
    parts = [run[i : i + size] for run in runs for i in range(0, len(run), size)]
    texts = []
    for part in tqdm(parts, desc=f"sampling, {purpose}", leave=False):
        generator = seeded(seed, purpose, part[0])
        prompts = model.encode([documents[i] for i in part])
        texts += model.decode(model.sample(prompts, counts[part[0]], generator))
    return texts


def claims_of(rows: Sequence[dict], count: int, seed: int) -> pd.DataFrame:
    """Random pairs as they are ("vitaminc"), and of each true claim up to four false copies.

    The copies are the claim with a changed "number" or "name", the claim "garbled", and the claim
    before the evidence of another page ("foreign"). Unlike in training every true claim gets each
    copy that it allows, and no evidence is lengthened.

    Args:
        rows: evidence, claim, label ("SUPPORTS" or another) and page.

    Returns:
        Columns source, prompt (the page's number), sample (the pair's number), evidence, text,
        entailed.
    """
    rng = random.Random(seed)
    pages = {page: i for i, page in enumerate(dict.fromkeys(row["page"] for row in rows))}
    made = [
        (source, pages[row["page"]], pair, evidence, text, source == "vitaminc" and _true(row))
        for pair, row in enumerate(rng.sample(rows, min(count, len(rows))))
        for source, evidence, text in _copies(row, rows, rng)
    ]
    names = ["source", "prompt", "sample", "evidence", "text", "entailed"]
    return pd.DataFrame(made, columns=names)


def _true(row: dict) -> bool:
    return row["label"] == "SUPPORTS"


def _copies(row: dict, rows: Sequence[dict], rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """(source, evidence, claim) of a pair and, if it is true, of its false copies."""
    evidence, claim = row["evidence"], row["claim"]
    yield "vitaminc", evidence, claim
    if not _true(row):
        return
    for kind, change in FALSE_COPIES.items():
        if changed := change(claim, evidence, rng):
            yield kind, evidence, changed
    other = row
    while other["page"] == row["page"]:
        other = rng.choice(rows)
    yield "foreign", other["evidence"], claim


def tiny_articles(count: int) -> list[str]:
    """Synthetic articles, a sentence a line, each with a name and a number that can be changed."""
    return [_tiny_article(text.split()) for text in tiny.documents(count, words=24)]


def _tiny_article(words: list[str]) -> str:
    lines = [words[i : i + 4] for i in range(0, len(words) - 3, 4)]
    return "\n".join(f"{a} {b} {c.title()}x {d} {10 + i}." for i, (a, b, c, d) in enumerate(lines))


def tiny_claims(articles: Sequence[str]) -> list[dict]:
    """Each article with its own first sentence, entailed, and with the next article's, not."""
    leads = [lead_sentence(article) for article in articles]
    return [
        {"evidence": article, "claim": claim, "label": label, "page": article}
        for article, own, other in zip(articles, leads, [*leads[1:], leads[0]], strict=True)
        for claim, label in ((own, "SUPPORTS"), (other, "REFUTES"))
    ]
